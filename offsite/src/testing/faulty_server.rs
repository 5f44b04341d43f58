//! [`FaultyServer`]: a server of objects in memory that fails on demand.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::http::{Request, Response};
use super::link::Link;
use super::signature;
use super::trouble::{Conditions, Counts, Kind, Ranges, Seen, Trouble};
use crate::store::{Credentials, Limits, S3Store, StoreUrl};

/// The bucket that there is.
const BUCKET: &str = "bucket";

/// The keys that the server knows.
const ACCESS_KEY: &str = "faulty-access";
const SECRET_KEY: &str = "faulty-secret";

type Plan = Arc<dyn Fn(&Seen) -> Option<Trouble> + Send + Sync>;

struct Object {
    bytes: Arc<Vec<u8>>,
    number: u64,
    at: Instant,
}

/// An object, and when the server had it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its name in the bucket.
    pub name: String,
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// When it was stored. The answer left after that.
    pub at: Instant,
}

struct State {
    objects: BTreeMap<String, Object>,
    stored: u64,
    counts: Counts,
    plan: Option<Plan>,
    conditions: Conditions,
    ranges: Ranges,
    delay: Duration,
    page_len: usize,
    clock_off: SignedDuration,
    connections: Vec<TcpStream>,
    is_ending: bool,
}

/// A server of objects on loopback, in threads of this process. It ends when it is dropped.
///
/// It has one bucket, checks signatures and checksums, and keeps objects in memory.
pub struct FaultyServer {
    state: Arc<Mutex<State>>,
    link: Arc<Link>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl fmt::Debug for FaultyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyServer").field(&self.address).finish()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyServer {
    /// A server at a port that is free.
    ///
    /// # Panics
    /// When loopback has no port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            stored: 0,
            counts: Counts::default(),
            plan: None,
            conditions: Conditions::Enforced,
            ranges: Ranges::Known,
            delay: Duration::ZERO,
            page_len: 1000,
            clock_off: SignedDuration::ZERO,
            connections: Vec::new(),
            is_ending: false,
        }));
        let link = Arc::new(Link::unlimited());
        let (shared, shared_link) = (Arc::clone(&state), Arc::clone(&link));
        let accepting = thread::spawn(move || accept(&listener, &shared, &shared_link));
        Self { state, link, address, accepting: Some(accepting) }
    }

    /// The URL of the objects below `prefix`.
    ///
    /// # Panics
    /// When the prefix makes no URL.
    pub fn url(&self, prefix: &str) -> StoreUrl {
        let text = format!("s3://{BUCKET}/{prefix}?endpoint=http://{}", self.address);
        text.parse().expect("a URL")
    }

    /// The credentials that the server knows.
    pub fn credentials() -> Credentials {
        Credentials::new(ACCESS_KEY, SECRET_KEY, None)
    }

    /// The same as lines of a file.
    pub fn credentials_file() -> String {
        format!("access_key={ACCESS_KEY}\nsecret_key={SECRET_KEY}\n")
    }

    /// The store of the objects below `prefix`.
    ///
    /// # Panics
    /// When the prefix makes no URL.
    pub fn store(&self, prefix: &str, limits: Limits) -> S3Store {
        let StoreUrl::S3(url) = self.url(prefix) else { panic!("a bucket") };
        S3Store::new(&url, &Self::credentials(), None, limits).expect("a store")
    }

    /// Has `plan` decide what happens to each request from now on.
    pub fn plan(&self, plan: impl Fn(&Seen) -> Option<Trouble> + Send + Sync + 'static) {
        lock(&self.state).plan = Some(Arc::new(plan));
    }

    /// Lets every request of a kind meet this trouble from now on; of all kinds for `None`.
    pub fn always(&self, kind: Option<Kind>, trouble: Trouble) {
        self.plan(move |seen| (kind.is_none_or(|kind| kind == seen.kind)).then(|| trouble.clone()));
    }

    /// Lets the next request of a kind meet this trouble, and the others none.
    pub fn once(&self, kind: Kind, trouble: Trouble) {
        let left = Mutex::new(Some(trouble));
        self.plan(
            move |seen| {
                if seen.kind == kind { left.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None }
            },
        );
    }

    /// Lets no request meet any trouble from now on.
    pub fn no_trouble(&self) {
        lock(&self.state).plan = None;
    }

    /// What the server does about conditions.
    pub fn set_conditions(&self, conditions: Conditions) {
        lock(&self.state).conditions = conditions;
    }

    /// What the server does about ranges.
    pub fn set_ranges(&self, ranges: Ranges) {
        lock(&self.state).ranges = ranges;
    }

    /// How long each answer takes.
    pub fn set_delay(&self, delay: Duration) {
        lock(&self.state).delay = delay;
    }

    /// How many bytes of the bodies of answers all connections together get in a second; `None` for as many as they take.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        self.link.set_bandwidth(bytes_per_second);
    }

    /// How many names a page of a list has at most.
    pub fn set_page_len(&self, page_len: usize) {
        lock(&self.state).page_len = page_len.max(1);
    }

    /// How far the server's clock is ahead of the true one. From 15 minutes on it refuses every request.
    pub fn set_clock_off(&self, clock_off: SignedDuration) {
        lock(&self.state).clock_off = clock_off;
    }

    /// Forgets the objects that were stored last, as a store that was restored from an older state does.
    pub fn forget_newest(&self, count: usize) {
        let mut state = lock(&self.state);
        let mut numbers: Vec<u64> = state.objects.values().map(|object| object.number).collect();
        numbers.sort_unstable();
        let from = numbers.len().saturating_sub(count);
        let forgotten = numbers.split_off(from);
        state.objects.retain(|_, object| forgotten.binary_search(&object.number).is_err());
    }

    /// All objects: names in the bucket, and bytes.
    pub fn objects(&self) -> Vec<(String, Arc<Vec<u8>>)> {
        lock(&self.state).objects.iter().map(|(name, object)| (name.clone(), Arc::clone(&object.bytes))).collect()
    }

    /// All objects, and when each was stored.
    pub fn stored(&self) -> Vec<Stored> {
        let stored = |(name, object): (&String, &Object)| Stored {
            name: name.clone(),
            bytes: Arc::clone(&object.bytes),
            at: object.at,
        };
        lock(&self.state).objects.iter().map(stored).collect()
    }

    /// Puts an object there, as something else than the node would.
    pub fn plant(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        lock(&self.state).store(name, bytes.into());
    }

    /// How many requests there were.
    pub fn counts(&self) -> Counts {
        lock(&self.state).counts
    }
}

impl Drop for FaultyServer {
    fn drop(&mut self) {
        let connections = {
            let mut state = lock(&self.state);
            state.is_ending = true;
            std::mem::take(&mut state.connections)
        };
        for connection in connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<Mutex<State>>, link: &Arc<Link>) {
    for stream in listener.incoming().flatten() {
        let _ = stream.set_nodelay(true);
        {
            let mut state = lock(state);
            if state.is_ending {
                return;
            }
            if let Ok(stream) = stream.try_clone() {
                state.connections.push(stream);
            }
        }
        let (state, link) = (Arc::clone(state), Arc::clone(link));
        thread::spawn(move || {
            let _ = serve(&stream, &state, &link);
            let _ = stream.shutdown(Shutdown::Both);
            if let Ok(peer) = stream.peer_addr() {
                lock(&state).connections.retain(|known| known.peer_addr().is_ok_and(|known| known != peer));
            }
        });
    }
}

/// Serves one connection until it ends.
fn serve(stream: &TcpStream, state: &Mutex<State>, link: &Link) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream.try_clone()?;
    while let Some(mut request) = Request::read_head(&mut reader)? {
        let (trouble, delay) = lock(state).meet(&request);
        if let Some(Trouble::AnswerEarly(status, code)) = trouble {
            return lock(state).send(Response::fault(status, code)).send(&mut writer, link, usize::MAX);
        }
        request.read_body(&mut reader, &mut writer)?;
        lock(state).counts.bytes_in += request.body.len() as u64;
        thread::sleep(delay);
        match trouble {
            Some(Trouble::DropBefore) => return Ok(()),
            Some(Trouble::Answer(status, code)) => {
                lock(state).send(Response::fault(status, code)).send(&mut writer, link, usize::MAX)?;
                continue;
            }
            Some(Trouble::Garbage(bytes)) => return writer.write_all(&bytes),
            Some(Trouble::Hang(time)) => {
                thread::sleep(time);
                return Ok(());
            }
            Some(Trouble::DropAfter | Trouble::CutBody(_) | Trouble::AnswerEarly(..)) | None => {}
        }
        let response = {
            let mut state = lock(state);
            let response = state.answer(&request);
            state.send(response)
        };
        match trouble {
            Some(Trouble::DropAfter) => return Ok(()),
            Some(Trouble::CutBody(most)) => return response.send(&mut writer, link, most),
            _ => response.send(&mut writer, link, usize::MAX)?,
        }
    }
    Ok(())
}

fn kind_and_name(request: &Request) -> Option<(Kind, String)> {
    let path = percent_decode_str(&request.path).decode_utf8_lossy().into_owned();
    let name = path.strip_prefix(&format!("/{BUCKET}"))?.trim_start_matches('/').to_owned();
    match request.method.as_str() {
        "GET" if name.is_empty() => Some((Kind::List, request.option("prefix").unwrap_or_default().to_owned())),
        "GET" => Some((Kind::Get, name)),
        "PUT" => Some((Kind::Put, name)),
        "DELETE" => Some((Kind::Delete, name)),
        _ => None,
    }
}

impl State {
    /// Counts a request and says what happens to it.
    fn meet(&mut self, request: &Request) -> (Option<Trouble>, Duration) {
        let Some((kind, name)) = kind_and_name(request) else { return (None, self.delay) };
        let of_kind = match kind {
            Kind::Get => &mut self.counts.get,
            Kind::Put => &mut self.counts.put,
            Kind::List => &mut self.counts.list,
            Kind::Delete => &mut self.counts.delete,
        };
        *of_kind += 1;
        let number_of_kind = *of_kind;
        let seen = Seen { number: self.counts.requests(), kind, number_of_kind, name };
        (self.plan.as_ref().and_then(|plan| plan(&seen)), self.delay)
    }

    /// Completes an answer.
    fn send(&mut self, mut response: Response) -> Response {
        self.counts.bytes_out += response.body.len() as u64;
        if let Some(date) = self.now() {
            response.headers.push(("date", date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()));
        }
        response
    }

    fn now(&self) -> Option<Timestamp> {
        Timestamp::try_from(SystemTime::now()).ok()?.checked_add(self.clock_off).ok()
    }

    fn answer(&mut self, request: &Request) -> Response {
        if self.clock_off.unsigned_abs() >= Duration::from_secs(900) {
            return Response::fault(403, "RequestTimeTooSkewed");
        }
        if request.option("X-Amz-Signature").is_none() {
            return Response::fault(403, "AccessDenied");
        }
        if let Some(code) = signature::fault(request, ACCESS_KEY, SECRET_KEY) {
            return Response::fault(403, code);
        }
        let Some((kind, name)) = kind_and_name(request) else { return Response::fault(404, "NoSuchBucket") };
        match kind {
            Kind::Get => self.get(&name, request.header("range")),
            Kind::Put => self.put(&name, request),
            Kind::List => self.list(request),
            Kind::Delete => {
                self.objects.remove(&name);
                Response::new(204, "")
            }
        }
    }

    fn get(&self, name: &str, range: Option<&str>) -> Response {
        let Some(object) = self.objects.get(name) else { return Response::fault(404, "NoSuchKey") };
        let bytes = &object.bytes;
        let Some(range) = range.filter(|_| self.ranges != Ranges::Ignored) else {
            return Response::new(200, bytes.to_vec());
        };
        let Some(Range { start, end }) = parse_range(range, bytes.len()) else {
            return Response::fault(416, "InvalidRange");
        };
        let status = if self.ranges == Ranges::As200 { 200 } else { 206 };
        let mut response = Response::new(status, &bytes[start..end]);
        response.headers.push(("content-range", format!("bytes {start}-{}/{}", end - 1, bytes.len())));
        response
    }

    fn put(&mut self, name: &str, request: &Request) -> Response {
        if request.header("if-none-match").is_some() {
            match self.conditions {
                Conditions::Refused => return Response::fault(501, "NotImplemented"),
                Conditions::Enforced if self.objects.contains_key(name) => {
                    return Response::fault(412, "PreconditionFailed");
                }
                Conditions::Enforced | Conditions::Ignored => {}
            }
        }
        let checksum = STANDARD.encode(Md5::digest(&request.body));
        if request.header("content-md5").is_some_and(|said| said != checksum) {
            return Response::fault(400, "BadDigest");
        }
        self.store(name, request.body.clone());
        Response::new(200, "")
    }

    fn store(&mut self, name: &str, bytes: Vec<u8>) {
        self.stored += 1;
        let object = Object { bytes: Arc::new(bytes), number: self.stored, at: Instant::now() };
        self.objects.insert(name.to_owned(), object);
    }

    fn list(&self, request: &Request) -> Response {
        let prefix = request.option("prefix").unwrap_or_default();
        let after = request.option("continuation-token").unwrap_or_default();
        let encoded = |name: &str| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
        let mut found = self
            .objects
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .skip_while(|(name, _)| !after.is_empty() && name.as_str() <= after);
        let mut body = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name><EncodingType>url</EncodingType>",
        );
        let mut last = "";
        for (name, object) in found.by_ref().take(self.page_len) {
            let len = object.bytes.len();
            body += &format!("<Contents><Key>{}</Key><Size>{len}</Size></Contents>", encoded(name));
            last = name;
        }
        let is_truncated = found.next().is_some();
        body += &format!("<IsTruncated>{is_truncated}</IsTruncated>");
        if is_truncated {
            body += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
        }
        Response::new(200, body + "</ListBucketResult>")
    }
}

/// The bytes that a header `Range` asks for; `None` when there are none.
fn parse_range(text: &str, len: usize) -> Option<Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start: usize = first.parse().ok()?;
    let end = last.parse::<usize>().unwrap_or(usize::MAX).saturating_add(1).min(len);
    (start < end).then_some(start..end)
}

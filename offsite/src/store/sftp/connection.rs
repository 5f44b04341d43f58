//! [`Connection`]: a child `ssh` that talks to the server's SFTP, for any number of calls at once.
//!
//! Each request has a number, and a thread hands the replies to who waits for them. The child ends with its standard input,
//! thus with this process, however that ends.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::packets::{Reply, Request, decode, decode_version, init, packet_len};
use super::{Limits, SftpUrl};

/// How much of what `ssh` says is kept.
const SAID_BYTES_MAX: usize = 4 << 10;

/// How long an ended `ssh` may take to say why, and to be gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a connection came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// `ssh` cannot be started.
    NotStarted(ErrorKind),
    /// `ssh` has ended, and said this.
    Ended(String),
    /// No reply in time.
    Late,
    /// An answer that the protocol does not allow.
    Protocol,
}

/// A running `ssh`, and who waits for its replies.
pub(super) struct Connection {
    child: Mutex<Child>,
    input: Mutex<ChildStdin>,
    shared: Arc<Shared>,
    next: AtomicU32,
    stall: Duration,
    extensions: Vec<String>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    said: Mutex<Vec<u8>>,
    is_silent: AtomicBool,
    is_out_of_protocol: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    senders: HashMap<u32, Sender<Reply>>,
    has_ended: bool,
    last_reply: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reply to come.
pub(super) struct Ticket {
    sent: Instant,
    receiver: Receiver<Reply>,
}

impl Connection {
    /// Starts `ssh` and greets the server.
    pub(super) fn open(url: &SftpUrl, limits: Limits) -> Result<Self, Broken> {
        Self::start(&mut command(url, limits), limits)
    }

    /// Starts a program that speaks SFTP on its standard input and output, and greets it.
    pub(super) fn start(command: &mut Command, limits: Limits) -> Result<Self, Broken> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Broken::NotStarted(error.kind()))?;
        let (Some(input), Some(output), Some(said)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Broken::NotStarted(ErrorKind::BrokenPipe));
        };
        let shared = Arc::new(Shared::default());
        let (greet, greeting) = channel();
        let mut connection = Self {
            child: Mutex::new(child),
            input: Mutex::new(input),
            shared: Arc::clone(&shared),
            next: AtomicU32::new(0),
            stall: limits.stall,
            extensions: Vec::new(),
        };
        let of_said = Arc::clone(&shared);
        thread::spawn(move || keep_what_is_said(said, &of_said));
        thread::spawn(move || {
            if receive(output, &greet, &shared).is_none() {
                shared.is_out_of_protocol.store(true, Ordering::Release);
            }
            let mut waiting = lock(&shared.waiting);
            waiting.has_ended = true;
            waiting.senders.clear();
        });
        // With a pipe that blocks, a server that takes nothing would keep us for ever.
        let set = rustix::io::ioctl_fionbio(&*lock(&connection.input), true);
        set.map_err(|errno| Broken::NotStarted(errno.kind()))?;
        connection.write(&init())?;
        match greeting.recv_timeout(limits.connect.saturating_add(limits.stall)) {
            Ok(extensions) => connection.extensions = extensions,
            Err(RecvTimeoutError::Timeout) => return Err(connection.end(Broken::Late)),
            Err(RecvTimeoutError::Disconnected) => return Err(connection.why()),
        }
        Ok(connection)
    }

    /// Whether the server offers an extension.
    pub(super) fn has(&self, extension: &str) -> bool {
        self.extensions.iter().any(|offered| offered == extension)
    }

    /// Whether the connection has come to its end.
    pub(super) fn has_ended(&self) -> bool {
        lock(&self.shared.waiting).has_ended
    }

    /// Sends a request.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Ticket, Broken> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = channel();
        {
            let mut waiting = lock(&self.shared.waiting);
            if waiting.has_ended {
                drop(waiting);
                return Err(self.why());
            }
            waiting.senders.insert(id, sender);
        }
        self.write(&request.encode(id))?;
        Ok(Ticket { sent: Instant::now(), receiver })
    }

    /// Waits for a reply: until `deadline`, and as long as any replies come.
    pub(super) fn wait(&self, ticket: &Ticket, deadline: Instant) -> Result<Reply, Broken> {
        loop {
            let alive_at = lock(&self.shared.waiting).last_reply.map_or(ticket.sent, |at| at.max(ticket.sent));
            let until = deadline.min(alive_at + self.stall);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return ticket.receiver.try_recv().map_err(|_| self.end(Broken::Late));
            }
            match ticket.receiver.recv_timeout(left) {
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.why()),
            }
        }
    }

    /// Writes a packet whole, or ends the connection.
    fn write(&self, mut packet: &[u8]) -> Result<(), Broken> {
        let mut input = lock(&self.input);
        let mut until = Instant::now() + self.stall;
        while !packet.is_empty() {
            match input.write(packet) {
                Ok(written) => {
                    packet = packet.get(written..).unwrap_or_default();
                    until = Instant::now() + self.stall;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = until.saturating_duration_since(Instant::now());
                    let timeout = Timespec::try_from(left).ok();
                    let mut polled = [PollFd::new(&*input, PollFlags::OUT)];
                    if left.is_zero() || poll(&mut polled, timeout.as_ref()) == Ok(0) {
                        drop(input);
                        return Err(self.end(Broken::Late));
                    }
                }
                Err(_) => {
                    drop(input);
                    return Err(self.why());
                }
            }
        }
        Ok(())
    }

    /// Ends `ssh`; says why.
    fn end(&self, why: Broken) -> Broken {
        lock(&self.shared.waiting).has_ended = true;
        self.kill();
        why
    }

    /// Why the connection is at its end, from what `ssh` has said.
    fn why(&self) -> Broken {
        let start = Instant::now();
        let is_out_of_protocol = || self.shared.is_out_of_protocol.load(Ordering::Acquire);
        while !self.shared.is_silent.load(Ordering::Acquire) && !is_out_of_protocol() && start.elapsed() < FAREWELL {
            thread::sleep(Duration::from_millis(10));
        }
        if is_out_of_protocol() {
            return self.end(Broken::Protocol);
        }
        let said = String::from_utf8_lossy(&lock(&self.shared.said)).into_owned();
        self.end(Broken::Ended(said))
    }

    fn kill(&self) {
        let mut child = lock(&self.child);
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        // First so that it can end what it has started itself, such as a ProxyCommand.
        let asked = i32::try_from(child.id()).ok().and_then(Pid::from_raw).map(|pid| kill_process(pid, Signal::TERM));
        let start = Instant::now();
        while matches!(asked, Some(Ok(()))) && start.elapsed() < FAREWELL {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// The number of the process, for tests that end it.
    #[cfg(test)]
    pub(super) fn process(&self) -> u32 {
        lock(&self.child).id()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How `ssh` is started: with the user's configuration, but so that it neither asks nor does anything else.
fn command(url: &SftpUrl, limits: Limits) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-oBatchMode=yes", "-oServerAliveInterval=15", "-oServerAliveCountMax=3"]);
    command.arg(format!("-oConnectTimeout={}", limits.connect.as_secs().max(1)));
    // A connection shared with other programs would live longer than this one.
    command.args(["-oControlMaster=no", "-oControlPath=none", "-oClearAllForwardings=yes", "-oForwardAgent=no"]);
    command.args(["-oForwardX11=no", "-oPermitLocalCommand=no", "-oRemoteCommand=none", "-oRequestTTY=no"]);
    if let Some(config) = &url.config {
        command.arg("-F").arg(config);
    }
    if let Some(user) = &url.user {
        command.arg("-l").arg(user);
    }
    if let Some(port) = url.port {
        command.arg("-p").arg(port.to_string());
    }
    command.args(["-s", "--", &url.host, "sftp"]);
    // What it says is read.
    command.env("LC_ALL", "C");
    command
}

/// Keeps the end of what `ssh` says.
fn keep_what_is_said(mut stderr: ChildStderr, shared: &Shared) {
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = stderr.read(&mut buffer) {
        let mut said = lock(&shared.said);
        said.extend(&buffer[..len]);
        let surplus = said.len().saturating_sub(SAID_BYTES_MAX);
        said.drain(..surplus);
    }
    shared.is_silent.store(true, Ordering::Release);
}

/// Hands out replies until the server sends no more; `None` when it sends what is no reply.
fn receive(mut output: ChildStdout, greet: &Sender<Vec<String>>, shared: &Shared) -> Option<()> {
    let mut is_greeting = true;
    let mut packet = Vec::new();
    loop {
        let mut len = [0; 4];
        if output.read_exact(&mut len).is_err() {
            return Some(());
        }
        packet.resize(packet_len(len)?, 0);
        if output.read_exact(&mut packet).is_err() {
            return Some(());
        }
        if is_greeting {
            let _ = greet.send(decode_version(&packet)?);
            is_greeting = false;
            continue;
        }
        let (id, reply) = decode(&packet)?;
        let mut waiting = lock(&shared.waiting);
        waiting.last_reply = Some(Instant::now());
        // Nobody waits for what was given up.
        if let Some(sender) = waiting.senders.remove(&id) {
            let _ = sender.send(reply);
        }
    }
}

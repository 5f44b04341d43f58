//! [`Chunks`]: chunks of objects, fetched, opened, and kept.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use common::storage::lru::RecentlyUsed;

use crate::copy::at_once::at_once;
use crate::copy::disk_cache::DiskCache;
use crate::copy::read_ahead::ReadAhead;
use crate::copy_error::CopyError;
use crate::keys::key_ring::KeyRing;
use crate::seal::header::HEADER_LEN;
use crate::seal::layout::{CHUNK_LEN, Layout};
use crate::seal::{Opening, SealedObject, open};
use crate::store::Store;

/// Chunks kept in memory, decrypted: 64 MiB.
const CHUNKS_MAX: usize = 4096;

/// The most chunks that one request asks for: 1 MiB.
const REQUEST_MAX: u64 = 64;

/// The most chunks that are on their way when more are fetched ahead: what is fetched must stay in memory until it is read.
const ON_THEIR_WAY_MAX: usize = CHUNKS_MAX / 4;

/// Threads that fetch ahead.
const FETCHERS_MAX: usize = 4;

/// Headers of objects kept in memory.
const OBJECTS_MAX: usize = 16 << 10;

/// The plain bytes of a chunk.
type Chunk = Arc<Vec<u8>>;

/// Chunks of the objects of one copy.
#[derive(Debug)]
pub struct Chunks {
    store: Arc<dyn Store>,
    /// The keys, unless the copy is not encrypted.
    keys: Option<KeyRing>,
    kept: Mutex<Kept>,
    /// Chunks are not on their way any more.
    arrived: Condvar,
    disk: Option<DiskCache>,
}

#[derive(Debug)]
struct Kept {
    objects: RecentlyUsed<String, Arc<SealedObject>>,
    chunks: RecentlyUsed<(String, u64), Chunk>,
    ahead: ReadAhead,
    /// Chunks that another thread is fetching, or is going to.
    on_their_way: HashSet<(String, u64)>,
    /// What is to be fetched ahead.
    jobs: VecDeque<Job>,
    /// Threads that do this.
    fetchers: usize,
}

/// Chunks to fetch ahead of a reader. They are on their way.
#[derive(Debug)]
struct Job {
    name: String,
    object_len: u64,
    range: Range<u64>,
}

/// Chunks that this thread fetches: others wait for them, however that ends.
struct OnTheirWay<'a> {
    chunks: &'a Chunks,
    name: &'a str,
    range: Range<u64>,
}

impl Drop for OnTheirWay<'_> {
    fn drop(&mut self) {
        let mut kept = self.chunks.kept();
        for chunk in self.range.clone() {
            kept.on_their_way.remove(&(self.name.to_owned(), chunk));
        }
        drop(kept);
        self.chunks.arrived.notify_all();
    }
}

impl Chunks {
    /// The chunks of a copy. `disk` keeps them for later processes.
    pub fn new(store: Arc<dyn Store>, keys: Option<KeyRing>, disk: Option<DiskCache>) -> Self {
        let (objects, chunks) = (RecentlyUsed::new(OBJECTS_MAX), RecentlyUsed::new(CHUNKS_MAX));
        let (ahead, on_their_way, jobs) = (ReadAhead::default(), HashSet::new(), VecDeque::new());
        let kept = Kept { objects, chunks, ahead, on_their_way, jobs, fetchers: 0 };
        Self { store, keys, kept: Mutex::new(kept), arrived: Condvar::new(), disk }
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn opening(&self) -> Opening<'_> {
        self.keys.as_ref().map_or(Opening::None, Opening::Keys)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole object, fetched anew.
    ///
    /// # Errors
    /// When it cannot be fetched or opened.
    pub fn whole(&self, name: &str) -> Result<Vec<u8>, CopyError> {
        Ok(open(self.opening(), name, &self.store.get(name, None)?)?)
    }

    /// Fills `buf` with the plain bytes of an object of this length, from `offset` on. They must all be there.
    ///
    /// # Errors
    /// When they cannot be fetched, or do not open.
    pub fn read(&self, name: &str, object_len: u64, offset: u64, buf: &mut [u8]) -> Result<(), CopyError> {
        let behind = (offset + buf.len() as u64).div_ceil(CHUNK_LEN);
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            let bytes = self.chunk(name, object_len, at / CHUNK_LEN..behind)?;
            let within = usize::try_from(at % CHUNK_LEN).unwrap_or(0);
            let have = bytes.get(within..).unwrap_or_default();
            let len = have.len().min(buf.len() - filled);
            if len == 0 {
                return Err(shorter(name));
            }
            buf[filled..filled + len].copy_from_slice(&have[..len]);
            filled += len;
        }
        Ok(())
    }

    /// The first chunk of a range of which all will be needed.
    fn chunk(&self, name: &str, object_len: u64, wanted: Range<u64>) -> Result<Chunk, CopyError> {
        match self.begin_to_fetch(name, wanted) {
            Ok(on_their_way) => self.fetch(name, object_len, on_their_way.range.clone()),
            Err(chunk) => Ok(chunk),
        }
    }

    /// Chooses the chunks to fetch out of these: up to the first that is there already, or is on its way. The first chunk itself, if
    /// it is there, or when it has come.
    fn begin_to_fetch<'a>(&'a self, name: &'a str, wanted: Range<u64>) -> Result<OnTheirWay<'a>, Chunk> {
        let mut kept = self.kept();
        loop {
            if let Some(chunk) = kept.chunks.get((name.to_owned(), wanted.start)) {
                return Err(chunk);
            }
            let range = kept.missing(name, wanted.clone());
            if range.start == wanted.start {
                kept.on_their_way.extend(range.clone().map(|chunk| (name.to_owned(), chunk)));
                return Ok(OnTheirWay { chunks: self, name, range });
            }
            kept = self.arrived.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a reader wants these bytes of a file that is so long, and which is kept in parts. The bytes behind them to fetch
    /// now, if it goes on in order.
    pub(super) fn ahead(&self, file: &str, wanted: Range<u64>, file_len: u64) -> Range<u64> {
        let wanted = wanted.start / CHUNK_LEN..wanted.end.div_ceil(CHUNK_LEN);
        let ahead = self.kept().ahead.reads(file, &wanted, file_len.div_ceil(CHUNK_LEN));
        ahead.start * CHUNK_LEN..file_len.min(ahead.end * CHUNK_LEN)
    }

    /// Has threads fetch bytes of an object, which will be read next.
    pub(super) fn fetch_ahead(self: &Arc<Self>, name: &str, object_len: u64, bytes: &Range<u64>) {
        let mut kept = self.kept();
        let mut ahead = bytes.start / CHUNK_LEN..bytes.end.div_ceil(CHUNK_LEN);
        while !ahead.is_empty() && kept.on_their_way.len() < ON_THEIR_WAY_MAX {
            let range = kept.missing(name, ahead.clone());
            ahead.start = range.end;
            kept.on_their_way.extend(range.clone().map(|chunk| (name.to_owned(), chunk)));
            if !range.is_empty() {
                kept.jobs.push_back(Job { name: name.to_owned(), object_len, range });
            }
        }
        while kept.fetchers < FETCHERS_MAX.min(kept.jobs.len()) {
            let chunks = Arc::downgrade(self);
            match thread::Builder::new().name("read-ahead".to_owned()).spawn(move || do_jobs(&chunks)) {
                Ok(_) => kept.fetchers += 1,
                Err(error) => {
                    log::debug!("nothing is read ahead: {error}");
                    let jobs = std::mem::take(&mut kept.jobs);
                    drop(kept);
                    jobs.iter().for_each(|job| drop(self.on_their_way(job)));
                    return;
                }
            }
        }
    }

    fn on_their_way<'a>(&'a self, job: &'a Job) -> OnTheirWay<'a> {
        OnTheirWay { chunks: self, name: &job.name, range: job.range.clone() }
    }

    /// Fetches chunks, but those that the disk has, and keeps them. Returns the first.
    fn fetch(&self, name: &str, object_len: u64, chunks: Range<u64>) -> Result<Chunk, CopyError> {
        let (object, came_with_it) = self.object(name, object_len, &chunks)?;
        if let Some(first) = came_with_it {
            return Ok(first);
        }
        let (mut first, mut from) = (None, chunks.start);
        for chunk in chunks.clone() {
            if let Some(bytes) = self.on_disk(&object, name, chunk) {
                if from < chunk {
                    first.get_or_insert(self.get(&object, name, object_len, from..chunk)?);
                }
                first.get_or_insert(self.keep(name, chunk, bytes));
                from = chunk + 1;
            }
        }
        if from < chunks.end {
            first.get_or_insert(self.get(&object, name, object_len, from..chunks.end)?);
        }
        first.ok_or_else(|| shorter(name))
    }

    /// Gets chunks from the store and keeps them. Returns the first.
    fn get(&self, object: &SealedObject, name: &str, object_len: u64, chunks: Range<u64>) -> Result<Chunk, CopyError> {
        let sealed = self.store.get(name, Some(object.layout().bytes_of(chunks.clone())))?;
        match self.open_and_keep(object, name, chunks.clone(), &sealed) {
            // The object may have been uploaded once more since its header was kept: with another salt.
            Err(CopyError::Seal(_)) => {
                let start = self.store.get(name, Some(0..HEADER_LEN as u64))?;
                let object = self.keep_object(name, SealedObject::new(self.opening(), name, &start, object_len)?);
                if let Some(disk) = &self.disk {
                    disk.put_header(name, &start);
                }
                self.open_and_keep(&object, name, chunks, &sealed)
            }
            opened => opened,
        }
    }

    /// The opened header of an object. If it has to be fetched, the chunks are, too, at the same time, unless the disk has the first. Then
    /// the first of them is returned.
    fn object(
        &self,
        name: &str,
        object_len: u64,
        chunks: &Range<u64>,
    ) -> Result<(Arc<SealedObject>, Option<Chunk>), CopyError> {
        if let Some(object) = self.kept().objects.get(name.to_owned()) {
            return Ok((object, None));
        }
        if let Some(header) = self.disk.as_ref().and_then(|disk| disk.header(name))
            && let Ok(object) = SealedObject::new(self.opening(), name, &header, object_len)
        {
            return Ok((self.keep_object(name, object), None));
        }
        let is_on_disk = || self.disk.as_ref().is_some_and(|disk| disk.chunk(name, chunks.start).is_some());
        let wanted =
            Layout::of(object_len).filter(|_| !chunks.is_empty()).map(|layout| layout.bytes_of(chunks.clone()));
        let (start, behind) = match wanted {
            // The header is right in front of them.
            Some(wanted) if chunks.start == 0 => (self.store.get(name, Some(0..wanted.end.min(object_len)))?, None),
            Some(wanted) if !is_on_disk() => {
                let ranges = [0..HEADER_LEN as u64, wanted];
                let mut both = at_once(&ranges, |range| self.store.get(name, Some(range.clone()))).into_iter();
                (both.next().ok_or_else(|| shorter(name))??, both.next().transpose()?)
            }
            _ => (self.store.get(name, Some(0..HEADER_LEN as u64))?, None),
        };
        let object = SealedObject::new(self.opening(), name, &start, object_len)?;
        let object = self.keep_object(name, object);
        let (header, rest) = start.split_at_checked(HEADER_LEN).ok_or_else(|| shorter(name))?;
        if let Some(disk) = &self.disk {
            disk.put_header(name, header);
        }
        let sealed = behind.as_deref().or_else(|| (chunks.start == 0 && !chunks.is_empty()).then_some(rest));
        match sealed.map(|sealed| self.open_and_keep(&object, name, chunks.clone(), sealed)) {
            // The object was stored once more between the two requests: the chunks are fetched again.
            Some(Err(CopyError::Seal(_))) if behind.is_some() => Ok((object, None)),
            opened => Ok((object, opened.transpose()?)),
        }
    }

    /// Whether the header of an object is in memory.
    pub(super) fn has_header(&self, name: &str) -> bool {
        self.kept().objects.get(name.to_owned()).is_some()
    }

    /// Fetches the header of an object, unless it is known.
    ///
    /// # Errors
    /// When it cannot be fetched, or is none.
    pub(super) fn fetch_header(&self, name: &str, object_len: u64) -> Result<(), CopyError> {
        self.object(name, object_len, &(1..1)).map(drop)
    }

    /// Takes over the header of an object from elsewhere, if it is one for this name and length.
    pub(super) fn offer_header(&self, name: &str, object_len: u64, header: &[u8]) {
        if !self.has_header(name)
            && let Ok(object) = SealedObject::new(self.opening(), name, header, object_len)
        {
            self.keep_object(name, object);
        }
    }

    fn keep_object(&self, name: &str, object: SealedObject) -> Arc<SealedObject> {
        let object = Arc::new(object);
        self.kept().objects.insert(name.to_owned(), Arc::clone(&object));
        object
    }

    /// A chunk that the disk has, if it opens: after a kill it may have anything.
    fn on_disk(&self, object: &SealedObject, name: &str, chunk: u64) -> Option<Vec<u8>> {
        let sealed = self.disk.as_ref()?.chunk(name, chunk)?;
        object.open_chunks(chunk..chunk + 1, &sealed).ok()
    }

    fn keep(&self, name: &str, chunk: u64, bytes: Vec<u8>) -> Chunk {
        let bytes = Arc::new(bytes);
        self.kept().chunks.insert((name.to_owned(), chunk), Arc::clone(&bytes));
        bytes
    }

    /// Opens fetched chunks and keeps them; returns the first.
    fn open_and_keep(
        &self,
        object: &SealedObject,
        name: &str,
        chunks: Range<u64>,
        sealed: &[u8],
    ) -> Result<Chunk, CopyError> {
        let plain = object.open_chunks(chunks.clone(), sealed)?;
        let mut first = None;
        let start = object.layout().bytes_of(chunks.clone()).start;
        for (chunk, bytes) in chunks.clone().zip(plain.chunks(usize::try_from(CHUNK_LEN).unwrap_or(1 << 14))) {
            if let Some(disk) = &self.disk {
                let range = object.layout().bytes_of(chunk..chunk + 1);
                let within = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
                if let Some(sealed) = sealed.get(within(range.start)..within(range.end)) {
                    disk.put_chunk(name, chunk, sealed);
                }
            }
            let kept = self.keep(name, chunk, bytes.to_vec());
            first.get_or_insert(kept);
        }
        first.ok_or_else(|| shorter(name))
    }
}

impl Kept {
    /// The first run of chunks among these that are neither there nor on their way, as many as one request asks for. Empty at the
    /// end of the range when there is none.
    fn missing(&mut self, name: &str, range: Range<u64>) -> Range<u64> {
        let mut missing = |chunk: &u64| {
            let key = (name.to_owned(), *chunk);
            !self.on_their_way.contains(&key) && self.chunks.get(key).is_none()
        };
        let start = range.clone().find(&mut missing).unwrap_or(range.end);
        let end =
            (start..range.end.min(start + REQUEST_MAX)).take_while(&mut missing).last().map_or(start, |last| last + 1);
        start..end
    }
}

fn shorter(name: &str) -> CopyError {
    CopyError::Damaged { name: name.to_owned(), reason: "it is shorter than its length says" }
}

/// Fetches ahead until nothing is left to fetch, or the copy is closed. What this cannot fetch, its reader tries again and reports.
fn do_jobs(chunks: &Weak<Chunks>) {
    while let Some(chunks) = chunks.upgrade() {
        let mut kept = chunks.kept();
        let Some(job) = kept.jobs.pop_front() else {
            kept.fetchers -= 1;
            return;
        };
        drop(kept);
        let fetcher = Fetcher(&chunks);
        let on_their_way = chunks.on_their_way(&job);
        if let Err(error) = chunks.fetch(&job.name, job.object_len, job.range.clone()) {
            log::debug!("not read ahead: {error}");
        }
        drop((on_their_way, fetcher));
    }
}

/// A thread that fetches. Should it panic, nothing waits for what it does not fetch.
struct Fetcher<'a>(&'a Chunks);

impl Drop for Fetcher<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut kept = self.0.kept();
            kept.fetchers -= 1;
            let jobs = std::mem::take(&mut kept.jobs);
            drop(kept);
            jobs.iter().for_each(|job| drop(self.0.on_their_way(job)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::keys::master_key::MasterKey;
    use crate::memory_store::MemoryStore;
    use crate::seal::layout::{Padding, sealed_len};
    use crate::seal::{Sealing, seal};

    const NAME: &str = "s/1";
    /// Three chunks.
    const LEN: usize = 40_000;

    /// Two uploads under one name, each with a salt of its own, and the keys that open them; not encrypted and encrypted.
    fn uploads() -> [(Option<KeyRing>, [Vec<u8>; 2]); 2] {
        let key = MasterKey::generate().unwrap();
        let both = |sealing: Sealing<'_>| [1, 2].map(|byte| seal(sealing, NAME, &[byte; LEN], Padding::None).unwrap());
        [(None, both(Sealing::None)), (Some(KeyRing::from_iter([key.clone()])), both(Sealing::Key(&key)))]
    }

    fn store(object: &[u8]) -> Arc<dyn Store> {
        let store = MemoryStore::default();
        store.put_new(NAME, object).unwrap();
        Arc::new(store)
    }

    fn disk(directory: &Path) -> DiskCache {
        DiskCache::open(directory, 1 << 20).unwrap()
    }

    /// All bytes, as a process reads them that has just begun.
    fn read(object: &[u8], keys: &Option<KeyRing>, directory: &Path) -> Vec<u8> {
        let chunks = Chunks::new(store(object), keys.clone(), Some(disk(directory)));
        let mut bytes = vec![0; LEN];
        chunks.read(NAME, sealed_len(LEN as u64), 0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_chunk_on_disk_under_a_header_with_another_salt_is_not_used() {
        for (keys, [first, second]) in uploads() {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(read(&first, &keys, dir.path()), [1; LEN]);
            // Another process has fetched the header since the object was uploaded once more, and no chunk.
            disk(dir.path()).put_header(NAME, &second[..HEADER_LEN]);
            assert_eq!(read(&second, &keys, dir.path()), [2; LEN]);
            assert_eq!(disk(dir.path()).chunk(NAME, 2).unwrap(), &second[HEADER_LEN + 2 * 16400..]);
        }
    }

    #[test]
    fn a_header_on_disk_is_replaced_when_chunks_have_another_salt() {
        for (keys, [first, second]) in uploads() {
            let dir = tempfile::tempdir().unwrap();
            disk(dir.path()).put_header(NAME, &first[..HEADER_LEN]);
            assert_eq!(read(&second, &keys, dir.path()), [2; LEN]);
            assert_eq!(disk(dir.path()).header(NAME).unwrap(), &second[..HEADER_LEN]);
        }
    }
}

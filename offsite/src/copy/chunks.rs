//! [`Chunks`]: chunks of objects, fetched, opened, and kept.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use common::storage::lru::RecentlyUsed;

use crate::copy::disk_cache::DiskCache;
use crate::copy::read_ahead::ReadAhead;
use crate::copy_error::CopyError;
use crate::keys::key_ring::KeyRing;
use crate::seal::header::HEADER_LEN;
use crate::seal::layout::CHUNK_LEN;
use crate::seal::{Opening, SealedObject, open};
use crate::store::Store;

/// Chunks kept in memory, decrypted: 64 MiB.
const CHUNKS_MAX: usize = 4096;

/// Headers of objects kept in memory.
const OBJECTS_MAX: usize = 16 << 10;

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
    chunks: RecentlyUsed<(String, u64), Arc<Vec<u8>>>,
    ahead: ReadAhead,
    /// Chunks that another thread is fetching.
    on_their_way: HashSet<(String, u64)>,
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
        let kept = Kept { objects, chunks, ahead: ReadAhead::default(), on_their_way: HashSet::new() };
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
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            let chunk = at / CHUNK_LEN;
            let behind = (offset + buf.len() as u64).div_ceil(CHUNK_LEN);
            let bytes = self.chunk(name, object_len, chunk..behind)?;
            let within = usize::try_from(at % CHUNK_LEN).unwrap_or(0);
            let have = bytes.get(within..).unwrap_or_default();
            let len = have.len().min(buf.len() - filled);
            if len == 0 {
                return Err(CopyError::Damaged { name: name.to_owned(), reason: "it is shorter than its length says" });
            }
            buf[filled..filled + len].copy_from_slice(&have[..len]);
            filled += len;
        }
        Ok(())
    }

    /// The first chunk of a range of which all will be needed.
    fn chunk(&self, name: &str, object_len: u64, wanted: Range<u64>) -> Result<Arc<Vec<u8>>, CopyError> {
        let first = wanted.start;
        if let Some(chunk) = self.kept_or_arriving(name, first) {
            return Ok(chunk);
        }
        let object = self.object(name, object_len, first)?;
        // The first chunk comes with the header.
        if let Some(chunk) = self.kept().chunks.get((name.to_owned(), first)) {
            return Ok(chunk);
        }
        if let Some(chunk) = self.on_disk(&object, name, first) {
            return Ok(self.keep(name, first, chunk));
        }
        let on_their_way = match self.begin_to_fetch(&object, name, &wanted) {
            Ok(on_their_way) => on_their_way,
            Err(chunk) => return Ok(chunk),
        };
        let chunks = on_their_way.range.clone();
        let sealed = self.store.get(name, Some(object.layout().bytes_of(chunks.clone())))?;
        match self.open_and_keep(&object, name, chunks.clone(), &sealed) {
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

    /// A chunk that is kept, or that another thread is fetching, for which this waits; `None` when this thread has to fetch it.
    fn kept_or_arriving(&self, name: &str, chunk: u64) -> Option<Arc<Vec<u8>>> {
        let key = (name.to_owned(), chunk);
        let mut kept = self.kept();
        loop {
            if let Some(chunk) = kept.chunks.get(key.clone()) {
                return Some(chunk);
            }
            if !kept.on_their_way.contains(&key) {
                return None;
            }
            kept = self.arrived.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Chooses the chunks to fetch for a reader of these: up to the first that is there already, or is being fetched. The first chunk
    /// itself, if it has come meanwhile.
    fn begin_to_fetch<'a>(
        &'a self,
        object: &SealedObject,
        name: &'a str,
        wanted: &Range<u64>,
    ) -> Result<OnTheirWay<'a>, Arc<Vec<u8>>> {
        loop {
            if let Some(chunk) = self.kept_or_arriving(name, wanted.start) {
                return Err(chunk);
            }
            let mut kept = self.kept();
            let key = |chunk| (name.to_owned(), chunk);
            if kept.on_their_way.contains(&key(wanted.start)) {
                continue;
            }
            let count = kept.ahead.count(name, wanted);
            let last = wanted.start.saturating_add(count).min(object.layout().chunk_count());
            let mut behind = wanted.start + 1;
            while behind < last && !kept.on_their_way.contains(&key(behind)) && kept.chunks.get(key(behind)).is_none() {
                behind += 1;
            }
            let range = wanted.start..behind;
            kept.on_their_way.extend(range.clone().map(key));
            return Ok(OnTheirWay { chunks: self, name, range });
        }
    }

    /// The opened header of an object. It is fetched with the chunk that is wanted if that is the first one.
    fn object(&self, name: &str, object_len: u64, wanted: u64) -> Result<Arc<SealedObject>, CopyError> {
        if let Some(object) = self.kept().objects.get(name.to_owned()) {
            return Ok(object);
        }
        if let Some(header) = self.disk.as_ref().and_then(|disk| disk.header(name))
            && let Ok(object) = SealedObject::new(self.opening(), name, &header, object_len)
        {
            return Ok(self.keep_object(name, object));
        }
        let header_len = HEADER_LEN as u64;
        let end = if wanted == 0 { (header_len + CHUNK_LEN + 16).min(object_len) } else { header_len.min(object_len) };
        let start = self.store.get(name, Some(0..end))?;
        let object = SealedObject::new(self.opening(), name, &start, object_len)?;
        let object = self.keep_object(name, object);
        let header = start.get(..HEADER_LEN).unwrap_or_default();
        if let Some(disk) = &self.disk {
            disk.put_header(name, header);
        }
        if wanted == 0 {
            self.open_and_keep(&object, name, 0..1, start.get(HEADER_LEN..).unwrap_or_default())?;
        }
        Ok(object)
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

    fn keep(&self, name: &str, chunk: u64, bytes: Vec<u8>) -> Arc<Vec<u8>> {
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
    ) -> Result<Arc<Vec<u8>>, CopyError> {
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
        first.ok_or_else(|| CopyError::Damaged { name: name.to_owned(), reason: "it is shorter than its length says" })
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

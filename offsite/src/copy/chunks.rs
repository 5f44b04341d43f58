//! [`Chunks`]: chunks of objects, fetched, opened, and kept.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::storage::lru::RecentlyUsed;

use crate::copy::disk_cache::DiskCache;
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

/// The most chunks that are fetched at once, by a reader that goes on in order: 2 MiB.
const AHEAD_MAX: u64 = 128;

/// Chunks of the objects of one copy.
#[derive(Debug)]
pub struct Chunks {
    store: Arc<dyn Store>,
    /// The keys, unless the copy is not encrypted.
    keys: Option<KeyRing>,
    kept: Mutex<Kept>,
    disk: Option<DiskCache>,
}

#[derive(Debug)]
struct Kept {
    objects: RecentlyUsed<String, Arc<SealedObject>>,
    chunks: RecentlyUsed<(String, u64), Arc<Vec<u8>>>,
    /// Per object the chunk behind the last fetch, and how many that fetched.
    ahead: HashMap<String, (u64, u64)>,
}

impl Chunks {
    /// The chunks of a copy. `disk` keeps them for later processes.
    pub fn new(store: Arc<dyn Store>, keys: Option<KeyRing>, disk: Option<DiskCache>) -> Self {
        let (objects, chunks) = (RecentlyUsed::new(OBJECTS_MAX), RecentlyUsed::new(CHUNKS_MAX));
        Self { store, keys, kept: Mutex::new(Kept { objects, chunks, ahead: HashMap::new() }), disk }
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
        if let Some(chunk) = self.kept().chunks.get((name.to_owned(), first)) {
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
        let count = self.ahead(name, &wanted);
        let last = first.saturating_add(count).min(object.layout().chunk_count());
        let chunks = first..last.max(first.saturating_add(1));
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

    /// How many chunks are fetched for a reader of these: twice as many as before, if it goes on in order.
    fn ahead(&self, name: &str, wanted: &Range<u64>) -> u64 {
        let needed = wanted.end - wanted.start;
        let mut kept = self.kept();
        if kept.ahead.len() > OBJECTS_MAX {
            kept.ahead.clear();
        }
        let before = kept.ahead.get(name).copied().filter(|(next, _)| *next == wanted.start);
        let count = before.map_or(needed, |(_, count)| (count * 2).max(needed)).clamp(1, AHEAD_MAX);
        kept.ahead.insert(name.to_owned(), (wanted.start + count, count));
        count
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

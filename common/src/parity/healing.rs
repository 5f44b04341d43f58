//! [`HealingDirectory`]: a directory whose sealed files mend themselves in memory.
//!
//! What is sound is read as it is: parity is looked at only when a read fails, or when a reader that found a wrong checksum asks for it
//! ([`StoredFile::heal`]). Nothing is written. The reader checks what it gets then with its own checksums, so a parity file is never
//! trusted over those.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::parity::code::Block;
use crate::parity::mending::{blocks_in, mend, set_of};
use crate::parity::set_file::{MemberFiles, ParitySet, read_block};
use crate::storage::{Access, Directory, Healed, Stamp, StorageError, StoredFile, Wanted};
use format::parity::{PARITY_BLOCK_LEN, Protected};

/// Length of a block.
const BLOCK: u64 = PARITY_BLOCK_LEN as u64;

/// A directory over another one.
#[derive(Debug)]
pub(crate) struct HealingDirectory {
    inner: Arc<dyn Directory>,
    shared: Arc<Shared>,
}

/// What is known of all files of a directory.
#[derive(Debug, Default)]
struct Shared {
    /// Blocks that were mended so far, each of which is logged once.
    healed: Mutex<BTreeSet<Healed>>,
    /// Data blocks for which parity does not suffice: they are not tried again.
    lost: Mutex<BTreeSet<(Protected, u64)>>,
}

impl HealingDirectory {
    /// The same directory, whose sealed files are mended.
    pub(crate) fn new(inner: Arc<dyn Directory>) -> Self {
        Self { inner, shared: Arc::default() }
    }
}

impl Directory for HealingDirectory {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        let file = self.inner.open(name, access)?;
        Ok(match Protected::parse(name).filter(|_| access == Access::Read) {
            Some(protected) => {
                let (directory, shared) = (Arc::clone(&self.inner), Arc::clone(&self.shared));
                Box::new(HealingFile { file, protected, directory, shared, mended: Mutex::default() })
            }
            None => file,
        })
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        self.inner.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.inner.rename(from, to)
    }

    fn link(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.inner.link(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.inner.remove(name)
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.inner.list()
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        self.inner.lock(name)
    }

    fn is_far(&self) -> bool {
        self.inner.is_far()
    }

    fn will_need(&self, wanted: &[Wanted]) {
        self.inner.will_need(wanted);
    }

    fn may_end_sealed(&self) -> bool {
        self.inner.may_end_sealed()
    }

    fn background(&self) -> Option<Arc<dyn Directory>> {
        let inner = self.inner.background()?;
        Some(Arc::new(Self { inner, shared: Arc::clone(&self.shared) }))
    }

    fn foreground(&self, file: Box<dyn StoredFile>) -> Box<dyn StoredFile> {
        self.inner.foreground(file)
    }

    fn unhealed(&self) -> Option<Arc<dyn Directory>> {
        Some(Arc::clone(&self.inner))
    }

    fn note_healed(&self, block: Healed) {
        lock(&self.shared.healed).insert(block);
    }

    fn forget_healed(&self, name: &str) {
        lock(&self.shared.healed).retain(|healed| healed.name != name);
    }

    fn healed(&self) -> Vec<Healed> {
        lock(&self.shared.healed).iter().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one call, so the value is consistent even after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A sealed file.
#[derive(Debug)]
struct HealingFile {
    file: Box<dyn StoredFile>,
    protected: Protected,
    directory: Arc<dyn Directory>,
    shared: Arc<Shared>,
    /// What was mended of it; `None` until something was.
    mended: Mutex<Option<Arc<MendedFile>>>,
}

/// The mended part of a file.
#[derive(Debug, Clone)]
struct MendedFile {
    /// The length that the file had when it was sealed.
    len: u64,
    /// Blocks by the byte of the file that each begins with.
    blocks: BTreeMap<u64, Arc<Block>>,
}

impl MendedFile {
    /// Reads mended blocks from here, and everything else from the file.
    fn read_at(&self, file: &dyn StoredFile, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let wanted = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let block = at / BLOCK * BLOCK;
            if let Some(mended) = self.blocks.get(&block) {
                let skipped = usize::try_from(at - block).unwrap_or(0);
                let len = (PARITY_BLOCK_LEN - skipped).min(wanted - done);
                buf[done..done + len].copy_from_slice(&mended[skipped..skipped + len]);
                done += len;
            } else {
                let end = self.blocks.range(block..).next().map_or(u64::MAX, |(&next, _)| next);
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(wanted - done);
                let read = file.read_at(&mut buf[done..done + len], at)?;
                done += read;
                if read < len {
                    break;
                }
            }
        }
        Ok(done)
    }
}

impl HealingFile {
    fn mended(&self) -> Option<Arc<MendedFile>> {
        lock(&self.mended).clone()
    }

    fn read_now(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        match self.mended() {
            Some(mended) => mended.read_at(&*self.file, buf, offset),
            None => self.file.read_at(buf, offset),
        }
    }

    fn log(&self, offset: u64) {
        let healed = Healed { name: self.protected.name(), offset };
        if lock(&self.shared.healed).insert(healed) {
            log::warn!(
                "{} is damaged at byte {offset}; parity has mended that in memory, so nothing is lost. Check the disk; \
                 `backupfs repair` writes the file anew",
                self.file.path().display()
            );
        }
    }
}

impl StoredFile for HealingFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        self.mended().map_or_else(|| self.file.read_len(), |mended| Ok(mended.len))
    }

    fn stamp(&self) -> Option<Stamp> {
        let stamp = self.file.stamp()?;
        Some(self.mended().map_or(stamp, |mended| Stamp { len: mended.len, ..stamp }))
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        self.file.check_in_place()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let read = self.read_now(buf, offset);
        match &read {
            Err(_) if self.heal(&(offset..offset.saturating_add(buf.len() as u64))) => self.read_now(buf, offset),
            _ => read,
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.file.sync()
    }

    fn forget_cached_before(&self, end: u64) {
        self.file.forget_cached_before(end);
    }

    fn heal(&self, bytes: &Range<u64>) -> bool {
        let set = match set_of(&*self.directory, self.protected) {
            Ok(Some(set)) => set,
            Ok(None) => return false,
            Err(error) => {
                log::warn!("parity cannot be used: {error}: {}", error.source);
                return false;
            }
        };
        let Some((member, of_member)) = set.layout().blocks_of(self.protected) else { return false };
        let known = self.mended();
        // A file with another length is another one to a reader, wherever it reads.
        let is_cut = known.is_none() && self.file.read_len().is_ok_and(|len| len != member.len);
        let wanted = if is_cut { of_member.clone() } else { blocks_in(&of_member, bytes) };
        let offset_of = |block: u64| (block - of_member.start) * BLOCK;
        let missing: Vec<u64> = wanted
            .filter(|&block| known.as_ref().is_none_or(|known| !known.blocks.contains_key(&offset_of(block))))
            .filter(|&block| !self.has_sound(&set, block, member.len, offset_of(block)))
            .collect();
        let Some(blocks) = self.made(&set, &of_member, &missing) else { return known.is_some() };
        if is_cut && missing.iter().any(|block| !blocks.contains_key(block)) {
            return known.is_some();
        }
        let blocks: BTreeMap<u64, Arc<Block>> =
            blocks.into_iter().map(|(block, bytes)| (offset_of(block), Arc::from(bytes))).collect();
        blocks.keys().copied().chain(is_cut.then_some(member.len)).for_each(|offset| self.log(offset));
        let mut mended = lock(&self.mended);
        if is_cut || !blocks.is_empty() {
            // Another thread may have mended something meanwhile.
            let mut all = mended.as_ref().map_or_else(BTreeMap::new, |mended| mended.blocks.clone());
            all.extend(blocks);
            *mended = Some(Arc::new(MendedFile { len: member.len, blocks: all }));
        }
        // Even when it was another thread that mended: a reader reads once more, and checks what it gets.
        mended.is_some()
    }
}

impl HealingFile {
    /// Whether this file has the right bytes of a block. Its name may lead to another file by now, which was written anew.
    fn has_sound(&self, set: &ParitySet, block: u64, len: u64, offset: u64) -> bool {
        let len = usize::try_from(len - offset).unwrap_or(PARITY_BLOCK_LEN).min(PARITY_BLOCK_LEN);
        read_block(&*self.file, offset, len).is_some_and(|bytes| set.is_data(block, &bytes))
    }

    /// The right bytes of damaged blocks, and of others of the file that came with them, as far as there are any; `None` when all of
    /// them are known to be lost.
    fn made(&self, set: &ParitySet, of_member: &Range<u64>, missing: &[u64]) -> Option<BTreeMap<u64, Box<Block>>> {
        let key = |block: u64| (self.protected, block);
        let is_lost = |block: u64| lock(&self.shared.lost).contains(&key(block));
        if !missing.is_empty() && missing.iter().all(|&block| is_lost(block)) {
            return None;
        }
        let files = MemberFiles::of(&*self.directory, set.layout());
        let written_anew = |&block: &u64| {
            let bytes = files.block(set.layout(), block).filter(|bytes| set.is_data(block, bytes))?;
            Some((block, bytes))
        };
        let mut made: BTreeMap<u64, Box<Block>> = missing.iter().filter_map(written_anew).collect();
        let rest: Vec<u64> =
            missing.iter().copied().filter(|block| !made.contains_key(block) && !is_lost(*block)).collect();
        let mended = mend(set, &*self.directory, rest.into_iter());
        lock(&self.shared.lost).extend(mended.lost.into_iter().filter(|block| of_member.contains(block)).map(key));
        made.extend(mended.blocks.into_iter().filter(|(block, _)| of_member.contains(block)));
        Some(made)
    }
}

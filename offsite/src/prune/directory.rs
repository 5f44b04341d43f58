//! [`PruneDirectory`]: a copy as a directory that a compaction works on.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::storage::{Access, Directory, RealDirectory, StorageError, StorageOp, StoredFile, Wanted};
use format::names;
use format::pruned::{PRUNED_FOOTER_LEN, PrunedFooter};
use format::pruned_directory::PrunedDirectory;
use format::units::Seq;
use tempfile::TempDir;

use crate::copy::{CopyDirectory, storage_error};
use crate::copy_error::CopyError;
use crate::objects::{File, Object, Part, Tail};
use crate::prune::CopyToPrune;
use crate::seal::layout::Padding;
use crate::ship::PART_BYTES;
use crate::ship::listing::Listing;
use crate::ship::uploads::Uploads;
use crate::store::Put;

/// The maximum length of the directory in a file `pruned`: as long as one for ten million segments.
const DIRECTORY_LEN_MAX: u64 = 1 << 30;

/// The files of a copy, of which segments and snapshots can be removed, and to which `pruned` can be added. Other files that are
/// created are temporary, on this machine.
#[derive(Debug)]
pub(super) struct PruneDirectory {
    copy: CopyDirectory,
    local: RealDirectory,
    /// Removes the temporary files.
    _temporary: TempDir,
    store: Mutex<Stored>,
    removed: AtomicU64,
}

/// The objects of the copy.
#[derive(Debug)]
struct Stored {
    uploads: Uploads,
    listing: Listing,
}

impl PruneDirectory {
    /// The directory of a copy that was opened.
    pub(super) fn new(copy: CopyDirectory, of: &CopyToPrune) -> Result<Self, super::PruneError> {
        let temporary = tempfile::tempdir()?;
        let local = RealDirectory::new(temporary.path());
        let listing = Listing::read(&*of.store)?;
        let uploads = Uploads::new(std::sync::Arc::clone(&of.store), of.keys.as_ref().map(|(_, key)| key.clone()));
        let store = Mutex::new(Stored { uploads, listing });
        Ok(Self { copy, local, _temporary: temporary, store, removed: AtomicU64::new(0) })
    }

    /// The number of objects that were removed.
    pub(super) fn removed_objects(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a file with this name was written on this machine.
    fn is_local(&self, name: &str) -> bool {
        self.local.open(name, Access::Read).is_ok()
    }

    /// Removes files `pruned` that another one replaces, catalogs whose segments are all gone, and the bytes of logs that are in segments. Age alone removes nothing: a node
    /// that was silent for long may have its newest changes in logs only.
    pub(super) fn remove_superseded(&self) -> Result<(), CopyError> {
        let mut stored = self.stored();
        let mut dropped_through = 0;
        if let Some(shown) = stored.listing.shown_pruned() {
            if let File::Pruned { last, .. } = shown {
                dropped_through = last;
            }
            let is_other = |file: &File| matches!(file, File::Pruned { .. }) && *file != shown;
            for file in stored.listing.files().filter(is_other).collect::<Vec<_>>() {
                self.remove_file(&mut stored, file)?;
            }
        }
        let is_left = |&&(first, last): &&(u64, u64)| !stored.listing.has_segments_within(first, last);
        for (first, last) in stored.listing.catalogs().keys().filter(is_left).copied().collect::<Vec<_>>() {
            stored.uploads.store().remove(&Object::Catalog { first, last }.to_string())?;
            stored.listing.forget(&Object::Catalog { first, last });
            self.removed.fetch_add(1, Ordering::Relaxed);
        }
        for listed in stored.uploads.store().list(Object::TAILS)? {
            match Object::parse(&listed.name) {
                Some(Object::Tail(Tail { log, .. })) if log <= dropped_through || stored.listing.covers(log) => {
                    stored.uploads.store().remove(&listed.name)?;
                    self.removed.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn remove_file(&self, stored: &mut Stored, file: File) -> Result<(), CopyError> {
        for name in stored.listing.object_names(file) {
            stored.uploads.store().remove(&name)?;
            self.removed.fetch_add(1, Ordering::Relaxed);
        }
        stored.listing.remove(file);
        Ok(())
    }

    /// Uploads a complete local file as `pruned`, and reads it back from the store.
    fn upload_pruned(&self, name: &str) -> Result<(), CopyError> {
        let file = self.local.open(name, Access::Read).map_err(common::ReadError::from)?;
        let len = file.read_len().map_err(common::ReadError::from)?;
        let mut stored = self.stored();
        let file_name = File::Pruned { last: last_dropped(&*file, len)?, run: stored.listing.prunings() + 1 };
        let of = u32::try_from(len.div_ceil(PART_BYTES).max(1)).unwrap_or(u32::MAX);
        for number in 1..=of {
            let offset = u64::from(number - 1) * PART_BYTES;
            let mut bytes = vec![0; usize::try_from((len - offset).min(PART_BYTES)).unwrap_or(0)];
            read_exactly(&*file, &mut bytes, offset)?;
            let part = Part { number, of };
            let name = Object::Part(file_name, part).to_string();
            let object = stored.uploads.seal(&name, &bytes, Padding::None)?;
            // The name is new: what is there is what another pruning has left, of other bytes.
            if stored.uploads.store().put_new(&name, &object)? == Put::Exists
                || stored.uploads.store().get(&name, None)? != object
            {
                let reason = "it was not stored as it was sent; is the copy being pruned by another process?";
                return Err(CopyError::Damaged { name, reason });
            }
            stored.listing.add(file_name, part, object.len() as u64);
        }
        Ok(())
    }

    fn failed(&self, op: StorageOp, name: &str, error: CopyError) -> StorageError {
        storage_error(op, self.copy.path().join(name), None, error)
    }
}

fn read_exactly(file: &dyn StoredFile, bytes: &mut [u8], offset: u64) -> Result<(), CopyError> {
    let read = file.read_at(bytes, offset).map_err(common::ReadError::from)?;
    if read < bytes.len() { Err(CopyError::Changing { name: names::PRUNED.to_owned() }) } else { Ok(()) }
}

/// Seq of the last record that a file `pruned` says was dropped.
fn last_dropped(file: &dyn StoredFile, len: u64) -> Result<u64, CopyError> {
    let damaged = || CopyError::Damaged { name: names::PRUNED.to_owned(), reason: "it does not say what was dropped" };
    let footer_at = len.checked_sub(PRUNED_FOOTER_LEN as u64).ok_or_else(damaged)?;
    let mut footer = [0; PRUNED_FOOTER_LEN];
    read_exactly(file, &mut footer, footer_at)?;
    let at = PrunedFooter::decode(&footer).map_err(|_| damaged())?.directory_offset.saturating_add(4);
    let directory_len = footer_at.checked_sub(at).filter(|&len| len <= DIRECTORY_LEN_MAX).ok_or_else(damaged)?;
    let mut directory = vec![0; usize::try_from(directory_len).unwrap_or(0)];
    read_exactly(file, &mut directory, at)?;
    let directory = PrunedDirectory::decode(&directory).map_err(|_| damaged())?;
    directory.ranges.iter().map(|range| range.last_seq).max().map(Seq::get).ok_or_else(damaged)
}

impl Directory for PruneDirectory {
    fn path(&self) -> &Path {
        self.copy.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        match self.local.open(name, access) {
            Err(error) if error.is_not_found() => self.copy.open(name, access),
            opened => opened,
        }
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        self.local.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        if to == names::PRUNED {
            self.upload_pruned(from).map_err(|error| self.failed(StorageOp::Rename, to, error))?;
        }
        self.local.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        if self.is_local(name) {
            return self.local.remove(name);
        }
        let mut stored = self.stored();
        let of_name = |file: &File| match *file {
            File::Segment { first, .. } => Seq::new(first).is_some_and(|first| names::segment(first) == name),
            File::Snapshot { seq } => Seq::new(seq).is_some_and(|seq| names::snapshot(seq) == name),
            File::Pruned { .. } => false,
        };
        let files: Vec<File> = stored.listing.files().filter(of_name).collect();
        if files.is_empty() {
            let source = io::ErrorKind::NotFound.into();
            return Err(StorageError {
                op: StorageOp::Remove,
                path: self.copy.path().join(name),
                offset: None,
                source,
            });
        }
        for file in files {
            self.remove_file(&mut stored, file).map_err(|error| self.failed(StorageOp::Remove, name, error))?;
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        let mut names = self.copy.list()?;
        names.extend(self.local.list()?);
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// What was uploaded is durable.
    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    /// A store has no locks. Two prunings at once are noticed by the name of `pruned`.
    fn lock(&self, _name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        Ok(Box::new(()))
    }

    fn is_far(&self) -> bool {
        true
    }

    fn will_need(&self, wanted: &[Wanted]) {
        self.copy.will_need(wanted);
    }

    fn may_end_sealed(&self) -> bool {
        self.copy.may_end_sealed()
    }
}

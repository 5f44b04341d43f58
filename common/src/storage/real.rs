//! A backup directory on a real file system.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::storage::owner::Owner;

use super::{Access, Directory, Stamp, StorageError, StorageOp, StoredFile};

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDirectory {
    path: PathBuf,
}

impl RealDirectory {
    /// The directory at this path; no call is made yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn file_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn open_with(&self, options: &mut OpenOptions, op: StorageOp, name: &str) -> Result<RealFile, StorageError> {
        let path = self.file_path(name);
        let fail = |source| StorageError { op, path: path.clone(), offset: None, source };
        // NOFOLLOW: a link must not lead out of the directory. NONBLOCK: opening a FIFO must not wait for a writer.
        let file = options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        Ok(RealFile { file, path, identity: identity(&metadata) })
    }

    fn error(&self, op: StorageOp, name: &str, source: io::Error) -> StorageError {
        StorageError { op, path: self.file_path(name), offset: None, source }
    }
}

impl Directory for RealDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite);
        Ok(Box::new(self.open_with(&mut options, StorageOp::Open, name)?))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = self.open_with(&mut options, StorageOp::Create, name)?;
        // Root may work on the backup of another user's node, which must be able to continue with it.
        if let Some(owner) = Owner::other_than_root([self.path.as_path()]) {
            owner.take(&file.file, &file.path);
        }
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        fs::rename(self.file_path(from), self.file_path(to)).map_err(|e| self.error(StorageOp::Rename, from, e))
    }

    fn link(&self, from: &str, to: &str) -> Result<(), StorageError> {
        fs::hard_link(self.file_path(from), self.file_path(to)).map_err(|e| self.error(StorageOp::Link, from, e))
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        fs::remove_file(self.file_path(name)).map_err(|e| self.error(StorageOp::Remove, name, e))
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        let fail = |source| StorageError { op: StorageOp::List, path: self.path.clone(), offset: None, source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fail)? {
            if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync(&self) -> Result<(), StorageError> {
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(|source| StorageError {
            op: StorageOp::Sync,
            path: self.path.clone(),
            offset: None,
            source,
        })
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = self.open_with(&mut options, StorageOp::Lock, name)?.file;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(self.error(StorageOp::Lock, name, io::ErrorKind::WouldBlock.into())),
            Err(TryLockError::Error(source)) => Err(self.error(StorageOp::Lock, name, source)),
        }
    }
}

/// A file of the operating system.
#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
    identity: Identity,
}

/// Identity of a file: device and inode.
type Identity = (u64, u64);

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl RealFile {
    fn error(&self, op: StorageOp, offset: Option<u64>, source: io::Error) -> StorageError {
        StorageError { op, path: self.path.clone(), offset, source }
    }
}

impl StoredFile for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|e| self.error(StorageOp::Measure, None, e))
    }

    fn stamp(&self) -> Option<Stamp> {
        let metadata = self.file.metadata().ok()?;
        Some(Stamp { len: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) })
    }

    fn set_modified(&self, (tv_sec, tv_nsec): (i64, i64)) -> Result<(), StorageError> {
        let last_modification = rustix::fs::Timespec { tv_sec, tv_nsec: tv_nsec as _ };
        let last_access = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = rustix::fs::Timestamps { last_access, last_modification };
        rustix::fs::futimens(&self.file, &times).map_err(|e| self.error(StorageOp::Write, None, e.into()))
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        let fail = |source| self.error(StorageOp::Open, None, source);
        match fs::symlink_metadata(&self.path) {
            // While the file is open, its inode is not reused.
            Ok(named) if identity(&named) == self.identity => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(error)),
            _ => Err(fail(io::Error::new(io::ErrorKind::NotFound, "it was moved or deleted while it was recorded to"))),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.error(StorageOp::Read, Some(offset), e)),
            }
        }
        Ok(filled)
    }

    fn forget_cached_before(&self, end: u64) {
        // Without a length all of the file is meant.
        let len = (end != u64::MAX).then(|| NonZeroU64::new(end));
        if len == Some(None) {
            return;
        }
        // A file system that has no cache, or keeps it, reads what it has.
        if let Err(error) = rustix::fs::fadvise(&self.file, 0, len.flatten(), rustix::fs::Advice::DontNeed) {
            log::debug!("{}: its cache is not dropped: {error}", self.path.display());
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.file.write_all_at(bytes, offset).map_err(|e| self.error(StorageOp::Write, Some(offset), e))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|e| self.error(StorageOp::Sync, None, e))
    }
}

//! [`PacedDirectory`]: a directory whose reads wait for a watch, which can also stop them.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Watching;
use crate::storage::{Access, Directory, StorageError, StorageOp, StoredFile};

/// Bytes of a file after which what the operating system has cached of it is dropped again.
const FORGET_EVERY: u64 = 4 << 20;

/// A directory over another one, for reading only.
pub(super) struct PacedDirectory {
    inner: Arc<dyn Directory>,
    watching: Watching,
    is_stopped: Arc<AtomicBool>,
}

impl PacedDirectory {
    pub(super) fn new(inner: Arc<dyn Directory>, watching: Watching) -> Self {
        Self { inner, watching, is_stopped: Arc::default() }
    }

    /// Whether a read was stopped. What was found until then is of no use.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn refuse(&self, op: StorageOp, name: &str) -> StorageError {
        StorageError { op, path: self.path().join(name), offset: None, source: io::ErrorKind::Unsupported.into() }
    }
}

impl fmt::Debug for PacedDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacedDirectory").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Directory for PacedDirectory {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        let file = self.inner.open(name, access)?;
        file.forget_cached();
        let (watching, is_stopped) = (Arc::clone(&self.watching), Arc::clone(&self.is_stopped));
        Ok(Box::new(PacedFile { file, watching, is_stopped, read: AtomicU64::new(0) }))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        Err(self.refuse(StorageOp::Create, name))
    }

    fn rename(&self, from: &str, _to: &str) -> Result<(), StorageError> {
        Err(self.refuse(StorageOp::Rename, from))
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        Err(self.refuse(StorageOp::Remove, name))
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.inner.list()
    }

    fn sync(&self) -> Result<(), StorageError> {
        Err(self.refuse(StorageOp::Sync, ""))
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        Err(self.refuse(StorageOp::Lock, name))
    }
}

struct PacedFile {
    file: Box<dyn StoredFile>,
    watching: Watching,
    is_stopped: Arc<AtomicBool>,
    /// Number of bytes that were read since the cache was dropped.
    read: AtomicU64,
}

impl fmt::Debug for PacedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacedFile").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Drop for PacedFile {
    fn drop(&mut self) {
        self.file.forget_cached();
    }
}

impl StoredFile for PacedFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        self.file.read_len()
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        self.file.check_in_place()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        if self.is_stopped.load(Ordering::Relaxed) || (self.watching)() == ControlFlow::Break(()) {
            self.is_stopped.store(true, Ordering::Relaxed);
            let (path, source) = (self.path().to_owned(), io::Error::other("it was stopped"));
            return Err(StorageError { op: StorageOp::Read, path, offset: Some(offset), source });
        }
        let read = self.file.read_at(buf, offset)?;
        if self.read.fetch_add(read as u64, Ordering::Relaxed) + read as u64 >= FORGET_EVERY {
            self.read.store(0, Ordering::Relaxed);
            self.file.forget_cached();
        }
        Ok(read)
    }

    fn write_at(&self, _bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        let (path, source) = (self.path().to_owned(), io::ErrorKind::Unsupported.into());
        Err(StorageError { op: StorageOp::Write, path, offset: Some(offset), source })
    }

    fn sync(&self) -> Result<(), StorageError> {
        let (path, source) = (self.path().to_owned(), io::ErrorKind::Unsupported.into());
        Err(StorageError { op: StorageOp::Sync, path, offset: None, source })
    }
}

//! [`StagingDirectory`]: a directory that is being filled, under a temporary name.

use std::fmt;
use std::path::Path;

use super::{Access, Directory, RealDirectory, StorageError, StoredFile};

/// A directory whose contents do not count before it is renamed: nothing is synced until [`make_durable`](Self::make_durable)
/// syncs everything once.
#[derive(Debug)]
pub(crate) struct StagingDirectory(RealDirectory);

impl StagingDirectory {
    pub(crate) fn new(directory: RealDirectory) -> Self {
        Self(directory)
    }

    /// Syncs all files. No writes may follow.
    ///
    /// # Errors
    /// When the operating system refuses; what is durable is then unknown.
    pub(crate) fn make_durable(&self) -> Result<(), StorageError> {
        for name in self.0.list()? {
            self.0.open(&name, Access::Read)?.sync()?;
        }
        self.0.sync()
    }
}

impl Directory for StagingDirectory {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        Ok(Box::new(UnnamedFile(self.0.open(name, access)?)))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        Ok(Box::new(UnnamedFile(self.0.create(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.0.remove(name)
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.0.list()
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        self.0.lock(name)
    }
}

/// A file of the directory.
#[derive(Debug)]
struct UnnamedFile(Box<dyn StoredFile>);

impl StoredFile for UnnamedFile {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        self.0.read_len()
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        self.0.check_in_place()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

//! A directory in memory for tests under the model checker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::{Access, Directory, StorageError, StorageOp, StoredFile};
use crate::sync::thread::{self, ThreadId};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// A directory in memory. Each call is a step of its thread, before which others may go on. It keeps track of what is durable.
#[derive(Debug, Clone)]
pub(crate) struct ModelledDirectory(Arc<Inner>);

struct Inner {
    disk: Mutex<Disk>,
    released: Condvar,
    rule: Box<Rule>,
}

/// What a test says to each step before it is done: nothing, or the error that it fails with. It panics when the step is wrong.
type Rule = dyn Fn(&Disk, &Step) -> io::Result<()> + Send + Sync;

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelledDirectory").finish_non_exhaustive()
    }
}

/// The state of the directory, and the steps that led to it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) names: BTreeMap<String, Name>,
    files: Vec<File>,
    locked: BTreeSet<String>,
    pub(crate) steps: Vec<Step>,
    /// The call that hangs until it is released.
    hangs: Option<StorageOp>,
    /// Calls that have begun to hang.
    hanging: usize,
}

/// A name of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    file: usize,
    /// Whether a power cut leaves it.
    pub(crate) is_durable: bool,
    /// The name that the file had before.
    pub(crate) before: Option<String>,
}

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    is_durable: bool,
}

/// What a thread did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) thread: ThreadId,
    pub(crate) what: What,
    /// The name that was given, or that the file had.
    pub(crate) name: String,
}

/// A call, or the end of what a call has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Called(StorageOp),
    Closed,
    Unlocked,
}

impl Disk {
    /// The bytes of a file, if all of them are durable under a durable name.
    pub(crate) fn durable(&self, name: &str) -> Option<&[u8]> {
        let file = &self.files[self.names.get(name).filter(|name| name.is_durable)?.file];
        file.is_durable.then_some(&file.bytes[..])
    }

    /// Whether all bytes of a file are durable, under this name or the one before.
    pub(crate) fn is_file_durable(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|name| self.files[name.file].is_durable)
    }

    fn error(name: &str, op: StorageOp, source: io::Error) -> StorageError {
        StorageError { op, path: Path::new(PATH).join(name), offset: None, source }
    }

    fn find(&self, name: &str, op: StorageOp) -> Result<usize, StorageError> {
        let found = self.names.get(name).map(|name| name.file);
        found.ok_or_else(|| Self::error(name, op, io::ErrorKind::NotFound.into()))
    }
}

/// The path of the directory.
const PATH: &str = "/modelled";

impl ModelledDirectory {
    /// An empty directory. `rule` sees each step before it is done.
    pub(crate) fn new(rule: impl Fn(&Disk, &Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { disk: Mutex::default(), released: Condvar::new(), rule: Box::new(rule) }))
    }

    /// The state. Looking at it is a step, too.
    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets calls of this kind hang.
    pub(crate) fn hang(&self, op: StorageOp) {
        self.disk().hangs = Some(op);
    }

    /// Waits until a call hangs.
    pub(crate) fn wait_until_one_hangs(&self) {
        drop(self.0.released.wait_while(self.disk(), |disk| disk.hanging == 0));
    }

    /// Whether a call hangs.
    pub(crate) fn is_one_hanging(&self) -> bool {
        self.disk().hanging > 0
    }

    /// Lets no call hang any more.
    pub(crate) fn release(&self) {
        self.disk().hangs = None;
        self.0.released.notify_all();
    }

    fn step(&self, what: What, name: &str) -> Result<MutexGuard<'_, Disk>, StorageError> {
        let mut disk = self.disk();
        let step = Step { thread: thread::current().id(), what, name: name.to_owned() };
        let ruled = (self.0.rule)(&disk, &step);
        disk.steps.push(step);
        let What::Called(op) = what else { return Ok(disk) };
        ruled.map_err(|source| Disk::error(name, op, source))?;
        if disk.hangs == Some(op) {
            disk.hanging += 1;
            self.0.released.notify_all();
            let released = self.0.released.wait_while(disk, |disk| disk.hangs == Some(op));
            disk = released.unwrap_or_else(PoisonError::into_inner);
            disk.hanging -= 1;
        }
        Ok(disk)
    }

    fn call(&self, op: StorageOp, name: &str) -> Result<MutexGuard<'_, Disk>, StorageError> {
        self.step(What::Called(op), name)
    }

    fn file(&self, name: &str, number: usize) -> Box<dyn StoredFile> {
        let path = Path::new(PATH).join(name);
        Box::new(ModelledFile { directory: self.clone(), path, name: name.to_owned(), number })
    }
}

impl Directory for ModelledDirectory {
    fn path(&self) -> &Path {
        Path::new(PATH)
    }

    fn open(&self, name: &str, _: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        let number = self.call(StorageOp::Open, name)?.find(name, StorageOp::Open)?;
        Ok(self.file(name, number))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        let mut disk = self.call(StorageOp::Create, name)?;
        if disk.names.contains_key(name) {
            return Err(Disk::error(name, StorageOp::Create, io::ErrorKind::AlreadyExists.into()));
        }
        disk.files.push(File::default());
        let file = disk.files.len() - 1;
        disk.names.insert(name.to_owned(), Name { file, is_durable: false, before: None });
        Ok(self.file(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let mut disk = self.call(StorageOp::Rename, from)?;
        let file = disk.find(from, StorageOp::Rename)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), Name { file, is_durable: false, before: Some(from.to_owned()) });
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        let mut disk = self.call(StorageOp::Remove, name)?;
        disk.find(name, StorageOp::Remove)?;
        disk.names.remove(name);
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.call(StorageOp::List, "")?.names.keys().cloned().collect())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.call(StorageOp::Sync, "")?.names.values_mut().for_each(|name| name.is_durable = true);
        Ok(())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        let mut disk = self.call(StorageOp::Lock, name)?;
        if !disk.locked.insert(name.to_owned()) {
            return Err(Disk::error(name, StorageOp::Lock, io::ErrorKind::WouldBlock.into()));
        }
        Ok(Box::new(ModelledLock { directory: self.clone(), name: name.to_owned() }))
    }
}

#[derive(Debug)]
struct ModelledLock {
    directory: ModelledDirectory,
    name: String,
}

impl Drop for ModelledLock {
    fn drop(&mut self) {
        if let Ok(mut disk) = self.directory.step(What::Unlocked, &self.name) {
            disk.locked.remove(&self.name);
        }
    }
}

#[derive(Debug)]
struct ModelledFile {
    directory: ModelledDirectory,
    path: PathBuf,
    name: String,
    number: usize,
}

impl Drop for ModelledFile {
    fn drop(&mut self) {
        drop(self.directory.step(What::Closed, &self.name));
    }
}

impl StoredFile for ModelledFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        let disk = self.directory.call(StorageOp::Measure, &self.name)?;
        Ok(disk.files[self.number].bytes.len() as u64)
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        let found = self.directory.call(StorageOp::Open, &self.name)?.find(&self.name, StorageOp::Open)?;
        let source = io::ErrorKind::NotFound.into();
        (found == self.number).then_some(()).ok_or_else(|| Disk::error(&self.name, StorageOp::Open, source))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let disk = self.directory.call(StorageOp::Read, &self.name)?;
        let bytes = &disk.files[self.number].bytes;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        let mut disk = self.directory.call(StorageOp::Write, &self.name)?;
        let file = &mut disk.files[self.number];
        let start = usize::try_from(offset).expect("a small file");
        if file.bytes.len() < start + bytes.len() {
            // Faster than `resize` where nothing is optimised.
            let before = std::mem::replace(&mut file.bytes, vec![0; start + bytes.len()]);
            file.bytes[..before.len()].copy_from_slice(&before);
        }
        file.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        file.is_durable = false;
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.directory.call(StorageOp::Sync, &self.name)?.files[self.number].is_durable = true;
        Ok(())
    }
}

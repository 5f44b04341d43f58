//! A disk in memory that records every modifying call, and lets one call fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::model::Promise;
use crate::storage::{Access, Directory, StorageError, StorageOp, StoredFile};

/// The root directory.
pub(super) const ROOT: usize = 0;

/// The target of a name: the number of a file or of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    File(usize),
    Directory(usize),
}

/// The contents of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) directories: Vec<BTreeMap<String, Node>>,
    pub(super) files: Vec<Arc<Vec<u8>>>,
}

impl Tree {
    /// The named files, by path.
    pub(super) fn paths(&self) -> BTreeMap<String, Arc<Vec<u8>>> {
        let mut paths = BTreeMap::new();
        self.collect(ROOT, "", &mut paths);
        paths
    }

    fn collect(&self, directory: usize, prefix: &str, paths: &mut BTreeMap<String, Arc<Vec<u8>>>) {
        for (name, node) in &self.directories[directory] {
            let path = format!("{prefix}/{name}");
            match node {
                Node::File(file) => drop(paths.insert(path, Arc::clone(&self.files[*file]))),
                Node::Directory(inner) => self.collect(*inner, &path, paths),
            }
        }
    }
}

/// A modifying call, or a promise since the one before.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Write {
        file: usize,
        offset: usize,
        bytes: Arc<[u8]>,
    },
    Sync(usize),
    /// A sync failed: the writes are in the page cache, count as clean, and may be on the disk or not.
    SyncFailed(usize),
    Name {
        directory: usize,
        change: NameChange,
    },
    SyncNames(usize),
    Promise(Arc<Promise>),
}

impl Call {
    /// Whether a write was acknowledged, so that only these states are allowed from now on.
    pub(super) fn acknowledges(&self) -> bool {
        matches!(self, Self::Promise(promise) if promise.whole.len() == 1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NameChange {
    Create { name: String, node: Node },
    Rename { from: String, to: String },
    Remove { name: String },
}

impl NameChange {
    pub(super) fn touches(&self, other: &Self) -> bool {
        self.names().iter().any(|name| other.names().contains(name))
    }

    fn names(&self) -> Vec<&str> {
        match self {
            Self::Create { name, .. } | Self::Remove { name } => vec![name],
            Self::Rename { from, to } => vec![from, to],
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Create { name, node } => drop(names.insert(name.clone(), *node)),
            Self::Rename { from, to } => {
                let node = names.remove(from).expect("what is renamed was there");
                names.insert(to.clone(), node);
            }
            Self::Remove { name } => drop(names.remove(name)),
        }
    }
}

pub(super) fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    contents.resize(contents.len().max(offset + bytes.len()), 0);
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// The kinds of calls, which are counted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Changing,
    Reading,
}

/// A failing call: its number and the error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) nth: usize,
    pub(super) errno: i32,
    /// Whether a write leaves its first half.
    pub(super) is_short: bool,
    pub(super) cause: Cause,
}

/// The reason why a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Script,
    Campaign,
}

/// A call that failed.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) what: String,
    /// Number of calls recorded before.
    pub(super) after: usize,
    pub(super) cause: Cause,
}

#[derive(Debug)]
struct Inner {
    tree: Tree,
    journal: Vec<Call>,
    changing: usize,
    reading: usize,
    /// The calls that will fail.
    faults: Vec<Fault>,
    /// The calls that have failed.
    failed: Vec<Failed>,
    locked: BTreeSet<Node>,
}

/// The disk. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    /// A disk with these contents, after these calls.
    pub(super) fn of(tree: Tree, journal: Vec<Call>) -> Self {
        let (faults, failed, locked) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self(Arc::new(Mutex::new(Inner { tree, journal, changing: 0, reading: 0, faults, failed, locked })))
    }

    /// Lets the n-th call of a kind from now on fail.
    pub(super) fn fail(&self, fault: Fault) {
        let mut inner = self.inner();
        let nth = fault.nth + inner.count(fault.kind);
        inner.faults.push(Fault { nth, ..fault });
    }

    /// The calls that have failed.
    pub(super) fn failed(&self) -> Vec<Failed> {
        self.inner().failed.clone()
    }

    pub(super) fn calls(&self, kind: Kind) -> usize {
        self.inner().count(kind)
    }

    pub(super) fn promise(&self, promise: Promise) {
        self.inner().journal.push(Call::Promise(Arc::new(promise)));
    }

    pub(super) fn tree(&self) -> Tree {
        self.inner().tree.clone()
    }

    pub(super) fn journal(&self) -> Vec<Call> {
        self.inner().journal.clone()
    }

    /// Creates a directory, whose name is not durable yet.
    pub(super) fn make_directory(&self, parent: usize, name: &str) {
        let mut inner = self.inner();
        inner.tree.directories.push(BTreeMap::new());
        let node = Node::Directory(inner.tree.directories.len() - 1);
        inner.change_name(parent, NameChange::Create { name: name.to_owned(), node });
    }

    /// The directory with this path; `None` when there is none.
    pub(super) fn directory(&self, path: &str) -> Option<Arc<dyn Directory>> {
        let number = self.number_of(path)?;
        Some(Arc::new(SimulatedDirectory { disk: self.clone(), number, path: Path::new("/disk").join(path) }))
    }

    fn number_of(&self, path: &str) -> Option<usize> {
        let inner = self.inner();
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |directory, name| {
            match inner.tree.directories[directory].get(name) {
                Some(Node::Directory(inner)) => Some(*inner),
                _ => None,
            }
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, directory: usize, path: PathBuf, name: &str, number: usize) -> Box<dyn StoredFile> {
        Box::new(SimulatedFile { disk: self.clone(), directory, path, name: name.to_owned(), number })
    }
}

impl Inner {
    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Changing => self.changing,
            Kind::Reading => self.reading,
        }
    }

    /// Counts a call, which may be the one that fails.
    fn call(&mut self, kind: Kind, op: StorageOp, path: &Path) -> Result<(), (StorageError, Fault)> {
        let number = self.count(kind);
        match kind {
            Kind::Changing => self.changing += 1,
            Kind::Reading => self.reading += 1,
        }
        let Some(position) = self.faults.iter().position(|fault| fault.kind == kind && fault.nth == number) else {
            return Ok(());
        };
        let fault = self.faults.remove(position);
        let (what, after) = (format!("{op} {}", path.display()), self.journal.len());
        self.failed.push(Failed { what, after, cause: fault.cause });
        let source = io::Error::from_raw_os_error(fault.errno);
        Err((StorageError { op, path: path.to_path_buf(), offset: None, source }, fault))
    }

    fn change_name(&mut self, directory: usize, change: NameChange) {
        change.apply(&mut self.tree.directories[directory]);
        self.journal.push(Call::Name { directory, change });
    }

    fn write(&mut self, file: usize, offset: usize, bytes: &[u8]) {
        write(Arc::make_mut(&mut self.tree.files[file]), offset, bytes);
        self.journal.push(Call::Write { file, offset, bytes: bytes.into() });
    }
}

#[derive(Debug)]
struct SimulatedDirectory {
    disk: Disk,
    number: usize,
    path: PathBuf,
}

impl SimulatedDirectory {
    fn begin(&self, kind: Kind, op: StorageOp, name: &str) -> Result<MutexGuard<'_, Inner>, StorageError> {
        let mut inner = self.disk.inner();
        inner.call(kind, op, &self.path.join(name)).map_err(|(error, _)| error)?;
        Ok(inner)
    }

    fn error(&self, op: StorageOp, name: &str, kind: io::ErrorKind) -> StorageError {
        StorageError { op, path: self.path.join(name), offset: None, source: kind.into() }
    }

    fn find(&self, inner: &Inner, op: StorageOp, name: &str) -> Result<Node, StorageError> {
        let found = inner.tree.directories[self.number].get(name).copied();
        found.ok_or_else(|| self.error(op, name, io::ErrorKind::NotFound))
    }
}

impl Directory for SimulatedDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, name: &str, _: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        let node = self.find(&*self.begin(Kind::Reading, StorageOp::Open, name)?, StorageOp::Open, name)?;
        match node {
            Node::File(number) => Ok(self.disk.file(self.number, self.path.join(name), name, number)),
            Node::Directory(_) => Err(self.error(StorageOp::Open, name, io::ErrorKind::InvalidInput)),
        }
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        let mut inner = self.begin(Kind::Changing, StorageOp::Create, name)?;
        if inner.tree.directories[self.number].contains_key(name) {
            return Err(self.error(StorageOp::Create, name, io::ErrorKind::AlreadyExists));
        }
        inner.tree.files.push(Arc::default());
        let number = inner.tree.files.len() - 1;
        inner.change_name(self.number, NameChange::Create { name: name.to_owned(), node: Node::File(number) });
        Ok(self.disk.file(self.number, self.path.join(name), name, number))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let mut inner = self.begin(Kind::Changing, StorageOp::Rename, from)?;
        self.find(&inner, StorageOp::Rename, from)?;
        inner.change_name(self.number, NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn link(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let mut inner = self.begin(Kind::Changing, StorageOp::Link, from)?;
        let node = self.find(&inner, StorageOp::Link, from)?;
        if inner.tree.directories[self.number].contains_key(to) {
            return Err(self.error(StorageOp::Link, to, io::ErrorKind::AlreadyExists));
        }
        inner.change_name(self.number, NameChange::Create { name: to.to_owned(), node });
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        let mut inner = self.begin(Kind::Changing, StorageOp::Remove, name)?;
        self.find(&inner, StorageOp::Remove, name)?;
        inner.change_name(self.number, NameChange::Remove { name: name.to_owned() });
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        let inner = self.begin(Kind::Reading, StorageOp::List, "")?;
        Ok(inner.tree.directories[self.number].keys().cloned().collect())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.begin(Kind::Changing, StorageOp::Sync, "")?.journal.push(Call::SyncNames(self.number));
        Ok(())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        let mut inner = self.begin(Kind::Reading, StorageOp::Lock, name)?;
        let node = self.find(&inner, StorageOp::Lock, name)?;
        if !inner.locked.insert(node) {
            return Err(self.error(StorageOp::Lock, name, io::ErrorKind::WouldBlock));
        }
        Ok(Box::new(Held { disk: self.disk.clone(), node }))
    }
}

#[derive(Debug)]
struct Held {
    disk: Disk,
    node: Node,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.inner().locked.remove(&self.node);
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: Disk,
    directory: usize,
    path: PathBuf,
    name: String,
    number: usize,
}

impl SimulatedFile {
    fn begin(&self, kind: Kind, op: StorageOp) -> Result<MutexGuard<'_, Inner>, StorageError> {
        let mut inner = self.disk.inner();
        inner.call(kind, op, &self.path).map_err(|(error, _)| error)?;
        Ok(inner)
    }
}

impl StoredFile for SimulatedFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        Ok(self.begin(Kind::Reading, StorageOp::Measure)?.tree.files[self.number].len() as u64)
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        let inner = self.begin(Kind::Reading, StorageOp::Open)?;
        if inner.tree.directories[self.directory].get(&self.name) == Some(&Node::File(self.number)) {
            return Ok(());
        }
        let source = io::ErrorKind::NotFound.into();
        Err(StorageError { op: StorageOp::Open, path: self.path.clone(), offset: None, source })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let inner = self.begin(Kind::Reading, StorageOp::Read)?;
        let contents = &inner.tree.files[self.number];
        let rest = usize::try_from(offset).ok().and_then(|offset| contents.get(offset..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        let mut inner = self.disk.inner();
        let offset = usize::try_from(offset).unwrap();
        match inner.call(Kind::Changing, StorageOp::Write, &self.path) {
            Ok(()) => inner.write(self.number, offset, bytes),
            Err((error, fault)) => {
                if fault.is_short {
                    inner.write(self.number, offset, &bytes[..bytes.len() / 2]);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut inner = self.disk.inner();
        let called = inner.call(Kind::Changing, StorageOp::Sync, &self.path).map_err(|(error, _)| error);
        let call = if called.is_ok() { Call::Sync(self.number) } else { Call::SyncFailed(self.number) };
        inner.journal.push(call);
        called
    }
}

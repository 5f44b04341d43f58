//! [`RealTree`]: the directory under a [`FaultFs`](super::FaultFs), reached by the numbers that the kernel knows its files by.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{INodeNo, RenameFlags};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

/// A file that the kernel knows. Its descriptor stands for it whatever becomes of its name; it cannot be read from.
struct Node {
    descriptor: Arc<OwnedFd>,
    name: OsString,
    lookups: u64,
}

/// A name in a listing.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub name: OsString,
    pub inode: u64,
    pub kind: FileType,
}

/// Something that is open.
#[derive(Clone)]
pub(super) enum Handle {
    File(Arc<File>),
    /// With its names as they were when the listing began.
    Directory(Arc<File>, Arc<[Listed]>),
}

pub(super) struct RealTree {
    nodes: Mutex<HashMap<u64, Node>>,
    handles: Mutex<HashMap<u64, Handle>>,
    next_handle: AtomicU64,
}

impl RealTree {
    pub fn open(directory: &Path) -> Result<Self> {
        let root = fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let root = Node { descriptor: Arc::new(root), name: OsString::new(), lookups: 1 };
        Ok(Self {
            nodes: Mutex::new(HashMap::from([(INodeNo::ROOT.0, root)])),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
        })
    }

    /// The last name by which the kernel asked for it; empty when it is not known.
    pub fn name(&self, inode: INodeNo) -> OsString {
        self.nodes().get(&inode.0).map(|node| node.name.clone()).unwrap_or_default()
    }

    pub fn lookup(&self, parent: INodeNo, name: &OsStr) -> Result<Stat> {
        let parent = self.descriptor(parent)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = fs::openat(parent, name, flags, Mode::empty())?;
        let stat = fs::fstat(&descriptor)?;
        // The descriptor that is kept keeps the number from being used for another file.
        let mut nodes = self.nodes();
        let node = nodes.entry(stat.st_ino).or_insert_with(|| Node {
            descriptor: Arc::new(descriptor),
            name: OsString::new(),
            lookups: 0,
        });
        node.lookups += 1;
        node.name = name.to_owned();
        Ok(stat)
    }

    pub fn forget(&self, inode: INodeNo, lookups: u64) {
        let mut nodes = self.nodes();
        if let Some(node) = nodes.get_mut(&inode.0).filter(|_| inode != INodeNo::ROOT) {
            node.lookups = node.lookups.saturating_sub(lookups);
            if node.lookups == 0 {
                nodes.remove(&inode.0);
            }
        }
    }

    pub fn stat(&self, inode: INodeNo) -> Result<Stat> {
        fs::fstat(self.descriptor(inode)?)
    }

    /// A path that leads to the file itself, for calls that do not take such a descriptor.
    pub fn path(&self, inode: INodeNo) -> Result<(Arc<OwnedFd>, PathBuf)> {
        let descriptor = self.descriptor(inode)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        Ok((descriptor, path))
    }

    pub fn open_file(&self, inode: INodeNo, flags: OFlags) -> Result<u64> {
        let (_kept, path) = self.path(inode)?;
        let file = fs::open(path, flags.difference(NOT_OURS) | OFlags::CLOEXEC, Mode::empty())?;
        Ok(self.keep(Handle::File(Arc::new(file.into()))))
    }

    /// Makes a file with exactly this mode, or opens the one that came to be meanwhile unless that is excluded.
    pub fn create(&self, parent: INodeNo, name: &OsStr, flags: OFlags, mode: Mode) -> Result<(Stat, u64)> {
        let directory = self.descriptor(parent)?;
        let opened = flags.difference(NOT_OURS) | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match fs::openat(&directory, name, opened | OFlags::CREATE | OFlags::EXCL, mode) {
            Ok(file) => {
                // The kernel has taken the other process' umask into account; ours must not come on top.
                fs::fchmod(&file, mode)?;
                file
            }
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => fs::openat(&directory, name, opened, mode)?,
            Err(error) => return Err(error),
        };
        let handle = self.keep(Handle::File(Arc::new(file.into())));
        let stat = self.lookup(parent, name).inspect_err(|_| self.close(handle))?;
        Ok((stat, handle))
    }

    pub fn make_directory(&self, parent: INodeNo, name: &OsStr, mode: Mode) -> Result<Stat> {
        let directory = self.descriptor(parent)?;
        fs::mkdirat(&directory, name, mode)?;
        fs::chmodat(&directory, name, mode, AtFlags::empty())?;
        self.lookup(parent, name)
    }

    pub fn remove(&self, parent: INodeNo, name: &OsStr, flags: AtFlags) -> Result<()> {
        fs::unlinkat(self.descriptor(parent)?, name, flags)
    }

    pub fn rename(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (new_parent, new_name): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        let [from, to] = [self.descriptor(parent)?, self.descriptor(new_parent)?];
        let flags = fs::RenameFlags::from_bits_retain(flags.bits());
        fs::renameat_with(from, name, &to, new_name, flags)?;
        let moved = fs::statat(&to, new_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if let Some(node) = self.nodes().get_mut(&moved.st_ino) {
            node.name = new_name.to_owned();
        }
        Ok(())
    }

    pub fn open_directory(&self, inode: INodeNo) -> Result<u64> {
        let (_kept, path) = self.path(inode)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(path, flags, Mode::empty())?;
        Ok(self.keep(Handle::Directory(Arc::new(directory.into()), Arc::new([]))))
    }

    /// The names from the `from`th on; those of the moment when it is asked for the first.
    pub fn list(&self, handle: u64, from: u64) -> Result<Vec<Listed>> {
        let Handle::Directory(directory, mut names) = self.handle(handle)? else { return Err(Errno::NOTDIR) };
        if from == 0 {
            let read = Dir::read_from(&directory)?.map(|entry| {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                Ok(Listed { name, inode: entry.ino(), kind: entry.file_type() })
            });
            names = read.collect::<Result<_>>()?;
            self.handles().insert(handle, Handle::Directory(directory, Arc::clone(&names)));
        }
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(names.get(from..).unwrap_or_default().to_vec())
    }

    pub fn file(&self, handle: u64) -> Result<Arc<File>> {
        match self.handle(handle)? {
            Handle::File(file) | Handle::Directory(file, _) => Ok(file),
        }
    }

    pub fn close(&self, handle: u64) {
        self.handles().remove(&handle);
    }

    fn keep(&self, handle: Handle) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles().insert(number, handle);
        number
    }

    fn handle(&self, handle: u64) -> Result<Handle> {
        self.handles().get(&handle).cloned().ok_or(Errno::BADF)
    }

    fn descriptor(&self, inode: INodeNo) -> Result<Arc<OwnedFd>> {
        self.nodes().get(&inode.0).map(|node| Arc::clone(&node.descriptor)).ok_or(Errno::STALE)
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<u64, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<u64, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Flags of an open that the kernel has dealt with or will deal with: it says where to append, and a direct write from its
/// cache need not be aligned as the disk wants it. Whether links are followed is decided already, and ours is a link to the
/// file.
const NOT_OURS: OFlags = OFlags::APPEND
    .union(OFlags::DIRECT)
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOCTTY);

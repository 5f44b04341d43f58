//! [`FuseAdapter`]: translates the requests of the kernel for [`Fs`], and the answers back. It makes no decisions.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, Notifier, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use crate::fuse::errno::errno;
use crate::fuse::kernel_attr::{BLOCK_BYTES, Outside, Owner, file_attr, file_type, ttl};
use crate::fuse::workers::Workers;
use crate::tree::attr::{Attr, Entry, Lasts};
use crate::tree::fs::{Cost, Fs};
use crate::tree::fs_error::FsError;
use crate::tree::node::Kind;
use crate::tree::shown::{KernelMemory, Shown, Tree};

/// The number of names whose attributes are collected at once for a listing with attributes.
const NAMES_AT_ONCE: usize = 64;

thread_local! {
    /// The read buffer of a thread that serves the kernel, reused between reads.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves the tree that is shown to the kernel.
pub struct FuseAdapter {
    shown: Arc<Shown>,
    owner: Owner,
    end: End,
    workers: Workers,
    listings: Listings,
}

/// Where the kernel has the listings of directories from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listings {
    /// From its cache, as far as [`Shown`] lets it. It opens and closes directories by itself.
    Cached,
    /// From here, each time: a kernel before 5.1.
    Asked,
}

/// Signals the end of a mount, no matter which process unmounted it.
#[derive(Debug, Clone)]
pub struct End {
    /// True after the end of the mount.
    pub gone: Arc<AtomicBool>,
    /// Receives one message at the end of the mount.
    pub wake: Sender<()>,
}

impl FuseAdapter {
    /// An adapter that signals `end`.
    pub fn new(shown: Arc<Shown>, owner: Owner, end: End) -> Self {
        Self { shown, owner, end, workers: Workers::default(), listings: Listings::Asked }
    }

    /// What the attributes of this tree become outside.
    fn outside(&self, tree: &Tree) -> Outside {
        Outside { tag: tree.tag, owner: self.owner, nanoseconds: self.shown.nanoseconds() }
    }

    /// Answers in this thread, or in a worker thread when a view may have to be built: the few threads that serve the kernel
    /// stay free for reads.
    fn answer(&self, tree: Tree, cost: Cost, answer: impl FnOnce(&Fs) + Send + 'static) {
        let fs = tree.fs;
        match cost {
            Cost::Small => answer(&fs),
            Cost::View => {
                if let Err(error) = self.workers.start(Box::new(move || answer(&fs))) {
                    // The reply went with the closure; dropped, it answers EIO.
                    log::error!("cannot start a thread to build a view: {error}");
                }
            }
        }
    }
}

/// The kernel's caches, reached through the connection of a mount.
pub struct Kernel(pub Notifier);

impl KernelMemory for Kernel {
    fn store(&self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.store(INodeNo(inode), offset, bytes)
    }

    fn forget_name(&self, name: &str) -> io::Result<()> {
        self.0.inval_entry(INodeNo::ROOT, OsStr::new(name))
    }

    fn forget_contents(&self, inode: u64) -> io::Result<()> {
        // All of it: to the end of the file.
        self.0.inval_inode(INodeNo(inode), 0, 0)
    }

    fn forget_attributes(&self, inode: u64) -> io::Result<()> {
        // A negative offset: the attributes alone. So it waits for no page that is being read.
        self.0.inval_inode(INodeNo(inode), -1, 0)
    }
}

/// The attributes in a listing for a directory or link that cannot be read. They are not cached.
fn not_known(fs: &Fs, inode: u64, kind: Kind) -> Attr {
    let permissions = if kind == Kind::Link { 0o777 } else { 0o500 };
    let (time, lasts) = (fs.backup().manifest().created, Lasts::Moment);
    Attr { inode, kind, size_bytes: 0, links: 1, permissions, time, lasts }
}

/// Answers a listing in which each name comes with its attributes.
fn list_with_attributes(fs: &Fs, inode: u64, offset: u64, outside: Outside, mut reply: ReplyDirectoryPlus) {
    let mut cookie = offset;
    loop {
        // Collected first: attributes must not be looked up while the listing has the history locked.
        let mut names = Vec::with_capacity(NAMES_AT_ONCE);
        let listed = fs.list(inode, cookie, &mut |entry| {
            names.push((entry.name.to_owned(), entry.inode, entry.kind, entry.cookie));
            if names.len() < NAMES_AT_ONCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        match listed {
            Ok(()) => {}
            Err(error) if cookie == offset => {
                reply.error(errno(&error));
                return;
            }
            // The names found so far are sent; the next request gets the error.
            Err(_) => {
                reply.ok();
                return;
            }
        }
        for &(ref name, inode, kind, behind) in &names {
            let Entry { attr, name_lasts } = match fs.entry(inode) {
                Ok(entry) => entry,
                // A file that is gone by now is not listed: its size is not known.
                Err(FsError::NoEntry) if kind == Kind::File => continue,
                // No end is sent behind a file that is left out: the kernel would cache the listing without it.
                Err(error) if kind == Kind::File => {
                    return if cookie == offset { reply.error(errno(&error)) } else { reply.ok() };
                }
                // The name is listed; a lookup of it returns the error.
                Err(_) => Entry { attr: not_known(fs, inode, kind), name_lasts: Lasts::Moment },
            };
            // The protocol has only one timeout for both here.
            let lasts = attr.lasts.min(name_lasts);
            let kernel_attr = file_attr(&attr, outside);
            let generation = Generation(outside.tag.tree);
            if reply.add(kernel_attr.ino, behind, name, &ttl(lasts), &kernel_attr, generation) {
                reply.ok();
                return;
            }
            cookie = behind;
        }
        if names.len() < NAMES_AT_ONCE {
            reply.ok();
            return;
        }
    }
}

fn open_flags(lasts: Lasts) -> FopenFlags {
    match lasts {
        Lasts::Forever => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        Lasts::Briefly | Lasts::Moment => FopenFlags::FOPEN_NOFLUSH,
    }
}

/// Requests that would change something: each is answered with `EROFS`, for any parameters.
macro_rules! refuse {
    ($($request:ident($($parameter:ty),*) -> $reply:ty;)*) => {
        $(fn $request(&self, _: &Request, $(_: $parameter,)* reply: $reply) {
            reply.error(errno(&FsError::ReadOnly));
        })*
    };
}

impl Filesystem for FuseAdapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without these an old kernel looks names up one after another, or asks for each name of a directory: slower, not
        // wrong. With `AUTO` the kernel asks for attributes only when they are used.
        for wanted in
            [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO]
        {
            let _: Result<(), InitFlags> = config.add_capabilities(wanted);
        }
        // Listings are cached only if the kernel compares the time of a directory before it uses one.
        let opens_directories_itself = config.capabilities().contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        if opens_directories_itself && config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA).is_ok() {
            self.listings = Listings::Cached;
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.end.gone.store(true, Ordering::Release);
        // The receiver may be gone.
        let _: Result<(), _> = self.end.wake.send(());
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (tree, parent) = match self.shown.of(parent.0) {
            Ok(found) => found,
            Err(error) => return reply.error(errno(&error)),
        };
        let (outside, name) = (self.outside(&tree), name.to_owned());
        let cost = tree.fs.lookup_cost(parent, &name);
        self.answer(tree, cost, move |fs| match fs.lookup(parent, &name) {
            Ok(Entry { attr, name_lasts }) => {
                let kernel_attr = file_attr(&attr, outside);
                reply.entry_with_ttls(&ttl(attr.lasts), &ttl(name_lasts), &kernel_attr, Generation(outside.tag.tree));
            }
            // Answered as an error and not as an empty entry: the version may be there the next moment.
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let (tree, inode) = match self.shown.of(ino.0) {
            Ok(found) => found,
            Err(error) => return reply.error(errno(&error)),
        };
        let outside = self.outside(&tree);
        let cost = if fh.is_some() { Cost::Small } else { tree.fs.getattr_cost(inode) };
        self.answer(tree, cost, move |fs| {
            let attr = match fh {
                Some(handle) => fs.getattr_open(handle.0).or_else(|_| fs.getattr(inode)),
                None => fs.getattr(inode),
            };
            match attr {
                Ok(attr) => reply.attr(&ttl(attr.lasts), &file_attr(&attr, outside)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.shown.of(ino.0).and_then(|(tree, inode)| tree.fs.readlink(inode)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            reply.error(errno(&FsError::ReadOnly));
            return;
        }
        let (tree, inode) = match self.shown.of(ino.0) {
            Ok(found) => found,
            Err(error) => return reply.error(errno(&error)),
        };
        let cost = tree.fs.open_cost(inode);
        self.answer(tree, cost, move |fs| match fs.open(inode) {
            Ok((handle, lasts)) => reply.opened(FileHandle(handle), open_flags(lasts)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let tree = match self.shown.of(ino.0) {
            Ok((tree, _)) => tree,
            Err(error) => return reply.error(errno(&error)),
        };
        READ.with_borrow_mut(|scratch| match tree.fs.read(fh.0, offset, size, scratch) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // The files of an earlier tree were closed with it.
        if let Ok((tree, _)) = self.shown.of(ino.0) {
            tree.fs.close(fh.0);
        }
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.listings {
            // Upon this the kernel opens and closes every directory by itself.
            Listings::Cached => reply.error(Errno::ENOSYS),
            Listings::Asked => reply.opened(FileHandle(0), FopenFlags::empty()),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.shown.of(ino.0).and_then(|(tree, inode)| {
            if offset == 0 {
                self.shown.begin_listing(ino.0, inode);
            }
            let Tree { fs, tag } = tree;
            fs.list(inode, offset, &mut |entry| {
                let inode = INodeNo(tag.outward(entry.inode));
                let full = reply.add(inode, entry.cookie, file_type(entry.kind), entry.name);
                if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let (tree, inode) = match self.shown.of(ino.0) {
            Ok(found) => found,
            Err(error) => return reply.error(errno(&error)),
        };
        if offset == 0 {
            self.shown.begin_listing(ino.0, inode);
        }
        let (outside, cost) = (self.outside(&tree), tree.fs.entries_cost(inode));
        self.answer(tree, cost, move |fs| list_with_attributes(fs, inode, offset, outside, reply));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // Full, and as big as the backup on its disk.
        let fs = self.shown.now().fs;
        let (bytes, files) = (fs.stored_bytes(), fs.file_count());
        reply.statfs(bytes.div_ceil(u64::from(BLOCK_BYTES)), 0, 0, files, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        // Upon this the kernel answers `EOPNOTSUPP` by itself, and does not ask again: `ls -l` asks three times for each name.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _offset: i64, _whence: i32, reply: ReplyLseek) {
        // Upon this the kernel finds no holes by itself, and does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // From here on: everything that would change something. The mount option `ro` makes the kernel refuse most of it
    // itself; the rest gets the same answer here.
    refuse! {
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>, Option<TimeOrNow>,
            Option<SystemTime>, Option<FileHandle>, Option<SystemTime>, Option<SystemTime>, Option<SystemTime>,
            Option<BsdFileFlags>
        ) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        write(INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>) -> ReplyWrite;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
    }
}

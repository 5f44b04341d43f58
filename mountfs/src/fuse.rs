//! [`FuseAdapter`]: the requests of the kernel, translated for [`Fs`] and back. No decision is made here.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::attr::{Attr, Lasts};
use crate::errno::errno;
use crate::fs::{Cost, Fs};
use crate::fs_error::FsError;
use crate::prefill::PageCache;
use crate::tree::Kind;
use crate::workers::Workers;

/// How long the kernel keeps what never changes. Not longer, so that a backup that was replaced by another one under a
/// mount is noticed within a day.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of a block in `stat` and `statfs`; `st_blocks` counts in 512 whatever this is.
const BLOCK_BYTES: u32 = 4096;

/// Names whose attributes are gathered at once for a listing with attributes.
const NAMES_AT_ONCE: usize = 64;

thread_local! {
    /// Where a thread that talks to the kernel puts the bytes of a read, so that they need not be allocated each time.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Who may enter the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only the user who mounts: a node's database holds its secrets.
    Owner,
    /// Everybody.
    Others,
}

/// Whom everything in the mount belongs to, and who else may read it.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Who else.
    pub access: Access,
}

impl Owner {
    /// The permission bits of a file that has these for its owner.
    fn permissions(self, own: u16) -> u16 {
        match self.access {
            Access::Owner => own,
            Access::Others => own | own >> 3 | own >> 6,
        }
    }
}

/// Serves an [`Fs`] to the kernel.
pub struct FuseAdapter {
    fs: Arc<Fs>,
    owner: Owner,
    end: End,
    workers: Workers,
}

/// Where the end of a mount is made known, whoever unmounted it.
#[derive(Debug, Clone)]
pub struct End {
    /// True from then on.
    pub gone: Arc<AtomicBool>,
    /// Gets one message then.
    pub wake: Sender<()>,
}

impl FuseAdapter {
    /// An adapter that makes `end` known.
    pub fn new(fs: Arc<Fs>, owner: Owner, end: End) -> Self {
        Self { fs, owner, end, workers: Workers::default() }
    }

    /// What a listing says about a file whose size takes a view to find out. It is out of date at once, so that the kernel
    /// looks the name up before it uses any of it.
    ///
    /// That the size is wrong harms no reader: to have the file open he must have looked it up, and then it is known.
    fn not_yet_known(&self, inode: u64, kind: Kind) -> FileAttr {
        let permissions = match kind {
            Kind::Directory => 0o500,
            Kind::File => 0o400,
            Kind::Link => 0o777,
        };
        let (time, lasts) = (self.fs.created(), Lasts::Moment);
        file_attr(&Attr { inode, kind, size_bytes: 0, links: 1, permissions, time, lasts }, self.owner)
    }

    /// Answers here, or on a thread of its own when the answer may have to wait for a view: the few threads that talk to
    /// the kernel stay free for reads.
    fn answer(&self, cost: Cost, answer: impl FnOnce(&Fs) + Send + 'static) {
        match cost {
            Cost::Small => answer(&self.fs),
            Cost::View => {
                let fs = Arc::clone(&self.fs);
                if let Err(error) = self.workers.start(Box::new(move || answer(&fs))) {
                    // The reply went with the closure; dropped, it answers EIO.
                    log::error!("cannot start a thread to build a view: {error}");
                }
            }
        }
    }
}

/// The kernel's cache, reached through the connection of a mount.
pub struct KernelCache(pub Notifier);

impl PageCache for KernelCache {
    fn store(&self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.store(INodeNo(inode), offset, bytes)
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

fn ttl(lasts: Lasts) -> Duration {
    match lasts {
        Lasts::Forever => FOREVER,
        Lasts::Moment => Duration::ZERO,
    }
}

fn open_flags(lasts: Lasts) -> FopenFlags {
    match lasts {
        Lasts::Forever => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        Lasts::Moment => FopenFlags::FOPEN_NOFLUSH,
    }
}

fn file_attr(attr: &Attr, owner: Owner) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(attr.time.as_micros().unsigned_abs());
    FileAttr {
        ino: INodeNo(attr.inode),
        size: attr.size_bytes,
        blocks: attr.size_bytes.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: owner.permissions(attr.permissions),
        nlink: attr.links,
        uid: owner.uid,
        gid: owner.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

impl Filesystem for FuseAdapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // An old kernel that cannot do these looks names up one after another, or asks for each name in a directory by
        // itself: slower, not wrong. `AUTO` spares those who only want the names.
        for wanted in
            [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO]
        {
            let _: Result<(), InitFlags> = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.end.gone.store(true, Ordering::Release);
        // Nobody may be listening any more.
        let _: Result<(), _> = self.end.wake.send(());
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (owner, name) = (self.owner, name.to_owned());
        let cost = self.fs.lookup_cost(parent.0, &name);
        self.answer(cost, move |fs| match fs.lookup(parent.0, &name) {
            Ok(entry) => {
                let attr = file_attr(&entry.attr, owner);
                reply.entry_with_ttls(
                    &ttl(entry.attr.lasts),
                    &ttl(entry.name_lasts),
                    &attr,
                    Generation(entry.generation),
                );
            }
            // Answered as an error and not as an empty entry: the version may be there the next moment.
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let owner = self.owner;
        let cost = if fh.is_some() { Cost::Small } else { self.fs.getattr_cost(ino.0) };
        self.answer(cost, move |fs| {
            let attr = match fh {
                Some(handle) => fs.getattr_open(handle.0).or_else(|_| fs.getattr(ino.0)),
                None => fs.getattr(ino.0),
            };
            match attr {
                Ok(attr) => reply.attr(&ttl(attr.lasts), &file_attr(&attr, owner)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            reply.error(errno(&FsError::ReadOnly));
            return;
        }
        self.answer(self.fs.open_cost(ino.0), move |fs| match fs.open(ino.0) {
            Ok((handle, lasts)) => reply.opened(FileHandle(handle), open_flags(lasts)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ.with_borrow_mut(|scratch| match self.fs.read(fh.0, offset, size, scratch) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.close(fh.0);
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.fs.list(ino.0, offset, &mut |entry| {
            let full = reply.add(INodeNo(entry.inode), entry.cookie, file_type(entry.kind), entry.name);
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut cookie = offset;
        loop {
            // Gathered first: attributes are not looked up while the listing holds on to the history.
            let mut names = Vec::with_capacity(NAMES_AT_ONCE);
            let listed = self.fs.list(ino.0, cookie, &mut |entry| {
                names.push((entry.name.to_owned(), entry.inode, entry.kind, entry.cookie));
                if names.len() < NAMES_AT_ONCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            match listed {
                Ok(()) => {}
                Err(error) if cookie == offset => {
                    reply.error(errno(&error));
                    return;
                }
                // The names that were found first go first; the next request gets the error.
                Err(_) => {
                    reply.ok();
                    return;
                }
            }
            for (name, inode, kind, behind) in &names {
                let (attr, lasts, generation) = match self.fs.entry_at_hand(*inode) {
                    // One time for both is all that can be given here.
                    Some(entry) if entry.attr.lasts == entry.name_lasts => {
                        (file_attr(&entry.attr, self.owner), entry.name_lasts, entry.generation)
                    }
                    Some(entry) => (file_attr(&entry.attr, self.owner), Lasts::Moment, entry.generation),
                    None => (self.not_yet_known(*inode, *kind), Lasts::Moment, self.fs.generation()),
                };
                if reply.add(INodeNo(*inode), *behind, name, &ttl(lasts), &attr, Generation(generation)) {
                    reply.ok();
                    return;
                }
                cookie = *behind;
            }
            if names.len() < NAMES_AT_ONCE {
                reply.ok();
                return;
            }
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // Full, and as big as the backup on its disk.
        let bytes = self.fs.stored_bytes();
        let files = self.fs.file_count();
        reply.statfs(bytes.div_ceil(u64::from(BLOCK_BYTES)), 0, 0, files, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
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
        // The kernel then looks for holes itself and finds none, and does not ask again.
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
    // itself; what still comes through gets the same answer.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn mkdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _link_name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(errno(&FsError::ReadOnly));
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(&FsError::ReadOnly));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_read_only_where_they_were_let_in() {
        let owner = |access| Owner { uid: 0, gid: 0, access };
        assert_eq!(owner(Access::Owner).permissions(0o400), 0o400);
        assert_eq!(owner(Access::Others).permissions(0o400), 0o444);
        assert_eq!(owner(Access::Others).permissions(0o500), 0o555);
        assert_eq!(owner(Access::Others).permissions(0o777), 0o777);
    }
}

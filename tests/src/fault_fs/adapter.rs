//! [`Adapter`]: the requests of the kernel, judged by the rules and then done on the [`RealTree`].

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};

use super::Caching;
use super::real_tree::{Listed, RealTree};
use super::rules::{Call, Effect, Faults, Verdict};

/// The kernel asks again each time: what changes in the directory below is seen, and every call comes by here.
const NOT_KEPT: Duration = Duration::ZERO;

pub(super) struct Adapter {
    tree: Arc<RealTree>,
    faults: Arc<Faults>,
    caching: Caching,
}

/// A reply that can be an error.
trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => { $(impl Refuse for $reply {
        fn refuse(self, errno: Errno) {
            self.error(errno);
        }
    })* };
}
refuse!(ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite);

impl Adapter {
    pub fn new(tree: RealTree, faults: Arc<Faults>, caching: Caching) -> Self {
        Self { tree: Arc::new(tree), faults, caching }
    }

    /// Does a call, unless a rule says otherwise. What has to wait does so on a thread of its own: those that talk to the
    /// kernel are for the other calls.
    fn serve<R: Refuse, T>(
        &self,
        (call, names): (Call, &[&OsStr]),
        reply: R,
        work: impl FnOnce(&RealTree) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        match self.faults.judge(call, names) {
            Verdict::Pass => finish(&self.tree, reply, work, answer),
            Verdict::Rule(_, Effect::Fail(errno)) => reply.refuse(Errno::from_i32(errno.raw_os_error())),
            Verdict::Rule(_, Effect::FailOnceDone(errno)) => {
                // Whatever it came to, nobody hears of it. What it opened stays open until the file system is gone.
                let _: io::Result<T> = work(&self.tree);
                reply.refuse(Errno::from_i32(errno.raw_os_error()));
            }
            Verdict::Rule(_, Effect::Delay(delay)) => self.later(move |tree, _| {
                thread::sleep(delay);
                finish(tree, reply, work, answer);
            }),
            Verdict::Rule(rule, Effect::Hang) => self.later(move |tree, faults| {
                faults.hang(rule);
                finish(tree, reply, work, answer);
            }),
        }
    }

    fn later(&self, call: impl FnOnce(&RealTree, &Faults) + Send + 'static) {
        let (tree, faults) = (Arc::clone(&self.tree), Arc::clone(&self.faults));
        let waiting = thread::Builder::new().name("faulty call".to_owned()).spawn(move || call(&tree, &faults));
        // When no thread can be started, the reply goes with the closure; dropped, it answers EIO.
        drop(waiting);
    }

    fn open_flags(&self) -> FopenFlags {
        match self.caching {
            Caching::Kernel => FopenFlags::empty(),
            Caching::Nothing => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        }
    }
}

fn finish<R: Refuse, T>(
    tree: &RealTree,
    reply: R,
    work: impl FnOnce(&RealTree) -> io::Result<T>,
    answer: impl FnOnce(R, T),
) {
    match work(tree) {
        Ok(done) => answer(reply, done),
        Err(error) => reply.refuse(error.into()),
    }
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}

fn open_mode(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned())
}

fn file_type(kind: rustix::fs::FileType) -> FileType {
    match kind {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        rustix::fs::FileType::RegularFile | rustix::fs::FileType::Unknown => FileType::RegularFile,
    }
}

/// No time of a file is before 1970 here.
fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let since = Duration::from_secs(seconds.try_into().unwrap_or(0)) + Duration::from_nanos(nanoseconds);
    SystemTime::UNIX_EPOCH + since
}

fn attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.st_ino),
        size: stat.st_size.try_into().unwrap_or(0),
        blocks: stat.st_blocks.try_into().unwrap_or(0),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: time(stat.st_ctime, stat.st_ctime_nsec),
        kind: file_type(rustix::fs::FileType::from_raw_mode(stat.st_mode)),
        perm: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        nlink: stat.st_nlink.try_into().unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev.try_into().unwrap_or(0),
        blksize: stat.st_blksize.try_into().unwrap_or(4096),
        flags: 0,
    }
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Timespec { tv_sec: since.as_secs().try_into().unwrap_or(0), tv_nsec: since.subsec_nanos().into() }
        }
    }
}

fn entry(reply: ReplyEntry, stat: Stat) {
    reply.entry(&NOT_KEPT, &attr(&stat), Generation(0));
}

fn read(tree: &RealTree, handle: u64, offset: u64, size: u32) -> io::Result<Vec<u8>> {
    let file = tree.file(handle)?;
    let mut bytes = vec![0; size as usize];
    let mut filled = 0;
    // Less than asked means the end of the file to the kernel.
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it a lookup that hangs would hold up all others in the directory.
        let _: Result<(), InitFlags> = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        // Reads ahead that hang must not be all that the kernel has going.
        let _: Result<u16, u16> = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let wanted = name.to_owned();
        self.serve((Call::Lookup, &[name]), reply, move |tree| Ok(tree.lookup(parent, &wanted)?), entry);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.tree.forget(ino, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let name = self.tree.name(ino);
        let work = move |tree: &RealTree| Ok(tree.stat(ino)?);
        self.serve((Call::GetAttr, &[&name]), reply, work, |reply, stat| reply.attr(&NOT_KEPT, &attr(&stat)));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        permissions: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let name = self.tree.name(ino);
        let call = if size.is_some() { Call::Truncate } else { Call::SetAttr };
        let work = move |tree: &RealTree| {
            let (_kept, path) = tree.path(ino)?;
            if let Some(permissions) = permissions {
                rustix::fs::chmod(&path, mode(permissions))?;
            }
            if uid.is_some() || gid.is_some() {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                rustix::fs::chownat(CWD, &path, uid, gid, AtFlags::empty())?;
            }
            match (size, fh) {
                (Some(size), Some(handle)) => tree.file(handle.0)?.set_len(size)?,
                (Some(size), None) => fs::File::options().write(true).open(&path)?.set_len(size)?,
                (None, _) => {}
            }
            if atime.is_some() || mtime.is_some() {
                let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
                rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())?;
            }
            Ok(tree.stat(ino)?)
        };
        self.serve((call, &[&name]), reply, work, |reply, stat| reply.attr(&NOT_KEPT, &attr(&stat)));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let name = self.tree.name(ino);
        let work = move |tree: &RealTree| {
            let (link, _) = tree.path(ino)?;
            Ok(rustix::fs::readlinkat(link, "", Vec::new())?)
        };
        self.serve((Call::GetAttr, &[&name]), reply, work, |reply, target| reply.data(target.as_bytes()));
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, bits: u32, _umask: u32, reply: ReplyEntry) {
        let wanted = name.to_owned();
        let work = move |tree: &RealTree| Ok(tree.make_directory(parent, &wanted, mode(bits))?);
        self.serve((Call::MkDir, &[name]), reply, work, entry);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let wanted = name.to_owned();
        let work = move |tree: &RealTree| Ok(tree.remove(parent, &wanted, AtFlags::empty())?);
        self.serve((Call::Unlink, &[name]), reply, work, |reply, ()| reply.ok());
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let wanted = name.to_owned();
        let work = move |tree: &RealTree| Ok(tree.remove(parent, &wanted, AtFlags::REMOVEDIR)?);
        self.serve((Call::RmDir, &[name]), reply, work, |reply, ()| reply.ok());
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (name.to_owned(), newname.to_owned());
        let work = move |tree: &RealTree| Ok(tree.rename((parent, &from), (newparent, &to), flags)?);
        self.serve((Call::Rename, &[name, newname]), reply, work, |reply, ()| reply.ok());
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        bits: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (wanted, opened) = (name.to_owned(), self.open_flags());
        let work = move |tree: &RealTree| Ok(tree.create(parent, &wanted, open_mode(flags), mode(bits))?);
        self.serve((Call::Create, &[name]), reply, work, move |reply, (stat, handle)| {
            reply.created(&NOT_KEPT, &attr(&stat), Generation(0), FileHandle(handle), opened);
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (name, opened) = (self.tree.name(ino), self.open_flags());
        let work = move |tree: &RealTree| Ok(tree.open_file(ino, open_mode(flags.0))?);
        self.serve((Call::Open, &[&name]), reply, work, move |reply, handle| reply.opened(FileHandle(handle), opened));
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
        let name = self.tree.name(ino);
        let work = move |tree: &RealTree| read(tree, fh.0, offset, size);
        self.serve((Call::Read, &[&name]), reply, work, |reply, bytes| reply.data(&bytes));
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (name, bytes) = (self.tree.name(ino), data.to_vec());
        let work = move |tree: &RealTree| {
            tree.file(fh.0)?.write_all_at(&bytes, offset)?;
            Ok(bytes.len())
        };
        self.serve((Call::Write, &[&name]), reply, work, |reply, written| {
            reply.written(u32::try_from(written).unwrap_or(u32::MAX));
        });
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        let name = self.tree.name(ino);
        self.serve((Call::Flush, &[&name]), reply, |_| Ok(()), |reply, ()| reply.ok());
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
        self.tree.close(fh.0);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let name = self.tree.name(ino);
        let work = move |tree: &RealTree| match (tree.file(fh.0)?, datasync) {
            (file, true) => file.sync_data(),
            (file, false) => file.sync_all(),
        };
        self.serve((Call::Fsync, &[&name]), reply, work, |reply, ()| reply.ok());
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let name = self.tree.name(ino);
        let work = move |tree: &RealTree| Ok(tree.open_directory(ino)?);
        self.serve((Call::OpenDir, &[&name]), reply, work, |reply, handle| {
            reply.opened(FileHandle(handle), FopenFlags::empty());
        });
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let name = self.tree.name(ino);
        let work = move |tree: &RealTree| Ok(tree.list(fh.0, offset)?);
        let answer = move |mut reply: ReplyDirectory, names: Vec<Listed>| {
            for (behind, name) in (offset + 1..).zip(names) {
                if reply.add(INodeNo(name.inode), behind, file_type(name.kind), name.name) {
                    break;
                }
            }
            reply.ok();
        };
        self.serve((Call::ReadDir, &[&name]), reply, work, answer);
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.tree.close(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let name = self.tree.name(ino);
        let work = move |tree: &RealTree| tree.file(fh.0)?.sync_all();
        self.serve((Call::FsyncDir, &[&name]), reply, work, |reply, ()| reply.ok());
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let name = self.tree.name(ino);
        let pretended = self.faults.free_bytes();
        let work = move |tree: &RealTree| {
            let (_kept, path) = tree.path(ino)?;
            Ok(rustix::fs::statvfs(path)?)
        };
        self.serve((Call::StatFs, &[&name]), reply, work, move |reply, disk| {
            let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            let pretended = pretended.map(|bytes| bytes / disk.f_frsize.max(1));
            let (free, available) = (pretended.unwrap_or(disk.f_bfree), pretended.unwrap_or(disk.f_bavail));
            let (files, block, name) = (disk.f_files, small(disk.f_bsize), small(disk.f_namemax));
            reply.statfs(disk.f_blocks, free, available, files, disk.f_ffree, block, name, small(disk.f_frsize));
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        bits: i32,
        reply: ReplyEmpty,
    ) {
        let name = self.tree.name(ino);
        let flags = FallocateFlags::from_bits_retain(bits.cast_unsigned());
        let work = move |tree: &RealTree| Ok(rustix::fs::fallocate(tree.file(fh.0)?, flags, offset, length)?);
        self.serve((Call::Allocate, &[&name]), reply, work, |reply, ()| reply.ok());
    }
}

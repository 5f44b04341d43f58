//! A directory whose calls fail on demand, for tests.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Access, Directory, RealDirectory, StorageError, StorageOp, StoredFile};

/// A real directory that counts modifying calls and lets one of them fail.
#[derive(Debug)]
pub(crate) struct FaultyDirectory {
    real: RealDirectory,
    calls: Arc<Calls>,
}

#[derive(Debug)]
struct Calls {
    /// Calls, and whether they are about parity, whose names need not last.
    made: Mutex<Vec<(StorageOp, bool)>>,
    fail_at: AtomicU64,
    /// The error number of a failing call.
    errno: AtomicI32,
    keep: AtomicU64,
    /// Ranges of files that cannot be read, with the names of the files.
    unreadable: Mutex<Vec<(String, Range<u64>)>>,
}

/// A failing write leaves its first half.
const FIRST_HALF: u64 = 0;
const LATER_SECTORS: u64 = 1;
/// A write succeeds with a flipped bit.
const FLIPPED: u64 = 2;

/// The unit that a disk writes atomically.
const SECTOR: usize = 512;

impl FaultyDirectory {
    pub(crate) fn new(path: &Path) -> Self {
        let calls = Calls {
            made: Mutex::default(),
            fail_at: AtomicU64::new(u64::MAX),
            errno: AtomicI32::new(libc::EIO),
            keep: AtomicU64::new(FIRST_HALF),
            unreadable: Mutex::default(),
        };
        Self { real: RealDirectory::new(path), calls: Arc::new(calls) }
    }

    /// Lets the n-th modifying call from now on fail, from 0; it has no effect, except that a write leaves its first half.
    pub(crate) fn fail_nth(&self, n: u64) {
        self.calls.fail_at.store(self.calls() + n, Ordering::Relaxed);
    }

    /// Sets the error of failing calls, instead of EIO.
    pub(crate) fn fail_with(&self, errno: i32) {
        self.calls.errno.store(errno, Ordering::Relaxed);
    }

    /// Lets every read that touches these bytes of a file fail, until the file is replaced.
    pub(crate) fn make_unreadable(&self, name: &str, bytes: Range<u64>) {
        self.calls.unreadable.lock().unwrap().push((name.to_owned(), bytes));
    }

    /// Lets the next modifying call fail; a write leaves all but its first sector, as disks may do.
    pub(crate) fn tear_next_write_to_its_later_sectors(&self) {
        self.calls.keep.store(LATER_SECTORS, Ordering::Relaxed);
        self.fail_nth(0);
    }

    /// Lets the n-th modifying call from now on, if it is a write, write other bytes and succeed.
    pub(crate) fn flip_in_nth(&self, n: u64) {
        self.calls.keep.store(FLIPPED, Ordering::Relaxed);
        self.fail_nth(n);
    }

    /// Number of modifying calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.made.lock().unwrap().len() as u64
    }

    /// Number of calls of this kind so far.
    pub(crate) fn calls_of(&self, op: StorageOp) -> usize {
        self.calls.made.lock().unwrap().iter().filter(|made| made.0 == op).count()
    }

    /// Whether there was a rename, and every rename came after a sync of the file and before a sync of the directory.
    pub(crate) fn named_what_is_durable(&self) -> bool {
        let made = self.calls.made.lock().unwrap();
        let made: Vec<StorageOp> = made.iter().filter(|(_, is_of_parity)| !is_of_parity).map(|(op, _)| *op).collect();
        let renames = made.iter().filter(|&&op| op == StorageOp::Rename).count();
        let durable = made.windows(3).filter(|ops| **ops == [StorageOp::Sync, StorageOp::Rename, StorageOp::Sync]);
        renames > 0 && durable.count() == renames
    }
}

impl Calls {
    fn check(&self, op: StorageOp, path: &Path) -> Result<(), StorageError> {
        let mut made = self.made.lock().unwrap();
        let is_of_parity = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("parity-"));
        made.push((op, is_of_parity));
        if made.len() as u64 - 1 == self.fail_at.load(Ordering::Relaxed) {
            let source = io::Error::from_raw_os_error(self.errno.load(Ordering::Relaxed));
            return Err(StorageError { op, path: path.to_path_buf(), offset: None, source });
        }
        Ok(())
    }
}

impl Directory for FaultyDirectory {
    fn path(&self) -> &Path {
        self.real.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        let file = self.real.open(name, access)?;
        Ok(Box::new(FaultyFile { file, calls: Arc::clone(&self.calls) }))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        self.calls.check(StorageOp::Create, &self.path().join(name))?;
        let file = self.real.create(name)?;
        Ok(Box::new(FaultyFile { file, calls: Arc::clone(&self.calls) }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.calls.check(StorageOp::Rename, &self.path().join(from))?;
        self.calls.unreadable.lock().unwrap().retain(|(name, _)| name != to);
        self.real.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.calls.check(StorageOp::Remove, &self.path().join(name))?;
        self.real.remove(name)
    }

    fn link(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.calls.check(StorageOp::Link, &self.path().join(from))?;
        self.real.link(from, to)
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.real.list()
    }

    fn sync(&self) -> Result<(), StorageError> {
        // No power fails during a test, so a real sync would prove nothing.
        self.calls.check(StorageOp::Sync, self.path())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        self.real.lock(name)
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn StoredFile>,
    calls: Arc<Calls>,
}

impl StoredFile for FaultyFile {
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
        let is_unreadable = |(name, bytes): &(String, Range<u64>)| {
            self.path().file_name().is_some_and(|own| own.to_str() == Some(name))
                && offset < bytes.end
                && bytes.start < offset + buf.len() as u64
        };
        if self.calls.unreadable.lock().unwrap().iter().any(is_unreadable) {
            let (op, path, source) = (StorageOp::Read, self.path().to_owned(), io::Error::from_raw_os_error(libc::EIO));
            return Err(StorageError { op, path, offset: Some(offset), source });
        }
        self.file.read_at(buf, offset)
    }

    fn set_modified(&self, modified: (i64, i64)) -> Result<(), StorageError> {
        self.file.set_modified(modified)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        if let Err(error) = self.calls.check(StorageOp::Write, self.path()) {
            match self.calls.keep.load(Ordering::Relaxed) {
                FLIPPED => {
                    let mut flipped = bytes.to_vec();
                    flipped[bytes.len() / 2] ^= 1;
                    return self.file.write_at(&flipped, offset);
                }
                LATER_SECTORS => {
                    let skipped = SECTOR - usize::try_from(offset).unwrap() % SECTOR;
                    if let Some(later) = bytes.get(skipped..) {
                        self.file.write_at(later, offset + skipped as u64)?;
                    }
                }
                _ => self.file.write_at(&bytes[..bytes.len() / 2], offset)?,
            }
            return Err(error);
        }
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.calls.check(StorageOp::Sync, self.path())
    }
}

//! Storage: the only module that makes file system calls for a backup directory.
//!
//! All other modules use [`Directory`] and [`StoredFile`], so that tests can substitute a directory that fails, tears writes or
//! loses what was not synced. A backup directory is flat: its interface takes names, never paths.

pub(crate) mod boot;
pub(crate) mod causes;
mod deadline;
#[cfg(test)]
pub(crate) mod faulty;
mod free_space;
pub mod lru;
#[cfg(test)]
#[cfg(feature = "shuttle")]
pub(crate) mod modelled;
pub(crate) mod owner;
pub(crate) mod read_error;
mod real;
pub mod regular_file;
pub mod small_file;
mod staging;
mod trouble;
pub(crate) mod unfinished;
pub(crate) mod unused_name;
mod watched;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::read_error::ReadError;

pub(crate) use deadline::DeadlineDirectory;
pub use free_space::FreeSpace;
pub use real::RealDirectory;
pub(crate) use staging::StagingDirectory;
pub use trouble::Trouble;
pub use watched::InFlightCalls;
pub(crate) use watched::WatchedDirectory;

/// A failed file system call.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {path}{}{}", AtByte(*.offset), WayOut(.source), path = .path.display())]
pub struct StorageError {
    /// The call.
    pub op: StorageOp,
    /// The file or directory.
    pub path: PathBuf,
    /// Byte of the file at which the call began, for reads and writes.
    pub offset: Option<u64>,
    /// Error of the operating system.
    #[source]
    pub source: io::Error,
}

impl StorageError {
    /// Whether the file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Formats " at byte N", or nothing.
struct AtByte(Option<u64>);

impl fmt::Display for AtByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |offset| write!(f, " at byte {offset}"))
    }
}

/// Formats what to do, where the operating system's message does not tell; or nothing.
struct WayOut<'a>(&'a io::Error);

impl fmt::Display for WayOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            io::ErrorKind::FileTooLarge => {
                f.write_str(", because the size of files is limited (raise `ulimit -f`, or LimitFSIZE= of the service)")
            }
            _ => Ok(()),
        }
    }
}

/// The calls of the interface, with their names for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the call of its name")]
pub enum StorageOp {
    Open,
    Create,
    Read,
    Write,
    Measure,
    Sync,
    Rename,
    Link,
    Remove,
    List,
    Lock,
    FreeSpace,
}

impl fmt::Display for StorageOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::Measure => "get the length of",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Link => "make a hard link to",
            Self::Remove => "remove",
            Self::List => "list",
            Self::Lock => "lock",
            Self::FreeSpace => "get the free space of",
        })
    }
}

/// Access mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A backup directory.
pub trait Directory: fmt::Debug + Send + Sync {
    /// Path of the directory.
    fn path(&self) -> &Path;

    /// Opens an existing regular file. Links are not followed and a FIFO does not block: both are errors.
    ///
    /// # Errors
    /// When it is absent, not a regular file, or not accessible.
    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError>;

    /// Creates a new file with mode 0600, for reading and writing. When root creates it, it belongs to the owner of the
    /// directory.
    ///
    /// # Errors
    /// When the name exists already.
    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError>;

    /// Renames `from` to `to`, replacing `to`. Durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the operating system refuses.
    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError>;

    /// Gives a file a second name, which must be free. Durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the operating system refuses: not every file system has hard links.
    fn link(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let (_, path) = (to, self.path().join(from));
        Err(StorageError { op: StorageOp::Link, path, offset: None, source: io::ErrorKind::Unsupported.into() })
    }

    /// Removes a file. Durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the operating system refuses.
    fn remove(&self, name: &str) -> Result<(), StorageError>;

    /// The names in the directory, unordered; names that are not UTF-8 are foreign and left out.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> Result<Vec<String>, StorageError>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// When the operating system refuses; what is durable is then unknown.
    fn sync(&self) -> Result<(), StorageError>;

    /// Takes the exclusive lock on a file, without waiting; dropping the returned value releases it.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when another process has the lock.
    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError>;

    /// Whether each read has a long way, so that it is worth while to say beforehand what will be read.
    fn is_far(&self) -> bool {
        false
    }

    /// Reads ahead what is going to be read, in a directory that [is far](Self::is_far); elsewhere does nothing. Returns when that is
    /// done. What cannot be read ahead is not reported: the read of it fails.
    fn will_need(&self, wanted: &[Wanted]) {
        let _ = wanted;
    }

    /// Whether the records may end with a segment. A recorder always leaves a log behind it; a copy has one only once its first record
    /// was copied.
    fn may_end_sealed(&self) -> bool {
        false
    }

    /// A handle for background work, for a thread that holds the lock: its calls have no deadline and never block foreground
    /// calls. `None` when calls do not block each other.
    fn background(&self) -> Option<Arc<dyn Directory>> {
        None
    }

    /// The directory below one whose files are mended in memory: there the damage is seen.
    fn unhealed(&self) -> Option<Arc<dyn Directory>> {
        None
    }

    /// The damaged blocks of files that parity has mended in memory so far, in order.
    fn healed(&self) -> Vec<Healed> {
        Vec::new()
    }

    /// Adds a block to [`healed`](Self::healed) that was found damaged without being read for its contents.
    fn note_healed(&self, block: Healed) {
        let _ = block;
    }

    /// Takes back what [`healed`](Self::healed) says of a file, which is whole on the disk now.
    fn forget_healed(&self, name: &str) {
        let _ = name;
    }

    /// Takes over a file that was opened by way of [`background`](Self::background): from now on calls to it are as those to any
    /// other file of this directory.
    fn foreground(&self, file: Box<dyn StoredFile>) -> Box<dyn StoredFile> {
        file
    }
}

/// A damaged block of a file that parity has mended in memory. It is still damaged on the disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Healed {
    /// Name of the file.
    pub name: String,
    /// Byte of the file that the block begins with.
    pub offset: u64,
}

/// Bytes of a file that are going to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the file.
    pub name: String,
    /// The range of bytes.
    pub range: Range<u64>,
}

/// Length and modification time of a file: both stay the same while the file is not written to. Device and inode are not used:
/// they can differ each time a file is opened, over SSH for instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Length in bytes.
    pub len: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
}

/// A file of a backup directory.
pub trait StoredFile: fmt::Debug + Send + Sync {
    /// Path of the file.
    fn path(&self) -> &Path;

    /// Length in bytes.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn read_len(&self) -> Result<u64, StorageError>;

    /// Length and modification time; `None` where they are unknown.
    fn stamp(&self) -> Option<Stamp> {
        None
    }

    /// Sets the modification time, to seconds and nanoseconds as in a [`Stamp`].
    ///
    /// # Errors
    /// When the operating system refuses.
    fn set_modified(&self, modified: (i64, i64)) -> Result<(), StorageError> {
        let _ = modified;
        Ok(())
    }

    /// Checks that the file still has its name. Writes to a file that was moved or deleted are lost.
    ///
    /// # Errors
    /// When another file or none has the name, or that cannot be determined.
    fn check_in_place(&self) -> Result<(), StorageError>;

    /// Reads into `buf` from `offset` on and returns the number of bytes; fewer than requested only at the end of the file.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError>;

    /// Writes all of `bytes` at `offset`. Durable only after a sync.
    ///
    /// # Errors
    /// When the operating system refuses; any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError>;

    /// Makes contents and length durable (fdatasync).
    ///
    /// # Errors
    /// When the operating system refuses; what is durable is then unknown, and a second call proves nothing.
    fn sync(&self) -> Result<(), StorageError>;

    /// Asks the operating system to drop what it has cached of the file, so that the next read is one of the disk. What is not written
    /// yet stays, as does what another process has mapped.
    fn forget_cached(&self) {
        self.forget_cached_before(u64::MAX);
    }

    /// The same for the bytes before `end`.
    fn forget_cached_before(&self, end: u64) {
        let _ = end;
    }

    /// Looks whether these bytes are damaged in a way that parity mends. If so, they are read as they were from now on.
    fn heal(&self, bytes: &Range<u64>) -> bool {
        let _ = bytes;
        false
    }
}

/// Reads a part of a file, and once more if it was damaged and parity has mended `bytes`, which must cover that part.
pub(crate) fn read_healing<T>(
    file: &dyn StoredFile,
    bytes: &Range<u64>,
    mut read: impl FnMut() -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    match read() {
        Err(ReadError::Damaged { .. }) if file.heal(bytes) => read(),
        read => read,
    }
}

/// All bytes of a file, whatever its length.
pub(crate) const WHOLE_FILE: Range<u64> = 0..u64::MAX;

/// Reads exactly `buf.len()` bytes; `Ok(false)` when the file ends first.
pub(crate) fn read_exact_at(file: &dyn StoredFile, buf: &mut [u8], offset: u64) -> Result<bool, StorageError> {
    Ok(file.read_at(buf, offset)? == buf.len())
}

/// Suffix of the names of unfinished files; the holder of the lock removes them.
pub(crate) const TEMPORARY_ENDING: &str = ".tmp";

/// Replaces a whole small file: after any crash the name has the old bytes or the new ones.
pub(crate) fn replace_file(directory: &dyn Directory, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = format!("{name}{TEMPORARY_ENDING}");
    remove_if_present(directory, &temporary)?;
    let file = directory.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    directory.rename(&temporary, name)?;
    directory.sync()
}

/// Bytes per write, sync and read. A call's duration is then bounded, and a call that takes long is one that hangs. Nearly all
/// records are one step.
const STEP: usize = 16 << 20;

/// Writes and syncs: with one call each, unless there are very many bytes. As with a single write, a power cut leaves any part of
/// them.
pub(crate) fn write_durably(file: &dyn StoredFile, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
    for (step, bytes) in (0_u64..).zip(bytes.chunks(STEP)) {
        file.write_at(bytes, offset + step * STEP as u64)?;
        file.sync()?;
    }
    Ok(())
}

/// Extends `buffer`, which has the bytes of the file from `offset` on, until it has `wanted` bytes or the file ends. Nothing is
/// allocated beyond the end of the file.
pub(crate) fn read_on(
    file: &dyn StoredFile,
    buffer: &mut Vec<u8>,
    offset: u64,
    wanted: usize,
) -> Result<(), StorageError> {
    while let Some(missing) = wanted.checked_sub(buffer.len()).filter(|&missing| missing > 0) {
        let (have, step) = (buffer.len(), missing.min(STEP));
        if buffer.capacity() < have + step {
            buffer.reserve_exact(step.max(have / 4));
        }
        buffer.resize(have + step, 0);
        let read = file.read_at(&mut buffer[have..], offset + have as u64);
        buffer.truncate(have + *read.as_ref().unwrap_or(&0));
        if read? < step {
            break;
        }
    }
    Ok(())
}

/// Rewrites the same bytes in a range of a file: bytes that a failed sync left only in memory reach the disk when the caller
/// syncs again.
pub(crate) fn write_again(file: &dyn StoredFile, range: Range<u64>) -> Result<(), StorageError> {
    let mut bytes = Vec::new();
    for offset in range.clone().step_by(STEP) {
        bytes.clear();
        let len = usize::try_from(range.end - offset).unwrap_or(STEP).min(STEP);
        read_on(file, &mut bytes, offset, len)?;
        sync_between_steps(file, &range, offset)?;
        file.write_at(&bytes, offset)?;
    }
    Ok(())
}

/// Syncs before the write at `offset`, unless it is the first of `range`, so that no sync covers more than one step.
fn sync_between_steps(file: &dyn StoredFile, range: &Range<u64>, offset: u64) -> Result<(), StorageError> {
    let done = offset - range.start;
    if done > 0 && done.is_multiple_of(STEP as u64) { file.sync() } else { Ok(()) }
}

/// Writes zeros to a range of a file. The caller syncs it.
pub(crate) fn fill_with_zeros(file: &dyn StoredFile, range: Range<u64>) -> Result<(), StorageError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    for offset in range.clone().step_by(ZEROS.len()) {
        sync_between_steps(file, &range, offset)?;
        let len = usize::try_from(range.end - offset).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_at(&ZEROS[..len], offset)?;
    }
    Ok(())
}

/// Removes a file; a missing file is no error.
pub(crate) fn remove_if_present(directory: &dyn Directory, name: &str) -> Result<(), StorageError> {
    match directory.remove(name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::faulty::FaultyDirectory;
    use super::*;

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDirectory::new(dir.path()).create("log").unwrap();
        file.write_at(&[7; 1000], 0).unwrap();
        let mut bytes = Vec::new();
        read_on(&*file, &mut bytes, 100, usize::MAX / 2).unwrap();
        assert_eq!(bytes, [7; 900]);
        assert!(bytes.capacity() <= STEP, "{} bytes", bytes.capacity());
        read_on(&*file, &mut bytes, 100, 800).unwrap();
        assert_eq!(bytes.len(), 900, "what is there stays");
    }

    #[test]
    fn very_many_bytes_are_written_and_read_in_steps() {
        let dir = tempfile::tempdir().unwrap();
        let faulty = FaultyDirectory::new(dir.path());
        let file = faulty.create("log").unwrap();
        let bytes: Vec<u8> = (0..2 * STEP + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for (written, steps) in [(&bytes[..STEP], 1), (&bytes[..], 3)] {
            let before = faulty.calls();
            write_durably(&*file, written, 3).unwrap();
            assert_eq!(faulty.calls() - before, 2 * steps, "a write and a sync for each step");
            let mut read = Vec::new();
            read_on(&*file, &mut read, 3, written.len()).unwrap();
            assert!(read == written);
        }
        write_again(&*file, 3..3 + bytes.len() as u64).unwrap();
        let mut read = Vec::new();
        read_on(&*file, &mut read, 3, bytes.len()).unwrap();
        assert!(read == bytes);
        fill_with_zeros(&*file, 4..3 + bytes.len() as u64).unwrap();
        let mut read = Vec::new();
        read_on(&*file, &mut read, 3, bytes.len()).unwrap();
        assert!(read[0] == 0 && read[1..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_replaced_file_is_durable_before_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let faulty = FaultyDirectory::new(dir.path());
        replace_file(&faulty, "manifest", b"new").unwrap();
        assert!(faulty.named_what_is_durable());
    }
}

//! The storage seam: the only place that makes file system calls for a backup directory.
//!
//! Everything above it works on [`Directory`] and [`StoredFile`], so that tests can put a directory underneath that
//! fails, tears writes or loses what was not synced. A backup directory is flat: names, never paths, go through here.

pub(crate) mod boot;
mod deadline;
#[cfg(test)]
pub(crate) mod faulty;
mod free_space;
pub(crate) mod lru;
pub(crate) mod owner;
pub(crate) mod read_error;
mod real;
pub(crate) mod regular_file;
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

pub(crate) use deadline::DeadlineDirectory;
pub use free_space::FreeSpace;
pub use real::RealDirectory;
pub(crate) use staging::StagingDirectory;
pub use trouble::Trouble;
pub use watched::InFlightCalls;
pub(crate) use watched::WatchedDirectory;

/// A file system call that failed: which one, on what, where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {path}{}{}", AtByte(*.offset), WayOut(.source), path = .path.display())]
pub struct StorageError {
    /// The call.
    pub op: StorageOp,
    /// The file or directory.
    pub path: PathBuf,
    /// Byte of the file at which the call began, for reads and writes.
    pub offset: Option<u64>,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

impl StorageError {
    /// Whether the file or directory was not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Says " at byte N", or nothing.
struct AtByte(Option<u64>);

impl fmt::Display for AtByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |offset| write!(f, " at byte {offset}"))
    }
}

/// Says what to do where what the operating system says does not tell, or nothing.
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

/// The calls of the seam, as words for messages.
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
            Self::Remove => "remove",
            Self::List => "list",
            Self::Lock => "lock",
            Self::FreeSpace => "get the free space of",
        })
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A backup directory.
pub trait Directory: fmt::Debug + Send + Sync {
    /// Where it is.
    fn path(&self) -> &Path;

    /// Opens an existing regular file. Links are not followed and a FIFO does not block: both are errors.
    ///
    /// # Errors
    /// When it is absent, not a regular file, or not accessible.
    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError>;

    /// Creates a new file with mode 0600, for reading and writing. It belongs to the owner of the directory, when root makes it.
    ///
    /// # Errors
    /// When the name exists already.
    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError>;

    /// Renames `from` to `to`, replacing `to`. Durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the operating system refuses.
    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError>;

    /// Removes a file. Durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the operating system refuses.
    fn remove(&self, name: &str) -> Result<(), StorageError>;

    /// The names in the directory, in no order; names that are not UTF-8 are none of ours and left out.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> Result<Vec<String>, StorageError>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// When the operating system refuses; what is durable is then unknown.
    fn sync(&self) -> Result<(), StorageError>;

    /// Takes the exclusive lock on a file, without waiting; it is held until the returned value is dropped.
    ///
    /// # Errors
    /// Kind [`WouldBlock`](io::ErrorKind::WouldBlock) when somebody else holds it.
    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError>;

    /// The same directory for a thread of its own, which holds the lock and may wait for as long as a call takes: what it does
    /// holds up no call that is made here. `None` when calls that are made here do not wait for each other anyway.
    fn background(&self) -> Option<Arc<dyn Directory>> {
        None
    }

    /// Takes over a file that was opened by way of [`background`](Self::background): from now on calls to it are as those to any
    /// other file of this directory.
    fn foreground(&self, file: Box<dyn StoredFile>) -> Box<dyn StoredFile> {
        file
    }
}

/// The length of a file, and when it was written to last, in nanoseconds: both stay the same for as long as nobody writes to
/// it. What identifies a file to the system may be another number each time it is opened, over SSH for instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub len: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
}

/// A file of a backup directory.
pub trait StoredFile: fmt::Debug + Send + Sync {
    /// Where it is.
    fn path(&self) -> &Path;

    /// Its length in bytes.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn read_len(&self) -> Result<u64, StorageError>;

    /// What it looks like from outside; `None` where that is not known.
    fn stamp(&self) -> Option<Stamp> {
        None
    }

    /// Whether its name still stands for it. Once it was moved or deleted, what is written to it is found by nobody.
    ///
    /// # Errors
    /// When it does not, or that cannot be found out.
    fn check_in_place(&self) -> Result<(), StorageError>;

    /// Fills `buf` from `offset` on and returns how many bytes there were: fewer than asked only at the end of the file.
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
}

/// Reads exactly `buf.len()` bytes; `Ok(false)` when the file ends first.
pub(crate) fn read_exact_at(file: &dyn StoredFile, buf: &mut [u8], offset: u64) -> Result<bool, StorageError> {
    Ok(file.read_at(buf, offset)? == buf.len())
}

/// Ending of the names of files that are not finished; whoever holds the lock removes them.
pub(crate) const TEMPORARY_ENDING: &str = ".tmp";

/// Writes a whole small file so that after any crash the name holds the old bytes or the new ones.
pub(crate) fn replace_file(directory: &dyn Directory, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = format!("{name}{TEMPORARY_ENDING}");
    remove_if_present(directory, &temporary)?;
    let file = directory.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    directory.rename(&temporary, name)?;
    directory.sync()
}

/// Bytes that are written before they are synced, and read in one call: no call takes longer for more of them, and one that
/// takes long is one that hangs. Nearly all records are one step.
const STEP: usize = 16 << 20;

/// Writes to a file and syncs it: with one call each, unless that would be very many bytes. A power cut leaves then, as of a
/// write in one call, a part of them.
pub(crate) fn write_durably(file: &dyn StoredFile, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
    for (step, bytes) in (0_u64..).zip(bytes.chunks(STEP)) {
        file.write_at(bytes, offset + step * STEP as u64)?;
        file.sync()?;
    }
    Ok(())
}

/// Reads on at the end of `buffer`, which holds what the file has from `offset` on, until it holds as much as `wanted` or the
/// file ends. Whatever `wanted` says, nothing is allocated for what is not there.
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

/// Writes the same bytes again to a stretch of a file: what a failed sync has left in memory alone is on the disk when the
/// caller has synced it.
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

/// No sync has more than a step to do: this one is made before the write at `offset`, a whole number of steps behind the
/// first of `range`.
fn sync_between_steps(file: &dyn StoredFile, range: &Range<u64>, offset: u64) -> Result<(), StorageError> {
    let done = offset - range.start;
    if done > 0 && done.is_multiple_of(STEP as u64) { file.sync() } else { Ok(()) }
}

/// Writes zeros to a stretch of a file. The caller syncs it.
pub(crate) fn fill_with_zeros(file: &dyn StoredFile, range: Range<u64>) -> Result<(), StorageError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    for offset in range.clone().step_by(ZEROS.len()) {
        sync_between_steps(file, &range, offset)?;
        let len = usize::try_from(range.end - offset).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_at(&ZEROS[..len], offset)?;
    }
    Ok(())
}

/// Removes a file; one that is not there is as good as removed.
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

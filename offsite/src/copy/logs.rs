//! [`AssembledLog`]: a log put together from the objects that its bytes were shipped in.
//!
//! Runs follow each other, and what a later one shipped counts from its first byte on: after a power cut a node may have lost
//! records that were shipped, and used their seqs for others.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use common::storage::{Stamp, StorageError, StorageOp, StoredFile};
use format::log_header::{LOG_HEADER_LEN, LogHeader};

use crate::copy::at_once::at_once;
use crate::copy::chunks::Chunks;
use crate::copy_error::CopyError;
use crate::log_bytes::LogBytes;
use crate::objects::{Object, Run, Tail};

/// The maximum length of a log that is put together in memory: one batch of the longest record, and what a log has otherwise.
const LEN_MAX: u64 = (1 << 30) + (64 << 20);

/// The number of objects that are held in memory until they are added.
const FETCHED_AT_ONCE: usize = 64;

/// The bytes of a file in memory.
#[derive(Debug, Default)]
pub struct LogContent {
    bytes: Vec<u8>,
    /// The number of bytes up to the end of the last whole record. Those behind it are not shown yet.
    whole: usize,
    /// The length of the file: behind the bytes are zeros.
    len: u64,
}

impl LogContent {
    /// A file of exactly these bytes.
    pub fn fixed(bytes: Vec<u8>) -> Self {
        let (len, whole) = (bytes.len() as u64, bytes.len());
        Self { bytes, whole, len }
    }

    /// Sets the length that a log with these bytes has: a multiple of the unit in its header, at least one byte more.
    fn fill_up(&mut self) {
        let header = self.bytes.first_chunk::<LOG_HEADER_LEN>().and_then(|header| LogHeader::decode(header).ok());
        let have = self.whole as u64;
        // Without a header that can be read, the reader of the log finds out what is wrong.
        self.len = header.and_then(|header| (have + 1).checked_next_multiple_of(header.unit)).unwrap_or(have);
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let left = self.len.saturating_sub(offset);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let stored = self.bytes.get(offset..self.whole).unwrap_or_default();
        let copied = stored.len().min(wanted);
        buf[..copied].copy_from_slice(&stored[..copied]);
        buf[copied..wanted].fill(0);
        wanted
    }
}

/// What an object added to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Added {
    /// Bytes, or another end.
    New,
    /// Nothing: all of it was known.
    Known,
}

/// A log as far as it was shipped.
#[derive(Debug)]
pub struct AssembledLog {
    first: u64,
    next_seq: u64,
    content: Arc<RwLock<LogContent>>,
    /// The object that was added last.
    last: Option<Tail>,
    /// The epoch that shipped its last bytes.
    epoch: u32,
    /// When that was shipped, in microseconds since 1970.
    shipped_at: Option<i64>,
}

impl AssembledLog {
    /// The log that begins with this record, without any bytes.
    pub fn new(first: u64) -> Self {
        Self { first, next_seq: first, content: Arc::default(), last: None, epoch: 0, shipped_at: None }
    }

    /// Seq of its first record.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Seq behind its last whole record.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The epoch that shipped its last bytes.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The newest run that shipped bytes of it.
    pub fn run(&self) -> Option<Run> {
        self.last.map(|tail| tail.run)
    }

    /// When its newest bytes were shipped, in microseconds since 1970.
    pub fn shipped_at(&self) -> Option<i64> {
        self.shipped_at
    }

    /// Whether it has no whole record.
    pub fn is_empty(&self) -> bool {
        self.next_seq == self.first
    }

    /// Its bytes.
    pub fn content(&self) -> &Arc<RwLock<LogContent>> {
        &self.content
    }

    /// Adds the objects that are new. Those of epochs before `epoch` do not count: they followed records that were lost.
    ///
    /// # Errors
    /// When an object is missing among others, or cannot be read. What was added before stays.
    pub fn read_new(&mut self, chunks: &Chunks, epoch: u32) -> Result<(), CopyError> {
        let mut tails = Vec::new();
        for listed in chunks.store().list(&Object::tails_of(self.first))? {
            if let Some(Object::Tail(tail)) = Object::parse(&listed.name)
                && tail.log == self.first
                && tail.run.epoch >= epoch
            {
                tails.push(tail);
            }
        }
        tails.sort_unstable();
        let (new, missing) = self.new_tails(tails);
        for some in new.chunks(FETCHED_AT_ONCE) {
            let fetched = at_once(some, |&tail| {
                let name = Object::Tail(tail).to_string();
                LogBytes::decode(&name, &chunks.whole(&name)?).map(|piece| (name, piece))
            });
            for (&tail, fetched) in some.iter().zip(fetched) {
                let (name, piece) = fetched?;
                if self.add(&name, &piece)? == Added::New {
                    self.epoch = tail.run.epoch;
                }
                self.last = Some(tail);
            }
        }
        missing.map_or(Ok(()), |missing| {
            let name = Object::Tail(missing).to_string();
            Err(CopyError::Damaged { name, reason: "it is missing, but later ones exist" })
        })
    }

    /// The objects of these, ascending, that were not added yet, up to the first one that is missing, and that one.
    fn new_tails(&self, tails: Vec<Tail>) -> (Vec<Tail>, Option<Tail>) {
        let (mut new, mut expected) = (Vec::new(), None::<(Run, u32)>);
        for tail in tails {
            let number = expected.filter(|(run, _)| *run == tail.run).map_or(0, |(_, number)| number);
            if tail.number != number {
                return (new, Some(Tail { number, ..tail }));
            }
            expected = Some((tail.run, number + 1));
            if self.last.is_none_or(|last| tail > last) {
                new.push(tail);
            }
        }
        (new, None)
    }

    fn add(&mut self, name: &str, piece: &LogBytes) -> Result<Added, CopyError> {
        let damaged = |reason| CopyError::Damaged { name: name.to_owned(), reason };
        if piece.log != self.first || piece.next_seq < self.first {
            return Err(damaged("it has bytes of another log"));
        }
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let have = content.bytes.len() as u64;
        if piece.offset > have {
            return Err(damaged("bytes before it are missing"));
        }
        if piece.offset.saturating_add(piece.bytes.len() as u64) > LEN_MAX {
            return Err(damaged("it makes the log longer than any log"));
        }
        let offset = usize::try_from(piece.offset).unwrap_or(usize::MAX);
        let replaced = content.bytes.get(offset..).unwrap_or_default();
        let same = replaced.iter().zip(&piece.bytes).all(|(before, now)| before == now);
        // What was shipped before and once more, in part: what followed it stays.
        if same && !piece.bytes.is_empty() && piece.bytes.len() <= replaced.len() {
            return Ok(Added::Known);
        }
        if !same {
            log::warn!(
                "{name}: records that were shipped before were lost on the node, and others took their places; the copy shows \
                 what the node went on with"
            );
        }
        content.bytes.truncate(offset);
        content.bytes.extend_from_slice(&piece.bytes);
        let known = if offset < content.whole { self.first } else { self.next_seq };
        if piece.next_seq != known || piece.bytes.is_empty() {
            content.whole = content.bytes.len();
        } else {
            content.whole = content.whole.min(offset);
        }
        content.fill_up();
        drop(content);
        self.next_seq = piece.next_seq;
        self.shipped_at = Some(piece.time);
        Ok(Added::New)
    }
}

/// A file in memory, opened.
#[derive(Debug)]
pub struct BytesFile {
    path: PathBuf,
    content: Arc<RwLock<LogContent>>,
}

impl BytesFile {
    /// Opens it under this path.
    pub fn new(path: PathBuf, content: Arc<RwLock<LogContent>>) -> Self {
        Self { path, content }
    }
}

impl StoredFile for BytesFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        Ok(self.content.read().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn stamp(&self) -> Option<Stamp> {
        None
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        Ok(self.content.read().unwrap_or_else(PoisonError::into_inner).read_at(buf, offset))
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> Result<(), StorageError> {
        Err(super::object_file::read_only(StorageOp::Write, &self.path))
    }

    fn sync(&self) -> Result<(), StorageError> {
        Err(super::object_file::read_only(StorageOp::Sync, &self.path))
    }
}

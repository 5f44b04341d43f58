//! Writing a segment, block by block, under a temporary name until it is complete.

use super::SegmentFile;
use crate::storage::read_error::ReadError;
use crate::storage::{Directory, StorageError, StoredFile, TEMPORARY_ENDING, remove_if_present};
use format::names;
use format::segment::{BLOCK_HEADER_LEN, BlockHandle, Location, SEGMENT_HEADER_LEN, SegmentFooter, SegmentHeader};

/// Size of the write buffer.
const BUFFER: usize = 1 << 20;

/// A segment being written. It has a temporary name until [`publish`](CompleteSegment::publish) returns; a crash before that
/// leaves the temporary file, which the next holder of the lock removes, and the log.
#[derive(Debug)]
pub(crate) struct SegmentWriter<'a> {
    directory: &'a dyn Directory,
    header: SegmentHeader,
    file: Box<dyn StoredFile>,
    buffer: Vec<u8>,
    /// Offset of `buffer` in the file.
    written: u64,
}

impl<'a> SegmentWriter<'a> {
    /// Creates the file of the segment that `header` describes.
    pub(crate) fn create(directory: &'a dyn Directory, header: SegmentHeader) -> Result<Self, StorageError> {
        let temporary = temporary_name(&header);
        remove_if_present(directory, &temporary)?;
        let file = directory.create(&temporary)?;
        let buffer = header.encode().to_vec();
        Ok(Self { directory, header, file, buffer, written: 0 })
    }

    /// Header of the segment.
    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Adds a block.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Location, StorageError> {
        let offset = self.written + self.buffer.len() as u64;
        let len = u32::try_from(bytes.len()).expect("BUG: a block is at most BLOCK_LEN_MAX bytes");
        self.buffer.extend_from_slice(&self.header.block_checksum(offset, bytes).to_le_bytes());
        if bytes.len() >= BUFFER {
            self.flush()?;
            self.file.write_at(bytes, self.written)?;
            self.written += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(Location { segment: self.header.first_seq, block: BlockHandle { offset, len } })
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Removes an incomplete file: the disk may be full.
    pub(crate) fn abandon(directory: &dyn Directory, header: &SegmentHeader) {
        let temporary = temporary_name(header);
        if let Err(error) = remove_if_present(directory, &temporary) {
            log::warn!("{error}: {}; it is of no use and takes room until the next start", error.source);
        }
    }

    /// Completes the file and makes it durable, still under its temporary name, so that it can be read back.
    pub(crate) fn complete(mut self, footer: &SegmentFooter) -> Result<CompleteSegment<'a>, ReadError> {
        debug_assert!(self.written + self.buffer.len() as u64 >= (SEGMENT_HEADER_LEN + BLOCK_HEADER_LEN) as u64);
        self.buffer.extend_from_slice(&footer.encode());
        self.flush()?;
        self.file.sync()?;
        let (name, SegmentHeader { uuid, first_seq, .. }) = (temporary_name(&self.header), self.header);
        let file = SegmentFile::open_named(self.directory, &name, uuid, first_seq)?;
        Ok(CompleteSegment { directory: self.directory, file })
    }
}

/// A complete and durable segment under a temporary name.
#[derive(Debug)]
pub(crate) struct CompleteSegment<'a> {
    directory: &'a dyn Directory,
    file: SegmentFile,
}

impl CompleteSegment<'_> {
    /// The open file.
    pub(crate) fn file(&self) -> &SegmentFile {
        &self.file
    }

    /// Renames the file durably.
    pub(crate) fn publish(self) -> Result<(), StorageError> {
        let header = self.file.header();
        self.directory.rename(&temporary_name(header), &names::segment(header.first_seq))?;
        self.directory.sync()
    }
}

fn temporary_name(header: &SegmentHeader) -> String {
    format!("{}{TEMPORARY_ENDING}", names::segment(header.first_seq))
}

//! An open segment, whole or pruned.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::storage::read_error::ReadError;
use crate::storage::{
    Access, Directory, Stamp, StorageError, StorageOp, StoredFile, WHOLE_FILE, read_exact_at, read_healing,
};
use format::pruned::{PrunedBlock, PrunedSegment};
use format::read_sets::{READ_SETS_LEN_MAX, ReadSets};
use format::record_index::{INDEX_LEN_MAX, RecordIndex};
use format::segment::{
    BLOCK_HEADER_LEN, BLOCK_LEN_MAX, BlockHandle, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFooter, SegmentHeader,
};
use format::units::Seq;
use format::{Damage, frames, names};

thread_local! {
    /// Read buffer of a thread.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A callback for a block and its bytes.
type TakeBlock<'a> = dyn FnMut(BlockHandle, &[u8]) -> Result<(), ReadError> + 'a;

/// Maximum capacity of a buffer that is kept.
const BUFFER_KEPT_MAX: usize = 1 << 20;

/// A sealed segment. Opening reads header and footer; blocks are read and checked on demand.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    file: Arc<dyn StoredFile>,
    header: SegmentHeader,
    footer: SegmentFooter,
    footer_offset: u64,
    held: Held,
    /// Length and modification time when the file was opened: a segment is never modified.
    stamp: Option<Stamp>,
}

/// Identity of a segment. The checksum of its footer covers that of its last record, which covers all records before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Stamp of its file, if it has its own.
    stamp: Option<Stamp>,
    footer_checksum: u32,
}

impl Mark {
    /// Whether both are the same segment, which a compaction may have moved to `pruned` in between.
    pub(crate) fn is_same(self, other: Self) -> bool {
        let (own, others) = (self.stamp, other.stamp);
        self.footer_checksum == other.footer_checksum && (own.is_none() || others.is_none() || own == others)
    }
}

/// The part of a segment that exists.
#[derive(Debug)]
enum Held {
    /// The whole segment, in its own file.
    Whole,
    /// Blocks in the file `pruned`. The path is that of the dropped file.
    Pruned { blocks: Vec<PrunedBlock>, was: PathBuf },
}

impl SegmentFile {
    /// Opens the segment that begins with `first_seq`.
    pub(crate) fn open(directory: &dyn Directory, uuid: Uuid, first_seq: Seq) -> Result<Self, ReadError> {
        Self::open_named(directory, &names::segment(first_seq), uuid, first_seq)
    }

    /// Like [`open`](Self::open), for a file that may have a temporary name.
    pub(crate) fn open_named(
        directory: &dyn Directory,
        name: &str,
        uuid: Uuid,
        first_seq: Seq,
    ) -> Result<Self, ReadError> {
        let file = directory.open(name, Access::Read)?;
        let frame = || Self::read_frame(&*file, uuid, first_seq);
        let (header, footer, footer_offset) = read_healing(&*file, &WHOLE_FILE, frame)?;
        let stamp = file.stamp();
        Ok(Self { file: Arc::from(file), header, footer, footer_offset, held: Held::Whole, stamp })
    }

    /// Reads header and footer, and the offset of the latter.
    fn read_frame(
        file: &dyn StoredFile,
        uuid: Uuid,
        first_seq: Seq,
    ) -> Result<(SegmentHeader, SegmentFooter, u64), ReadError> {
        let file_len = file.read_len()?;
        let damaged = |offset, damage| ReadError::damaged(file.path(), offset, damage);
        let short = || {
            let have = usize::try_from(file_len).unwrap_or(usize::MAX);
            damaged(0, Damage::Short { have, want: SEGMENT_HEADER_LEN + SEGMENT_FOOTER_LEN })
        };
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        if !read_exact_at(file, &mut bytes, 0)? {
            return Err(short());
        }
        let footer_offset = file_len.checked_sub(SEGMENT_FOOTER_LEN as u64).ok_or_else(short)?;
        let mut footer = [0; SEGMENT_FOOTER_LEN];
        if !read_exact_at(file, &mut footer, footer_offset)? {
            return Err(short());
        }
        let (header, footer) = decode_frame(&bytes, &footer, uuid, first_seq)
            .map_err(|(is_footer, damage)| damaged(if is_footer { footer_offset } else { 0 }, damage))?;
        Ok((header, footer, footer_offset))
    }

    /// The pruned segment that begins with `first_seq`, at byte `offset` of `file`.
    pub(crate) fn pruned(
        directory: &dyn Directory,
        file: Arc<dyn StoredFile>,
        (offset, pruned): (u64, PrunedSegment),
        uuid: Uuid,
        first_seq: Seq,
    ) -> Result<Self, ReadError> {
        let (header, footer) = decode_frame(&pruned.header, &pruned.footer, uuid, first_seq)
            .map_err(|(_, damage)| ReadError::damaged(file.path(), offset, damage))?;
        let held = Held::Pruned { blocks: pruned.blocks, was: directory.path().join(names::segment(first_seq)) };
        let stamp = file.stamp();
        Ok(Self { file, header, footer, footer_offset: offset, held, stamp })
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Identity of the segment.
    pub(crate) fn mark(&self) -> Mark {
        let stamp = self.stamp.filter(|_| matches!(self.held, Held::Whole));
        let footer_checksum = self.footer.encode().last_chunk().map_or(0, |checksum| u32::from_le_bytes(*checksum));
        Mark { stamp, footer_checksum }
    }

    /// The error for a file whose name or bytes were replaced.
    pub(crate) fn replaced(&self) -> ReadError {
        self.damaged(0, Damage::Replaced)
    }

    /// Seq of the first record.
    pub(crate) fn first_seq(&self) -> Seq {
        self.header.first_seq
    }

    /// Header of the segment.
    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Footer of the segment.
    pub(crate) fn footer(&self) -> &SegmentFooter {
        &self.footer
    }

    /// Offset of the footer; for a pruned segment, its offset in the file `pruned`.
    pub(crate) fn footer_offset(&self) -> u64 {
        self.footer_offset
    }

    /// Length of the file in bytes, if it has its own.
    pub(crate) fn len_bytes(&self) -> Option<u64> {
        match self.held {
            Held::Whole => Some(self.footer_offset + SEGMENT_FOOTER_LEN as u64),
            Held::Pruned { .. } => None,
        }
    }

    /// Header and footer in encoded form.
    pub(crate) fn frame(&self) -> ([u8; SEGMENT_HEADER_LEN], [u8; SEGMENT_FOOTER_LEN]) {
        (self.header.encode(), self.footer.encode())
    }

    /// Reads a block, checks it, and passes it to a decoder.
    pub(crate) fn read_block<T>(
        &self,
        block: BlockHandle,
        decode: impl FnOnce(&[u8]) -> Result<T, Damage>,
    ) -> Result<T, ReadError> {
        let mut decode = Some(decode);
        let mut decoded = None;
        self.read_blocks(std::iter::once(block), |block, bytes| {
            if let Some(decode) = decode.take() {
                decoded = Some(decode(bytes).map_err(|damage| self.damaged(block.offset, damage))?);
            }
            Ok(())
        })?;
        Ok(decoded.expect("BUG: every block that is read is handed over"))
    }

    /// Reads adjacent blocks, checks each, and passes it to `take`.
    pub(crate) fn read_blocks(
        &self,
        blocks: impl Iterator<Item = BlockHandle> + Clone,
        mut take: impl FnMut(BlockHandle, &[u8]) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let Some(BlockHandle { offset: start, .. }) = blocks.clone().next() else {
            return Ok(());
        };
        if let Held::Pruned { blocks: held, was } = &self.held {
            return blocks.into_iter().try_for_each(|block| {
                let found = held.binary_search_by_key(&block.offset, |held| held.offset).ok();
                let found = found.and_then(|position| held.get(position)).ok_or_else(|| not_there(was))?;
                self.read_stored(
                    std::iter::once((BlockHandle { len: found.len, ..block }, found.file_offset)),
                    &mut take,
                )
            });
        }
        for block in blocks.clone() {
            // Nothing is allocated beyond the length of the file.
            let end = block.end().filter(|&end| end <= self.footer_offset);
            if end.is_none() || block.len > BLOCK_LEN_MAX || block.offset < SEGMENT_HEADER_LEN as u64 {
                let damage = Damage::Field { field: "block offset", value: block.offset };
                return Err(self.damaged(self.footer_offset, damage));
            }
        }
        debug_assert!(blocks.clone().zip(blocks.clone().skip(1)).all(|(a, b)| a.end() == Some(b.offset)), "{start}");
        self.read_stored(blocks.map(|block| (block, block.offset)), &mut take)
    }

    /// Reads adjacent blocks at their offsets in the file.
    fn read_stored(
        &self,
        blocks: impl Iterator<Item = (BlockHandle, u64)> + Clone,
        take: &mut TakeBlock<'_>,
    ) -> Result<(), ReadError> {
        let Some((_, start)) = blocks.clone().next() else {
            return Ok(());
        };
        let len = blocks.clone().map(|(block, _)| block.len as usize + BLOCK_HEADER_LEN).sum();
        // Taken out, because `take` may read other blocks.
        let mut buffer = BUFFER.take();
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let bytes = &mut buffer[..len];
        read_healing(&*self.file, &(start..start + len as u64), || self.read_checked(blocks.clone(), start, bytes))?;
        let mut rest = &*bytes;
        for (block, _) in blocks {
            let (now, later) = rest.split_at(block.len as usize + BLOCK_HEADER_LEN);
            take(block, &now[BLOCK_HEADER_LEN..])?;
            rest = later;
        }
        if buffer.len() <= BUFFER_KEPT_MAX {
            BUFFER.set(buffer);
        }
        Ok(())
    }

    /// Reads adjacent blocks with their checksums into `bytes`, and checks them.
    fn read_checked(
        &self,
        blocks: impl Iterator<Item = (BlockHandle, u64)>,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), ReadError> {
        if !read_exact_at(&*self.file, bytes, start)? {
            return Err(ReadError::damaged(self.path(), start, Damage::Short { have: 0, want: bytes.len() }));
        }
        // Blocks of another copy of the backup, written over these, have valid checksums.
        if self.file.stamp() != self.stamp {
            return Err(self.replaced());
        }
        let mut rest = &*bytes;
        for (block, _) in blocks {
            let (now, later) = rest.split_at(block.len as usize + BLOCK_HEADER_LEN);
            let (found, payload) = now.split_first_chunk().expect("BUG: a block's header is 4 bytes");
            let found = u32::from_le_bytes(*found);
            let computed = self.header.block_checksum(block.offset, payload);
            if found != computed {
                return Err(self.damaged(block.offset, Damage::Checksum { found, computed }));
            }
            rest = later;
        }
        Ok(())
    }

    /// Reads a block that is one zstd frame, and decompresses it to at most `len_max` bytes.
    pub(crate) fn read_compressed(&self, block: BlockHandle, len_max: usize) -> Result<Vec<u8>, ReadError> {
        self.read_block(block, |compressed| {
            let len = zstd::zstd_safe::get_frame_content_size(compressed).ok().flatten();
            let len = len.and_then(|len| usize::try_from(len).ok()).filter(|&len| len <= len_max);
            let mut bytes = vec![0; len.ok_or(Damage::Compression)?];
            frames::decompress(compressed, &mut bytes)?;
            Ok(bytes)
        })
    }

    /// Reads the record index.
    pub(crate) fn read_index(&self) -> Result<RecordIndex, ReadError> {
        let bytes = self.read_compressed(self.footer.index, INDEX_LEN_MAX)?;
        let index = RecordIndex::decode(&bytes).map_err(|damage| self.damaged(self.footer.index.offset, damage))?;
        if index.records.len() as u64 - 1 == self.footer.last_seq.get() - self.header.first_seq.get() {
            Ok(index)
        } else {
            let damage = Damage::Contradiction("its record index has another number of records");
            Err(self.damaged(self.footer.index.offset, damage))
        }
    }

    /// Reads the read sets.
    pub(crate) fn read_read_sets(&self) -> Result<ReadSets, ReadError> {
        let block = self.footer.read_sets;
        let bytes = self.read_compressed(block, READ_SETS_LEN_MAX)?;
        ReadSets::decode(&bytes, self.header.first_seq).map_err(|damage| self.damaged(block.offset, damage))
    }

    /// The error for damage at this offset of the segment.
    pub(crate) fn damaged(&self, offset: u64, damage: Damage) -> ReadError {
        let held = match &self.held {
            Held::Whole => None,
            Held::Pruned { blocks, .. } => blocks.iter().find(|block| block.offset == offset),
        };
        ReadError::damaged(self.path(), held.map_or(offset, |block| block.file_offset), damage)
    }
}

/// Decodes header and footer of a segment. The error tells which of them is damaged.
fn decode_frame(
    header_bytes: &[u8; SEGMENT_HEADER_LEN],
    footer: &[u8; SEGMENT_FOOTER_LEN],
    uuid: Uuid,
    first_seq: Seq,
) -> Result<(SegmentHeader, SegmentFooter), (bool, Damage)> {
    let header = SegmentHeader::decode(header_bytes).map_err(|damage| (false, damage))?;
    if header.uuid != uuid || header.first_seq != first_seq {
        return Err((false, Damage::Foreign));
    }
    let footer = SegmentFooter::decode(footer).map_err(|damage| (true, damage))?;
    let header_checksum = u32::from_le_bytes(*header_bytes.last_chunk().expect("BUG: a header is longer than 4 bytes"));
    if footer.header_checksum != header_checksum || footer.last_seq < first_seq {
        return Err((true, Damage::Contradiction("its end belongs to another segment")));
    }
    // The base is older than the segment, and the map leads to nothing newer: so no path is a cycle.
    let older = footer.base.is_none_or(|base| base < first_seq)
        && footer.map.is_none_or(|map| map.location.segment <= first_seq)
        && footer.snapshot.is_none_or(|snapshot| snapshot.seq <= first_seq);
    if !older {
        return Err((true, Damage::Contradiction("it builds on what comes after it")));
    }
    Ok((header, footer))
}

/// The error for a block that compaction did not keep.
pub(crate) fn not_there(path: &Path) -> ReadError {
    let source = io::Error::new(io::ErrorKind::NotFound, "it was dropped by a compaction");
    StorageError { op: StorageOp::Open, path: path.to_path_buf(), offset: None, source }.into()
}

//! A snapshot file, read at random.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use zstd::zstd_safe;

use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StoredFile, WHOLE_FILE, Wanted, read_exact_at, read_healing};
use format::snapshot::{
    Group, SNAPSHOT_FOOTER_LEN, SNAPSHOT_HEADER_LEN, SnapshotFooter, SnapshotHeader, SnapshotIndex, pages_per_group,
};
use format::units::{PageNo, Seq};
use format::{Damage, checksum, frames, names};

/// Compressed bytes per read of consecutive pages.
const READ_BYTES_MAX: usize = 256 << 10;

/// The checksum at the end of a header or footer.
pub(super) fn last_four(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes.last_chunk().expect("BUG: headers and footers are longer than their checksum"))
}

/// A snapshot open for reading.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    file: Box<dyn StoredFile>,
    footer_checksum: u32,
    header: SnapshotHeader,
    index: SnapshotIndex,
    stored_pages: usize,
}

/// The identity of a snapshot file, from the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedSnapshot {
    pub(crate) uuid: uuid::Uuid,
    pub(crate) seq: Seq,
    pub(crate) footer_checksum: u32,
}

impl SnapshotFile {
    /// Opens a snapshot and checks that it is the expected one. Reads header, index and footer, no pages.
    pub(crate) fn open(directory: &dyn Directory, expected: ExpectedSnapshot) -> Result<Self, ReadError> {
        Self::open_named(directory, &names::snapshot(expected.seq), expected)
    }

    /// Like [`open`](Self::open), for a file that may have a temporary name.
    pub(crate) fn open_named(
        directory: &dyn Directory,
        name: &str,
        expected: ExpectedSnapshot,
    ) -> Result<Self, ReadError> {
        let file = directory.open(name, Access::Read)?;
        let (header, footer_checksum, index, stored_pages) =
            read_healing(&*file, &WHOLE_FILE, || Self::read_frame(directory, name, &*file, expected))?;
        Ok(Self { file, footer_checksum, header, index, stored_pages })
    }

    /// Reads header, index and footer.
    fn read_frame(
        directory: &dyn Directory,
        name: &str,
        file: &dyn StoredFile,
        expected: ExpectedSnapshot,
    ) -> Result<(SnapshotHeader, u32, SnapshotIndex, usize), ReadError> {
        let file_len = file.read_len()?;
        if directory.is_far() {
            let end = file_len.saturating_sub(SNAPSHOT_FOOTER_LEN as u64)..file_len;
            let ends = [0..SNAPSHOT_HEADER_LEN as u64, end].map(|range| Wanted { name: name.to_owned(), range });
            directory.will_need(&ends);
        }
        let damaged = |offset, damage| ReadError::damaged(file.path(), offset, damage);
        let short = || {
            damaged(
                0,
                Damage::Short {
                    have: usize::try_from(file_len).unwrap_or(usize::MAX),
                    want: SNAPSHOT_HEADER_LEN + SNAPSHOT_FOOTER_LEN,
                },
            )
        };
        let mut bytes = [0; SNAPSHOT_HEADER_LEN];
        if !read_exact_at(file, &mut bytes, 0)? {
            return Err(short());
        }
        let header = SnapshotHeader::decode(&bytes).map_err(|damage| damaged(0, damage))?;
        if header.uuid != expected.uuid || header.seq != expected.seq {
            return Err(damaged(0, Damage::Foreign));
        }
        let footer_offset = file_len.checked_sub(SNAPSHOT_FOOTER_LEN as u64).ok_or_else(short)?;
        let mut footer = [0; SNAPSHOT_FOOTER_LEN];
        if !read_exact_at(file, &mut footer, footer_offset)? {
            return Err(short());
        }
        let (footer, footer_checksum) =
            SnapshotFooter::decode(&footer).map_err(|damage| damaged(footer_offset, damage))?;
        if footer_checksum != expected.footer_checksum || footer.header_checksum != last_four(&bytes) {
            return Err(damaged(footer_offset, Damage::Contradiction("it is not the snapshot that the log names")));
        }
        // The length is checked before anything of that length is allocated.
        let index_len = footer.index_len(&header);
        if footer.index_offset.checked_add(index_len) != Some(footer_offset) {
            return Err(damaged(footer_offset, Damage::Field { field: "index_offset", value: footer.index_offset }));
        }
        if directory.is_far() {
            directory.will_need(&[Wanted { name: name.to_owned(), range: footer.index_offset..footer_offset }]);
        }
        let mut index = vec![0; usize::try_from(index_len).map_err(|_| short())?];
        if !read_exact_at(file, &mut index, footer.index_offset)? {
            return Err(short());
        }
        let index =
            SnapshotIndex::decode(&index, &header, &footer).map_err(|damage| damaged(footer.index_offset, damage))?;
        let stored_pages = footer.stored_pages as usize;
        Ok((header, footer_checksum, index, stored_pages))
    }

    /// Whether the file is the expected snapshot.
    pub(crate) fn is(&self, expected: ExpectedSnapshot) -> bool {
        (self.header.uuid, self.header.seq, self.footer_checksum)
            == (expected.uuid, expected.seq, expected.footer_checksum)
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Header of the snapshot.
    pub(crate) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Numbers of the pages that a delta stores, ascending; `None` for a full snapshot, which stores all.
    pub(crate) fn stored_pages(&self) -> Option<&[PageNo]> {
        self.index.pages.as_deref()
    }

    /// Whether the snapshot stores a page; a page that a delta does not store is unchanged since its base.
    pub(crate) fn stores(&self, page: PageNo) -> bool {
        self.index.slot(page, &self.header).is_some()
    }

    /// The bytes of the file that a page is read from; `None` for a page that is not stored here.
    pub(crate) fn bytes_of(&self, page: PageNo) -> Option<Range<u64>> {
        let slot = self.index.slot(page, &self.header)?;
        let group = self.index.groups.get(slot / pages_per_group(self.header.page_size))?;
        Some(group.offset..group.offset.saturating_add(group.len.into()))
    }

    /// Copies consecutive pages, which must all be stored here, into `out`.
    pub(crate) fn read_pages(&self, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        let first = self.index.slot(first, &self.header).expect("BUG: a page is asked of a snapshot without it");
        let page_bytes = self.header.page_size.bytes();
        let per_group = pages_per_group(self.header.page_size);
        let (mut slot, mut rest) = (first, out);
        while rest.len() >= page_bytes {
            let (group, skipped) = (slot / per_group, slot % per_group);
            let group_bytes = self.group_bytes(group);
            let filled = if skipped == 0 && rest.len() >= group_bytes {
                self.decode(group, rest)?
            } else {
                let mut decoded = vec![0; group_bytes];
                self.decode(group, &mut decoded)?;
                let wanted = &decoded[skipped * page_bytes..];
                let filled = wanted.len().min(rest.len() - rest.len() % page_bytes);
                rest[..filled].copy_from_slice(&wanted[..filled]);
                filled
            };
            slot += filled / page_bytes;
            rest = &mut rest[filled..];
        }
        Ok(())
    }

    /// Number of groups.
    pub(crate) fn groups(&self) -> usize {
        self.index.groups.len()
    }

    /// Reads a group and checks it; `out` gets the length of its pages.
    pub(crate) fn read_group(&self, number: usize, out: &mut Vec<u8>) -> Result<(), ReadError> {
        out.resize(self.group_bytes(number), 0);
        self.decode(number, out).map(drop)
    }

    /// The page numbers in a group.
    pub(crate) fn pages_of_group(&self, number: usize) -> Vec<RangeInclusive<u32>> {
        let per_group = pages_per_group(self.header.page_size);
        let slots = number * per_group..self.stored_pages.min((number + 1) * per_group);
        match &self.index.pages {
            Some(pages) => pages.get(slots).unwrap_or_default().iter().map(|page| page.get()..=page.get()).collect(),
            None => {
                let page = |slot| u32::try_from(slot).unwrap_or(u32::MAX);
                vec![page(slots.start).saturating_add(1)..=page(slots.end)]
            }
        }
    }

    /// Length of a group's pages in bytes; the last group may be shorter.
    fn group_bytes(&self, number: usize) -> usize {
        let per_group = pages_per_group(self.header.page_size);
        (self.stored_pages - number * per_group).min(per_group) * self.header.page_size.bytes()
    }

    /// Decompresses a group, and as many following groups as fit and can be read together with it, into `out`, which has room for
    /// at least one. Returns the number of bytes filled.
    fn decode(&self, first: usize, out: &mut [u8]) -> Result<usize, ReadError> {
        let groups = self.index.groups.get(first..).unwrap_or_default();
        let damaged = |group: &Group, damage| ReadError::damaged(self.file.path(), group.offset, damage);
        let (mut count, mut read_bytes, mut filled) = (0, 0, 0);
        for (number, group) in (first..).zip(groups) {
            let (len, group_bytes) = (group.len as usize, self.group_bytes(number));
            if out.len() - filled < group_bytes || count > 0 && read_bytes + len > READ_BYTES_MAX {
                break;
            }
            // Compression never lengthens a group much; a longer one is damage, not a reason to allocate.
            if len > zstd_safe::compress_bound(group_bytes) {
                return Err(damaged(group, Damage::Field { field: "group length", value: group.len.into() }));
            }
            (count, read_bytes, filled) = (count + 1, read_bytes + len, filled + group_bytes);
        }
        let (Some(groups), Some(start)) = (groups.get(..count), groups.first()) else {
            return Ok(0);
        };
        COMPRESSED.with_borrow_mut(|compressed| {
            compressed.resize(read_bytes, 0);
            let range = start.offset..start.offset.saturating_add(read_bytes as u64);
            read_healing(&*self.file, &range, || {
                if !read_exact_at(&*self.file, compressed, start.offset)? {
                    return Err(damaged(start, Damage::Short { have: 0, want: read_bytes }));
                }
                let mut rest = &compressed[..];
                for group in groups {
                    let (frame, later) = rest.split_at(group.len as usize);
                    let computed = checksum(&[frame]);
                    if computed != group.checksum {
                        return Err(damaged(group, Damage::Checksum { found: group.checksum, computed }));
                    }
                    rest = later;
                }
                Ok(())
            })?;
            let (mut compressed, mut out) = (&compressed[..], out);
            for (number, group) in (first..).zip(groups) {
                let (frame, later) = compressed.split_at(group.len as usize);
                let (pages, rest) = out.split_at_mut(self.group_bytes(number));
                frames::decompress(frame, pages).map_err(|damage| damaged(group, damage))?;
                (compressed, out) = (later, rest);
            }
            Ok(filled)
        })
    }
}

thread_local! {
    static COMPRESSED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

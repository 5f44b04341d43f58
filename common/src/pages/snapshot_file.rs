//! A snapshot file: written once, page after page; then read at random.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::format::snapshot::{
    Group, SNAPSHOT_FOOTER_LEN, SNAPSHOT_HEADER_LEN, SnapshotFooter, SnapshotHeader, SnapshotIndex, pages_per_group,
};
use crate::format::{Damage, checksum, names};
use crate::storage::{Access, Directory, StorageError, StoredFile, TEMPORARY_ENDING, read_exact_at, remove_if_present};
use crate::{PageNo, ReadError, Seq};

/// zstd's own default: half the size of level 1 in twice its time, and far from the disk's limit either way.
const COMPRESSION_LEVEL: i32 = 3;

/// A snapshot being written. Nothing has its name until [`finish`](Self::finish) returns.
pub(crate) struct SnapshotWriter<'a> {
    directory: &'a dyn Directory,
    header: SnapshotHeader,
    name: String,
    file: Box<dyn StoredFile>,
    offset: u64,
    pages: Vec<PageNo>,
    stored_pages: u32,
    groups: Vec<Group>,
    pending: Vec<u8>,
}

impl<'a> SnapshotWriter<'a> {
    /// Begins the file of the snapshot that `header` describes.
    pub(crate) fn create(directory: &'a dyn Directory, header: SnapshotHeader) -> Result<Self, StorageError> {
        let name = names::snapshot(header.seq);
        let temporary = format!("{name}{TEMPORARY_ENDING}");
        remove_if_present(directory, &temporary)?;
        let file = directory.create(&temporary)?;
        file.write_at(&header.encode(), 0)?;
        Ok(Self {
            directory,
            header,
            name,
            file,
            offset: SNAPSHOT_HEADER_LEN as u64,
            pages: Vec::new(),
            stored_pages: 0,
            groups: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// Adds a page. Pages come in ascending order, and all of them unless the snapshot is a delta.
    pub(crate) fn push(&mut self, page: PageNo, bytes: &[u8]) -> Result<(), StorageError> {
        debug_assert_eq!(bytes.len(), self.header.page_size.bytes());
        if self.header.base.is_some() {
            self.pages.push(page);
        }
        self.stored_pages += 1;
        self.pending.extend_from_slice(bytes);
        if self.pending.len() == pages_per_group(self.header.page_size) * self.header.page_size.bytes() {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the group that is full, or the last one.
    fn flush(&mut self) -> Result<(), StorageError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let compressed = zstd::bulk::compress(&self.pending, COMPRESSION_LEVEL).map_err(|source| StorageError {
            op: crate::storage::StorageOp::Write,
            path: self.file.path().to_path_buf(),
            offset: Some(self.offset),
            source,
        })?;
        let len = u32::try_from(compressed.len()).expect("BUG: a compressed group is about as large as 64 KiB at most");
        self.file.write_at(&compressed, self.offset)?;
        self.groups.push(Group { offset: self.offset, len, checksum: checksum(&[&compressed]) });
        self.offset += u64::from(len);
        self.pending.clear();
        Ok(())
    }

    /// Completes the file, makes it durable under its name, and returns the checksum of its footer.
    pub(crate) fn finish(mut self) -> Result<u32, StorageError> {
        self.flush()?;
        let index = SnapshotIndex { pages: self.header.base.map(|_| self.pages), groups: self.groups }.encode();
        let header = self.header.encode();
        let footer = SnapshotFooter {
            header_checksum: last_four(&header),
            index_checksum: checksum(&[&index]),
            index_offset: self.offset,
            stored_pages: self.stored_pages,
        }
        .encode();
        self.file.write_at(&index, self.offset)?;
        self.file.write_at(&footer, self.offset + index.len() as u64)?;
        self.file.sync()?;
        self.directory.rename(&format!("{}{TEMPORARY_ENDING}", self.name), &self.name)?;
        self.directory.sync()?;
        Ok(last_four(&footer))
    }
}

/// The checksum that a header or footer ends with.
fn last_four(bytes: &[u8]) -> u32 {
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
    decoded: Mutex<DecodedGroups>,
}

/// What the log says about a snapshot file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedSnapshot {
    pub(crate) uuid: uuid::Uuid,
    pub(crate) seq: Seq,
    pub(crate) footer_checksum: u32,
}

impl SnapshotFile {
    /// Opens a snapshot and checks that it is the one that the log names. Reads header, index and footer, no pages.
    pub(crate) fn open(directory: &dyn Directory, expected: ExpectedSnapshot) -> Result<Self, ReadError> {
        let file = directory.open(&names::snapshot(expected.seq), Access::Read)?;
        let file_len = file.read_len()?;
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
        if !read_exact_at(&*file, &mut bytes, 0)? {
            return Err(short());
        }
        let header = SnapshotHeader::decode(&bytes).map_err(|damage| damaged(0, damage))?;
        if header.uuid != expected.uuid || header.seq != expected.seq {
            return Err(damaged(0, Damage::Foreign));
        }
        let footer_offset = file_len.checked_sub(SNAPSHOT_FOOTER_LEN as u64).ok_or_else(short)?;
        let mut footer = [0; SNAPSHOT_FOOTER_LEN];
        if !read_exact_at(&*file, &mut footer, footer_offset)? {
            return Err(short());
        }
        let (footer, footer_checksum) =
            SnapshotFooter::decode(&footer).map_err(|damage| damaged(footer_offset, damage))?;
        if footer_checksum != expected.footer_checksum || footer.header_checksum != last_four(&bytes) {
            return Err(damaged(footer_offset, Damage::Contradiction("it is not the snapshot that the log names")));
        }
        // The file is as long as it says before anything of that length is allocated.
        let index_len = footer.index_len(&header);
        if footer.index_offset.checked_add(index_len) != Some(footer_offset) {
            return Err(damaged(footer_offset, Damage::Field { field: "index_offset", value: footer.index_offset }));
        }
        let mut index = vec![0; usize::try_from(index_len).map_err(|_| short())?];
        if !read_exact_at(&*file, &mut index, footer.index_offset)? {
            return Err(short());
        }
        let index =
            SnapshotIndex::decode(&index, &header, &footer).map_err(|damage| damaged(footer.index_offset, damage))?;
        let stored_pages = footer.stored_pages as usize;
        Ok(Self { file, footer_checksum, header, index, stored_pages, decoded: Mutex::default() })
    }

    /// Whether it is the one that the log names.
    pub(crate) fn is(&self, expected: ExpectedSnapshot) -> bool {
        (self.header.uuid, self.header.seq, self.footer_checksum)
            == (expected.uuid, expected.seq, expected.footer_checksum)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// What it is of.
    pub(crate) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The numbers of the pages that a delta holds, ascending; `None` for a full one, which holds all.
    pub(crate) fn stored_pages(&self) -> Option<&[PageNo]> {
        self.index.pages.as_deref()
    }

    /// Copies a page into `out` and says whether it is stored here.
    pub(crate) fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<Stored, ReadError> {
        let Some(slot) = self.index.slot(page, &self.header) else {
            return Ok(Stored::Elsewhere);
        };
        let per_group = pages_per_group(self.header.page_size);
        let group = self.decoded_group(slot / per_group)?;
        let page_bytes = self.header.page_size.bytes();
        let start = slot % per_group * page_bytes;
        out.copy_from_slice(&group[start..start + page_bytes]);
        Ok(Stored::Here)
    }

    fn decoded_group(&self, number: usize) -> Result<Arc<[u8]>, ReadError> {
        if let Some(group) = self.decoded.lock().unwrap_or_else(PoisonError::into_inner).get(number) {
            return Ok(group);
        }
        let group = self.index.groups[number];
        let damaged = |damage| ReadError::damaged(self.file.path(), group.offset, damage);
        let per_group = pages_per_group(self.header.page_size);
        let pages = (self.stored_pages - number * per_group).min(per_group);
        let decoded_len = pages * self.header.page_size.bytes();
        // A group never grows much by compression; a longer one is damage, not a reason to allocate.
        let len = group.len as usize;
        if len > zstd::zstd_safe::compress_bound(decoded_len) {
            return Err(damaged(Damage::Field { field: "group length", value: group.len.into() }));
        }
        let mut compressed = vec![0; len];
        if !read_exact_at(&*self.file, &mut compressed, group.offset)? {
            return Err(damaged(Damage::Short { have: 0, want: len }));
        }
        let computed = checksum(&[&compressed]);
        if computed != group.checksum {
            return Err(damaged(Damage::Checksum { found: group.checksum, computed }));
        }
        let decoded = zstd::bulk::decompress(&compressed, decoded_len)
            .ok()
            .filter(|decoded| decoded.len() == decoded_len)
            .ok_or_else(|| damaged(Damage::Compression))?;
        let decoded: Arc<[u8]> = decoded.into();
        self.decoded.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&decoded));
        Ok(decoded)
    }
}

/// Whether a snapshot holds a page itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Yes.
    Here,
    /// No: it did not change since the snapshot's base.
    Elsewhere,
}

/// The groups decompressed last: neighbouring pages are read one after the other.
#[derive(Debug, Default)]
struct DecodedGroups {
    groups: HashMap<usize, (u64, Arc<[u8]>)>,
    clock: u64,
}

impl DecodedGroups {
    /// Groups kept: 2 MiB in all.
    const KEPT: usize = 64;

    fn get(&mut self, number: usize) -> Option<Arc<[u8]>> {
        self.clock += 1;
        let (used, group) = self.groups.get_mut(&number)?;
        *used = self.clock;
        Some(Arc::clone(group))
    }

    fn insert(&mut self, number: usize, group: Arc<[u8]>) {
        if self.groups.len() >= Self::KEPT
            && let Some(&oldest) = self.groups.iter().min_by_key(|(_, (used, _))| *used).map(|(number, _)| number)
        {
            self.groups.remove(&oldest);
        }
        self.groups.insert(number, (self.clock, group));
    }
}

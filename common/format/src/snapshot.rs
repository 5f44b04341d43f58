//! The parts of a snapshot file: header, groups of compressed pages, index, footer.

use uuid::Uuid;

use super::Damage;
use super::FORMAT_VERSION;
use super::check_envelope;
use super::checksum;
use super::fields::Reader;
use super::snapshot_ref::DeltaBase;
use crate::units::{DataVersion, PageNo, PageSize, Seq, Timestamp};

const MAGIC: [u8; 8] = *b"BKPFSSNP";
const FOOTER_MAGIC: [u8; 8] = *b"BKPFSEND";

/// Length of an encoded header in bytes; the first group follows.
pub const SNAPSHOT_HEADER_LEN: usize = 80;

/// Length of an encoded footer in bytes; it ends the file.
pub const SNAPSHOT_FOOTER_LEN: usize = 32;

/// Length of a group's entry in the index, in bytes.
const GROUP_ENTRY_LEN: usize = 8;

/// Length of a group before compression, in bytes.
///
/// A reader decompresses a whole group for one page, and a version that is opened reads some dozens of scattered pages. Groups of
/// twice the size would save three percent of the space.
const GROUP_BYTES: u32 = 4 << 10;

/// Number of pages in a group, for a page size.
pub fn pages_per_group(page_size: PageSize) -> usize {
    (GROUP_BYTES / page_size.get()).max(1) as usize
}

/// Header of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The backup that the snapshot belongs to.
    pub uuid: Uuid,
    /// Seq of the snapshot's record.
    pub seq: Seq,
    /// Base of a delta; `None` for a full snapshot.
    pub base: Option<DeltaBase>,
    /// Version of the database.
    pub data_version: DataVersion,
    /// Page size of the database.
    pub page_size: PageSize,
    /// Number of pages of the database, stored or not.
    pub page_count: u32,
    /// Time at which the snapshot was taken.
    pub created: Timestamp,
}

impl SnapshotHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; SNAPSHOT_HEADER_LEN] {
        let mut out = Vec::with_capacity(SNAPSHOT_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.page_size.get().to_le_bytes());
        out.extend_from_slice(self.uuid.as_bytes());
        out.extend_from_slice(&self.seq.get().to_le_bytes());
        DeltaBase::encode(self.base, &mut out);
        out.extend_from_slice(&self.data_version.get().to_le_bytes());
        out.extend_from_slice(&self.page_count.to_le_bytes());
        out.extend_from_slice(&self.created.as_micros().to_le_bytes());
        out.extend_from_slice(&[0; 7]);
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a snapshot header are SNAPSHOT_HEADER_LEN bytes")
    }

    /// Decodes the first bytes of a file.
    ///
    /// # Errors
    /// When the bytes are not the header of a snapshot, are damaged, or of a newer format.
    pub fn decode(bytes: &[u8; SNAPSHOT_HEADER_LEN]) -> Result<Self, Damage> {
        check_envelope(bytes, MAGIC, "snapshot of a backup")?;
        let mut fields = Reader::new(bytes);
        fields.bytes(MAGIC.len() + 2)?;
        fields.zeros(2, "flags")?;
        let page_size = fields.u32()?;
        let page_size =
            PageSize::new(page_size).ok_or(Damage::Field { field: "page_size", value: page_size.into() })?;
        let uuid = Uuid::from_bytes(fields.array()?);
        let seq = Seq::new(fields.u64()?).ok_or(Damage::Field { field: "seq", value: 0 })?;
        let base = DeltaBase::decode(&mut fields)?;
        if let Some(base) = base.filter(|base| base.seq() >= seq) {
            return Err(Damage::Field { field: "base", value: base.seq().get() });
        }
        let data_version = DataVersion::new(fields.u32()?);
        let page_count = fields.u32()?;
        let created = fields.i64()?;
        let created = Timestamp::from_micros(created)
            .ok_or(Damage::Field { field: "created", value: created.cast_unsigned() })?;
        fields.zeros(7, "reserved")?;
        Ok(Self { uuid, seq, base, data_version, page_size, page_count, created })
    }
}

/// Footer of a snapshot file. The record of the snapshot refers to its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotFooter {
    /// Checksum of the header, which is the header's last field.
    pub header_checksum: u32,
    /// Checksum of the index.
    pub index_checksum: u32,
    /// Offset of the index in the file; it ends where the footer begins.
    pub index_offset: u64,
    /// Number of stored pages.
    pub stored_pages: u32,
}

impl SnapshotFooter {
    /// Encodes the footer. Its last four bytes are its checksum.
    pub fn encode(&self) -> [u8; SNAPSHOT_FOOTER_LEN] {
        let mut out = Vec::with_capacity(SNAPSHOT_FOOTER_LEN);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&self.header_checksum.to_le_bytes());
        out.extend_from_slice(&self.index_checksum.to_le_bytes());
        out.extend_from_slice(&self.index_offset.to_le_bytes());
        out.extend_from_slice(&self.stored_pages.to_le_bytes());
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a footer are SNAPSHOT_FOOTER_LEN bytes")
    }

    /// Decodes the last bytes of a file; also returns their checksum.
    ///
    /// # Errors
    /// When the bytes are not the footer of a snapshot, or are damaged.
    pub fn decode(bytes: &[u8; SNAPSHOT_FOOTER_LEN]) -> Result<(Self, u32), Damage> {
        let mut fields = Reader::new(bytes);
        if fields.array::<8>()? != FOOTER_MAGIC {
            return Err(Damage::Magic { expected: "whole snapshot: its end is missing" });
        }
        let footer = Self {
            header_checksum: fields.u32()?,
            index_checksum: fields.u32()?,
            index_offset: fields.u64()?,
            stored_pages: fields.u32()?,
        };
        let (found, computed) = (fields.u32()?, checksum(&[&bytes[..SNAPSHOT_FOOTER_LEN - 4]]));
        if found == computed { Ok((footer, computed)) } else { Err(Damage::Checksum { found, computed }) }
    }

    /// Length of the index in bytes.
    pub fn index_len(&self, header: &SnapshotHeader) -> u64 {
        let pages = u64::from(self.stored_pages);
        let numbers = if header.base.is_some() { pages * 4 } else { 0 };
        numbers + pages.div_ceil(pages_per_group(header.page_size) as u64) * GROUP_ENTRY_LEN as u64
    }
}

/// Location of a group of compressed pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Offset of the group in the file.
    pub offset: u64,
    /// Compressed length in bytes.
    pub len: u32,
    /// Checksum of the compressed bytes.
    pub checksum: u32,
}

/// The index of a snapshot: which pages it stores, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotIndex {
    /// Numbers of the stored pages, ascending; `None` for a full snapshot, which stores all pages.
    pub pages: Option<Vec<PageNo>>,
    /// The groups, in order; each but the last holds [`pages_per_group`] pages.
    pub groups: Vec<Group>,
}

impl SnapshotIndex {
    /// Encodes the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for page in self.pages.iter().flatten() {
            out.extend_from_slice(&page.get().to_le_bytes());
        }
        for group in &self.groups {
            out.extend_from_slice(&group.len.to_le_bytes());
            out.extend_from_slice(&group.checksum.to_le_bytes());
        }
        out
    }

    /// Decodes the index, which has the length of [`SnapshotFooter::index_len`].
    ///
    /// # Errors
    /// When the bytes are damaged, or contradict header or footer.
    pub fn decode(bytes: &[u8], header: &SnapshotHeader, footer: &SnapshotFooter) -> Result<Self, Damage> {
        let computed = checksum(&[bytes]);
        if footer.index_checksum != computed {
            return Err(Damage::Checksum { found: footer.index_checksum, computed });
        }
        if footer.index_len(header) != bytes.len() as u64 {
            return Err(Damage::Field { field: "stored_pages", value: footer.stored_pages.into() });
        }
        let mut fields = Reader::new(bytes);
        let pages = match header.base {
            Some(_) => Some(decode_page_numbers(&mut fields, header, footer)?),
            None if footer.stored_pages == header.page_count => None,
            None => return Err(Damage::Field { field: "stored_pages", value: footer.stored_pages.into() }),
        };
        let mut groups = Vec::with_capacity(fields.rest().len() / GROUP_ENTRY_LEN);
        let mut offset = SNAPSHOT_HEADER_LEN as u64;
        while !fields.rest().is_empty() {
            let group = Group { offset, len: fields.u32()?, checksum: fields.u32()? };
            offset += u64::from(group.len);
            groups.push(group);
        }
        if offset != footer.index_offset {
            return Err(Damage::Field { field: "index_offset", value: footer.index_offset });
        }
        Ok(Self { pages, groups })
    }

    /// Position of a page among the stored pages, from 0; `None` when the page is not stored.
    pub fn slot(&self, page: PageNo, header: &SnapshotHeader) -> Option<usize> {
        match &self.pages {
            Some(pages) => pages.binary_search(&page).ok(),
            None => (page.get() <= header.page_count).then_some(page.get() as usize - 1),
        }
    }
}

fn decode_page_numbers(
    fields: &mut Reader<'_>,
    header: &SnapshotHeader,
    footer: &SnapshotFooter,
) -> Result<Vec<PageNo>, Damage> {
    let mut pages: Vec<PageNo> = Vec::with_capacity(footer.stored_pages as usize);
    for _ in 0..footer.stored_pages {
        let number = fields.u32()?;
        let page = PageNo::new(number)
            .filter(|&page| page.get() <= header.page_count && pages.last().is_none_or(|&last| last < page))
            .ok_or(Damage::Field { field: "page number", value: number.into() })?;
        pages.push(page);
    }
    Ok(pages)
}

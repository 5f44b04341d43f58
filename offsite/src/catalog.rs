//! [`Catalog`]: the beginnings and ends of consecutive segments in one object, so that a reader need not ask for those of each.
//!
//! Integers are little-endian.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 2 | version, 1 |
//! | 2 | 2 | count: how many segments, 1 to 54 |
//! | 4 | 300 each | of each segment, ascending: the length of its file (8), its header (64), its footer (164), and the header of the object that has it (64): zeros if it is in more than one |
//! | … | … | of each segment: its bytes from its read sets up to its footer, which are the read sets and the record index |
//!
//! Everything in it is in the segments, too, with their checksums: with a catalog that is wrong they are read themselves.

use std::ops::Range;

use common::storage::StoredFile;
use format::segment::{SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFooter, SegmentHeader};

use crate::copy_error::CopyError;
use crate::seal::header::HEADER_LEN;

/// The number of segments in each catalog. In tests few, so that small copies have some.
pub const SEGMENTS: usize = if cfg!(test) { 4 } else { 32 };

/// The maximum number of segments in a catalog of any writer: what is said of them fits into one chunk.
const COUNT_MAX: usize = 54;

/// The maximum length of what is behind the head of a catalog, in bytes.
const LEN_MAX: usize = 15 << 20;

/// Version of this layout.
const VERSION: u16 = 1;

const START_LEN: usize = 4;
const ENTRY_LEN: usize = 8 + SEGMENT_HEADER_LEN + SEGMENT_FOOTER_LEN + HEADER_LEN;

/// The maximum length of what is in front of the ends of the segments.
pub const HEAD_LEN_MAX: usize = START_LEN + COUNT_MAX * ENTRY_LEN;

/// What a catalog says of a segment.
#[derive(Debug, Clone)]
pub struct Catalogued {
    /// Length of its file in bytes.
    pub file_len: u64,
    /// Its first bytes.
    pub start: [u8; SEGMENT_HEADER_LEN],
    /// Its last bytes.
    pub end: [u8; SEGMENT_FOOTER_LEN],
    /// Its header.
    pub header: SegmentHeader,
    /// Its footer.
    pub footer: SegmentFooter,
    /// Where its read sets and its record index are in its file.
    pub indexes: Range<u64>,
    /// Where they are in the catalog.
    pub at: u64,
    /// The first bytes of its object, if it is in one: a hint, which the object may not have any more.
    pub object: [u8; HEADER_LEN],
}

impl Catalogued {
    /// Whether these are its read sets and its record index, by their checksums.
    pub fn are_indexes(&self, bytes: &[u8]) -> bool {
        [self.footer.read_sets, self.footer.index].into_iter().all(|block| {
            let within = |at: u64| usize::try_from(at.checked_sub(self.indexes.start)?).ok();
            let stored = block.end().and_then(|end| bytes.get(within(block.offset)?..within(end)?));
            stored.and_then(<[u8]>::split_first_chunk).is_some_and(|(checksum, payload)| {
                u32::from_le_bytes(*checksum) == self.header.block_checksum(block.offset, payload)
            })
        })
    }

    /// What its first and last bytes say; `None` when they do not belong together, or to a file of this length.
    fn of(file_len: u64, start: [u8; SEGMENT_HEADER_LEN], end: [u8; SEGMENT_FOOTER_LEN], at: u64) -> Option<Self> {
        let (header, footer) = (SegmentHeader::decode(&start).ok()?, SegmentFooter::decode(&end).ok()?);
        let indexes = footer.read_sets.offset..file_len.checked_sub(SEGMENT_FOOTER_LEN as u64)?;
        let is_whole = start.last_chunk() == Some(&footer.header_checksum.to_le_bytes())
            && footer.last_seq >= header.first_seq
            && indexes.start >= SEGMENT_HEADER_LEN as u64
            && footer.read_sets.end() == Some(footer.index.offset)
            && footer.index.end() == Some(indexes.end);
        is_whole.then_some(Self { file_len, start, end, header, footer, indexes, at, object: [0; HEADER_LEN] })
    }
}

/// What a catalog says of its segments, without their ends.
#[derive(Debug)]
pub struct Catalog {
    /// Ascending.
    pub segments: Vec<Catalogued>,
}

impl Catalog {
    /// The catalog that begins with these bytes, at least [`HEAD_LEN_MAX`] unless it is shorter, and has this length in all.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn decode(name: &str, head: &[u8], len: u64) -> Result<Self, CopyError> {
        Self::decode_head(head, len)
            .ok_or_else(|| CopyError::Damaged { name: name.to_owned(), reason: "it is no catalog" })
    }

    fn decode_head(head: &[u8], len: u64) -> Option<Self> {
        let (&[version, zero, count, high], rest) = head.split_first_chunk::<START_LEN>()?;
        if len > (HEAD_LEN_MAX + LEN_MAX) as u64 {
            return None;
        }
        let count = usize::from(u16::from_le_bytes([count, high]));
        if u16::from_le_bytes([version, zero]) != VERSION || !(1..=COUNT_MAX).contains(&count) {
            return None;
        }
        let entries = rest.get(..count * ENTRY_LEN)?;
        let mut at = (START_LEN + entries.len()) as u64;
        let mut segments: Vec<Catalogued> = Vec::with_capacity(count);
        for entry in entries.chunks_exact(ENTRY_LEN) {
            let (file_len, rest) = entry.split_first_chunk::<8>()?;
            let (start, rest) = rest.split_first_chunk::<SEGMENT_HEADER_LEN>()?;
            let (end, rest) = rest.split_first_chunk::<SEGMENT_FOOTER_LEN>()?;
            let segment = Catalogued::of(u64::from_le_bytes(*file_len), *start, *end, at)?;
            let segment = Catalogued { object: *rest.first_chunk()?, ..segment };
            if segments.last().is_some_and(|before| before.footer.last_seq >= segment.header.first_seq) {
                return None;
            }
            at = at.checked_add(segment.indexes.end.checked_sub(segment.indexes.start)?)?;
            segments.push(segment);
        }
        (at == len).then_some(Self { segments })
    }

    /// The bytes of a catalog of these files, which are segments. `None` when one of them is none, or it would be too long.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn encode(files: &[Box<dyn StoredFile>]) -> Result<Option<Vec<u8>>, common::ReadError> {
        let mut head = VERSION.to_le_bytes().to_vec();
        head.extend_from_slice(&u16::try_from(files.len()).unwrap_or(u16::MAX).to_le_bytes());
        let mut ends = Vec::new();
        for file in files {
            let file_len = file.read_len()?;
            let (mut start, mut end) = ([0; SEGMENT_HEADER_LEN], [0; SEGMENT_FOOTER_LEN]);
            let end_at = file_len.saturating_sub(SEGMENT_FOOTER_LEN as u64);
            let is_read = file.read_at(&mut start, 0)? == start.len() && file.read_at(&mut end, end_at)? == end.len();
            let Some(segment) = Catalogued::of(file_len, start, end, 0).filter(|_| is_read) else { return Ok(None) };
            let len = usize::try_from(segment.indexes.end.saturating_sub(segment.indexes.start)).unwrap_or(usize::MAX);
            if len > LEN_MAX || ends.len() + len > LEN_MAX {
                return Ok(None);
            }
            let mut indexes = vec![0; len];
            if file.read_at(&mut indexes, segment.indexes.start)? < len || !segment.are_indexes(&indexes) {
                return Ok(None);
            }
            head.extend_from_slice(&file_len.to_le_bytes());
            head.extend_from_slice(&start);
            head.extend_from_slice(&end);
            head.extend_from_slice(&[0; HEADER_LEN]);
            ends.append(&mut indexes);
        }
        head.append(&mut ends);
        Ok(Some(head))
    }

    /// Sets the first bytes of the object of a segment in an encoded catalog.
    pub fn set_object(catalog: &mut [u8], position: usize, header: &[u8]) {
        let at = START_LEN + (position + 1) * ENTRY_LEN - HEADER_LEN;
        if let (Some(place), Some(header)) = (catalog.get_mut(at..at + HEADER_LEN), header.get(..HEADER_LEN)) {
            place.copy_from_slice(header);
        }
    }
}

#[cfg(test)]
mod tests {
    use common::storage::{Access, Directory as _, RealDirectory};
    use format::names;

    use super::*;
    use crate::small_backup::SmallBackup;

    #[test]
    fn a_catalog_says_what_the_segments_say_and_none_is_made_of_damaged_ones() {
        let mut node = SmallBackup::new();
        node.record(60);
        node.seal();
        let directory = RealDirectory::new(node.path());
        let mut firsts: Vec<_> =
            directory.list().unwrap().iter().filter_map(|name| names::parse_segment(name)).collect();
        firsts.sort_unstable();
        assert!(firsts.len() > 3);
        let open = || -> Vec<_> {
            let file = |&first| directory.open(&names::segment(first), Access::Read).unwrap();
            firsts.iter().map(file).collect()
        };
        let mut bytes = Catalog::encode(&open()).unwrap().unwrap();
        let object = [9; HEADER_LEN];
        (0..firsts.len()).for_each(|position| Catalog::set_object(&mut bytes, position, &object));
        let head = &bytes[..bytes.len().min(HEAD_LEN_MAX)];
        let catalog = Catalog::decode("c", head, bytes.len() as u64).unwrap();
        for (segment, file) in catalog.segments.iter().zip(open()) {
            let len = usize::try_from(segment.indexes.end - segment.indexes.start).unwrap();
            let at = usize::try_from(segment.at).unwrap();
            let mut indexes = vec![0; len];
            file.read_at(&mut indexes, segment.indexes.start).unwrap();
            assert!(indexes == bytes[at..at + len] && segment.are_indexes(&indexes) && segment.object == object);
            for position in 0..len {
                indexes[position] ^= 1;
                assert!(!segment.are_indexes(&indexes), "byte {position}");
                indexes[position] ^= 1;
            }
        }
        // Every part of the head but the hint is checked, and nothing is missing or left over.
        let head_len = START_LEN + catalog.segments.len() * ENTRY_LEN;
        let is_hint = |position: usize| position >= START_LEN && (position - START_LEN) % ENTRY_LEN >= 8 + 64 + 164;
        for position in (0..head_len).filter(|&position| !is_hint(position)) {
            let mut other = bytes.clone();
            other[position] ^= 1;
            assert!(Catalog::decode("c", &other, bytes.len() as u64).is_err(), "byte {position}");
        }
        for len in [0, 3, head_len - 1] {
            assert!(Catalog::decode("c", &bytes[..len], bytes.len() as u64).is_err());
        }
        assert!(Catalog::decode("c", &bytes, bytes.len() as u64 + 1).is_err());

        let path = node.path().join(names::segment(firsts[1]));
        let mut damaged = std::fs::read(&path).unwrap();
        let at = damaged.len() - SEGMENT_FOOTER_LEN - 3;
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert!(Catalog::encode(&open()).unwrap().is_none());
    }
}

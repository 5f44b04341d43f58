//! [`PrunedFile`]: the open file `pruned`, with what kept segments need of dropped ones.

use std::sync::Arc;

use uuid::Uuid;

use super::SegmentFile;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StoredFile, WHOLE_FILE, read_exact_at, read_healing};
use format::pruned::{
    PRUNED_FOOTER_LEN, PRUNED_HEADER_LEN, PRUNED_LEN_MAX, PrunedFooter, PrunedHeader, PrunedSegment, pruned_checksum,
};
use format::pruned_directory::{KeptVersion, PrunedDirectory, PrunedRange, PrunedSegmentEntry, Thinned};
use format::segment::BLOCK_HEADER_LEN;
use format::units::{Seq, Timestamp};
use format::{Damage, names};

/// Last bytes of the file: its identity.
pub(crate) type LastBytes = [u8; PRUNED_FOOTER_LEN];

/// The file `pruned`. Opening reads the directory; the pruned segments are read on demand.
#[derive(Debug)]
pub(crate) struct PrunedFile {
    directory: Arc<dyn Directory>,
    file: Arc<dyn StoredFile>,
    uuid: Uuid,
    created: Timestamp,
    /// Offset of the footer.
    len: u64,
    contents: PrunedDirectory,
}

/// Result of a check for the file.
pub(crate) enum Found {
    /// No file: no segment was ever dropped.
    Nothing,
    /// The file is the same as before.
    Same,
    /// Another file, with its last bytes.
    Other(LastBytes, Result<PrunedFile, ReadError>),
}

impl PrunedFile {
    /// Checks whether there is another file than the one that ends with `known`.
    pub(crate) fn look(
        directory: &Arc<dyn Directory>,
        uuid: Uuid,
        known: Option<&LastBytes>,
    ) -> Result<Found, ReadError> {
        let file = match directory.open(names::PRUNED, Access::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(Found::Nothing),
            Err(error) => return Err(error.into()),
        };
        let len = file.read_len()?;
        let mut last = [0; PRUNED_FOOTER_LEN];
        let at = len.saturating_sub(PRUNED_FOOTER_LEN as u64);
        // A file that is too short is reported when it is opened.
        let _read: usize = file.read_at(&mut last, at)?;
        if known == Some(&last) {
            return Ok(Found::Same);
        }
        Ok(Found::Other(last, Self::of_file(directory, uuid, Arc::from(file))))
    }

    /// Opens the file with this name, which may be temporary.
    pub(crate) fn open_named(directory: &Arc<dyn Directory>, uuid: Uuid, name: &str) -> Result<Self, ReadError> {
        Self::of_file(directory, uuid, Arc::from(directory.open(name, Access::Read)?))
    }

    fn of_file(directory: &Arc<dyn Directory>, uuid: Uuid, file: Arc<dyn StoredFile>) -> Result<Self, ReadError> {
        let (created, len, contents) = read_healing(&*file, &WHOLE_FILE, || Self::read_contents(uuid, &*file))?;
        Ok(Self { directory: Arc::clone(directory), file, uuid, created, len, contents })
    }

    /// Reads when the file was written, the offset of its footer, and its directory.
    fn read_contents(uuid: Uuid, file: &dyn StoredFile) -> Result<(Timestamp, u64, PrunedDirectory), ReadError> {
        let len = file.read_len()?;
        let damaged = |offset, damage| ReadError::damaged(file.path(), offset, damage);
        let short = || {
            let have = usize::try_from(len).unwrap_or(usize::MAX);
            damaged(0, Damage::Short { have, want: PRUNED_HEADER_LEN + PRUNED_FOOTER_LEN })
        };
        let (mut header, mut footer) = ([0; PRUNED_HEADER_LEN], [0; PRUNED_FOOTER_LEN]);
        let footer_offset = len.checked_sub(PRUNED_FOOTER_LEN as u64).ok_or_else(short)?;
        if !read_exact_at(file, &mut header, 0)? || !read_exact_at(file, &mut footer, footer_offset)? {
            return Err(short());
        }
        let header_checksum = header.last_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let header = PrunedHeader::decode(&header).map_err(|damage| damaged(0, damage))?;
        if header.uuid != uuid {
            return Err(damaged(0, Damage::Foreign));
        }
        let footer = PrunedFooter::decode(&footer).map_err(|damage| damaged(footer_offset, damage))?;
        if header_checksum != Some(footer.header_checksum) {
            return Err(damaged(footer_offset, Damage::Contradiction("its end belongs to another file")));
        }
        let directory_begins = footer.directory_offset.checked_add(BLOCK_HEADER_LEN as u64);
        let len_of_directory = directory_begins.and_then(|begins| footer_offset.checked_sub(begins));
        let len_of_directory = len_of_directory.and_then(|len| u32::try_from(len).ok()).ok_or_else(|| {
            damaged(footer_offset, Damage::Field { field: "directory_offset", value: footer.directory_offset })
        })?;
        let bytes = read_checked(file, uuid, footer.directory_offset, len_of_directory, footer_offset)?;
        if bytes.0 != footer.directory_checksum {
            return Err(damaged(footer_offset, Damage::Contradiction("its end names another directory")));
        }
        let contents = PrunedDirectory::decode(&bytes.1);
        let contents = contents.map_err(|damage| damaged(footer.directory_offset, damage))?;
        Ok((header.created, footer_offset, contents))
    }

    /// The ranges, ascending.
    pub(crate) fn ranges(&self) -> &[PrunedRange] {
        &self.contents.ranges
    }

    /// The range that a segment is in; `None` when the segment was not dropped.
    pub(crate) fn range_of(&self, first_seq: Seq) -> Option<&PrunedRange> {
        self.contents.range_of(first_seq)
    }

    /// The range that begins with this record.
    pub(crate) fn range_at(&self, first_seq: Seq) -> Option<&PrunedRange> {
        self.contents.range_at(first_seq)
    }

    /// The thinned segments, ascending.
    pub(crate) fn thinned(&self) -> &[Thinned] {
        &self.contents.thinned
    }

    /// The kept versions of a segment; `None` when the segment was not thinned.
    pub(crate) fn kept_of(&self, first_seq: Seq) -> Option<&[KeptVersion]> {
        self.contents.thinned(first_seq).map(|thinned| &thinned.versions[..])
    }

    /// Whether a segment was dropped without kept versions.
    pub(crate) fn is_gone(&self, first_seq: Seq) -> bool {
        self.range_of(first_seq).is_some() && self.kept_of(first_seq).is_none()
    }

    /// Time at which the file was written.
    pub(crate) fn created(&self) -> Timestamp {
        self.created
    }

    /// Number of dropped versions.
    pub(crate) fn versions(&self) -> u64 {
        let in_ranges = self.ranges().iter().fold(0_u64, |all, range| all.saturating_add(range.versions));
        let kept = self.thinned().iter().map(|thinned| thinned.versions.len() as u64).sum();
        in_ranges.saturating_sub(kept)
    }

    /// The pruned segments, ascending.
    pub(crate) fn pruned_segments(&self) -> impl Iterator<Item = Seq> {
        self.contents.segments.iter().map(|entry| entry.segment)
    }

    /// Length of the file in bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len + PRUNED_FOOTER_LEN as u64
    }

    /// A pruned segment; `None` when the segment was not dropped, or nothing refers to it.
    pub(crate) fn segment(&self, first_seq: Seq) -> Option<Result<SegmentFile, ReadError>> {
        let entry = self.contents.entry_of(first_seq)?;
        Some(self.read_segment(entry).and_then(|pruned| {
            let file = Arc::clone(&self.file);
            SegmentFile::pruned(&*self.directory, file, (entry.offset, pruned), self.uuid, first_seq)
        }))
    }

    fn read_segment(&self, entry: PrunedSegmentEntry) -> Result<PrunedSegment, ReadError> {
        let range = entry.offset..entry.offset.saturating_add(u64::from(entry.len) + BLOCK_HEADER_LEN as u64);
        let read = || read_checked(&*self.file, self.uuid, entry.offset, entry.len, self.len);
        let (_, bytes) = read_healing(&*self.file, &range, read)?;
        PrunedSegment::decode(&bytes, entry.offset)
            .map_err(|damage| ReadError::damaged(self.file.path(), entry.offset, damage))
    }

    /// Reads every block of every pruned segment; passes errors with their segment to `problem`.
    pub(crate) fn check(&self, problem: &mut dyn FnMut(Seq, ReadError)) {
        for entry in &self.contents.segments {
            let pruned = self.read_segment(*entry);
            let segment = self.segment(entry.segment);
            let (pruned, segment) = match (pruned, segment) {
                (Ok(pruned), Some(Ok(segment))) => (pruned, segment),
                (Err(error), _) | (_, Some(Err(error))) => {
                    problem(entry.segment, error);
                    continue;
                }
                (Ok(_), None) => continue,
            };
            for block in pruned.blocks {
                let block = format::segment::BlockHandle { offset: block.offset, len: block.len };
                if let Err(error) = segment.read_block(block, |_| Ok(())) {
                    problem(entry.segment, error);
                }
            }
        }
    }
}

/// Reads a pruned segment or the directory, and checks its checksum.
fn read_checked(
    file: &dyn StoredFile,
    uuid: Uuid,
    offset: u64,
    len: u32,
    end: u64,
) -> Result<(u32, Vec<u8>), ReadError> {
    let damaged = |damage| ReadError::damaged(file.path(), offset, damage);
    let behind = offset.checked_add(u64::from(len) + BLOCK_HEADER_LEN as u64).filter(|&behind| behind <= end);
    // Nothing is allocated beyond the length of the file.
    if behind.is_none() || len > PRUNED_LEN_MAX || offset < PRUNED_HEADER_LEN as u64 {
        return Err(damaged(Damage::Field { field: "offset", value: offset }));
    }
    let mut bytes = vec![0; len as usize + BLOCK_HEADER_LEN];
    if !read_exact_at(file, &mut bytes, offset)? {
        return Err(damaged(Damage::Short { have: 0, want: bytes.len() }));
    }
    let block = bytes.split_off(BLOCK_HEADER_LEN);
    let found = u32::from_le_bytes(bytes.try_into().expect("BUG: a block's header is 4 bytes"));
    let computed = pruned_checksum(uuid, offset, &block);
    if found != computed {
        return Err(damaged(Damage::Checksum { found, computed }));
    }
    Ok((found, block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RealDirectory;

    /// An attacker with write access can write valid checksums.
    #[test]
    fn an_end_that_says_an_impossible_place_of_the_directory_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(dir.path()));
        let uuid = Uuid::from_u128(7);
        let header = PrunedHeader { uuid, created: Timestamp::from_micros(8).unwrap() }.encode();
        let header_checksum = u32::from_le_bytes(*header.last_chunk().unwrap());
        for directory_offset in [0, 36, 37, 40, 41, 1 << 40, u64::MAX - 4, u64::MAX - 3, u64::MAX] {
            let footer = PrunedFooter { header_checksum, directory_checksum: 1, directory_offset }.encode();
            std::fs::write(dir.path().join(names::PRUNED), [&header[..], &footer].concat()).unwrap();
            let error = PrunedFile::open_named(&directory, uuid, names::PRUNED).unwrap_err();
            assert!(matches!(error, ReadError::Damaged { .. }), "{directory_offset}: {error}");
        }
    }
}

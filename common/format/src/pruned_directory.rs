//! The directory of the file `pruned`: the ranges of dropped segments, the pruned segments, and the kept versions.

use std::ops::RangeInclusive;

use super::Damage;
use super::fields::Reader;
use crate::units::{Seq, Timestamp};

/// Length of an encoded range in bytes.
const RANGE_LEN: usize = 60;

/// Length of an encoded entry of a pruned segment in bytes.
const ENTRY_LEN: usize = 20;

/// Length of an encoded thinned segment without its versions, in bytes.
const THINNED_LEN: usize = 12;

/// Length of an encoded kept version in bytes.
const KEPT_VERSION_LEN: usize = 24;

/// A run of consecutive segments that were dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedRange {
    /// Seq of its first record.
    pub first_seq: Seq,
    /// Checksum of the record before the first one.
    pub previous_checksum: u32,
    /// First seq of its last segment.
    pub last_segment: Seq,
    /// Seq of its last record.
    pub last_seq: Seq,
    /// Number of versions in all segments before the range.
    pub versions_before: u64,
    /// Ordinal of the newest version before the range; 0 when there is none.
    pub ordinal_before: u64,
    /// Number of versions in the range.
    pub versions: u64,
    /// Number of segments.
    pub segments: u32,
    /// Total length of the segment files in bytes.
    pub bytes: u64,
}

impl PrunedRange {
    /// Whether the segment that begins with this seq is in the range.
    pub fn has(&self, first_seq: Seq) -> bool {
        (self.first_seq..=self.last_segment).contains(&first_seq)
    }

    /// The seqs of the dropped records.
    pub fn seqs(&self) -> RangeInclusive<Seq> {
        self.first_seq..=self.last_seq
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first_seq.get().to_le_bytes());
        out.extend_from_slice(&self.previous_checksum.to_le_bytes());
        out.extend_from_slice(&self.last_segment.get().to_le_bytes());
        out.extend_from_slice(&self.last_seq.get().to_le_bytes());
        out.extend_from_slice(&self.versions_before.to_le_bytes());
        out.extend_from_slice(&self.ordinal_before.to_le_bytes());
        out.extend_from_slice(&self.versions.to_le_bytes());
        out.extend_from_slice(&self.segments.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
    }

    fn decode(fields: &mut Reader<'_>) -> Result<Self, Damage> {
        let first_seq = decode_seq(fields, "first_seq")?;
        let previous_checksum = fields.u32()?;
        let range = Self {
            first_seq,
            previous_checksum,
            last_segment: decode_seq(fields, "last_segment")?,
            last_seq: decode_seq(fields, "last_seq")?,
            versions_before: fields.u64()?,
            ordinal_before: fields.u64()?,
            versions: fields.u64()?,
            segments: fields.u32()?,
            bytes: fields.u64()?,
        };
        if range.first_seq > range.last_segment
            || range.last_segment > range.last_seq
            || range.last_seq.get() == u64::MAX
        {
            return Err(Damage::Field { field: "last_seq", value: range.last_seq.get() });
        }
        Ok(range)
    }
}

fn decode_seq(fields: &mut Reader<'_>, field: &'static str) -> Result<Seq, Damage> {
    Seq::new(fields.u64()?).ok_or(Damage::Field { field, value: 0 })
}

/// Location of a pruned segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunedSegmentEntry {
    /// First seq of the segment.
    pub segment: Seq,
    /// Offset of its checksum in the file.
    pub offset: u64,
    /// Length in bytes, without the checksum.
    pub len: u32,
}

/// A version that was kept although its segment was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptVersion {
    /// Seq of the version's newest record.
    pub seq: Seq,
    /// Ordinal of the version.
    pub ordinal: u64,
    /// Time at which that record was received.
    pub recorded_at: Timestamp,
}

/// A dropped segment of which single versions were kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thinned {
    /// First seq of the segment.
    pub segment: Seq,
    /// The kept versions, ascending; at least one.
    pub versions: Vec<KeptVersion>,
}

impl Thinned {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.segment.get().to_le_bytes());
        out.extend_from_slice(&count_bytes(self.versions.len()));
        for version in &self.versions {
            out.extend_from_slice(&version.seq.get().to_le_bytes());
            out.extend_from_slice(&version.ordinal.to_le_bytes());
            out.extend_from_slice(&version.recorded_at.as_micros().to_le_bytes());
        }
    }

    fn decode(fields: &mut Reader<'_>) -> Result<Self, Damage> {
        let mut thinned = Self { segment: decode_seq(fields, "segment")?, versions: Vec::new() };
        for _ in 0..count(fields, KEPT_VERSION_LEN, "versions")? {
            let (seq, ordinal, micros) = (decode_seq(fields, "seq")?, fields.u64()?, fields.i64()?);
            let time = Damage::Field { field: "recorded_at", value: micros.cast_unsigned() };
            let version = KeptVersion { seq, ordinal, recorded_at: Timestamp::from_micros(micros).ok_or(time)? };
            let follows = |before: &KeptVersion| before.seq < version.seq && before.ordinal < version.ordinal;
            if !thinned.versions.last().map_or(thinned.segment <= seq, follows) {
                return Err(Damage::Contradiction("the versions that it kept are not in order"));
            }
            thinned.versions.push(version);
        }
        match thinned.versions.is_empty() {
            true => Err(Damage::Contradiction("a segment was thinned to nothing")),
            false => Ok(thinned),
        }
    }
}

/// The directory of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedDirectory {
    /// The ranges, ascending.
    pub ranges: Vec<PrunedRange>,
    /// The pruned segments, ascending: those that kept segments or versions refer to.
    pub segments: Vec<PrunedSegmentEntry>,
    /// The segments of which versions were kept, ascending. They are in ranges, and are pruned segments.
    pub thinned: Vec<Thinned>,
}

impl PrunedDirectory {
    /// Encodes the directory.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.ranges.len() * RANGE_LEN + self.segments.len() * ENTRY_LEN);
        out.extend_from_slice(&count_bytes(self.ranges.len()));
        self.ranges.iter().for_each(|range| range.encode(&mut out));
        out.extend_from_slice(&count_bytes(self.segments.len()));
        for entry in &self.segments {
            out.extend_from_slice(&entry.segment.get().to_le_bytes());
            out.extend_from_slice(&entry.offset.to_le_bytes());
            out.extend_from_slice(&entry.len.to_le_bytes());
        }
        out.extend_from_slice(&count_bytes(self.thinned.len()));
        self.thinned.iter().for_each(|thinned| thinned.encode(&mut out));
        out
    }

    /// Decodes a directory.
    ///
    /// # Errors
    /// When the bytes are not a directory, or contradict themselves: ranges touch or overlap, a pruned segment is in
    /// no range, or the last segment of a range, or a thinned segment, is not listed.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        let mut directory = Self::default();
        for _ in 0..count(&mut fields, RANGE_LEN, "ranges")? {
            let range = PrunedRange::decode(&mut fields)?;
            // Two ranges that touch are stored as one.
            if directory.ranges.last().is_some_and(|before| range.first_seq <= before.last_seq.next()) {
                return Err(Damage::Contradiction("its ranges are not in order"));
            }
            directory.ranges.push(range);
        }
        for _ in 0..count(&mut fields, ENTRY_LEN, "segments")? {
            let segment = decode_seq(&mut fields, "segment")?;
            let entry = PrunedSegmentEntry { segment, offset: fields.u64()?, len: fields.u32()? };
            if directory.segments.last().is_some_and(|before| entry.segment <= before.segment) {
                return Err(Damage::Contradiction("its segments are not in order"));
            }
            if directory.range_of(segment).is_none() {
                return Err(Damage::Contradiction("it lists a segment that was not dropped"));
            }
            directory.segments.push(entry);
        }
        for _ in 0..count(&mut fields, THINNED_LEN, "thinned")? {
            let thinned = Thinned::decode(&mut fields)?;
            if directory.thinned.last().is_some_and(|before| thinned.segment <= before.segment) {
                return Err(Damage::Contradiction("its thinned segments are not in order"));
            }
            if directory.entry_of(thinned.segment).is_none() {
                return Err(Damage::Contradiction("a thinned segment is not listed"));
            }
            directory.thinned.push(thinned);
        }
        if !fields.rest().is_empty() {
            return Err(Damage::Contradiction("its directory has a rest"));
        }
        if directory.ranges.iter().any(|range| directory.entry_of(range.last_segment).is_none()) {
            return Err(Damage::Contradiction("the last segment of a range is not listed"));
        }
        Ok(directory)
    }

    /// The range that a segment is in; `None` when the segment was not dropped.
    pub fn range_of(&self, first_seq: Seq) -> Option<&PrunedRange> {
        let position = self.ranges.partition_point(|range| range.first_seq <= first_seq).checked_sub(1)?;
        self.ranges.get(position).filter(|range| range.has(first_seq))
    }

    /// The range that begins with this record.
    pub fn range_at(&self, first_seq: Seq) -> Option<&PrunedRange> {
        let position = self.ranges.binary_search_by_key(&first_seq, |range| range.first_seq).ok()?;
        self.ranges.get(position)
    }

    /// The kept versions of a segment; `None` when the segment was not thinned.
    pub fn thinned(&self, first_seq: Seq) -> Option<&Thinned> {
        let position = self.thinned.binary_search_by_key(&first_seq, |thinned| thinned.segment).ok()?;
        self.thinned.get(position)
    }

    /// The entry of a pruned segment.
    pub fn entry_of(&self, first_seq: Seq) -> Option<PrunedSegmentEntry> {
        let position = self.segments.binary_search_by_key(&first_seq, |entry| entry.segment).ok()?;
        self.segments.get(position).copied()
    }
}

/// Encodes a count.
fn count_bytes(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("BUG: every one of them takes bytes of a file").to_le_bytes()
}

/// Decodes a count of entries of `each` bytes.
fn count(fields: &mut Reader<'_>, each: usize, field: &'static str) -> Result<u32, Damage> {
    let count = fields.u32()?;
    if count as usize > fields.rest().len() / each {
        return Err(Damage::Field { field, value: count.into() });
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    fn range(first: u64, last_segment: u64, last: u64) -> PrunedRange {
        PrunedRange {
            first_seq: seq(first),
            previous_checksum: 1,
            last_segment: seq(last_segment),
            last_seq: seq(last),
            versions_before: 2,
            ordinal_before: 3,
            versions: 4,
            segments: 5,
            bytes: 6,
        }
    }

    fn entry(segment: u64) -> PrunedSegmentEntry {
        PrunedSegmentEntry { segment: seq(segment), offset: 7, len: 8 }
    }

    fn thinned(segment: u64, seqs: &[u64]) -> Thinned {
        let recorded_at = Timestamp::from_micros(9).unwrap();
        let version = |&number: &u64| KeptVersion { seq: seq(number), ordinal: number + 100, recorded_at };
        Thinned { segment: seq(segment), versions: seqs.iter().map(version).collect() }
    }

    #[test]
    fn a_directory_says_what_is_dropped() {
        let directory = PrunedDirectory {
            ranges: vec![range(1, 20, 29), range(50, 50, 59)],
            segments: vec![entry(20), entry(50)],
            thinned: vec![thinned(20, &[22, 29]), thinned(50, &[50])],
        };
        let bytes = directory.encode();
        assert_eq!(PrunedDirectory::decode(&bytes).as_ref(), Ok(&directory));
        let is_dropped = |first| directory.range_of(seq(first)).is_some();
        assert_eq!([1, 20, 29, 30, 49, 50, 51].map(is_dropped), [true, true, false, false, false, true, false]);
        assert_eq!(directory.range_at(seq(50)).unwrap().last_seq, seq(59));
        assert_eq!(directory.thinned(seq(20)), Some(&thinned(20, &[22, 29])));
        assert_eq!(directory.thinned(seq(1)), None);
        assert!(directory.range_at(seq(20)).is_none() && directory.entry_of(seq(1)).is_none());
        for len in 0..bytes.len() {
            assert!(PrunedDirectory::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(PrunedDirectory::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_directory_that_contradicts_itself_is_refused() {
        let segments = vec![entry(20), entry(50)];
        for (ranges, segments) in [
            (vec![range(50, 50, 59), range(1, 20, 29)], segments.clone()),
            (vec![range(1, 20, 49), range(50, 50, 59)], segments.clone()),
            (vec![range(1, 20, 29)], segments.clone()),
            (vec![range(1, 20, 29)], vec![]),
            (vec![range(1, 20, 29)], vec![entry(20), entry(20)]),
            (vec![range(21, 20, 29)], vec![entry(20)]),
            (vec![range(1, 20, 19)], vec![entry(20)]),
        ] {
            let bytes = PrunedDirectory { ranges, segments, thinned: vec![] }.encode();
            assert!(PrunedDirectory::decode(&bytes).is_err(), "{bytes:?}");
        }
        for thinned in [
            vec![thinned(50, &[50]), thinned(20, &[20])],
            vec![thinned(20, &[20]), thinned(20, &[21])],
            vec![thinned(20, &[])],
            vec![thinned(20, &[19])],
            vec![thinned(20, &[22, 22])],
            vec![thinned(1, &[2])],
        ] {
            let ranges = vec![range(1, 20, 29), range(50, 50, 59)];
            let bytes = PrunedDirectory { ranges, segments: segments.clone(), thinned }.encode();
            assert!(PrunedDirectory::decode(&bytes).is_err(), "{bytes:?}");
        }
        assert!(PrunedDirectory::decode(&[0xff; 64]).is_err());
    }
}

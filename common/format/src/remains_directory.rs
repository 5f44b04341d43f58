//! The directory of the file `remains`: the dropped segments, the remaining parts of some, and the kept versions of others.

use std::ops::RangeInclusive;

use super::Damage;
use super::fields::Reader;
use crate::units::{Seq, Timestamp};

/// Length of an encoded gap in bytes.
const GAP_LEN: usize = 60;

/// Length of an encoded part entry in bytes.
const PART_ENTRY_LEN: usize = 20;

/// Length of an encoded thinned segment without its versions, in bytes.
const THINNED_LEN: usize = 12;

/// Length of an encoded kept version in bytes.
const KEPT_VERSION_LEN: usize = 24;

/// A run of consecutive segments that were dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Seq of its first record.
    pub first_seq: Seq,
    /// Checksum of the record before the first one.
    pub previous_checksum: u32,
    /// First seq of its last segment.
    pub last_segment: Seq,
    /// Seq of its last record.
    pub last_seq: Seq,
    /// Number of versions in all segments before the gap.
    pub versions_before: u64,
    /// Ordinal of the newest version before the gap; 0 when there is none.
    pub place_before: u64,
    /// Number of versions in the gap.
    pub versions: u64,
    /// Number of segments.
    pub segments: u32,
    /// Total length of the segment files in bytes.
    pub bytes: u64,
}

impl Gap {
    /// Whether the segment that begins with this seq is in the gap.
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
        out.extend_from_slice(&self.place_before.to_le_bytes());
        out.extend_from_slice(&self.versions.to_le_bytes());
        out.extend_from_slice(&self.segments.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
    }

    fn decode(fields: &mut Reader<'_>) -> Result<Self, Damage> {
        let first_seq = decode_seq(fields, "first_seq")?;
        let previous_checksum = fields.u32()?;
        let gap = Self {
            first_seq,
            previous_checksum,
            last_segment: decode_seq(fields, "last_segment")?,
            last_seq: decode_seq(fields, "last_seq")?,
            versions_before: fields.u64()?,
            place_before: fields.u64()?,
            versions: fields.u64()?,
            segments: fields.u32()?,
            bytes: fields.u64()?,
        };
        if gap.first_seq > gap.last_segment || gap.last_segment > gap.last_seq || gap.last_seq.get() == u64::MAX {
            return Err(Damage::Field { field: "last_seq", value: gap.last_seq.get() });
        }
        Ok(gap)
    }
}

fn decode_seq(fields: &mut Reader<'_>, field: &'static str) -> Result<Seq, Damage> {
    Seq::new(fields.u64()?).ok_or(Damage::Field { field, value: 0 })
}

/// Location of the remaining part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartEntry {
    /// First seq of the segment.
    pub segment: Seq,
    /// Offset of the part's checksum in the file.
    pub offset: u64,
    /// Length of the part in bytes, without its checksum.
    pub len: u32,
}

/// A version that was kept although its segment was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptVersion {
    /// Seq of the version's newest record.
    pub seq: Seq,
    /// Ordinal of the version.
    pub place: u64,
    /// When that record was received.
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
            out.extend_from_slice(&version.place.to_le_bytes());
            out.extend_from_slice(&version.recorded_at.as_micros().to_le_bytes());
        }
    }

    fn decode(fields: &mut Reader<'_>) -> Result<Self, Damage> {
        let mut thinned = Self { segment: decode_seq(fields, "segment")?, versions: Vec::new() };
        for _ in 0..count(fields, KEPT_VERSION_LEN, "versions")? {
            let (seq, place, micros) = (decode_seq(fields, "seq")?, fields.u64()?, fields.i64()?);
            let time = Damage::Field { field: "recorded_at", value: micros.cast_unsigned() };
            let version = KeptVersion { seq, place, recorded_at: Timestamp::from_micros(micros).ok_or(time)? };
            let follows = |before: &KeptVersion| before.seq < version.seq && before.place < version.place;
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
pub struct RemainsDirectory {
    /// The gaps, ascending.
    pub gaps: Vec<Gap>,
    /// The remaining parts of the segments that are still referenced, ascending.
    pub parts: Vec<PartEntry>,
    /// The segments of which versions were kept, ascending. They are in gaps, and have parts.
    pub thinned: Vec<Thinned>,
}

impl RemainsDirectory {
    /// Encodes the directory.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.gaps.len() * GAP_LEN + self.parts.len() * PART_ENTRY_LEN);
        out.extend_from_slice(&count_bytes(self.gaps.len()));
        self.gaps.iter().for_each(|gap| gap.encode(&mut out));
        out.extend_from_slice(&count_bytes(self.parts.len()));
        for part in &self.parts {
            out.extend_from_slice(&part.segment.get().to_le_bytes());
            out.extend_from_slice(&part.offset.to_le_bytes());
            out.extend_from_slice(&part.len.to_le_bytes());
        }
        out.extend_from_slice(&count_bytes(self.thinned.len()));
        self.thinned.iter().for_each(|thinned| thinned.encode(&mut out));
        out
    }

    /// Decodes a directory.
    ///
    /// # Errors
    /// When the bytes are not a directory, or contradict themselves: gaps touch or overlap, a part is in no gap, the last segment
    /// of a gap has no part, or a thinned segment has none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        let mut directory = Self::default();
        for _ in 0..count(&mut fields, GAP_LEN, "gaps")? {
            let gap = Gap::decode(&mut fields)?;
            // Two gaps that touch are stored as one.
            if directory.gaps.last().is_some_and(|before| gap.first_seq <= before.last_seq.next()) {
                return Err(Damage::Contradiction("its gaps are not in order"));
            }
            directory.gaps.push(gap);
        }
        for _ in 0..count(&mut fields, PART_ENTRY_LEN, "parts")? {
            let segment = decode_seq(&mut fields, "segment")?;
            let part = PartEntry { segment, offset: fields.u64()?, len: fields.u32()? };
            if directory.parts.last().is_some_and(|before| part.segment <= before.segment) {
                return Err(Damage::Contradiction("its parts are not in order"));
            }
            if directory.gap_of(segment).is_none() {
                return Err(Damage::Contradiction("it has a part of a segment that was not dropped"));
            }
            directory.parts.push(part);
        }
        for _ in 0..count(&mut fields, THINNED_LEN, "thinned")? {
            let thinned = Thinned::decode(&mut fields)?;
            if directory.thinned.last().is_some_and(|before| thinned.segment <= before.segment) {
                return Err(Damage::Contradiction("its thinned segments are not in order"));
            }
            if directory.part_of(thinned.segment).is_none() {
                return Err(Damage::Contradiction("a segment that was thinned has no part"));
            }
            directory.thinned.push(thinned);
        }
        if !fields.rest().is_empty() {
            return Err(Damage::Contradiction("its directory has a rest"));
        }
        if directory.gaps.iter().any(|gap| directory.part_of(gap.last_segment).is_none()) {
            return Err(Damage::Contradiction("the last segment of a gap has no part"));
        }
        Ok(directory)
    }

    /// The gap that a segment is in; `None` when the segment was not dropped.
    pub fn gap_of(&self, first_seq: Seq) -> Option<&Gap> {
        let position = self.gaps.partition_point(|gap| gap.first_seq <= first_seq).checked_sub(1)?;
        self.gaps.get(position).filter(|gap| gap.has(first_seq))
    }

    /// The gap that begins with this record.
    pub fn gap_at(&self, first_seq: Seq) -> Option<&Gap> {
        let position = self.gaps.binary_search_by_key(&first_seq, |gap| gap.first_seq).ok()?;
        self.gaps.get(position)
    }

    /// The kept versions of a segment; `None` when the segment was not thinned.
    pub fn thinned(&self, first_seq: Seq) -> Option<&Thinned> {
        let position = self.thinned.binary_search_by_key(&first_seq, |thinned| thinned.segment).ok()?;
        self.thinned.get(position)
    }

    /// The remaining part of a segment.
    pub fn part_of(&self, first_seq: Seq) -> Option<PartEntry> {
        let position = self.parts.binary_search_by_key(&first_seq, |part| part.segment).ok()?;
        self.parts.get(position).copied()
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

    fn gap(first: u64, last_segment: u64, last: u64) -> Gap {
        Gap {
            first_seq: seq(first),
            previous_checksum: 1,
            last_segment: seq(last_segment),
            last_seq: seq(last),
            versions_before: 2,
            place_before: 3,
            versions: 4,
            segments: 5,
            bytes: 6,
        }
    }

    fn part(segment: u64) -> PartEntry {
        PartEntry { segment: seq(segment), offset: 7, len: 8 }
    }

    fn thinned(segment: u64, seqs: &[u64]) -> Thinned {
        let recorded_at = Timestamp::from_micros(9).unwrap();
        let version = |&number: &u64| KeptVersion { seq: seq(number), place: number + 100, recorded_at };
        Thinned { segment: seq(segment), versions: seqs.iter().map(version).collect() }
    }

    #[test]
    fn a_directory_says_what_is_dropped() {
        let directory = RemainsDirectory {
            gaps: vec![gap(1, 20, 29), gap(50, 50, 59)],
            parts: vec![part(20), part(50)],
            thinned: vec![thinned(20, &[22, 29]), thinned(50, &[50])],
        };
        let bytes = directory.encode();
        assert_eq!(RemainsDirectory::decode(&bytes).as_ref(), Ok(&directory));
        let is_dropped = |first| directory.gap_of(seq(first)).is_some();
        assert_eq!([1, 20, 29, 30, 49, 50, 51].map(is_dropped), [true, true, false, false, false, true, false]);
        assert_eq!(directory.gap_at(seq(50)).unwrap().last_seq, seq(59));
        assert_eq!(directory.thinned(seq(20)), Some(&thinned(20, &[22, 29])));
        assert_eq!(directory.thinned(seq(1)), None);
        assert!(directory.gap_at(seq(20)).is_none() && directory.part_of(seq(1)).is_none());
        for len in 0..bytes.len() {
            assert!(RemainsDirectory::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(RemainsDirectory::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_directory_that_contradicts_itself_is_refused() {
        let parts = vec![part(20), part(50)];
        for (gaps, parts) in [
            (vec![gap(50, 50, 59), gap(1, 20, 29)], parts.clone()),
            (vec![gap(1, 20, 49), gap(50, 50, 59)], parts.clone()),
            (vec![gap(1, 20, 29)], parts.clone()),
            (vec![gap(1, 20, 29)], vec![]),
            (vec![gap(1, 20, 29)], vec![part(20), part(20)]),
            (vec![gap(21, 20, 29)], vec![part(20)]),
            (vec![gap(1, 20, 19)], vec![part(20)]),
        ] {
            let bytes = RemainsDirectory { gaps, parts, thinned: vec![] }.encode();
            assert!(RemainsDirectory::decode(&bytes).is_err(), "{bytes:?}");
        }
        for thinned in [
            vec![thinned(50, &[50]), thinned(20, &[20])],
            vec![thinned(20, &[20]), thinned(20, &[21])],
            vec![thinned(20, &[])],
            vec![thinned(20, &[19])],
            vec![thinned(20, &[22, 22])],
            vec![thinned(1, &[2])],
        ] {
            let gaps = vec![gap(1, 20, 29), gap(50, 50, 59)];
            let bytes = RemainsDirectory { gaps, parts: parts.clone(), thinned }.encode();
            assert!(RemainsDirectory::decode(&bytes).is_err(), "{bytes:?}");
        }
        assert!(RemainsDirectory::decode(&[0xff; 64]).is_err());
    }
}

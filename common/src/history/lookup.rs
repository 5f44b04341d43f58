//! Lookup of versions by number, ordinal or record, and of their files.

use super::{History, Loaded};
use crate::log::RecordAddress;
use crate::segment::live_record::LiveKind;
use crate::segment::timeline::{PrecedingVersion, Timeline};
use crate::segment::version::{Version, VersionOrdinal};
use crate::storage::read_error::ReadError;
use format::names;
use format::segment::SegmentFooter;
use format::units::{DataVersion, Seq};

impl History {
    /// The version with this number; `None` when it is unknown, was lost in a gap, or was rewound.
    ///
    /// # Errors
    /// When the segment that would hold it cannot be read.
    pub fn version(&self, data_version: DataVersion) -> Result<Option<Version>, ReadError> {
        let newest = match self.newest_ordinal() {
            PrecedingVersion::Version(ordinal) => ordinal,
            PrecedingVersion::Nothing => return Ok(None),
            PrecedingVersion::Unknown => VersionOrdinal(data_version.get().into()),
        };
        for ordinal in newest.candidates(data_version) {
            if let Some(version) = self.version_at(ordinal)? {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    fn version_at(&self, ordinal: VersionOrdinal) -> Result<Option<Version>, ReadError> {
        if let Some(version) = self.tail.iter().rev().find_map(|timeline| timeline.version_at(ordinal)) {
            return Ok(Some(version.clone()));
        }
        match self.segment_of(ordinal)? {
            Some(segment) => Ok(self.segments.timeline(segment)?.version_at(ordinal).cloned()),
            None => Ok(None),
        }
    }

    /// The segment whose range of ordinals includes this one.
    fn segment_of(&self, ordinal: VersionOrdinal) -> Result<Option<Seq>, ReadError> {
        let mut candidates = self.sealed.as_slice();
        let mut unreadable = None;
        while !candidates.is_empty() {
            let middle = candidates.len() / 2;
            // For a damaged segment its neighbours decide.
            let around = (0..=middle).rev().chain(middle + 1..candidates.len());
            let readable = around.into_iter().find_map(|position| match self.segments.footer(candidates[position]) {
                Ok(footer) => Some((position, footer)),
                Err(error) => {
                    unreadable = Some(error);
                    None
                }
            });
            let Some((position, footer)) = readable else { break };
            let SegmentFooter { ordinal_before, ordinal: last, versions_before, .. } = *footer;
            let is_first = versions_before == 0;
            if ordinal.0 > last {
                candidates = &candidates[position + 1..];
            } else if ordinal.0 <= ordinal_before && !is_first {
                candidates = &candidates[..position];
            } else {
                return Ok(Some(candidates[position]));
            }
        }
        // Either the version is outside of all readable segments, and no other is left, or it is in a damaged one.
        match unreadable {
            Some(error) if !candidates.is_empty() => Err(error),
            _ => Ok(None),
        }
    }

    /// The timeline with the record with this seq.
    pub(super) fn timeline_of(&self, seq: Seq) -> Result<Option<Loaded<'_>>, ReadError> {
        let in_tail = self.tail.partition_point(|timeline| timeline.first_seq() <= seq);
        if let Some(timeline) = in_tail.checked_sub(1).and_then(|position| self.tail.get(position)) {
            return Ok(Some(Loaded::Tail(timeline)));
        }
        let position = self.sealed.partition_point(|&first| first <= seq).checked_sub(1);
        match position.and_then(|position| self.sealed.get(position)) {
            Some(&segment) => self.segments.timeline(segment).map(|timeline| Some(Loaded::Sealed(timeline))),
            None => Ok(None),
        }
    }

    /// The version whose newest record has this seq.
    ///
    /// # Errors
    /// When the segment that would hold it cannot be read.
    pub fn version_by_seq(&self, seq: Seq) -> Result<Option<Version>, ReadError> {
        Ok(self.timeline_of(seq)?.and_then(|timeline| timeline.version_by_seq(seq).cloned()))
    }

    /// Addresses of the change and the riders of `version`; empty for a version that was recorded only as a snapshot.
    ///
    /// # Errors
    /// When the segment that holds it cannot be read.
    pub fn records_of(&self, version: &Version) -> Result<Vec<RecordAddress>, ReadError> {
        let Some(timeline) = self.timeline_of(version.seq)? else {
            return Ok(Vec::new());
        };
        Ok(timeline.changes_of(version).collect())
    }

    /// The newest version before the record with this seq.
    ///
    /// # Errors
    /// When the segment that may hold it cannot be read.
    pub(crate) fn version_before(&self, seq: Seq) -> Result<Option<Version>, ReadError> {
        let newest = |timeline: &Timeline| {
            let versions = timeline.versions();
            versions
                .partition_point(|version| version.seq < seq)
                .checked_sub(1)
                .and_then(|at| versions.get(at))
                .cloned()
        };
        if let Some(found) = self.tail.iter().rev().find_map(newest) {
            return Ok(Some(found));
        }
        for &segment in self.sealed.iter().rev().filter(|&&first| first < seq) {
            if let Some(found) = newest(&*self.segments.timeline(segment)?) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The name of the file that holds the first record of `version`.
    ///
    /// # Errors
    /// When the segment that holds it cannot be read.
    pub fn file_name_of(&self, version: &Version) -> Result<Option<String>, ReadError> {
        let Some(timeline) = self.timeline_of(version.seq)? else {
            return Ok(None);
        };
        let Some(record) = timeline.records().get(version.first_record) else {
            return Ok(None);
        };
        let in_log = matches!(record.address, RecordAddress::Log { .. });
        Ok(Some(if in_log && record.kind == LiveKind::Snapshot {
            names::snapshot(record.seq())
        } else if timeline.is_thinned() {
            names::PRUNED.to_owned()
        } else {
            record.address.file_name()
        }))
    }
}

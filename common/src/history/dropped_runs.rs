//! The dropped segments as entries of the timeline.

use std::iter::Peekable;
use std::slice::Iter;

use super::{Segments, Timeline};
use crate::segment::version::{TimelineEntry, VersionOrdinal};
use crate::storage::read_error::ReadError;
use format::pruned_directory::PrunedRange;
use format::units::Seq;

/// The runs of dropped versions, in order, between the segments that still have versions.
pub(super) struct DroppedRuns<'a> {
    segments: &'a Segments,
    ranges: Peekable<Iter<'a, PrunedRange>>,
    /// Number of versions in all segments before the rest of the next range.
    counted: u64,
    /// The error when a footer could not be read.
    pub(super) unreadable: Option<ReadError>,
}

impl<'a> DroppedRuns<'a> {
    pub(super) fn new(ranges: &'a [PrunedRange], segments: &'a Segments) -> Self {
        Self { segments, ranges: ranges.iter().peekable(), counted: 0, unreadable: None }
    }

    /// The next run before this timeline; `None` when there are no more.
    pub(super) fn next_before(&mut self, timeline: &Timeline) -> Option<TimelineEntry> {
        let first_seq = timeline.first_seq();
        while let Some(range) = self.ranges.next_if(|range| range.last_seq < first_seq) {
            let counted = std::mem::replace(&mut self.counted, 0).max(range.versions_before);
            let end = range.versions_before.saturating_add(range.versions);
            let ordinal = self.segments.footer(range.last_segment).map(|footer| footer.ordinal);
            if let Some(entry) = self.entry(counted, end, ordinal, range.last_seq.next()) {
                return Some(entry);
            }
        }
        let range = self.ranges.peek().filter(|range| range.has(first_seq))?;
        let counted = self.counted.max(range.versions_before);
        // The footer is cached: the timeline was built from it.
        let footer = self.segments.footer(first_seq).ok()?;
        self.counted = footer.versions_before.saturating_add(footer.versions.into());
        self.entry(counted, footer.versions_before, Ok(footer.ordinal_before), first_seq)
    }

    fn entry(
        &mut self,
        counted: u64,
        upto: u64,
        ordinal: Result<u64, ReadError>,
        before: Seq,
    ) -> Option<TimelineEntry> {
        let versions = upto.checked_sub(counted).filter(|&versions| versions > 0)?;
        match ordinal {
            Ok(ordinal) => {
                Some(TimelineEntry::Dropped { versions, last: VersionOrdinal(ordinal).data_version(), before })
            }
            Err(error) => {
                self.unreadable.get_or_insert(error);
                None
            }
        }
    }
}

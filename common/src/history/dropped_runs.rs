//! The dropped segments as entries of the timeline.

use std::iter::Peekable;
use std::slice::Iter;

use super::{Segments, Timeline};
use crate::segment::version::{TimelineEntry, VersionOrdinal};
use crate::storage::read_error::ReadError;
use format::remains_directory::Gap;
use format::units::Seq;

/// The runs of dropped versions, in order, between the segments that still have versions.
pub(super) struct DroppedRuns<'a> {
    segments: &'a Segments,
    gaps: Peekable<Iter<'a, Gap>>,
    /// Number of versions in all segments before the rest of the next gap.
    counted: u64,
    /// The error when a footer could not be read.
    pub(super) unreadable: Option<ReadError>,
}

impl<'a> DroppedRuns<'a> {
    pub(super) fn new(gaps: &'a [Gap], segments: &'a Segments) -> Self {
        Self { segments, gaps: gaps.iter().peekable(), counted: 0, unreadable: None }
    }

    /// The next run before this timeline; `None` when there are no more.
    pub(super) fn next_before(&mut self, timeline: &Timeline) -> Option<TimelineEntry> {
        let first_seq = timeline.first_seq();
        while let Some(gap) = self.gaps.next_if(|gap| gap.last_seq < first_seq) {
            let counted = std::mem::replace(&mut self.counted, 0).max(gap.versions_before);
            let end = gap.versions_before.saturating_add(gap.versions);
            let place = self.segments.footer(gap.last_segment).map(|footer| footer.place);
            if let Some(entry) = self.entry(counted, end, place, gap.last_seq.next()) {
                return Some(entry);
            }
        }
        let gap = self.gaps.peek().filter(|gap| gap.has(first_seq))?;
        let counted = self.counted.max(gap.versions_before);
        // The footer is cached: the timeline was built from it.
        let footer = self.segments.footer(first_seq).ok()?;
        self.counted = footer.versions_before.saturating_add(footer.versions.into());
        self.entry(counted, footer.versions_before, Ok(footer.place_before), first_seq)
    }

    fn entry(&mut self, counted: u64, upto: u64, place: Result<u64, ReadError>, before: Seq) -> Option<TimelineEntry> {
        let versions = upto.checked_sub(counted).filter(|&versions| versions > 0)?;
        match place {
            Ok(place) => Some(TimelineEntry::Dropped { versions, last: VersionOrdinal(place).data_version(), before }),
            Err(error) => {
                self.unreadable.get_or_insert(error);
                None
            }
        }
    }
}

//! What opening a version reads, fetched at once in a directory that is far: a few ways to the store and back instead of hundreds.
//!
//! All of it is a hint. What is missing is read when it is needed.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::backup::Backup;
use crate::history::{ReplayPlan, Start};
use crate::segment::{SealedState, ends_of};
use crate::storage::{Access, Wanted};
use format::names;
use format::segment::Location;
use format::units::{Keyframe, Seq};

impl Backup {
    /// Has everything fetched at once that opening the version of this plan reads.
    pub(crate) fn fetch_reads(&self, plan: &ReplayPlan) {
        let Start::Segment(first, state) = plan.start else { return };
        if !self.directory.is_far() || plan.changes.is_empty() {
            return;
        }
        let sets = match self.segments.read_sets(first) {
            Ok(sets) => sets,
            Err(error) => return log::debug!("a version is opened without its read set: {error}"),
        };
        let (blocks, pages) = sets.of(match state {
            SealedState::At { keyframe, .. } => keyframe,
            SealedState::End => Keyframe::END,
        });
        let mut ranges: BTreeMap<Seq, Vec<Range<u64>>> = BTreeMap::new();
        for Location { segment, block } in blocks.chain(self.statements_from(first, state)) {
            ranges.entry(segment).or_default().extend(block.end().map(|end| block.offset..end));
        }
        let mut wanted: Vec<Wanted> =
            ranges.into_iter().flat_map(|(segment, ranges)| self.of_segment(segment, ranges)).collect();
        let snapshot = self.segments.footer(first).ok().and_then(|footer| footer.snapshot);
        let mut pages = pages.peekable();
        if let Some(Ok(snapshot)) = snapshot.filter(|_| pages.peek().is_some()).map(|id| self.open_snapshot(id)) {
            let name = names::snapshot(snapshot.header().seq);
            let ranges = pages.filter_map(|page| snapshot.bytes_of(page));
            wanted.extend(ranges.map(|range| Wanted { name: name.clone(), range }));
        }
        self.directory.will_need(&wanted);
    }

    /// The templates and the statements of the interval of a state.
    fn statements_from(&self, first: Seq, state: SealedState) -> impl Iterator<Item = Location> {
        let interval = match state {
            SealedState::At { keyframe, .. } => self.segments.timeline(first).ok().map(|timeline| (timeline, keyframe)),
            SealedState::End => None,
        };
        let statements = interval.and_then(|(timeline, keyframe)| timeline.interval(keyframe).map(|it| it.block));
        let templates = statements.and_then(|_| self.segments.footer(first).ok()).map(|footer| footer.templates);
        [templates, statements].into_iter().flatten().map(move |block| Location { segment: first, block })
    }

    /// These ranges of a segment, and its beginning and end. None of a dropped one: what is left of it is in one small file.
    fn of_segment(&self, segment: Seq, mut ranges: Vec<Range<u64>>) -> Vec<Wanted> {
        let name = names::segment(segment);
        let len = self.directory.open(&name, Access::Read).and_then(|file| file.read_len());
        let Ok(len) = len else { return Vec::new() };
        // Whatever the read set says, nothing behind the end is asked for.
        ranges.retain(|range| range.end <= len);
        let ranges = ranges.into_iter().map(|range| Wanted { name: name.clone(), range });
        ranges.chain(ends_of(&name, len)).collect()
    }
}

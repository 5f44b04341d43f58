//! How a version is built: its start pages and its changes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::{History, LiveKind, LiveRecord, Loaded, Timeline, Version};
use crate::log::RecordAddress;
use crate::replay::ChangeAbout;
use crate::segment::SealedState;
use crate::storage::read_error::ReadError;
use format::pruned_directory::KeptVersion;
use format::record_index::ForeignKeys;
use format::snapshot_ref::SnapshotRef;
use format::units::Keyframe;
use format::units::{DataVersion, PageSize, Seq};

/// The plan for a view of a version, independent of the history.
#[derive(Debug, Clone)]
pub struct ReplayPlan {
    pub(crate) data_version: DataVersion,
    pub(crate) seq: Seq,
    /// The start pages.
    pub(crate) start: Start,
    /// The changes to replay, in order.
    pub(crate) changes: Vec<PlannedChange>,
}

impl ReplayPlan {
    /// The plan for the database at the start of the replay.
    #[must_use]
    pub fn without_changes(&self) -> Self {
        Self { changes: Vec::new(), ..*self }
    }
}

/// The database at the start of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// An empty database with this page size.
    Nothing(PageSize),
    /// The snapshot with this seq.
    Snapshot(Seq, SnapshotRef),
    /// A state of a segment.
    Segment(Seq, SealedState),
}

/// A change to replay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedChange {
    pub(crate) about: ChangeAbout,
    pub(crate) address: RecordAddress,
}

impl PlannedChange {
    /// The change's seq.
    pub(crate) fn seq(&self) -> Seq {
        self.about.seq
    }
}

impl History {
    /// The plan for `version`.
    ///
    /// # Errors
    /// When the segment that holds it cannot be read.
    pub fn plan(&self, version: &Version) -> Result<ReplayPlan, ReadError> {
        let plan = |start, changes| ReplayPlan { data_version: version.data_version, seq: version.seq, start, changes };
        match self.timeline_of(version.seq)? {
            Some(Loaded::Sealed(timeline)) => {
                let (start, changes) = plan_in_segment(&timeline, version.seq);
                Ok(plan(start, changes))
            }
            _ => {
                let (start, changes) = self.plan_in_tail(version.seq);
                Ok(plan(start, changes))
            }
        }
    }

    /// Whether changes between the versions that end with these two records were dropped.
    pub(crate) fn is_dropped_between(&self, after: Seq, upto: Seq) -> bool {
        let pruned = self.segments.pruned();
        pruned
            .is_some_and(|pruned| pruned.ranges().iter().any(|range| range.last_seq > after && range.first_seq <= upto))
    }

    /// The changes behind one record, up to another, which lead from the version of the first to that of the second; `None` when
    /// there are more than `most`, a snapshot is among them, or some were dropped.
    ///
    /// # Errors
    /// When a segment with some of them cannot be read.
    pub(crate) fn changes_between(
        &self,
        after: Seq,
        upto: Seq,
        most: usize,
    ) -> Result<Option<Vec<PlannedChange>>, ReadError> {
        if self.is_dropped_between(after, upto) {
            return Ok(None);
        }
        let (mut found, mut is_whole) = (Vec::new(), true);
        self.for_timelines_from(Some(after), &mut |timeline| {
            let records = timeline.records();
            let from = records.partition_point(|record| record.seq() <= after);
            for record in records.get(from..).unwrap_or_default() {
                if record.seq() > upto {
                    return ControlFlow::Break(());
                }
                is_whole &= record.kind == LiveKind::Change && found.len() < most;
                if !is_whole {
                    return ControlFlow::Break(());
                }
                found.push(PlannedChange { about: record.about, address: record.address });
            }
            // Later files may be damaged, and are not needed.
            if timeline.records().last().is_some_and(|last| last.seq() >= upto) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(is_whole.then_some(found))
    }

    /// The plan from the newest snapshot of the logs, or from the sealed end.
    fn plan_in_tail(&self, seq: Seq) -> (Start, Vec<PlannedChange>) {
        let end = self.tail.partition_point(|timeline| timeline.first_seq() <= seq);
        let logs = self.tail.get(..end).unwrap_or_default();
        let with_snapshot = logs.iter().rposition(|timeline| timeline.snapshot().is_some());
        let start = with_snapshot.and_then(|position| {
            let timeline = logs.get(position)?;
            Some(Start::Snapshot(timeline.first_seq(), *timeline.snapshot()?))
        });
        let changes = logs.iter().skip(with_snapshot.unwrap_or(0)).flat_map(|timeline| changes(timeline, seq));
        (start.unwrap_or_else(|| self.sealed_end()), changes.collect())
    }

    pub(crate) fn sealed_end(&self) -> Start {
        self.sealed.last().map_or(Start::Nothing(self.page_size), |&last| Start::Segment(last, SealedState::End))
    }
}

/// The plan from the keyframe before the version, or from the one directly behind it.
fn plan_in_segment(timeline: &Timeline, seq: Seq) -> (Start, Vec<PlannedChange>) {
    let end = timeline.records().partition_point(|record| record.seq() <= seq);
    let (records, later) = timeline.records().split_at(end);
    let interval_of = |record: &LiveRecord| match record.address {
        RecordAddress::Segment { interval, .. } => interval,
        RecordAddress::Log { .. } => Keyframe(0),
    };
    let interval = records.last().map_or(Keyframe(0), interval_of);
    let at = |keyframe: Keyframe| {
        let found = timeline.interval(keyframe).map_or((0, ForeignKeys::On), |it| (it.page_count, it.foreign_keys));
        let (page_count, foreign_keys) = found;
        Start::Segment(timeline.first_seq(), SealedState::At { keyframe, page_count, foreign_keys })
    };
    match later.first().map(interval_of) {
        None => return (Start::Segment(timeline.first_seq(), SealedState::End), Vec::new()),
        // Rewound changes may fill whole intervals; then the next live record is behind several keyframes.
        Some(next) if next != interval => return (at(next), Vec::new()),
        Some(_) => {}
    }
    let first = records.partition_point(|record| interval_of(record) != interval);
    let changes = records.get(first..).unwrap_or_default().iter().filter(|record| record.kind == LiveKind::Change);
    let changes = changes.map(|record| PlannedChange { about: record.about, address: record.address }).collect();
    (at(interval), changes)
}

fn changes(timeline: &Timeline, upto: Seq) -> impl Iterator<Item = PlannedChange> {
    let live = timeline.records().iter().filter(move |record| record.kind == LiveKind::Change && record.seq() <= upto);
    live.map(|record| PlannedChange { about: record.about, address: record.address })
}

/// The parts of a segment that some of its versions need, besides its frame and its record index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NeededBy {
    /// The keyframes whose pages are read; `Keyframe::END` for the end.
    pub(crate) keyframes: BTreeSet<Keyframe>,
    /// The intervals whose changes are replayed or shown.
    pub(crate) blocks: BTreeSet<Keyframe>,
}

impl NeededBy {
    /// The oldest keyframe whose pages are read.
    pub(crate) fn oldest(&self) -> Keyframe {
        self.keyframes.first().copied().unwrap_or(Keyframe::END)
    }

    /// Whether pages of the state before the segment are read.
    pub(crate) fn reads_base(&self) -> bool {
        self.oldest() != Keyframe::END
    }
}

impl Timeline {
    /// The parts of the segment that some of its versions need.
    pub(crate) fn needed_by(&self, kept: &[KeptVersion]) -> NeededBy {
        let mut needed = NeededBy::default();
        for version in kept.iter().filter_map(|kept| self.version_by_seq(kept.seq)) {
            let (start, changes) = plan_in_segment(self, version.seq);
            needed.keyframes.insert(match start {
                Start::Segment(_, SealedState::At { keyframe, .. }) => keyframe,
                _ => Keyframe::END,
            });
            let addresses = changes.iter().map(|change| change.address).chain(self.changes_of(version));
            needed.blocks.extend(addresses.filter_map(|address| match address {
                RecordAddress::Segment { interval, .. } => Some(interval),
                RecordAddress::Log { .. } => None,
            }));
        }
        needed
    }
}

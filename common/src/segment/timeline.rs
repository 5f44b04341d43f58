//! [`Timeline`]: the versions, rewinds and gaps that follow from the records of one log or segment.

mod apply;

use crate::log::RecordAddress;
use crate::segment::live_record::{LiveKind, LiveRecord};
use crate::segment::version::{NewestRecorded, Readable, TimelineEntry, Version, VersionOrdinal};
use apply::Entry;
use format::Damage;
use format::pruned_directory::KeptVersion;
use format::record_index::{IndexedBody, Interval, RecordIndex};
use format::segment::{FollowedBy, SegmentFooter, SegmentHeader};
use format::snapshot_ref::SnapshotRef;
use format::units::Keyframe;
use format::units::{Seq, Timestamp};
use format::version_rules::Commit;

/// The newest version before a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrecedingVersion {
    /// The timeline has no version.
    Nothing,
    /// Ordinal of the version.
    Version(VersionOrdinal),
    /// Unknown: the preceding file is damaged.
    Unknown,
}

impl PrecedingVersion {
    /// The newest version of a footer. An ordinal without versions belongs to versions that cannot be opened.
    pub(crate) fn of_footer(versions: u64, ordinal: u64) -> Self {
        if versions > 0 || ordinal > 0 { Self::Version(VersionOrdinal(ordinal)) } else { Self::Nothing }
    }
}

/// The versions of one log or segment. A log begins with a change that bumps, or with a snapshot, so its timeline does not depend
/// on those before it; and no later log changes it, except that a later change proves that its newest version was committed.
#[derive(Debug)]
pub(crate) struct Timeline {
    first_seq: Seq,
    before: PrecedingVersion,
    /// The snapshot at its beginning.
    snapshot: Option<SnapshotRef>,
    /// The gap at its beginning.
    gap: Option<Gap>,
    records: Vec<LiveRecord>,
    /// All versions, including those that cannot be opened.
    versions: Vec<Version>,
    /// Versions with records from this one on cannot be opened.
    unreadable_from: Option<Seq>,
    /// The newest record, void or not, up to which the versions are verified against the node's database.
    verified: Option<Seq>,
    rewinds_and_gaps: Vec<TimelineEntry>,
    /// Statements, and their bytes, of riders before the first version: the first change of the log was rewound, and the riders
    /// acted on the newest version of the previous log, which is final. They count for the next version.
    early_riders: (u64, u64),
    /// Intervals of the segment; empty for a log.
    intervals: Vec<Interval>,
    left: Completeness,
}

/// A gap of unrecorded versions without a snapshot.
#[derive(Debug, Clone, Copy)]
struct Gap {
    /// Ordinal of its newest version.
    ordinal: VersionOrdinal,
    seq: Seq,
    time: Timestamp,
}

/// The share of a segment's versions that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completeness {
    /// All recorded versions.
    All,
    /// The versions that a compaction kept.
    Some,
}

impl Timeline {
    /// The empty timeline of a log that begins with `first_seq`.
    pub(crate) fn new(first_seq: Seq, before: PrecedingVersion) -> Self {
        Self {
            first_seq,
            before,
            snapshot: None,
            gap: None,
            records: Vec::new(),
            versions: Vec::new(),
            unreadable_from: None,
            verified: None,
            rewinds_and_gaps: Vec::new(),
            early_riders: (0, 0),
            intervals: Vec::new(),
            left: Completeness::All,
        }
    }

    /// The timeline of a segment.
    ///
    /// # Errors
    /// When the index contradicts itself.
    pub(crate) fn of_segment(
        header: &SegmentHeader,
        footer: &SegmentFooter,
        index: RecordIndex,
    ) -> Result<Self, Damage> {
        let before = PrecedingVersion::of_footer(footer.versions_before, footer.ordinal_before);
        let mut timeline = Self::of_index(header.first_seq, before, index, footer.followed_by)?;
        for version in &mut timeline.versions {
            version.page_size = Some(header.page_size);
        }
        if timeline.versions().len() == footer.versions as usize {
            Ok(timeline)
        } else {
            Err(Damage::Contradiction("its record index has another number of versions"))
        }
    }

    /// The timeline of a segment with this index.
    ///
    /// # Errors
    /// When the index contradicts itself.
    pub(crate) fn of_index(
        first_seq: Seq,
        before: PrecedingVersion,
        index: RecordIndex,
        followed_by: FollowedBy,
    ) -> Result<Self, Damage> {
        let mut timeline = Self::new(first_seq, before);
        let mut seq = first_seq;
        let mut interval = 0;
        let mut position = 0;
        for (ordinal, record) in index.records.iter().enumerate() {
            if index.intervals.get(interval as usize + 1).is_some_and(|next| next.first as usize == ordinal) {
                interval += 1;
                position = 0;
            }
            let address = RecordAddress::Segment { segment: first_seq, interval: Keyframe(interval), position };
            position += u32::from(matches!(record.body, IndexedBody::Change { .. }));
            let (data_version, time) = (record.data_version, record.time);
            timeline.apply(
                &Entry { seq, data_version, time, address, page_count: Some(record.page_count) },
                &record.body,
            )?;
            seq = seq.next();
        }
        if let Some(position) = index.unreplayed_from {
            timeline.unreadable_from = Seq::new(first_seq.get().saturating_add(position.into()));
        }
        match followed_by {
            FollowedBy::Change => timeline.confirm_newest(),
            FollowedBy::SameVersion => timeline.give_place_to_snapshot(),
            FollowedBy::Snapshot => {}
        }
        timeline.intervals = index.intervals;
        Ok(timeline)
    }

    /// The timeline with only these consecutive kept versions; rewinds and gaps are dropped, too.
    ///
    /// # Errors
    /// When a kept version is missing.
    pub(crate) fn thinned_to(mut self, kept: &[KeptVersion]) -> Result<Self, Damage> {
        self.left = Completeness::Some;
        self.rewinds_and_gaps.clear();
        self.versions.truncate(self.readable());
        let mut kept = kept.iter().peekable();
        let (mut versions, mut dropped) = (0, None);
        let is_same = |kept: &KeptVersion, version: &Version| {
            (kept.seq, kept.ordinal, kept.recorded_at) == (version.seq, version.ordinal.0, version.recorded_at)
        };
        let all = std::mem::take(&mut self.versions);
        for version in all {
            if kept.next_if(|kept| is_same(kept, &version)).is_none() {
                versions += 1;
                dropped = Some(version.data_version);
                continue;
            }
            if let Some(last) = dropped.take() {
                self.rewinds_and_gaps.push(TimelineEntry::Dropped { versions, last, before: version.seq });
            }
            versions = 0;
            self.versions.push(version);
        }
        if let Some(last) = dropped
            && let Some(record) = self.records.last()
        {
            self.rewinds_and_gaps.push(TimelineEntry::Dropped { versions, last, before: record.seq().next() });
        }
        match kept.next() {
            None => Ok(self),
            Some(_) => Err(Damage::Contradiction("it has not the versions that were kept of it")),
        }
    }

    /// Whether only single versions are left.
    pub(crate) fn is_thinned(&self) -> bool {
        self.left == Completeness::Some
    }

    /// Addresses of the changes of a version, riders included.
    pub(crate) fn changes_of<'a>(&'a self, version: &'a Version) -> impl Iterator<Item = RecordAddress> + 'a {
        let records = self.records.get(version.first_record..).unwrap_or_default();
        let own = records.iter().take_while(|record| record.seq() <= version.seq);
        own.filter(|record| record.kind == LiveKind::Change).map(|record| record.address)
    }

    /// The newest version, of this timeline or before it, whether it can be opened or not.
    pub(crate) fn newest_ordinal(&self) -> PrecedingVersion {
        let gap = self.gap.map(|gap| gap.ordinal);
        self.versions.last().map(|version| version.ordinal).or(gap).map_or(self.before, PrecedingVersion::Version)
    }

    /// Whether the timeline begins with versions that were not recorded.
    pub(crate) fn begins_with_gap(&self) -> bool {
        self.gap.is_some() || self.rewinds_and_gaps.iter().any(|entry| {
            matches!(entry, TimelineEntry::Missing { before, .. } if *before == self.first_seq && self.snapshot.is_none())
        })
    }

    /// Whether the newest version of the backup is in this timeline, if nothing follows.
    pub(crate) fn has_newest(&self) -> bool {
        !self.versions.is_empty() || self.gap.is_some()
    }

    /// The newest version of this timeline, whether it can be opened or not; also an unrecorded one of a gap.
    pub(crate) fn newest_recorded(&self) -> Option<NewestRecorded> {
        let readable = if self.versions.len() == self.readable() { Readable::Yes } else { Readable::No };
        if let Some(Version { data_version, seq, recorded_at, commit, .. }) = self.versions.last() {
            let (data_version, seq, recorded_at, commit) = (*data_version, *seq, *recorded_at, *commit);
            return Some(NewestRecorded { data_version, seq, recorded_at, commit, readable });
        }
        let Gap { ordinal, seq, time } = self.gap?;
        let (data_version, commit, readable) = (ordinal.data_version(), Commit::Certain, Readable::No);
        Some(NewestRecorded { data_version, seq, recorded_at: time, commit, readable })
    }

    /// Marks the versions with this record, or a later one, as unreadable.
    pub(crate) fn is_unreadable_from(&mut self, seq: Seq) {
        self.unreadable_from = Some(self.unreadable_from.map_or(seq, |before| before.min(seq)));
    }

    /// The first live record behind all verified ones.
    pub(crate) fn unverified_since(&self) -> Option<Seq> {
        let behind = self.records.partition_point(|record| Some(record.seq()) <= self.verified);
        self.records.get(behind).map(LiveRecord::seq)
    }

    /// The newest record, void or not, up to which the versions are verified against the node's database.
    pub(crate) fn verified(&self) -> Option<Seq> {
        self.verified
    }

    /// Whether the last record has this seq or a later one.
    pub(crate) fn ends_behind(&self, seq: Seq) -> bool {
        self.records.last().is_some_and(|record| record.seq() >= seq)
    }

    /// Whether the last version cannot be opened: then a log that continues from it cannot be opened either.
    pub(crate) fn ends_unreadable(&self) -> bool {
        self.unreadable_from.is_some()
    }

    /// Replaces the newest version by a snapshot of it. The pages of this timeline are unchanged.
    pub(crate) fn give_place_to_snapshot(&mut self) {
        let unreadable = self.readable();
        match self.versions.pop() {
            Some(Version { data_version, seq, recorded_at, .. }) if self.versions.len() >= unreadable => {
                self.rewinds_and_gaps.push(TimelineEntry::Unreadable { data_version, seq, recorded_at });
            }
            Some(Version { data_version, seq, recorded_at, .. }) => {
                self.rewinds_and_gaps.push(TimelineEntry::Replaced { data_version, seq, recorded_at });
            }
            None => {
                // The snapshot's own timeline lists the missing versions.
                self.gap = None;
                self.rewinds_and_gaps.retain(|entry| !matches!(entry, TimelineEntry::Missing { .. }));
            }
        }
    }

    /// Sets the preceding version, when a snapshot has replaced the newest version there.
    pub(crate) fn set_before(&mut self, before: PrecedingVersion) {
        self.before = before;
    }

    /// Seq of the first record.
    pub(crate) fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// The snapshot at the beginning.
    pub(crate) fn snapshot(&self) -> Option<&SnapshotRef> {
        self.snapshot.as_ref()
    }

    /// Number of versions, from the first, that can be opened.
    fn readable(&self) -> usize {
        let is_readable = |version: &Version| self.unreadable_from.is_none_or(|from| version.seq < from);
        self.versions.partition_point(is_readable)
    }

    /// The versions that can be opened, in order.
    pub(crate) fn versions(&self) -> &[Version] {
        self.versions.get(..self.readable()).unwrap_or_default()
    }

    /// The version with this ordinal.
    pub(crate) fn version_at(&self, ordinal: VersionOrdinal) -> Option<&Version> {
        let position = self.versions().binary_search_by_key(&ordinal, |version| version.ordinal).ok()?;
        self.versions.get(position)
    }

    /// The version whose newest record has this seq.
    pub(crate) fn version_by_seq(&self, seq: Seq) -> Option<&Version> {
        let position = self.versions().binary_search_by_key(&seq, |version| version.seq).ok()?;
        self.versions.get(position)
    }

    /// Whether every record of `earlier`, an earlier state of the same log, is in this timeline, or was rewound since.
    pub(crate) fn goes_on_from(&self, earlier: &Self) -> bool {
        earlier.records.iter().all(|before| match self.records.binary_search_by_key(&before.seq(), LiveRecord::seq) {
            Ok(position) => self.records.get(position).is_some_and(|now| now.is_same(before)),
            Err(_) => self.rewinds_and_gaps.iter().any(|entry| match entry {
                TimelineEntry::Rewound { seq, recorded_at, .. } => {
                    (*seq, *recorded_at) == (before.seq(), before.about.time)
                }
                TimelineEntry::Recorded(_)
                | TimelineEntry::Unreadable { .. }
                | TimelineEntry::Replaced { .. }
                | TimelineEntry::Missing { .. }
                | TimelineEntry::Dropped { .. } => false,
            }),
        })
    }

    /// The live records.
    pub(crate) fn records(&self) -> &[LiveRecord] {
        &self.records
    }

    /// An interval of the segment; `None` for a log.
    pub(crate) fn interval(&self, keyframe: Keyframe) -> Option<&Interval> {
        self.intervals.get(keyframe.0 as usize)
    }

    /// All entries, in order: versions recorded, unreadable or replaced, changes rewound, versions missing.
    pub(crate) fn entries(&self) -> impl Iterator<Item = TimelineEntry> + '_ {
        // A gap has the seq of the snapshot that closed it, and precedes it.
        let order = |entry: &TimelineEntry| match entry {
            TimelineEntry::Missing { before, .. } | TimelineEntry::Dropped { before, .. } => (*before, 0),
            TimelineEntry::Rewound { seq, .. }
            | TimelineEntry::Unreadable { seq, .. }
            | TimelineEntry::Replaced { seq, .. } => (*seq, 1),
            TimelineEntry::Recorded(version) => (version.seq, 1),
        };
        let mut versions = self.versions.iter().peekable();
        let mut rewinds_and_gaps = self.rewinds_and_gaps.iter().peekable();
        std::iter::from_fn(move || match (versions.peek(), rewinds_and_gaps.peek()) {
            (Some(version), Some(entry)) if order(entry) < (version.seq, 1) => rewinds_and_gaps.next().cloned(),
            (Some(_), _) => versions.next().cloned().map(|version| match self.unreadable_from {
                Some(from) if version.seq >= from => {
                    let Version { data_version, seq, recorded_at, .. } = version;
                    TimelineEntry::Unreadable { data_version, seq, recorded_at }
                }
                _ => TimelineEntry::Recorded(version),
            }),
            (None, _) => rewinds_and_gaps.next().cloned(),
        })
    }
}

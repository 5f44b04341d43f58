//! [`Timeline`]: what the records of one log, or of the segment that it was sealed to, amount to.

use crate::log::RecordAddress;
use crate::replay::ChangeAbout;
use crate::segment::version::{NewestRecorded, Origin, Readable, TimelineEntry, Version, VersionOrdinal};
use format::Damage;
use format::change_flags::{ChangeFlags, Predecessor, RunStart};
use format::record::{Body, Record};
use format::record_index::{IndexedBody, Interval, RecordIndex};
use format::remains_directory::KeptVersion;
use format::segment::{FollowedBy, SegmentFooter, SegmentHeader};
use format::snapshot_ref::SnapshotRef;
use format::units::Keyframe;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::{Bump, Commit};

/// What is known of the newest version before a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrecedingVersion {
    /// There is none.
    Nothing,
    /// Where it stands.
    Version(VersionOrdinal),
    /// Nothing: what tells about it is damaged.
    Unknown,
}

impl PrecedingVersion {
    /// What a footer says of the versions up to a place. A place alone is that of versions that cannot be opened.
    pub(crate) fn of_footer(versions: u64, place: u64) -> Self {
        if versions > 0 || place > 0 { Self::Version(VersionOrdinal(place)) } else { Self::Nothing }
    }
}

/// A record that is part of the newest state: no rewind, and not rewound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveRecord {
    pub(crate) about: ChangeAbout,
    pub(crate) place: RecordAddress,
    pub(crate) kind: LiveKind,
}

/// What a live record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LiveKind {
    /// Statements.
    Change,
    /// Pages.
    Snapshot,
}

impl LiveRecord {
    /// Its seq.
    pub(crate) fn seq(&self) -> Seq {
        self.about.seq
    }

    /// Whether both say the same, wherever they are.
    fn is_same(&self, other: &Self) -> bool {
        let key = |record: &Self| (record.about.seq, record.about.data_version, record.about.time, record.kind);
        key(self) == key(other)
    }
}

/// A record to be added.
struct Entry {
    seq: Seq,
    data_version: DataVersion,
    time: Timestamp,
    place: RecordAddress,
    page_count: Option<u32>,
}

/// The versions of one log or segment. What a log begins with makes its timeline independent of those before: a change
/// that bumps, or a snapshot; so nothing that a later log says changes what this one amounts to, save that its newest
/// version was committed.
#[derive(Debug)]
pub(crate) struct Timeline {
    first_seq: Seq,
    before: PrecedingVersion,
    /// The snapshot that it begins with.
    snapshot: Option<SnapshotRef>,
    /// The gap that it begins with.
    gap: Option<Gap>,
    records: Vec<LiveRecord>,
    /// All versions, also those behind `unreadable_from`.
    versions: Vec<Version>,
    /// Versions with records from this one on cannot be opened.
    unreadable_from: Option<Seq>,
    /// The newest record, void or not, up to which the versions are known to be those of the node's database.
    verified: Option<Seq>,
    rewinds_and_gaps: Vec<TimelineEntry>,
    /// Statements, and their bytes, of riders before the first version: the change that the log began with was rewound,
    /// and they acted on the newest version of the log before, which is finished. They count for the next version.
    early_riders: (u64, u64),
    /// Those of the segment; empty for a log.
    intervals: Vec<Interval>,
    left: Completeness,
}

/// Versions that were not recorded, and no snapshot could be taken.
#[derive(Debug, Clone, Copy)]
struct Gap {
    /// Where the newest of them stands.
    place: VersionOrdinal,
    seq: Seq,
    time: Timestamp,
}

/// How many of the versions of a segment there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completeness {
    /// All that were ever recorded.
    All,
    /// Those that a compaction has kept.
    Some,
}

impl Timeline {
    /// The timeline of a log that begins with `first_seq`, empty.
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
    /// When its index contradicts itself.
    pub(crate) fn of_segment(
        header: &SegmentHeader,
        footer: &SegmentFooter,
        index: RecordIndex,
    ) -> Result<Self, Damage> {
        let before = PrecedingVersion::of_footer(footer.versions_before, footer.place_before);
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

    /// The timeline of the segment that has, or will have, this index.
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
            let place = RecordAddress::Segment { segment: first_seq, interval: Keyframe(interval), position };
            position += u32::from(matches!(record.body, IndexedBody::Change { .. }));
            let (data_version, time) = (record.data_version, record.time);
            timeline
                .apply(&Entry { seq, data_version, time, place, page_count: Some(record.page_count) }, &record.body)?;
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

    /// The timeline with these of its versions only, which follow each other. What else happened is forgotten, too.
    ///
    /// # Errors
    /// When it has not all of them.
    pub(crate) fn thinned_to(mut self, kept: &[KeptVersion]) -> Result<Self, Damage> {
        self.left = Completeness::Some;
        self.rewinds_and_gaps.clear();
        self.versions.truncate(self.readable());
        let mut kept = kept.iter().peekable();
        let (mut versions, mut dropped) = (0, None);
        let is_same = |kept: &KeptVersion, version: &Version| {
            (kept.seq, kept.place, kept.recorded_at) == (version.seq, version.place.0, version.recorded_at)
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

    /// Whether single versions of it are left only.
    pub(crate) fn is_thinned(&self) -> bool {
        self.left == Completeness::Some
    }

    /// Where the changes of a version, riders included, are.
    pub(crate) fn changes_of<'a>(&'a self, version: &'a Version) -> impl Iterator<Item = RecordAddress> + 'a {
        let records = self.records.get(version.first_record..).unwrap_or_default();
        let own = records.iter().take_while(|record| record.seq() <= version.seq);
        own.filter(|record| record.kind == LiveKind::Change).map(|record| record.place)
    }

    /// Adds a record of the log.
    pub(crate) fn apply_record(&mut self, record: &Record<'_>, place: RecordAddress) -> Result<(), Damage> {
        let header = &record.header;
        let body = match &record.body {
            Body::Change { flags, statements } => IndexedBody::Change {
                flags: *flags,
                bump: Bump::find(header.data_version, statements),
                statements: u32::try_from(statements.len()).unwrap_or(u32::MAX),
                bytes: statements.iter().map(|statement| statement.len() as u64).sum(),
            },
            Body::Rewind { rewound } if self.records.last().is_none_or(|record| record.seq() != *rewound) => {
                return Err(Damage::Contradiction("a rewind is not of the change before it"));
            }
            Body::Rewind { .. } => IndexedBody::Rewind,
            Body::Commit(note) => IndexedBody::Commit(*note),
            Body::Gap => IndexedBody::Gap,
            Body::Snapshot(snapshot) => IndexedBody::Snapshot(*snapshot),
        };
        let (seq, data_version, time) = (header.seq, header.data_version, header.time);
        self.apply(&Entry { seq, data_version, time, place, page_count: None }, &body)
    }

    fn apply(&mut self, entry: &Entry, body: &IndexedBody) -> Result<(), Damage> {
        match body {
            IndexedBody::Change { flags, bump, statements, bytes } => {
                self.apply_change(entry, *flags, *bump, (*statements).into(), *bytes)
            }
            IndexedBody::Commit(_) => self.apply_commit(entry.data_version),
            IndexedBody::Gap => self.apply_gap(entry),
            IndexedBody::Rewind => self.apply_rewind(entry.data_version),
            IndexedBody::Snapshot(snapshot) => self.apply_snapshot(entry, snapshot),
        }
    }

    /// Where the newest version stands, of this timeline or before it, whether it can be opened or not.
    pub(crate) fn newest_place(&self) -> PrecedingVersion {
        let gap = self.gap.map(|gap| gap.place);
        self.versions.last().map(|version| version.place).or(gap).map_or(self.before, PrecedingVersion::Version)
    }

    /// Whether it begins with versions that were not recorded.
    pub(crate) fn begins_with_gap(&self) -> bool {
        self.gap.is_some() || self.rewinds_and_gaps.iter().any(|entry| {
            matches!(entry, TimelineEntry::Missing { before, .. } if *before == self.first_seq && self.snapshot.is_none())
        })
    }

    /// Whether the newest version of the backup is one of this timeline, if nothing follows.
    pub(crate) fn has_newest(&self) -> bool {
        !self.versions.is_empty() || self.gap.is_some()
    }

    /// The newest version of this timeline, whether it can be opened or not; also one that was not recorded before a gap.
    pub(crate) fn newest_recorded(&self) -> Option<NewestRecorded> {
        let readable = if self.versions.len() == self.readable() { Readable::Yes } else { Readable::No };
        if let Some(Version { data_version, seq, recorded_at, commit, .. }) = self.versions.last() {
            let (data_version, seq, recorded_at, commit) = (*data_version, *seq, *recorded_at, *commit);
            return Some(NewestRecorded { data_version, seq, recorded_at, commit, readable });
        }
        let Gap { place, seq, time } = self.gap?;
        let (data_version, commit, readable) = (place.data_version(), Commit::Certain, Readable::No);
        Some(NewestRecorded { data_version, seq, recorded_at: time, commit, readable })
    }

    /// Versions with this record, or one behind it, cannot be opened.
    pub(crate) fn is_unreadable_from(&mut self, seq: Seq) {
        self.unreadable_from = Some(self.unreadable_from.map_or(seq, |before| before.min(seq)));
    }

    /// The first live record behind all that are known to lead on from the node's database.
    pub(crate) fn unverified_since(&self) -> Option<Seq> {
        let behind = self.records.partition_point(|record| Some(record.seq()) <= self.verified);
        self.records.get(behind).map(LiveRecord::seq)
    }

    /// The newest record, void or not, up to which all is known to be what the node's database held.
    pub(crate) fn verified(&self) -> Option<Seq> {
        self.verified
    }

    /// Whether it has records behind this one, or this one.
    pub(crate) fn ends_behind(&self, seq: Seq) -> bool {
        self.records.last().is_some_and(|record| record.seq() >= seq)
    }

    /// Whether what it ends with cannot be opened: then a log that goes on from there cannot be, either.
    pub(crate) fn ends_unreadable(&self) -> bool {
        self.unreadable_from.is_some()
    }

    /// A snapshot of the newest version takes its place. The pages of this timeline are as they were.
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
                // The snapshot says which versions are missing.
                self.gap = None;
                self.rewinds_and_gaps.retain(|entry| !matches!(entry, TimelineEntry::Missing { .. }));
            }
        }
    }

    /// What is before it is something else now: a snapshot has taken the place of the newest version there.
    pub(crate) fn set_before(&mut self, before: PrecedingVersion) {
        self.before = before;
    }

    fn apply_change(
        &mut self,
        entry: &Entry,
        flags: ChangeFlags,
        bump: Bump,
        statements: u64,
        bytes: u64,
    ) -> Result<(), Damage> {
        let committed = bump.committed(entry.data_version);
        let follows = match self.newest_place() {
            _ if entry.seq == Seq::FIRST => committed == DataVersion::new(0),
            // What was before the log may have given its place to a snapshot since, or is missing: then this change is void. That
            // no record is missing in between is what the chain of checksums says.
            _ if !self.has_newest() => true,
            PrecedingVersion::Version(newest) => newest.data_version() == committed,
            PrecedingVersion::Nothing | PrecedingVersion::Unknown => true,
        };
        if !follows {
            return Err(Damage::Contradiction("a change does not follow the version before it"));
        }
        self.confirm_newest();
        match self.versions.last_mut().filter(|_| bump == Bump::Absent) {
            Some(newest) => {
                newest.seq = entry.seq;
                newest.recorded_at = entry.time;
                newest.statements = newest.statements.saturating_add(statements);
                newest.statement_bytes = newest.statement_bytes.saturating_add(bytes);
                newest.page_count = entry.page_count;
            }
            None if bump == Bump::Absent && entry.seq == self.first_seq && self.before != PrecedingVersion::Nothing => {
                return Err(Damage::Contradiction("a log begins with a change that does not bump"));
            }
            None if bump == Bump::Absent && entry.seq != self.first_seq => {
                let (before, bytes_before) = self.early_riders;
                self.early_riders = (before.saturating_add(statements), bytes_before.saturating_add(bytes));
            }
            None => self.push_version(entry, Origin::Change, Commit::after(bump), statements, bytes),
        }
        self.push_record(entry, flags, LiveKind::Change);
        Ok(())
    }

    /// That `lightningd` went on from the newest version proves that it had committed it.
    pub(crate) fn confirm_newest(&mut self) {
        if let Some(newest) = self.versions.last_mut() {
            newest.commit = Commit::Certain;
        }
    }

    fn apply_commit(&mut self, committed: DataVersion) -> Result<(), Damage> {
        match self.versions.last_mut() {
            Some(newest) if newest.data_version == committed => {
                if newest.commit == Commit::Unknown {
                    newest.commit = Commit::Seen;
                }
                Ok(())
            }
            // All changes of the log were rewound, and riders on the version before it are what it ends with.
            None => Ok(()),
            Some(_) => Err(Damage::Contradiction("a commit is not of the newest version")),
        }
    }

    fn apply_gap(&mut self, entry: &Entry) -> Result<(), Damage> {
        if entry.seq != self.first_seq {
            return Err(Damage::Contradiction("a gap is not the first record of its log"));
        }
        let place = match self.before {
            PrecedingVersion::Version(newest) if entry.data_version.distance_from(newest.data_version()) <= 0 => {
                return Err(Damage::Contradiction("a gap is not of a newer version"));
            }
            PrecedingVersion::Version(newest) => {
                let (first, last) = (newest.data_version().next(), entry.data_version);
                let (noticed_at, before) = (entry.time, entry.seq);
                self.rewinds_and_gaps.push(TimelineEntry::Missing { first, last, noticed_at, before });
                newest.of_later(entry.data_version)
            }
            PrecedingVersion::Nothing | PrecedingVersion::Unknown => VersionOrdinal(entry.data_version.get().into()),
        };
        self.gap = Some(Gap { place, seq: entry.seq, time: entry.time });
        self.is_unreadable_from(entry.seq);
        Ok(())
    }

    fn apply_rewind(&mut self, now_newest: DataVersion) -> Result<(), Damage> {
        let damage = Damage::Contradiction("a rewind is not of the change before it");
        let version = self
            .versions
            .pop_if(|version| version.commit != Commit::Certain && version.data_version.previous() == now_newest);
        let version = version.ok_or(damage)?;
        self.records.pop();
        self.rewinds_and_gaps.push(TimelineEntry::Rewound {
            data_version: version.data_version,
            seq: version.seq,
            recorded_at: version.recorded_at,
        });
        Ok(())
    }

    fn apply_snapshot(&mut self, entry: &Entry, snapshot: &SnapshotRef) -> Result<(), Damage> {
        if entry.seq != self.first_seq {
            return Err(Damage::Contradiction("a snapshot is not the first record of its log"));
        }
        if let PrecedingVersion::Version(newest) = self.before {
            // Of the newest version before it, if that is the same, its stretch knows: see `give_place_to_snapshot`.
            let newest = newest.data_version();
            if entry.data_version.distance_from(newest) <= 0 {
                return Err(Damage::Contradiction("a snapshot is not of a newer version"));
            }
            let (first, last) = (newest.next(), entry.data_version.previous());
            if first != entry.data_version {
                let (noticed_at, before) = (entry.time, entry.seq);
                self.rewinds_and_gaps.push(TimelineEntry::Missing { first, last, noticed_at, before });
            }
        }
        self.push_version(entry, Origin::Snapshot(snapshot.reason), Commit::Certain, 0, 0);
        if let Some(version) = self.versions.last_mut() {
            version.page_count = Some(snapshot.page_count);
            version.page_size = Some(snapshot.page_size);
        }
        self.snapshot = Some(*snapshot);
        self.push_record(entry, ChangeFlags::verified(RunStart::Later), LiveKind::Snapshot);
        Ok(())
    }

    fn push_record(&mut self, entry: &Entry, flags: ChangeFlags, kind: LiveKind) {
        if flags.predecessor == Predecessor::Verified {
            self.verified = Some(entry.seq);
        }
        let (data_version, seq, time, run_start) = (entry.data_version, entry.seq, entry.time, flags.run_start);
        let about = ChangeAbout { data_version, seq, time, run_start };
        self.records.push(LiveRecord { about, place: entry.place, kind });
    }

    fn push_version(&mut self, entry: &Entry, origin: Origin, commit: Commit, statements: u64, bytes: u64) {
        let place = match self.newest_place() {
            PrecedingVersion::Version(newest) => newest.of_later(entry.data_version),
            PrecedingVersion::Nothing | PrecedingVersion::Unknown => VersionOrdinal(entry.data_version.get().into()),
        };
        let is_first = self.versions.is_empty();
        let (early_statements, early_bytes) = if is_first { self.early_riders } else { (0, 0) };
        self.versions.push(Version {
            data_version: entry.data_version,
            seq: entry.seq,
            recorded_at: entry.time,
            origin,
            commit,
            statements: statements.saturating_add(early_statements),
            statement_bytes: bytes.saturating_add(early_bytes),
            page_count: entry.page_count,
            page_size: None,
            place,
            first_record: if is_first { 0 } else { self.records.len() },
        });
    }

    /// Seq of its first record.
    pub(crate) fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// The snapshot that it begins with.
    pub(crate) fn snapshot(&self) -> Option<&SnapshotRef> {
        self.snapshot.as_ref()
    }

    /// How many of its versions, the first ones, can be opened.
    fn readable(&self) -> usize {
        let is_readable = |version: &Version| self.unreadable_from.is_none_or(|from| version.seq < from);
        self.versions.partition_point(is_readable)
    }

    /// The versions that can be opened, in order.
    pub(crate) fn versions(&self) -> &[Version] {
        self.versions.get(..self.readable()).unwrap_or_default()
    }

    /// The version at a place.
    pub(crate) fn version_at(&self, place: VersionOrdinal) -> Option<&Version> {
        let position = self.versions().binary_search_by_key(&place, |version| version.place).ok()?;
        self.versions.get(position)
    }

    /// The version whose newest record has this seq.
    pub(crate) fn version_by_seq(&self, seq: Seq) -> Option<&Version> {
        let position = self.versions().binary_search_by_key(&seq, |version| version.seq).ok()?;
        self.versions.get(position)
    }

    /// Whether everything in `earlier`, what was read of the same log once, is in it, or was rewound since.
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

    /// Its live records.
    pub(crate) fn records(&self) -> &[LiveRecord] {
        &self.records
    }

    /// The intervals of its segment; none for a log.
    pub(crate) fn interval(&self, keyframe: Keyframe) -> Option<&Interval> {
        self.intervals.get(keyframe.0 as usize)
    }

    /// Everything that happened, in order: versions recorded, unreadable or replaced, changes rewound, versions missing.
    pub(crate) fn entries(&self) -> impl Iterator<Item = TimelineEntry> + '_ {
        // A gap has the seq of the snapshot that closed it, and comes before it.
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

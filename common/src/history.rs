//! [`History`]: which versions a backup holds, and what each is made of.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::format::Damage;
use crate::format::record::{Body, Record, SnapshotReason, SnapshotRef};
use crate::log::RecordPlace;
use crate::pages::ExpectedSnapshot;
use crate::version_rules::{Bump, Commit, Newest};
use crate::{DataVersion, PageSize, Seq, Timestamp};

/// What a version was recorded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The statements of a `db_write`.
    Change,
    /// The pages of the live database.
    Snapshot(SnapshotReason),
}

/// A version that can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number.
    pub data_version: DataVersion,
    /// Seq of the newest record that belongs to it: its change, or the last rider on it.
    pub seq: Seq,
    /// When that record was received.
    pub recorded_at: Timestamp,
    /// What its first record is.
    pub origin: Origin,
    /// Whether `lightningd` is known to have committed it. Unknown for the newest change, which may have died before
    /// COMMIT, and for one behind which `lightningd` ran without the recorder.
    pub commit: Commit,
    /// Statements recorded for it, riders included.
    pub statements: u64,
    /// Bytes of those statements.
    pub statement_bytes: u64,
    /// Position in `History::records` of its first record.
    first_record: usize,
}

/// An entry of [`History::timeline`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimelineEntry {
    /// A version that can be opened.
    Recorded(Version),
    /// A change that `lightningd` never committed.
    Rewound {
        /// The version it would have led to.
        data_version: DataVersion,
        /// Its seq.
        seq: Seq,
        /// When it was received.
        recorded_at: Timestamp,
    },
    /// Versions that `lightningd` committed and nobody recorded.
    Missing {
        /// The first of them.
        first: DataVersion,
        /// The last of them.
        last: DataVersion,
        /// When the recorder noticed.
        noticed_at: Timestamp,
        /// Seq of the snapshot that closed the gap.
        before: Seq,
    },
}

/// A record that is part of the newest state: no rewind, and not rewound.
#[derive(Debug, Clone, Copy)]
struct LiveRecord {
    seq: Seq,
    data_version: DataVersion,
    place: RecordPlace,
    snapshot: Option<SnapshotRef>,
}

/// All that a view of a version needs from the history; goes its own way from there.
#[derive(Debug, Clone)]
pub struct ReplayPlan {
    pub(crate) data_version: DataVersion,
    pub(crate) seq: Seq,
    /// Page size to begin with when there is no snapshot.
    pub(crate) page_size: PageSize,
    /// The snapshot to begin with, the one it builds on, and so on; empty when the log begins from nothing.
    pub(crate) snapshots: Vec<ExpectedSnapshot>,
    /// The changes to replay, in order.
    pub(crate) changes: Vec<PlannedChange>,
}

/// A change to replay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedChange {
    pub(crate) seq: Seq,
    pub(crate) place: RecordPlace,
}

/// What the records of a backup amount to.
#[derive(Debug)]
pub struct History {
    uuid: Uuid,
    page_size: PageSize,
    records: Vec<LiveRecord>,
    versions: Vec<Version>,
    by_number: BTreeMap<DataVersion, usize>,
    asides: Vec<TimelineEntry>,
}

impl History {
    pub(crate) fn new(uuid: Uuid, page_size: PageSize) -> Self {
        Self {
            uuid,
            page_size,
            records: Vec::new(),
            versions: Vec::new(),
            by_number: BTreeMap::new(),
            asides: Vec::new(),
        }
    }

    /// Adds the next record.
    ///
    /// # Errors
    /// When an intact record contradicts those before it: no recorder writes such a thing. The history is unchanged.
    pub(crate) fn apply(&mut self, record: &Record<'_>, place: RecordPlace) -> Result<(), Damage> {
        let header = &record.header;
        let live = LiveRecord { seq: header.seq, data_version: header.data_version, place, snapshot: None };
        match &record.body {
            Body::Change { statements, .. } => {
                let bytes = statements.iter().map(|statement| statement.len() as u64).sum();
                let bump = Bump::find(header.data_version, statements);
                self.apply_change(live, header.time, bump, statements.len() as u64, bytes)
            }
            Body::Commit => self.apply_commit(header.data_version),
            Body::Rewind { rewound } => self.apply_rewind(*rewound, header.data_version),
            Body::Snapshot(snapshot) => {
                self.apply_snapshot(LiveRecord { snapshot: Some(*snapshot), ..live }, header.time, snapshot)
            }
        }
    }

    fn apply_change(
        &mut self,
        live: LiveRecord,
        time: Timestamp,
        bump: Bump,
        statements: u64,
        bytes: u64,
    ) -> Result<(), Damage> {
        let committed = bump.committed(live.data_version);
        if self.newest().map_or(DataVersion::new(0), |newest| newest.data_version) != committed {
            return Err(Damage::Contradiction("a change does not follow the version before it"));
        }
        // That `lightningd` went on from the newest version proves that it had committed it.
        if let Some(newest) = self.versions.last_mut() {
            newest.commit = Commit::Certain;
        }
        match self.versions.last_mut().filter(|_| bump == Bump::Absent) {
            Some(newest) => {
                newest.seq = live.seq;
                newest.recorded_at = time;
                newest.statements += statements;
                newest.statement_bytes += bytes;
            }
            None => self.push_version(&live, time, Origin::Change, Commit::after(bump), statements, bytes),
        }
        self.records.push(live);
        Ok(())
    }

    fn apply_commit(&mut self, committed: DataVersion) -> Result<(), Damage> {
        match self.versions.last_mut() {
            Some(newest) if newest.data_version == committed && newest.commit == Commit::Unknown => {
                newest.commit = Commit::Seen;
                Ok(())
            }
            _ => Err(Damage::Contradiction("a commit is not of the change before it")),
        }
    }

    fn apply_rewind(&mut self, rewound: Seq, now_newest: DataVersion) -> Result<(), Damage> {
        let (Some(record), Some(version)) = (self.records.last(), self.versions.last()) else {
            return Err(Damage::Contradiction("a rewind comes before any change"));
        };
        if record.seq != rewound || version.commit == Commit::Certain || version.data_version.previous() != now_newest {
            return Err(Damage::Contradiction("a rewind is not of the change before it"));
        }
        self.records.pop();
        if let Some(version) = self.versions.pop() {
            self.by_number.remove(&version.data_version);
            self.asides.push(TimelineEntry::Rewound {
                data_version: version.data_version,
                seq: version.seq,
                recorded_at: version.recorded_at,
            });
        }
        Ok(())
    }

    fn apply_snapshot(&mut self, live: LiveRecord, time: Timestamp, snapshot: &SnapshotRef) -> Result<(), Damage> {
        if snapshot.base != self.newest_snapshot().map(|record| record.seq).filter(|_| snapshot.base.is_some()) {
            return Err(Damage::Contradiction("a snapshot does not build on the one before it"));
        }
        if let Some(newest) = self.newest() {
            if live.data_version.distance_from(newest.data_version) <= 0 {
                return Err(Damage::Contradiction("a snapshot is not of a newer version"));
            }
            let (first, last) = (newest.data_version.next(), live.data_version.previous());
            if first != live.data_version {
                self.asides.push(TimelineEntry::Missing { first, last, noticed_at: time, before: live.seq });
            }
        }
        self.push_version(&live, time, Origin::Snapshot(snapshot.reason), Commit::Certain, 0, 0);
        self.records.push(live);
        Ok(())
    }

    fn push_version(
        &mut self,
        live: &LiveRecord,
        recorded_at: Timestamp,
        origin: Origin,
        commit: Commit,
        statements: u64,
        bytes: u64,
    ) {
        self.by_number.insert(live.data_version, self.versions.len());
        self.versions.push(Version {
            data_version: live.data_version,
            seq: live.seq,
            recorded_at,
            origin,
            commit,
            statements,
            statement_bytes: bytes,
            first_record: self.records.len(),
        });
    }

    fn newest_snapshot(&self) -> Option<&LiveRecord> {
        self.records.iter().rev().find(|record| record.snapshot.is_some())
    }

    /// The newest version; `None` for a backup that has none yet.
    pub fn newest(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// The newest version as the version rules see it.
    pub fn newest_for_rules(&self) -> Option<Newest> {
        self.newest().map(|newest| Newest { data_version: newest.data_version, commit: newest.commit })
    }

    /// The version with this number; `None` when it is unknown, was lost in a gap, or was rewound.
    pub fn version(&self, data_version: DataVersion) -> Option<&Version> {
        self.versions.get(*self.by_number.get(&data_version)?)
    }

    /// The version whose newest record has this seq.
    pub fn version_by_seq(&self, seq: Seq) -> Option<&Version> {
        let position = self.versions.binary_search_by_key(&seq, |version| version.seq).ok()?;
        self.versions.get(position)
    }

    /// All versions that can be opened, in the order of their seq.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The versions with a seq greater than `seq`, in order; all of them for `None`.
    pub fn versions_after(&self, seq: Option<Seq>) -> &[Version] {
        let from = seq.map_or(0, |seq| self.versions.partition_point(|version| version.seq <= seq));
        self.versions.get(from..).unwrap_or_default()
    }

    /// Everything that happened, in order: versions recorded, changes rewound, versions missing.
    pub fn timeline(&self) -> impl Iterator<Item = TimelineEntry> + '_ {
        // A gap has the seq of the snapshot that closed it, and comes before it.
        let order = |entry: &TimelineEntry| match entry {
            TimelineEntry::Missing { before, .. } => (*before, 0),
            TimelineEntry::Rewound { seq, .. } => (*seq, 1),
            TimelineEntry::Recorded(version) => (version.seq, 1),
        };
        let mut versions = self.versions.iter().peekable();
        let mut asides = self.asides.iter().peekable();
        std::iter::from_fn(move || match (versions.peek(), asides.peek()) {
            (Some(version), Some(aside)) if order(aside) < (version.seq, 1) => asides.next().cloned(),
            (Some(_), _) => versions.next().cloned().map(TimelineEntry::Recorded),
            (None, _) => asides.next().cloned(),
        })
    }

    /// All that a view of `version` needs.
    pub fn plan(&self, version: &Version) -> ReplayPlan {
        let end = self.records.partition_point(|record| record.seq <= version.seq);
        let records = self.records.get(..end).unwrap_or_default();
        let snapshot = records.iter().rposition(|record| record.snapshot.is_some());
        let changes = records.get(snapshot.map_or(0, |at| at + 1)..).unwrap_or_default();
        ReplayPlan {
            data_version: version.data_version,
            seq: version.seq,
            page_size: self.page_size,
            snapshots: snapshot.map(|at| self.snapshots_down_from(at)).unwrap_or_default(),
            changes: changes.iter().map(|record| PlannedChange { seq: record.seq, place: record.place }).collect(),
        }
    }

    /// The snapshots that the newest state builds on, newest first: what a delta would be against.
    pub(crate) fn newest_snapshots(&self) -> Vec<ExpectedSnapshot> {
        let newest = self.records.iter().rposition(|record| record.snapshot.is_some());
        newest.map(|at| self.snapshots_down_from(at)).unwrap_or_default()
    }

    fn snapshots_down_from(&self, newest: usize) -> Vec<ExpectedSnapshot> {
        let mut chain = Vec::new();
        for record in self.records.get(..=newest).unwrap_or_default().iter().rev() {
            if let Some(snapshot) = record.snapshot {
                chain.push(ExpectedSnapshot {
                    uuid: self.uuid,
                    seq: record.seq,
                    footer_checksum: snapshot.footer_checksum,
                });
                if snapshot.base.is_none() {
                    break;
                }
            }
        }
        chain
    }

    /// Where the change and the riders of `version` are; empty for a version that was recorded as a snapshot only.
    pub fn records_of(&self, version: &Version) -> Vec<RecordPlace> {
        let records = self.records.get(version.first_record..).unwrap_or_default();
        let own = records.iter().take_while(|record| record.seq <= version.seq);
        own.filter(|record| record.snapshot.is_none()).map(|record| record.place).collect()
    }

    /// The name of the file that holds the first record of `version`.
    pub fn file_name_of(&self, version: &Version) -> Option<String> {
        let record = self.records.get(version.first_record)?;
        Some(match record.snapshot {
            Some(_) => crate::format::names::snapshot(record.seq),
            None => record.place.file_name(),
        })
    }
}

//! The effect of each record on its [`Timeline`].

use super::{Gap, PrecedingVersion, Timeline};
use crate::log::RecordAddress;
use crate::replay::ChangeAbout;
use crate::segment::live_record::{LiveKind, LiveRecord};
use crate::segment::version::{Origin, TimelineEntry, Version, VersionOrdinal};
use format::Damage;
use format::change_flags::{ChangeFlags, Predecessor, RunStart};
use format::record::{Body, Record};
use format::record_index::IndexedBody;
use format::snapshot_ref::SnapshotRef;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::{Bump, Commit};

/// A record to be applied.
pub(super) struct Entry {
    pub(super) seq: Seq,
    pub(super) data_version: DataVersion,
    pub(super) time: Timestamp,
    pub(super) address: RecordAddress,
    pub(super) page_count: Option<u32>,
}

impl Timeline {
    /// Applies the next record of the log.
    pub(crate) fn apply_record(&mut self, record: &Record<'_>, address: RecordAddress) -> Result<(), Damage> {
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
        self.apply(&Entry { seq, data_version, time, address, page_count: None }, &body)
    }

    pub(super) fn apply(&mut self, entry: &Entry, body: &IndexedBody) -> Result<(), Damage> {
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

    fn apply_change(
        &mut self,
        entry: &Entry,
        flags: ChangeFlags,
        bump: Bump,
        statements: u64,
        bytes: u64,
    ) -> Result<(), Damage> {
        let committed = bump.committed(entry.data_version);
        let follows = match self.newest_ordinal() {
            _ if entry.seq == Seq::FIRST => committed == DataVersion::new(0),
            // The version before the log may have been replaced by a snapshot, or is missing: then this change is void. The
            // checksum chain proves that no record in between is missing.
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

    /// Marks the newest version as committed: `lightningd` has continued from it.
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
            // All changes of the log were rewound, and only riders on the version before it follow.
            None => Ok(()),
            Some(_) => Err(Damage::Contradiction("a commit is not of the newest version")),
        }
    }

    fn apply_gap(&mut self, entry: &Entry) -> Result<(), Damage> {
        if entry.seq != self.first_seq {
            return Err(Damage::Contradiction("a gap is not the first record of its log"));
        }
        let ordinal = match self.before {
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
        self.gap = Some(Gap { ordinal, seq: entry.seq, time: entry.time });
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
            // A snapshot of the same version is handled by that version's timeline: see `give_place_to_snapshot`.
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
        self.records.push(LiveRecord { about, address: entry.address, kind });
    }

    fn push_version(&mut self, entry: &Entry, origin: Origin, commit: Commit, statements: u64, bytes: u64) {
        let ordinal = match self.newest_ordinal() {
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
            ordinal,
            first_record: if is_first { 0 } else { self.records.len() },
        });
    }
}

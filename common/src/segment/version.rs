//! What a history is made of: versions, and what else happened.

use format::remains_directory::KeptVersion;
use format::snapshot_ref::SnapshotReason;
use format::units::{DataVersion, PageSize, Seq, Timestamp};
use format::version_rules::Commit;

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
    /// Pages of the database; known without building it for snapshots and for every version that is sealed.
    pub page_count: Option<u32>,
    /// Bytes of a page; known when the number of pages is.
    pub page_size: Option<PageSize>,
    pub(crate) place: VersionOrdinal,
    /// Position of its first record among the live ones of its timeline.
    pub(crate) first_record: usize,
}

impl Version {
    /// As a compaction that keeps it alone tells of it.
    pub(crate) fn as_kept(&self) -> KeptVersion {
        KeptVersion { seq: self.seq, place: self.place.0, recorded_at: self.recorded_at }
    }
}

/// The newest version that was recorded, whether it can be opened or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestRecorded {
    /// Its number.
    pub data_version: DataVersion,
    /// Seq of its newest record.
    pub seq: Seq,
    /// When that record was received.
    pub recorded_at: Timestamp,
    /// Whether `lightningd` is known to have committed it.
    pub commit: Commit,
    /// Whether it can be opened, as far as is known without replaying it.
    pub readable: Readable,
}

/// Whether a version can be opened, as far as the records tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// It can.
    Yes,
    /// It cannot: see [`TimelineEntry::Unreadable`].
    No,
}

/// Where a version stands among all of its backup: its number, plus 2^32 for every time the numbers have wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VersionOrdinal(pub(crate) u64);

impl VersionOrdinal {
    /// The number of the version there.
    #[expect(clippy::cast_possible_truncation, reason = "numbers wrap at 2^32")]
    pub(crate) fn data_version(self) -> DataVersion {
        DataVersion::new(self.0 as u32)
    }

    /// The place of a version that comes after this one.
    pub(crate) fn of_later(self, version: DataVersion) -> Self {
        Self(self.0.saturating_add(version.get().wrapping_sub(self.data_version().get()).into()))
    }

    /// The newest place up to this one that has the number of a version, and the one before it by a wrap, and so on.
    pub(crate) fn candidates(self, version: DataVersion) -> impl Iterator<Item = Self> {
        let back = u64::from(self.data_version().get().wrapping_sub(version.get()));
        let newest = self.0.checked_sub(back);
        std::iter::successors(newest, |place| place.checked_sub(1 << 32)).map(Self)
    }
}

/// An entry of the timeline.
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
    /// A version that was recorded, and cannot be opened: it builds on a change that does not replay, or on versions that
    /// are missing.
    Unreadable {
        /// Its number.
        data_version: DataVersion,
        /// Seq of its newest record.
        seq: Seq,
        /// When that was received.
        recorded_at: Timestamp,
    },
    /// A version as it was recorded first. The snapshot behind it has the same number and takes its place.
    Replaced {
        /// Its number.
        data_version: DataVersion,
        /// Seq of its newest record.
        seq: Seq,
        /// When that was received.
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
    /// Versions that a compaction has dropped.
    Dropped {
        /// How many.
        versions: u64,
        /// The newest of them.
        last: DataVersion,
        /// Seq of the record behind them.
        before: Seq,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_wrap_have_places_that_do_not() {
        let last = VersionOrdinal(u64::from(u32::MAX));
        let wrapped = last.of_later(DataVersion::new(3));
        assert_eq!((wrapped, wrapped.data_version()), (VersionOrdinal((1 << 32) + 3), DataVersion::new(3)));
        let candidates = |version| wrapped.candidates(DataVersion::new(version)).collect::<Vec<_>>();
        assert_eq!(candidates(2), [VersionOrdinal((1 << 32) + 2), VersionOrdinal(2)]);
        assert_eq!(candidates(4), [VersionOrdinal(4)]);
        assert_eq!(candidates(u32::MAX), [last]);
        assert_eq!(VersionOrdinal(5).candidates(DataVersion::new(6)).count(), 0);
    }
}

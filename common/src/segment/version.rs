//! Versions and the other entries of a timeline.

use format::pruned_directory::KeptVersion;
use format::snapshot_ref::SnapshotReason;
use format::units::{DataVersion, PageSize, Seq, Timestamp};
use format::version_rules::Commit;

/// The form in which a version was recorded.
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
    /// Number of the version.
    pub data_version: DataVersion,
    /// Seq of its newest record: its change, or the last rider on it.
    pub seq: Seq,
    /// Time at which that record was received.
    pub recorded_at: Timestamp,
    /// Kind of its first record.
    pub origin: Origin,
    /// Whether `lightningd` is known to have committed it. Unknown for the newest change, which may have died before COMMIT, and
    /// for a version after which `lightningd` ran without the recorder.
    pub commit: Commit,
    /// Number of its recorded statements, riders included.
    pub statements: u64,
    /// Length of those statements in bytes.
    pub statement_bytes: u64,
    /// Number of pages of the database; known for snapshots and for sealed versions.
    pub page_count: Option<u32>,
    /// Page size; known when the number of pages is.
    pub page_size: Option<PageSize>,
    pub(crate) ordinal: VersionOrdinal,
    /// Position of its first record among the live records of its timeline.
    pub(crate) first_record: usize,
}

impl Version {
    /// The version as an entry of the file `pruned`.
    pub(crate) fn as_kept(&self) -> KeptVersion {
        KeptVersion { seq: self.seq, ordinal: self.ordinal.0, recorded_at: self.recorded_at }
    }
}

/// The newest recorded version, whether it can be opened or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestRecorded {
    /// Number of the version.
    pub data_version: DataVersion,
    /// Seq of its newest record.
    pub seq: Seq,
    /// Time at which that record was received.
    pub recorded_at: Timestamp,
    /// Whether `lightningd` is known to have committed it.
    pub commit: Commit,
    /// Whether it can be opened, as far as is known without replay.
    pub readable: Readable,
}

/// Whether a version can be opened, according to the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// The version can be opened.
    Yes,
    /// The version cannot be opened: see [`TimelineEntry::Unreadable`].
    No,
}

/// Ordinal of a version in its backup: its number, plus 2^32 for every wrap of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VersionOrdinal(pub(crate) u64);

impl VersionOrdinal {
    /// Number of the version.
    #[expect(clippy::cast_possible_truncation, reason = "numbers wrap at 2^32")]
    pub(crate) fn data_version(self) -> DataVersion {
        DataVersion::new(self.0 as u32)
    }

    /// Ordinal of a version after this one.
    pub(crate) fn of_later(self, version: DataVersion) -> Self {
        Self(self.0.saturating_add(version.get().wrapping_sub(self.data_version().get()).into()))
    }

    /// The newest ordinal up to this one with the number of a version, then the one a wrap earlier, and so on.
    pub(crate) fn candidates(self, version: DataVersion) -> impl Iterator<Item = Self> {
        let back = u64::from(self.data_version().get().wrapping_sub(version.get()));
        let newest = self.0.checked_sub(back);
        std::iter::successors(newest, |ordinal| ordinal.checked_sub(1 << 32)).map(Self)
    }
}

/// An entry of the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimelineEntry {
    /// A version that can be opened.
    Recorded(Version),
    /// A change that `lightningd` never committed.
    Rewound {
        /// The version after the change.
        data_version: DataVersion,
        /// Seq of the change.
        seq: Seq,
        /// Time at which it was received.
        recorded_at: Timestamp,
    },
    /// A version that was recorded, but cannot be opened: it builds on a change that does not replay, or on missing versions.
    Unreadable {
        /// Number of the version.
        data_version: DataVersion,
        /// Seq of its newest record.
        seq: Seq,
        /// Time at which that record was received.
        recorded_at: Timestamp,
    },
    /// A version that was replaced by a snapshot with the same number.
    Replaced {
        /// Number of the version.
        data_version: DataVersion,
        /// Seq of its newest record.
        seq: Seq,
        /// Time at which that record was received.
        recorded_at: Timestamp,
    },
    /// Versions that `lightningd` committed and that were not recorded.
    Missing {
        /// The first version.
        first: DataVersion,
        /// The last version.
        last: DataVersion,
        /// Time at which the recorder noticed the gap.
        noticed_at: Timestamp,
        /// Seq of the snapshot that closed the gap.
        before: Seq,
    },
    /// Versions that a compaction has dropped.
    Dropped {
        /// Number of versions.
        versions: u64,
        /// The newest version.
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

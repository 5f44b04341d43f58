//! What was recorded for a write.

use format::units::{DataVersion, Seq, Timestamp};

/// The newest recorded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestVersion {
    /// Number of the version.
    pub data_version: DataVersion,
    /// Seq of its newest record.
    pub seq: Seq,
    /// Time at which that was received.
    pub recorded_at: Timestamp,
}

/// The records that were added for a write, besides the write itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The write was appended, without another record.
    Appended,
    /// A rewind: the previous change was never committed.
    Rewound {
        /// The version after the rewound change.
        data_version: DataVersion,
    },
    /// A snapshot of the version before the write, which replaces the recorded one.
    Replaced {
        /// The version of the snapshot.
        data_version: DataVersion,
        /// The version behind it that was rewound first, if any.
        rewound: Option<DataVersion>,
    },
    /// A snapshot that closes a gap.
    Healed {
        /// The newest version before the gap; `None` when there was none.
        from: Option<DataVersion>,
        /// The version of the snapshot.
        to: DataVersion,
    },
    /// A gap: versions were not recorded, and the database could not be read, so a snapshot is pending. Until it is taken, no
    /// version behind the gap can be opened.
    Gap {
        /// The newest version before the gap; `None` when there was none.
        from: Option<DataVersion>,
        /// The newest missing version.
        to: DataVersion,
    },
}

//! What a recorder says of a write.

use format::units::{DataVersion, Seq, Timestamp};

/// The newest recorded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestVersion {
    /// Its number.
    pub data_version: DataVersion,
    /// Its record.
    pub seq: Seq,
    /// When that was received.
    pub recorded_at: Timestamp,
}

/// What was recorded for a write, beside the write itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Nothing else.
    Appended,
    /// That the change before it was never committed.
    Rewound {
        /// The version that change would have led to.
        data_version: DataVersion,
    },
    /// A snapshot of the version before the write, which takes the place of what was recorded as that version.
    Replaced {
        /// The version of the snapshot.
        data_version: DataVersion,
        /// The version behind it that was rewound before, if one was.
        rewound: Option<DataVersion>,
    },
    /// A snapshot that closes a gap.
    Healed {
        /// The newest version before the gap; `None` when there was none.
        from: Option<DataVersion>,
        /// The version of the snapshot.
        to: DataVersion,
    },
    /// That versions were not recorded. The database could not be read, so a snapshot is owed: until it is taken no version
    /// behind the gap can be opened.
    Gap {
        /// The newest version before the gap; `None` when there was none.
        from: Option<DataVersion>,
        /// The newest version that is missing.
        to: DataVersion,
    },
}

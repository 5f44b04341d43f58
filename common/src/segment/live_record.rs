//! [`LiveRecord`]: a change or a snapshot that is part of the newest state.

use crate::log::RecordAddress;
use crate::replay::ChangeAbout;
use format::units::Seq;

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
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let key = |record: &Self| (record.about.seq, record.about.data_version, record.about.time, record.kind);
        key(self) == key(other)
    }
}

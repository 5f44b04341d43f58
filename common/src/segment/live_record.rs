//! [`LiveRecord`]: a change or a snapshot that is part of the newest state.

use crate::log::RecordAddress;
use crate::replay::ChangeAbout;
use format::units::Seq;

/// A record that is part of the newest state: no rewind, and not rewound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveRecord {
    pub(crate) about: ChangeAbout,
    pub(crate) address: RecordAddress,
    pub(crate) kind: LiveKind,
}

/// Kind of a live record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LiveKind {
    /// A change, with statements.
    Change,
    /// A snapshot, with pages.
    Snapshot,
}

impl LiveRecord {
    /// The record's seq.
    pub(crate) fn seq(&self) -> Seq {
        self.about.seq
    }

    /// Whether both are the same record, in a log or in a segment.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let key = |record: &Self| (record.about.seq, record.about.data_version, record.about.time, record.kind);
        key(self) == key(other)
    }
}

//! The log: records appended to files, read back in order, and recovered after a crash.

mod cursor;
mod cut;
mod db_write;
mod kept;
mod preallocated;
mod preallocated_file;
#[cfg(test)]
mod preallocated_file_tests;
mod recovery;
mod room;
#[cfg(test)]
mod room_tests;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use format::names;
use format::units::Keyframe;
use format::units::Seq;

pub(crate) use cursor::{LogCursor, NextLog, SECOND_LOOK_AFTER, SECOND_LOOKS};
pub use cut::CutError;
pub(crate) use cut::cut_behind;
pub use db_write::DbWrite;
pub(crate) use preallocated::PreallocatedLogs;
pub(crate) use preallocated_file::{check_unused, open_log};
pub use recovery::RecoverError;
pub(crate) use recovery::recover;
pub(crate) use room::check_len;
pub(crate) use tail::{LONGEST_LOG, intact_record_after, torn_len};
pub use writer::AppendError;
#[cfg(test)]
pub(crate) use writer::create_first_log;
pub(crate) use writer::{LogWriter, create_first_log_within, create_log_at, write_log};

/// The end of a log: the fields that the next record must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Seq of the next record.
    pub next_seq: Seq,
    /// Checksum of the last record. Each covers the one before, so logs with equal ends have equal records.
    pub previous_checksum: u32,
}

/// Address of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordAddress {
    /// The record is in a log, or, once the log is removed, in the segment that it was sealed to.
    Log {
        /// First seq of the log.
        log: Seq,
        /// Seq of the record.
        seq: Seq,
        /// Offset of the record in the log.
        offset: u64,
        /// Length of the record in bytes.
        len: usize,
        /// Checksum of the record, which covers all records before it, too.
        checksum: u32,
    },
    /// The record is in a segment.
    Segment {
        /// First seq of the segment.
        segment: Seq,
        /// The interval of the record.
        interval: Keyframe,
        /// Number of changes before it in the interval.
        position: u32,
    },
}

impl RecordAddress {
    /// First seq of the record's log or segment.
    pub fn file_seq(&self) -> Seq {
        match *self {
            Self::Log { log, .. } => log,
            Self::Segment { segment, .. } => segment,
        }
    }

    /// Name of the record's file in the backup directory.
    pub fn file_name(&self) -> String {
        match *self {
            Self::Log { log, .. } => names::log(log),
            Self::Segment { segment, .. } => names::segment(segment),
        }
    }
}

//! The log: records appended to files, read back in order, and put right after a crash.

mod cursor;
mod cut;
mod db_write;
mod preallocated;
mod recovery;
mod room;
#[cfg(test)]
mod room_tests;
mod spare;
#[cfg(test)]
mod spare_tests;
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
pub use recovery::RecoverError;
pub(crate) use recovery::recover;
pub(crate) use room::check_len;
pub(crate) use spare::{check_unused, open_log};
pub(crate) use tail::{LONGEST_LOG, intact_record_after, torn_len};
pub use writer::AppendError;
#[cfg(test)]
pub(crate) use writer::create_first_log;
pub(crate) use writer::{LogWriter, create_first_log_within, create_log_at, write_log};

/// Where a log ends: what the next record must say of itself and of the record before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Seq of the next record.
    pub next_seq: Seq,
    /// Checksum of the record before it. Each covers the one before, so two logs with equal ends hold the same records.
    pub previous_checksum: u32,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordAddress {
    /// In a log. When that is gone, in the segment that it was sealed to.
    Log {
        /// First seq of the log.
        log: Seq,
        /// Its own.
        seq: Seq,
        /// Byte of the log at which it begins.
        offset: u64,
        /// Its bytes.
        len: usize,
        /// Its checksum, which covers all records before it, too.
        checksum: u32,
    },
    /// In a segment.
    Segment {
        /// First seq of the segment.
        segment: Seq,
        /// The interval that it is in.
        interval: Keyframe,
        /// Changes before it in that interval.
        position: u32,
    },
}

impl RecordAddress {
    /// First seq of the log or segment that holds it.
    pub fn file_seq(&self) -> Seq {
        match *self {
            Self::Log { log, .. } => log,
            Self::Segment { segment, .. } => segment,
        }
    }

    /// The name of the file in the backup directory that holds the record.
    pub fn file_name(&self) -> String {
        match *self {
            Self::Log { log, .. } => names::log(log),
            Self::Segment { segment, .. } => names::segment(segment),
        }
    }
}

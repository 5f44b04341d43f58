//! The log: records appended to files, read back in order, and put right after a crash.

mod behind_segments;
mod cursor;
mod made_ahead;
mod recovery;
mod spare;
#[cfg(test)]
mod spare_tests;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use crate::Seq;
use crate::format::names;
use crate::format::page_images::Keyframe;

pub(crate) use behind_segments::Unsealed;
pub(crate) use cursor::{Behind, LogCursor, SECOND_LOOK_AFTER, SECOND_LOOKS};
pub(crate) use made_ahead::Spares;
pub use recovery::RecoverError;
pub(crate) use recovery::recover;
pub(crate) use spare::open_log;
pub use writer::AppendError;
pub(crate) use writer::{LogWriter, create_first_log};

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPlace {
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

impl RecordPlace {
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

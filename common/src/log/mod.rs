//! The log: records appended to files, read back in order, and put right after a crash.

mod cursor;
mod recovery;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use crate::Seq;

pub(crate) use cursor::LogCursor;
pub use recovery::RecoverError;
pub(crate) use recovery::recover;
pub use writer::AppendError;
pub(crate) use writer::{LogWriter, create_first_log};

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// First seq of the log that holds it.
    pub(crate) log: Seq,
    /// Byte of that file at which it begins.
    pub(crate) offset: u64,
    /// Its bytes.
    pub(crate) len: usize,
}

impl RecordPlace {
    /// The name of the file in the backup directory that holds the record.
    pub fn file_name(&self) -> String {
        crate::format::names::log(self.log)
    }
}

//! [`DbWrite`]: a write that `lightningd` is about to commit.

use std::borrow::Cow;

use format::units::{DataVersion, Timestamp};

/// A `db_write` to record.
#[derive(Debug)]
pub struct DbWrite<'a> {
    /// The version after the write.
    pub data_version: DataVersion,
    /// The statements, in order, as received.
    pub statements: &'a [Cow<'a, str>],
    /// Time at which the write was received.
    pub received_at: Timestamp,
}

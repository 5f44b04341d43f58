//! [`DbWrite`]: what `lightningd` is about to commit.

use std::borrow::Cow;

use format::units::{DataVersion, Timestamp};

/// A `db_write` to record.
#[derive(Debug)]
pub struct DbWrite<'a> {
    /// The version it leads to.
    pub data_version: DataVersion,
    /// Its statements, in order, as received.
    pub statements: &'a [Cow<'a, str>],
    /// When it was received.
    pub received_at: Timestamp,
}

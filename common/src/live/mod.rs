//! The database of a running node: read beside `lightningd`, and copied into a snapshot.

pub(crate) mod live_database;
pub(crate) mod open_transaction;
pub(crate) mod take_snapshot;

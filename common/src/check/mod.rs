//! Checks of a segment against its log: its bytes, its page map, its chain of records, and its pages after a replay.

pub(crate) mod log_replay;
pub(crate) mod page_map;
pub(crate) mod pages_of_snapshot;
pub(crate) mod read_sets;
pub(crate) mod record_chain;
pub(crate) mod segment_body;
pub(crate) mod segment_replay;

//! [`LogCutter`]: encodes records and divides them into logs as the recorder does.

use std::sync::Arc;

use uuid::Uuid;

use crate::config::log_limits::LogLimits;
use crate::log::{LogEnd, write_log};
use crate::storage::{Directory, StorageError};
use format::change_flags::ChangeFlags;
use format::log_header::LOG_HEADER_LEN;
use format::record::{PayloadTooLong, RecordHeader, encode_change_of, encode_snapshot, first_link};
use format::segment::FollowedBy;
use format::snapshot_ref::SnapshotRef;
use format::sql::lexed::LexedChange;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::Bump;

/// A log with a successor.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinishedLog {
    /// Checksum of the last record.
    pub(super) last_checksum: u32,
    /// Kind of the first record of the next log.
    pub(super) followed_by: FollowedBy,
}

/// The newest log, as the bytes of its records.
#[derive(Debug)]
pub(super) struct NewestLog {
    begins: LogEnd,
    records: Vec<u8>,
}

/// Encodes the records of a new backup. Keeps the bytes of the newest log.
#[derive(Debug)]
pub(super) struct LogCutter {
    uuid: Uuid,
    limits: LogLimits,
    next: LogEnd,
    newest: NewestLog,
    statements: usize,
}

impl LogCutter {
    pub(super) fn new(uuid: Uuid, limits: LogLimits) -> Self {
        let next = LogEnd { next_seq: Seq::FIRST, previous_checksum: first_link(uuid) };
        Self { uuid, limits, next, newest: NewestLog { begins: next, records: Vec::new() }, statements: 0 }
    }

    /// Seq of the next record.
    pub(super) fn next_seq(&self) -> Seq {
        self.next.next_seq
    }

    /// Adds a change; also returns the log before it if the change begins another.
    pub(super) fn change(
        &mut self,
        data_version: DataVersion,
        time: Timestamp,
        flags: ChangeFlags,
        bump: Bump,
        statements: &LexedChange,
    ) -> Result<(RecordHeader, Option<FinishedLog>), PayloadTooLong> {
        let header = self.header(data_version, time);
        let (before, count) = (self.newest.records.len(), statements.len());
        let texts = statements.statements().map(|statement| statement.text);
        let checksum = encode_change_of(self.uuid, &header, flags, texts, &mut self.newest.records)?;
        let bytes = LOG_HEADER_LEN as u64 + self.newest.records.len() as u64;
        let is_full = bytes > self.limits.bytes || self.statements + count > self.limits.statements;
        let begins_log = bump == Bump::Present && is_full;
        let log = if begins_log { self.cut_before(before, FollowedBy::Change) } else { None };
        self.statements += count;
        self.advance(checksum);
        Ok((header, log))
    }

    /// Adds a snapshot, which begins a log; also returns the log before it.
    pub(super) fn snapshot(
        &mut self,
        data_version: DataVersion,
        time: Timestamp,
        snapshot: &SnapshotRef,
    ) -> (RecordHeader, Option<FinishedLog>) {
        let header = self.header(data_version, time);
        let log = self.cut_before(self.newest.records.len(), FollowedBy::Snapshot);
        let checksum = encode_snapshot(self.uuid, &header, snapshot, &mut self.newest.records);
        self.advance(checksum);
        (header, log)
    }

    /// The newest log.
    pub(super) fn finish(self) -> NewestLog {
        self.newest
    }

    fn header(&self, data_version: DataVersion, time: Timestamp) -> RecordHeader {
        let LogEnd { next_seq: seq, previous_checksum } = self.next;
        RecordHeader { seq, data_version, time, previous_checksum }
    }

    fn advance(&mut self, checksum: u32) {
        self.next = LogEnd { next_seq: self.next.next_seq.next(), previous_checksum: checksum };
    }

    /// Ends the log before the next record, at offset `at`, unless the log is empty.
    fn cut_before(&mut self, at: usize, followed_by: FollowedBy) -> Option<FinishedLog> {
        if at == 0 {
            return None;
        }
        self.newest.records.drain(..at);
        (self.newest.begins, self.statements) = (self.next, 0);
        Some(FinishedLog { last_checksum: self.next.previous_checksum, followed_by })
    }
}

impl NewestLog {
    /// Writes the log to its file.
    pub(super) fn write(
        &self,
        directory: &Arc<dyn Directory>,
        uuid: Uuid,
        limits: LogLimits,
    ) -> Result<(), StorageError> {
        write_log(&**directory, uuid, self.begins, &self.records, limits)
    }
}

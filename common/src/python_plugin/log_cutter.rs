//! [`LogCutter`]: records made one behind the other, and cut into logs as the recorder cuts them.

use std::borrow::Cow;
use std::sync::Arc;

use uuid::Uuid;

use crate::format::log_header::LOG_HEADER_LEN;
use crate::format::record::{
    Body, PayloadTooLong, Record, RecordHeader, RunStart, SnapshotRef, encode_change, encode_snapshot, first_link,
};
use crate::format::segment::FollowedBy;
use crate::log::{AppendError, LogEnd, create_log_at};
use crate::storage::Directory;
use crate::version_rules::Bump;
use crate::{DataVersion, LogLimits, Seq, Timestamp};

/// A log that is not in a file.
#[derive(Debug, Clone)]
pub(super) struct CutLog {
    /// Seq of its first record, and the checksum of the record before that.
    pub(super) begins: LogEnd,
    /// Its records.
    pub(super) records: Arc<Vec<Record<'static>>>,
    /// Checksum of the last of them.
    pub(super) last_checksum: u32,
    /// What the next log begins with; `None` for the newest one.
    pub(super) followed_by: Option<FollowedBy>,
}

/// Makes records of a new backup.
#[derive(Debug)]
pub(super) struct LogCutter {
    uuid: Uuid,
    limits: LogLimits,
    next: LogEnd,
    begins: LogEnd,
    records: Vec<Record<'static>>,
    bytes: u64,
    statements: usize,
    encoded: Vec<u8>,
}

impl LogCutter {
    pub(super) fn new(uuid: Uuid, limits: LogLimits) -> Self {
        let next = LogEnd { next_seq: Seq::FIRST, previous_checksum: first_link(uuid) };
        let (records, bytes) = (Vec::new(), LOG_HEADER_LEN as u64);
        Self { uuid, limits, next, begins: next, records, bytes, statements: 0, encoded: Vec::new() }
    }

    /// Seq of the next record.
    pub(super) fn next_seq(&self) -> Seq {
        self.next.next_seq
    }

    /// Adds a change; returns the log before it if it begins another.
    pub(super) fn change(
        &mut self,
        data_version: DataVersion,
        time: Timestamp,
        run_start: RunStart,
        bump: Bump,
        statements: Vec<String>,
    ) -> Result<Option<CutLog>, PayloadTooLong> {
        let header = self.header(data_version, time);
        self.encoded.clear();
        let checksum = encode_change(self.uuid, &header, run_start, &statements, &mut self.encoded)?;
        let (bytes, count) = (self.encoded.len() as u64, statements.len());
        let is_full = self.bytes + bytes > self.limits.bytes || self.statements + count > self.limits.statements;
        let log = if bump == Bump::Present && is_full { self.cut(FollowedBy::Change) } else { None };
        let statements = statements.into_iter().map(Cow::Owned).collect();
        self.add(Record { header, body: Body::Change { run_start, statements } }, checksum, bytes, count);
        Ok(log)
    }

    /// Adds a snapshot, which begins a log; returns the one before it.
    pub(super) fn snapshot(
        &mut self,
        data_version: DataVersion,
        time: Timestamp,
        snapshot: &SnapshotRef,
    ) -> Option<CutLog> {
        let header = self.header(data_version, time);
        self.encoded.clear();
        let checksum = encode_snapshot(self.uuid, &header, snapshot, &mut self.encoded);
        let log = self.cut(FollowedBy::Snapshot);
        let bytes = self.encoded.len() as u64;
        self.add(Record { header, body: Body::Snapshot(*snapshot) }, checksum, bytes, 0);
        log
    }

    /// The newest log, if there is any.
    pub(super) fn finish(mut self) -> Option<CutLog> {
        self.cut(FollowedBy::Change).map(|log| CutLog { followed_by: None, ..log })
    }

    fn header(&self, data_version: DataVersion, time: Timestamp) -> RecordHeader {
        let LogEnd { next_seq: seq, previous_checksum } = self.next;
        RecordHeader { seq, data_version, time, previous_checksum }
    }

    fn add(&mut self, record: Record<'static>, checksum: u32, bytes: u64, statements: usize) {
        self.next = LogEnd { next_seq: record.header.seq.next(), previous_checksum: checksum };
        self.records.push(record);
        self.bytes += bytes;
        self.statements += statements;
    }

    /// Ends the log, unless nothing is in it.
    fn cut(&mut self, followed_by: FollowedBy) -> Option<CutLog> {
        if self.records.is_empty() {
            return None;
        }
        let log = CutLog {
            begins: self.begins,
            records: Arc::new(std::mem::take(&mut self.records)),
            last_checksum: self.next.previous_checksum,
            followed_by: Some(followed_by),
        };
        (self.begins, self.bytes, self.statements) = (self.next, LOG_HEADER_LEN as u64, 0);
        Some(log)
    }
}

impl CutLog {
    /// Writes it to its file: the newest log is in no segment.
    pub(super) fn write(
        &self,
        directory: &Arc<dyn Directory>,
        uuid: Uuid,
        limits: LogLimits,
    ) -> Result<(), AppendError> {
        let mut writer = create_log_at(directory, uuid, self.begins, limits)?;
        for Record { header, body } in self.records.iter() {
            match body {
                Body::Change { run_start, statements } => {
                    let bump = Bump::find(header.data_version, statements);
                    writer.push_change(header.data_version, header.time, *run_start, bump, statements)?;
                }
                Body::Snapshot(snapshot) => {
                    writer.push_snapshot(header.data_version, header.time, snapshot);
                }
                Body::Rewind { .. } | Body::Commit => {}
            }
        }
        writer.commit()
    }
}

//! Records on their way from whoever reads the file to whoever replays them, some at a time.

use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};

use super::log_cutter::FinishedLog;
use format::change_flags::ChangeFlags;
use format::record::RecordHeader;
use format::snapshot_ref::SnapshotRef;
use format::sql::lexed::LexedChange;
use format::version_rules::Bump;

/// Bytes of statements that are handed on together.
const BATCH_BYTES: usize = 128 << 10;

/// Batches that may wait.
const BATCHES_AHEAD: usize = 4;

/// What is replayed next.
#[derive(Debug)]
pub(super) enum ToReplay {
    /// A change.
    Change { header: RecordHeader, flags: ChangeFlags, bump: Bump, statements: LexedChange },
    /// A snapshot, which begins a log.
    Snapshot { header: RecordHeader, snapshot: SnapshotRef },
    /// The log ends here, and another one follows.
    End(FinishedLog),
}

/// Takes records one by one.
#[derive(Debug)]
pub(super) struct Records {
    batches: SyncSender<Vec<ToReplay>>,
    batch: Vec<ToReplay>,
    bytes: usize,
}

/// Nobody takes them any more.
#[derive(Debug)]
pub(super) struct NobodyReplays;

impl From<SendError<Vec<ToReplay>>> for NobodyReplays {
    fn from(_: SendError<Vec<ToReplay>>) -> Self {
        Self
    }
}

impl Records {
    /// A way for records, and its other end.
    pub(super) fn way() -> (Self, Receiver<Vec<ToReplay>>) {
        let (batches, other_end) = sync_channel(BATCHES_AHEAD);
        (Self { batches, batch: Vec::new(), bytes: 0 }, other_end)
    }

    /// Adds the next one. Waits while too many are on their way.
    pub(super) fn push(&mut self, record: ToReplay) -> Result<(), NobodyReplays> {
        if let ToReplay::Change { statements, .. } = &record {
            self.bytes += statements.bytes();
        }
        self.batch.push(record);
        if self.bytes >= BATCH_BYTES {
            self.batches.send(std::mem::take(&mut self.batch))?;
            self.bytes = 0;
        }
        Ok(())
    }

    /// There are no more.
    pub(super) fn finish(self) -> Result<(), NobodyReplays> {
        Ok(self.batches.send(self.batch)?)
    }
}

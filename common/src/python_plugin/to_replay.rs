//! A batched channel for records, from the reading to the replaying thread.

use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};

use super::log_cutter::FinishedLog;
use format::change_flags::ChangeFlags;
use format::record::RecordHeader;
use format::snapshot_ref::SnapshotRef;
use format::sql::lexed::LexedChange;
use format::version_rules::Bump;

/// Bytes of statements per batch.
const BATCH_BYTES: usize = 128 << 10;

/// Maximum number of waiting batches.
const BATCHES_AHEAD: usize = 4;

/// An item to replay.
#[derive(Debug)]
pub(super) enum ToReplay {
    /// A change.
    Change { header: RecordHeader, flags: ChangeFlags, bump: Bump, statements: LexedChange },
    /// A snapshot, which begins a log.
    Snapshot { header: RecordHeader, snapshot: SnapshotRef },
    /// The end of a log with a successor.
    End(FinishedLog),
}

/// The sending side.
#[derive(Debug)]
pub(super) struct Records {
    batches: SyncSender<Vec<ToReplay>>,
    batch: Vec<ToReplay>,
    bytes: usize,
}

/// The receiving side is gone.
#[derive(Debug)]
pub(super) struct ReplayEnded;

impl From<SendError<Vec<ToReplay>>> for ReplayEnded {
    fn from(_: SendError<Vec<ToReplay>>) -> Self {
        Self
    }
}

impl Records {
    /// Creates a channel.
    pub(super) fn way() -> (Self, Receiver<Vec<ToReplay>>) {
        let (batches, other_end) = sync_channel(BATCHES_AHEAD);
        (Self { batches, batch: Vec::new(), bytes: 0 }, other_end)
    }

    /// Adds a record. Blocks while too many batches wait.
    pub(super) fn push(&mut self, record: ToReplay) -> Result<(), ReplayEnded> {
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

    /// Sends the last batch.
    pub(super) fn finish(self) -> Result<(), ReplayEnded> {
        Ok(self.batches.send(self.batch)?)
    }
}

//! [`Restorable`]: how far a restore of the newest version from a copy would come.
//!
//! That is more than the bytes of the logs: the segments that the newest version builds on must be in the copy, and each snapshot that
//! a record names. It is less than the whole history: older segments may still be on their way. What a restore had once, it has for
//! good: nothing is removed from a copy by the node.

use common::feed::LogPiece;

use crate::copy_error::CopyError;
use crate::objects::File;
use crate::ship::{Overwrite, Shipper, Step, file_of};

/// How far a restore of the newest version would come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restorable {
    /// Seq behind the last record that it would have.
    pub behind: u64,
    /// The checksum of that record, which covers all before it; `None` when it is not known.
    pub checksum: Option<u32>,
}

/// What this run knows of the records whose bytes it has shipped.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ShippedTails {
    /// All records from this seq on are in bytes of logs, without a gap, and none of them names a snapshot. 0 before the first piece.
    plain_from: u64,
    /// Seq behind the last piece with a record that names a snapshot; 0 when there was none. A snapshot may build on pages that are in
    /// segments before it, and bytes of logs do not stand in for those.
    snapshot_behind: u64,
    /// Seq behind the last record that a restore was seen to have.
    restorable: u64,
}

impl ShippedTails {
    /// The next piece is about to be stored, behind records up to `shipped`.
    pub(super) fn begin_piece(&mut self, shipped: u64, piece: &LogPiece) {
        let first = if piece.offset == 0 { piece.log.get() } else { shipped };
        if self.plain_from == 0 || first != shipped {
            self.plain_from = first;
        }
        if piece.names_snapshot {
            (self.plain_from, self.snapshot_behind) = (piece.end.next_seq, piece.end.next_seq);
        }
    }

    /// Whether bytes of logs stand in for a segment with these records that the copy lacks. `shipped` is the seq behind the last record
    /// in bytes of logs.
    fn stand_in_for(&self, first: u64, last: u64, shipped: u64) -> bool {
        let were_restorable = last < self.restorable;
        let are_plain = self.plain_from > 0 && self.plain_from <= self.restorable.max(1) && last < shipped;
        first >= self.snapshot_behind && (were_restorable || are_plain)
    }
}

impl Shipper {
    /// How far a restore of the newest version from the copy would come now. It never goes back within a run.
    ///
    /// # Errors
    /// When the backup cannot be listed.
    pub fn restorable(&mut self) -> Result<Restorable, CopyError> {
        // First of all: a file that is finished later belongs to records that do not count yet, or its log was shipped.
        let shipped = self.shipped();
        let missing = self.missing_files()?;
        let needed_from = if missing.is_empty() { 0 } else { self.feed.newest_needs_from()?.get() };
        let in_logs = if self.uses_logs { self.shipped.next_seq } else { 1 };
        let is_lacking = |(file, first): &(File, u64)| match *file {
            File::Segment { last, .. } => *first >= needed_from && !self.tails.stand_in_for(*first, last, in_logs),
            File::Snapshot { .. } | File::Pruned { .. } => *first >= needed_from,
        };
        let missing = missing.into_iter().map(file_of).filter(is_lacking).map(|(_, first)| first);
        let behind = missing.min().unwrap_or(u64::MAX).min(shipped).max(self.tails.restorable);
        self.tails.restorable = behind;
        let checksum = (self.uses_logs && behind == self.shipped.next_seq).then_some(self.shipped.previous_checksum);
        Ok(Restorable { behind, checksum })
    }

    /// Ships what the newest version needs of finished files: before a record that names a snapshot, so that the newest version in the
    /// copy can be opened at any time.
    pub(super) fn ship_needed_files(&mut self) -> Result<(), CopyError> {
        loop {
            let Some(&next) = self.missing_files()?.first() else { return Ok(()) };
            let (file, first) = file_of(next);
            let is_needed = first >= self.feed.newest_needs_from()?.get();
            if !is_needed || self.ship_part(file, &next.name(), Overwrite::Never)? == Step::Nothing {
                return Ok(());
            }
        }
    }

    /// Notes since when answers to `lightningd` do not wait for the copy, although they should; the next heartbeat says it.
    pub fn set_degraded_since(&mut self, since: Option<i64>) {
        self.degraded_since = since;
    }
}

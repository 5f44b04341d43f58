//! [`Feed`]: what a backup has to be copied elsewhere: its finished files, and the bytes of its logs as they grow.
//!
//! A copy of finished files and of these bytes, in order, is a backup again. A feed reads as a mount does: it takes no lock and
//! changes nothing.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::backup::Backup;
use crate::log::{LogCursor, NextLog, RecordAddress, SECOND_LOOK_AFTER, SECOND_LOOKS, open_log};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, StorageError, StoredFile, read_on};
use format::log_header::LOG_HEADER_LEN;
use format::record::Body;
use format::units::Seq;
use format::{Damage, names};

/// The number of bytes after which a piece of a log ends at the next record.
const PIECE_BYTES: u64 = 8 << 20;

/// A position in the logs: the beginning of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedPosition {
    /// First seq of the log; 0 before any log.
    pub log: u64,
    /// Offset in the log.
    pub offset: u64,
    /// Seq of the record.
    pub next_seq: u64,
    /// Checksum of the record before, which covers all records before it.
    pub previous_checksum: u32,
}

/// Consecutive bytes of a log. Together, the pieces of a log are the log up to its last record, without the zeros behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// First seq of the log.
    pub log: Seq,
    /// Offset of the first byte in the log.
    pub offset: u64,
    /// The bytes: whole records, behind the log's header when the offset is 0.
    pub bytes: Vec<u8>,
    /// The position behind the piece.
    pub end: FeedPosition,
    /// Whether one of the records names a snapshot, which is a file of its own.
    pub names_snapshot: bool,
}

impl LogPiece {
    /// Whether it was not cut off for its length: it goes to the end of the log, as that was when it was read.
    pub fn is_to_the_end(&self) -> bool {
        (self.bytes.len() as u64) < PIECE_BYTES
    }
}

/// A file that does not change any more while it has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FinishedFile {
    /// A snapshot.
    Snapshot {
        /// Seq of its record.
        seq: Seq,
    },
    /// A segment.
    Segment {
        /// Seq of its first record.
        first: Seq,
        /// Seq of its last record.
        last: Seq,
    },
}

impl FinishedFile {
    /// Name of the file in the backup directory.
    pub fn name(&self) -> String {
        match *self {
            Self::Snapshot { seq } => names::snapshot(seq),
            Self::Segment { first, .. } => names::segment(first),
        }
    }
}

/// Reads what a backup has, in the order in which it came.
#[derive(Debug)]
pub struct Feed {
    backup: Arc<Backup>,
    cursor: LogCursor,
    position: FeedPosition,
}

impl Feed {
    /// A feed that begins with the first record that is not sealed.
    ///
    /// # Errors
    /// When the backup cannot be listed, or its newest segment is damaged.
    pub fn begin(backup: Arc<Backup>) -> Result<Self, ReadError> {
        let (_, cursor) = backup.sealed_history()?;
        let position = position_of(&cursor);
        Ok(Self { backup, cursor, position })
    }

    /// A feed that goes on at a position of an earlier one; `None` when the record before it is not in a log any more, or is
    /// another one: the log was sealed, or the machine lost what was not durable.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn resume(backup: Arc<Backup>, at: &FeedPosition) -> Result<Option<Self>, ReadError> {
        let Some(log) = Seq::new(at.log) else { return Ok(None) };
        let (directory, uuid) = (Arc::clone(backup.directory()), backup.manifest().uuid);
        let mut cursor = match LogCursor::at_log(directory, uuid, log) {
            Ok(cursor) => cursor,
            Err(ReadError::Storage(error)) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = cursor.read_to_end_of_log(&mut |record, _| {
            Ok(if record.header.seq.get() < at.next_seq { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        match read {
            Ok(_) if cursor.next_seq().get() == at.next_seq && cursor.previous_checksum() == at.previous_checksum => {
                Ok(Some(Self { backup, cursor, position: *at }))
            }
            // Damage is found again, and reported, by a feed that begins anew.
            Ok(_) | Err(ReadError::Damaged { .. }) => Ok(None),
            Err(ReadError::Storage(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The backup.
    pub fn backup(&self) -> &Arc<Backup> {
        &self.backup
    }

    /// The position behind what [`next_piece`](Self::next_piece) has returned.
    pub fn position(&self) -> FeedPosition {
        self.position
    }

    /// Seq behind the newest record of the backup. Reads all logs.
    ///
    /// # Errors
    /// When the backup cannot be read to its end.
    pub fn read_end(&self) -> Result<u64, ReadError> {
        let (_, mut cursor) = self.backup.sealed_history()?;
        cursor.read_new(&mut |_, _| Ok(()))?;
        Ok(cursor.next_seq().get())
    }

    /// The snapshots and segments that the backup has now, ascending, snapshots first. One of them may vanish later: when it is
    /// sealed into a segment, or dropped.
    ///
    /// # Errors
    /// When the backup cannot be listed, or a segment is damaged.
    pub fn finished_files(&self) -> Result<Vec<FinishedFile>, ReadError> {
        let mut files = Vec::new();
        let names = self.backup.directory().list()?;
        self.backup.segments().look_what_is_dropped()?;
        let pruned = self.backup.segments().pruned();
        let is_dropped = |first| pruned.as_ref().is_some_and(|pruned| pruned.range_of(first).is_some());
        for name in names {
            if let Some(seq) = names::parse_snapshot(&name) {
                files.push(FinishedFile::Snapshot { seq });
            } else if let Some(first) = names::parse_segment(&name).filter(|&first| !is_dropped(first))
                && let Some(footer) = self.backup.segments().footer_of_new(first)?
            {
                files.push(FinishedFile::Segment { first, last: footer.last_seq });
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// First seq of the newest log; `None` when there is none.
    ///
    /// # Errors
    /// When the backup cannot be listed.
    pub fn newest_log(&self) -> Result<Option<Seq>, StorageError> {
        let names = self.backup.directory().list()?;
        Ok(names.iter().filter_map(|name| names::parse_log(name)).max())
    }

    /// Seq of the first record that the newest sealed state builds on: with the files from there on, the newest version can be opened.
    /// Everything before is older history.
    ///
    /// # Errors
    /// When the backup cannot be listed, or a segment is damaged.
    pub fn newest_needs_from(&self) -> Result<Seq, ReadError> {
        let (history, _) = self.backup.sealed_history()?;
        let Some(mut from) = history.sealed().last().copied() else { return Ok(Seq::FIRST) };
        let pruned = self.backup.segments().pruned();
        let is_dropped = |first| pruned.as_ref().is_some_and(|pruned| pruned.range_of(first).is_some());
        loop {
            let footer = self.backup.segments().footer(from)?;
            match (footer.base, footer.snapshot) {
                // What is left of those is in `pruned`.
                (Some(base), _) if is_dropped(base) => return Ok(from),
                // Always an older one.
                (Some(base), _) => from = base,
                (None, Some(snapshot)) => return Ok(from.min(snapshot.seq)),
                (None, None) => return Ok(from),
            }
        }
    }

    /// Seq of the last dropped record; `None` when none was dropped.
    ///
    /// # Errors
    /// When the file `pruned` is damaged or cannot be read.
    pub fn dropped_through(&self) -> Result<Option<Seq>, ReadError> {
        self.backup.segments().look_what_is_dropped()?;
        let Some(pruned) = self.backup.segments().pruned() else { return Ok(None) };
        Ok(pruned.ranges().iter().map(|range| range.last_seq).max())
    }

    /// Opens a file of the backup for reading.
    ///
    /// # Errors
    /// When it cannot be opened; also when it is gone by now.
    pub fn open(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        self.backup.directory().open(name, Access::Read)
    }

    /// The next bytes of the logs; `None` when there are none yet. Records that were sealed meanwhile are skipped: they are in a
    /// segment.
    ///
    /// # Errors
    /// When the log is damaged or cannot be read. The position stays before that.
    pub fn next_piece(&mut self) -> Result<Option<LogPiece>, ReadError> {
        let mut looks = 0;
        loop {
            let before = self.position;
            match self.read_piece() {
                Ok(Read::Piece(piece)) => {
                    self.position = piece.end;
                    return Ok(Some(piece));
                }
                Ok(Read::NothingYet) => return Ok(None),
                Ok(Read::NextLog) => {}
                Err(_) if self.skip_sealed()? => {}
                // As other readers do: it may be the end of a write that was seen before its beginning.
                Err(ReadError::Damaged { .. }) if looks < SECOND_LOOKS => {
                    looks += 1;
                    self.go_back_to(&before)?;
                    thread::sleep(SECOND_LOOK_AFTER);
                }
                Err(error) => {
                    self.go_back_to(&before)?;
                    return Err(error);
                }
            }
        }
    }

    fn read_piece(&mut self) -> Result<Read, ReadError> {
        let mut found: Option<Found> = None;
        let next = self.cursor.read_to_end_of_log(&mut |record, address| {
            let RecordAddress::Log { log, seq, offset, len, checksum } = address else {
                return Err(Damage::Contradiction("a record of a log has the address of a segment"));
            };
            let piece = found.get_or_insert(Found {
                log,
                from: start_of(offset),
                end: offset,
                next_seq: seq,
                checksum: 0,
                names_snapshot: false,
            });
            if piece.end - piece.from >= PIECE_BYTES {
                return Ok(ControlFlow::Break(()));
            }
            (piece.end, piece.next_seq, piece.checksum) = (offset + len as u64, seq.next(), checksum);
            piece.names_snapshot |= matches!(record.body, Body::Snapshot(_));
            Ok(ControlFlow::Continue(()))
        })?;
        let Some(Found { log, from, end, next_seq, checksum, names_snapshot }) = found else {
            return Ok(if next == NextLog::Begins { Read::NextLog } else { Read::NothingYet });
        };
        let file = open_log(&**self.backup.directory(), self.backup.manifest().uuid, log)?;
        let (mut bytes, wanted) = (Vec::new(), usize::try_from(end - from).unwrap_or(usize::MAX));
        read_on(&*file, &mut bytes, from, wanted)?;
        if bytes.len() < wanted {
            return Err(ReadError::damaged(file.path(), from, Damage::Short { have: bytes.len(), want: wanted }));
        }
        let end = FeedPosition { log: log.get(), offset: end, next_seq: next_seq.get(), previous_checksum: checksum };
        Ok(Read::Piece(LogPiece { log, offset: from, bytes, end, names_snapshot }))
    }

    /// Skips the log at the position if it was sealed; `false` when it was not.
    fn skip_sealed(&mut self) -> Result<bool, ReadError> {
        let next_seq = Seq::new(self.position.next_seq).unwrap_or(Seq::FIRST);
        let mut skipped = false;
        for first in [Seq::new(self.position.log), Some(next_seq)].into_iter().flatten() {
            let Some(footer) = self.backup.segments().footer_of_new(first)? else { continue };
            if footer.last_seq >= next_seq {
                let (directory, uuid) = (Arc::clone(self.backup.directory()), self.backup.manifest().uuid);
                self.cursor = LogCursor::at(directory, uuid, footer.last_seq.next(), footer.last_checksum);
                self.position = position_of(&self.cursor);
                skipped = true;
                break;
            }
        }
        Ok(skipped)
    }

    /// Puts the cursor back to a position that it has passed without its bytes.
    fn go_back_to(&mut self, at: &FeedPosition) -> Result<(), ReadError> {
        if self.cursor.next_seq().get() == at.next_seq {
            return Ok(());
        }
        match Self::resume(Arc::clone(&self.backup), at)? {
            Some(again) => *self = again,
            // A position before any log.
            None => *self = Self::begin(Arc::clone(&self.backup))?,
        }
        Ok(())
    }
}

/// What a read of a log came to.
enum Read {
    Piece(LogPiece),
    /// The log has ended, and the next one was entered.
    NextLog,
    NothingYet,
}

/// The records that a piece is made of.
struct Found {
    log: Seq,
    from: u64,
    end: u64,
    next_seq: Seq,
    checksum: u32,
    names_snapshot: bool,
}

/// Offset from which a record is copied: with the log's header, if it is the first one.
fn start_of(record: u64) -> u64 {
    if record == LOG_HEADER_LEN as u64 { 0 } else { record }
}

fn position_of(cursor: &LogCursor) -> FeedPosition {
    let (next_seq, previous_checksum) = (cursor.next_seq().get(), cursor.previous_checksum());
    FeedPosition { log: 0, offset: 0, next_seq, previous_checksum }
}

#[cfg(test)]
mod tests;

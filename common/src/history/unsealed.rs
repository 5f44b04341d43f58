//! The beginning of the logs, behind the sealed part.

use std::sync::Arc;

use uuid::Uuid;

use crate::log::LogCursor;
use crate::segment::Segments;
use crate::storage::Directory;
use crate::storage::read_error::ReadError;
use format::names;
use format::units::Seq;

/// The segments of a backup, and a cursor at the logs behind them.
#[derive(Debug)]
pub(crate) struct Unsealed {
    /// First seqs of the segments, ascending.
    pub(crate) sealed: Vec<Seq>,
    /// Cursor before the first unsealed record.
    pub(crate) cursor: LogCursor,
}

impl Unsealed {
    /// Lists the directory and reads the end of the newest segment.
    ///
    /// If that segment is damaged, the cursor is at its log, which exists if the sealing was cut short, or else at the first log
    /// behind it. Without any log the cursor is at the beginning of the segment.
    pub(crate) fn find(directory: &Arc<dyn Directory>, uuid: Uuid, segments: &Segments) -> Result<Self, ReadError> {
        // In this order: a segment missing from the names was dropped before, so `pruned` is at least as new.
        let names = directory.list()?;
        match segments.look_what_is_dropped() {
            Ok(_) => {}
            Err(error @ ReadError::Damaged { .. }) => log::error!("{}", error.in_words()),
            Err(error) => return Err(error),
        }
        let pruned = segments.pruned();
        let is_dropped = |first: Seq| pruned.as_ref().is_some_and(|pruned| pruned.range_of(first).is_some());
        let mut sealed: Vec<Seq> = names.iter().filter_map(|name| names::parse_segment(name)).collect();
        sealed.retain(|&first| !is_dropped(first));
        let thinned = pruned.as_ref().map_or(&[][..], |pruned| pruned.thinned());
        sealed.extend(thinned.iter().map(|thinned| thinned.segment));
        sealed.sort_unstable();
        let directory = Arc::clone(directory);
        let Some(&newest) = sealed.last() else {
            return Ok(Self { sealed, cursor: LogCursor::new(directory, uuid) });
        };
        let error = match segments.footer(newest) {
            Ok(footer) => {
                let cursor = LogCursor::at(directory, uuid, footer.last_seq.next(), footer.last_checksum);
                return Ok(Self { sealed, cursor });
            }
            Err(error) => error,
        };
        log::error!("{}", error.in_words());
        let logs = names.iter().filter_map(|name| names::parse_log(name)).filter(|&first| first >= newest);
        let cursor = match logs.min() {
            // A damaged header is reported by the next read.
            Some(first) => match LogCursor::at_log(Arc::clone(&directory), uuid, first) {
                Err(ReadError::Damaged { .. }) => LogCursor::at(directory, uuid, newest, 0),
                cursor => cursor?,
            },
            // Everything before it can be read; the next records are in the segment, so reading on reports the damage.
            None => LogCursor::at(directory, uuid, newest, 0),
        };
        sealed.retain(|&segment| segment < cursor.next_seq());
        Ok(Self { sealed, cursor })
    }
}

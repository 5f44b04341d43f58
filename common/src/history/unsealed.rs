//! Where the logs begin: behind what is sealed.

use std::sync::Arc;

use uuid::Uuid;

use crate::log::LogCursor;
use crate::segment::Segments;
use crate::storage::Directory;
use crate::storage::read_error::ReadError;
use format::names;
use format::units::Seq;

/// What of a backup is sealed, and a cursor behind that.
#[derive(Debug)]
pub(crate) struct Unsealed {
    /// First seqs of the segments, ascending.
    pub(crate) sealed: Vec<Seq>,
    /// Before the first record that is in no segment.
    pub(crate) cursor: LogCursor,
}

impl Unsealed {
    /// Lists the directory and reads the end of the newest segment.
    ///
    /// When that is damaged, the log that it was made from counts, which is there if the sealing was cut short; or else
    /// the first log behind it. Without any the cursor stands where the segment begins.
    pub(crate) fn find(directory: &Arc<dyn Directory>, uuid: Uuid, segments: &Segments) -> Result<Self, ReadError> {
        // In this order: what is missing from the names was dropped before, and what remains of it is told by then.
        let names = directory.list()?;
        match segments.look_what_is_dropped() {
            Ok(_) => {}
            Err(error @ ReadError::Damaged { .. }) => log::error!("{}", error.in_words()),
            Err(error) => return Err(error),
        }
        let remains = segments.remains();
        let is_dropped = |first: Seq| remains.as_ref().is_some_and(|remains| remains.gap_of(first).is_some());
        let mut sealed: Vec<Seq> = names.iter().filter_map(|name| names::parse_segment(name)).collect();
        sealed.retain(|&first| !is_dropped(first));
        let thinned = remains.as_ref().map_or(&[][..], |remains| remains.thinned());
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
            // What is wrong with a header is told by whoever reads on.
            Some(first) => match LogCursor::at_log(Arc::clone(&directory), uuid, first) {
                Err(ReadError::Damaged { .. }) => LogCursor::at(directory, uuid, newest, 0),
                cursor => cursor?,
            },
            // Everything before it can be read; what comes next is in the segment, and whoever asks is told.
            None => LogCursor::at(directory, uuid, newest, 0),
        };
        sealed.retain(|&segment| segment < cursor.next_seq());
        Ok(Self { sealed, cursor })
    }
}

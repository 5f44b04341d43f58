//! [`ReadAhead`]: which chunks of a file are fetched before they are asked for, because its readers go on in order.
//!
//! A reader that goes on has a window: so many chunks behind its place are there, or on their way. The window doubles each time more
//! is fetched. Several threads may go through one file as one reader, as those of a restore do: each takes what comes next of
//! the whole, so that they ask a little before the farthest of them, or a little behind what was fetched.

use std::collections::HashMap;
use std::ops::Range;

/// The largest window: 8 MiB, which is the way to the store and back of 100 ms at 640 Mbit/s.
const WINDOW_MAX: u64 = 512;

/// The first window.
const WINDOW_FIRST: u64 = 4;

/// The number of readers of a file that are remembered.
const READERS_MAX: usize = 8;

/// The number of files whose readers are remembered.
const FILES_MAX: usize = 1024;

/// The readers of all files.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    files: HashMap<String, Vec<Reader>>,
}

/// One that goes through a file.
#[derive(Debug, Clone, Copy)]
struct Reader {
    /// The chunk behind the farthest that was read.
    at: u64,
    /// The chunk behind those that are there, or on their way.
    until: u64,
    /// The number of chunks fetched ahead, 0 as long as nothing was read in order.
    window: u64,
}

impl Reader {
    /// Whether a read from this chunk on is one of its own: it goes on, or another thread is a little behind.
    fn goes_on(&self, start: u64) -> bool {
        let around = self.window.max(2);
        (self.at.saturating_sub(around)..=self.until + around).contains(&start)
    }

    /// Notes a read. The chunks to fetch now.
    fn reads(&mut self, wanted: &Range<u64>, chunk_count: u64) -> Range<u64> {
        if wanted.end <= self.at {
            return 0..0;
        }
        self.at = wanted.end;
        self.until = self.until.max(self.at);
        if self.until - self.at > self.window / 2 {
            return 0..0;
        }
        self.window = (self.window * 2).clamp(WINDOW_FIRST, WINDOW_MAX);
        let ahead = self.until..(self.at + self.window).min(chunk_count);
        self.until = self.until.max(ahead.end);
        ahead
    }
}

impl ReadAhead {
    /// Notes that a reader wants these chunks of a file of this many, which may lie in several objects. The chunks behind them to
    /// fetch now; none if it has begun elsewhere, or enough is on its way.
    pub(super) fn reads(&mut self, file: &str, wanted: &Range<u64>, chunk_count: u64) -> Range<u64> {
        if let Some(readers) = self.files.get_mut(file) {
            if let Some(at) = readers.iter().position(|reader| reader.goes_on(wanted.start)) {
                // The last one is the one that has read last.
                readers[at..].rotate_left(1);
                return readers.last_mut().map_or(0..0, |reader| reader.reads(wanted, chunk_count));
            }
            if readers.len() >= READERS_MAX {
                readers.remove(0);
            }
        } else if self.files.len() >= FILES_MAX {
            self.files.clear();
        }
        let reader = Reader { at: wanted.end, until: wanted.end, window: 0 };
        self.files.entry(file.to_owned()).or_default().push(reader);
        0..0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u64 = 10_000;

    fn reads(ahead: &mut ReadAhead, file: &str, wanted: Range<u64>) -> Range<u64> {
        ahead.reads(file, &wanted, COUNT)
    }

    #[test]
    fn readers_that_go_on_get_more_and_others_nothing() {
        let mut ahead = ReadAhead::default();
        assert!(reads(&mut ahead, "s/1", 10..12).is_empty());
        assert_eq!(reads(&mut ahead, "s/1", 12..14), 14..18);
        // Enough is on its way.
        assert!(reads(&mut ahead, "s/1", 14..15).is_empty());
        assert_eq!(reads(&mut ahead, "s/1", 15..16), 18..24);
        // Other readers, of this file and of another one.
        assert!(reads(&mut ahead, "s/1", 500..501).is_empty());
        assert!(reads(&mut ahead, "s/2", 16..17).is_empty());
        // Both go on, one of them across a few chunks that it does not need.
        assert_eq!(reads(&mut ahead, "s/1", 25..26), 26..42);
        assert_eq!(reads(&mut ahead, "s/1", 503..504), 504..508);
        // Far back is not on.
        assert!(reads(&mut ahead, "s/1", 5..6).is_empty());
    }

    #[test]
    fn the_same_chunk_read_again_is_not_going_on() {
        let mut ahead = ReadAhead::default();
        for _ in 0..10 {
            assert!(reads(&mut ahead, "s/1", 10..11).is_empty());
        }
    }

    #[test]
    fn threads_that_share_the_chunks_are_one_reader() {
        let mut ahead = ReadAhead::default();
        let mut fetched = 0..0;
        for chunk in 0..2000 {
            // Each pair of chunks comes in the other order.
            let chunk = chunk ^ 1;
            let more = reads(&mut ahead, "s/1", chunk..chunk + 1);
            if !more.is_empty() {
                assert!(fetched.is_empty() || more.start == fetched.end, "{more:?} behind {fetched:?}");
                assert!(more.end - chunk <= WINDOW_MAX + 2, "{more:?} at {chunk}");
                fetched = more;
            }
        }
        assert!(fetched.end >= 2000 + WINDOW_MAX / 2, "{fetched:?}");
        assert_eq!(ahead.files["s/1"].len(), 1);
    }

    #[test]
    fn nothing_is_fetched_behind_the_end() {
        let mut ahead = ReadAhead::default();
        for chunk in COUNT - 100..COUNT {
            assert!(reads(&mut ahead, "s/1", chunk..chunk + 1).end <= COUNT);
        }
    }
}

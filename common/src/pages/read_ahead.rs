//! Sequential reading of a database with read-ahead in a thread: our pages cost mostly decompression, which can run while the
//! reader waits for another database.

use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;

use super::PageSource;
use crate::storage::read_error::ReadError;
use format::units::PageNo;

/// Bytes per read: whole groups of every kind, for every page size.
const RUN_BYTES: usize = 256 << 10;

/// Maximum number of runs read ahead. With the run being read and the one in use this bounds the memory.
const RUNS_AHEAD: usize = 6;

/// The pages of a database, in order from the first.
pub(crate) struct PagesInOrder<'a> {
    source: &'a dyn PageSource,
    ahead: Receiver<Result<Vec<u8>, ReadError>>,
    /// Runs that were used, to be filled again.
    used_up: Sender<Vec<u8>>,
    run: Vec<u8>,
    /// Number of used bytes of `run`.
    seen: usize,
    /// The first page behind `run`; `None` past the largest page number.
    behind: Option<PageNo>,
}

/// Calls `look` with the pages of `source`, of which it will read about `pages`.
pub(crate) fn read_ahead<T>(source: &dyn PageSource, pages: u32, look: impl FnOnce(&mut PagesInOrder<'_>) -> T) -> T {
    thread::scope(|scope| {
        let (filled, ahead) = sync_channel(RUNS_AHEAD);
        let (used_up, empty) = channel::<Vec<u8>>();
        let read = move || {
            let mut next = Some(PageNo::FIRST);
            while let Some(first) = next.filter(|first| first.get() <= pages) {
                let run = empty.try_recv().unwrap_or_default();
                let read = read_run(source, first, run);
                next = read.as_ref().map_or(None, |_| first.plus(pages_at_once(source)));
                if filled.send(read).is_err() {
                    // The reader has ended.
                    break;
                }
            }
        };
        // Without the thread reading is only slower.
        if let Err(error) = thread::Builder::new().name("reading ahead".to_owned()).spawn_scoped(scope, read) {
            log::debug!("nothing is read ahead: cannot start a thread ({error})");
        }
        let (run, behind) = (Vec::new(), Some(PageNo::FIRST));
        look(&mut PagesInOrder { source, ahead, used_up, run, seen: 0, behind })
    })
}

fn read_run(source: &dyn PageSource, first: PageNo, mut run: Vec<u8>) -> Result<Vec<u8>, ReadError> {
    run.resize(RUN_BYTES, 0);
    source.read_pages(first, &mut run)?;
    Ok(run)
}

fn pages_at_once(source: &dyn PageSource) -> usize {
    RUN_BYTES / source.page_size().bytes()
}

impl PagesInOrder<'_> {
    /// The next page; zeros past the end of the database.
    ///
    /// # Errors
    /// When the page, or another one of its run, cannot be read. All later calls fail, too.
    pub(crate) fn next_page(&mut self) -> Result<&[u8], ReadError> {
        if self.seen == self.run.len() {
            self.next_run()?;
        }
        let start = self.seen;
        self.seen += self.source.page_size().bytes();
        Ok(&self.run[start..self.seen])
    }

    fn next_run(&mut self) -> Result<(), ReadError> {
        // Fails when the thread has ended.
        let _unused = self.used_up.send(std::mem::take(&mut self.run));
        self.seen = 0;
        let first = self.behind;
        self.run = match (self.ahead.recv(), first) {
            (Ok(run), _) => run?,
            // More pages are read than announced, or there is no thread.
            (Err(_), Some(first)) => read_run(self.source, first, Vec::new())?,
            // No database has this many pages.
            (Err(_), None) => vec![0; RUN_BYTES],
        };
        self.behind = first.and_then(|first| first.plus(pages_at_once(self.source)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use format::Damage;
    use format::units::PageSize;

    /// Each page is filled with the low byte of its number.
    struct Numbered {
        page_count: u32,
        damaged: Option<u32>,
        read: AtomicU32,
    }

    impl Numbered {
        fn new(page_count: u32) -> Self {
            Self { page_count, damaged: None, read: AtomicU32::new(0) }
        }
    }

    impl PageSource for Numbered {
        fn page_size(&self) -> PageSize {
            PageSize::DEFAULT
        }

        fn page_count(&self) -> u32 {
            self.page_count
        }

        fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
            self.read.fetch_max(page.get(), Ordering::Relaxed);
            if self.damaged == Some(page.get()) {
                return Err(ReadError::damaged(Path::new("numbered"), 7, Damage::Contradiction("a test")));
            }
            let byte = page.get().to_le_bytes()[0];
            out.fill(if page.get() > self.page_count { 0 } else { byte });
            Ok(())
        }
    }

    fn expect(pages: &mut PagesInOrder<'_>, numbers: std::ops::RangeInclusive<u32>, page_count: u32) {
        for number in numbers {
            let byte = if number > page_count { 0 } else { number.to_le_bytes()[0] };
            let page = pages.next_page().unwrap();
            assert_eq!(page.len(), PageSize::DEFAULT.bytes());
            assert!(page.iter().all(|&found| found == byte), "page {number}: {} instead of {byte}", page[0]);
        }
    }

    #[test]
    fn pages_come_in_order_and_zeros_behind_the_last() {
        for page_count in [0, 1, 63, 64, 65, 1000] {
            let source = Numbered::new(page_count);
            read_ahead(&source, page_count, |pages| expect(pages, 1..=1300, page_count));
        }
    }

    #[test]
    fn more_can_be_looked_at_than_was_said() {
        let source = Numbered::new(1000);
        read_ahead(&source, 100, |pages| expect(pages, 1..=1001, 1000));
    }

    #[test]
    fn it_reads_no_further_than_some_way_ahead_and_ends_when_its_reader_is_gone() {
        let source = Numbered::new(1_000_000);
        read_ahead(&source, source.page_count, |pages| expect(pages, 1..=10, 1_000_000));
        let runs = RUNS_AHEAD + 3;
        let most = u32::try_from(runs * RUN_BYTES / PageSize::DEFAULT.bytes()).unwrap();
        assert!(source.read.load(Ordering::Relaxed) <= most, "{}", source.read.load(Ordering::Relaxed));
    }

    #[test]
    fn a_page_that_cannot_be_read_is_an_error_in_its_place() {
        let source = Numbered { damaged: Some(700), ..Numbered::new(1000) };
        read_ahead(&source, 1000, |pages| {
            expect(pages, 1..=640, 1000);
            assert!(matches!(pages.next_page(), Err(ReadError::Damaged { offset: 7, .. })));
            assert!(matches!(pages.next_page(), Err(ReadError::Damaged { offset: 7, .. })));
        });
    }
}

//! [`PagesInRuns`]: a page cache for a reader that visits all pages, tree by tree.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::PageSource;
use crate::storage::lru::RecentlyUsed;
use crate::storage::read_error::ReadError;
use crate::storage::{StorageError, StorageOp};
use format::names;
use format::units::{PageNo, PageSize};

/// Bytes per read: the size of a compressed group.
const RUN_BYTES: usize = 64 << 10;

/// Number of cached runs: neighbours in a tree are close to each other in the file.
const RUNS_KEPT: usize = 64;

/// Pages that can be read until a stop flag is set. Reads neighbouring pages together.
pub(crate) struct PagesInRuns {
    pages: Arc<dyn PageSource>,
    stop: Arc<AtomicBool>,
    runs: Mutex<Runs>,
}

/// The runs that are cached, and what was read last.
struct Runs {
    kept: RecentlyUsed<u32, Arc<[u8]>>,
    /// Index of the page that was read last.
    last: Option<u32>,
}

impl PagesInRuns {
    /// The pages of `pages`, until `stop` becomes true.
    pub(crate) fn new(pages: Arc<dyn PageSource>, stop: Arc<AtomicBool>) -> Self {
        Self { pages, stop, runs: Mutex::new(Runs { kept: RecentlyUsed::new(RUNS_KEPT), last: None }) }
    }
}

impl PageSource for PagesInRuns {
    fn page_size(&self) -> PageSize {
        self.pages.page_size()
    }

    fn page_count(&self) -> u32 {
        self.pages.page_count()
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        if self.stop.load(Ordering::Relaxed) {
            let (op, path, source) = (StorageOp::Read, names::MANIFEST.into(), io::ErrorKind::Interrupted.into());
            return Err(StorageError { op, path, offset: None, source }.into());
        }
        let page_bytes = self.page_size().bytes();
        let (index, at_once) = (page.get() - 1, u32::try_from(RUN_BYTES / page_bytes).unwrap_or(1));
        let number = index / at_once;
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody who looks rows up in an index jumps about: the neighbours would be read in vain, and evict others.
        let last = runs.last.replace(index);
        let is_near = last.is_some_and(|last| last.abs_diff(index) <= at_once);
        let run = match runs.kept.get(number) {
            Some(run) => run,
            None if !is_near => return self.pages.read_page(page, out),
            None => {
                let mut run = vec![0; RUN_BYTES];
                self.pages.read_pages(PageNo::FIRST.plus((number * at_once) as usize).unwrap_or(page), &mut run)?;
                let run: Arc<[u8]> = run.into();
                runs.kept.insert(number, Arc::clone(&run));
                run
            }
        };
        let start = (index % at_once) as usize * page_bytes;
        out.copy_from_slice(&run[start..start + page_bytes]);
        Ok(())
    }
}

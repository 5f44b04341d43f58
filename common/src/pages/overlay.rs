//! The overlay: pages written by replay, on top of immutable pages.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::{PageIdentity, PageSource, read_runs};
use crate::storage::read_error::ReadError;
use format::units::{PageNo, PageSize};

/// A database after some changes. Clones share their pages until one of them writes.
#[derive(Clone)]
pub(crate) struct OverlayPages {
    base: Arc<dyn PageSource>,
    page_count: u32,
    dirty: HashMap<PageNo, Arc<[u8]>, FixedState>,
}

impl fmt::Debug for OverlayPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OverlayPages {{ page_count: {}, dirty: {} }}", self.page_count, self.dirty.len())
    }
}

impl OverlayPages {
    /// A database with the pages of `base`.
    pub(crate) fn new(base: Arc<dyn PageSource>) -> Self {
        Self { page_count: base.page_count(), base, dirty: HashMap::default() }
    }

    /// Moves the overlay to another base, in which all pages that are not in the overlay are equal.
    pub(crate) fn onto(self, base: Arc<dyn PageSource>) -> Self {
        Self { base, ..self }
    }

    /// The pages written since `earlier`, a previous clone of this database, in ascending order; `None` for pages that were
    /// truncated, even if the database has grown over them since: they are zeros.
    pub(crate) fn written_since(&self, earlier: &Self) -> Vec<(PageNo, Option<Arc<[u8]>>)> {
        let is_new = |page, bytes| earlier.dirty.get(page).is_none_or(|old| !Arc::ptr_eq(old, bytes));
        let written = self.dirty.iter().filter(|(page, bytes)| is_new(page, bytes));
        let mut written: Vec<_> = written.map(|(&page, bytes)| (page, Some(Arc::clone(bytes)))).collect();
        let cut = (self.page_count.saturating_add(1)..=earlier.page_count).filter_map(PageNo::new);
        written.extend(cut.map(|page| (page, None)));
        // Truncated, then grown over without being written.
        let left_out = |page: &PageNo| page.get() <= self.page_count && !self.dirty.contains_key(page);
        written.extend(earlier.dirty.keys().copied().filter(left_out).map(|page| (page, None)));
        written.sort_unstable_by_key(|(page, _)| *page);
        written
    }

    /// Memory of the written pages in bytes.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty.len() as u64 * u64::from(self.page_size().get())
    }
}

impl PageSource for OverlayPages {
    fn page_size(&self) -> PageSize {
        self.base.page_size()
    }

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        match self.dirty.get(&page) {
            Some(bytes) => out.copy_from_slice(bytes),
            None if page.get() > self.page_count => out.fill(0),
            None => self.base.read_page(page, out)?,
        }
        Ok(())
    }

    fn read_pages(&self, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        // Written and truncated pages are never read from the base, which may be damaged there.
        let here = |page: PageNo| Ok(page.get() > self.page_count || self.dirty.contains_key(&page));
        read_runs(first, out, self.page_size(), here, |here, page, out| {
            if !here {
                return self.base.read_pages(page, out);
            }
            let pages = std::iter::successors(Some(page), |page| page.next());
            pages
                .zip(out.chunks_exact_mut(self.page_size().bytes()))
                .try_for_each(|(page, out)| self.read_page(page, out))
        })
    }

    fn identities(&self, first: PageNo, out: &mut [PageIdentity]) -> Result<(), ReadError> {
        self.base.identities(first, out)?;
        let pages = std::iter::successors(Some(first), |page| page.next());
        for (page, out) in pages.zip(out) {
            if let Some(bytes) = self.dirty.get(&page) {
                *out = PageIdentity::Written(Arc::as_ptr(bytes).cast::<u8>() as usize);
            } else if page.get() > self.page_count {
                *out = PageIdentity::Zeros;
            }
        }
        Ok(())
    }
}

/// An overlay as the file that SQLite reads and writes at any offset.
#[derive(Debug)]
pub(crate) struct Overlay {
    pages: OverlayPages,
    /// The first page that could not be read; SQLite reports only "disk I/O error".
    problem: Option<ReadError>,
    /// Maximum bytes of written pages.
    written_bytes_max: u64,
    /// Whether a write exceeded the maximum.
    is_full: bool,
    /// The pages that were read, while that is recorded.
    reads: Option<HashSet<PageNo>>,
    scratch: Vec<u8>,
}

/// The page of a byte offset, and the offset within it.
struct PageSlice {
    page: PageNo,
    start: usize,
    len: usize,
}

impl Overlay {
    /// An overlay whose writes fail beyond this many bytes of pages.
    pub(crate) fn with_room(pages: OverlayPages, written_bytes_max: u64) -> Self {
        Self { pages, problem: None, written_bytes_max, is_full: false, reads: None, scratch: Vec::new() }
    }

    pub(crate) fn pages(&self) -> &OverlayPages {
        &self.pages
    }

    /// Replaces the pages; returns the previous ones.
    pub(crate) fn replace(&mut self, pages: OverlayPages) -> OverlayPages {
        std::mem::replace(self, Self::with_room(pages, self.written_bytes_max)).pages
    }

    /// Raises the limit of written pages to at least this many bytes in addition to those written so far.
    pub(crate) fn make_room(&mut self, bytes: u64) {
        if bytes > self.written_bytes_max {
            self.written_bytes_max = bytes.saturating_add(self.pages.dirty_bytes());
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Starts to record which pages are read.
    pub(crate) fn note_reads(&mut self) {
        self.reads = Some(HashSet::new());
    }

    /// The pages read since [`note_reads`](Self::note_reads).
    pub(crate) fn take_reads(&mut self) -> HashSet<PageNo> {
        self.reads.take().unwrap_or_default()
    }

    pub(crate) fn take_problem(&mut self) -> Option<ReadError> {
        self.problem.take()
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        u64::from(self.pages.page_count) * u64::from(self.pages.page_size().get())
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.pages.page_size()
    }

    /// The part of a request at `offset` within one page; `None` beyond the largest possible database.
    fn slice(&self, offset: u64, wanted: usize) -> Option<PageSlice> {
        let page_size = self.page_size();
        let page = PageNo::at_offset(offset, page_size)?;
        let start = usize::try_from(offset % u64::from(page_size.get())).ok()?;
        Some(PageSlice { page, start, len: wanted.min(page_size.bytes() - start) })
    }

    /// Reads into `out`, with zeros past the end of the database. Returns the number of bytes before the end.
    ///
    /// # Errors
    /// When a page cannot be read: the overlay keeps the reason.
    pub(crate) fn read(&mut self, out: &mut [u8], offset: u64) -> Result<usize, PageUnreadable> {
        let known = usize::try_from(self.size_bytes().saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (mut rest, beyond) = out.split_at_mut(known);
        beyond.fill(0);
        let mut offset = offset;
        while !rest.is_empty() {
            let slice = self.slice(offset, rest.len()).ok_or(PageUnreadable)?;
            let (now, later) = rest.split_at_mut(slice.len);
            if let Some(reads) = &mut self.reads {
                reads.insert(slice.page);
            }
            if slice.len == self.page_size().bytes() {
                self.pages.read_page(slice.page, now).map_err(|error| keep(&mut self.problem, error))?;
            } else if let Some(bytes) = self.pages.dirty.get(&slice.page) {
                now.copy_from_slice(&bytes[slice.start..slice.start + slice.len]);
            } else {
                self.scratch.resize(self.pages.page_size().bytes(), 0);
                let (pages, scratch) = (&self.pages, &mut self.scratch);
                pages.read_page(slice.page, scratch).map_err(|error| keep(&mut self.problem, error))?;
                now.copy_from_slice(&scratch[slice.start..slice.start + slice.len]);
            }
            offset += slice.len as u64;
            rest = later;
        }
        Ok(known)
    }

    /// Writes `bytes`, growing the database as a file grows.
    ///
    /// # Errors
    /// When the rest of a partly written page cannot be read, or the limit is exceeded.
    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), PageUnreadable> {
        let (mut rest, mut offset) = (bytes, offset);
        while !rest.is_empty() {
            if self.pages.dirty_bytes() > self.written_bytes_max {
                self.is_full = true;
                return Err(PageUnreadable);
            }
            let slice = self.slice(offset, rest.len()).ok_or(PageUnreadable)?;
            let (now, later) = rest.split_at(slice.len);
            if let Some(own) = self.pages.dirty.get_mut(&slice.page).and_then(Arc::get_mut) {
                // No clone shares the page, so it can be changed in place.
                own[slice.start..slice.start + slice.len].copy_from_slice(now);
                offset += slice.len as u64;
                rest = later;
                continue;
            }
            let whole: Arc<[u8]> = if slice.len == self.page_size().bytes() {
                now.into()
            } else {
                let mut page = vec![0; self.page_size().bytes()];
                self.pages.read_page(slice.page, &mut page).map_err(|error| keep(&mut self.problem, error))?;
                page[slice.start..slice.start + slice.len].copy_from_slice(now);
                page.into()
            };
            self.pages.dirty.insert(slice.page, whole);
            if slice.page.get() > self.pages.page_count {
                self.grow(slice.page.get());
            }
            offset += slice.len as u64;
            rest = later;
        }
        Ok(())
    }

    /// Pages between the old end and the new one are zeros, even if the base has others there.
    fn grow(&mut self, page_count: u32) {
        let below = self.pages.base.page_count().min(page_count);
        let zeros: Arc<[u8]> = vec![0; self.page_size().bytes()].into();
        for page in (self.pages.page_count + 1..=below).filter_map(PageNo::new) {
            self.pages.dirty.entry(page).or_insert_with(|| Arc::clone(&zeros));
        }
        self.pages.page_count = page_count;
    }

    /// Truncates or extends the database to a size.
    pub(crate) fn truncate(&mut self, size_bytes: u64) {
        let page_count = size_bytes.div_ceil(u64::from(self.page_size().get()));
        let page_count = u32::try_from(page_count).unwrap_or(u32::MAX);
        if page_count > self.pages.page_count {
            self.grow(page_count);
        } else {
            self.pages.page_count = page_count;
            self.pages.dirty.retain(|page, _| page.get() <= page_count);
        }
    }
}

/// A page could not be read or written; the overlay keeps the reason.
#[derive(Debug)]
pub(crate) struct PageUnreadable;

/// Keeps the first problem: later ones are its consequences.
fn keep(problem: &mut Option<ReadError>, error: ReadError) -> PageUnreadable {
    problem.get_or_insert(error);
    PageUnreadable
}

#[cfg(test)]
mod tests {
    use super::super::NoPages;
    use super::*;

    fn empty() -> Overlay {
        Overlay::with_room(OverlayPages::new(Arc::new(NoPages(PageSize::new(512).unwrap()))), 1 << 20)
    }

    #[test]
    fn reads_back_what_was_written_across_pages_and_zeros_past_the_end() {
        let mut overlay = empty();
        overlay.write(&[7; 1000], 100).unwrap();
        assert_eq!(overlay.size_bytes(), 1536);
        let mut out = [1; 1600];
        assert_eq!(overlay.read(&mut out, 0).unwrap(), 1536);
        assert!(out[..100].iter().all(|&b| b == 0));
        assert!(out[100..1100].iter().all(|&b| b == 7));
        assert!(out[1100..].iter().all(|&b| b == 0));
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let mut overlay = empty();
        overlay.write(&vec![7; 1 << 20], 0).unwrap();
        assert!(!overlay.is_full());
        overlay.write(&[7; 513], 1 << 20).unwrap_err();
        assert!(overlay.is_full());
    }

    #[test]
    fn what_was_cut_off_does_not_come_back_when_the_file_grows_again() {
        let mut below = empty();
        below.write(&[7; 1536], 0).unwrap();
        let base = Arc::new(below.pages.clone());
        let mut overlay = Overlay::with_room(OverlayPages::new(base), 1 << 20);
        overlay.truncate(512);
        overlay.write(&[9; 512], 1024).unwrap();
        let mut out = [1; 1536];
        assert_eq!(overlay.read(&mut out, 0).unwrap(), 1536);
        assert_eq!((out[0], out[511], out[512], out[1023], out[1024]), (7, 7, 0, 0, 9));
    }

    #[test]
    fn pages_read_together_are_those_read_one_by_one() {
        let mut below = empty();
        for page in 0..20 {
            below.write(&[page + 1; 512], u64::from(page) * 512).unwrap();
        }
        let mut overlay = Overlay::with_room(OverlayPages::new(Arc::new(below.pages.clone())), 1 << 20);
        for page in [0, 3, 4, 9, 15] {
            overlay.write(&[100 + page; 512], u64::from(page) * 512).unwrap();
        }
        // Pages that the base still has are truncated, and one behind them is written again.
        overlay.truncate(14 * 512);
        overlay.write(&[200; 512], 16 * 512).unwrap();
        for first in 1..=20 {
            for count in 0..=(24 - first) {
                let mut together = vec![1; count * 512];
                overlay.pages.read_pages(PageNo::new(u32::try_from(first).unwrap()).unwrap(), &mut together).unwrap();
                for (index, now) in together.chunks_exact(512).enumerate() {
                    let mut alone = [1; 512];
                    let page = PageNo::new(u32::try_from(first + index).unwrap()).unwrap();
                    overlay.pages.read_page(page, &mut alone).unwrap();
                    assert!(now == alone, "page {page} of {count} from {first}");
                }
            }
        }
    }

    #[test]
    fn a_page_that_was_cut_off_and_grown_over_counts_as_written() {
        let mut overlay = empty();
        overlay.write(&[7; 1536], 0).unwrap();
        let earlier = overlay.pages.clone();
        overlay.truncate(512);
        let cut: Vec<_> =
            overlay.pages.written_since(&earlier).into_iter().map(|(page, bytes)| (page.get(), bytes)).collect();
        assert_eq!(cut, [(2, None), (3, None)]);
        overlay.write(&[9; 512], 1024).unwrap();
        let written = overlay.pages.written_since(&earlier);
        let reported: Vec<_> =
            written.iter().map(|(page, bytes)| (page.get(), bytes.as_ref().map(|bytes| bytes[0]))).collect();
        assert_eq!(reported, [(2, None), (3, Some(9))]);
    }

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let mut overlay = empty();
        overlay.write(&[1; 512], 0).unwrap();
        let before = overlay.pages.clone();
        overlay.write(&[2; 512], 0).unwrap();
        let mut out = [0; 512];
        before.read_page(PageNo::FIRST, &mut out).unwrap();
        assert_eq!(out[0], 1);
    }
}

//! Pages of a database: their sources, and the overlay that replay writes to.

mod database_copy;
mod in_runs;
mod overlay;
mod page_identity;
mod read_ahead;
mod snapshot_file;
mod snapshot_pages;
mod snapshot_writer;
#[expect(unsafe_code, reason = "SQLite calls a VFS through C function pointers; every block says why it is sound")]
mod vfs;

use crate::storage::read_error::ReadError;
use format::units::{PageNo, PageSize};

pub use database_copy::{CopyConnection, CopyOrder, DatabaseCopy, Piece};
pub(crate) use in_runs::PagesInRuns;
pub(crate) use overlay::{Overlay, OverlayPages};
pub use page_identity::PageIdentity;
pub(crate) use read_ahead::{PagesInOrder, read_ahead};
pub(crate) use snapshot_file::SnapshotFile;
pub(crate) use snapshot_pages::{ExpectedSnapshot, SharedSnapshots, SnapshotPages};
pub(crate) use snapshot_writer::SnapshotWriter;
pub(crate) use vfs::{MountedOverlay, with_replay_clock};

/// A database that is read page by page. Immutable: the same page always has the same bytes.
pub trait PageSource: Send + Sync {
    /// Bytes in a page.
    fn page_size(&self) -> PageSize;

    /// Pages in the database.
    fn page_count(&self) -> u32;

    /// Copies a page into `out`, which has [`page_size`](Self::page_size) bytes. A page past the end is all zeros.
    ///
    /// # Errors
    /// When the page cannot be read or is damaged.
    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError>;

    /// Copies consecutive pages into `out`, which has their total length. Faster than page by page where pages are compressed
    /// together.
    ///
    /// # Errors
    /// When one of the pages cannot be read or is damaged; then `out` is undefined.
    fn read_pages(&self, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        let mut page = Some(first);
        for now in out.chunks_exact_mut(self.page_size().bytes()) {
            match page {
                Some(number) => self.read_page(number, now)?,
                // No database has this many pages.
                None => now.fill(0),
            }
            page = page.and_then(PageNo::next);
        }
        Ok(())
    }

    /// The identities of consecutive pages, determined without reading them.
    ///
    /// # Errors
    /// When the page map cannot be read or is damaged.
    fn identities(&self, first: PageNo, out: &mut [PageIdentity]) -> Result<(), ReadError> {
        let _ = first;
        out.fill(PageIdentity::Unknown);
        Ok(())
    }
}

/// Reads consecutive pages in runs: neighbours with the same holder are read together.
pub(crate) fn read_runs<H: PartialEq>(
    first: PageNo,
    out: &mut [u8],
    page_size: PageSize,
    mut holder: impl FnMut(PageNo) -> Result<H, ReadError>,
    mut read: impl FnMut(H, PageNo, &mut [u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut rest = out;
    let mut next = Some(first).filter(|_| !rest.is_empty());
    let mut held_by = next.map(&mut holder).transpose()?;
    while let (Some(page), Some(own)) = (next, held_by.take()) {
        let mut pages = 1;
        // No database has pages beyond this number.
        while let Some(neighbour) = page.plus(pages).filter(|_| pages * page_size.bytes() < rest.len()) {
            let other = holder(neighbour)?;
            if other != own {
                held_by = Some(other);
                break;
            }
            pages += 1;
        }
        let (now, later) = rest.split_at_mut(pages * page_size.bytes());
        read(own, page, now)?;
        rest = later;
        next = page.plus(pages);
    }
    rest.fill(0);
    Ok(())
}

/// An empty database, the base of the first change of a new node.
#[derive(Debug)]
pub(crate) struct NoPages(pub(crate) PageSize);

impl PageSource for NoPages {
    fn page_size(&self) -> PageSize {
        self.0
    }

    fn page_count(&self) -> u32 {
        0
    }

    fn read_page(&self, _: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        out.fill(0);
        Ok(())
    }

    fn identities(&self, _: PageNo, out: &mut [PageIdentity]) -> Result<(), ReadError> {
        out.fill(PageIdentity::Zeros);
        Ok(())
    }
}

//! Pages of a database: where they come from, and what replaying changes does to them.

mod overlay;
mod snapshot_file;
mod snapshot_pages;
#[expect(unsafe_code, reason = "SQLite calls a VFS through C function pointers; every block says why it is sound")]
mod vfs;

use crate::{PageNo, PageSize, ReadError};

pub(crate) use overlay::{Overlay, OverlayPages};
pub(crate) use snapshot_file::{SnapshotFile, SnapshotWriter};
pub(crate) use snapshot_pages::{ExpectedSnapshot, SharedSnapshots, SnapshotPages};
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
}

/// No pages at all: what the first change of a new node is replayed onto.
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
}

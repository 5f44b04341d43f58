//! [`CopiedPages`]: the pages of a database that is being copied to a file.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::{OverlayPages, PageIdentity, PageSource, read_runs};
use crate::storage::read_error::ReadError;
use crate::storage::{StorageError, StorageOp};
use format::units::{PageNo, PageSize};

/// A file with some pieces of a database, each at the offset that it has in the database.
#[derive(Debug)]
pub struct DatabaseCopy {
    /// The file. No other process changes it.
    pub file: File,
    /// Its path, for messages.
    pub path: PathBuf,
    /// Which pieces of [`PIECE_BYTES`](Self::PIECE_BYTES) it has, from the first on. Those behind the last are not copied.
    pub pieces: Vec<bool>,
}

impl DatabaseCopy {
    /// The length of a piece in bytes: whole pages of every page size.
    pub const PIECE_BYTES: usize = 1 << 20;

    /// Whether it has the piece that the byte at `offset` of the database is in.
    pub fn has(&self, offset: u64) -> bool {
        let piece = usize::try_from(offset / Self::PIECE_BYTES as u64);
        piece.is_ok_and(|piece| self.pieces.get(piece).copied().unwrap_or(false))
    }
}

/// Pages that are read from the copy as far as it goes, and else from where they were copied from.
pub(crate) struct CopiedPages {
    source: OverlayPages,
    copy: Arc<DatabaseCopy>,
}

impl CopiedPages {
    pub(crate) fn new(source: OverlayPages, copy: Arc<DatabaseCopy>) -> Self {
        Self { source, copy }
    }

    fn is_copied(&self, page: PageNo) -> bool {
        let offset = (u64::from(page.get()) - 1) * u64::from(self.page_size().get());
        page.get() <= self.page_count() && self.copy.has(offset)
    }

    fn read_copied(&self, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        let offset = (u64::from(first.get()) - 1) * u64::from(self.page_size().get());
        self.copy.file.read_exact_at(out, offset).map_err(|source| {
            let (op, path) = (StorageOp::Read, self.copy.path.clone());
            StorageError { op, path, offset: Some(offset), source }.into()
        })
    }
}

impl fmt::Debug for CopiedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CopiedPages {{ {} }}", self.copy.path.display())
    }
}

impl PageSource for CopiedPages {
    fn page_size(&self) -> PageSize {
        self.source.page_size()
    }

    fn page_count(&self) -> u32 {
        self.source.page_count()
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        if self.is_copied(page) { self.read_copied(page, out) } else { self.source.read_page(page, out) }
    }

    fn read_pages(&self, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        read_runs(
            first,
            out,
            self.page_size(),
            |page| Ok(self.is_copied(page)),
            |is_copied, page, out| {
                if is_copied { self.read_copied(page, out) } else { self.source.read_pages(page, out) }
            },
        )
    }

    fn identities(&self, first: PageNo, out: &mut [PageIdentity]) -> Result<(), ReadError> {
        self.source.identities(first, out)
    }
}

//! Snapshots on top of one another: the pages of a version of which a snapshot was taken.

use std::sync::Arc;

use super::snapshot_file::Stored;
use super::{PageSource, SnapshotFile};
use crate::format::Damage;
use crate::storage::Directory;
use crate::{PageNo, PageSize, ReadError};

pub(crate) use super::snapshot_file::ExpectedSnapshot;

/// The newest snapshot first, then the one it builds on, down to a full one.
#[derive(Debug)]
pub(crate) struct SnapshotChain {
    files: Vec<Arc<SnapshotFile>>,
    page_size: PageSize,
    page_count: u32,
}

impl SnapshotChain {
    /// Opens the snapshots that the log names, newest first, ending with a full one.
    pub(crate) fn open(directory: &dyn Directory, expected: &[ExpectedSnapshot]) -> Result<Self, ReadError> {
        let mut files: Vec<Arc<SnapshotFile>> = Vec::with_capacity(expected.len());
        for &snapshot in expected {
            let file = SnapshotFile::open(directory, snapshot)?;
            if let Some(above) = files.last()
                && (above.header().base != Some(snapshot.seq) || above.header().page_size != file.header().page_size)
            {
                return Err(Self::broken(directory, "a snapshot does not build on the one below it"));
            }
            files.push(Arc::new(file));
        }
        match (files.first(), files.last()) {
            (Some(newest), Some(oldest)) if oldest.header().base.is_none() => {
                let (page_size, page_count) = (newest.header().page_size, newest.header().page_count);
                Ok(Self { files, page_size, page_count })
            }
            _ => Err(Self::broken(directory, "the full snapshot that others build on is missing")),
        }
    }

    fn broken(directory: &dyn Directory, reason: &'static str) -> ReadError {
        ReadError::damaged(directory.path(), 0, Damage::Contradiction(reason))
    }
}

impl PageSource for SnapshotChain {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        if page.get() <= self.page_count {
            for file in &self.files {
                if file.read_page(page, out)? == Stored::Here {
                    return Ok(());
                }
                // A page past the end of a base came into being after it, so it must be stored above.
                if page.get() > file.header().page_count {
                    break;
                }
            }
        }
        out.fill(0);
        Ok(())
    }
}

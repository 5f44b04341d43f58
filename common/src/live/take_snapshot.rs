//! Taking a snapshot: copying the pages of the live database into a file of the backup.

use std::ops::ControlFlow;
use std::sync::Arc;

use uuid::Uuid;

use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::pages::{PageSource, PagesInOrder, SnapshotWriter, read_ahead};
use crate::storage::read_error::ReadError;
use crate::storage::{Directory, StorageError};
use format::snapshot::SnapshotHeader;
use format::snapshot_ref::{DeltaBase, SnapshotReason, SnapshotRef};
use format::units::{DataVersion, PageSize, Seq, Timestamp};

/// Progress of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesDone {
    /// Number of pages read so far.
    pub done: u32,
    /// Number of pages of the database.
    pub total: u32,
    /// Bytes in a page.
    pub page_size: PageSize,
}

/// The fields of a new snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewSnapshot {
    pub(crate) uuid: Uuid,
    pub(crate) seq: Seq,
    pub(crate) data_version: DataVersion,
    pub(crate) reason: SnapshotReason,
    /// The first change before the snapshot that does not replay, if one is known.
    pub(crate) unreadable_since: Option<Seq>,
    pub(crate) time: Timestamp,
}

/// The base of a delta.
pub(crate) struct Base {
    pub(crate) name: DeltaBase,
    pub(crate) pages: Arc<dyn PageSource>,
}

/// The reason why a snapshot was not taken. Then no file has its name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The live database cannot be read.
    #[error(transparent)]
    Database(#[from] LiveDatabaseError),
    /// The file cannot be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The progress callback stopped it.
    #[error("interrupted; nothing was created")]
    Interrupted,
    /// The base cannot be read.
    #[error(transparent)]
    Base(#[from] ReadError),
}

/// Writes the file of a snapshot and makes it durable; returns the reference for the log.
///
/// Reads the database once, in order, with a few megabytes of memory. With a base, only pages that differ from it are stored;
/// another thread reads the base once and in order.
///
/// # Errors
/// When database or base cannot be read, the file cannot be written, or `progress` stops it.
pub(crate) fn take_snapshot(
    directory: &dyn Directory,
    database: &LiveDatabase,
    new: &NewSnapshot,
    base: Option<&Base>,
    progress: &mut dyn FnMut(PagesDone) -> ControlFlow<()>,
) -> Result<SnapshotRef, SnapshotError> {
    let (page_size, page_count) = (database.page_size(), database.page_count());
    // A base with another page size has no comparable pages.
    let base = base.filter(|base| base.pages.page_size() == page_size);
    let header = SnapshotHeader {
        uuid: new.uuid,
        seq: new.seq,
        base: base.map(|base| base.name),
        data_version: new.data_version,
        page_size,
        page_count,
        created: new.time,
    };
    let mut writer = SnapshotWriter::create(directory, header)?;
    let mut copy = |mut before: Option<&mut PagesInOrder<'_>>| {
        database.read_pages(|page, bytes| {
            if progress(PagesDone { done: page.get(), total: page_count, page_size }).is_break() {
                return Err(SnapshotError::Interrupted);
            }
            let is_there = match &mut before {
                Some(before) => before.next_page()? == bytes,
                None => false,
            };
            if is_there { Ok(()) } else { Ok(writer.push(page, bytes)?) }
        })
    };
    match base {
        Some(base) => read_ahead(&*base.pages, page_count, |before| copy(Some(before))),
        None => copy(None),
    }?;
    let footer_checksum = writer.finish()?;
    let (reason, unreadable_since) = (new.reason, new.unreadable_since);
    let base = base.map(|base| base.name);
    Ok(SnapshotRef { reason, page_size, page_count, base, footer_checksum, unreadable_since })
}

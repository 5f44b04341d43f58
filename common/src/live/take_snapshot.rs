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

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesDone {
    /// Pages read so far.
    pub done: u32,
    /// Pages of the database.
    pub total: u32,
    /// Bytes in a page.
    pub page_size: PageSize,
}

/// What a new snapshot is, apart from its pages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewSnapshot {
    pub(crate) uuid: Uuid,
    pub(crate) seq: Seq,
    pub(crate) data_version: DataVersion,
    pub(crate) reason: SnapshotReason,
    /// The first change before it that does not replay, if one is known.
    pub(crate) unreadable_since: Option<Seq>,
    pub(crate) time: Timestamp,
}

/// What a delta builds on.
pub(crate) struct Base {
    pub(crate) name: DeltaBase,
    pub(crate) pages: Arc<dyn PageSource>,
}

/// Why a snapshot was not taken. Nothing has its name then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The live database cannot be read.
    #[error(transparent)]
    Database(#[from] LiveDatabaseError),
    /// Its file cannot be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Whoever was shown the progress asked to stop.
    #[error("interrupted; nothing was created")]
    Interrupted,
    /// What it builds on cannot be read.
    #[error(transparent)]
    Base(#[from] ReadError),
}

/// Writes the snapshot's file and makes it durable; what it returns goes into the log.
///
/// Reads the database once, in order, and holds a few megabytes in memory at most. With a base, only pages that differ
/// from it are stored; the base is read once and in order as well, by another thread.
///
/// # Errors
/// When database or base cannot be read, or the file not be written, or `progress` asks to stop.
pub(crate) fn take_snapshot(
    directory: &dyn Directory,
    database: &LiveDatabase,
    new: &NewSnapshot,
    base: Option<&Base>,
    progress: &mut dyn FnMut(PagesDone) -> ControlFlow<()>,
) -> Result<SnapshotRef, SnapshotError> {
    let (page_size, page_count) = (database.page_size(), database.page_count());
    // Pages of different sizes have nothing to do with each other.
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

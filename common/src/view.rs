//! [`View`]: a version opened for reading, and how it is built.

use std::sync::Arc;

use crate::backup::{Backup, RecordReader};
use crate::format::record::Body;
use crate::history::{PlannedChange, ReplayPlan};
use crate::pages::{NoPages, OverlayPages, PageSource};
use crate::replay::{Change, ForeignKeys, Replay, ReplayError};
use crate::{DataVersion, PageNo, PageSize, ReadError, Seq};

/// A version cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("version {data_version} cannot be opened")]
pub struct ViewError {
    /// The version.
    pub data_version: DataVersion,
    /// Why. Shared: all who asked for the version get the same answer.
    #[source]
    pub reason: Arc<ReplayError>,
}

/// A version opened for reading: the pages of a snapshot, read when asked for, and those that replay wrote since.
///
/// Immutable: the same bytes and the same size for as long as it lives, whatever the recorder does.
#[derive(Debug)]
pub struct View {
    seq: Seq,
    pages: OverlayPages,
    /// What replay of the changes after this version begins with.
    foreign_keys: ForeignKeys,
}

impl View {
    /// Bytes of the database file.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.page_count()) * u64::from(self.page_size().get())
    }

    /// Pages of the database.
    pub fn page_count(&self) -> u32 {
        self.pages.page_count()
    }

    /// Bytes in a page.
    pub fn page_size(&self) -> PageSize {
        self.pages.page_size()
    }

    /// Fills `buf` with the bytes of the database file from `offset` on, and returns how many there were: fewer than
    /// asked only at the end of the file.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        let page_bytes = self.page_size().bytes();
        let available = usize::try_from(self.size_bytes().saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(available);
        let mut rest = &mut buf[..wanted];
        let mut offset = offset;
        let mut scratch = Vec::new();
        while let Some(page) = PageNo::at_offset(offset, self.page_size()).filter(|_| !rest.is_empty()) {
            #[expect(clippy::cast_possible_truncation, reason = "the remainder of a page size")]
            let start = (offset % page_bytes as u64) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(page_bytes - start));
            if now.len() == page_bytes {
                self.pages.read_page(page, now)?;
            } else {
                scratch.resize(page_bytes, 0);
                self.pages.read_page(page, &mut scratch)?;
                now.copy_from_slice(&scratch[start..start + now.len()]);
            }
            offset += now.len() as u64;
            rest = later;
        }
        Ok(wanted)
    }

    /// Its pages.
    pub(crate) fn pages(&self) -> &OverlayPages {
        &self.pages
    }

    /// Seq of the newest record that is part of it.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    /// Bytes of memory that it takes, counting pages that it shares with other views.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.pages.dirty_bytes()
    }

    /// Builds the view that `plan` describes, going on from `earlier` when that is a view of a version on the way.
    pub(crate) fn build(backup: &Backup, plan: &ReplayPlan, earlier: Option<&Self>) -> Result<Self, BuildError> {
        let (pages, foreign_keys, from) = match earlier {
            Some(view) => (view.pages.clone(), view.foreign_keys, Some(view.seq)),
            None => (base_pages(backup, plan).map_err(BuildError::pages)?, ForeignKeys::On, None),
        };
        let first = from.map_or(0, |seq| plan.changes.partition_point(|change| change.seq <= seq));
        let changes = plan.changes.get(first..).unwrap_or_default();
        if changes.is_empty() {
            return Ok(Self { seq: plan.seq, pages, foreign_keys });
        }
        let mut replay = Replay::start(pages, foreign_keys).map_err(|reason| BuildError { at: None, reason })?;
        let mut records = RecordReader::new(backup);
        for change in changes {
            apply(&mut replay, &mut records, change).map_err(|reason| BuildError { at: Some(change.seq), reason })?;
        }
        let (pages, foreign_keys) = replay.finish().map_err(|reason| BuildError { at: None, reason })?;
        Ok(Self { seq: plan.seq, pages, foreign_keys })
    }
}

/// Why a view was not built, and the change at which that was noticed.
#[derive(Debug)]
pub(crate) struct BuildError {
    pub(crate) at: Option<Seq>,
    pub(crate) reason: ReplayError,
}

impl BuildError {
    fn pages(error: ReadError) -> Self {
        Self { at: None, reason: ReplayError::Pages(error) }
    }
}

fn base_pages(backup: &Backup, plan: &ReplayPlan) -> Result<OverlayPages, ReadError> {
    let base: Arc<dyn PageSource> = if plan.snapshots.is_empty() {
        Arc::new(NoPages(plan.page_size))
    } else {
        Arc::new(backup.open_snapshots(&plan.snapshots)?)
    };
    Ok(OverlayPages::new(base))
}

fn apply(replay: &mut Replay, records: &mut RecordReader<'_>, change: &PlannedChange) -> Result<(), ReplayError> {
    records.read(change.place, |record| match &record.body {
        Body::Change { run_start, statements } => replay.apply(&Change {
            data_version: record.header.data_version,
            seq: record.header.seq,
            time: record.header.time,
            run_start: *run_start,
            statements,
        }),
        Body::Rewind { .. } | Body::Commit | Body::Snapshot(_) => Ok(()),
    })?
}

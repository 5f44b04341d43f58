//! [`View`]: a version opened for reading, and its construction.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::Backup;
use crate::backup::recorded_changes::RecordedChanges;
use crate::history::{PlannedChange, ReplayPlan, Start};
use crate::pages::{OverlayPages, PageSource};
use crate::replay::{ForeignKeys, Replay, ReplayError};
use crate::segment::{SealedState, SegmentFile};
use crate::storage::read_error::ReadError;
use format::snapshot_ref::DeltaBase;
use format::units::{DataVersion, PageNo, PageSize, Seq};

/// The reason why a version cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("version {data_version} cannot be opened")]
pub struct ViewError {
    /// The version.
    pub data_version: DataVersion,
    /// The reason, shared by all callers that waited for the version.
    #[source]
    pub reason: Arc<ReplayError>,
}

/// A version opened for reading: the pages of a snapshot or segment, read on demand, with the overlay of the replay.
///
/// Immutable: bytes and size stay the same while it exists, also while the recorder writes.
#[derive(Debug)]
pub struct View {
    seq: Seq,
    pages: OverlayPages,
    /// Foreign key enforcement at the start of a replay behind this version.
    foreign_keys: ForeignKeys,
    /// The segment that its pages are read from, with older ones.
    reads: Option<Seq>,
    /// Open segments that were dropped since.
    held: Mutex<Vec<Arc<SegmentFile>>>,
}

impl View {
    /// Length of the database file in bytes.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.page_count()) * u64::from(self.page_size().get())
    }

    /// Number of pages of the database.
    pub fn page_count(&self) -> u32 {
        self.pages.page_count()
    }

    /// Page size.
    pub fn page_size(&self) -> PageSize {
        self.pages.page_size()
    }

    /// Opens the version that `plan` was made for.
    ///
    /// # Errors
    /// When a change cannot be replayed, or something that is needed for it cannot be read.
    pub fn open(backup: &Backup, plan: &ReplayPlan) -> Result<Self, ViewError> {
        Self::build(backup, plan, None).map_err(|error| error.of_version(plan.data_version))
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
            let whole_bytes = rest.len() - rest.len() % page_bytes;
            let now_bytes =
                if start == 0 && whole_bytes > 0 { whole_bytes } else { rest.len().min(page_bytes - start) };
            let (now, later) = rest.split_at_mut(now_bytes);
            if now.len() >= page_bytes {
                self.pages.read_pages(page, now)?;
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

    /// Pages of the version.
    pub(crate) fn pages(&self) -> &OverlayPages {
        &self.pages
    }

    /// Seq of the version's newest record.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    /// Memory of its pages in bytes, including pages shared with other views.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.pages.dirty_bytes()
    }

    /// Opens the dropped segments that it may read, while their files still exist.
    pub(crate) fn hold_dropped(&self, backup: &Backup) {
        let Some(reads) = self.reads else { return };
        let files = backup.segments().hold_dropped(reads);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
    }

    /// Open segments that were dropped since.
    fn held(&self) -> Vec<Arc<SegmentFile>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Builds the view of `plan`, starting at `earlier` if that is a view of a version on the way.
    pub(crate) fn build(backup: &Backup, plan: &ReplayPlan, earlier: Option<&Self>) -> Result<Self, BuildError> {
        let reads = match plan.start {
            Start::Nothing(_) => None,
            Start::Segment(first, _) => Some(first),
            Start::Snapshot(_, snapshot) => match snapshot.base {
                Some(DeltaBase::Segment(first)) => Some(first),
                Some(DeltaBase::Snapshot(_)) | None => None,
            },
        };
        let (start, from) = match earlier {
            Some(view) => {
                let (pages, foreign_keys) = (view.pages.clone(), view.foreign_keys);
                (Self { seq: view.seq, pages, foreign_keys, reads, held: Mutex::new(view.held()) }, Some(view.seq))
            }
            None => {
                let (pages, foreign_keys) = backup.start_pages(&plan.start).map_err(BuildError::pages)?;
                let (pages, held) = (OverlayPages::new(pages), Mutex::default());
                backup.fetch_reads(plan);
                backup.read_for_tail(&pages, foreign_keys, &plan.changes);
                (Self { seq: plan.seq, pages, foreign_keys, reads, held }, None)
            }
        };
        let first = from.map_or(0, |seq| plan.changes.partition_point(|change| change.seq() <= seq));
        start.replayed(backup, plan, plan.changes.get(first..).unwrap_or_default())
    }

    /// This database after the last changes of a plan.
    fn replayed(self, backup: &Backup, plan: &ReplayPlan, changes: &[PlannedChange]) -> Result<Self, BuildError> {
        let Self { pages, foreign_keys, reads, held, .. } = self;
        if changes.is_empty() {
            return Ok(Self { seq: plan.seq, pages, foreign_keys, reads, held });
        }
        // Unsealed changes may be rewound, and with them schema changes, which an idle connection would not notice.
        let line = match plan.start {
            Start::Segment(first, SealedState::At { .. }) => {
                Some(backup.segments().footer(first).map_err(BuildError::pages)?.newest_snapshot)
            }
            _ => None,
        };
        let replay = match line.and_then(|line| backup.idle_replays().take(line)) {
            Some(idle) => idle.start(pages, foreign_keys),
            None => Replay::start(pages, foreign_keys),
        };
        let mut replay = replay.map_err(|reason| BuildError { at: None, reason })?;
        replay_changes(backup, &mut replay, changes)?;
        let finished = replay.finish_and_keep().map_err(|reason| BuildError { at: None, reason })?;
        let (pages, foreign_keys, idle) = finished;
        if let (Some(line), Some(idle)) = (line, idle) {
            backup.idle_replays().put(line, idle);
        }
        Ok(Self { seq: plan.seq, pages, foreign_keys, reads, held })
    }
}

impl View {
    /// The view of a later version, after these changes, with all pages that executing them read.
    pub(crate) fn build_onward(
        &self,
        backup: &Backup,
        seq: Seq,
        changes: &[PlannedChange],
    ) -> Result<(Self, HashSet<PageNo>), BuildError> {
        // A new connection has no cached pages, so that every page is read.
        let pages = self.pages.clone();
        let replay = Replay::start(pages, self.foreign_keys);
        let mut replay = replay.map_err(|reason| BuildError { at: None, reason })?;
        replay.note_reads();
        replay_changes(backup, &mut replay, changes)?;
        let reads = replay.take_reads();
        let (pages, foreign_keys, _) = replay.finish_and_keep().map_err(|reason| BuildError { at: None, reason })?;
        let held = Mutex::new(self.held());
        Ok((Self { seq, pages, foreign_keys, reads: self.reads, held }, reads))
    }
}

/// The reason why a view was not built, and the change at which that ended.
#[derive(Debug)]
pub(crate) struct BuildError {
    pub(crate) at: Option<Seq>,
    pub(crate) reason: ReplayError,
}

impl BuildError {
    fn pages(error: ReadError) -> Self {
        Self { at: None, reason: ReplayError::Pages(error) }
    }

    fn of_version(self, data_version: DataVersion) -> ViewError {
        ViewError { data_version, reason: Arc::new(self.reason) }
    }
}

/// Replays changes from logs and segments.
pub(crate) fn replay_changes(
    backup: &Backup,
    replay: &mut Replay,
    changes: &[PlannedChange],
) -> Result<(), BuildError> {
    for run in changes.chunk_by(|a, b| a.address.file_seq() == b.address.file_seq()) {
        let opened = RecordedChanges::open(backup, &run[0].address);
        let mut replay = opened.and_then(|changes| changes.onto(replay)).map_err(BuildError::pages)?;
        for change in run {
            let at = Some(change.seq());
            replay.apply(&change.address, &change.about).map_err(|reason| BuildError { at, reason })?;
        }
    }
    Ok(())
}

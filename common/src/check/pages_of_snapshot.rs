//! The pages that a segment takes from the delta snapshot at the beginning of its log.

use std::sync::Arc;

use crate::backup::Backup;
use crate::check::log_replay::{Image, ReplayedLog, StartPages};
use crate::history::Start;
use crate::storage::read_error::ReadError;
use format::segment::SnapshotId;
use format::snapshot_ref::SnapshotRef;
use format::units::{Keyframe, PageNo};

/// A page at a keyframe.
pub(crate) type PageImage = (Keyframe, Arc<[u8]>);

/// The pages of the delta snapshot at the beginning of a log: they become part of the segment.
#[derive(Debug, Default)]
pub(crate) struct PagesOfSnapshot {
    /// The pages that the delta stores.
    folded: Vec<PageNo>,
    /// The pages that the delta truncated: the map has their old images, which must not return when the database grows again.
    cut: Vec<PageNo>,
}

impl PagesOfSnapshot {
    /// The pages for a log.
    pub(crate) fn of(backup: &Backup, log: &ReplayedLog) -> Result<Self, ReadError> {
        let Start::Snapshot(seq, SnapshotRef { base: Some(base), footer_checksum, .. }) = log.start else {
            return Ok(Self::default());
        };
        let file = backup.open_snapshot(SnapshotId { seq, footer_checksum })?;
        let folded = file.stored_pages().unwrap_or_default().to_vec();
        let before = backup.stored_pages(base)?.page_count();
        let cut = (log.start_pages.0.page_count().saturating_add(1)..=before).filter_map(PageNo::new).collect();
        Ok(Self { folded, cut })
    }

    /// The pages of the snapshot and those that replay has changed, in order.
    pub(crate) fn and_replayed(&self, log: &ReplayedLog) -> Vec<PageNo> {
        let mut pages: Vec<PageNo> = log.images.keys().chain(&self.folded).chain(&self.cut).copied().collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// All images of a page in the segment, the oldest first.
    pub(crate) fn images(&self, log: &ReplayedLog, page: PageNo) -> Result<Vec<PageImage>, ReadError> {
        let StartPages(start) = &log.start_pages;
        let of_snapshot = match (self.folded.binary_search(&page), self.cut.binary_search(&page)) {
            (Ok(_), _) => Some((Keyframe(0), Image::OfSnapshot)),
            (_, Ok(_)) => Some((Keyframe(0), Image::Cut)),
            _ => None,
        };
        let mut all: Vec<PageImage> = Vec::new();
        for (keyframe, image) in of_snapshot.iter().chain(log.images.get(&page).into_iter().flatten()) {
            let image = match image {
                Image::Bytes(bytes) => Arc::clone(bytes),
                Image::Cut => vec![0; start.page_size().bytes()].into(),
                Image::OfSnapshot => {
                    let mut bytes = vec![0; start.page_size().bytes()];
                    start.read_page(page, &mut bytes)?;
                    bytes.into()
                }
            };
            // A page may be written without a change.
            if all.last().is_none_or(|(_, before)| *before != image) {
                all.push((*keyframe, image));
            }
        }
        Ok(all)
    }
}

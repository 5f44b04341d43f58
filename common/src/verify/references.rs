//! What versions need of other segments: the pages of the database that their own segment builds on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::finding::Findings;
use super::impact::Unreadable;
use crate::backup::Backup;
use crate::history::NeededBy;
use crate::pages::PageSource;
use crate::segment::{BaseImages, MapItem, MapWalk};
use crate::storage::read_error::ReadError;
use format::segment::{Location, MapRoot};
use format::units::Keyframe;
use format::units::{PageNo, PageSize, Seq};

/// Checks the targets of page maps, each node and each image once.
pub(super) struct Reach<'a> {
    backup: &'a Backup,
    /// Segments that are checked completely.
    whole: &'a BTreeSet<Seq>,
    /// The parts of dropped segments that kept versions need.
    thinned: &'a BTreeMap<Seq, NeededBy>,
    walk: MapWalk,
    findings: &'a mut Findings,
    unreadable: &'a mut Unreadable,
}

impl<'a> Reach<'a> {
    pub(super) fn new(
        backup: &'a Backup,
        (whole, thinned): (&'a BTreeSet<Seq>, &'a BTreeMap<Seq, NeededBy>),
        findings: &'a mut Findings,
        unreadable: &'a mut Unreadable,
    ) -> Self {
        Self { backup, whole, thinned, walk: MapWalk::default(), findings, unreadable }
    }

    /// Checks the pages of the database at the end of a segment.
    pub(super) fn end_of(&mut self, first: Seq) {
        let file = match self.backup.segments().open(first) {
            Ok(file) => file,
            Err(error) => {
                self.findings.add_read(&error);
                self.unreadable.segments.insert(first);
                return;
            }
        };
        // Without its snapshot nothing can be opened; that is reported for the snapshot.
        let snapshot = file.footer().snapshot.map(|id| self.backup.full_snapshot(id)).transpose();
        if let Ok(snapshot) = snapshot {
            self.map(file.footer().map, file.header().page_size, snapshot.as_ref());
        }
    }

    fn map(&mut self, root: Option<MapRoot>, page_size: PageSize, snapshot: Option<&Arc<dyn PageSource>>) {
        let mut image = vec![0; page_size.bytes()];
        let mut walk = std::mem::take(&mut self.walk);
        let segments = self.backup.segments();
        let _never_breaks = walk.below(segments, root, &mut |walk, at, item| {
            match item {
                MapItem::Node => {}
                MapItem::Unreadable(error) => self.cannot_be_read(at, &error),
                MapItem::Images(page) => {
                    if !self.whole.contains(&at.segment) && walk.is_first_visit(at) {
                        self.image(at, page, snapshot, &mut image);
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        self.walk = walk;
    }

    fn image(&mut self, at: Location, page: PageNo, snapshot: Option<&Arc<dyn PageSource>>, out: &mut [u8]) {
        let base_images = BaseImages { segments: self.backup.segments(), snapshot };
        // Later segments refer to the newest image.
        let own = self.thinned.get(&at.segment).into_iter().flat_map(|needed| needed.keyframes.iter().copied());
        let keyframes: BTreeSet<Keyframe> = own.chain([Keyframe::END]).collect();
        let read = self.backup.segments().open(at.segment).and_then(|file| {
            file.read_blocks(std::iter::once(at.block), |_, bytes| {
                keyframes.iter().try_for_each(|&upto| base_images.read_image(at, bytes, page, upto, out).map(drop))
            })
        });
        if let Err(error) = read {
            self.cannot_be_read(at, &error);
        }
    }

    fn cannot_be_read(&mut self, at: Location, error: &ReadError) {
        self.findings.add_read(error);
        self.unreadable.blocks.insert((at.segment, at.block.offset));
    }
}

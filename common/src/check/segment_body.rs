//! Check of a segment against its own index: every block, and the chain of its records. Reads only the segment and the maps and
//! base images of its base, and keeps only what its replay needs.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::check::record_chain::RecordChain;
use crate::pages::PageSource;
use crate::segment::timeline::{PrecedingVersion, Timeline};
use crate::segment::version::VersionOrdinal;
use crate::segment::{BaseImages, SegmentFile, Segments};
use crate::storage::read_error::ReadError;
use format::Damage;
use format::page_images::{BaseImage, PageImages};
use format::read_sets::ReadSets;
use format::record_index::{IndexedBody, RecordIndex};
use format::segment::{BLOCK_HEADER_LEN, BlockHandle, SEGMENT_HEADER_LEN};
use format::statements::{Encoded, StatementBlock, Templates};
use format::units::Keyframe;
use format::units::PageNo;

/// The contents of a segment, as far as they are readable.
#[derive(Debug, Default)]
pub(crate) struct SegmentBody {
    /// Unreadable parts and contradictions.
    pub(crate) problems: Vec<ReadError>,
    /// Offsets of unreadable images and page map nodes.
    pub(crate) unreadable: BTreeSet<u64>,
    /// Pages whose images are unknown, because a node above them cannot be read.
    pub(crate) hidden: Vec<RangeInclusive<u32>>,
    /// The pages with images in the segment, ascending, with their locations.
    pub(crate) images: Vec<(PageNo, BlockHandle)>,
    /// The record index.
    pub(crate) index: Option<RecordIndex>,
    /// The template table.
    pub(crate) templates: Option<Arc<Templates>>,
    /// The read sets.
    pub(crate) read_sets: Option<ReadSets>,
    /// Intervals with unreadable statements.
    pub(crate) without_statements: BTreeSet<u32>,
}

impl SegmentBody {
    /// Whether the images of a page are unknown or unreadable.
    pub(crate) fn hides(&self, page: PageNo) -> bool {
        let position = self.images.binary_search_by_key(&page, |(page, _)| *page).ok();
        let block = position.and_then(|position| self.images.get(position));
        block.is_some_and(|(_, block)| self.unreadable.contains(&block.offset))
            || self.hidden.iter().any(|pages| pages.contains(&page.get()))
    }
}

/// Checks a segment. `snapshot` is the full one of its footer, if it can be opened.
pub(crate) fn check_body(
    segments: &Segments,
    file: &SegmentFile,
    snapshot: Option<&Arc<dyn PageSource>>,
) -> SegmentBody {
    let mut check = BodyCheck { segments, file, snapshot, body: SegmentBody::default(), blocks: Vec::new() };
    check.index();
    check.statements();
    let map = crate::check::page_map::own_part(segments, file);
    check.blocks.extend(map.nodes);
    check.body.problems.extend(map.problems);
    check.body.unreadable.extend(map.unreadable);
    check.body.hidden = map.hidden;
    check.body.images = map.images;
    check.images();
    check.read_sets();
    check.nothing_else();
    check.body
}

struct BodyCheck<'a> {
    segments: &'a Segments,
    file: &'a SegmentFile,
    snapshot: Option<&'a Arc<dyn PageSource>>,
    body: SegmentBody,
    blocks: Vec<BlockHandle>,
}

impl BodyCheck<'_> {
    fn problem(&mut self, offset: u64, damage: Damage) {
        self.body.problems.push(self.file.damaged(offset, damage));
    }

    fn index(&mut self) {
        let (header, footer) = (self.file.header(), self.file.footer());
        self.blocks.push(footer.index);
        let index = match self.file.read_index() {
            Ok(index) => index,
            Err(error) => return self.body.problems.push(error),
        };
        match Timeline::of_segment(header, footer, index.clone()) {
            Ok(timeline) => {
                if let Err(damage) = footer_fits(self.file, &index, &timeline) {
                    self.problem(self.file.footer_offset(), damage);
                }
                self.body.index = Some(index);
            }
            Err(damage) => self.problem(footer.index.offset, damage),
        }
    }

    fn statements(&mut self) {
        let block = self.file.footer().templates;
        self.blocks.push(block);
        let templates = self.file.read_block(block, |bytes| Templates::decode(&Encoded::decompress(bytes)?));
        let templates = match templates {
            Ok(templates) => Arc::new(templates),
            Err(error) => return self.body.problems.push(error),
        };
        self.body.templates = Some(Arc::clone(&templates));
        let Some(index) = self.body.index.take() else { return };
        let mut chain = RecordChain::new(self.file.header());
        for (number, interval) in (0..).zip(&index.intervals) {
            self.blocks.push(interval.block);
            let block = self.file.read_block(interval.block, |bytes| {
                let block = StatementBlock::decode(&Encoded::decompress(bytes)?, &templates)?;
                chain.add(&index, Keyframe(number), &block)
            });
            if let Err(error) = block {
                self.body.problems.push(error);
                self.body.without_statements.insert(number);
                chain.broken();
            }
        }
        if let Err(damage) = chain.check_end(self.file.footer()) {
            self.problem(self.file.footer_offset(), damage);
        }
        self.body.index = Some(index);
    }

    /// Reads every image of every page.
    fn images(&mut self) {
        let begins_with_delta = self.body.index.as_ref().is_none_or(|index| {
            let first = index.records.first().map(|record| record.body);
            matches!(first, Some(IndexedBody::Snapshot(snapshot)) if snapshot.base.is_some())
        });
        let keyframes = self.body.index.as_ref().map_or(u32::MAX as usize, |index| index.intervals.len());
        let first = Keyframe(u32::from(!begins_with_delta));
        let last = Keyframe(u32::try_from(keyframes).unwrap_or(u32::MAX));
        for (page, block) in std::mem::take(&mut self.body.images) {
            self.blocks.push(block);
            if let Err(error) = self.images_of(page, block, first..=last) {
                self.body.problems.push(error);
                self.body.unreadable.insert(block.offset);
            }
            self.body.images.push((page, block));
        }
    }

    fn images_of(&self, page: PageNo, block: BlockHandle, allowed: RangeInclusive<Keyframe>) -> Result<(), ReadError> {
        let page_bytes = self.file.header().page_size.bytes();
        read_images(self.segments, self.file, self.snapshot, (page, block), |images| {
            let mut strange = None;
            images(&mut |keyframe, image| {
                debug_assert_eq!(image.len(), page_bytes);
                if !allowed.contains(&keyframe) {
                    strange = Some(keyframe);
                }
            })?;
            strange.map_or(Ok(()), |keyframe| Err(Damage::Field { field: "keyframe", value: keyframe.0.into() }))
        })
    }

    fn read_sets(&mut self) {
        self.blocks.push(self.file.footer().read_sets);
        let intervals = self.body.index.as_ref().map(|index| index.intervals.len());
        match self.file.read_read_sets() {
            Ok(sets)
                if !sets.sets.is_empty() && intervals.is_some_and(|intervals| sets.sets.len() != intervals + 1) =>
            {
                let damage = Damage::Contradiction("there are other intervals than read sets");
                self.problem(self.file.footer().read_sets.offset, damage);
            }
            Ok(sets) => self.body.read_sets = Some(sets),
            Err(error) => self.body.problems.push(error),
        }
    }

    /// Checks that blocks fill the file between header and footer.
    fn nothing_else(&mut self) {
        if !self.body.problems.is_empty() {
            // Unreadable blocks leave gaps.
            return;
        }
        self.blocks.sort_unstable_by_key(|block| block.offset);
        let mut at = SEGMENT_HEADER_LEN as u64;
        for block in &self.blocks {
            if block.offset != at {
                break;
            }
            at = block.offset + u64::from(block.len) + BLOCK_HEADER_LEN as u64;
        }
        if at != self.file.footer_offset() {
            self.problem(at, Damage::Contradiction("what is here belongs to nothing"));
        }
    }
}

/// Passes the images of a block, the newest first, to the callback that `look` is given.
pub(crate) fn read_images(
    segments: &Segments,
    file: &SegmentFile,
    snapshot: Option<&Arc<dyn PageSource>>,
    (page, block): (PageNo, BlockHandle),
    look: impl FnOnce(&mut dyn FnMut(&mut dyn FnMut(Keyframe, &[u8])) -> Result<(), Damage>) -> Result<(), Damage>,
) -> Result<(), ReadError> {
    let page_bytes = file.header().page_size.bytes();
    let mut look = Some(look);
    file.read_blocks(std::iter::once(block), |block, bytes| {
        let damaged = |damage| file.damaged(block.offset, damage);
        let images = PageImages::open(bytes, page, file.first_seq(), Keyframe::END).map_err(damaged)?;
        let base_image = match images.base_image() {
            // Without its snapshot nothing of the segment can be opened; that is reported for the snapshot.
            Some(BaseImage::Snapshot) if snapshot.is_none() && file.footer().snapshot.is_some() => return Ok(()),
            Some(base_image) => {
                let mut bytes = vec![0; page_bytes];
                BaseImages { segments, snapshot }.read(base_image, page, &mut bytes)?;
                Some(bytes)
            }
            None => None,
        };
        let mut images = Some(images);
        let mut each = |take: &mut dyn FnMut(Keyframe, &[u8])| match images.take() {
            Some(images) => images.read_each(base_image.as_deref(), page_bytes, take),
            None => Ok(()),
        };
        look.take().map_or(Ok(()), |look| look(&mut each)).map_err(damaged)
    })
}

/// Checks the fields of the footer against the index.
fn footer_fits(file: &SegmentFile, index: &RecordIndex, timeline: &Timeline) -> Result<(), Damage> {
    let footer = file.footer();
    let fits = |fits, what| if fits { Ok(()) } else { Err(Damage::Contradiction(what)) };
    let times = || timeline.versions().iter().map(|version| version.recorded_at);
    let first = index.records.first().map(|record| record.time);
    fits(
        (times().min().or(first), times().max().or(first)) == (Some(footer.times.0), Some(footer.times.1)),
        "its end says other times than its record index",
    )?;
    let ordinal = match timeline.newest_ordinal() {
        PrecedingVersion::Version(VersionOrdinal(ordinal)) => ordinal,
        PrecedingVersion::Nothing | PrecedingVersion::Unknown => 0,
    };
    fits(ordinal == footer.ordinal, "its end names another newest version than its record index")?;
    let page_count = index.records.last().map(|record| record.page_count);
    fits(page_count == Some(footer.page_count), "its end says another number of pages than its record index")
}

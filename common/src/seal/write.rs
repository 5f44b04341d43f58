//! Writing the segment of a replayed log.

use std::collections::{BTreeMap, HashMap};

use super::SealError;
use super::read_back::expect_whole;
use crate::backup::Backup;
use crate::check::log_replay::{ReplayedLog, StartPages};
use crate::check::pages_of_snapshot::PagesOfSnapshot;
use crate::check::read_sets::{OwnBlocks, OwnImages, read_sets};
use crate::history::Start;
use crate::segment::timeline::{PrecedingVersion, Timeline};
use crate::segment::version::VersionOrdinal;
use crate::segment::{BaseImageFinder, BaseImages, MapBuilder, SegmentWriter};
use crate::storage::read_error::ReadError;
use format::names;
use format::page_images::ImageCodec;
use format::read_sets::ReadSets;
use format::record_index::RecordIndex;
use format::segment::{FollowedBy, MapRoot, SegmentFooter, SegmentHeader, SnapshotId};
use format::snapshot_ref::DeltaBase;
use format::units::Keyframe;
use format::units::{PageNo, Seq};

/// zstd level for statements.
const STATEMENTS_LEVEL: i32 = 3;

/// zstd level for the record index and the read sets.
const INDEX_LEVEL: i32 = 6;

/// The base of a segment.
struct Base {
    segment: Option<Seq>,
    snapshot: Option<SnapshotId>,
    map: Option<MapRoot>,
}

/// Writes the segment of `log`; `last_checksum` is that of its last record.
///
/// Until the rename there is only a temporary file; from then on the segment counts, whether the log still exists or not, and
/// both have the same records.
///
/// # Errors
/// When it cannot be written, or does not equal the replay. Then the log counts.
pub(crate) fn write_segment(
    backup: &Backup,
    log: ReplayedLog,
    followed_by: FollowedBy,
    last_checksum: u32,
) -> Result<SegmentFooter, SealError> {
    let header = SegmentHeader {
        uuid: backup.manifest().uuid,
        first_seq: log.first_seq,
        previous_checksum: log.previous_checksum,
        page_size: log.start_pages.0.page_size(),
    };
    let written = write(backup, &header, log, followed_by, last_checksum);
    if written.is_err() {
        SegmentWriter::abandon(&**backup.directory(), &header);
    }
    written
}

fn write(
    backup: &Backup,
    header: &SegmentHeader,
    mut log: ReplayedLog,
    followed_by: FollowedBy,
    last_checksum: u32,
) -> Result<SegmentFooter, SealError> {
    let base = base_of(backup, &log)?;
    let mut writer = SegmentWriter::create(&**backup.directory(), header.clone())?;

    let templates = log.templates.encode().compress(STATEMENTS_LEVEL).map_err(SealError::Compress)?;
    let templates = writer.push(&templates)?.block;
    for (interval, block) in log.intervals.iter_mut().zip(std::mem::take(&mut log.blocks)) {
        let compressed = block.compress(STATEMENTS_LEVEL).map_err(SealError::Compress)?;
        interval.block = writer.push(&compressed)?.block;
    }

    let images = write_images(backup, &log, &base, &mut writer)?;
    let changed: Vec<_> = images.iter().map(|(&page, images)| (page, images.at(log.first_seq))).collect();
    let mut builder = MapBuilder { segments: backup.segments(), writer: &mut writer, nodes: HashMap::new() };
    let map = builder.write(base.map, &changed)?;
    let own = OwnBlocks {
        first_seq: log.first_seq,
        map_before: base.map,
        map,
        nodes: Some(builder.nodes),
        images,
        has_snapshot: base.snapshot.is_some(),
    };
    // They are hints: without them it is sealed, too.
    let sets = read_sets(backup.segments(), &own, &log).unwrap_or_else(|error| {
        log::warn!("a segment gets no read sets: {error}");
        ReadSets::default()
    });
    let compressed = zstd::bulk::compress(&sets.encode(log.first_seq), INDEX_LEVEL).map_err(SealError::Compress)?;
    let read_sets = writer.push(&compressed)?.block;

    let unreplayed_from = log.replayed.unreplayed_from(log.records.len());
    let index = RecordIndex { records: log.records, intervals: log.intervals, unreplayed_from };
    let compressed = zstd::bulk::compress(&index.encode(), INDEX_LEVEL).map_err(SealError::Compress)?;
    let block = writer.push(&compressed)?.block;
    (log.records, log.intervals) = (index.records.clone(), index.intervals.clone());
    let path_of_log = || backup.path().join(names::log(log.first_seq));
    let differs = |what: &str| SealError::Differs { path: path_of_log(), what: what.to_owned() };
    let records = index.records.len();
    let times = index.records.first().map(|record| record.time);
    let (before, versions_before) = versions_before(backup, log.newest_segment)?;
    let timeline =
        Timeline::of_index(log.first_seq, before, index, followed_by).map_err(|_| differs("record index"))?;
    let ordinal = |before| match before {
        PrecedingVersion::Version(VersionOrdinal(ordinal)) => ordinal,
        PrecedingVersion::Nothing | PrecedingVersion::Unknown => 0,
    };
    let at = || timeline.versions().iter().map(|version| version.recorded_at);
    let times = (at().min().or(times), at().max().or(times));
    let (Some(earliest), Some(latest)) = times else { return Err(differs("no records")) };
    let footer = SegmentFooter {
        header_checksum: u32::from_le_bytes(
            *header.encode().last_chunk().expect("BUG: a header is longer than its checksum"),
        ),
        last_seq: Seq::new(log.first_seq.get() + records as u64 - 1).expect("BUG: seqs begin with 1"),
        last_checksum,
        followed_by,
        foreign_keys: log.foreign_keys,
        base: base.segment,
        snapshot: base.snapshot,
        newest_snapshot: newest_snapshot(backup, &log.start, log.newest_segment)?,
        page_count: log.page_count,
        map,
        index: block,
        templates,
        read_sets,
        versions_before,
        versions: u32::try_from(timeline.versions().len()).unwrap_or(u32::MAX),
        ordinal_before: ordinal(before),
        ordinal: ordinal(timeline.newest_ordinal()),
        times: (earliest, latest),
    };
    let written = writer.complete(&footer)?;
    expect_whole(backup, written.file(), &log, &sets, path_of_log)?;
    written.publish()?;
    Ok(footer)
}

fn base_of(backup: &Backup, log: &ReplayedLog) -> Result<Base, ReadError> {
    let on_segment = |first: Seq| {
        let footer = backup.segments().footer(first)?;
        Ok(Base { segment: Some(first), snapshot: footer.snapshot, map: footer.map })
    };
    let on_snapshot = |id| Base { segment: None, snapshot: Some(id), map: None };
    match log.start {
        Start::Nothing(_) => Ok(Base { segment: None, snapshot: None, map: None }),
        Start::Segment(first, _) => on_segment(first),
        Start::Snapshot(seq, snapshot) => match snapshot.base {
            None => Ok(on_snapshot(SnapshotId { seq, footer_checksum: snapshot.footer_checksum })),
            Some(DeltaBase::Snapshot(id)) => Ok(on_snapshot(id)),
            Some(DeltaBase::Segment(first)) => on_segment(first),
        },
    }
}

fn newest_snapshot(backup: &Backup, start: &Start, newest_segment: Option<Seq>) -> Result<Option<Seq>, ReadError> {
    match (start, newest_segment) {
        (Start::Snapshot(seq, _), _) => Ok(Some(*seq)),
        (_, Some(newest)) => Ok(backup.segments().footer(newest)?.newest_snapshot),
        (_, None) => Ok(None),
    }
}

fn versions_before(backup: &Backup, newest_segment: Option<Seq>) -> Result<(PrecedingVersion, u64), ReadError> {
    let Some(newest) = newest_segment else {
        return Ok((PrecedingVersion::Nothing, 0));
    };
    let footer = backup.segments().footer(newest)?;
    let versions = footer.versions_before.saturating_add(footer.versions.into());
    Ok((PrecedingVersion::of_footer(versions, footer.ordinal), versions))
}

/// Writes the images of all changed pages.
fn write_images(
    backup: &Backup,
    log: &ReplayedLog,
    base: &Base,
    writer: &mut SegmentWriter<'_>,
) -> Result<BTreeMap<PageNo, OwnImages>, SealError> {
    let StartPages(start) = &log.start_pages;
    let page_size = start.page_size().bytes();
    let mut codec = ImageCodec::new().map_err(SealError::Compress)?;
    let mut base_bytes = vec![0; page_size];
    let snapshot = base.snapshot.map(|id| backup.full_snapshot(id)).transpose()?;
    let base_images = BaseImages { segments: backup.segments(), snapshot: snapshot.as_ref() };
    let snapshot_pages = snapshot.as_ref().map_or(0, |snapshot| snapshot.page_count());
    let mut finder = BaseImageFinder::new(backup.segments(), base.map, snapshot_pages);
    let mut written = BTreeMap::new();
    let of_snapshot = PagesOfSnapshot::of(backup, log)?;
    for page in of_snapshot.and_replayed(log) {
        let bytes = of_snapshot.images(log, page)?;
        let borrowed: Vec<(Keyframe, &[u8])> = bytes.iter().map(|(keyframe, bytes)| (*keyframe, &**bytes)).collect();
        let base_image = finder.find(page)?;
        if let Some(base_image) = base_image {
            base_images.read(base_image, page, &mut base_bytes)?;
        }
        let base_image = base_image.map(|base_image| (base_image, &*base_bytes));
        let encoded = codec.encode(page, log.first_seq, &borrowed, base_image).map_err(SealError::Compress)?;
        let at = writer.push(&encoded)?;
        let images = OwnImages::new(at, page, &encoded);
        written.insert(page, images.map_err(|damage| ReadError::damaged(backup.path(), at.block.offset, damage))?);
    }
    Ok(written)
}

//! Writing of the file `pruned`, and reading it back before it counts.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::reach::{self, DroppedBlocks, Needed, Role, kept_of};
use super::{CompactError, Pace};
use crate::backup::Backup;
use crate::segment::version::Version;
use crate::segment::{PrunedFile, Segments};
use crate::storage::read_error::ReadError;
use crate::storage::{StorageError, StoredFile, TEMPORARY_ENDING, remove_if_present};
use format::names;
use format::pruned::{
    PRUNED_FOOTER_LEN, PRUNED_HEADER_LEN, PrunedBlock, PrunedFooter, PrunedHeader, PrunedSegment, pruned_checksum,
};
use format::pruned_directory::{PrunedDirectory, PrunedSegmentEntry, Thinned};
use format::segment::{BLOCK_HEADER_LEN, Location, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN};
use format::units::{Seq, Timestamp};

/// Bytes per write and sync.
const BUFFER: usize = 256 << 10;

/// The pause after a buffer, in multiples of the time that it took to write it.
const PAUSES: u32 = 4;

/// Maximum pause after a buffer.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Temporary name, until the file is complete and durable.
pub(super) fn temporary_name() -> String {
    format!("{}{TEMPORARY_ENDING}", names::PRUNED)
}

/// Buffered output with pauses, so that the disk stays available to others.
struct Output {
    file: Box<dyn StoredFile>,
    buffer: Vec<u8>,
    written: u64,
    pace: Pace,
}

impl Output {
    fn at(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let began = Instant::now();
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.pace == Pace::Gentle {
            // One long sync would block those of the recorder.
            self.file.sync()?;
            thread::sleep((began.elapsed() * PAUSES).min(PAUSE_MAX));
        }
        Ok(())
    }

    /// Adds a pruned segment or the directory with its checksum; returns offset and checksum.
    fn push_checked(&mut self, backup: &Backup, block: &[u8]) -> (u64, u32) {
        let offset = self.at();
        let checksum = pruned_checksum(backup.manifest().uuid, offset, block);
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        self.buffer.extend_from_slice(block);
        (offset, checksum)
    }
}

/// The segments to prune, ascending.
fn pruned_segments(plan: &Plan, needed: &[Needed]) -> BTreeSet<Seq> {
    let of_blocks = needed.iter().map(|needed| needed.segment);
    of_blocks.chain(plan.ranges.iter().map(|range| range.last_segment)).chain(plan.bases.iter().copied()).collect()
}

/// Length of the new file in bytes.
pub(super) fn expected_bytes(plan: &Plan, needed: &[Needed]) -> u64 {
    let mut at = PRUNED_HEADER_LEN as u64;
    let mut contents =
        PrunedDirectory { ranges: plan.ranges.clone(), segments: Vec::new(), thinned: plan.thinned.clone() };
    let mut rest = needed;
    for segment in pruned_segments(plan, needed) {
        let (own, later) = rest.split_at(rest.partition_point(|needed| needed.segment <= segment));
        rest = later;
        let mut blocks = Vec::with_capacity(own.len());
        for needed in own {
            blocks.push(PrunedBlock { offset: needed.offset, file_offset: at, len: needed.new_len });
            at += u64::from(needed.new_len) + BLOCK_HEADER_LEN as u64;
        }
        let pruned =
            PrunedSegment { header: [0; SEGMENT_HEADER_LEN], footer: [0; SEGMENT_FOOTER_LEN], blocks }.encode();
        at += (BLOCK_HEADER_LEN + pruned.len()) as u64;
        contents.segments.push(PrunedSegmentEntry { segment, offset: 0, len: 0 });
    }
    at + (BLOCK_HEADER_LEN + contents.encode().len() + PRUNED_FOOTER_LEN) as u64
}

/// Writes the new file durably under a temporary name. Breaks when `watch`, which gets the number of written bytes, does.
pub(super) fn write(
    backup: &Backup,
    plan: &Plan,
    needed: &[Needed],
    pace: Pace,
    watch: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, CompactError> {
    let (directory, segments) = (&**backup.directory(), &**backup.segments());
    let temporary = temporary_name();
    remove_if_present(directory, &temporary)?;
    let file = directory.create(&temporary)?;
    let header = PrunedHeader { uuid: backup.manifest().uuid, created: Timestamp::now() }.encode();
    let mut out = Output { file, buffer: header.to_vec(), written: 0, pace };
    let mut contents =
        PrunedDirectory { ranges: plan.ranges.clone(), segments: Vec::new(), thinned: plan.thinned.clone() };
    let mut rest = needed;
    for segment in pruned_segments(plan, needed) {
        let (own, later) = rest.split_at(rest.partition_point(|needed| needed.segment <= segment));
        rest = later;
        let file = segments.open(segment)?;
        let mut blocks = Vec::with_capacity(own.len());
        for needed in own {
            if watch(out.at()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let file_offset = out.at();
            file.read_blocks(std::iter::once(needed.block()), |block, bytes| {
                let kept = kept_of(Location { segment, block }, needed.role, bytes, segments, plan)?;
                out.buffer.extend_from_slice(&file.header().block_checksum(block.offset, &kept).to_le_bytes());
                out.buffer.extend_from_slice(&kept);
                let len = u32::try_from(kept.len()).unwrap_or(u32::MAX);
                blocks.push(PrunedBlock { offset: block.offset, file_offset, len });
                Ok(())
            })?;
            if out.buffer.len() >= BUFFER {
                out.flush()?;
            }
        }
        let (header, footer) = file.frame();
        let pruned = PrunedSegment { header, footer, blocks }.encode();
        let (offset, _) = out.push_checked(backup, &pruned);
        let len = u32::try_from(pruned.len()).unwrap_or(u32::MAX);
        contents.segments.push(PrunedSegmentEntry { segment, offset, len });
    }
    let (directory_offset, directory_checksum) = out.push_checked(backup, &contents.encode());
    let header_checksum = u32::from_le_bytes(*header.last_chunk().expect("BUG: a header is longer than 4 bytes"));
    let footer = PrunedFooter { header_checksum, directory_checksum, directory_offset };
    out.buffer.extend_from_slice(&footer.encode());
    out.flush()?;
    out.file.sync()?;
    Ok(ControlFlow::Continue(()))
}

/// Reads the new file as readers will after the compaction: every page that something kept builds on, what single kept versions
/// need, and every page of the newest sealed database. Any difference to the current state is an error.
pub(super) fn read_back(
    backup: &Backup,
    plan: &Plan,
    watch: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<ControlFlow<()>, CompactError> {
    let now = &**backup.segments();
    let pruned = PrunedFile::open_named(backup.directory(), backup.manifest().uuid, &temporary_name())?;
    if pruned.ranges() != plan.ranges || pruned.thinned() != plan.thinned {
        return Err(CompactError::Differs { what: "it says that something else was dropped".to_owned() });
    }
    let then = now.without_dropped(pruned);
    for &first in plan.bases.iter().chain(plan.needed.keys()).chain(plan.kept.last()) {
        if *then.footer(first)? != *now.footer(first)? {
            return Err(CompactError::Differs { what: format!("the end of segment {first}") });
        }
    }
    for Thinned { segment, versions } in &plan.thinned {
        let then = then.timeline(*segment)?;
        let same = |version: &Version| versions.iter().any(|kept| *kept == version.as_kept());
        if then.versions().len() != versions.len() || !then.versions().iter().all(same) {
            return Err(CompactError::Differs { what: format!("the versions of segment {segment}") });
        }
    }
    let mut differs = None;
    let mut compare = |at: Location, role, bytes: &[u8]| {
        if !expected(now, plan, at, role, bytes)? {
            differs.get_or_insert(at);
        }
        Ok(())
    };
    if reach::for_needed(&then, plan, watch, &mut compare)?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    let newest = plan.kept.last().map(|&newest| then.footer(newest)).transpose()?;
    let newest = newest.and_then(|footer| footer.map);
    if DroppedBlocks::new(&then, plan).below(newest, watch, &mut compare)?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    match differs {
        Some(at) => {
            let what = format!("byte {} of segment {}", at.block.offset, at.segment);
            Err(CompactError::Differs { what })
        }
        None => Ok(ControlFlow::Continue(())),
    }
}

/// Whether bytes equal the kept part of a block.
fn expected(now: &Segments, plan: &Plan, at: Location, role: Role, bytes: &[u8]) -> Result<bool, ReadError> {
    let mut is_same = false;
    now.open(at.segment)?.read_blocks(std::iter::once(at.block), |_, before| {
        is_same = kept_of(at, role, before, now, plan)? == bytes;
        Ok(())
    })?;
    Ok(is_same)
}

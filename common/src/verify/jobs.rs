//! The parallel steps of a verification: segments and snapshots, each on its own.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::Depth;
use super::finding::{Findings, Note, NoteAbout, Wrong};
use super::impact::Unreadable;
use super::snapshot::check_snapshot;
use super::version_ranges::VersionRanges;
use crate::backup::Backup;
use crate::check::segment_body::check_body;
use crate::check::segment_replay::replay_segment;
use crate::log::RecordAddress;
use crate::segment::timeline::Timeline;
use crate::segment::{PrunedFile, SegmentFile};
use format::names;
use format::record_index::RecordIndex;
use format::segment::SnapshotId;
use format::units::Keyframe;
use format::units::{DataVersion, Seq};

/// A file that is checked on its own.
#[derive(Debug, Clone)]
pub(super) enum Job {
    /// A segment.
    Segment(std::sync::Arc<SegmentFile>),
    /// A snapshot, with the version of its record, if that is known.
    Snapshot(SnapshotId, Option<DataVersion>),
    /// The file `pruned`.
    Pruned,
}

impl Job {
    /// Name of the file.
    pub(super) fn file_name(&self) -> String {
        match self {
            Self::Segment(file) => names::segment(file.first_seq()),
            Self::Snapshot(id, _) => names::snapshot(id.seq),
            Self::Pruned => names::PRUNED.to_owned(),
        }
    }
}

/// The results so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) findings: Findings,
    pub(super) notes: Vec<Note>,
    pub(super) unreadable: Unreadable,
    /// Segments with more faults than unreadable pages.
    pub(super) damaged: std::collections::BTreeSet<Seq>,
}

/// Number of verified bytes, and the total.
pub(super) struct Progress<'a> {
    pub(super) done_bytes: AtomicU64,
    pub(super) total_bytes: u64,
    pub(super) watch: &'a (dyn Fn(u64, u64) + Sync),
}

impl Progress<'_> {
    /// Adds verified bytes.
    pub(super) fn add(&self, bytes: u64) {
        let done = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.watch)(done.min(self.total_bytes), self.total_bytes);
    }
}

/// Checks all files with a thread per processor; each file comes with its length.
pub(super) fn check_all(
    backup: &Backup,
    parts: &[(Job, u64)],
    depth: Depth,
    found: Found,
    progress: &Progress<'_>,
) -> Found {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(found));
    let work = || {
        while let Some((part, bytes)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            match part {
                // Its beginning and its end were read when it was opened.
                Job::Segment(_) if depth == Depth::Chain => {}
                Job::Segment(file) => check_segment(backup, file, depth, &found),
                Job::Snapshot(id, data_version) => check_one_snapshot(backup, *id, *data_version, depth, &found),
                Job::Pruned => check_pruned(backup, depth, &found),
            }
            progress.add(*bytes);
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(parts.len());
        for _ in 1..threads {
            // Without the thread the others do its work.
            if let Err(error) = thread::Builder::new().name("verify".to_owned()).spawn_scoped(scope, work) {
                log::debug!("verifying with fewer threads: {error}");
            }
        }
        work();
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_segment(backup: &Backup, file: &SegmentFile, depth: Depth, found: &Mutex<Found>) {
    let (first, name) = (file.first_seq(), names::segment(file.first_seq()));
    let snapshot = file.footer().snapshot.map(|id| backup.full_snapshot(id)).transpose();
    let body = check_body(backup.segments(), file, snapshot.as_ref().ok().and_then(Option::as_ref));
    {
        let mut found = lock(found);
        for problem in &body.problems {
            found.findings.add_read(problem);
        }
        found.unreadable.blocks.extend(body.unreadable.iter().map(|&offset| (first, offset)));
        if !body.problems.is_empty() {
            found.damaged.insert(first);
        }
    }
    if depth == Depth::Quick || snapshot.is_err() {
        return;
    }
    let replayed = replay_segment(backup, file, &body);
    let mut found = lock(found);
    for (offset, error) in &replayed.failed {
        found.findings.add_replay(&name, *offset, error);
        found.damaged.insert(first);
    }
    for difference in replayed.differences {
        let offset = body.index.as_ref().and_then(|index| {
            let interval = index.intervals.get(difference.keyframe.0.saturating_sub(1) as usize);
            interval.map(|interval| interval.block.offset)
        });
        let at = found.findings.add(&name, offset, Wrong::Differs { what: difference.what });
        if let Some(index) = &body.index {
            let in_doubt = versions_around(backup, file, index, difference.keyframe);
            found.findings.cost(&at, |finding| finding.in_doubt.extend(&in_doubt));
        }
    }
    if replayed.other_layout > 0 {
        let about = NoteAbout::OtherLayout { keyframes: replayed.other_layout };
        found.notes.push(Note { file: name.clone(), about });
    }
    if replayed.reads_differ {
        found.notes.push(Note { file: name, about: NoteAbout::OtherReads });
    }
}

/// The versions of the intervals before and behind a keyframe.
fn versions_around(backup: &Backup, file: &SegmentFile, index: &RecordIndex, keyframe: Keyframe) -> VersionRanges {
    let mut around = VersionRanges::default();
    let of_interval = |timeline: &Timeline, seq: Seq| {
        let records = timeline.records();
        let record = records.binary_search_by_key(&seq, crate::segment::live_record::LiveRecord::seq).ok();
        match record.and_then(|position| records.get(position)).map(|record| record.address) {
            Some(RecordAddress::Segment { interval, .. }) => interval.0,
            _ => 0,
        }
    };
    if let Ok(timeline) = backup.segments().timeline(file.first_seq()) {
        let last = u32::try_from(index.intervals.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let intervals = keyframe.0.saturating_sub(1)..=keyframe.0.min(last);
        let versions = timeline.versions().iter();
        versions
            .filter(|version| intervals.contains(&of_interval(&timeline, version.seq)))
            .for_each(|version| around.add_ordinal(version.ordinal));
    }
    around
}

/// Checks every byte of `pruned`; which parts of it versions need is determined elsewhere.
fn check_pruned(backup: &Backup, depth: Depth, found: &Mutex<Found>) {
    match PrunedFile::open_named(backup.directory(), backup.manifest().uuid, names::PRUNED) {
        Ok(_) if depth == Depth::Chain => {}
        Ok(pruned) => pruned.check(&mut |segment, error| {
            let mut found = lock(found);
            found.findings.add_read(&error);
            found.damaged.insert(segment);
        }),
        Err(error) => drop(lock(found).findings.add_read(&error)),
    }
}

fn check_one_snapshot(
    backup: &Backup,
    id: SnapshotId,
    data_version: Option<DataVersion>,
    depth: Depth,
    found: &Mutex<Found>,
) {
    let check = check_snapshot(backup, id, data_version, depth);
    // A delta may have become part of a segment meanwhile.
    let is_gone = |problem: &crate::storage::read_error::ReadError| {
        matches!(problem, crate::storage::read_error::ReadError::Storage(error) if error.is_not_found())
            && backup.segments().open(id.seq).is_ok()
    };
    let mut found = lock(found);
    if check.problems.iter().any(is_gone) && !backup.segments().footer(id.seq).is_ok_and(|it| it.snapshot == Some(id)) {
        return;
    }
    for problem in &check.problems {
        found.findings.add_read(problem);
    }
    if !check.unreadable.is_empty() {
        found.unreadable.snapshots.entry(id.seq).or_default().extend(check.unreadable);
    }
}

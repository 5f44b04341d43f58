//! What a compaction drops, according to the footers of the segments and some versions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::CompactError;
use super::clock::{Clock, ClockInDoubt};
use crate::backup::Backup;
use crate::config::keep_policy::{Keep, KeepPolicy, Times};
use crate::history::History;
use crate::history::NeededBy;
use crate::segment::version::Version;
use crate::segment::{PrunedFile, Segments};
use crate::storage::read_error::ReadError;
use format::pruned_directory::{KeptVersion, PrunedRange, Thinned};
use format::segment::SegmentFooter;
use format::snapshot_ref::DeltaBase;
use format::units::{Seq, Timestamp};
use format::{Damage, names};

/// The plan of a compaction.
pub(super) struct Plan {
    pub(super) history: History,
    /// Segments whose files are removed now, ascending.
    pub(super) drops: Vec<Seq>,
    /// All ranges after the compaction, ascending.
    pub(super) ranges: Vec<PrunedRange>,
    /// The thinned segments in them, ascending.
    pub(super) thinned: Vec<Thinned>,
    /// The parts that the kept versions need of their segments.
    pub(super) needed: BTreeMap<Seq, NeededBy>,
    /// Dropped segments whose final state must stay readable, because something kept builds on it.
    pub(super) bases: BTreeSet<Seq>,
    /// Segments that stay as they are.
    pub(super) kept: Vec<Seq>,
    /// Number of versions dropped now.
    pub(super) versions: u64,
    /// Length of the removed segment files in bytes.
    pub(super) bytes: u64,
    /// The oldest kept version.
    pub(super) oldest: Option<Version>,
}

/// A segment with versions or a file.
struct Present {
    first: Seq,
    footer: Arc<SegmentFooter>,
    /// The kept versions, if it was thinned before.
    left: Option<Vec<KeptVersion>>,
}

impl Plan {
    /// Reads the footers of all segments, and the logs.
    ///
    /// # Errors
    /// When anything is damaged or missing: nothing is dropped from such a backup.
    pub(super) fn make(backup: &Arc<Backup>, policy: &KeepPolicy, now: Timestamp) -> Result<Self, CompactError> {
        policy.check()?;
        let (history, read) = backup.read_history();
        read?;
        let segments = &**backup.segments();
        // Nothing more is dropped after damage.
        let pruned = known_pruned(backup)?;
        let before = pruned.as_ref().map_or(&[][..], PrunedFile::ranges);
        let all = history.sealed().iter().map(|&first| {
            let left = pruned.as_ref().and_then(|pruned| pruned.kept_of(first)).map(<[_]>::to_vec);
            Ok(Present { first, footer: segments.footer(first)?, left })
        });
        let all = all.collect::<Result<Vec<_>, ReadError>>()?;
        let keeps = keeps(&history, segments, &all, policy, now)?;
        let with_keeps = || all.iter().zip(&keeps);
        let kept: Vec<Seq> =
            with_keeps().filter(|(_, keep)| **keep == Keep::Whole).map(|(present, _)| present.first).collect();
        let goes = |(present, keep): &(&Present, &Keep)| present.left.is_none() && **keep != Keep::Whole;
        let drops: Vec<Seq> = with_keeps().filter(goes).map(|(present, _)| present.first).collect();
        let thinned: Vec<Thinned> = with_keeps()
            .filter_map(|(present, keep)| match keep {
                Keep::Versions(versions) => Some(Thinned { segment: present.first, versions: versions.clone() }),
                Keep::Whole | Keep::Nothing => None,
            })
            .collect();
        let ranges = ranges(segments, before, &all, &drops)?;
        let needed = needed(segments, &thinned)?;
        let bases = bases(&history, segments, &kept, &needed, &ranges)?;
        let kept_alone: u64 = thinned.iter().map(|thinned| thinned.versions.len() as u64).sum();
        let dropped = sum(&ranges, |range| range.versions).saturating_sub(kept_alone);
        let versions = dropped.saturating_sub(pruned.as_ref().map_or(0, PrunedFile::versions));
        let bytes = sum(&ranges, |range| range.bytes).saturating_sub(sum(before, |range| range.bytes));
        let oldest = oldest(&history, segments, &all, &keeps)?;
        Ok(Self { history, drops, ranges, thinned, needed, bases, kept, versions, bytes, oldest })
    }

    /// Whether the clock can be trusted; irrelevant for a plan that drops nothing.
    pub(super) fn check_clock(&self, now: Timestamp, clock: Clock<'_>) -> Result<Result<(), ClockInDoubt>, ReadError> {
        let Some(newest) = self.history.newest() else { return Ok(Ok(())) };
        let checked = clock.check(&self.history, now.min(newest.recorded_at))?;
        Ok(if self.drops_anything() { checked } else { Ok(()) })
    }

    /// Whether the plan changes anything.
    pub(super) fn drops_anything(&self) -> bool {
        self.versions > 0 || !self.drops.is_empty()
    }
}

/// The current file `pruned`.
fn known_pruned(backup: &Backup) -> Result<Option<PrunedFile>, ReadError> {
    match PrunedFile::open_named(backup.directory(), backup.manifest().uuid, names::PRUNED) {
        Ok(pruned) => Ok(Some(pruned)),
        Err(ReadError::Storage(error)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn sum(ranges: &[PrunedRange], of: impl Fn(&PrunedRange) -> u64) -> u64 {
    ranges.iter().map(of).fold(0, u64::saturating_add)
}

/// The part of each segment that the policy keeps.
fn keeps(
    history: &History,
    segments: &Segments,
    all: &[Present],
    policy: &KeepPolicy,
    now: Timestamp,
) -> Result<Vec<Keep>, ReadError> {
    let Some(newest) = history.newest() else { return Ok(vec![Keep::Whole; all.len()]) };
    // A segment without versions has no times; it is treated like the one before it.
    let with_versions: Vec<&Present> = all.iter().filter(|present| present.footer.versions > 0).collect();
    let times: Vec<Times> = with_versions.iter().map(|present| present.times()).collect();
    let mut versions_of = |position: usize| match with_versions.get(position) {
        Some(Present { left: Some(left), .. }) => Ok(left.clone()),
        Some(Present { first, .. }) => Ok(segments.timeline(*first)?.versions().iter().map(Version::as_kept).collect()),
        None => Ok(Vec::new()),
    };
    let mut by_policy = policy.keeps(now, newest.recorded_at, &times, &mut versions_of)?.into_iter();
    let mut keeps: Vec<Keep> = Vec::with_capacity(all.len());
    for present in all {
        let of_this = if present.footer.versions > 0 {
            by_policy.next()
        } else {
            keeps.last().filter(|before| **before == Keep::Whole).cloned()
        };
        keeps.push(match (of_this.unwrap_or(Keep::Nothing), &present.left) {
            (Keep::Whole, Some(left)) => Keep::Versions(left.clone()),
            (keep, _) => keep,
        });
    }
    // The next log is replayed onto the newest segment; the newest version may be in an earlier one.
    let needed = all.iter().rposition(|present| present.footer.versions > 0).unwrap_or(0);
    let is_file = |present: &Present| present.left.is_none();
    keeps.iter_mut().zip(all).skip(needed).filter(|(_, it)| is_file(it)).for_each(|(keep, _)| *keep = Keep::Whole);
    Ok(keeps)
}

impl Present {
    /// Times of the remaining versions.
    fn times(&self) -> Times {
        let (earliest, latest) = self.footer.times;
        let left = || self.left.iter().flatten().map(|version| version.recorded_at);
        Times { earliest: left().min().unwrap_or(earliest), latest: left().max().unwrap_or(latest) }
    }
}

/// The parts of dropped segments that kept versions need.
fn needed(segments: &Segments, thinned: &[Thinned]) -> Result<BTreeMap<Seq, NeededBy>, ReadError> {
    let mut needed = BTreeMap::new();
    for Thinned { segment, versions } in thinned {
        needed.insert(*segment, segments.timeline(*segment)?.needed_by(versions));
    }
    Ok(needed)
}

/// The ranges after the compaction, with consecutive segments merged.
fn ranges(
    segments: &Segments,
    before: &[PrunedRange],
    all: &[Present],
    drops: &[Seq],
) -> Result<Vec<PrunedRange>, ReadError> {
    let mut ranges: Vec<PrunedRange> = Vec::new();
    let mut old = before.iter().peekable();
    let mut next = Seq::FIRST;
    let missing = |next: Seq| {
        ReadError::damaged(&segments.path().join(names::segment(next)), 0, Damage::Missing { expected: next })
    };
    let mut push = |range: PrunedRange| match ranges
        .last_mut()
        .filter(|last: &&mut PrunedRange| last.last_seq.next() == range.first_seq)
    {
        Some(last) => {
            last.last_segment = range.last_segment;
            last.last_seq = range.last_seq;
            last.versions = last.versions.saturating_add(range.versions);
            last.segments = last.segments.saturating_add(range.segments);
            last.bytes = last.bytes.saturating_add(range.bytes);
        }
        None => ranges.push(range),
    };
    for Present { first, footer, .. } in all.iter().filter(|present| present.left.is_none()) {
        while let Some(range) = old.next_if(|range| range.first_seq < *first) {
            if range.first_seq != next {
                return Err(missing(next));
            }
            next = range.last_seq.next();
            push(range.clone());
        }
        if *first != next {
            return Err(missing(next));
        }
        next = footer.last_seq.next();
        if drops.binary_search(first).is_ok() {
            let file = segments.open(*first)?;
            push(PrunedRange {
                first_seq: *first,
                previous_checksum: file.header().previous_checksum,
                last_segment: *first,
                last_seq: footer.last_seq,
                versions_before: footer.versions_before,
                ordinal_before: footer.ordinal_before,
                versions: footer.versions.into(),
                segments: 1,
                bytes: file.len_bytes().unwrap_or(0),
            });
        }
    }
    Ok(ranges)
}

/// The dropped segments that something kept builds on.
fn bases(
    history: &History,
    segments: &Segments,
    kept: &[Seq],
    needed: &BTreeMap<Seq, NeededBy>,
    ranges: &[PrunedRange],
) -> Result<BTreeSet<Seq>, ReadError> {
    let is_dropped = |first: &Seq| ranges.iter().any(|range| range.has(*first));
    let mut bases = BTreeSet::new();
    let thinned = needed.iter().filter(|(_, needed)| needed.reads_base()).map(|(first, _)| first);
    for &first in kept.iter().chain(thinned) {
        bases.extend(segments.footer(first)?.base.filter(is_dropped));
    }
    for (_, snapshot) in history.unsealed_snapshots() {
        if let Some(DeltaBase::Segment(base)) = snapshot.base {
            bases.extend(Some(base).filter(is_dropped));
        }
    }
    Ok(bases)
}

fn oldest(
    history: &History,
    segments: &Segments,
    all: &[Present],
    keeps: &[Keep],
) -> Result<Option<Version>, ReadError> {
    for (present, keep) in all.iter().zip(keeps) {
        let oldest = match keep {
            Keep::Nothing => continue,
            Keep::Whole => None,
            Keep::Versions(versions) => versions.first().map(|version| version.seq),
        };
        let timeline = segments.timeline(present.first)?;
        if let Some(version) = timeline.versions().iter().find(|it| oldest.is_none_or(|seq| it.seq == seq)) {
            return Ok(Some(version.clone()));
        }
    }
    Ok(history.unsealed_versions().next().cloned())
}

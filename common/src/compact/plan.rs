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
use crate::segment::{Remains, Segments};
use crate::storage::read_error::ReadError;
use format::remains_directory::{Gap, KeptVersion, Thinned};
use format::segment::SegmentFooter;
use format::snapshot_ref::DeltaBase;
use format::units::{Seq, Timestamp};
use format::{Damage, names};

/// The plan of a compaction.
pub(super) struct Plan {
    pub(super) history: History,
    /// Segments whose files are removed now, ascending.
    pub(super) drops: Vec<Seq>,
    /// All gaps after the compaction, ascending.
    pub(super) gaps: Vec<Gap>,
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
        let remains = known_remains(backup)?;
        let before = remains.as_ref().map_or(&[][..], Remains::gaps);
        let all = history.sealed().iter().map(|&first| {
            let left = remains.as_ref().and_then(|remains| remains.kept_of(first)).map(<[_]>::to_vec);
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
        let gaps = gaps(segments, before, &all, &drops)?;
        let needed = needed(segments, &thinned)?;
        let bases = bases(&history, segments, &kept, &needed, &gaps)?;
        let kept_alone: u64 = thinned.iter().map(|thinned| thinned.versions.len() as u64).sum();
        let dropped = sum(&gaps, |gap| gap.versions).saturating_sub(kept_alone);
        let versions = dropped.saturating_sub(remains.as_ref().map_or(0, Remains::versions));
        let bytes = sum(&gaps, |gap| gap.bytes).saturating_sub(sum(before, |gap| gap.bytes));
        let oldest = oldest(&history, segments, &all, &keeps)?;
        Ok(Self { history, drops, gaps, thinned, needed, bases, kept, versions, bytes, oldest })
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

/// The current file `remains`.
fn known_remains(backup: &Backup) -> Result<Option<Remains>, ReadError> {
    match Remains::open_named(backup.directory(), backup.manifest().uuid, names::REMAINS) {
        Ok(remains) => Ok(Some(remains)),
        Err(ReadError::Storage(error)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn sum(gaps: &[Gap], of: impl Fn(&Gap) -> u64) -> u64 {
    gaps.iter().map(of).fold(0, u64::saturating_add)
}

/// What the policy keeps of each segment.
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

/// The gaps after the compaction, with consecutive segments merged.
fn gaps(segments: &Segments, before: &[Gap], all: &[Present], drops: &[Seq]) -> Result<Vec<Gap>, ReadError> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut old = before.iter().peekable();
    let mut next = Seq::FIRST;
    let missing = |next: Seq| {
        ReadError::damaged(&segments.path().join(names::segment(next)), 0, Damage::Missing { expected: next })
    };
    let mut push = |gap: Gap| match gaps.last_mut().filter(|last: &&mut Gap| last.last_seq.next() == gap.first_seq) {
        Some(last) => {
            last.last_segment = gap.last_segment;
            last.last_seq = gap.last_seq;
            last.versions = last.versions.saturating_add(gap.versions);
            last.segments = last.segments.saturating_add(gap.segments);
            last.bytes = last.bytes.saturating_add(gap.bytes);
        }
        None => gaps.push(gap),
    };
    for Present { first, footer, .. } in all.iter().filter(|present| present.left.is_none()) {
        while let Some(gap) = old.next_if(|gap| gap.first_seq < *first) {
            if gap.first_seq != next {
                return Err(missing(next));
            }
            next = gap.last_seq.next();
            push(gap.clone());
        }
        if *first != next {
            return Err(missing(next));
        }
        next = footer.last_seq.next();
        if drops.binary_search(first).is_ok() {
            let file = segments.open(*first)?;
            push(Gap {
                first_seq: *first,
                previous_checksum: file.header().previous_checksum,
                last_segment: *first,
                last_seq: footer.last_seq,
                versions_before: footer.versions_before,
                place_before: footer.place_before,
                versions: footer.versions.into(),
                segments: 1,
                bytes: file.len_bytes().unwrap_or(0),
            });
        }
    }
    Ok(gaps)
}

/// The dropped segments that something kept builds on.
fn bases(
    history: &History,
    segments: &Segments,
    kept: &[Seq],
    needed: &BTreeMap<Seq, NeededBy>,
    gaps: &[Gap],
) -> Result<BTreeSet<Seq>, ReadError> {
    let is_dropped = |first: &Seq| gaps.iter().any(|gap| gap.has(*first));
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

//! What a compaction will drop: decided by the footers of the segments alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::CompactError;
use super::policy::{KeepPolicy, Times};
use crate::format::record::DeltaBase;
use crate::format::remains::Gap;
use crate::format::segment::SegmentFooter;
use crate::format::{Damage, names};
use crate::segment::Segments;
use crate::{Backup, History, ReadError, Seq, Timestamp, Version};

/// The decision.
pub(super) struct Plan {
    pub(super) history: History,
    /// Segments that go now, ascending.
    pub(super) drops: Vec<Seq>,
    /// Everything that will have been dropped by then, ascending.
    pub(super) gaps: Vec<Gap>,
    /// Segments, dropped by then, at whose end the database must be readable: something that is kept builds on it.
    pub(super) bases: BTreeSet<Seq>,
    /// Segments that stay.
    pub(super) kept: Vec<Seq>,
    /// Versions that go now.
    pub(super) versions: u64,
    /// Bytes of the files of the segments that go now.
    pub(super) bytes: u64,
    /// The oldest version that stays.
    pub(super) oldest: Option<Version>,
}

/// A segment that is there.
struct Present {
    first: Seq,
    footer: Arc<SegmentFooter>,
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
        let before = known_gaps(backup)?;
        let all = history.sealed().iter().map(|&first| Ok(Present { first, footer: segments.footer(first)? }));
        let all = all.collect::<Result<Vec<_>, ReadError>>()?;
        let keeps = keeps(&history, &all, policy, now);
        let drops: Vec<Seq> =
            all.iter().zip(&keeps).filter(|(_, keeps)| !**keeps).map(|(present, _)| present.first).collect();
        let kept: Vec<Seq> =
            all.iter().zip(&keeps).filter(|(_, keeps)| **keeps).map(|(present, _)| present.first).collect();
        let gaps = gaps(segments, &before, &all, &drops)?;
        let bases = bases(&history, segments, &kept, &gaps)?;
        let (versions_before, versions) = (sum(&before, |gap| gap.versions), sum(&gaps, |gap| gap.versions));
        let bytes = sum(&gaps, |gap| gap.bytes).saturating_sub(sum(&before, |gap| gap.bytes));
        let oldest = oldest(&history, segments, &kept)?;
        let versions = versions.saturating_sub(versions_before);
        Ok(Self { history, drops, gaps, bases, kept, versions, bytes, oldest })
    }
}

/// What was dropped before. Of what is damaged nothing more is dropped.
fn known_gaps(backup: &Backup) -> Result<Vec<Gap>, ReadError> {
    match crate::segment::Remains::open_named(backup.directory(), backup.manifest().uuid, names::REMAINS) {
        Ok(remains) => Ok(remains.gaps().to_vec()),
        Err(ReadError::Storage(error)) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn sum(gaps: &[Gap], of: impl Fn(&Gap) -> u64) -> u64 {
    gaps.iter().map(of).fold(0, u64::saturating_add)
}

/// Which segments stay.
fn keeps(history: &History, all: &[Present], policy: &KeepPolicy, now: Timestamp) -> Vec<bool> {
    let Some(newest) = history.newest() else { return vec![true; all.len()] };
    // Without a version there are no times; such a segment goes with the one before it.
    let with_versions: Vec<Times> = all
        .iter()
        .filter(|present| present.footer.versions > 0)
        .map(|present| Times { earliest: present.footer.times.0, latest: present.footer.times.1 })
        .collect();
    let mut by_policy = policy.keeps(now, newest.recorded_at, &with_versions).into_iter();
    let mut keeps = Vec::with_capacity(all.len());
    for present in all {
        let of_this = if present.footer.versions > 0 { by_policy.next() } else { keeps.last().copied() };
        keeps.push(of_this.unwrap_or(false));
    }
    // The next log is replayed onto the newest segment; the newest version may be in one before that.
    let needed = all.iter().rposition(|present| present.footer.versions > 0).unwrap_or(0);
    keeps.iter_mut().skip(needed).for_each(|keeps| *keeps = true);
    keeps
}

/// What will have been dropped, each run of segments as one.
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
    for Present { first, footer } in all {
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
fn bases(history: &History, segments: &Segments, kept: &[Seq], gaps: &[Gap]) -> Result<BTreeSet<Seq>, ReadError> {
    let is_dropped = |first: &Seq| gaps.iter().any(|gap| gap.has(*first));
    let mut bases = BTreeSet::new();
    for &first in kept {
        bases.extend(segments.footer(first)?.base.filter(is_dropped));
    }
    for (_, snapshot) in history.unsealed_snapshots() {
        if let Some(DeltaBase::Segment(base)) = snapshot.base {
            bases.extend(Some(base).filter(is_dropped));
        }
    }
    Ok(bases)
}

fn oldest(history: &History, segments: &Segments, kept: &[Seq]) -> Result<Option<Version>, ReadError> {
    for &first in kept {
        if let Some(version) = segments.stretch(first)?.versions().first() {
            return Ok(Some(version.clone()));
        }
    }
    Ok(history.unsealed_versions().next().cloned())
}

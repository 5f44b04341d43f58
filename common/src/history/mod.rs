//! [`History`]: the versions of a backup, and how each is built.
//!
//! Of the sealed part only the names of the segments are in memory; the rest is read on demand and cached. The unsealed part, a
//! log or two, is in memory as a whole.

mod by_time;
mod dropped_runs;
mod lookup;
mod plan;
mod recorded;
mod sealed_through;
pub(crate) mod unsealed;

use std::ops::{ControlFlow, Deref};
use std::sync::Arc;

use crate::log::RecordAddress;
use crate::segment::Segments;
use crate::storage::boot::{commit_in_boot, current_boot};
use crate::storage::read_error::ReadError;
use format::Damage;
use format::commit_note::CommitNote;
use format::record::{Body, Record};
use format::segment::SnapshotId;
use format::snapshot_ref::{DeltaBase, SnapshotRef};
use format::units::{DataVersion, PageSize, Seq};
use format::version_rules::Newest;

use crate::segment::live_record::{LiveKind, LiveRecord};
use crate::segment::timeline::{PrecedingVersion, Timeline};
use crate::segment::version::{NewestRecorded, Readable, TimelineEntry, Version, VersionOrdinal};
pub use by_time::RecordedBy;
use dropped_runs::DroppedRuns;
pub use plan::ReplayPlan;
pub(crate) use plan::{NeededBy, PlannedChange, Start};
pub use recorded::{NewestVersion, Recorded};
pub use sealed_through::SealedThrough;
pub(crate) use sealed_through::sealed_through;

/// The versions of a backup.
#[derive(Debug)]
pub struct History {
    page_size: PageSize,
    segments: Arc<Segments>,
    /// First seqs of the segments, ascending, including thinned ones.
    sealed: Vec<Seq>,
    /// Number of versions in the segments, including dropped ones.
    sealed_versions: u64,
    /// Number of dropped versions.
    dropped_versions: u64,
    newest_sealed: Option<Version>,
    /// The newest sealed version, whether it can be opened or not.
    sealed_recorded: Option<NewestRecorded>,
    /// Whether the pages at the end of the newest segment are those of its newest version.
    sealed_end: Readable,
    /// The last record, if it is a commit.
    note: Option<CommitNote>,
    /// Ordinal of the newest sealed version.
    sealed_ordinal: PrecedingVersion,
    /// The timelines of the logs.
    tail: Vec<Timeline>,
}

/// The most segments whose indexes are fetched at once.
const FETCHED_AT_ONCE_MAX: usize = 128;

/// A timeline, cached or in memory.
enum Loaded<'a> {
    Sealed(Arc<Timeline>),
    Tail(&'a Timeline),
}

impl Deref for Loaded<'_> {
    type Target = Timeline;

    fn deref(&self) -> &Timeline {
        match self {
            Self::Sealed(timeline) => timeline,
            Self::Tail(timeline) => timeline,
        }
    }
}

impl History {
    /// The history of the segments that begin with `sealed`, to which the records of the logs are then applied. Reads the newest
    /// segment; if that is damaged, the history of the logs is still valid.
    pub(crate) fn new(page_size: PageSize, segments: Arc<Segments>, sealed: Vec<Seq>) -> Self {
        let mut history = Self {
            page_size,
            segments,
            sealed: Vec::new(),
            sealed_versions: 0,
            dropped_versions: 0,
            newest_sealed: None,
            sealed_recorded: None,
            sealed_end: Readable::Yes,
            note: None,
            sealed_ordinal: PrecedingVersion::Nothing,
            tail: Vec::new(),
        };
        let newest = sealed.last().copied();
        history.sealed = sealed;
        history.forget_dropped();
        if let Some(newest) = newest
            && let Err(error) = history.take_over(newest)
        {
            log::error!("{}", error.in_words());
            history.sealed_ordinal = PrecedingVersion::Unknown;
        }
        history.find_newest_sealed();
        history
    }

    /// If a change filled a log and was never committed, its segment has no version: then the newest version is in an earlier
    /// one.
    fn find_newest_sealed(&mut self) {
        let has_versions = |segment: &Seq| self.segments.footer(*segment).is_ok_and(|footer| footer.versions > 0);
        if self.newest_sealed.is_none()
            && matches!(self.sealed_ordinal, PrecedingVersion::Version(_))
            && let Some(&segment) = self.sealed.iter().rev().find(|segment| has_versions(segment))
        {
            match self.segments.timeline(segment) {
                Ok(timeline) => {
                    self.newest_sealed = timeline.versions().last().cloned();
                    self.sealed_recorded = self.sealed_recorded.or(timeline.newest_recorded());
                }
                Err(error) => log::error!("{}", error.in_words()),
            }
        }
    }

    /// Removes the segments that are known to be dropped; returns the number of removed versions.
    pub(crate) fn forget_dropped(&mut self) -> u64 {
        let Some(pruned) = self.segments.pruned() else { return 0 };
        self.sealed.retain(|&segment| !pruned.is_gone(segment));
        let before = std::mem::replace(&mut self.dropped_versions, pruned.versions());
        self.dropped_versions.saturating_sub(before)
    }

    /// Makes this segment the newest sealed one.
    fn take_over(&mut self, segment: Seq) -> Result<(), ReadError> {
        let footer = self.segments.footer(segment)?;
        let timeline = self.segments.timeline(segment)?;
        let newest = timeline.versions().last().cloned();
        self.sealed_end = if timeline.ends_unreadable() { Readable::No } else { Readable::Yes };
        self.sealed_recorded = timeline.newest_recorded().or(self.sealed_recorded);
        self.sealed_versions = footer.versions_before.saturating_add(footer.versions.into());
        self.sealed_ordinal = PrecedingVersion::of_footer(self.sealed_versions, footer.ordinal);
        // Without a version in it, the previous one stays the newest.
        if newest.is_some() {
            self.newest_sealed = newest;
        }
        Ok(())
    }

    /// Applies the next record of the logs.
    ///
    /// # Errors
    /// When an intact record contradicts those before it, which no recorder writes. The history is unchanged.
    pub(crate) fn apply(&mut self, record: &Record<'_>, address: RecordAddress) -> Result<(), Damage> {
        match self.tail.last_mut() {
            Some(log) if log.first_seq() == address.file_seq() => log.apply_record(record, address)?,
            _ => self.begin_log(record, address)?,
        }
        self.note = match &record.body {
            Body::Commit(note) => Some(*note),
            _ => None,
        };
        Ok(())
    }

    fn begin_log(&mut self, record: &Record<'_>, address: RecordAddress) -> Result<(), Damage> {
        let log = address.file_seq();
        let begin = |before| {
            let mut next = Timeline::new(log, before);
            next.apply_record(record, address).map(|()| next)
        };
        if let Body::Snapshot(SnapshotRef { unreadable_since: Some(since), .. }) = record.body {
            // Up to the next snapshot: versions that build on that can be opened.
            let is_end = |log: &Timeline| log.first_seq() > since && log.snapshot().is_some();
            let end = self.tail.iter().position(is_end).unwrap_or(self.tail.len());
            let logs = self.tail.iter_mut().take(end);
            logs.filter(|log| log.ends_behind(since)).for_each(|log| log.is_unreadable_from(since));
        }
        let before = self.newest_ordinal();
        let is_snapshot = matches!(record.body, Body::Snapshot(_));
        let mut next = match before {
            PrecedingVersion::Version(newest) if is_snapshot && newest.data_version() == record.header.data_version => {
                self.give_place_to_snapshot()?;
                begin(self.newest_ordinal())?
            }
            _ => begin(before)?,
        };
        // Only a change continues from the last version of the previous log, and proves that it was committed.
        if matches!(record.body, Body::Change { .. }) {
            let is_readable = match self.tail.last_mut() {
                Some(last) => {
                    last.confirm_newest();
                    !last.ends_unreadable()
                }
                None => self.sealed_end == Readable::Yes,
            };
            if !is_readable {
                next.is_unreadable_from(log);
            }
        }
        self.tail.push(next);
        Ok(())
    }

    /// Replaces the newest version, which is in a log, by a snapshot of it.
    fn give_place_to_snapshot(&mut self) -> Result<(), Damage> {
        let of_newest = self.tail.iter().rposition(Timeline::has_newest);
        let Some(of_newest) = of_newest else {
            return Err(Damage::Contradiction("a snapshot takes the place of a version that is sealed"));
        };
        let (holder, later) = self.tail.split_at_mut(of_newest + 1);
        if let Some(holder) = holder.last_mut() {
            holder.give_place_to_snapshot();
            later.iter_mut().for_each(|void| void.set_before(holder.newest_ordinal()));
        }
        Ok(())
    }

    /// The log that will be sealed next, if any of its records were read.
    pub(crate) fn oldest_log(&self) -> Option<Seq> {
        self.tail.first().map(Timeline::first_seq)
    }

    /// Replaces the log `first_seq`, the oldest one, by its segment.
    ///
    /// # Errors
    /// When the segment cannot be read, or lacks records of the log. The history is unchanged.
    pub(crate) fn adopt(&mut self, first_seq: Seq) -> Result<(), ReadError> {
        if let Some(log) = self.tail.first().filter(|timeline| timeline.first_seq() == first_seq)
            && !self.segments.timeline(first_seq)?.goes_on_from(log)
        {
            // The segment lacks records of its log.
            return Err(self.segments.open(first_seq)?.damaged(0, Damage::Replaced));
        }
        self.take_over(first_seq)?;
        self.sealed.push(first_seq);
        self.tail.retain(|timeline| timeline.first_seq() > first_seq);
        // If a snapshot replaced its newest version, logs without a version precede that snapshot.
        let sealed_ordinal = self.sealed_ordinal;
        self.tail.iter_mut().take_while(|log| !log.has_newest()).for_each(|log| log.set_before(sealed_ordinal));
        Ok(())
    }

    /// First seqs of the known segments.
    pub(crate) fn sealed(&self) -> &[Seq] {
        &self.sealed
    }

    /// Newest sealed version and record; `None` when nothing is sealed.
    ///
    /// # Errors
    /// When the newest segment cannot be read.
    pub(crate) fn sealed_through(&self) -> Result<Option<SealedThrough>, ReadError> {
        let Some(&newest) = self.sealed.last() else { return Ok(None) };
        Ok(Some(sealed_through(&*self.segments.footer(newest)?)))
    }

    /// The live records that are in no segment, in order.
    pub(crate) fn unsealed_records(&self) -> impl Iterator<Item = &LiveRecord> {
        self.tail.iter().flat_map(Timeline::records)
    }

    /// The versions that are not sealed, in order.
    pub(crate) fn unsealed_versions(&self) -> impl Iterator<Item = &Version> {
        self.tail.iter().flat_map(Timeline::versions)
    }

    /// The unsealed snapshots, with the seqs of their records.
    pub(crate) fn unsealed_snapshots(&self) -> impl Iterator<Item = (Seq, &SnapshotRef)> {
        self.tail.iter().filter_map(|timeline| Some((timeline.first_seq(), timeline.snapshot()?)))
    }

    /// First seqs of the logs with records.
    pub(crate) fn logs(&self) -> impl Iterator<Item = Seq> {
        self.tail.iter().map(Timeline::first_seq)
    }

    /// The newest version, whether it can be opened or not.
    pub(crate) fn newest_ordinal(&self) -> PrecedingVersion {
        self.tail.last().map_or(self.sealed_ordinal, Timeline::newest_ordinal)
    }

    /// The newest version that can be opened, according to the records; `None` for an empty backup. It may be older than the
    /// [newest recorded](Self::newest_recorded).
    pub fn newest(&self) -> Option<&Version> {
        self.tail.iter().rev().find_map(|timeline| timeline.versions().last()).or(self.newest_sealed.as_ref())
    }

    /// The newest recorded version, whether it can be opened or not. All older versions are old states.
    pub fn newest_recorded(&self) -> Option<NewestRecorded> {
        let in_log = self.tail.iter().rev().find_map(Timeline::newest_recorded);
        in_log.or(self.sealed_recorded)
    }

    /// The newest version as input of the version rules, for the current boot.
    pub fn newest_for_rules(&self) -> Option<Newest> {
        let NewestRecorded { data_version, commit, .. } = self.newest_recorded()?;
        Some(Newest { data_version, commit: commit_in_boot(commit, self.note, current_boot()) })
    }

    /// Whether a snapshot may replace this version, the newest one that is not void: it must be in a log.
    pub(crate) fn can_be_replaced(&self, data_version: DataVersion) -> bool {
        !matches!(self.version(data_version), Ok(Some(version)) if self.is_sealed(version.seq))
    }

    /// The last record, if it is a commit of the newest version.
    pub(crate) fn note(&self) -> Option<CommitNote> {
        self.note
    }

    /// The first unsealed change behind the newest verified record or snapshot. If the node's database turns out to be another
    /// one, all changes from there on build on that. `None` when there is no such change.
    pub(crate) fn unverified_since(&self) -> Option<Seq> {
        let verified = self.tail.iter().rposition(|log| log.verified().is_some()).unwrap_or(0);
        self.tail.get(verified..).unwrap_or_default().iter().find_map(Timeline::unverified_since)
    }

    /// The oldest version that can be opened.
    ///
    /// # Errors
    /// When its segment cannot be read.
    pub fn oldest(&self) -> Result<Option<Version>, ReadError> {
        let mut oldest = None;
        let read = self.for_versions_after(None, &mut |version| {
            oldest = Some(version.clone());
            ControlFlow::Break(())
        });
        match oldest {
            Some(oldest) => Ok(Some(oldest)),
            None => read.map(|()| None),
        }
    }

    /// Number of versions, including those of unreadable segments.
    pub fn version_count(&self) -> u64 {
        let in_tail = self.tail.iter().map(|timeline| timeline.versions().len() as u64).sum();
        self.sealed_versions.saturating_sub(self.dropped_versions).saturating_add(in_tail)
    }

    /// Whether the record with this seq is in a segment and therefore final.
    pub fn is_sealed(&self, seq: Seq) -> bool {
        self.tail.first().is_none_or(|timeline| seq < timeline.first_seq())
    }

    /// Number of versions newer than this one, if it is unsealed; `u64::MAX` for sealed versions, which are final.
    pub fn newer_versions(&self, seq: Seq) -> u64 {
        if self.is_sealed(seq) {
            return u64::MAX;
        }
        let newer = |timeline: &Timeline| {
            timeline.versions().len() - timeline.versions().partition_point(|version| version.seq <= seq)
        };
        self.tail.iter().map(|timeline| newer(timeline) as u64).sum()
    }

    /// Passes the versions with a seq greater than `seq` to `take`, in order, until it breaks; all versions for `None`.
    ///
    /// # Errors
    /// When segments before the version where `take` broke could not be read: the versions of all others were passed on.
    pub fn for_versions_after(
        &self,
        seq: Option<Seq>,
        take: &mut dyn FnMut(&Version) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.for_timelines_from(seq, &mut |timeline| {
            let versions = timeline.versions();
            let from = seq.map_or(0, |seq| versions.partition_point(|version| version.seq <= seq));
            versions.iter().skip(from).try_for_each(&mut *take)
        })
    }

    /// Passes all entries of the timeline to `take`, in order, until it breaks: versions recorded, changes rewound, versions
    /// missing, versions dropped.
    ///
    /// # Errors
    /// When segments before the entry where `take` broke could not be read: the entries of all others were passed on.
    pub fn for_timeline(&self, take: &mut dyn FnMut(TimelineEntry) -> ControlFlow<()>) -> Result<(), ReadError> {
        let pruned = self.segments.pruned();
        let mut dropped = DroppedRuns::new(pruned.as_ref().map_or(&[], |pruned| pruned.ranges()), &self.segments);
        let mut run = None;
        // Consecutive dropped versions are merged into one entry.
        let mut entry = |next: TimelineEntry| match (next, &mut run) {
            (TimelineEntry::Dropped { versions: more, last, before }, Some((versions, last_of_run, before_of_run))) => {
                *versions += more;
                (*last_of_run, *before_of_run) = (last, before);
                ControlFlow::Continue(())
            }
            (TimelineEntry::Dropped { versions, last, before }, none) => {
                *none = Some((versions, last, before));
                ControlFlow::Continue(())
            }
            (next, run) => {
                if let Some((versions, last, before)) = run.take() {
                    take(TimelineEntry::Dropped { versions, last, before })?;
                }
                take(next)
            }
        };
        let read = self.for_timelines_from(None, &mut |timeline| {
            while let Some(next) = dropped.next_before(timeline) {
                entry(next)?;
            }
            timeline.entries().try_for_each(&mut entry)
        });
        read.and(dropped.unreadable.map_or(Ok(()), Err))
    }

    /// Visits the timelines from the one with `seq` on. Unreadable ones are skipped and returned as the error.
    fn for_timelines_from(
        &self,
        seq: Option<Seq>,
        visit: &mut dyn FnMut(&Timeline) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let from = seq.map_or(0, |seq| self.sealed.partition_point(|&first| first <= seq).saturating_sub(1));
        // Unsealed records need no segment, which may be damaged.
        let from = if seq.is_some_and(|seq| !self.is_sealed(seq)) { self.sealed.len() } else { from };
        let mut unreadable = None;
        let mut rest = self.sealed.get(from..).unwrap_or_default();
        // What breaks at once needs only one; what does not needs more and more.
        let mut at_once = 1;
        let sealed = loop {
            let (now, later) = rest.split_at(rest.len().min(at_once));
            if now.is_empty() {
                break ControlFlow::Continue(());
            }
            self.segments.fetch_indexes(now);
            let visited = now.iter().try_for_each(|&segment| match self.segments.timeline(segment) {
                Ok(timeline) => visit(&timeline),
                Err(error) => {
                    unreadable.get_or_insert(error);
                    ControlFlow::Continue(())
                }
            });
            if visited.is_break() {
                break visited;
            }
            (rest, at_once) = (later, (at_once * 4).min(FETCHED_AT_ONCE_MAX));
        };
        if sealed.is_continue() {
            // Breaking off is no error.
            let _: ControlFlow<()> = self.tail.iter().try_for_each(visit);
        }
        unreadable.map_or(Ok(()), Err)
    }

    /// The newest state whose pages are stored as they were: the base of the next sealed log and of a new delta snapshot. `None`
    /// when there is none.
    pub(crate) fn newest_stored_state(&self) -> Option<DeltaBase> {
        let full =
            self.tail.iter().rev().find(|timeline| timeline.snapshot().is_some_and(|snapshot| snapshot.base.is_none()));
        match full.and_then(|timeline| Some((timeline.first_seq(), timeline.snapshot()?))) {
            Some((seq, snapshot)) => {
                Some(DeltaBase::Snapshot(SnapshotId { seq, footer_checksum: snapshot.footer_checksum }))
            }
            None => self.sealed.last().copied().map(DeltaBase::Segment),
        }
    }

    /// The timelines of the logs.
    pub(crate) fn unsealed(&self) -> &[Timeline] {
        &self.tail
    }
}

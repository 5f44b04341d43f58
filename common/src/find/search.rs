//! The search within one segment, or in the unsealed part.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::matches::{Matches, Query, Shape, Turned};
use super::relevance::{Relevance, Statements};
use super::{FindError, RowKey, Transition};
use crate::backup::Backup;
use crate::backup::recorded_changes::{ChangesReplay, RecordedChanges, SegmentChanges};
use crate::backup::view::View;
use crate::history::History;
use crate::history::Start;
use crate::log::RecordAddress;
use crate::pages::{MountedOverlay, OverlayPages};
use crate::replay::{ForeignKeys, IdleReplay, Replay, RowNotes, reason};
use crate::segment::SealedState;
use crate::segment::live_record::{LiveKind, LiveRecord};
use crate::segment::timeline::Timeline;
use crate::segment::version::Version;
use format::sql::parameters;
use format::units::Keyframe;
use format::units::Seq;

/// Searches for transitions. Keeps its connections between intervals.
pub(super) struct Search<'a> {
    pub(super) backup: &'a Backup,
    pub(super) history: &'a History,
    pub(super) asking: &'a Query<'a>,
    /// Seqs of the versions of the search.
    pub(super) wanted: RangeInclusive<Seq>,
    notes: RowNotes,
    /// Connections for replay, and for queries of the state before a change.
    idle: [Option<IdleReplay>; 2],
}

/// The database at the start of a replay.
type Beginning = (OverlayPages, ForeignKeys);

/// The changes of a version, by position.
struct OfVersion<'s> {
    version: &'s Version,
    relevance: Relevance,
    records: Vec<&'s LiveRecord>,
}

/// The changes from one keyframe to the next.
struct OfInterval<'s> {
    keyframe: Keyframe,
    versions: Vec<OfVersion<'s>>,
    /// Number of changes to replay, if no later interval is replayed.
    wanted: usize,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        backup: &'a Backup,
        history: &'a History,
        asking: &'a Query<'a>,
        wanted: RangeInclusive<Seq>,
    ) -> Self {
        Self { backup, history, asking, wanted, notes: RowNotes::default(), idle: [None, None] }
    }

    /// Finds the transitions in a segment.
    pub(super) fn segment(&mut self, first_seq: Seq) -> Result<Vec<Transition>, FindError> {
        let segments = self.backup.segments();
        let timeline = segments.timeline(first_seq)?;
        if timeline.is_thinned() {
            return timeline.versions().iter().filter_map(|version| self.alone(version).transpose()).collect();
        }
        let mut turns: Vec<Transition> = self.at_snapshot(&timeline)?.into_iter().collect();
        let asked = self.asked_records(&timeline);
        let Some(begins) = asked.first().map(interval_of) else { return Ok(turns) };
        let Some(begin) = timeline.interval(begins) else { return Ok(turns) };
        let at = |keyframe, page_count, foreign_keys| {
            Start::Segment(first_seq, SealedState::At { keyframe, page_count, foreign_keys })
        };
        let start = at(begins, begin.page_count, begin.foreign_keys);
        let (pages, _) = self.backup.start_pages(&start)?;
        let mounted = MountedOverlay::new(OverlayPages::new(pages));
        let mut connection = connect(&mounted)?;
        let mut statements = Statements::on(&mut connection, self.asking.condition).map_err(set_up)?;
        let changes = SegmentChanges { segments: Arc::clone(segments), first_seq };
        let mut intervals = Vec::new();
        for records in asked.chunk_by(|a, b| interval_of(a) == interval_of(b)) {
            let keyframe = interval_of(&records[0]);
            let block = segments.statement_block(first_seq, keyframe)?;
            let mut failed = false;
            let mut of = |record: &LiveRecord| {
                let found = changes.find(&record.address).ok().and_then(|(_, position)| block.change(position));
                failed |= found.is_none();
                found.into_iter().flatten().map(|it| statements.of_stored(&it)).max().unwrap_or(Relevance::None)
            };
            let versions = self.all_versions(&timeline, records, &mut of);
            if failed {
                return Err(changes.missing().into());
            }
            let wanted = self.last_wanted(&versions);
            intervals.push(OfInterval { keyframe, versions, wanted });
        }
        // The end of one interval is the beginning of the next, so replay continues with its cached pages.
        for run in intervals.chunk_by(|a, b| a.wanted > 0 && b.wanted > 0 && a.keyframe.0 + 1 == b.keyframe.0) {
            let [OfInterval { keyframe, wanted: 1.., .. }, ..] = run else { continue };
            let Some(about) = timeline.interval(*keyframe) else { continue };
            let start = at(*keyframe, about.page_count, about.foreign_keys);
            let (pages, foreign_keys) = self.backup.start_pages(&start)?;
            let beginning = (OverlayPages::new(pages), foreign_keys);
            let mut replay = self.start(0, beginning.clone())?;
            replay.note_rows(&self.asking.condition.table, &self.notes).map_err(set_up)?;
            let changes = RecordedChanges::Segment(changes.clone());
            let mut replaying = changes.onto(&mut replay)?;
            let mut follow = Follow::new(beginning);
            for (number, OfInterval { versions, wanted, .. }) in (1..).zip(run) {
                let upto = if number == run.len() { *wanted } else { versions.len() };
                for version in &versions[..upto] {
                    turns.extend(self.replay_version(&mut replaying, &mut follow, version)?);
                }
            }
            drop(replaying);
            self.keep(0, replay)?;
            follow.end(self)?;
        }
        if let Some(first) = timeline.versions().first().filter(|_| timeline.snapshot().is_none())
            && self.is_turn_wanted(first)
            && let Some(earlier) = self.history.version_before(first.seq)?
            && self.history.is_dropped_between(earlier.seq, first_seq)
        {
            // The difference to a version that was dropped is not a transition.
            turns.retain(|turn| turn.version.seq != first.seq);
            turns.splice(0..0, self.alone(first)?);
        }
        Ok(turns)
    }

    /// The records of a segment from the interval on with which a replay of the wanted versions begins. Other intervals may be
    /// damaged.
    fn asked_records<'s>(&self, timeline: &'s Timeline) -> &'s [LiveRecord] {
        let records = timeline.records();
        let upto = records.partition_point(|record| record.seq() <= *self.wanted.end());
        let first = records.partition_point(|record| record.seq() <= *self.wanted.start());
        let Some(interval) = records.get(first).map(interval_of) else { return &[] };
        let from = records.partition_point(|record| interval_of(record) < interval);
        records.get(from..upto).unwrap_or_default()
    }

    /// Whether a transition at a version is wanted: not at the first one.
    fn is_turn_wanted(&self, version: &Version) -> bool {
        self.wanted.contains(&version.seq) && version.seq != *self.wanted.start()
    }

    /// The transition at a version whose previous changes were dropped.
    fn alone(&mut self, version: &Version) -> Result<Option<Transition>, FindError> {
        if !self.is_turn_wanted(version) {
            return Ok(None);
        }
        let Some(earlier) = self.history.version_before(version.seq)? else { return Ok(None) };
        let (before, after) = (self.all_at(&earlier)?, self.all_at(version)?);
        self.check_names(version, &before.1, &after.1)?;
        Ok(turn(version, Turned::between(&before.0, &after.0)))
    }

    /// Checks that the condition keeps its meaning at a version.
    fn check_names(&self, version: &Version, before: &Shape, after: &Shape) -> Result<(), FindError> {
        let table = &self.asking.condition.table;
        match before.why_another(after, table).filter(|_| self.is_turn_wanted(version)) {
            Some(why) => Err(FindError::Renamed { version: version.data_version, table: table.clone(), why }),
            None => Ok(()),
        }
    }

    /// Finds the transitions in the unsealed part.
    pub(super) fn unsealed(&mut self) -> Result<Vec<Transition>, FindError> {
        let mut turns = Vec::new();
        let logs = self.history.unsealed();
        // Records before the snapshot that the first version builds on may be damaged.
        let is_start = |log: &Timeline| log.snapshot().is_some() && log.first_seq() <= *self.wanted.start();
        let from = logs.iter().rposition(is_start);
        let mut now = match from {
            Some(_) => None,
            None => {
                let (pages, foreign_keys) = self.backup.start_pages(&self.history.sealed_end())?;
                Some((OverlayPages::new(pages), foreign_keys))
            }
        };
        for timeline in logs.iter().skip(from.unwrap_or(0)) {
            if timeline.first_seq() > *self.wanted.end() {
                break;
            }
            turns.extend(self.at_snapshot(timeline)?);
            if let Some(snapshot) = timeline.snapshot() {
                let (pages, foreign_keys) =
                    self.backup.start_pages(&Start::Snapshot(timeline.first_seq(), *snapshot))?;
                now = Some((OverlayPages::new(pages), foreign_keys));
            }
            let Some(beginning) = now.take() else { break };
            now = Some(self.log(timeline, beginning, &mut turns)?);
        }
        Ok(turns)
    }

    /// Adds the transitions in a log; returns the database at its end.
    fn log(
        &mut self,
        timeline: &Timeline,
        beginning: Beginning,
        turns: &mut Vec<Transition>,
    ) -> Result<Beginning, FindError> {
        let Some(first) = timeline.records().iter().find(|record| record.kind == LiveKind::Change) else {
            return Ok(beginning);
        };
        let mut changes = RecordedChanges::open(self.backup, &first.address)?;
        let mounted = MountedOverlay::new(beginning.0.clone());
        let mut connection = connect(&mounted)?;
        let mut statements = Statements::on(&mut connection, self.asking.condition).map_err(set_up)?;
        let mut failed = None;
        let mut texts = Vec::new();
        let mut of = |record: &LiveRecord| match changes.texts(&record.address, &mut texts) {
            Ok(()) => {
                let of_text = |text: String| match parameters::split(&text) {
                    Some(split) => statements.of_text(&split.template),
                    None => statements.of_text(&text),
                };
                texts.drain(..).map(of_text).max().unwrap_or(Relevance::None)
            }
            Err(error) => {
                failed = failed.take().or(Some(error));
                Relevance::None
            }
        };
        let versions = self.all_versions(timeline, timeline.records(), &mut of);
        if let Some(error) = failed {
            return Err(error.into());
        }
        let mut replay = self.start(0, beginning.clone())?;
        replay.note_rows(&self.asking.condition.table, &self.notes).map_err(set_up)?;
        let mut replaying = changes.onto(&mut replay)?;
        let mut follow = Follow::new(beginning);
        let last = *self.wanted.end();
        for version in versions.iter().take_while(|of| of.version.seq <= last) {
            turns.extend(self.replay_version(&mut replaying, &mut follow, version)?);
        }
        drop(replaying);
        follow.end(self)?;
        let foreign_keys = replay.foreign_keys().map_err(|source| FindError::Replay { source })?;
        Ok((replay.pages(), foreign_keys))
    }

    /// Replays a version, and returns the transition at it.
    fn replay_version(
        &mut self,
        replaying: &mut ChangesReplay<'_>,
        follow: &mut Follow,
        version: &OfVersion<'_>,
    ) -> Result<Option<Transition>, FindError> {
        let before = follow.before(self, version, replaying.replay())?;
        for record in &version.records {
            replaying.apply(&record.address, &record.about).map_err(|source| FindError::Replay { source })?;
        }
        follow.after(self, version, before, replaying.replay())
    }

    /// Number of versions up to the last relevant one; 0 if there is none.
    fn last_wanted(&self, versions: &[OfVersion<'_>]) -> usize {
        let is_wanted = |of: &OfVersion<'_>| of.relevance != Relevance::None && self.wanted.contains(&of.version.seq);
        versions.iter().rposition(is_wanted).map_or(0, |last| last + 1)
    }

    /// The changes of records, version by version.
    fn all_versions<'s>(
        &self,
        timeline: &'s Timeline,
        records: &'s [LiveRecord],
        relevance: &mut dyn FnMut(&LiveRecord) -> Relevance,
    ) -> Vec<OfVersion<'s>> {
        let mut versions: Vec<OfVersion<'s>> = Vec::new();
        for record in records.iter().filter(|record| record.kind == LiveKind::Change) {
            let position = timeline.versions().partition_point(|version| version.seq < record.seq());
            let Some(version) = timeline.versions().get(position) else { continue };
            let relevance = relevance(record);
            match versions.last_mut().filter(|last| last.version.seq == version.seq) {
                Some(last) => {
                    last.relevance = last.relevance.max(relevance);
                    last.records.push(record);
                }
                None => versions.push(OfVersion { version, relevance, records: vec![record] }),
            }
        }
        versions
    }

    /// The transition at a version that was recorded as a snapshot.
    fn at_snapshot(&mut self, timeline: &Timeline) -> Result<Option<Transition>, FindError> {
        let is_snapshot = timeline.records().first().is_some_and(|record| record.kind == LiveKind::Snapshot);
        let version = timeline.versions().first().filter(|version| self.wanted.contains(&version.seq));
        let Some(version) = version.filter(|version| is_snapshot && self.is_turn_wanted(version)) else {
            return Ok(None);
        };
        let Some(earlier) = self.history.version_before(timeline.first_seq())? else { return Ok(None) };
        if earlier.seq < *self.wanted.start() {
            return Ok(None);
        }
        let (before, after) = (self.all_at(&earlier)?, self.all_at_snapshot(timeline)?);
        self.check_names(version, &before.1, &after.1)?;
        Ok(turn(version, Turned::between(&before.0, &after.0)))
    }

    /// All matching rows of a version.
    pub(super) fn all_at(&mut self, version: &Version) -> Result<(BTreeSet<RowKey>, Shape), FindError> {
        let plan = self.history.plan(version)?;
        let view = View::build(self.backup, &plan, None).map_err(|error| FindError::Replay { source: error.reason })?;
        let replay = self.start(1, (view.pages().clone(), ForeignKeys::On))?;
        let all = (self.asking.all(&replay)?, self.asking.shape(&replay)?);
        self.keep(1, replay)?;
        Ok(all)
    }

    fn all_at_snapshot(&mut self, timeline: &Timeline) -> Result<(BTreeSet<RowKey>, Shape), FindError> {
        let start = match (timeline.snapshot(), timeline.interval(Keyframe(0))) {
            (Some(snapshot), None) => Start::Snapshot(timeline.first_seq(), *snapshot),
            (_, interval) => {
                let (page_count, foreign_keys) =
                    interval.map_or((0, ForeignKeys::On), |it| (it.page_count, it.foreign_keys));
                let keyframe = Keyframe(0);
                Start::Segment(timeline.first_seq(), SealedState::At { keyframe, page_count, foreign_keys })
            }
        };
        let (pages, foreign_keys) = self.backup.start_pages(&start)?;
        let replay = self.start(1, (OverlayPages::new(pages), foreign_keys))?;
        let all = (self.asking.all(&replay)?, self.asking.shape(&replay)?);
        self.keep(1, replay)?;
        Ok(all)
    }

    fn start(&mut self, which: usize, (pages, foreign_keys): Beginning) -> Result<Replay, FindError> {
        let started = match self.idle[which].take() {
            Some(idle) => idle.start(pages, foreign_keys),
            None => Replay::start(pages, foreign_keys),
        };
        started.map_err(|source| FindError::Replay { source })
    }

    fn keep(&mut self, which: usize, replay: Replay) -> Result<(), FindError> {
        let (_, _, idle) = replay.finish_and_keep().map_err(|source| FindError::Replay { source })?;
        self.idle[which] = idle;
        Ok(())
    }

    /// Drops the connections, which belong to another line of history.
    pub(super) fn forget(&mut self) {
        self.idle = [None, None];
    }
}

/// The state before a change with any possible effect.
struct Before {
    rows: BTreeSet<RowKey>,
    /// The shape, before a change of the schema only.
    shape: Option<Shape>,
}

/// Follows a replay from its beginning.
struct Follow {
    beginning: Beginning,
    /// The database at the beginning, opened on first use.
    opened: Option<Replay>,
    standing: Matches,
}

impl Follow {
    fn new(beginning: Beginning) -> Self {
        Self { beginning, opened: None, standing: Matches::default() }
    }

    /// The state needed before a version is replayed: all matching rows, if written rows are not reported.
    fn before(
        &self,
        search: &Search<'_>,
        version: &OfVersion<'_>,
        replay: &Replay,
    ) -> Result<Option<Before>, FindError> {
        let shape = match version.relevance {
            Relevance::None | Relevance::Beside | Relevance::Rows => return Ok(None),
            Relevance::Whole => None,
            Relevance::Schema => Some(search.asking.shape(replay)?),
        };
        Ok(Some(Before { rows: search.asking.all(replay)?, shape }))
    }

    /// The transition at a version that was replayed, if it is wanted.
    fn after(
        &mut self,
        search: &mut Search<'_>,
        version: &OfVersion<'_>,
        before: Option<Before>,
        replay: &Replay,
    ) -> Result<Option<Transition>, FindError> {
        let notes = search.notes.take();
        let turned = match (before, version.relevance) {
            (Some(before), _) => {
                if let Some(shape) = &before.shape {
                    search.check_names(version.version, shape, &search.asking.shape(replay)?)?;
                }
                self.standing.turn_all(&before.rows, &search.asking.all(replay)?)
            }
            (None, Relevance::None) => return Ok(None),
            (None, _) => {
                if self.opened.is_none() {
                    self.opened = Some(search.start(1, self.beginning.clone())?);
                }
                let opened = &self.opened;
                let mut beginning =
                    || opened.as_ref().ok_or_else(|| FindError::Unreadable { reason: "it is not open".to_owned() });
                self.standing.turn_rows(search.asking, &notes, replay, &mut beginning)?
            }
        };
        Ok(turn(version.version, turned).filter(|_| search.is_turn_wanted(version.version)))
    }

    fn end(self, search: &mut Search<'_>) -> Result<(), FindError> {
        self.opened.map_or(Ok(()), |opened| search.keep(1, opened))
    }
}

fn turn(version: &Version, turned: Turned) -> Option<Transition> {
    let is_some = turned.is_some();
    let Turned { began, ended } = turned;
    is_some.then(|| Transition { version: version.clone(), began, ended, matches: 0 })
}

fn interval_of(record: &LiveRecord) -> Keyframe {
    match record.address {
        RecordAddress::Segment { interval, .. } => interval,
        RecordAddress::Log { .. } => Keyframe(0),
    }
}

fn connect(mounted: &MountedOverlay) -> Result<rusqlite::Connection, FindError> {
    let connection = mounted
        .connect()
        .and_then(|connection| connection.execute_batch("PRAGMA foreign_keys = ON").map(|()| connection));
    connection.map_err(|error| match mounted.take_problem() {
        Some(problem) => FindError::Read(problem),
        None => set_up(error),
    })
}

fn set_up(error: rusqlite::Error) -> FindError {
    FindError::Unreadable { reason: reason(&error) }
}

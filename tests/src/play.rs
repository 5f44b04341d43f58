//! A recorded trace, played to a real recorder as it happened: its runs, crashes, stops and gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::Answer;
use mountfs::demo::trace::{Trace, TraceEvent, TraceWrite};

use crate::home::Home;
use crate::reference::Reference;
use crate::runs::Runs;
use crate::schedule::{Fate, Outcome, Schedule};
use crate::traces::TraceFolder;

/// What is known after a trace was played.
pub struct Played {
    /// What became of each write that was played.
    pub schedule: Schedule,
    /// For each version looked at: a copy of the reference, and the statements that led to it.
    pub samples: BTreeMap<DataVersion, Sample>,
    /// How long the recorder took to answer each write.
    pub answers: Vec<Duration>,
    /// The version of the database before the first write, if it had one.
    pub first: Option<DataVersion>,
}

/// What a version must be.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The database, by an independent replay.
    pub database: PathBuf,
    /// The statements of the transaction and its riders; `None` for a version known from a snapshot.
    pub statements: Option<Vec<String>>,
}

/// Writes of a trace that are played, the last ones, unless all are. The backup begins with the database before them.
const PLAYED: usize = 1_500;

/// Plays the trace in `folder` in an empty `home`. `at_half` is called once, between two writes in the middle, with the
/// samples so far.
pub fn play(folder: &TraceFolder, home: &Home, at_half: impl FnOnce(&BTreeMap<DataVersion, Sample>)) -> Played {
    let whole = Schedule::of(folder.events());
    let before = whole.before_the_last(PLAYED);
    folder.start_database(&home.database());
    let mut events = folder.events();
    let mut of_this_run = Vec::new();
    // A node whose first write is played has no database before it.
    if before > 0 {
        of_this_run = pass_over(&mut events, before, &whole, &Reference::open(&home.database()));
    }
    if home.database().exists() {
        fs::copy(home.database(), home.join("reference.sqlite3")).expect("a copy of the database");
    }
    home.init();
    let schedule = whole.behind(before);
    let sampled = schedule.sampled();
    let of_sampled_versions = sampled.iter().map(|&at| schedule.fates()[at].data_version).collect();
    let mut player = Player {
        runs: Runs::new(home, home.lightningd()),
        reference: Reference::open(&home.join("reference.sqlite3")),
        home,
        sampled,
        of_sampled_versions,
        samples: BTreeMap::new(),
        answers: Vec::new(),
    };
    let first = player.runs.lightningd.data_version().expect("the version of the start database");
    if let Some(first) = first {
        player.sample(first, None);
    }
    let half = schedule.fates().len() / 2;
    let mut at_half = Some(at_half);
    let mut position = 0;
    for event in of_this_run.into_iter().chain(events.map(|event| event.expect("an intact trace"))) {
        match event {
            TraceEvent::Write(write) => {
                player.write(position, schedule.fates()[position], &write);
                position += 1;
                if position > half
                    && player.runs.is_up()
                    && let Some(at_half) = at_half.take()
                {
                    at_half(&player.samples);
                }
            }
            event => player.runs.around(&event),
        }
    }
    player.runs.around(&TraceEvent::End);
    let Player { samples, answers, .. } = player;
    Played { schedule, samples, answers, first }
}

/// Makes the first `writes` of a trace in the node's database, without a recorder. Returns what else happened in the run of the
/// last of them, so that the run can go on from there.
pub fn pass_over(events: &mut Trace<'_>, writes: usize, schedule: &Schedule, database: &Reference) -> Vec<TraceEvent> {
    database.quickly(|| pass(events, writes, schedule, database))
}

fn pass(events: &mut Trace<'_>, writes: usize, schedule: &Schedule, database: &Reference) -> Vec<TraceEvent> {
    let mut of_this_run = Vec::new();
    let mut fates = schedule.fates()[..writes].iter();
    while !fates.as_slice().is_empty() {
        match events.next().expect("a trace has all writes of its schedule").expect("an intact trace") {
            TraceEvent::Write(write) => {
                let fate = fates.next().expect("a write that is in the schedule");
                if fate.missed_before > 0 {
                    database.set_data_version(write.data_version.previous());
                }
                if fate.outcome == Outcome::Committed {
                    database.apply(&write.statements);
                }
            }
            TraceEvent::Start => of_this_run = vec![TraceEvent::Start],
            event => of_this_run.push(event),
        }
    }
    of_this_run
}

struct Player<'a> {
    home: &'a Home,
    runs: Runs<'a>,
    reference: Reference,
    sampled: BTreeSet<usize>,
    of_sampled_versions: BTreeSet<DataVersion>,
    samples: BTreeMap<DataVersion, Sample>,
    answers: Vec<Duration>,
}

impl Player<'_> {
    fn write(&mut self, position: usize, fate: Fate, write: &TraceWrite) {
        if let Some(before) = self.runs.skip_gap(fate, write) {
            self.reference.set_data_version(before);
            self.sample(before, None);
        }
        let answer = self.runs.write(fate, write);
        match answer.unwrap_or_else(|error| panic!("write {position} of the trace: {error}")) {
            Answer::Continue { elapsed } => self.answers.push(elapsed),
            refused => panic!(
                "write {position} of the trace, version {}: {refused:?}; {}",
                write.data_version,
                self.home.recorder_stderr()
            ),
        }
        match fate.outcome {
            Outcome::Committed => self.reference.apply(&write.statements),
            Outcome::Lost => return,
        }
        // A version is a transaction and its riders: each of its writes adds to what is known of it.
        if self.sampled.contains(&position) || self.of_sampled_versions.contains(&write.data_version) {
            let known = self.samples.get(&write.data_version).and_then(|sample| sample.statements.clone());
            let mut statements = known.unwrap_or_default();
            statements.extend(write.statements.iter().cloned());
            self.sample(write.data_version, Some(statements));
        }
    }

    fn sample(&mut self, data_version: DataVersion, statements: Option<Vec<String>>) {
        let database = self.home.join(format!("reference-{data_version}.sqlite3"));
        self.reference.copy_to(&database);
        self.samples.insert(data_version, Sample { database, statements });
    }
}

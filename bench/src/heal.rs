//! `bench heal`: how long a node waits in its first write when its database has to be read as a whole.
//!
//! That is so when it ran without the recorder, which then takes a snapshot, and when the recorder was killed, which then
//! cannot know whether the newest change was committed, and compares. A real `backup-recorder` answers a write of a node
//! with a large database; `cat` of that database to `/dev/null` is timed just before, from the page cache both. Beside them is
//! a start after a clean stop, which compares nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::{BackupLock, DataVersion, OnGap, Timestamp};
use mountfs::demo::pretend_lightningd::RecorderProcess;
use mountfs::demo::trace::TraceWrite;
use serde::Serialize;
use tests::binaries;

use crate::Output;
use crate::db_write::Call;
use crate::goals::{self, Row, mb, ms};
use crate::node::target_directory;
use crate::record::{self, call, init};
use crate::scale::laps::Change;
use crate::scale::making::{self, Logs, Node, Wanted};
use crate::scale::measured::{settle, timed};
use crate::scale::node_database::NodeDatabase;
use crate::scale::place::{Afterwards, HistoryDir, Place};
use crate::scale::process::Memory;
use crate::scale::rehearsal::Rehearsal;
use crate::stats::micros;

/// Changes recorded before, so that segments lie on top of the snapshot.
const RECORDED: u32 = 5_000;

/// Changes that the recorder misses, each time.
const MISSED: usize = 200;

/// Changes recorded before a kill.
const BEFORE_A_KILL: usize = 20;

/// Time that a heal may take beside twice the time of `cat`.
const ON_TOP: Duration = Duration::from_secs(1);

/// Maximum memory of the recorder, in bytes.
const MEMORY_MAX: u64 = 64 << 20;

#[derive(clap::Args)]
pub struct Args {
    /// Size of the database, in MB; an operator's had 650
    #[arg(long, value_name = "M", default_value_t = 650)]
    database_mb: u32,
    /// Times that each is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Directory on the file system to measure [default: the target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Trace whose changes are continued: `demo`, or one of the shared ones [default: channels where it is there, else demo]
    #[arg(long)]
    trace: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    place: PathBuf,
    database_bytes: u64,
    heals: Vec<Round>,
    after_kills: Vec<Round>,
    after_stops: Vec<Round>,
    goals: Vec<Row>,
}

/// One start whose first write has to wait.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    /// Time from the call to the answer, in microseconds.
    answer_us: f64,
    /// `cat` of the database, just before.
    cat_us: f64,
    /// The most memory that the recorder had by the time it answered.
    peak_rss: u64,
}

impl Round {
    /// Share of the permitted time.
    fn of_goal(&self) -> f64 {
        self.answer_us / (2.0 * self.cat_us + micros(ON_TOP))
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let source = record::source(args.trace.as_deref())?;
    // Asked for first, so that cargo is done before anything is measured.
    binaries::backup_recorder();
    let dir = args.dir.clone().map_or_else(target_directory, Ok)?;
    let place = Place::create(&dir, Afterwards::Remove)?;
    let rehearsal = Rehearsal::play(&source, place.path()).with_context(|| format!("trace {}", source.name))?;
    let dir = place.history("heal");
    eprintln!("making a database of {} MB", args.database_mb);
    let wanted = Wanted { changes: RECORDED, database_mb: args.database_mb, logs: Logs::Sealed, parity: None };
    let mut made = making::make(wanted, &source.name, &rehearsal, &dir)?;
    allow_heals(&dir)?;
    let database_bytes = made.database_bytes;
    let node = Node::resume(&rehearsal.laps, NodeDatabase::open(&dir.database())?, &mut made)?;
    let mut bench = Bench { dir, node, calls: 0 };
    let (mut heals, mut after_kills, mut after_stops) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=args.rounds {
        eprintln!("round {number}");
        heals.push(bench.heal()?);
        after_kills.push(bench.after_kill()?);
        after_stops.push(bench.after_stop()?);
    }
    let mut report =
        Report { place: place.path().to_owned(), database_bytes, heals, after_kills, after_stops, goals: Vec::new() };
    report.goals = rows(&report);
    Output::from(args.json).print(&report, tables)
}

/// The histories of other measures must not have gaps; this one is about them.
fn allow_heals(dir: &HistoryDir) -> anyhow::Result<()> {
    let lock = BackupLock { on_gap: OnGap::Heal, ..BackupLock::read(&dir.lightning_dir())? };
    fs::remove_file(dir.lightning_dir().join(BackupLock::FILE_NAME))?;
    Ok(lock.create(&dir.lightning_dir())?)
}

struct Bench<'a> {
    dir: HistoryDir,
    node: Node<'a>,
    calls: usize,
}

impl Bench<'_> {
    /// A start after some changes that no recorder saw.
    fn heal(&mut self) -> anyhow::Result<Round> {
        for _ in 0..MISSED {
            self.node.next(|_, _, _| Ok(()))?;
        }
        let (round, mut recorder) = self.first_write()?;
        init(&mut recorder, &self.dir.lightning_dir())?;
        ensure!(recorder.end_input()?.success(), "the recorder did not end well");
        Ok(round)
    }

    /// A start after the recorder was killed.
    fn after_kill(&mut self) -> anyhow::Result<Round> {
        let mut recorder = record::start(&self.dir.lightning_dir())?;
        for _ in 0..BEFORE_A_KILL {
            self.record(&mut recorder)?;
        }
        recorder.kill()?;
        let (round, mut recorder) = self.first_write()?;
        ensure!(recorder.end_input()?.success(), "the recorder did not end well");
        Ok(round)
    }

    /// A start after a clean stop: the run before has noted the stamp of the database, and nothing is compared.
    fn after_stop(&mut self) -> anyhow::Result<Round> {
        let mut recorder = record::start(&self.dir.lightning_dir())?;
        self.record(&mut recorder)?;
        ensure!(recorder.end_input()?.success(), "the recorder did not end well");
        let (round, mut recorder) = self.first_write()?;
        ensure!(recorder.end_input()?.success(), "the recorder did not end well");
        Ok(round)
    }

    /// Starts a recorder and times its first answer.
    fn first_write(&mut self) -> anyhow::Result<(Round, RecorderProcess)> {
        settle(&self.dir.lightning_dir())?;
        let database = self.dir.database();
        cat(&database)?;
        let cat = cat(&database)?;
        let mut recorder = record::start(&self.dir.lightning_dir())?;
        let answer = self.record(&mut recorder)?;
        let peak_rss = Memory::of(recorder.pid())?.peak_rss;
        Ok((Round { answer_us: micros(answer), cat_us: micros(cat), peak_rss }, recorder))
    }

    /// The next change, recorded and committed.
    fn record(&mut self, recorder: &mut RecorderProcess) -> anyhow::Result<Duration> {
        self.calls += 1;
        let number = self.calls;
        self.node.next(|data_version, at, change| call(recorder, &encode(data_version, at, change, number)?))
    }
}

fn encode(data_version: DataVersion, at: Timestamp, change: &Change, number: usize) -> anyhow::Result<Call> {
    let statements = change.statements().map(str::to_owned).collect();
    Call::encode(&TraceWrite { at, data_version, statements }, number)
}

/// `cat FILE > /dev/null`.
fn cat(file: &Path) -> anyhow::Result<Duration> {
    let mut command = Command::new("sh");
    command.args(["-c", "exec cat \"$0\" > /dev/null"]).arg(file);
    Ok(timed(&mut command)?.0)
}

fn rows(report: &Report) -> Vec<Row> {
    let size = mb(report.database_bytes as f64);
    let mut rows = Vec::new();
    let kinds = [
        ("heal", &report.heals),
        ("comparison after a kill", &report.after_kills),
        ("nothing to compare after a stop", &report.after_stops),
    ];
    for (what, rounds) in kinds {
        let Some(worst) = rounds.iter().copied().max_by(|a, b| a.of_goal().total_cmp(&b.of_goal())) else { continue };
        rows.push(
            Row::new(&format!("{what}, {size}, worst of {}", rounds.len()), "≤ 2 × cat + 1 s", ms(worst.answer_us))
                .beside(format!("cat {}", ms(worst.cat_us)), worst.answer_us / worst.cat_us)
                .met(worst.of_goal() <= 1.0),
        );
        let peak = rounds.iter().map(|round| round.peak_rss).max().unwrap_or_default();
        rows.push(
            Row::new(&format!("{what}, memory of the recorder, peak"), "≤ 64 MiB", mb(peak as f64))
                .met(peak <= MEMORY_MAX),
        );
    }
    rows
}

fn tables(report: &Report) -> String {
    let mut text = format!("{}\n", report.place.display());
    let kinds = [("heal", &report.heals), ("after a kill", &report.after_kills), ("after a stop", &report.after_stops)];
    for (what, rounds) in kinds {
        for round in rounds {
            text += &format!(
                "  {what}: {}, cat {}, ratio {:.2}\n",
                ms(round.answer_us),
                ms(round.cat_us),
                round.answer_us / round.cat_us
            );
        }
    }
    text + "\n" + &goals::table(&report.goals)
}

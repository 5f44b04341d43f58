//! `bench diff` and `bench find`: what it takes to ask a long history what changed, as an operator asks, by the program.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tests::binaries;

use crate::Output;
use crate::goals::{self, Row, ms};
use crate::node::target_directory;
use crate::record;
use crate::scale;
use crate::scale::making::{Logs, Wanted};
use crate::scale::measured::{Subject, summary, timed};
use crate::scale::place::{Afterwards, Place};
use crate::stats::Summary;

#[derive(clap::Args)]
pub struct Args {
    /// Changes to record, each a version
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..))]
    versions: u32,
    /// Size of the database before the first of them, in MB
    #[arg(long, value_name = "M", default_value_t = 200)]
    database_mb: u32,
    /// Directory on the file system to measure [default: the target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep what was made, to be measured again
    #[arg(long, conflicts_with = "reuse")]
    keep: bool,
    /// Measure what an earlier run, or one of `bench scale`, has kept, in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["versions", "database_mb", "dir"])]
    reuse: Option<PathBuf>,
    /// Pairs of versions, or rounds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The measurements.
#[derive(Serialize)]
struct Report {
    /// Versions of the history.
    versions: u64,
    /// Bytes of the database at its end.
    database_bytes: u64,
    asked: Vec<Asked>,
    goals: Vec<Row>,
}

/// One way to ask.
#[derive(Serialize)]
struct Asked {
    what: String,
    /// Lines of the answers, all together.
    lines: usize,
    took: Summary,
}

/// Versions between those that are far apart.
const FAR: u32 = 5000;

const DIFF_GOAL: Duration = Duration::from_millis(100);
const FIND_GOAL: Duration = Duration::from_secs(3);

/// Tables that are written by most changes, by some, and by few.
const CONDITIONS: [(&str, &str); 5] = [
    ("channels", "state = 8"),
    ("channels", "next_htlc_id % 1000 = 0"),
    ("payments", "status = 1"),
    ("channel_htlcs", "hstate = 9"),
    ("peers", "address LIKE '127.%'"),
];

/// Times `backupfs diff` of neighbours, and of versions far apart.
pub fn diff(args: &Args) -> anyhow::Result<()> {
    let (_place, subject) = subject(args)?;
    let backup = subject.dir.backup();
    let mut asked = Vec::new();
    for (what, distance) in [("neighbours", 1), ("5,000 versions apart", FAR)] {
        let (mut took, mut lines) = (Vec::new(), 0);
        for to in subject.versions(args.samples.into(), 3) {
            let from = to.get().wrapping_sub(distance);
            if from.wrapping_sub(subject.made.first_version)
                > u32::try_from(subject.made.versions()).unwrap_or(u32::MAX)
            {
                continue;
            }
            let mut command = Command::new(binaries::backupfs());
            command.arg("diff").arg("--json").arg(&backup).args([from.to_string(), to.to_string()]);
            let (time, said) = timed(&mut command)?;
            took.push(time);
            lines += said.split(|&byte| byte == b'\n').count() - 1;
        }
        asked.push(Asked { what: what.to_owned(), lines, took: summary(took)? });
    }
    let rows = asked.iter().take(1).map(|it| {
        Row::new("diff of neighbours, p99, the whole program", "≤ 100 ms", ms(it.took.p99_us))
            .met(it.took.p99_us <= DIFF_GOAL.as_secs_f64() * 1e6)
    });
    let goals = rows.collect();
    print(args, &subject, asked, goals)
}

/// Times `backupfs find` over all versions.
pub fn find(args: &Args) -> anyhow::Result<()> {
    let (_place, subject) = subject(args)?;
    let backup = subject.dir.backup();
    let mut asked = Vec::new();
    for (table, condition) in CONDITIONS {
        let (mut took, mut lines) = (Vec::new(), 0);
        for _ in 0..args.samples.min(5) {
            let mut command = Command::new(binaries::backupfs());
            command.arg("find").arg("--json").arg(&backup).args(["--table", table, "--where", condition]);
            let (time, said) = timed(&mut command)?;
            took.push(time);
            lines = said.split(|&byte| byte == b'\n').count() - 1;
        }
        asked.push(Asked { what: format!("{table} where {condition}"), lines, took: summary(took)? });
    }
    let row = |it: &Asked| {
        Row::new(&format!("find {}, p50", it.what), "≤ 3 s", ms(it.took.p50_us))
            .met(it.took.p50_us <= FIND_GOAL.as_secs_f64() * 1e6)
    };
    let goals = asked.iter().map(row).collect();
    print(args, &subject, asked, goals)
}

/// The history to be asked, and where it is.
fn subject(args: &Args) -> anyhow::Result<(Place, Subject)> {
    // Asked for first, so that cargo is done before anything is measured.
    binaries::backupfs();
    let place = match &args.reuse {
        Some(dir) => Place::reuse(dir)?,
        None => {
            let dir = args.dir.clone().map_or_else(target_directory, Ok)?;
            let place = Place::create(&dir, if args.keep { Afterwards::Keep } else { Afterwards::Remove })?;
            if args.keep {
                eprintln!("kept in {}", place.path().display());
            }
            let source = record::source(None)?;
            let rehearsal = scale::rehearse(&source, &place)?;
            let wanted =
                Wanted { changes: args.versions, database_mb: args.database_mb, logs: Logs::Sealed, parity: None };
            scale::make(&place, "large", wanted, &source, &rehearsal)?;
            place
        }
    };
    let dir = place.history("large");
    let made = dir.made()?.with_context(|| format!("{} has no history to measure", place.path().display()))?;
    Ok((place, Subject { dir, made, time_limit: Duration::MAX }))
}

fn print(args: &Args, subject: &Subject, asked: Vec<Asked>, goals: Vec<Row>) -> anyhow::Result<()> {
    let (versions, database_bytes) = (subject.made.versions(), subject.made.database_bytes);
    Output::from(args.json).print(&Report { versions, database_bytes, asked, goals }, |report| {
        let mut text = format!("{} versions, database of {} bytes\n", report.versions, report.database_bytes);
        for Asked { what, lines, took } in &report.asked {
            let (p50, p99, max) = (ms(took.p50_us), ms(took.p99_us), ms(took.max_us));
            text += &format!("{what}: p50 {p50}, p99 {p99}, max {max} of {}; {lines} lines\n", took.samples);
        }
        text + &goals::table(&report.goals)
    })
}

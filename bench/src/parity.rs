//! `bench parity`: what parity costs. The same changes are recorded into two backups, one with parity and one without, in turns.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use common::ParityShare;
use serde::Serialize;
use tests::binaries;
use tests::mounted::fuse_is_here;

use crate::Output;
use crate::goals::{self, Row, mb, ms};
use crate::node::target_directory;
use crate::record;
use crate::scale::making::{self, Logs, Wanted};
use crate::scale::measured::{Subject, first_4k, summary, timed};
use crate::scale::place::{Afterwards, Made, Place};
use crate::scale::rehearsal::Rehearsal;
use crate::stats::Summary;

/// No measure of opens takes much longer than this.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Seed of the versions that are opened.
const SEED: u64 = 18;

/// Share of a cost that parity may add, in percent.
const SEALING_MORE: f64 = 5.0;
const VERIFY_MORE: f64 = 5.0;
const BYTES_MORE: f64 = 2.2;

#[derive(clap::Args)]
pub struct Args {
    /// Changes to record into each backup
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(10..))]
    versions: u32,
    /// Size of the database before the first of them, in MB
    #[arg(long, value_name = "M", default_value_t = 100)]
    database_mb: u32,
    /// Pairs of backups
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Versions that are opened of each backup of the last pair
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
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

/// Figures of a backup with parity, beside one without.
#[derive(Debug, Clone, Copy, Serialize)]
struct Pair<T> {
    with: T,
    without: T,
}

impl<T> Pair<T> {
    fn map<U>(&self, of: impl Fn(&T) -> U) -> Pair<U> {
        Pair { with: of(&self.with), without: of(&self.without) }
    }
}

#[derive(Serialize)]
struct Report {
    place: PathBuf,
    changes: u32,
    /// Processor time of the sealing threads per change, in microseconds, the least of the rounds.
    sealing_us: Pair<f64>,
    /// Bytes of all files.
    bytes: Pair<u64>,
    /// Time of `verify`, the least of the rounds, in microseconds.
    verify_us: Pair<f64>,
    /// First 4 KiB of versions by lot.
    open: Option<Pair<Summary>>,
    goals: Vec<Row>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let source = record::source(args.trace.as_deref())?;
    // Asked for first, so that cargo is done before anything is measured.
    binaries::backupfs();
    let dir = args.dir.clone().map_or_else(target_directory, Ok)?;
    let (mut sealing_us, mut verify_us) = (Vec::new(), Vec::new());
    let mut last = None;
    for round in 1..=args.rounds {
        eprintln!("round {round}");
        let place = Place::create(&dir, Afterwards::Remove)?;
        let rehearsal = Rehearsal::play(&source, place.path()).with_context(|| format!("trace {}", source.name))?;
        let make = |name: &str, parity: ParityShare| -> anyhow::Result<Made> {
            let (changes, database_mb, logs) = (args.versions, args.database_mb, Logs::Sealed);
            let wanted = Wanted { changes, database_mb, logs, parity: Some(parity) };
            making::make(wanted, &source.name, &rehearsal, &place.history(name))
        };
        // In turns, for the machine may become slower or faster meanwhile.
        let made = if round % 2 == 0 {
            let without = make("without", ParityShare::NONE)?;
            Pair { with: make("with", ParityShare::default())?, without }
        } else {
            Pair { with: make("with", ParityShare::default())?, without: make("without", ParityShare::NONE)? }
        };
        sealing_us.push(made.map(|made| made.cost.other_threads_cpu_s * 1e6 / made.cost.changes.max(1) as f64));
        let backups = Pair { with: place.history("with").backup(), without: place.history("without").backup() };
        for _ in 0..2 {
            verify_us.push(Pair { with: verify(&backups.with)?, without: verify(&backups.without)? });
        }
        last = Some((place, made));
    }
    let (place, made) = last.context("BUG: there is a round")?;
    let bytes = Pair {
        with: bytes_of(&place.history("with").backup())?,
        without: bytes_of(&place.history("without").backup())?,
    };
    let open = fuse_is_here().then(|| open(&place, &made, usize::from(args.samples))).transpose()?;
    let mut report = Report {
        place: place.path().to_owned(),
        changes: args.versions,
        sealing_us: least(&sealing_us),
        bytes,
        verify_us: least(&verify_us),
        open,
        goals: Vec::new(),
    };
    report.goals = rows(&report);
    Output::from(args.json).print(&report, |report| {
        format!("{} changes of trace {}\n\n{}", report.changes, made.with.trace, goals::table(&report.goals))
    })
}

/// The least of each: what disturbs a measure only ever adds to it.
fn least(pairs: &[Pair<f64>]) -> Pair<f64> {
    let least = |of: fn(&Pair<f64>) -> f64| pairs.iter().map(of).fold(f64::INFINITY, f64::min);
    Pair { with: least(|pair| pair.with), without: least(|pair| pair.without) }
}

fn verify(backup: &Path) -> anyhow::Result<f64> {
    let (took, _) = timed(Command::new(binaries::backupfs()).arg("verify").arg(backup))?;
    Ok(crate::stats::micros(took))
}

fn bytes_of(backup: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(backup)? {
        let entry = entry?;
        // Logs have room for what comes.
        if !entry.file_name().as_encoded_bytes().starts_with(b"log-") && entry.file_name() != "preallocated" {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// First reads of both, version by version.
fn open(place: &Place, made: &Pair<Made>, samples: usize) -> anyhow::Result<Pair<Summary>> {
    let subject =
        |name: &str, made: &Made| Subject { dir: place.history(name), made: made.clone(), time_limit: TIME_LIMIT };
    let subjects = Pair { with: subject("with", &made.with), without: subject("without", &made.without) };
    let (with, _) = subjects.with.mount()?;
    let (without, _) = subjects.without.mount()?;
    let mut took = Pair { with: Vec::new(), without: Vec::new() };
    for version in subjects.with.versions(samples, SEED) {
        took.with.push(first_4k(&with.database(version))?);
        took.without.push(first_4k(&without.database(version))?);
    }
    Ok(Pair { with: summary(took.with)?, without: summary(took.without)? })
}

fn rows(report: &Report) -> Vec<Row> {
    let more = |pair: Pair<f64>| (pair.with / pair.without - 1.0) * 100.0;
    let row = |figure: &str, most: f64, pair: Pair<f64>, shown: fn(f64) -> String| {
        Row::new(figure, &format!("<= {most} % more"), shown(pair.with))
            .beside(format!("{} without parity", shown(pair.without)), pair.with / pair.without)
            .met(more(pair) <= most)
    };
    let micros = |value: f64| format!("{value:.1} µs");
    let mut rows = vec![
        row("bytes of the backup", BYTES_MORE, report.bytes.map(|&bytes| bytes as f64), mb),
        row("processor time of sealing per change", SEALING_MORE, report.sealing_us, micros),
        row("verify", VERIFY_MORE, report.verify_us, ms),
    ];
    if let Some(open) = &report.open {
        let [with, without] = [open.with.p50_us, open.without.p50_us];
        rows.push(
            Row::new("first 4 KiB of a version, p50", "the same", ms(with))
                .beside(format!("{} without parity", ms(without)), with / without),
        );
    }
    rows
}

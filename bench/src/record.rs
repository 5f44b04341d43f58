//! `bench record`: what `lightningd` waits for at each `db_write`, and what the disk alone would have cost.
//!
//! A real `backup-recorder` is fed over pipes, one call at a time, as `lightningd` does. Between any two calls a bare
//! `pwrite` and `fdatasync` of as many bytes as the recorder appends goes to a zero-filled file beside the backup: the
//! floor. So does another process, over pipes like the recorder. All see the same disk, neighbours and sizes.
//!
//! * [`feed`]: the calls; [`floor`]: the floor; [`piped_floor`]: the one behind pipes; [`load`]: all of them, while the sealer keeps up and while it is busy.
//! * [`first_answer`]: from the start of the process to the first answer. [`rows`]: the table of goals.

pub mod feed;
mod first_answer;
mod floor;
mod load;
pub mod piped_floor;
mod rows;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mountfs::demo::pretend_lightningd::{RecorderProcess, RecorderStderr};
use serde::Serialize;
use serde_json::json;
use tests::binaries;

use crate::Output;
use crate::db_write::Call;
use crate::goals::{self, Row};
use crate::node::{is_tmpfs, memory, target_directory};
use crate::scale::making;
use crate::scale::measured::settle;
use crate::scale::place::{Afterwards, Place};
use crate::scale::rehearsal::Rehearsal;
use crate::sequence::{SHIPPED, Source};
use crate::stats::Summary;
use crate::table::Table;
use first_answer::StartReport;
use load::{LoadReport, Sealer};

/// The default trace, if it exists: a busy node.
const PREFERRED: &str = "channels";

/// The longest wait for anything the recorder does.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Args {
    /// Directory on the file system to measure [default: the target directory, and /dev/shm]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Trace to play: `demo`, or one of the shared ones [default: channels where it is there, else demo]
    #[arg(long)]
    trace: Option<String>,
    /// Writes to time
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..))]
    writes: u32,
    /// Versions recorded before a start is timed; an operator had 940000
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(10..))]
    versions: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    trace: String,
    places: Vec<PlaceReport>,
    start: StartReport,
    goals: Vec<Row>,
}

#[derive(Serialize)]
struct PlaceReport {
    directory: PathBuf,
    file_system: FileSystem,
    keeps_up: LoadReport,
    busy: LoadReport,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum FileSystem {
    Disk,
    Tmpfs,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let source = source(args.trace.as_deref())?;
    // Asked for first, so that cargo is done before anything is measured.
    binaries::backup_recorder();
    let wanted = match &args.dir {
        Some(dir) => vec![dir.clone()],
        None => [Some(target_directory()?), memory().map(Path::to_owned)].into_iter().flatten().collect(),
    };
    let places = wanted.iter().map(|dir| Place::create(dir, Afterwards::Remove)).collect::<anyhow::Result<Vec<_>>>()?;
    let (first, last) = (places.first().context("BUG: no place")?, places.last().context("BUG: no place")?);
    eprintln!("playing the trace {}", source.name);
    let rehearsal = Rehearsal::play(&source, last.path()).with_context(|| format!("trace {}", source.name))?;
    let reports = places
        .iter()
        .map(|place| {
            let load = |sealer| measure(sealer, &source, &rehearsal, place, args.writes as usize);
            let (keeps_up, busy) = (load(Sealer::KeepsUp)?, load(Sealer::Busy)?);
            let file_system = if is_tmpfs(place.path()) { FileSystem::Tmpfs } else { FileSystem::Disk };
            Ok(PlaceReport { directory: place.path().to_owned(), file_system, keeps_up, busy })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let start = first_answer::measure(&source, &rehearsal, first, args.versions)?;
    let mut report = Report { trace: source.name, places: reports, start, goals: Vec::new() };
    report.goals = rows::rows(&report);
    Output::from(args.json).print(&report, tables)
}

/// The trace of this name, or the one to use when none is named.
pub fn source(wanted: Option<&str>) -> anyhow::Result<Source> {
    match wanted {
        Some(name) => Source::find(name).with_context(|| format!("there is no trace {name}")),
        None => Source::find(PREFERRED).or_else(|| Source::find(SHIPPED)).context("the shipped trace is missing"),
    }
}

fn measure(
    sealer: Sealer,
    source: &Source,
    rehearsal: &Rehearsal,
    place: &Place,
    writes: usize,
) -> anyhow::Result<LoadReport> {
    let dir = place.history(match sealer {
        Sealer::KeepsUp => "keeps-up",
        Sealer::Busy => "busy",
    });
    let made = making::make(sealer.history(), &source.name, rehearsal, &dir)?;
    settle(&dir.lightning_dir())?;
    eprintln!("recording up to {writes} writes in {}", dir.backup().display());
    load::measure(sealer, &dir, &made, &rehearsal.laps, writes)
}

/// Starts a recorder, as `lightningd` does.
pub fn start(lightning_dir: &Path) -> anyhow::Result<RecorderProcess> {
    let stderr = RecorderStderr::AppendedTo(lightning_dir.join("recorder.stderr"));
    let mut recorder = RecorderProcess::start(&binaries::backup_recorder(), lightning_dir, &stderr, &[], TIMEOUT)?;
    recorder.ask("getmanifest", &json!({"allow-deprecated-apis": false}))?;
    Ok(recorder)
}

/// One call: from the first byte sent to the last byte received.
pub fn call(recorder: &mut RecorderProcess, write: &Call) -> anyhow::Result<Duration> {
    let called = Instant::now();
    recorder.send_bytes(&write.message)?;
    let answer = recorder.answer_to(&write.id)?;
    let elapsed = called.elapsed();
    ensure!(answer["result"]["result"] == "continue", "version {} was refused: {answer}", write.data_version);
    Ok(elapsed)
}

/// Says `init` to a recorder, as `lightningd` does once it has started.
pub fn init(recorder: &mut RecorderProcess, lightning_dir: &Path) -> anyhow::Result<()> {
    let configuration = json!({
        "lightning-dir": lightning_dir, "rpc-file": "lightning-rpc", "startup": true,
        "network": "regtest", "feature_set": {"init": "08", "node": "08", "channel": "", "invoice": "02"},
    });
    let answer = recorder.ask("init", &json!({"options": {}, "configuration": configuration}))?;
    ensure!(answer.get("result").is_some(), "the recorder does not take init: {answer}");
    Ok(())
}

fn tables(report: &Report) -> String {
    let mut text = format!(
        "trace {}; µs; the floor is a bare pwrite + fdatasync of the same bytes to a zero-filled file, interleaved;\n\
         the floor behind pipes is the same in a process that is asked over pipes and does nothing else\n",
        report.trace
    );
    for place in &report.places {
        for (load, what) in [(&place.keeps_up, "the sealer keeps up"), (&place.busy, "the sealer is busy")] {
            text += &format!("\n{}, {what}\n", place.directory.display());
            text += &load_table(load).to_string();
            text += &format!(
                "  writes/s, one at a time: {:.0}, floor {:.0}, floor behind pipes {:.0}; ratios {:.2}, {:.2}\n",
                load.writes_per_s,
                load.floor_per_s,
                load.piped_floor_per_s,
                load.writes_per_s / load.floor_per_s,
                load.writes_per_s / load.piped_floor_per_s
            );
        }
    }
    text + "\n" + &goals::table(&report.goals)
}

fn load_table(load: &LoadReport) -> Table {
    let mut table = Table::new(["size of the record", "samples", "", "p50", "p99", "max"]);
    for class in &load.classes {
        let label = format!("{}, {}–{} B", class.class, class.least_bytes, class.most_bytes);
        let mut row = |label: &str, samples: String, what: &str, numbers: [f64; 3], decimals: usize| {
            let numbers = numbers.map(|number| format!("{number:.decimals$}"));
            table.row([label.to_owned(), samples, what.to_owned()].into_iter().chain(numbers));
        };
        let of = |summary: Summary| [summary.p50_us, summary.p99_us, summary.max_us];
        row(&label, class.round_trip.samples.to_string(), "round trip", of(class.round_trip), 1);
        row("", String::new(), "floor behind pipes", of(class.piped_floor), 1);
        row("", String::new(), "floor", of(class.floor), 1);
        row("", String::new(), "ratio", [class.ratio_p50, class.ratio_p99, class.ratio_max], 2);
    }
    table
}

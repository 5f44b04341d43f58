//! `bench record`: what `lightningd` waits for at each `db_write`, and what the disk alone would have cost.
//!
//! A real `backup-recorder` is fed over pipes, one call at a time, as `lightningd` does. Between any two calls a bare
//! `pwrite` and `fdatasync` of as many bytes as the recorder appends goes to a zero-filled file beside the backup: the
//! floor. Both see the same disk, the same neighbours and the same sizes; which of them comes first changes with every
//! write.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use common::Backup;
use mountfs::demo::pretend_lightningd::{RecorderProcess, RecorderStderr};
use serde::Serialize;
use serde_json::json;
use tests::binaries;

use crate::Output;
use crate::db_write::Call;
use crate::node::{Node, is_tmpfs, memory, target_directory};
use crate::sequence::{SHIPPED, Smoothed, Source};
use crate::stats::{Samples, Summary};
use crate::table::Table;

/// The trace used unless told otherwise, where it is there: a busy node.
const PREFERRED: &str = "channels";

/// The longest wait for anything the recorder does.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Args {
    /// Directory on the file system to measure [default: the target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Trace to play: `demo`, or one of the shared ones [default: channels where it is there, else demo]
    #[arg(long)]
    trace: Option<String>,
    /// Stop after this many writes [default: the whole trace]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    writes: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    trace: String,
    /// Measured writes: the first write of the run opens the backup and is told apart.
    writes: usize,
    smoothed: Smoothed,
    places: Vec<PlaceReport>,
}

#[derive(Serialize)]
struct PlaceReport {
    directory: PathBuf,
    file_system: &'static str,
    /// From the start of the process to the answer to its first write, which opens the backup.
    first_answer_ms: f64,
    /// Samples over the sum of all round trips: one call at a time, as `lightningd` does.
    writes_per_s: f64,
    /// The same for the floor.
    floor_per_s: f64,
    writes_per_s_ratio: f64,
    classes: Vec<ClassReport>,
}

/// Writes of similar size.
#[derive(Serialize)]
struct ClassReport {
    class: &'static str,
    least_bytes: usize,
    most_bytes: usize,
    round_trip: Summary,
    floor: Summary,
    ratio_p50: f64,
    ratio_p99: f64,
    ratio_max: f64,
}

/// One write, measured both ways.
#[derive(Clone, Copy)]
struct Measured {
    record_bytes: usize,
    round_trip: Duration,
    floor: Duration,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let source = source(args.trace.as_deref())?;
    // Asked for first, so that cargo is done before anything is measured.
    let recorder = binaries::backup_recorder();
    eprintln!("reading the trace {}", source.name);
    let mut sequence = source.sequence()?;
    let writes = args.writes.map_or(usize::MAX, |writes| writes as usize);
    let encoded = sequence.by_ref().take(writes).enumerate().map(|(number, write)| Call::encode(&write?, number + 1));
    let calls = encoded.collect::<anyhow::Result<Vec<_>>>()?;
    let smoothed = sequence.smoothed();
    ensure!(calls.len() >= 2, "the trace {} is too short to measure anything", source.name);

    let on_disk = args.dir.clone().map_or_else(target_directory, Ok)?;
    let mut places = Vec::new();
    for place in [Some(on_disk.as_path()), memory()].into_iter().flatten() {
        eprintln!("recording {} writes in {}", calls.len(), place.display());
        places.push(measure(&source, &recorder, &calls, place)?);
    }
    let report = Report { trace: source.name, writes: calls.len() - 1, smoothed, places };
    Output::from(args.json).print(&report, tables)
}

/// The trace of this name, or the one to use when none is named.
pub fn source(wanted: Option<&str>) -> anyhow::Result<Source> {
    match wanted {
        Some(name) => Source::find(name).with_context(|| format!("there is no trace {name}")),
        None => Source::find(PREFERRED).or_else(|| Source::find(SHIPPED)).context("the shipped trace is missing"),
    }
}

/// Plays all calls to one recorder, with the floor in between.
fn measure(source: &Source, program: &Path, calls: &[Call], place: &Path) -> anyhow::Result<PlaceReport> {
    let node = Node::create(source, place)?;
    let stderr = node.join("recorder.stderr");
    let words = || fs::read_to_string(&stderr).unwrap_or_default();

    let started = Instant::now();
    let to_file = RecorderStderr::AppendedTo(stderr.clone());
    let mut recorder = RecorderProcess::start(program, &node.lightning_dir(), &to_file, &[], PATIENCE)?;
    recorder.ask("getmanifest", &json!({"allow-deprecated-apis": false}))?;
    let (first, others) = calls.split_first().context("there are no writes")?;
    call(&mut recorder, first).with_context(words)?;
    let first_answer_ms = started.elapsed().as_secs_f64() * 1e3;
    init(&mut recorder, &node.lightning_dir())?;
    // Not before: the disk would still be busy with it while the recorder starts.
    let floor = Floor::create(&node.join("floor"), calls)?;

    let mut measured = Vec::with_capacity(others.len());
    let mut offset = 0;
    for (position, write) in others.iter().enumerate() {
        let mut below = || floor.append(&mut offset, write.record_bytes);
        let (round_trip, floor) = if position % 2 == 0 {
            (call(&mut recorder, write).with_context(words)?, below()?)
        } else {
            let floor = below()?;
            (call(&mut recorder, write).with_context(words)?, floor)
        };
        measured.push(Measured { record_bytes: write.record_bytes, round_trip, floor });
    }
    let status = recorder.end_input()?;
    ensure!(status.success(), "the recorder ended with {status}: {}", words());
    expect_recorded(&node, calls)?;
    report(&measured, place, first_answer_ms)
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

/// What was measured must be in the backup.
fn expect_recorded(node: &Node, calls: &[Call]) -> anyhow::Result<()> {
    let (history, read) = Arc::new(Backup::open(&node.url)?).read_history();
    read?;
    let newest = history.newest().map(|newest| newest.data_version);
    if newest != calls.last().map(|last| last.data_version) {
        bail!("the newest version in the backup, {newest:?}, is not the last one recorded");
    }
    Ok(())
}

/// The bare disk: a file that is written to like the recorder's log, without a recorder.
struct Floor {
    file: File,
    /// Text of the trace, as long as its longest record.
    text: Vec<u8>,
}

impl Floor {
    /// Makes the file long enough for all records and fills it with zeros, durably.
    fn create(path: &Path, calls: &[Call]) -> anyhow::Result<Self> {
        let longest = calls.iter().map(|call| call.record_bytes).max().unwrap_or(0);
        let mut text = Vec::with_capacity(longest);
        for call in calls.iter().cycle() {
            if text.len() >= longest {
                break;
            }
            text.extend_from_slice(&call.message);
        }
        let mut file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
        let zeros = [0; 1 << 16];
        let mut left: usize = calls.iter().map(|call| call.record_bytes).sum();
        while left > 0 {
            let now = left.min(zeros.len());
            file.write_all(&zeros[..now])?;
            left -= now;
        }
        file.sync_all()?;
        Ok(Self { file, text })
    }

    fn append(&self, offset: &mut u64, bytes: usize) -> anyhow::Result<Duration> {
        let text = &self.text[..bytes];
        let started = Instant::now();
        self.file.write_all_at(text, *offset)?;
        self.file.sync_data()?;
        let elapsed = started.elapsed();
        *offset += bytes as u64;
        Ok(elapsed)
    }
}

fn report(measured: &[Measured], place: &Path, first_answer_ms: f64) -> anyhow::Result<PlaceReport> {
    let mut sizes: Vec<usize> = measured.iter().map(|write| write.record_bytes).collect();
    sizes.sort_unstable();
    let median = sizes[sizes.len() / 2];
    let classes = [
        ("all", 0, usize::MAX),
        ("median ± 10 %", median - median / 10, median + median / 10),
        ("24 kB ± 4 kB", 20_000, 28_000),
    ];
    let classes: Vec<ClassReport> = classes
        .into_iter()
        .filter_map(|(class, least, most)| {
            let of_class = measured.iter().filter(|write| (least..=most).contains(&write.record_bytes));
            class_report(class, &of_class.copied().collect::<Vec<_>>())
        })
        .collect();
    let per_s = |time: fn(&Measured) -> Duration| {
        let total: Duration = measured.iter().map(time).sum();
        measured.len() as f64 / total.as_secs_f64()
    };
    let [writes_per_s, floor_per_s] = [per_s(|write| write.round_trip), per_s(|write| write.floor)];
    Ok(PlaceReport {
        directory: place.canonicalize()?,
        file_system: if is_tmpfs(place) { "tmpfs" } else { "disk" },
        first_answer_ms,
        writes_per_s,
        floor_per_s,
        writes_per_s_ratio: writes_per_s / floor_per_s,
        classes,
    })
}

/// `None` when the trace has no writes of this size.
fn class_report(class: &'static str, measured: &[Measured]) -> Option<ClassReport> {
    let samples = |time: fn(&Measured) -> Duration| Samples::new(measured.iter().map(time).collect());
    let round_trip = samples(|write| write.round_trip)?.summary();
    let floor = samples(|write| write.floor)?.summary();
    Some(ClassReport {
        class,
        least_bytes: measured.iter().map(|write| write.record_bytes).min()?,
        most_bytes: measured.iter().map(|write| write.record_bytes).max()?,
        ratio_p50: round_trip.p50_us / floor.p50_us,
        ratio_p99: round_trip.p99_us / floor.p99_us,
        ratio_max: round_trip.max_us / floor.max_us,
        round_trip,
        floor,
    })
}

fn tables(report: &Report) -> String {
    let mut text = format!("trace {}, {} writes", report.trace, report.writes);
    let smoothed = report.smoothed.describe();
    if !smoothed.is_empty() {
        text += &format!(" ({smoothed})");
    }
    text += "; µs; the floor is a bare pwrite + fdatasync of the same bytes, interleaved\n";
    for place in &report.places {
        text += &format!("\n{} ({})\n", place.directory.display(), place.file_system);
        let mut table = Table::new(["size of the record", "samples", "", "p50", "p99", "max"]);
        for class in &place.classes {
            let label = format!("{}, {}–{} B", class.class, class.least_bytes, class.most_bytes);
            let mut row = |label: &str, samples: String, what: &str, numbers: [f64; 3], decimals: usize| {
                let numbers = numbers.map(|number| format!("{number:.decimals$}"));
                table.row([label.to_owned(), samples, what.to_owned()].into_iter().chain(numbers));
            };
            let [round_trip, floor] = [class.round_trip, class.floor];
            let of = |summary: Summary| [summary.p50_us, summary.p99_us, summary.max_us];
            row(&label, round_trip.samples.to_string(), "round trip", of(round_trip), 1);
            row("", String::new(), "floor", of(floor), 1);
            row("", String::new(), "ratio", [class.ratio_p50, class.ratio_p99, class.ratio_max], 2);
        }
        text += &table.to_string();
        text += &format!(
            "  writes/s, one at a time: {:.0}, floor {:.0}, ratio {:.2}; first answer {:.1} ms after the start\n",
            place.writes_per_s, place.floor_per_s, place.writes_per_s_ratio, place.first_answer_ms
        );
    }
    text
}

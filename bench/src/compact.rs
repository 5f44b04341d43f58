//! `bench compact`: what `lightningd` waits for while history is dropped, beside the same load without that.
//!
//! A history is made and sealed; then a real recorder is fed, one call at a time, as fast as it answers: for a while, then
//! from the request for a compaction to its answer, then for a while again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use common::KeepSpan;
use serde::Serialize;
use serde_json::{Value, json};
use tests::binaries;

use crate::Output;
use crate::goals::{self, Row, mb, ms};
use crate::node::target_directory;
use crate::record::feed::Feed;
use crate::record::{self, call, init, start};
use crate::scale::making::{self, Logs, Wanted};
use crate::scale::measured::{millis, settle};
use crate::scale::place::{Afterwards, Place};
use crate::scale::rehearsal::Rehearsal;
use crate::stats::{Samples, Summary};

/// Calls encoded at once.
const CHUNK: usize = 200;

/// Maximum duration of a compaction: meanwhile the backup grows.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The worst answer while history is dropped, in milliseconds.
const WORST_MS: f64 = 50.0;

#[derive(clap::Args)]
pub struct Args {
    /// Changes recorded before, 7 s apart
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    versions: u32,
    /// Size of the database, in MB; an operator's had 650
    #[arg(long, value_name = "M", default_value_t = 650)]
    database_mb: u32,
    /// What is kept
    #[arg(long, value_name = "SPAN", default_value = "1d")]
    keep_within: KeepSpan,
    /// Seconds measured before, and behind it
    #[arg(long, value_name = "S", default_value_t = 20)]
    seconds: u64,
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
    trace: String,
    place: PathBuf,
    /// The recorder's report of the compaction.
    compaction: Value,
    compaction_s: f64,
    bytes_before: u64,
    bytes_behind: u64,
    before: Summary,
    during: Summary,
    behind: Summary,
    goals: Vec<Row>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let source = record::source(args.trace.as_deref())?;
    binaries::backup_recorder();
    let dir = args.dir.clone().map_or_else(target_directory, Ok)?;
    let place = Place::create(&dir, Afterwards::Remove)?;
    eprintln!("playing the trace {}", source.name);
    let rehearsal = Rehearsal::play(&source, place.path()).with_context(|| format!("trace {}", source.name))?;
    let history = place.history("compact");
    let wanted = Wanted { changes: args.versions, database_mb: args.database_mb, logs: Logs::Sealed, parity: None };
    let made = making::make(wanted, &source.name, &rehearsal, &history)?;
    settle(&history.lightning_dir())?;
    let backup = common::Backup::open(&history.url()?)?;
    let bytes_before = backup.read_bytes()?.total();

    let mut feed = Feed::after(&made, &rehearsal.laps);
    let mut recorder = start(&history.lightning_dir())?;
    for first in feed.calls(1)? {
        call(&mut recorder, &first)?;
    }
    init(&mut recorder, &history.lightning_dir())?;
    let for_a_while = Duration::from_secs(args.seconds);
    eprintln!("recording for {} s", args.seconds);
    let mut load = |recorder: &mut _, goes_on: &mut dyn FnMut(&_) -> bool| -> anyhow::Result<Summary> {
        let mut took = Vec::new();
        while goes_on(recorder) {
            for write in feed.calls(CHUNK)? {
                took.push(call(recorder, &write)?);
            }
        }
        Ok(Samples::new(took).context("nothing was recorded")?.summary())
    };
    let began = Instant::now();
    let before = load(&mut recorder, &mut |_| began.elapsed() < for_a_while)?;
    eprintln!("dropping history");
    let asked = recorder.send("backup-compact", &json!({"keep_within": args.keep_within.to_string()}))?;
    let began = Instant::now();
    let during = load(&mut recorder, &mut |recorder| {
        let has_answered = recorder.notifications().iter().any(|message| message["id"] == *asked);
        !has_answered && began.elapsed() < TIMEOUT
    })?;
    let compaction_s = began.elapsed().as_secs_f64();
    let answer = recorder.notifications().iter().find(|message| message["id"] == *asked).cloned();
    let compaction = answer.context("the compaction has not come to its end")?["result"].take();
    ensure!(compaction["dropped_versions"].as_u64() > Some(0), "nothing was dropped: {compaction}");
    let began = Instant::now();
    let behind = load(&mut recorder, &mut |_| began.elapsed() < for_a_while)?;
    let status = recorder.end_input()?;
    ensure!(status.success(), "the recorder ended with {status}");
    let bytes_behind = backup.read_bytes()?.total();

    let worst = during.max_us / 1000.0;
    let goal = Row::new("worst answer while history is dropped", "≤ 50 ms", ms(during.max_us))
        .beside(format!("{} without", ms(before.max_us)), during.max_us / before.max_us)
        .met(worst <= WORST_MS);
    let report = Report {
        trace: source.name,
        place: place.path().to_owned(),
        compaction,
        compaction_s,
        bytes_before,
        bytes_behind,
        before,
        during,
        behind,
        goals: vec![goal],
    };
    Output::from(args.json).print(&report, tables)
}

#[expect(clippy::cast_precision_loss, reason = "shown with a digit or two")]
fn megabytes(bytes: u64) -> String {
    mb(bytes as f64)
}

fn tables(report: &Report) -> String {
    let Report { compaction, before, during, behind, .. } = report;
    let mut text = format!(
        "trace {}, {}\n{} of {} versions dropped in {:.1} s; the backup had {} and has {}, of which {} are the file `pruned`\n",
        report.trace,
        report.place.display(),
        compaction["dropped_versions"],
        compaction["dropped_versions"].as_u64().unwrap_or(0) + compaction["kept_versions"].as_u64().unwrap_or(0),
        report.compaction_s,
        megabytes(report.bytes_before),
        megabytes(report.bytes_behind),
        megabytes(compaction["remains_bytes"].as_u64().unwrap_or(0)),
    );
    for (what, summary) in [("before", before), ("while history is dropped", during), ("behind it", behind)] {
        let ms = |micros: f64| millis(Duration::from_secs_f64(micros / 1e6));
        text += &format!(
            "{what:26} {:8} answers; p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms\n",
            summary.samples,
            ms(summary.p50_us),
            ms(summary.p99_us),
            ms(summary.max_us)
        );
    }
    text + "\n" + &goals::table(&report.goals)
}

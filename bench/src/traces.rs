//! `bench traces`: what the recorded traces take on disk, how fast they replay, how fast their versions open.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use common::{Backup, BackupUrl, BackupWriter, DbWrite, History, LogLimits, Sealer, Seq, Version};
use serde::Serialize;
use tests::binaries;
use tests::mounted::fuse_is_here;

use crate::Output;
use crate::db_write::borrowed;
use crate::node::{Node, is_tmpfs, memory, target_directory};
use crate::opening::{self, MountReads, Reads};
use crate::scale::process::ProcessorTime;
use crate::sequence::{SHIPPED, Smoothed, Source};
use crate::stats::Summary;
use crate::table::Table;

/// All traces there are, the shipped one first.
const NAMES: &[&str] = &[
    SHIPPED,
    "fresh",
    "channels",
    "crash",
    "stops",
    "python-backup/fresh",
    "migrations/dangling-peer",
    "migrations/invoices_pre_waitindex",
    "migrations/l1-before-moves-in-db",
    "migrations/last_tx_closed",
    "migrations/no-local-basepoints",
    "migrations/oldstyle-scids",
    "migrations/pubkey_regen",
    "migrations/runes_bad_id",
    "migrations/upgrade_inflight",
    "migrations/v0.12.1-forward",
];

#[derive(clap::Args)]
pub struct Args {
    /// One trace only: `demo`, or one of the shared ones
    #[arg(long)]
    trace: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    file_system: &'static str,
    traces: Vec<TraceReport>,
}

#[derive(Serialize)]
struct TraceReport {
    trace: String,
    smoothed: Smoothed,
    sizes: Sizes,
    /// Before anything is sealed, the newest version opened in a new cache: every change is replayed from its text.
    replay: Summary,
    replay_us_per_change: f64,
    /// Processor time of replaying and sealing.
    sealing_us_per_change: f64,
    openings: Vec<Opening>,
}

/// The recorded writes and the space that they take.
#[derive(Serialize)]
struct Sizes {
    changes: usize,
    versions: usize,
    sql_bytes: u64,
    /// All files, as they are when a run has ended, without the unused end of the newest log.
    backup_bytes: u64,
    /// Those of them that are the snapshot of the database at the beginning.
    snapshot_bytes: u64,
    /// Those that are the segments.
    segment_bytes: u64,
}

/// One version, opened in several ways.
#[derive(Serialize)]
struct Opening {
    which: &'static str,
    data_version: u32,
    /// Changes since the snapshot that it begins with.
    changes: usize,
    size_bytes: usize,
    in_process: Reads,
    /// `None` where nothing can be mounted.
    mount: Option<MountReads>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let place = memory().map_or_else(target_directory, |memory| Ok(memory.to_owned()))?;
    let mounts = fuse_is_here();
    if mounts {
        // Asked for first, so that cargo is done before anything is measured.
        binaries::backupfs();
    }
    let mut traces = Vec::new();
    let wanted = |name: &&&str| args.trace.as_ref().is_none_or(|wanted| wanted == **name);
    for source in NAMES.iter().filter(wanted).filter_map(|name| Source::find(name)) {
        eprintln!("trace {}", source.name);
        let trace = measure(&source, &place, mounts).with_context(|| format!("trace {}", source.name))?;
        traces.push(trace);
    }
    let file_system = if is_tmpfs(&place) { "tmpfs" } else { "disk" };
    Output::from(args.json).print(&Report { file_system, traces }, tables)
}

fn measure(source: &Source, place: &Path, mounts: bool) -> anyhow::Result<TraceReport> {
    let node = Node::create(source, place)?;
    let mut sequence = source.sequence()?;
    let mut recording = BackupWriter::open(&node.lightning_dir(), LogLimits::default())?;
    let (mut changes, mut sql_bytes) = (0, 0);
    for write in &mut sequence {
        let write = write?;
        changes += 1;
        sql_bytes += write.statements.iter().map(|statement| statement.len() as u64).sum::<u64>();
        let statements = &borrowed(&write);
        recording.record(&DbWrite { data_version: write.data_version, statements, received_at: write.at })?;
        if changes == 1 {
            // Nothing commits these changes. A database without a stamp shows nothing of that; without them it would look like an old
            // one, and the changes would be unverified.
            File::create(node.lightning_dir().join("lightningd.sqlite3"))?;
        }
    }
    // As a recorder does when its run ends.
    recording.remove_preallocated()?;
    let durable = recording.newest().context("nothing was recorded")?.seq;
    drop(recording);
    let smoothed = sequence.smoothed();

    let backup = Arc::new(Backup::open(&node.url)?);
    let (history, read) = backup.read_history();
    read?;
    let newest = history.newest().context("nothing was recorded")?;
    let replay = opening::replay(&backup, &history.plan(newest)?)?;
    let replay_us_per_change = replay.p50_us / changes as f64;
    let sealing_us_per_change = seal(&node.url, durable)? / changes as f64;

    let backup = Arc::new(Backup::open(&node.url)?);
    let (history, read) = backup.read_history();
    read?;
    let versions = versions(&history)?;
    let sizes = Sizes { changes, versions: versions.len(), sql_bytes, ..sizes(backup.path())? };
    let newest = versions.last().context("nothing was recorded")?;
    let middle = &versions[versions.len() / 2];
    let openings = [("middle", middle), ("newest", newest)]
        .into_iter()
        .map(|(which, version)| open(which, &backup, &history, version, mounts))
        .collect::<anyhow::Result<_>>()?;
    let trace = source.name.clone();
    Ok(TraceReport { trace, smoothed, sizes, replay, replay_us_per_change, sealing_us_per_change, openings })
}

/// Replays and seals what was recorded; returns the processor time that it took, in microseconds.
fn seal(url: &BackupUrl, durable: Seq) -> anyhow::Result<f64> {
    let backup = Arc::new(Backup::open(url)?);
    let before = ProcessorTime::now()?;
    Sealer::new(backup, LogLimits::default())?.advance(durable, &mut |_| ControlFlow::Continue(()))?;
    Ok((ProcessorTime::now()?.thread - before.thread) * 1e6)
}

fn open(
    which: &'static str,
    backup: &Arc<Backup>,
    history: &History,
    version: &Version,
    mounts: bool,
) -> anyhow::Result<Opening> {
    let (in_process, bytes) = opening::in_process(backup, &history.plan(version)?)?;
    let mount = mounts.then(|| opening::through_mount(backup, version.data_version, &bytes)).transpose()?;
    // There is one snapshot, at the beginning: a sequence has no gaps to heal.
    let mut changes = 0;
    for earlier in versions(history)?.iter().take_while(|earlier| earlier.seq <= version.seq) {
        changes += history.records_of(earlier)?.len();
    }
    Ok(Opening { which, data_version: version.data_version.get(), changes, size_bytes: bytes.len(), in_process, mount })
}

fn versions(history: &History) -> anyhow::Result<Vec<Version>> {
    let mut versions = Vec::new();
    history.for_versions_after(None, &mut |version| {
        versions.push(version.clone());
        ControlFlow::Continue(())
    })?;
    Ok(versions)
}

/// Looks at the files of a backup.
fn sizes(backup: &Path) -> anyhow::Result<Sizes> {
    let mut sizes =
        Sizes { changes: 0, versions: 0, sql_bytes: 0, backup_bytes: 0, snapshot_bytes: 0, segment_bytes: 0 };
    for entry in fs::read_dir(backup)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_kind = |kind: &str| name.as_encoded_bytes().starts_with(kind.as_bytes());
        let length = if is_kind("log-") { used_bytes(&entry.path())? } else { entry.metadata()?.len() };
        sizes.backup_bytes += length;
        if is_kind("snapshot-") {
            sizes.snapshot_bytes += length;
        } else if is_kind("segment-") {
            sizes.segment_bytes += length;
        }
    }
    Ok(sizes)
}

/// Bytes of a log without the zeros behind its last record.
fn used_bytes(log: &Path) -> anyhow::Result<u64> {
    let bytes = fs::read(log)?;
    Ok(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1))
}

fn tables(report: &Report) -> String {
    [sizes_table(report), replay_table(report), openings_table(report)].join("\n")
}

fn sizes_table(report: &Report) -> String {
    let mut table = Table::new([
        "trace",
        "versions",
        "changes",
        "SQL B/version",
        "backup B/version",
        "ratio",
        "backup kB",
        "of it snapshot kB",
        "segments kB",
    ]);
    let mut notes = String::new();
    for TraceReport { trace, smoothed, sizes, .. } in &report.traces {
        let per_version = |bytes: u64| bytes as f64 / sizes.versions as f64;
        let kilo = |bytes: u64| format!("{:.1}", bytes as f64 / 1e3);
        table.row([
            trace.clone(),
            sizes.versions.to_string(),
            sizes.changes.to_string(),
            format!("{:.0}", per_version(sizes.sql_bytes)),
            format!("{:.0}", per_version(sizes.backup_bytes)),
            format!("{:.2}", sizes.backup_bytes as f64 / sizes.sql_bytes as f64),
            kilo(sizes.backup_bytes),
            kilo(sizes.snapshot_bytes),
            kilo(sizes.segment_bytes),
        ]);
        if !smoothed.describe().is_empty() {
            notes += &format!("  {trace}: {}\n", smoothed.describe());
        }
    }
    format!("Bytes, when all finished logs are sealed and the run has ended\n{table}{notes}")
}

fn replay_table(report: &Report) -> String {
    let mut table =
        Table::new(["trace", "changes", "samples", "ms p50", "ms max", "µs/change", "sealing: CPU µs/change"]);
    for TraceReport { trace, sizes, replay, replay_us_per_change, sealing_us_per_change, .. } in &report.traces {
        table.row([
            trace.clone(),
            sizes.changes.to_string(),
            replay.samples.to_string(),
            millis(replay.p50_us),
            millis(replay.max_us),
            format!("{replay_us_per_change:.1}"),
            format!("{sealing_us_per_change:.0}"),
        ]);
    }
    format!(
        "Replay of all changes from their texts, and sealing them, which replays them as well ({})\n{table}",
        report.file_system
    )
}

fn openings_table(report: &Report) -> String {
    let mut table = Table::new([
        "trace",
        "version",
        "changes",
        "MB",
        "4 KiB",
        "all",
        "samples",
        "mounted",
        "4 KiB",
        "all",
        "again 4 KiB",
        "all",
        "samples",
    ]);
    for TraceReport { trace, openings, .. } in &report.traces {
        for opening in openings {
            let in_process = opening.in_process;
            let mut row = vec![
                trace.clone(),
                format!("{} {}", opening.which, opening.data_version),
                opening.changes.to_string(),
                format!("{:.2}", opening.size_bytes as f64 / 1e6),
                millis(in_process.first_4k.p50_us),
                millis(in_process.whole.p50_us),
                in_process.whole.samples.to_string(),
            ];
            if let Some(MountReads { mounted, first, again }) = opening.mount {
                let times = [mounted, first.first_4k, first.whole, again.first_4k, again.whole];
                row.extend(times.map(|time| millis(time.p50_us)));
                row.push(mounted.samples.to_string());
            }
            table.row(row);
        }
    }
    format!(
        "Opening a version never opened before, to its first 4 KiB and to its end, ms p50: in this process, then through \
         a new mount\n{table}"
    )
}

fn millis(micros: f64) -> String {
    format!("{:.2}", micros / 1e3)
}

//! `bench import`: how fast a file of the Python plugin becomes a backup, and the other way.
//!
//! The real `backupfs import` and `backupfs export`, from their start to their end: every change is replayed, sealed, and
//! durable in the end. Beside it `cp` of the file with a sync behind it, and [SQLite alone](sqlite_alone).

mod sqlite_alone;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mountfs::demo::trace::TraceEvent;
use serde::Serialize;
use tests::python_file::{self, PythonFile};
use tests::{binaries, traces};

use self::sqlite_alone::{Changes, Way};
use crate::Output;
use crate::goals::{self, Row, mb};
use crate::node::target_directory;
use crate::stats::Samples;

/// Changes per second.
const GOAL: f64 = 15_000.0;

#[derive(clap::Args)]
pub struct Args {
    /// The file to import [default: the shared one with a snapshot, else the shipped trace as such a file]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Times that it is imported and exported
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Directory on the file system to measure [default: the target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    file: String,
    changes: usize,
    file_bytes: u64,
    backup_bytes: u64,
    import_ms: Times,
    export_ms: Times,
    copy_ms: Times,
    /// SQLite executing the changes from templates, and as they are; absent when not all of them were committed.
    sqlite_ms: Option<[Times; 2]>,
    changes_per_second: f64,
    goals: Vec<Row>,
}

/// Of all rounds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    best: f64,
    median: f64,
    worst: f64,
}

impl Times {
    fn of(samples: Vec<Duration>) -> anyhow::Result<Self> {
        let samples = Samples::new(samples).context("no rounds")?;
        let [best, median, worst] = [0, 50, 100].map(|percent| samples.percentile(percent).as_secs_f64() * 1e3);
        Ok(Self { best, median, worst })
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    // Asked for first, so that cargo is done before anything is measured.
    let backupfs = binaries::backupfs();
    let dir = args.dir.clone().map_or_else(target_directory, Ok)?;
    let place = tempfile::Builder::new().prefix("backupfs-import-").tempdir_in(&dir)?;
    let [file, copy, exported, backup, database] =
        ["file.bkp", "copy.bkp", "exported.bkp", "node.bkp", "alone.sqlite3"].map(|name| place.path().join(name));
    let name = source(args.file.as_deref(), &file)?;
    let bytes = fs::read(&file)?;
    let records = python_file::records(&bytes);
    drop(bytes);
    let alone = Changes::of(&records)?;
    let changes = records.iter().filter(|record| record.kind == 1).count();
    let mut alones = Some([Vec::new(), Vec::new()]);
    let (mut imports, mut exports, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    let mut backup_bytes = 0;
    for _ in 0..args.rounds {
        copies.push(timed(Command::new("cp").args([&file, &copy]))? + timed(Command::new("sync").arg(&copy))?);
        imports.push(timed(Command::new(&backupfs).args([OsStr::new("import"), file.as_ref(), backup.as_ref()]))?);
        exports.push(timed(Command::new(&backupfs).args([OsStr::new("export"), backup.as_ref(), exported.as_ref()]))?);
        let ways = [Way::Templates, Way::Text].map(|way| alone.execute(way, &database));
        alones = match (alones, ways) {
            (Some([mut templates, mut texts]), [Ok(template), Ok(text)]) => {
                templates.push(template);
                texts.push(text);
                Some([templates, texts])
            }
            _ => None,
        };
        ensure!(fs::read(&file)? == fs::read(&exported)?, "what was exported is another file");
        backup_bytes = 0;
        for entry in fs::read_dir(&backup)? {
            backup_bytes += entry?.metadata()?.len();
        }
        fs::remove_dir_all(&backup)?;
        fs::remove_file(&exported)?;
        fs::remove_file(&copy)?;
        fs::remove_file(&database)?;
    }
    let sqlite_ms = match alones {
        Some([templates, texts]) => Some([Times::of(templates)?, Times::of(texts)?]),
        None => None,
    };
    let (import_ms, export_ms, copy_ms) = (Times::of(imports)?, Times::of(exports)?, Times::of(copies)?);
    let changes_per_second = changes as f64 / import_ms.median * 1e3;
    let rate = |ms: f64| format!("{:.0} changes/s", changes as f64 / ms * 1e3);
    let beside = |ms: f64| format!("cp and sync {:.1} ms", ms);
    let mut goals = vec![
        Row::new("import", "15,000 changes/s", rate(import_ms.median))
            .beside(beside(copy_ms.median), import_ms.median / copy_ms.median)
            .met(changes_per_second >= GOAL),
        Row::new("export", "", rate(export_ms.median))
            .beside(beside(copy_ms.median), export_ms.median / copy_ms.median),
    ];
    if let Some([templates, texts]) = sqlite_ms {
        let alone = |what: &str, took: Times| {
            Row::new(what, "", rate(took.median)).beside("import".to_owned(), import_ms.median / took.median)
        };
        goals.push(alone("SQLite alone, from templates", templates));
        goals.push(alone("SQLite alone, each statement prepared", texts));
    }
    let file_bytes = fs::metadata(&file)?.len();
    let report = Report {
        file: name,
        changes,
        file_bytes,
        backup_bytes,
        import_ms,
        export_ms,
        copy_ms,
        sqlite_ms,
        changes_per_second,
        goals,
    };
    Output::from(args.json).print(&report, tables)
}

/// Writes the file to import to `to`, and says which it is.
fn source(given: Option<&Path>, to: &Path) -> anyhow::Result<String> {
    if let Some(given) = given {
        fs::copy(given, to).with_context(|| format!("cannot copy {}", given.display()))?;
        return Ok(given.display().to_string());
    }
    if let Some(folder) = traces::folder("python-backup/snapshot")
        && folder.unpack("file0.bkp.zst", to)
    {
        return Ok("python-backup/snapshot".to_owned());
    }
    let mut file = PythonFile::default();
    for event in traces::shipped().events() {
        if let TraceEvent::Write(write) = event? {
            file.change(write.data_version.get(), &write.statements);
        }
    }
    fs::write(to, file.bytes())?;
    Ok("the shipped trace".to_owned())
}

fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let output = command.output().with_context(|| format!("{command:?} does not start"))?;
    let took = started.elapsed();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

fn tables(report: &Report) -> String {
    let Report { file, changes, file_bytes, backup_bytes, import_ms, export_ms, .. } = report;
    let times = |what: &str, Times { best, median, worst }: &Times| {
        format!("  {what}: {median:.0} ms ({best:.0} to {worst:.0}), {:.0} changes/s\n", *changes as f64 / median * 1e3)
    };
    format!(
        "{file}: {changes} changes, {}; as a backup, with the room of its log, {}\n{}{}\n{}",
        mb(*file_bytes as f64),
        mb(*backup_bytes as f64),
        times("import", import_ms),
        times("export", export_ms),
        goals::table(&report.goals)
    )
}

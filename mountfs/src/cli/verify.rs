//! `backupfs verify`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use clap::Args;
use common::verify::{Depth, Finding, Note, NoteAbout, Report, Scope, VersionRanges, Warning, Wrong, verify};
use common::{Backup, DataVersion, SpoolStatus, counted};
use offsite::copy::{CatalogDepth, CopyDirectory};
use serde_json::{Value, json};

use super::progress::Bar;
use super::read_url::{Opened, ReadArgs, ReadUrl};
use super::{Failure, copy_statements, verify_against as against};
use crate::mount::behind;

/// Check that a backup is complete, undamaged, and equal to what the node had.
///
/// Reads every byte, and checks all checksums and the chain over all records. Then it replays every change, compares the result
/// with the stored pages, and has SQLite check the newest version. For each fault it shows the file, the byte, and the versions
/// that are lost, and goes on. It takes no lock and changes nothing, so it works beside a recorder that writes.
///
/// Of an off-site copy it reads the logs, and only beginning and end of each other file: enough to see that nothing is missing and
/// that all of it forms one chain. --deep reads all of it.
#[derive(Debug, Args)]
#[command(after_help = "\
--against DB compares a database, of a node that runs or not, with the version of the backup that has its data_version: every row of every table, and the schema. The database is only read, for at most 15 s (exit code 2 if that is not enough).

Exit codes: 0 nothing is wrong, 1 damage, or a difference, or an old state, or a newest version that is damaged in the node's own database, 2 it could not be verified.

--json prints one object; its fields are in docs/json.md. Fields are only ever added.

Examples:
  backupfs verify /var/backup/node.bkp
  backupfs verify --quick --from 120000 /var/backup/node.bkp
  backupfs verify --against ~/.lightning/bitcoin/lightningd.sqlite3 /var/backup/node.bkp")]
pub struct VerifyArgs {
    /// The backup
    pub url: ReadUrl,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// Checksums only: nothing is replayed
    #[arg(long)]
    pub quick: bool,
    /// Read all of an off-site copy and replay it, as is done with a backup. Without it (or --quick, --from or --to) only its
    /// logs, and the ends of its other files are read
    #[arg(long, conflicts_with = "quick")]
    pub deep: bool,
    /// From this version on
    #[arg(long, value_name = "N")]
    pub from: Option<DataVersion>,
    /// Up to this version
    #[arg(long, value_name = "N")]
    pub to: Option<DataVersion>,
    /// Compare this database with the backup instead
    #[arg(long, value_name = "DB", conflicts_with_all = ["quick", "deep", "from", "to"])]
    pub against: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Verifies a backup, or compares a database with it.
///
/// # Errors
/// Exit code 1 when something is wrong, 2 when nothing could be verified.
pub fn run(args: &VerifyArgs) -> Result<(), Failure> {
    match &args.against {
        Some(database) => against::run(args, database),
        None => run_whole(args),
    }
}

fn run_whole(args: &VerifyArgs) -> Result<(), Failure> {
    let Opened { source, copy } = args.read.open_uncached(&args.url)?;
    let is_of_all = args.from.is_none() && args.to.is_none();
    let depth = match (&copy, args.quick) {
        (_, true) => Depth::Quick,
        (Some(_), false) if !args.deep && is_of_all => Depth::Chain,
        (_, false) => Depth::Replay,
    };
    let scope = Scope { depth, from: args.from, to: args.to };
    let bar = Mutex::new(Bar::new("verifying"));
    let bar = || bar.lock().unwrap_or_else(PoisonError::into_inner);
    let report = verify(&source, scope, &|done, total| bar().set(done, total));
    bar().finish();
    let mut report = report?;
    if let Some(copy) = &copy {
        note_wrong_catalogs(&mut report, &copy.directory, depth);
    }
    // A backup without damage may lack the changes in a spool. With a damaged manifest that is not known.
    let sight = Backup::open(&source).ok().map(|backup| backup.spool_sight());
    if let Some(sight) = &sight {
        behind::warn(sight);
    }
    let is_copy = copy.is_some();
    let statements = copy.map(|copy| copy.directory.statements()).transpose()?;
    let mut out = io::stdout().lock();
    let written = if args.json {
        let mut json = to_json(&args.url.place(), scope, &report, sight.as_ref());
        json["copy"] = statements.as_ref().map_or(Value::Null, copy_statements::to_json);
        write_json(&mut out, &json)
    } else {
        let said = statements.as_ref().filter(|_| report.is_clean()).map(copy_statements::text);
        write_text(&mut out, scope, &report).and_then(|()| said.map_or(Ok(()), |said| writeln!(out, "{said}")))
    };
    heard(written)?;
    if report.is_clean() {
        Ok(())
    } else if report.is_mended() {
        Err(Failure::No(anyhow!(
            "the disk has damaged files, and nothing is lost: parity mends them. Check the disk. `backupfs repair {}` writes the files \
             anew",
            args.url.place()
        )))
    } else if report.is_only_of_the_node() {
        Err(Failure::No(anyhow!(
            "the node's own database is damaged, and the backup has it as it is. Stop lightningd and repair the database, for \
             instance with `sqlite3 lightningd.sqlite3 .recover | sqlite3 repaired.sqlite3`, and put the repaired one in its \
             place; then run `backupfs init --replace`"
        )))
    } else if report.is_only_of_the_newest() {
        Err(Failure::No(anyhow!(
            "nothing is damaged, but the newest version cannot be opened, and every version that can be opened is an OLD STATE. Start lightningd: \
             with its next write the recorder takes a snapshot"
        )))
    } else if report.is_of_a_log() && !is_copy {
        Err(Failure::No(anyhow!(
            "the backup is damaged; keep all its files. The lines above show what is lost. A log that is not sealed yet is damaged. If the \
             recorder that wrote it still runs, do not stop it: it writes within the hour what it has in memory, unless `scrub` is off. If it \
             does not run any more, the node's database replaces the newest version, and the lost ones before it stay lost: look whether \
             the database is sound, with `sqlite3 lightningd.sqlite3 'PRAGMA quick_check'`, and begin a new backup from it with `backupfs \
             init --replace`"
        )))
    } else {
        Err(Failure::No(anyhow!("the backup is damaged; keep all its files. The lines above show what is lost")))
    }
}

/// Notes the catalogs of a copy that do not say what its segments say. What is wrong with the segments is in the report.
fn note_wrong_catalogs(report: &mut Report, copy: &CopyDirectory, depth: Depth) {
    let depth = if depth == Depth::Chain { CatalogDepth::Ends } else { CatalogDepth::All };
    match copy.wrong_catalogs(depth) {
        Ok(wrong) => {
            report.notes.extend(wrong.into_iter().map(|file| Note { file, about: NoteAbout::WrongCatalog }));
        }
        Err(error) => log::warn!("the catalogs are not checked: {error}"),
    }
}

/// Ignores a pipe that its reader has closed; any other error means that the output is not complete.
pub(super) fn heard(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the result").map_err(Failure::Failed)
        }
        _ => Ok(()),
    }
}

pub(super) fn write_json(out: &mut impl Write, json: &Value) -> io::Result<()> {
    serde_json::to_writer(&mut *out, json)?;
    writeln!(out)?;
    out.flush()
}

fn ranges(versions: &VersionRanges) -> Value {
    let range = |range: common::verify::VersionRange| json!({"first": range.first.get(), "last": range.last.map(common::DataVersion::get)});
    versions.iter().map(range).collect()
}

fn to_json(place: &str, scope: Scope, report: &Report, sight: Option<&SpoolStatus>) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "file": finding.file,
            "offset": finding.offset,
            "kind": finding.wrong.kind(),
            "text": finding.wrong.to_string(),
            "lost": ranges(&finding.lost),
            "in_doubt": ranges(&finding.in_doubt),
        })
    };
    let warning = |warning: &Warning| {
        json!({
            "kind": warning.kind(),
            "data_version": warning.data_version().get(),
            "text": warning.to_string(),
        })
    };
    let note = |note: &Note| json!({"file": note.file, "kind": note.about.kind(), "text": note.about.to_string()});
    let newest = report.newest.as_ref().map(|newest| {
        json!({
            "data_version": newest.data_version.get(),
            "integrity_check": newest.integrity_check,
            "foreign_key_check": newest.foreign_key_check,
        })
    });
    json!({
        "destination": place,
        "clean": report.is_clean(),
        "quick": scope.depth == Depth::Quick,
        "depth": match scope.depth {
            Depth::Chain => "chain",
            Depth::Quick => "quick",
            Depth::Replay => "replay",
        },
        "from": scope.from.map(common::DataVersion::get),
        "to": scope.to.map(common::DataVersion::get),
        "files": report.files,
        "bytes": report.bytes,
        "versions": report.versions,
        "versions_lost": report.versions_lost,
        "lost": ranges(&report.lost),
        "in_doubt": ranges(&report.in_doubt),
        "findings": report.findings.iter().map(finding).collect::<Value>(),
        "warnings": report.warnings.iter().map(warning).collect::<Value>(),
        "notes": report.notes.iter().map(note).collect::<Value>(),
        "newest": newest,
        "spool": sight.and_then(behind::to_json),
        "seconds": report.duration.as_secs_f64(),
    })
}

fn write_text(out: &mut impl Write, scope: Scope, report: &Report) -> io::Result<()> {
    for Finding { file, offset, wrong, lost, in_doubt } in &report.findings {
        let at = offset.map_or_else(String::new, |offset| format!(" at byte {offset}"));
        writeln!(out, "{file}{at}: {wrong}")?;
        if !lost.is_empty() {
            writeln!(out, "    costs the versions {lost}")?;
        }
        if !in_doubt.is_empty() {
            writeln!(out, "    may not be what the node had: {in_doubt}")?;
        }
        if let Wrong::NodeDatabase { .. } = wrong {
            writeln!(out, "    costs no version of the backup; `backupfs restore` needs --accept-damaged")?;
        } else if lost.is_empty() && in_doubt.is_empty() {
            writeln!(out, "    costs no version")?;
        }
    }
    for warning in &report.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for Note { file, about } in &report.notes {
        writeln!(out, "{file}: note: {about}")?;
    }
    let how = match scope.depth {
        Depth::Chain => "one chain, of which only the logs and the ends of files were read (--deep reads all of it)",
        Depth::Quick => "checksums only",
        Depth::Replay => "all replayed",
    };
    let seconds = report.duration.as_secs_f64();
    writeln!(
        out,
        "{}, {} bytes, {}, {how}, in {seconds:.1} s",
        counted(report.files, "file"),
        report.bytes,
        counted(report.versions, "version")
    )?;
    if let Some(newest) = &report.newest {
        let (integrity, foreign_keys) = (&newest.integrity_check, &newest.foreign_key_check);
        writeln!(
            out,
            "newest version {}: integrity_check {integrity}, foreign_key_check {foreign_keys}",
            newest.data_version
        )?;
    }
    let count = report.versions_lost.map_or_else(String::new, |count| format!(" ({count})"));
    match (report.is_clean(), report.lost.is_empty()) {
        (true, _) if report.warnings.is_empty() => writeln!(out, "nothing is wrong")?,
        (true, _) => writeln!(out, "nothing is wrong with the backup")?,
        (false, true) => writeln!(out, "{}; no version is lost", counted(report.findings.len(), "finding"))?,
        (false, false) => writeln!(
            out,
            "{}; lost: {}{count}; every other version can be mounted and restored",
            counted(report.findings.len(), "finding"),
            report.lost
        )?,
    }
    out.flush()
}

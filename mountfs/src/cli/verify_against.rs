//! `backupfs verify --against`.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use common::verify::{Against, Hold, compare_with_database};
use common::{Backup, RowDifference, TableDifferences, WhichRow, counted};
use serde_json::{Value, json};

use super::Failure;
use super::progress::Bar;
use super::verify::{VerifyArgs, heard, write_json};

/// The bytes that the progress bar counts for a page.
const PAGE_BYTES: u64 = 4096;

/// Compares a database with the version of the backup that has its data_version.
///
/// # Errors
/// Exit code 1 when they differ or the version is damaged, 2 when they could not be compared.
pub(super) fn run(args: &VerifyArgs, database: &Path) -> Result<(), Failure> {
    let backup = Arc::new(Backup::open(&args.read.open(&args.url)?.source)?);
    let mut bar = Bar::new("reading");
    let compared = compare_with_database(&backup, database, Hold::BESIDE_A_NODE, &mut |done, total| {
        bar.set(done * PAGE_BYTES, total * PAGE_BYTES);
    });
    bar.finish();
    let against = compared.map_err(|error| if error.is_damage() { Failure::no(error) } else { error.into() })?;
    let mut out = io::stdout().lock();
    heard(if args.json {
        write_json(&mut out, &to_json(&args.url.place(), database, &against))
    } else {
        write_text(&mut out, &against)
    })?;
    let version = against.data_version;
    match (against.is_same(), against.behind) {
        (true, 0) => Ok(()),
        (false, _) => Err(Failure::No(anyhow!("version {version} of the backup differs from the database"))),
        (true, behind) => Err(Failure::No(anyhow!(
            "this database is {} behind the backup: it is an OLD STATE. Never start lightningd on it; restore the newest version \
             with `backupfs restore`",
            counted(behind, "version")
        ))),
    }
}

fn name(which: WhichRow) -> &'static str {
    match which {
        WhichRow::OnlyInBackup => "only_in_backup",
        WhichRow::OnlyInDatabase => "only_in_database",
        WhichRow::Changed => "changed",
    }
}

fn to_json(backup: &str, database: &Path, against: &Against) -> Value {
    let row = |row: &RowDifference| {
        let key: serde_json::Map<String, Value> =
            row.key.iter().map(|part| (part.column.clone(), part.value.clone().into())).collect();
        json!({"key": key, "which": name(row.which), "columns": row.columns})
    };
    let table = |table: &TableDifferences| {
        json!({
            "table": table.table,
            "only_in_backup": table.only_in_backup,
            "only_in_database": table.only_in_database,
            "changed": table.changed,
            "first": table.first.iter().map(row).collect::<Value>(),
        })
    };
    let differences = &against.differences;
    let schema = differences.schema.iter();
    let schema: Value = schema.map(|it| json!({"type": it.kind, "name": it.name, "which": name(it.which)})).collect();
    json!({
        "destination": backup,
        "database": database.display().to_string(),
        "data_version": against.data_version.get(),
        "same": against.is_same(),
        "behind": against.behind,
        "same_pages": against.same_pages,
        "rows": (!against.same_pages).then_some(differences.rows),
        "schema": schema,
        "tables": differences.tables.iter().map(table).collect::<Value>(),
        "held_seconds": against.held.as_secs_f64(),
        "seconds": against.duration.as_secs_f64(),
    })
}

fn write_text(out: &mut impl Write, against: &Against) -> io::Result<()> {
    let differences = &against.differences;
    for entry in &differences.schema {
        writeln!(out, "{} {}: {}", entry.kind, entry.name, entry.which)?;
    }
    for table in &differences.tables {
        for row in &table.first {
            let key: Vec<String> = row.key.iter().map(ToString::to_string).collect();
            let key = if key.is_empty() { "a row".to_owned() } else { key.join(", ") };
            let columns =
                if row.columns.is_empty() { String::new() } else { format!(" in {}", row.columns.join(", ")) };
            writeln!(out, "{}: {key}: {}{columns}", table.table, row.which)?;
        }
        let TableDifferences { only_in_backup, only_in_database, changed, .. } = table;
        writeln!(
            out,
            "{}: rows that differ: {changed}, only in the backup: {only_in_backup}, only in the database: \
             {only_in_database}",
            table.table
        )?;
    }
    let (version, seconds) = (against.data_version, against.duration.as_secs_f64());
    match (against.is_same(), against.same_pages) {
        (true, true) => writeln!(out, "version {version} is the same, page by page, in {seconds:.1} s")?,
        (true, false) => {
            let rows = counted(differences.rows, "row");
            writeln!(out, "version {version} is the same, all of it ({rows}), in {seconds:.1} s")?;
        }
        (false, _) => writeln!(out, "version {version} is NOT the same")?,
    }
    out.flush()
}

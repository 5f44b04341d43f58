//! `backupfs diff`.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use clap::Args;
use common::diff::{DiffEntry, RowChange, RowFate, SchemaChange, TableTotals, diff};
use common::{Backup, DataVersion};
use serde_json::json;

use super::read_url::{ReadArgs, ReadUrl};
use super::verify::heard;
use super::{Failure, chosen_version, values};
use crate::mount::behind;

/// Show what changed from one version to another: rows added, removed and changed, with their values.
///
/// The versions may be in any order, and any distance apart. For neighbours it takes milliseconds at any size of the
/// database, because only changed pages are compared. Values may be secrets, such as preimages. Long values are cut, except in
/// --json.
#[derive(Debug, Args)]
#[command(after_help = "\
A line begins with + for a row that only B has, - for one that only A has, ~ for one that differs. A table ends with the numbers of its rows.

--json prints one object a line. `kind` is row (table, change: added, removed or changed; key, before, after: objects with columns and values, null where there is no row; columns: those that differ), schema (type, name, table, change, before, after: its SQL) or table (table, added, removed, changed: how many rows). Values that JSON does not have are objects: a blob has its hexadecimal digits as `blob`, a text that is not UTF-8 as `text`, an infinite number is `real`. --summary leaves out the rows. Fields, and kinds, are only ever added.

Exit codes: 0 done, whether anything differs or not, 1 the backup is damaged, 2 there is no such version or table, or it could not be done.

Examples:
  backupfs diff /var/backup/node.bkp 123455 123456
  backupfs diff --summary /var/backup/node.bkp 120000 123456
  backupfs diff --table channels --json /var/backup/node.bkp 120000 123456")]
pub struct DiffArgs {
    /// The backup
    pub url: ReadUrl,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// The version to begin with
    #[arg(value_name = "A")]
    pub from: DataVersion,
    /// The version to end with
    #[arg(value_name = "B")]
    pub to: DataVersion,
    /// Only this table; can be given several times
    #[arg(long, value_name = "T")]
    pub table: Vec<String>,
    /// Only the numbers of rows of each table
    #[arg(long)]
    pub summary: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Shows the differences.
///
/// # Errors
/// Exit code 1 when a needed part of the backup is damaged, 2 when a version is not there or the backup cannot be read at all.
pub fn run(args: &DiffArgs) -> Result<(), Failure> {
    let backup = Arc::new(Backup::open(&args.read.open(&args.url)?.source)?);
    behind::warn(&backup.spool_sight());
    let (history, problem) = backup.read_history();
    let find = |version| chosen_version::find(&history, problem.as_ref().err(), version);
    let (from, to) = (find(args.from)?, find(args.to)?);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let compared = diff(&backup, &history, (&from, &to), &args.table, &mut |entry| {
        written = write(&entry, args, &mut out);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    heard(written.and_then(|()| out.flush()))?;
    compared.map_err(|error| if error.is_damage() { Failure::no(error) } else { error.into() })
}

fn write(entry: &DiffEntry<'_>, args: &DiffArgs, out: &mut impl Write) -> io::Result<()> {
    match entry {
        DiffEntry::Row(_) if args.summary => Ok(()),
        _ if args.json => writeln!(out, "{}", to_json(entry)),
        DiffEntry::Schema(change) => write_schema(change, out),
        DiffEntry::Row(row) => write_row(row, out),
        DiffEntry::Table(TableTotals { table, added, removed, changed }) => {
            let table = named(table);
            writeln!(out, "{table}: {added} added, {removed} removed, {changed} changed")
        }
    }
}

const fn fate_name(fate: RowFate) -> &'static str {
    match fate {
        RowFate::Added => "added",
        RowFate::Removed => "removed",
        RowFate::Changed => "changed",
    }
}

const fn sign(fate: RowFate) -> char {
    match fate {
        RowFate::Added => '+',
        RowFate::Removed => '-',
        RowFate::Changed => '~',
    }
}

fn to_json(entry: &DiffEntry<'_>) -> serde_json::Value {
    match entry {
        DiffEntry::Schema(SchemaChange { kind, name, table, fate, before, after }) => json!({
            "kind": "schema", "type": kind, "name": name, "table": table, "change": fate_name(*fate),
            "before": before, "after": after,
        }),
        DiffEntry::Row(row) => {
            let object = |values: Option<&[_]>| values.map(|values| values::object(row.columns.iter().zip(values)));
            let columns: Vec<&String> = row.differing().into_iter().filter_map(|at| row.columns.get(at)).collect();
            json!({
                "kind": "row", "table": row.table, "change": fate_name(row.fate),
                "key": values::object(row.key_columns.iter().zip(row.key)),
                "before": object(row.before), "after": object(row.after), "columns": columns,
            })
        }
        DiffEntry::Table(TableTotals { table, added, removed, changed }) => {
            json!({"kind": "table", "table": table, "added": added, "removed": removed, "changed": changed})
        }
    }
}

/// A name for the terminal, without control characters.
fn named(name: &str) -> String {
    if name.contains(char::is_control) { name.escape_default().to_string() } else { name.to_owned() }
}

fn write_schema(change: &SchemaChange, out: &mut impl Write) -> io::Result<()> {
    let (kind, name) = (&change.kind, named(&change.name));
    writeln!(out, "{} {kind} {name}", sign(change.fate))?;
    for (sign, sql) in [('-', &change.before), ('+', &change.after)] {
        if let Some(sql) = sql {
            writeln!(out, "    {sign} {}", super::show::escaped(sql).replace('\n', "\n      "))?;
        }
    }
    Ok(())
}

fn write_row(row: &RowChange<'_>, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{} {}", sign(row.fate), named(row.table))?;
    let key = row.key_columns.iter().zip(row.key);
    let key: Vec<String> = key.map(|(column, value)| format!("{}={}", named(column), value)).collect();
    if !key.is_empty() {
        write!(out, " {}", key.join(" "))?;
    }
    match (row.before, row.after) {
        (Some(before), Some(after)) => {
            writeln!(out)?;
            for at in row.differing() {
                let [before, after] =
                    [before, after].map(|row| row.get(at).map(ToString::to_string).unwrap_or_default());
                writeln!(
                    out,
                    "    {}: {before} -> {after}",
                    row.columns.get(at).map(|it| named(it)).unwrap_or_default()
                )?;
            }
            Ok(())
        }
        (Some(only), None) | (None, Some(only)) => {
            let values: Vec<String> =
                row.columns.iter().zip(only).map(|(column, value)| format!("{}={}", named(column), value)).collect();
            writeln!(out, ": {}", values.join(", "))
        }
        (None, None) => writeln!(out),
    }
}

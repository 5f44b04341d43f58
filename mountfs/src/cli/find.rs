//! `backupfs find`.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;
use common::find::{RowKey, Transition, Turns, find};
use common::{Backup, DataVersion, Version};
use serde_json::json;

use super::read_url::{ReadArgs, ReadUrl};
use super::verify::heard;
use super::{Failure, chosen_version, values};
use crate::mount::behind;

/// The most keys of rows that are shown for each version.
const KEYS_SHOWN: usize = 6;

/// Find the versions at which the rows of a table that match a condition changed.
///
/// Shows each version in which a row matches that did not in the version before, or the other way round. The search is exact:
/// also a row that matched in a single version is found. Changes that cannot affect the condition are skipped, all others are
/// replayed. Before the table, or a column of the condition, was created, and after it was dropped, no row matches. If one of
/// them was renamed, the search fails and names the version: it cannot go past that.
#[derive(Debug, Args)]
#[command(after_help = "\
SQL is one expression about the columns of a row, as after WHERE: no query, no aggregate, no parameter. It cannot write. `now` means the time of the search.

--json prints one object a line. `kind` is first (the first version searched: data_version, seq, recorded_at, matches: the number of rows that match in it) or turn (the same for a version at which they changed; also began and ended: the keys of the rows, each an object). Fields, and kinds, are only ever added.

Exit codes: 0 done, whether anything was found or not, 1 the backup is damaged, 2 there is no such version or table, the condition cannot be used, or it could not be done.

Examples:
  backupfs find /var/backup/node.bkp --table channels --where 'state = 8'
  backupfs find /var/backup/node.bkp --table vars --where \"name = 'last_processed_block' AND intval >= 800000\" --from 120000")]
pub struct FindArgs {
    /// The backup
    pub url: ReadUrl,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// The table
    #[arg(long, value_name = "T")]
    pub table: String,
    /// The condition
    #[arg(long = "where", value_name = "SQL")]
    pub condition: String,
    /// From this version on
    #[arg(long, value_name = "N")]
    pub from: Option<DataVersion>,
    /// Up to this version
    #[arg(long, value_name = "N")]
    pub to: Option<DataVersion>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Finds the versions at which the rows that match a condition changed.
///
/// # Errors
/// Exit code 1 when a needed part of the backup is damaged, 2 when the condition cannot be used or the backup cannot be read at all.
pub fn run(args: &FindArgs) -> Result<(), Failure> {
    let backup = Arc::new(Backup::open(&args.read.open(&args.url)?.source)?);
    behind::warn(&backup.spool_sight());
    let (history, problem) = backup.read_history();
    let choose = |wanted: Option<DataVersion>, otherwise: Option<Version>| match wanted {
        Some(wanted) => chosen_version::find(&history, problem.as_ref().err(), wanted),
        None => otherwise.ok_or_else(|| Failure::Failed(anyhow!("{} has no version yet", args.url))),
    };
    let first = choose(args.from, history.oldest().map_err(Failure::no)?)?;
    let last = choose(args.to, history.newest().cloned())?;
    if last.seq < first.seq {
        return Err(Failure::Failed(anyhow!(
            "version {} comes after version {}",
            first.data_version,
            last.data_version
        )));
    }
    let found = find(&backup, &history, (&first, &last), &args.table, &args.condition);
    let turns = found.map_err(|error| if error.is_damage() { Failure::no(error) } else { error.into() })?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = if args.json { write_json(&turns, &mut out) } else { write_text(&turns, &mut out) };
    heard(written.and_then(|()| out.flush()))?;
    match args.to {
        // The part that cannot be read comes after it.
        Some(_) => Ok(()),
        // The results so far are shown nevertheless.
        None => problem.map_err(Failure::no),
    }
}

fn write_json(turns: &Turns, out: &mut impl Write) -> io::Result<()> {
    let object = |kind: &str, version: &Version, matches: u64| {
        json!({
            "kind": kind, "data_version": version.data_version.get(), "seq": version.seq.get(),
            "recorded_at": version.recorded_at.to_string(), "matches": matches,
        })
    };
    writeln!(out, "{}", object("first", &turns.first, turns.matches))?;
    let keys = |keys: &[RowKey]| -> serde_json::Value {
        keys.iter().map(|key| values::object(turns.key_columns.iter().zip(&key.0))).collect()
    };
    for Transition { version, began, ended, matches } in &turns.turns {
        let mut turn = object("turn", version, *matches);
        turn["began"] = keys(began);
        turn["ended"] = keys(ended);
        writeln!(out, "{turn}")?;
    }
    Ok(())
}

fn write_text(turns: &Turns, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:>12}  {:27}  {:>8}  ROWS", "DATA_VERSION", "RECORDED AT", "MATCHES")?;
    let mut line = |version: &Version, matches: u64, rows: &str| {
        writeln!(out, "{:>12}  {:27}  {matches:>8}  {rows}", version.data_version, version.recorded_at.to_string())
    };
    line(&turns.first, turns.matches, "in the first version")?;
    for Transition { version, began, ended, matches } in &turns.turns {
        let shown = |sign: char, key: &RowKey| {
            let parts = turns.key_columns.iter().zip(&key.0);
            let parts: Vec<String> = parts.map(|(column, value)| format!("{column}={value}")).collect();
            format!("{sign} {}", parts.join(" "))
        };
        let all = began.iter().map(|key| ('+', key)).chain(ended.iter().map(|key| ('-', key)));
        let mut rows: Vec<String> = all.take(KEYS_SHOWN).map(|(sign, key)| shown(sign, key)).collect();
        let more = (began.len() + ended.len()).saturating_sub(KEYS_SHOWN);
        if more > 0 {
            rows.push(format!("{more} more"));
        }
        line(version, *matches, &rows.join(", "))?;
    }
    Ok(())
}

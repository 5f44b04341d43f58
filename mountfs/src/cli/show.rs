//! `backupfs show`.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::sync::Arc;

use clap::Args;
use common::{Backup, DataVersion, History, Version, View};
use serde::Serialize;

use super::read_url::{ReadArgs, ReadUrl};
use super::verify::heard;
use super::versions::commit_name;
use super::{Failure, chosen_version};
use crate::mount::behind;
use crate::note;
use crate::tree::content::{Shape, origin_name};
use common::with_causes;

/// Show a version: its statements, when it was recorded, how big it is.
///
/// The statements are those that `lightningd` sent before it committed the version, unchanged, riders included. A version that
/// was recorded as a snapshot has none. Statements may contain secrets, such as preimages.
#[derive(Debug, Args)]
#[command(after_help = "\
--json prints one object: data_version, seq, recorded_at (RFC 3339), status, commit, origin, statements and bytes as in `versions --json`; segment (the file it is recorded in), pages, page_size, size_bytes as in info.json of the mount; sql (the statements, in order). What is not known is null. Fields are only ever added.

Exit codes: 0 done, 1 the version is damaged, 2 there is no such version, or it could not be done.

Examples:
  backupfs show /var/backup/node.bkp 123456
  backupfs show --json /var/backup/node.bkp 123456 | jq -r '.sql[]'")]
pub struct ShowArgs {
    /// The backup
    pub url: ReadUrl,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// The version
    #[arg(value_name = "N")]
    pub version: DataVersion,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Shows a version.
///
/// # Errors
/// Exit code 1 when the version is damaged, 2 when it does not exist or the backup cannot be read at all.
pub fn run(args: &ShowArgs) -> Result<(), Failure> {
    let backup = Arc::new(Backup::open(&args.read.open(&args.url)?.source)?);
    behind::warn(&backup.spool_sight());
    let (history, problem) = backup.read_history();
    let version = chosen_version::find(&history, problem.as_ref().err(), args.version)?;
    let addresses = history.records_of(&version).map_err(Failure::no)?;
    let shown = Shown {
        shape: shape(&backup, &history, &version),
        segment: history.file_name_of(&version).map_err(Failure::no)?,
        sql: backup.statements(&addresses).map_err(Failure::no)?,
        version,
    };
    let stdout = io::stdout().lock();
    let controls = if stdout.is_terminal() { Controls::Escaped } else { Controls::AsTheyAre };
    let mut out = BufWriter::new(stdout);
    let written = if args.json { shown.write_json(&mut out) } else { shown.write(controls, &mut out) };
    heard(written.and_then(|()| out.flush()))
}

/// The size of a version; if the backup does not have it recorded, the version is opened.
fn shape(backup: &Arc<Backup>, history: &History, version: &Version) -> Option<Shape> {
    Shape::recorded(version).or_else(|| {
        let plan = history.plan(version).map_err(|error| with_causes(&error));
        let view = plan.and_then(|plan| View::open(backup, &plan).map_err(|error| with_causes(&error)));
        view.inspect_err(|why| note!("warning: how big it is cannot be found out: {why}"))
            .ok()
            .map(|view| Shape::of(&view))
    })
}

/// Whether control characters are escaped: a terminal obeys them, and a hostile peer chooses some of the texts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Controls {
    AsTheyAre,
    Escaped,
}

struct Shown {
    version: Version,
    shape: Option<Shape>,
    segment: Option<String>,
    sql: Vec<String>,
}

/// The fields of `--json`.
#[derive(Serialize)]
struct Fields<'a> {
    data_version: u32,
    seq: u64,
    recorded_at: String,
    status: &'static str,
    commit: &'static str,
    origin: &'static str,
    statements: u64,
    bytes: u64,
    segment: Option<&'a str>,
    pages: Option<u32>,
    page_size: Option<u32>,
    size_bytes: Option<u64>,
    sql: &'a [String],
}

impl Shown {
    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { version, shape, segment, sql } = self;
        let fields = Fields {
            data_version: version.data_version.get(),
            seq: version.seq.get(),
            recorded_at: version.recorded_at.to_string(),
            status: "recorded",
            commit: commit_name(version.commit),
            origin: origin_name(&version.origin),
            statements: version.statements,
            bytes: version.statement_bytes,
            segment: segment.as_deref(),
            pages: shape.map(|shape| shape.pages),
            page_size: shape.map(|shape| shape.page_size),
            size_bytes: shape.map(|shape| shape.size_bytes),
            sql,
        };
        serde_json::to_writer(&mut *out, &fields)?;
        writeln!(out)
    }

    fn write(&self, controls: Controls, out: &mut impl Write) -> io::Result<()> {
        let Self { version, shape, segment, sql } = self;
        writeln!(out, "-- version     {}", version.data_version)?;
        writeln!(out, "-- recorded    {}, as a {}", version.recorded_at, origin_name(&version.origin))?;
        writeln!(out, "-- seq         {}, in {}", version.seq, segment.as_deref().unwrap_or("nothing"))?;
        writeln!(out, "-- commit      {}", commit_name(version.commit))?;
        match shape {
            Some(Shape { pages, page_size, size_bytes }) => {
                writeln!(out, "-- database    {size_bytes} bytes: {pages} pages of {page_size}")?;
            }
            None => writeln!(out, "-- database    size not known")?,
        }
        writeln!(out, "-- statements  {}, {} bytes", version.statements, version.statement_bytes)?;
        for statement in sql {
            let text = match controls {
                Controls::AsTheyAre => Cow::Borrowed(statement.as_str()),
                Controls::Escaped => escaped(statement),
            };
            writeln!(out, "{text}{}", if statement.ends_with(';') { "" } else { ";" })?;
        }
        Ok(())
    }
}

/// The text without control characters other than line ends and tabs.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    let harmful = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if harmful(letter) { escaped.extend(letter.escape_default()) } else { escaped.push(letter) }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(escaped("a\n\tb ü"), "a\n\tb ü");
        assert_eq!(escaped("\u{1b}[2J\r\u{9b}x"), "\\u{1b}[2J\\r\\u{9b}x");
    }
}

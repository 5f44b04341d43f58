//! `backupfs versions`.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use common::{Backup, DataVersion, History, ReadError, Seq, TimelineEntry, Timestamp, Version, counted};
use format::version_rules::Commit;
use serde::Serialize;

use super::read_url::{ReadArgs, ReadUrl};
use super::time_arg::Bound;
use super::versions_graph::Unit;
use super::{Failure, versions_graph};
use crate::mount::behind;
use crate::note;
use crate::tree::content::{origin_name, reason_name};

/// List the versions in a backup.
///
/// Rewound versions (`lightningd` died before it committed them) and versions that were never recorded are listed, too,
/// and marked.
#[derive(Debug, Args)]
#[command(after_help = "\
X is a data_version (digits only) or a time in UTC: 2026-11-22, '2026-11-22 14:05', 2026-11-22T14:05:07Z. Both ends are included.

--json prints one object a line: data_version, seq, recorded_at (RFC 3339), status (recorded, rewound, replaced, unreadable, missing), commit (certain, seen, unknown), origin (change, snapshot), reason (of a snapshot: init, gap, changed, unreplayable), statements, bytes. What is not known is null. Fields are only ever added.

With --graph it prints one object for each hour or day that has something: start (RFC 3339), unit (hours, days), versions, rewound, missing (noticed then), bytes.

Examples:
  backupfs versions --since 2026-11-22 /var/backup/node.bkp
  backupfs versions --graph=days /var/backup/node.bkp")]
pub struct VersionsArgs {
    /// The backup
    pub url: ReadUrl,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// From this version or time on
    #[arg(long, value_name = "X", value_parser = Bound::since)]
    pub since: Option<Bound>,
    /// Up to this version or time
    #[arg(long, value_name = "X", value_parser = Bound::until)]
    pub until: Option<Bound>,
    /// Show the number of versions of each hour or day, as bars
    #[arg(long, value_name = "UNIT", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub graph: Option<Unit>,
}

/// Lists the versions in a backup.
///
/// # Errors
/// Exit code 1 when the backup is damaged (the intact part is listed), 2 when it cannot be read at all.
pub fn run(args: &VersionsArgs) -> Result<(), Failure> {
    let backup = Arc::new(Backup::open(&args.read.open(&args.url)?.source)?);
    behind::warn(&backup.spool_sight());
    let (history, problem) = backup.read_history();
    let mut out = BufWriter::new(io::stdout().lock());
    let listed = match args.graph {
        Some(unit) => {
            let range = Range::new(&history, args.since, args.until);
            versions_graph::write(&history, &range, unit, args.json, &mut out)
        }
        None => list(&history, args, &mut out),
    };
    let listed = listed.and_then(|read| out.flush().map(|()| read));
    match listed {
        Ok(read) => problem.and(read).map_err(Failure::no),
        // `backupfs versions … | head`: the reader has closed the pipe, which is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error).context("cannot write the list").map_err(Failure::Failed),
    }
}

/// One line of the list.
pub(super) enum Line {
    Version(Row),
    /// The versions from the first to the last were never recorded.
    Missing(DataVersion, DataVersion),
    /// The number of versions dropped by a compaction, and the newest of them.
    Dropped(u64, DataVersion),
}

/// One version. The field names are those of `--json`.
#[derive(Serialize)]
pub(super) struct Row {
    data_version: u32,
    seq: Option<u64>,
    recorded_at: Option<String>,
    status: Status,
    /// `certain` once `lightningd` went on from it, `seen` when it was in the database at the end of its run; `unknown` for the
    /// newest change of a run, and for one after which `lightningd` ran without the recorder.
    commit: Option<&'static str>,
    origin: Option<&'static str>,
    /// The reason of a snapshot.
    reason: Option<&'static str>,
    statements: Option<u64>,
    bytes: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Recorded,
    Rewound,
    Replaced,
    Unreadable,
    Missing,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Rewound => "rewound",
            Self::Replaced => "replaced",
            Self::Unreadable => "unreadable",
            Self::Missing => "missing",
        }
    }
}

/// The word for whether a version was committed.
pub(super) const fn commit_name(commit: Commit) -> &'static str {
    match commit {
        Commit::Certain => "certain",
        Commit::Seen => "seen",
        Commit::Unknown => "unknown",
    }
}

/// Writes the list. The inner result is the error if a part cannot be read and is missing from the list.
fn list(history: &History, args: &VersionsArgs, out: &mut impl Write) -> io::Result<Result<(), ReadError>> {
    let range = Range::new(history, args.since, args.until);
    if !args.json {
        writeln!(
            out,
            "{:>12} {:>12}  {:27}  {:10} {:>10} {:>10}",
            "DATA_VERSION", "SEQ", "RECORDED AT", "STATUS", "STATEMENTS", "BYTES"
        )?;
    }
    let (mut written, mut clock) = (Ok(()), ClockOfList::default());
    let read = history.for_timeline(&mut |entry| {
        if let TimelineEntry::Recorded(version) = &entry {
            clock.see(version, range.has(version.data_version, version.recorded_at));
        }
        written = range.line(&entry).map_or(Ok(()), |line| write_line(&line, args, out));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if written.is_ok() {
        clock.warn();
    }
    written.map(|()| read)
}

/// Checks whether the versions in a range of time are consecutive. They are, unless the clock was wrong once.
#[derive(Default)]
struct ClockOfList {
    listed: bool,
    /// The first version after a listed one that is outside of the range.
    left_out: Option<Version>,
    /// The first version that is inside of the range again.
    again: Option<Version>,
}

impl ClockOfList {
    fn see(&mut self, version: &Version, is_listed: bool) {
        match (is_listed, &self.left_out) {
            (true, None) => self.listed = true,
            (true, Some(_)) => drop(self.again.get_or_insert_with(|| version.clone())),
            (false, _) if self.listed => drop(self.left_out.get_or_insert_with(|| version.clone())),
            (false, _) => {}
        }
    }

    fn warn(&self) {
        let (Some(left_out), Some(again)) = (&self.left_out, &self.again) else { return };
        note!(
            "warning: the clock was wrong once, for version {}, recorded at {}, comes before version {}, recorded at {}. Each \
             version is listed by its own time; give versions instead of times to see them in the order in which they were \
             recorded.",
            left_out.data_version,
            left_out.recorded_at,
            again.data_version,
            again.recorded_at
        );
    }
}

fn write_line(line: &Line, args: &VersionsArgs, out: &mut impl Write) -> io::Result<()> {
    match *line {
        Line::Version(ref row) if args.json => write_json(row, out),
        Line::Version(ref row) => write_row(row, out),
        Line::Missing(first, last) if args.json => {
            let mut version = first;
            loop {
                write_json(&missing(version), out)?;
                if version == last {
                    return Ok(());
                }
                version = version.next();
            }
        }
        // Single dropped versions are not known.
        Line::Dropped(..) if args.json => Ok(()),
        Line::Dropped(versions, last) => {
            let text = format!("({} up to this one: dropped by a compaction)", counted(versions, "version"));
            writeln!(out, "{last:>12} {:>12}  {text}", "-")
        }
        Line::Missing(first, last) => {
            let versions = if first == last { first.to_string() } else { format!("{first}-{last}") };
            writeln!(out, "{versions:>12} {:>12}  {:27}  {}", "-", "-", Status::Missing.name())
        }
    }
}

fn write_json(row: &Row, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    out.write_all(b"\n")
}

fn write_row(row: &Row, out: &mut impl Write) -> io::Result<()> {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    writeln!(
        out,
        "{:>12} {:>12}  {:27}  {:10} {:>10} {:>10}",
        row.data_version,
        number(row.seq),
        row.recorded_at.as_deref().unwrap_or("-"),
        row.status.name(),
        number(row.statements),
        number(row.bytes),
    )
}

fn missing(version: DataVersion) -> Row {
    Row {
        data_version: version.get(),
        seq: None,
        recorded_at: None,
        status: Status::Missing,
        commit: None,
        origin: None,
        reason: None,
        statements: None,
        bytes: None,
    }
}

/// The range of versions to list.
pub(super) struct Range {
    /// The first version of the backup, if data_version has wrapped since.
    wrapped_at: Option<DataVersion>,
    since: Option<Bound>,
    until: Option<Bound>,
}

impl Range {
    fn new(history: &History, since: Option<Bound>, until: Option<Bound>) -> Self {
        // If nothing at all is readable, the list shows the error.
        let oldest = history.oldest().ok().flatten().map(|version| version.data_version);
        let newest = history.newest().map(|version| version.data_version);
        let wrapped_at = oldest.filter(|oldest| newest.is_some_and(|newest| newest < *oldest));
        Self { wrapped_at, since, until }
    }

    /// The position of a version: after a wrap the newer ones have the smaller numbers.
    fn ordinal(&self, version: DataVersion) -> u64 {
        let wrapped = self.wrapped_at.is_some_and(|first| version < first);
        u64::from(version.get()) + if wrapped { 1 << 32 } else { 0 }
    }

    pub(super) fn has(&self, version: DataVersion, at: Timestamp) -> bool {
        let since = match self.since {
            None => true,
            Some(Bound::Version(since)) => self.ordinal(version) >= self.ordinal(since),
            Some(Bound::Micros(since)) => at.as_micros() >= since,
        };
        let until = match self.until {
            None => true,
            Some(Bound::Version(until)) => self.ordinal(version) <= self.ordinal(until),
            Some(Bound::Micros(until)) => at.as_micros() <= until,
        };
        since && until
    }

    /// The line for a version that cannot be opened, if it is in the range.
    fn void(&self, status: Status, data_version: DataVersion, seq: Seq, recorded_at: Timestamp) -> Option<Line> {
        let row = || Row {
            data_version: data_version.get(),
            seq: Some(seq.get()),
            recorded_at: Some(recorded_at.to_string()),
            status,
            commit: None,
            // A rewound version was a change; for the others the origin is not known.
            origin: (status == Status::Rewound).then_some("change"),
            reason: None,
            statements: None,
            bytes: None,
        };
        self.has(data_version, recorded_at).then(|| Line::Version(row()))
    }

    /// The line for an entry, if it is in the range.
    pub(super) fn line(&self, entry: &TimelineEntry) -> Option<Line> {
        match entry {
            TimelineEntry::Recorded(version) => self.has(version.data_version, version.recorded_at).then(|| {
                Line::Version(Row {
                    data_version: version.data_version.get(),
                    seq: Some(version.seq.get()),
                    recorded_at: Some(version.recorded_at.to_string()),
                    status: Status::Recorded,
                    commit: Some(commit_name(version.commit)),
                    origin: Some(origin_name(&version.origin)),
                    reason: reason_name(&version.origin),
                    statements: Some(version.statements),
                    bytes: Some(version.statement_bytes),
                })
            }),
            TimelineEntry::Rewound { data_version, seq, recorded_at } => {
                self.void(Status::Rewound, *data_version, *seq, *recorded_at)
            }
            TimelineEntry::Replaced { data_version, seq, recorded_at } => {
                self.void(Status::Replaced, *data_version, *seq, *recorded_at)
            }
            TimelineEntry::Unreadable { data_version, seq, recorded_at } => {
                self.void(Status::Unreadable, *data_version, *seq, *recorded_at)
            }
            // A gap has the time at which it was noticed.
            TimelineEntry::Missing { first, last, noticed_at, .. } => {
                let mut from = *first;
                let mut to = *last;
                if let Some(Bound::Version(since)) = self.since
                    && self.ordinal(since) > self.ordinal(from)
                {
                    from = since;
                }
                if let Some(Bound::Version(until)) = self.until
                    && self.ordinal(until) < self.ordinal(to)
                {
                    to = until;
                }
                let some = self.ordinal(from) <= self.ordinal(to);
                (some && self.has(from, *noticed_at)).then_some(Line::Missing(from, to))
            }
            // It has no time, so it is listed only without a range of time.
            TimelineEntry::Dropped { versions, last, .. } => {
                let all = self.since.is_none() && self.until.is_none();
                all.then_some(Line::Dropped(*versions, *last))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(wrapped_at: Option<u32>, since: Option<Bound>, until: Option<Bound>) -> Range {
        Range { wrapped_at: wrapped_at.map(DataVersion::new), since, until }
    }

    fn version(number: u32) -> Option<Bound> {
        Some(Bound::Version(DataVersion::new(number)))
    }

    fn gap(first: u32, last: u32) -> TimelineEntry {
        TimelineEntry::Missing {
            first: DataVersion::new(first),
            last: DataVersion::new(last),
            noticed_at: Timestamp::from_micros(1_000).unwrap(),
            before: Seq::FIRST,
        }
    }

    fn missing_in(range: &Range, entry: &TimelineEntry) -> Option<(u32, u32)> {
        match range.line(entry)? {
            Line::Missing(first, last) => Some((first.get(), last.get())),
            Line::Version(_) | Line::Dropped(..) => None,
        }
    }

    #[test]
    fn a_gap_is_cut_to_what_was_asked_for() {
        let entry = gap(10, 20);
        assert_eq!(missing_in(&range(None, None, None), &entry), Some((10, 20)));
        assert_eq!(missing_in(&range(None, version(15), version(16)), &entry), Some((15, 16)));
        assert_eq!(missing_in(&range(None, version(20), None), &entry), Some((20, 20)));
        assert_eq!(missing_in(&range(None, version(21), None), &entry), None);
        assert_eq!(missing_in(&range(None, None, version(9)), &entry), None);
        assert_eq!(missing_in(&range(None, Some(Bound::Micros(1_001)), None), &entry), None);
        assert_eq!(missing_in(&range(None, Some(Bound::Micros(1_000)), None), &entry), Some((10, 20)));
    }

    #[test]
    fn both_ends_are_included_and_order_holds_across_the_wrap() {
        let at = Timestamp::from_micros(0).unwrap();
        let has = |range: &Range, number: u32| range.has(DataVersion::new(number), at);
        let plain = range(None, version(5), version(4_000_000_000));
        assert!(!has(&plain, 4) && has(&plain, 5) && has(&plain, 4_000_000_000) && !has(&plain, 4_000_000_001));
        let wrapped = range(Some(u32::MAX - 5), version(u32::MAX), version(1));
        assert!(!has(&wrapped, u32::MAX - 1) && has(&wrapped, u32::MAX) && has(&wrapped, 0) && has(&wrapped, 1));
        assert!(!has(&wrapped, 2));
    }
}

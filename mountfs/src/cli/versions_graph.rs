//! `backupfs versions --graph`: the number of versions of each hour or day, as bars.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::ops::ControlFlow;

use clap::ValueEnum;
use common::{History, ReadError, TimelineEntry, Timestamp};
use rustix::termios::tcgetwinsize;
use serde_json::json;

use super::versions::{Line, Range};

/// The unit of a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unit {
    /// An hour, up to four days of them, else a day
    Auto,
    /// An hour
    Hours,
    /// A day
    Days,
}

const HOUR_MICROS: i64 = 60 * 60 * 1_000_000;

/// The most hours for which the default unit is an hour.
const HOURS_MAX: i64 = 4 * 24;

/// The default width in columns, if that of the terminal is not known.
const WIDTH: usize = 80;

/// The minimum width of the bars, even if lines become wider than the terminal.
const BAR_MIN: usize = 10;

/// The most consecutive units without a version that get a line each; more of them share one.
const EMPTY_LINES_MAX: i64 = 2;

/// The counts of an hour or a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    versions: u64,
    rewound: u64,
    missing: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.versions += other.versions;
        self.rewound += other.rewound;
        self.missing += other.missing;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// The counts that the bar does not show, as text.
    fn notes(&self) -> String {
        let parts = [(self.missing, "missing"), (self.rewound, "rewound")];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        parts.join(", ")
    }
}

/// The characters for drawing bars.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Letters {
    Ascii,
    /// Block characters, in eighths of a column.
    Blocks,
}

impl Letters {
    /// The characters for the locale of the environment.
    fn of_environment() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let is_unicode = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        if is_unicode { Self::Blocks } else { Self::Ascii }
    }

    /// A bar for `count`, which is `width` columns long for `most`; any count but zero is visible.
    fn bar(self, count: u64, most: u64, width: usize) -> String {
        let eighths = |count: u64| (u128::from(count) * width as u128 * 8).div_ceil(u128::from(most.max(1)));
        let eighths = usize::try_from(eighths(count)).unwrap_or(0);
        match self {
            Self::Ascii => "#".repeat(eighths.div_ceil(8)),
            Self::Blocks => {
                let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
                format!("{}{part}", "█".repeat(eighths / 8))
            }
        }
    }
}

/// Writes the graph, or an object for each hour or day that has something. The inner result is the error if a part cannot be
/// read and is missing.
pub(super) fn write(
    history: &History,
    range: &Range,
    unit: Unit,
    json: bool,
    out: &mut impl Write,
) -> io::Result<Result<(), ReadError>> {
    let (hours, read) = tallies(history, range);
    let graph = Graph::new(&hours, unit);
    if json {
        graph.write_json(out)?;
    } else {
        let stdout = io::stdout();
        let width = if stdout.is_terminal() { tcgetwinsize(&stdout).map_or(0, |size| size.ws_col.into()) } else { 0 };
        graph.write(if width == 0 { WIDTH } else { width }, Letters::of_environment(), out)?;
    }
    Ok(read)
}

/// The counts of each hour since 1970.
fn tallies(history: &History, range: &Range) -> (BTreeMap<i64, Tally>, Result<(), ReadError>) {
    let mut hours: BTreeMap<i64, Tally> = BTreeMap::new();
    let read = history.for_timeline(&mut |entry| {
        let found = match &entry {
            TimelineEntry::Recorded(version) => range.has(version.data_version, version.recorded_at).then_some((
                version.recorded_at,
                Tally { versions: 1, bytes: version.statement_bytes, ..Tally::default() },
            )),
            TimelineEntry::Rewound { data_version, recorded_at, .. } => range
                .has(*data_version, *recorded_at)
                .then_some((*recorded_at, Tally { rewound: 1, ..Tally::default() })),
            TimelineEntry::Missing { noticed_at, .. } => match range.line(&entry) {
                Some(Line::Missing(first, last)) => {
                    let missing = u64::from(last.get().wrapping_sub(first.get())) + 1;
                    Some((*noticed_at, Tally { missing, ..Tally::default() }))
                }
                _ => None,
            },
            // They belong to no version.
            TimelineEntry::Replaced { .. } | TimelineEntry::Unreadable { .. } => None,
            // Their times are not known.
            TimelineEntry::Dropped { .. } => None,
        };
        if let Some((at, tally)) = found {
            hours.entry(at.as_micros() / HOUR_MICROS).or_default().add(&tally);
        }
        ControlFlow::Continue(())
    });
    (hours, read)
}

/// Hours or days with something in them, numbered since 1970.
struct Graph {
    hours_each: i64,
    tallies: BTreeMap<i64, Tally>,
}

impl Graph {
    fn new(hours: &BTreeMap<i64, Tally>, unit: Unit) -> Self {
        let span = match (hours.first_key_value(), hours.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last - first + 1,
            _ => 0,
        };
        let hours_each = match unit {
            Unit::Days => 24,
            Unit::Auto if span > HOURS_MAX => 24,
            Unit::Auto | Unit::Hours => 1,
        };
        let mut tallies: BTreeMap<i64, Tally> = BTreeMap::new();
        for (hour, tally) in hours {
            tallies.entry(hour / hours_each).or_default().add(tally);
        }
        Self { hours_each, tallies }
    }

    fn unit(&self) -> &'static str {
        if self.hours_each == 1 { "hours" } else { "days" }
    }

    /// The start of an hour or day.
    fn start(&self, number: i64) -> Option<Timestamp> {
        Timestamp::from_micros(number.checked_mul(self.hours_each)?.checked_mul(HOUR_MICROS)?)
    }

    fn label(&self, number: i64) -> String {
        let format = if self.hours_each == 1 { "%Y-%m-%d %H:00" } else { "%Y-%m-%d" };
        self.start(number).map_or_else(|| "-".to_owned(), |start| start.to_civil().strftime(format).to_string())
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        for (&number, tally) in &self.tallies {
            let Tally { versions, rewound, missing, bytes } = tally;
            let start = self.start(number).map(|start| start.to_string());
            let object = json!({
                "start": start, "unit": self.unit(), "versions": versions, "rewound": rewound, "missing": missing, "bytes": bytes,
            });
            writeln!(out, "{object}")?;
        }
        Ok(())
    }

    fn write(&self, width: usize, letters: Letters, out: &mut impl Write) -> io::Result<()> {
        let (Some((&first, _)), Some((&last, _))) = (self.tallies.first_key_value(), self.tallies.last_key_value())
        else {
            return writeln!(out, "no version");
        };
        let most = self.tallies.values().map(|tally| tally.versions).max().unwrap_or(0);
        let mut total = Tally::default();
        self.tallies.values().for_each(|tally| total.add(tally));
        let label = self.label(first).len();
        let digits = total.versions.to_string().len();
        let notes = self.tallies.values().map(|tally| tally.notes().len()).max().unwrap_or(0);
        let bar = width.saturating_sub(label + digits + notes + 6).max(BAR_MIN);
        let mut next = first;
        for (&number, tally) in &self.tallies {
            let empty = number - next;
            if empty > EMPTY_LINES_MAX {
                writeln!(out, "{:label$}  {empty} {} without a version", "...", self.unit())?;
            } else {
                for number in next..number {
                    writeln!(out, "{:label$}  {:>digits$}", self.label(number), 0)?;
                }
            }
            let drawn = letters.bar(tally.versions, most, bar);
            let line =
                format!("{:label$}  {:>digits$}  {drawn:bar$}  {}", self.label(number), tally.versions, tally.notes());
            writeln!(out, "{}", line.trim_end())?;
            next = number + 1;
        }
        let span = last - first + 1;
        let unit = if span == 1 { self.unit().trim_end_matches('s') } else { self.unit() };
        let Tally { versions, rewound, missing, bytes } = total;
        writeln!(
            out,
            "{:label$}  {versions}  in {span} {unit}, {missing} missing, {rewound} rewound, {bytes} bytes of SQL",
            "total"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(all: &[(i64, u64)]) -> BTreeMap<i64, Tally> {
        let tally = |versions| Tally { versions, bytes: versions * 10, ..Tally::default() };
        // 2026-11-26 00:00.
        all.iter().map(|&(hour, versions)| (498_792 + hour, tally(versions))).collect()
    }

    fn drawn(graph: &Graph, letters: Letters) -> String {
        let mut out = Vec::new();
        graph.write(46, letters, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn bars_are_as_wide_as_the_terminal_and_gaps_are_shown() {
        let mut all = hours(&[(0, 100), (1, 1), (3, 50), (9, 0)]);
        all.get_mut(&(498_792 + 9)).unwrap().missing = 7;
        let text = drawn(&Graph::new(&all, Unit::Auto), Letters::Ascii);
        let expected = "\
2026-11-26 00:00  100  ############
2026-11-26 01:00    1  #
2026-11-26 02:00    0
2026-11-26 03:00   50  ######
...               5 hours without a version
2026-11-26 09:00    0                7 missing
total             151  in 10 hours, 7 missing, 0 rewound, 1510 bytes of SQL
";
        assert_eq!(text, expected);
        assert!(text.lines().take(4).all(|line| line.len() <= 46 - "  7 missing".len()));
        let blocks = drawn(&Graph::new(&all, Unit::Days), Letters::Blocks);
        assert!(blocks.starts_with("2026-11-26  151  ██████████"), "{blocks}");
    }

    #[test]
    fn many_hours_become_days() {
        assert_eq!(Graph::new(&hours(&[(0, 1), (HOURS_MAX - 1, 1)]), Unit::Auto).unit(), "hours");
        let graph = Graph::new(&hours(&[(0, 1), (23, 2), (HOURS_MAX, 4)]), Unit::Auto);
        assert_eq!((graph.unit(), graph.tallies.len()), ("days", 2));
        assert_eq!(Graph::new(&hours(&[(0, 1), (HOURS_MAX, 1)]), Unit::Hours).unit(), "hours");
    }

    #[test]
    fn something_is_seen_of_all_but_nothing() {
        assert_eq!(Letters::Blocks.bar(1, 1_000_000, 10), "▏");
        assert_eq!(Letters::Blocks.bar(9, 16, 2), "█▏");
        assert_eq!((Letters::Blocks.bar(0, 5, 10), Letters::Ascii.bar(0, 0, 10)), (String::new(), String::new()));
        assert_eq!(Letters::Ascii.bar(u64::MAX, u64::MAX, 3), "###");
    }
}

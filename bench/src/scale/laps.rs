//! A recorded trace that goes on without end: played in laps, each on top of the one before.
//!
//! What must differ from lap to lap does, and everything else is what the trace has: keys are counted on ([`Keys`]), times
//! follow the time at which a change is recorded, and blobs, long texts and unique names are others in every lap. Lap 0 is
//! the trace as it was recorded, but for those times.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use anyhow::{Context as _, ensure};
use common::{DataVersion, Timestamp};
use mountfs::demo::trace::TraceWrite;
use rusqlite::Connection;
use rusqlite::types::Value as SqlValue;

use super::disguise::Disguise;
use super::keys::{DomainId, Keys, Kind, VARS};
use super::literals::{Column, Literal, Statement, Value, Verb};

/// Words and short texts are the same in every lap; what is longer is an invoice.
const LONG_TEXT: usize = 64;

/// How long after the trace a time in it may be: invoices expire later.
const LATER: Range<i64> = -3600..90 * 86_400;

/// A trace prepared to be played in laps.
pub struct Laps {
    keys: Keys,
    writes: Vec<Write>,
    /// The version before lap 0.
    before: DataVersion,
    /// Begin and end of lap 0, in seconds.
    times: Range<i64>,
    /// Blobs and names that are there before lap 0: they are the same ones in every lap.
    kept: HashSet<String>,
}

struct Write {
    at: Timestamp,
    statements: Vec<Prepared>,
}

struct Prepared {
    sql: String,
    slots: Vec<Slot>,
    laps: InLaps,
}

/// The laps in which a statement is executed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InLaps {
    All,
    /// It adds a variable of the node, which is there ever after: `lightningd` does so when an UPDATE has found none.
    First,
}

/// A literal that is not the same in every lap.
struct Slot {
    range: Range<usize>,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Key(DomainId),
    Seconds,
    Nanoseconds,
    Blob,
    Name,
    LongText,
}

/// The statements of one change, ready to be recorded.
#[derive(Default)]
pub struct Change {
    text: String,
    ends: Vec<usize>,
}

impl Change {
    /// The statements of the write, in order.
    pub fn statements(&self) -> impl ExactSizeIterator<Item = &str> {
        let start = |index: usize| if index == 0 { 0 } else { self.ends[index - 1] };
        self.ends.iter().enumerate().map(move |(index, &end)| &self.text[start(index)..end])
    }

    /// The statements in the form that `common` takes.
    pub fn borrowed(&self) -> Vec<Cow<'_, str>> {
        self.statements().map(Cow::Borrowed).collect()
    }

    /// Bytes of them all.
    pub fn len(&self) -> usize {
        self.text.len()
    }
}

impl Laps {
    /// Prepares the writes of a lap that leads from one database to another.
    pub fn prepare(writes: Vec<TraceWrite>, start: &Connection, end: &Connection) -> anyhow::Result<Self> {
        let [first, last] = [writes.first(), writes.last()].map(|write| write.context("the trace has no writes"));
        let (first, last) = (first?, last?);
        let before = first.data_version.previous();
        let distance = usize::try_from(last.data_version.distance_from(before)).ok();
        ensure!(distance == Some(writes.len()), "some writes of the trace do not count the version up");
        let times = first.at.as_micros() / 1_000_000..last.at.as_micros() / 1_000_000 + 1;
        let keys = Keys::read(start, end)?;
        let mut laps = Self { keys, writes: Vec::new(), before, times, kept: kept(start)? };
        for write in writes {
            let statements = write.statements.into_iter().map(|sql| laps.statement(sql)).collect();
            laps.writes.push(Write { at: write.at, statements });
        }
        let counted = laps.keys.variable("data_version").map(|version| laps.keys.span(version));
        ensure!(counted == Some(i64::try_from(laps.len())?), "data_version in the database is not that of the trace");
        Ok(laps)
    }

    /// Changes of a lap.
    pub fn len(&self) -> u64 {
        self.writes.len() as u64
    }

    /// The keys of its tables.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Tables that rows are added to, but the node's variables.
    pub fn growing_tables(&self) -> HashSet<&str> {
        let statements = self.writes.iter().flat_map(|write| &write.statements);
        let inserts = statements.filter_map(|prepared| Statement::read(&prepared.sql));
        inserts
            .filter(|statement| statement.verb == Verb::Insert && statement.table != VARS)
            .map(|statement| statement.table)
            .collect()
    }

    /// The version before change `position`, counted from 0 over all laps.
    pub fn version_before(&self, position: u64) -> anyhow::Result<DataVersion> {
        let position = u32::try_from(position).context("so many versions wrap around")?;
        Ok(DataVersion::new(self.before.get().wrapping_add(position)))
    }

    /// How many statements a change has, and how they look: change `position`, counted from 0 over all laps, recorded `at`.
    pub fn write(&self, position: u64, at: Timestamp, disguise: &Disguise, change: &mut Change) -> anyhow::Result<()> {
        let (lap, within) = (position / self.len(), position % self.len());
        debug_assert_eq!(lap, disguise.lap(), "BUG: the disguise of another lap");
        let write = self.writes.get(usize::try_from(within)?).context("BUG: a lap has that many writes")?;
        let later = at.as_micros() - write.at.as_micros();
        change.text.clear();
        change.ends.clear();
        for prepared in write.statements.iter().filter(|prepared| lap == 0 || prepared.laps == InLaps::All) {
            let mut copied = 0;
            for Slot { range, what } in &prepared.slots {
                change.text.push_str(&prepared.sql[copied..range.start]);
                self.put(&prepared.sql[range.clone()], *what, later, disguise, &mut change.text)?;
                copied = range.end;
            }
            change.text.push_str(&prepared.sql[copied..]);
            change.ends.push(change.text.len());
        }
        Ok(())
    }

    fn put(&self, literal: &str, what: What, later: i64, disguise: &Disguise, text: &mut String) -> anyhow::Result<()> {
        let number = || literal.parse::<i64>().context("BUG: a number was parsed before");
        match what {
            What::Key(domain) => *text += &disguise.key(number()?, self.keys.span(domain)).to_string(),
            What::Seconds => *text += &(number()? + later / 1_000_000).to_string(),
            What::Nanoseconds => *text += &(number()? + later * 1000).to_string(),
            What::Blob => disguise.digits(literal, text),
            What::Name => disguise.name(literal, text),
            What::LongText => disguise.letters(literal, text),
        }
        Ok(())
    }

    /// A value of a row of the lap in another lap, `seconds` later.
    pub fn value(&self, value: &SqlValue, kind: Kind, seconds: i64, disguise: &Disguise) -> SqlValue {
        match (value, kind) {
            (&SqlValue::Integer(number), Kind::Key(domain)) if number > 0 => {
                SqlValue::Integer(disguise.key(number, self.keys.span(domain)))
            }
            (&SqlValue::Integer(number), _) => SqlValue::Integer(match self.time(number) {
                Some(What::Seconds) => number + seconds,
                Some(What::Nanoseconds) => number + seconds * 1_000_000_000,
                _ => number,
            }),
            (SqlValue::Blob(bytes), _) if !self.kept.contains(&hex(bytes)) => SqlValue::Blob(disguise.bytes(bytes)),
            (SqlValue::Text(text), kind) => {
                let mut other = String::new();
                match (kind, self.is_kept_or_short(text)) {
                    (Kind::Name, _) if !self.kept.contains(text) => disguise.name(text, &mut other),
                    (Kind::Plain, false) => disguise.letters(text, &mut other),
                    _ => other.clone_from(text),
                }
                SqlValue::Text(other)
            }
            (other, _) => other.clone(),
        }
    }

    fn is_kept_or_short(&self, text: &str) -> bool {
        text.len() < LONG_TEXT || text.contains(' ') || self.kept.contains(text)
    }

    /// Whether a number is a time of the lap or of the weeks after.
    fn time(&self, number: i64) -> Option<What> {
        let is_time = |seconds: i64| (self.times.start + LATER.start..self.times.end + LATER.end).contains(&seconds);
        if is_time(number) { Some(What::Seconds) } else { is_time(number / 1_000_000_000).then_some(What::Nanoseconds) }
    }

    fn statement(&mut self, sql: String) -> Prepared {
        let mut slots = Vec::new();
        let mut laps = InLaps::All;
        if let Some(statement) = Statement::read(&sql) {
            if (statement.verb, statement.table) == (Verb::Insert, VARS) {
                laps = InLaps::First;
            }
            for literal in &statement.literals {
                let kind = self.kind(&statement, literal);
                if let Some(what) = self.what(literal.value, kind) {
                    slots.push(Slot { range: literal.range.clone(), what });
                }
            }
        }
        Prepared { sql, slots, laps }
    }

    fn kind(&self, statement: &Statement<'_>, literal: &Literal<'_>) -> Kind {
        let Some(table) = self.keys.table(statement.table) else { return Kind::Plain };
        if statement.table == VARS && literal.column == Column::Named("intval") {
            let name = statement.literals.iter().find_map(|other| match (other.column, other.value) {
                (Column::Named("name"), Value::Text(name)) => Some(name),
                _ => None,
            });
            return name.and_then(|name| self.keys.variable(name)).map_or(Kind::Plain, Kind::Key);
        }
        match literal.column {
            Column::Named(name) => table.named(name),
            Column::Place(place) => table.columns().get(place).map_or(Kind::Plain, |&(_, kind)| kind),
        }
    }

    fn what(&mut self, value: Value<'_>, kind: Kind) -> Option<What> {
        match (value, kind) {
            (Value::Integer(number), Kind::Key(domain)) if number > 0 => {
                self.keys.seen(domain, number);
                Some(What::Key(domain))
            }
            (Value::Integer(number), _) => self.time(number),
            (Value::Blob(digits), _) => {
                (!digits.is_empty() && !self.kept.contains(&digits.to_ascii_lowercase())).then_some(What::Blob)
            }
            (Value::Text(text), Kind::Name) => (!self.kept.contains(text)).then_some(What::Name),
            (Value::Text(text), _) => (!self.is_kept_or_short(text)).then_some(What::LongText),
        }
    }
}

/// All blobs of a database, as digits, and all its texts.
fn kept(database: &Connection) -> anyhow::Result<HashSet<String>> {
    let mut kept = HashSet::new();
    let mut tables = database.prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?;
    for table in tables.query_map([], |row| row.get::<_, String>(0))? {
        let mut select = database.prepare(&format!("SELECT * FROM \"{}\"", table?))?;
        let columns = select.column_count();
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                match row.get(column)? {
                    SqlValue::Blob(bytes) => kept.insert(hex(&bytes)),
                    SqlValue::Text(text) => kept.insert(text),
                    SqlValue::Null | SqlValue::Integer(_) | SqlValue::Real(_) => false,
                };
            }
        }
    }
    Ok(kept)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

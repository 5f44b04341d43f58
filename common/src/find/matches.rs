//! The matching rows, from version to version.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::hooks::Action;
use rusqlite::{Connection, OptionalExtension as _};

use super::condition::Condition;
use super::{FindError, RowKey};
use crate::compare::rows::values;
use crate::compare::value::Value;
use crate::replay::{Replay, reason};
use format::units::Timestamp;

/// A condition that is evaluated in one database after another.
#[derive(Debug)]
pub(super) struct Query<'c> {
    pub(super) condition: &'c Condition,
    matching: String,
    matches: Option<String>,
    /// The value of `now` in all evaluations.
    now: Timestamp,
}

impl<'c> Query<'c> {
    pub(super) fn new(condition: &'c Condition, now: Timestamp) -> Self {
        Self { condition, matching: condition.matching(), matches: condition.matches(), now }
    }

    /// All matching rows; none while the table, or a column, does not exist.
    pub(super) fn all(&self, replay: &Replay) -> Result<BTreeSet<RowKey>, FindError> {
        self.ask(replay, &self.matching, BTreeSet::new(), |connection| {
            let mut statement = connection.prepare_cached(&self.matching)?;
            let count = statement.column_count();
            let mut rows = statement.query([])?;
            let mut found = BTreeSet::new();
            while let Some(key) = values(rows.next()?, count)? {
                let mut key = RowKey(key, 0);
                // Equal rows without a key are numbered.
                while !found.insert(key.clone()) {
                    key.1 += 1;
                }
            }
            Ok(found)
        })
    }

    /// The tables of the database, and whether the condition can be evaluated.
    pub(super) fn shape(&self, replay: &Replay) -> Result<Shape, FindError> {
        const QUERY: &str = "SELECT lower(t.name), lower(c.name) FROM pragma_table_list AS t \
             JOIN pragma_table_xinfo(t.name) AS c WHERE t.schema = 'main' AND t.type = 'table'";
        self.ask(replay, QUERY, Shape::default(), |connection| {
            let mut shape = Shape { is_askable: connection.prepare(&self.matching).is_ok(), ..Shape::default() };
            let mut statement = connection.prepare(QUERY)?;
            let columns = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            for column in columns {
                let (table, column): (String, String) = column?;
                shape.tables.entry(table).or_default().insert(column);
            }
            Ok(shape)
        })
    }

    /// Whether the row with this rowid matches.
    fn row(&self, replay: &Replay, rowid: i64) -> Result<bool, FindError> {
        let Some(sql) = &self.matches else { return Ok(false) };
        self.ask(replay, sql, false, |connection| {
            Ok(connection.prepare_cached(sql)?.query_row([rowid], |_| Ok(())).optional()?.is_some())
        })
    }

    /// Evaluates a query; returns `none` where `sql` cannot be prepared. A cached statement fails only when it is executed.
    fn ask<T>(
        &self,
        replay: &Replay,
        sql: &str,
        none: T,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, FindError> {
        let (answer, stopped) = replay.look(self.now, |connection| {
            ask(connection).or_else(|error| if connection.prepare(sql).is_err() { Ok(none) } else { Err(error) })
        });
        answer.map_err(|error| match (replay.take_problem(), stopped) {
            (Some(problem), _) => FindError::Read(problem),
            (None, Some(why)) => FindError::TooMuch { why },
            (None, None) => FindError::Evaluation { reason: reason(&error) },
        })
    }
}

/// The tables of a version.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// The columns of all tables, in lower case.
    tables: BTreeMap<String, BTreeSet<String>>,
    is_askable: bool,
}

impl Shape {
    /// Reason why the meaning of a condition on `table` changes from here to `after`: a name was changed. `None` while it is the
    /// same, and where the table or a column was only created or dropped: without them no row matches.
    pub(super) fn why_another(&self, after: &Self, table: &str) -> Option<String> {
        let table = table.to_ascii_lowercase();
        let list = |names: BTreeSet<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match (self.tables.get(&table), after.tables.get(&table)) {
            (Some(before), Some(now)) if self.is_askable != after.is_askable => {
                let (gone, new) = (before.difference(now).collect(), now.difference(before).collect());
                let (gone, new): (BTreeSet<&String>, BTreeSet<&String>) = (gone, new);
                match (gone.is_empty(), new.is_empty()) {
                    (true, true) => Some("its key is another one from there on".to_owned()),
                    (false, false) => Some(format!("it has {} there in place of {}", list(new), list(gone))),
                    _ => None,
                }
            }
            (Some(columns), None) => {
                let new = after.with_columns(columns).find(|name| !self.tables.contains_key(*name))?;
                Some(format!("it is called {new} from there on"))
            }
            (None, Some(columns)) => {
                let old = self.with_columns(columns).find(|name| !after.tables.contains_key(*name))?;
                Some(format!("it was called {old} before"))
            }
            _ => None,
        }
    }

    fn with_columns(&self, columns: &BTreeSet<String>) -> impl Iterator<Item = &String> {
        self.tables.iter().filter(move |(_, of_table)| *of_table == columns).map(|(name, _)| name)
    }
}

/// Rows that began to match, and rows that ceased to.
#[derive(Debug, Default)]
pub(super) struct Turned {
    pub(super) began: Vec<RowKey>,
    pub(super) ended: Vec<RowKey>,
}

impl Turned {
    pub(super) fn between(before: &BTreeSet<RowKey>, after: &BTreeSet<RowKey>) -> Self {
        Self { began: after.difference(before).cloned().collect(), ended: before.difference(after).cloned().collect() }
    }

    pub(super) fn is_some(&self) -> bool {
        !self.began.is_empty() || !self.ended.is_empty()
    }
}

/// The known matches since a version, the *beginning*.
#[derive(Debug, Default)]
pub(super) struct Matches(BTreeMap<RowKey, bool>);

impl Matches {
    /// Records the matches before and after a change.
    pub(super) fn turn_all(&mut self, before: &BTreeSet<RowKey>, after: &BTreeSet<RowKey>) -> Turned {
        for key in before.union(after) {
            self.0.insert(key.clone(), after.contains(key));
        }
        Turned::between(before, after)
    }

    /// Records the rows that a change has written. `beginning` opens the database at the beginning, where rows that were not
    /// written since are unchanged.
    pub(super) fn turn_rows<'r>(
        &mut self,
        asking: &Query<'_>,
        notes: &[(Action, i64)],
        now: &Replay,
        beginning: &mut dyn FnMut() -> Result<&'r Replay, FindError>,
    ) -> Result<Turned, FindError> {
        let mut first: BTreeMap<i64, Action> = BTreeMap::new();
        for &(action, rowid) in notes {
            first.entry(rowid).or_insert(action);
        }
        let mut turned = Turned::default();
        for (rowid, action) in first {
            let key = RowKey(vec![Value::Integer(rowid)], 0);
            let was = match self.0.get(&key) {
                Some(&known) => known,
                None if action == Action::SQLITE_INSERT => false,
                None => asking.row(beginning()?, rowid)?,
            };
            let is = asking.row(now, rowid)?;
            self.0.insert(key.clone(), is);
            match (was, is) {
                (false, true) => turned.began.push(key),
                (true, false) => turned.ended.push(key),
                _ => {}
            }
        }
        Ok(turned)
    }
}

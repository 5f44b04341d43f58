//! What differs in two versions, as it is told.

use crate::compare::value::Value;

/// What became of a row, or of an entry of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowFate {
    /// Only the second version has it.
    Added,
    /// Only the first version has it.
    Removed,
    /// Both have it, and it is not the same.
    Changed,
}

/// Something that differs.
#[derive(Debug)]
pub enum DiffEntry<'a> {
    /// A table, an index or whatever else the schema names.
    Schema(&'a SchemaChange),
    /// A row.
    Row(&'a RowChange<'a>),
    /// The end of a table with rows that differ.
    Table(&'a TableTotals),
}

/// Something in the schema that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// `table`, `index`, `trigger` or `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table that it is of.
    pub table: String,
    /// What became of it.
    pub fate: RowFate,
    /// How it was made, in the first version; `None` also for what SQLite makes by itself.
    pub before: Option<String>,
    /// The same in the second version.
    pub after: Option<String>,
}

/// A row that differs.
#[derive(Debug, PartialEq)]
pub struct RowChange<'a> {
    /// Its table.
    pub table: &'a str,
    /// What became of it.
    pub fate: RowFate,
    /// Names of the columns of its key: `rowid`, or those of the primary key of a table without; none when the table has
    /// no key that can be asked for.
    pub key_columns: &'a [String],
    /// Its key.
    pub key: &'a [Value],
    /// Names of all columns of the table in either version.
    pub columns: &'a [String],
    /// Its values in the first version, NULL for columns that are not there.
    pub before: Option<&'a [Value]>,
    /// Its values in the second version.
    pub after: Option<&'a [Value]>,
}

impl RowChange<'_> {
    /// Positions of the columns that differ, when both versions have the row.
    pub fn differing(&self) -> Vec<usize> {
        let (Some(before), Some(after)) = (self.before, self.after) else { return Vec::new() };
        let is_other = |&at: &usize| match (before.get(at), after.get(at)) {
            (Some(before), Some(after)) => before != after,
            _ => false,
        };
        (0..self.columns.len()).filter(is_other).collect()
    }
}

/// How many rows of a table differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableTotals {
    /// Its name.
    pub table: String,
    /// Rows that only the second version has.
    pub added: u64,
    /// Rows that only the first version has.
    pub removed: u64,
    /// Rows that both have and that are not the same.
    pub changed: u64,
}

impl TableTotals {
    pub(super) fn new(table: &str) -> Self {
        Self { table: table.to_owned(), added: 0, removed: 0, changed: 0 }
    }

    pub(super) fn add(&mut self, fate: RowFate) {
        match fate {
            RowFate::Added => self.added += 1,
            RowFate::Removed => self.removed += 1,
            RowFate::Changed => self.changed += 1,
        }
    }

    pub(super) fn is_some(&self) -> bool {
        self.added + self.removed + self.changed > 0
    }
}

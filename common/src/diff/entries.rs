//! The differences of two versions.

use crate::compare::value::Value;

/// The kind of difference of a row, or of an entry of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowFate {
    /// The second version has it, and the first does not.
    Added,
    /// The first version has it, and the second does not.
    Removed,
    /// Both versions have it, with differences.
    Changed,
}

/// A difference.
#[derive(Debug)]
pub enum DiffEntry<'a> {
    /// A table, an index or another entry of the schema.
    Schema(&'a SchemaChange),
    /// A row.
    Row(&'a RowChange<'a>),
    /// The totals behind the rows of a table with differences.
    Table(&'a TableTotals),
}

/// A differing entry of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// `table`, `index`, `trigger` or `view`.
    pub kind: String,
    /// Name of the entry.
    pub name: String,
    /// Table of the entry.
    pub table: String,
    /// Kind of difference.
    pub fate: RowFate,
    /// SQL text in the first version; `None` also for automatic entries.
    pub before: Option<String>,
    /// SQL text in the second version.
    pub after: Option<String>,
}

/// A differing row.
#[derive(Debug, PartialEq)]
pub struct RowChange<'a> {
    /// Table of the row.
    pub table: &'a str,
    /// Kind of difference.
    pub fate: RowFate,
    /// Names of its key columns: `rowid`, or those of the primary key of a WITHOUT ROWID table; empty when the table has no
    /// accessible key.
    pub key_columns: &'a [String],
    /// Values of the key.
    pub key: &'a [Value],
    /// Names of all columns of the table in either version.
    pub columns: &'a [String],
    /// Values in the first version, NULL for missing columns.
    pub before: Option<&'a [Value]>,
    /// Values in the second version.
    pub after: Option<&'a [Value]>,
}

impl RowChange<'_> {
    /// Positions of the differing columns, when both versions have the row.
    pub fn differing(&self) -> Vec<usize> {
        let (Some(before), Some(after)) = (self.before, self.after) else { return Vec::new() };
        let is_other = |&at: &usize| match (before.get(at), after.get(at)) {
            (Some(before), Some(after)) => before != after,
            _ => false,
        };
        (0..self.columns.len()).filter(is_other).collect()
    }
}

/// Numbers of differing rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableTotals {
    /// Name of the table.
    pub table: String,
    /// Number of rows that only the second version has.
    pub added: u64,
    /// Number of rows that only the first version has.
    pub removed: u64,
    /// Number of rows that differ.
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

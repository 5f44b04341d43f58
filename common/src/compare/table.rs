//! The tables of a database: how their rows are identified, and in which order they are read.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use rusqlite::Connection;

use super::value::{Collation, Value};

/// Entries of the schema: by type and name the table and the SQL text.
pub(crate) type SchemaEntries = BTreeMap<(String, String), (String, Option<String>)>;

/// The entries of the schema of a database.
pub(crate) fn schema_entries(connection: &Connection) -> rusqlite::Result<SchemaEntries> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?))))?;
    rows.collect()
}

/// A table, and how its rows are identified.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// A name of its implicit rowid.
    pub(crate) rowid: Option<&'static str>,
    /// Whether it is a WITHOUT ROWID table, stored in the order of its primary key.
    pub(crate) is_without_rowid: bool,
    /// Whether VACUUM changes its rowids.
    pub(crate) is_renumbered: bool,
}

/// The tables of a database, by name.
pub(crate) fn tables(connection: &Connection) -> rusqlite::Result<Vec<Table>> {
    let mut statement = connection.prepare(
        "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
         AND name <> 'sqlite_schema' AND name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\' ORDER BY name",
    )?;
    let names = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))?;
    names
        .map(|table| {
            let (name, is_without_rowid) = table?;
            let rowid = if is_without_rowid { None } else { rowid_name(connection, &name)? };
            let is_renumbered = !is_without_rowid && has_no_key(connection, &name)?;
            Ok(Table { name, rowid, is_without_rowid, is_renumbered })
        })
        .collect()
}

/// A name of the rowid that is not a column of the table (SQLite, "ROWIDs and the INTEGER PRIMARY KEY").
fn rowid_name(connection: &Connection, table: &str) -> rusqlite::Result<Option<&'static str>> {
    for name in ["rowid", "_rowid_", "oid"] {
        let taken = "SELECT count(*) FROM pragma_table_xinfo(?1) WHERE name = ?2 COLLATE NOCASE";
        if connection.query_row(taken, [table, name], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether a table has neither an `INTEGER PRIMARY KEY` nor an index, including automatic ones. VACUUM copies the rows of such a
/// table to new rowids, in order (`sqlite3XferOptimization`).
fn has_no_key(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let keys = "SELECT (SELECT count(*) FROM pragma_table_xinfo(?1) WHERE pk > 0) \
         + (SELECT count(*) FROM pragma_index_list(?1))";
    connection.query_row(keys, [table], |row| Ok(row.get::<_, i64>(0)? == 0))
}

/// The sort order of a key column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyOrder {
    pub(super) collation: Collation,
    pub(super) is_descending: bool,
}

impl KeyOrder {
    pub(super) const ROWID: Self = Self { collation: Collation::Binary, is_descending: false };
}

/// Compares two keys as SQLite sorts them.
pub(crate) fn compare_keys(order: &[KeyOrder], ours: &[Value], theirs: &[Value]) -> Ordering {
    let columns = order.iter().zip(ours.iter().zip(theirs));
    columns
        .map(|(order, (our, their))| {
            let found = our.compare(their, order.collation);
            if order.is_descending { found.reverse() } else { found }
        })
        .find(|found| found.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// The columns of a table as they are read, the key first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns of the key; none if only the contents identify a row.
    pub(crate) key: Vec<String>,
    /// Sort order of each key column.
    pub(crate) order: Vec<KeyOrder>,
    /// Name of the rowid, if the key is a rowid.
    pub(crate) rowid: Option<&'static str>,
    /// All columns, including those of the key.
    pub(crate) columns: Vec<String>,
}

impl Layout {
    pub(crate) fn of(connection: &Connection, table: &Table) -> rusqlite::Result<Self> {
        let sql = "SELECT name FROM pragma_table_info(?1) ORDER BY cid";
        let mut statement = connection.prepare(sql)?;
        let columns = statement.query_map([&table.name], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let (key, order) = match table.rowid {
            Some(_) => (vec!["rowid".to_owned()], vec![KeyOrder::ROWID]),
            // All names of the rowid are columns: only the contents identify a row.
            None if !table.is_without_rowid => (Vec::new(), Vec::new()),
            None => primary_key(connection, &table.name)?,
        };
        Ok(Self { key, order, rowid: table.rowid, columns })
    }

    /// A query for the key and all columns, in the order of the key.
    pub(crate) fn query(&self, table: &str) -> String {
        format!("{} {}", self.select(table, &self.columns), self.in_order())
    }

    /// A query for the key and these columns; NULL for missing ones.
    pub(crate) fn select(&self, table: &str, columns: &[String]) -> String {
        let key = match self.rowid {
            Some(rowid) => vec![rowid.to_owned()],
            None => self.key.iter().map(|name| quoted(name)).collect(),
        };
        let columns =
            columns.iter().map(|name| if self.columns.contains(name) { quoted(name) } else { "NULL".to_owned() });
        let read: Vec<String> = key.into_iter().chain(columns).collect();
        format!("SELECT {} FROM main.{}", read.join(", "), quoted(table))
    }

    /// The clause that makes SQLite read the rows in storage order: without sorting, for which an overlay has no temporary space,
    /// and without an index in place of the table.
    pub(crate) fn in_order(&self) -> String {
        self.rowid.map_or_else(|| "NOT INDEXED".to_owned(), |rowid| format!("ORDER BY {rowid}"))
    }

    /// The columns in which two rows differ; both rows begin with the key.
    pub(crate) fn differing<'l>(&'l self, our: &'l [Value], their: &'l [Value]) -> impl Iterator<Item = &'l String> {
        let values = our.iter().zip(their).skip(self.key.len());
        self.columns.iter().zip(values).filter(|(_, (our, their))| our != their).map(|(name, _)| name)
    }
}

/// The primary key columns of a WITHOUT ROWID table, in sort order.
fn primary_key(connection: &Connection, table: &str) -> rusqlite::Result<(Vec<String>, Vec<KeyOrder>)> {
    let sql = "SELECT x.name, x.coll, x.\"desc\" FROM pragma_index_list(?1) AS l \
         JOIN pragma_index_xinfo(l.name) AS x WHERE l.origin = 'pk' AND x.key ORDER BY x.seqno";
    let mut statement = connection.prepare(sql)?;
    let columns = statement.query_map([table], |row| {
        let collation = Collation::named(&row.get::<_, String>(1)?);
        Ok((row.get(0)?, KeyOrder { collation, is_descending: row.get(2)? }))
    })?;
    columns.collect()
}

/// A name as a quoted SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

//! Whether two databases have the same contents: every row of every table with its rowid, and the schema.
//!
//! Page layout is not compared: `lightningd` VACUUMs without a word after a migration.

use std::fmt;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, Rows};

/// One value in a row, exactly as it is stored: a text need not be UTF-8.
#[derive(Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// A text in UTF-8, or what was stored as one.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => write!(f, "NULL"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number:?}"),
            Self::Text(bytes) => write!(f, "'{}'", bytes.escape_ascii()),
            Self::Blob(bytes) => {
                write!(f, "x'")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, "'")
            }
        }
    }
}

impl From<ValueRef<'_>> for Cell {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

/// The first thing that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The table; `sqlite_master` for the schema.
    pub table: String,
    /// Rowid and columns in the database that is right; `None` when it has no such row.
    pub expected: Option<Vec<Cell>>,
    /// Rowid and columns in the database that is tested.
    pub actual: Option<Vec<Cell>>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, expected, actual } = self;
        write!(f, "table {table}: expected {expected:?}, found {actual:?} (the rowid first)")
    }
}

impl std::error::Error for Difference {}

/// Opens a database as a careful operator does: read-only.
pub fn open_read_only(path: &Path) -> Result<Connection, rusqlite::Error> {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // The file is not readable as a database before something is read from it.
    database.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(database)
}

/// Compares two database files, all but the rows of the tables `except`.
///
/// # Errors
/// [`Difference`], or what SQLite says about one of the files.
pub fn same_contents(expected: &Path, actual: &Path, except: &[&str]) -> anyhow::Result<()> {
    let [expected, actual] = [open_read_only(expected)?, open_read_only(actual)?];
    // Not `rootpage` nor the rowid: where a table starts is layout, and so is its place in the schema's own table.
    const SCHEMA: &str = "SELECT NULL, type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name";
    same_rows("sqlite_master", SCHEMA, &expected, &actual)?;
    let mut tables = expected.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")?;
    for table in tables.query_map([], |row| row.get::<_, String>(0))? {
        let table = table?;
        if except.contains(&table.as_str()) {
            continue;
        }
        let quoted = table.replace('"', "\"\"");
        let with_rowid = format!("SELECT rowid, * FROM \"{quoted}\" ORDER BY rowid");
        let without_rowid = format!("SELECT NULL, * FROM \"{quoted}\"");
        // A table WITHOUT ROWID is read in the order of its primary key, which is how it is stored.
        let select = if expected.prepare(&with_rowid).is_ok() { with_rowid } else { without_rowid };
        same_rows(&table, &select, &expected, &actual)?;
    }
    Ok(())
}

/// The message of `PRAGMA integrity_check` and the rows of `PRAGMA foreign_key_check`, if there is anything wrong.
///
/// # Errors
/// What is wrong, or what SQLite says.
pub fn sound(path: &Path) -> anyhow::Result<()> {
    let database = open_read_only(path)?;
    let integrity: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    anyhow::ensure!(integrity == "ok", "{}: integrity_check says {integrity}", path.display());
    let mut check = database.prepare("PRAGMA foreign_key_check")?;
    let mut broken = check.query([])?;
    if let Some(row) = broken.next()? {
        let row = values(row, 4)?;
        anyhow::bail!("{}: foreign_key_check says {row:?}", path.display());
    }
    Ok(())
}

/// `vars.data_version` of a database file.
///
/// # Errors
/// What SQLite says.
pub fn data_version(path: &Path) -> anyhow::Result<u32> {
    let database = open_read_only(path)?;
    Ok(database.query_row("SELECT intval FROM vars WHERE name = 'data_version'", [], |row| row.get(0))?)
}

fn same_rows(table: &str, select: &str, expected: &Connection, actual: &Connection) -> anyhow::Result<()> {
    let [mut expected, mut actual] = [expected.prepare(select)?, actual.prepare(select)?];
    let columns = expected.column_count();
    anyhow::ensure!(columns == actual.column_count(), "table {table}: the number of columns differs");
    let [mut expected, mut actual] = [expected.query([])?, actual.query([])?];
    loop {
        let [expected, actual] = [next(&mut expected, columns)?, next(&mut actual, columns)?];
        if expected != actual {
            return Err(Difference { table: table.to_owned(), expected, actual }.into());
        }
        if expected.is_none() {
            return Ok(());
        }
    }
}

fn next(rows: &mut Rows<'_>, columns: usize) -> Result<Option<Vec<Cell>>, rusqlite::Error> {
    rows.next()?.map(|row| values(row, columns)).transpose()
}

fn values(row: &Row<'_>, columns: usize) -> Result<Vec<Cell>, rusqlite::Error> {
    (0..columns).map(|column| row.get_ref(column).map(Cell::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both files start alike; `change` is done to the second.
    fn compared_after(change: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().expect("a directory");
        let [left, right] = ["left", "right"].map(|name| directory.path().join(name));
        for (path, change) in [(&left, ""), (&right, change)] {
            let database = Connection::open(path).expect("a database");
            database
                .execute_batch(
                    "CREATE TABLE a (x TEXT, y BLOB); CREATE TABLE k (x TEXT PRIMARY KEY, y INT) WITHOUT ROWID;
                     INSERT INTO a VALUES ('1', x'00'), ('2', NULL), (NULL, 2.5); INSERT INTO k VALUES ('p', 1);",
                )
                .expect("tables");
            database.execute_batch(change).expect("the change");
        }
        same_contents(&left, &right, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn equal_contents_are_equal_in_any_layout() {
        compared_after("VACUUM").expect("a vacuum changes no contents");
    }

    #[test]
    fn every_kind_of_difference_is_found_and_named() {
        let changes = [
            ("UPDATE a SET y = x'01' WHERE x = '1'", "table a"),
            ("UPDATE a SET x = 1 WHERE x = '1'; UPDATE a SET y = '' WHERE y = x'00'", "table a"),
            ("UPDATE a SET x = CAST(x'fe' AS TEXT) WHERE x = '1'", "table a"),
            ("DELETE FROM a WHERE x = '1'", "table a"),
            ("INSERT INTO a VALUES ('3', NULL)", "table a"),
            ("UPDATE a SET rowid = 9 WHERE x = '2'", "table a"),
            ("UPDATE k SET y = 2", "table k"),
            ("CREATE INDEX i ON a (x)", "sqlite_master"),
            ("ALTER TABLE a ADD z", "sqlite_master"),
        ];
        for (change, found) in changes {
            let error = compared_after(change).expect_err(change);
            assert!(error.contains(found), "{change}: {error}");
        }
    }
}

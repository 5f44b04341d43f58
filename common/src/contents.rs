//! Whether two databases hold the same: every row of every table, implicit rowids included, whatever the layout of pages.
//!
//! Pages do not tell: two releases of SQLite leave different bytes in the unused parts of the same page.

use rusqlite::Connection;

/// Compares the schemas and all rows of two databases. Reads both once, in order.
///
/// Tables of statistics (`sqlite_stat1` and its like) are no content.
///
/// # Errors
/// When one of them cannot be read.
pub(crate) fn same_contents(ours: &Connection, theirs: &Connection) -> rusqlite::Result<bool> {
    let schema =
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1, 2, 3, 4";
    if !same_rows(schema, ours, theirs)? {
        return Ok(false);
    }
    for table in tables(ours)? {
        if !same_rows(&table.rows_in_order(), ours, theirs)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A table, and by what name its implicit rowid can be asked for.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) rowid: Option<&'static str>,
}

impl Table {
    /// A query for all its rows in the order in which they are stored: by rowid, or by the key of a table without.
    fn rows_in_order(&self) -> String {
        let name = self.name.replace('"', "\"\"");
        match self.rowid {
            Some(rowid) => format!("SELECT {rowid}, * FROM main.\"{name}\" ORDER BY {rowid}"),
            None => format!("SELECT * FROM main.\"{name}\""),
        }
    }
}

/// The tables of a database, by name.
pub(crate) fn tables(connection: &Connection) -> rusqlite::Result<Vec<Table>> {
    let mut statement = connection.prepare(
        "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
         AND name <> 'sqlite_schema' AND name NOT LIKE 'sqlite_stat%' ORDER BY name",
    )?;
    let names = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))?;
    names
        .map(|table| {
            let (name, without_rowid) = table?;
            let rowid = if without_rowid { None } else { rowid_name(connection, &name)? };
            Ok(Table { name, rowid })
        })
        .collect()
}

/// A name of the rowid that no column of the table has taken (SQLite, "ROWIDs and the INTEGER PRIMARY KEY").
fn rowid_name(connection: &Connection, table: &str) -> rusqlite::Result<Option<&'static str>> {
    for name in ["rowid", "_rowid_", "oid"] {
        let taken = "SELECT count(*) FROM pragma_table_xinfo(?1) WHERE name = ?2 COLLATE NOCASE";
        if connection.query_row(taken, [table, name], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn same_rows(sql: &str, ours: &Connection, theirs: &Connection) -> rusqlite::Result<bool> {
    let (mut ours, mut theirs) = (ours.prepare(sql)?, theirs.prepare(sql)?);
    let columns = ours.column_count();
    if columns != theirs.column_count() {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (ours.query([])?, theirs.query([])?);
    loop {
        match (ours.next()?, theirs.next()?) {
            (None, None) => return Ok(true),
            (Some(our), Some(their)) => {
                for column in 0..columns {
                    if our.get_ref(column)? != their.get_ref(column)? {
                        return Ok(false);
                    }
                }
            }
            _ => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE a (x, y TEXT); CREATE TABLE b (k PRIMARY KEY, v) WITHOUT ROWID;
                 CREATE TABLE \"quo\"\"ted\" (rowid TEXT, v); CREATE INDEX i ON a (x);
                 INSERT INTO a VALUES (1, 'one'), (2, 'two'), (3, NULL);
                 INSERT INTO b VALUES ('k', x'00ff'), ('l', 1.5);
                 INSERT INTO \"quo\"\"ted\" VALUES ('r', 1);",
            )
            .unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    #[test]
    fn layout_and_history_do_not_matter() {
        let moved = "INSERT INTO a VALUES (9, zeroblob(9000)); DELETE FROM a WHERE x = 9; ANALYZE; VACUUM;";
        assert!(same_contents(&database(""), &database(moved)).unwrap());
    }

    #[test]
    fn every_other_difference_is_found() {
        for sql in [
            "UPDATE a SET y = 'ONE' WHERE x = 1",
            "UPDATE a SET x = '1' WHERE x = 1",
            "UPDATE a SET x = 1.0 WHERE x = 1",
            "UPDATE a SET y = '' WHERE x = 3",
            "UPDATE a SET rowid = 7 WHERE x = 3",
            "UPDATE \"quo\"\"ted\" SET _rowid_ = 7",
            "DELETE FROM a WHERE x = 3",
            "INSERT INTO b VALUES ('m', NULL)",
            "UPDATE b SET v = x'00fe' WHERE k = 'k'",
            "DROP INDEX i",
            "CREATE TABLE c (x)",
            "ALTER TABLE a ADD COLUMN z",
        ] {
            assert!(!same_contents(&database(""), &database(sql)).unwrap(), "{sql}");
            assert!(!same_contents(&database(sql), &database("")).unwrap(), "{sql}");
        }
    }
}

//! Whether two databases have equal contents: every row of every table, in any layout of pages.
//!
//! Pages do not decide: two releases of SQLite leave different bytes in the unused parts of a page. Nor do all rowids: VACUUM,
//! which `lightningd` runs without a change of version, renumbers the rows of tables without an index and without an `INTEGER
//! PRIMARY KEY`. The rows of those tables are compared in any order ([`Rowids::KeptByVacuum`]).

pub(crate) mod any_order;
pub(crate) mod commit_check;
pub(crate) mod differences;
pub(crate) mod rows;
pub(crate) mod table;
pub(crate) mod value;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use self::any_order::{Fingerprints, RowSum};
use self::table::{Table, quoted, schema_entries, tables};

/// The implicit rowids that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rowids {
    /// All rowids are compared: no VACUUM can have run in between.
    All,
    /// The rowids that VACUUM does not change.
    KeptByVacuum,
}

/// Compares the schemas and all rows of two databases. Reads both once, in order.
///
/// Tables of statistics (`sqlite_stat1` and similar) are ignored.
///
/// # Errors
/// When one of the databases cannot be read.
pub(crate) fn same_contents(ours: &Connection, theirs: &Connection, rowids: Rowids) -> rusqlite::Result<bool> {
    let mut same = true;
    for_differing_tables(ours, theirs, rowids, &mut |_| {
        same = false;
        ControlFlow::Break(())
    })?;
    Ok(same)
}

/// The names of the differing tables and views, in order: those with other rows, columns, indexes or triggers, and those that
/// only one side has. Each table is read only up to the first difference.
///
/// # Errors
/// When one of the databases cannot be read.
pub(crate) fn differing_tables(ours: &Connection, theirs: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for_differing_tables(ours, theirs, Rowids::KeptByVacuum, &mut |table| {
        names.insert(table.to_owned());
        ControlFlow::Continue(())
    })?;
    Ok(names.into_iter().collect())
}

/// Passes the name of each differing table to `take`, until it breaks.
fn for_differing_tables(
    ours: &Connection,
    theirs: &Connection,
    rowids: Rowids,
    take: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> rusqlite::Result<()> {
    let [our_schema, their_schema] = [schema_entries(ours)?, schema_entries(theirs)?];
    let is_other = |key: &_| our_schema.get(key) != their_schema.get(key);
    let entries = our_schema.iter().chain(&their_schema);
    let changed: BTreeSet<&String> = entries.filter(|(key, _)| is_other(key)).map(|(_, (table, _))| table).collect();
    for table in &changed {
        if take(table).is_break() {
            return Ok(());
        }
    }
    for table in tables(ours)?.iter().filter(|table| !changed.contains(&table.name)) {
        if !same_rows(table, rowids, ours, theirs)? && take(&table.name).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// A query for all rows in storage order: by rowid, or by the key of a WITHOUT ROWID table.
fn rows_in_order(table: &Table, rowids: Rowids) -> String {
    let name = quoted(&table.name);
    match table.rowid {
        Some(rowid) if table.is_renumbered && rowids == Rowids::KeptByVacuum => {
            format!("SELECT * FROM main.{name} ORDER BY {rowid}")
        }
        Some(rowid) => format!("SELECT {rowid}, * FROM main.{name} ORDER BY {rowid}"),
        // A covering index would have the rows in another order.
        None => format!("SELECT * FROM main.{name} NOT INDEXED"),
    }
}

fn same_rows(table: &Table, rowids: Rowids, ours: &Connection, theirs: &Connection) -> rusqlite::Result<bool> {
    let sql = rows_in_order(table, rowids);
    let (mut ours, mut theirs) = (ours.prepare(&sql)?, theirs.prepare(&sql)?);
    let columns = ours.column_count();
    if columns != theirs.column_count() {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (ours.query([])?, theirs.query([])?);
    let in_any_order = table.is_renumbered && rowids == Rowids::KeptByVacuum;
    let prints = Fingerprints::default();
    let mut sums = [RowSum::default(); 2];
    // Rows that are equal in storage order need no other comparison, and most tables end here.
    let mut together = true;
    loop {
        let pair = [ours.next()?, theirs.next()?];
        match pair {
            [None, None] => return Ok(sums[0] == sums[1]),
            [Some(our), Some(their)] if together && same_row(our, their, columns)? => continue,
            _ if !in_any_order => return Ok(false),
            _ => together = false,
        }
        for (row, sum) in pair.into_iter().zip(&mut sums) {
            if let Some(row) = row {
                sum.add(prints.of(row_values(row, columns)?.into_iter()));
            }
        }
    }
}

fn row_values<'r>(row: &'r Row<'_>, columns: usize) -> rusqlite::Result<Vec<ValueRef<'r>>> {
    (0..columns).map(|column| row.get_ref(column)).collect()
}

fn same_row(our: &Row<'_>, their: &Row<'_>, columns: usize) -> rusqlite::Result<bool> {
    for column in 0..columns {
        let same = match (our.get_ref(column)?, their.get_ref(column)?) {
            // 0.0 and -0.0 are different values.
            (ValueRef::Real(our), ValueRef::Real(their)) => our.to_bits() == their.to_bits(),
            (our, their) => our == their,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// Compares as after a kill: VACUUM may have run in between.
    fn same(ours: &Connection, theirs: &Connection) -> bool {
        let same = same_contents(ours, theirs, Rowids::KeptByVacuum).unwrap();
        assert_eq!(same, differing_tables(ours, theirs).unwrap().is_empty());
        same
    }

    #[test]
    fn layout_and_history_do_not_matter() {
        let moved = "INSERT INTO a VALUES (9, zeroblob(9000)); DELETE FROM a WHERE x = 9; ANALYZE; VACUUM;";
        assert!(same(&database(""), &database(moved)));
        assert!(same_contents(&database(""), &database(moved), Rowids::All).unwrap());
    }

    #[test]
    fn every_other_difference_is_found_and_its_table_named() {
        for (sql, table) in [
            ("UPDATE a SET y = 'ONE' WHERE x = 1", "a"),
            ("UPDATE a SET x = '1' WHERE x = 1", "a"),
            ("UPDATE a SET x = 1.0 WHERE x = 1", "a"),
            ("UPDATE a SET y = '' WHERE x = 3", "a"),
            ("UPDATE a SET rowid = 7 WHERE x = 3", "a"),
            ("UPDATE \"quo\"\"ted\" SET v = 2", "quo\"ted"),
            ("DELETE FROM a WHERE x = 3", "a"),
            ("INSERT INTO b VALUES ('m', NULL)", "b"),
            ("UPDATE b SET v = x'00fe' WHERE k = 'k'", "b"),
            ("DROP INDEX i", "a"),
            ("CREATE TRIGGER t AFTER DELETE ON a BEGIN DELETE FROM b; END", "a"),
            ("CREATE VIEW v AS SELECT x FROM a", "v"),
            ("CREATE TABLE c (x)", "c"),
            ("ALTER TABLE a ADD COLUMN z", "a"),
        ] {
            let [ours, theirs] = [database(""), database(sql)];
            for (ours, theirs) in [(&ours, &theirs), (&theirs, &ours)] {
                assert!(!same(ours, theirs), "{sql}");
                assert!(!same_contents(ours, theirs, Rowids::All).unwrap(), "{sql}");
                assert_eq!(differing_tables(ours, theirs).unwrap(), [table], "{sql}");
            }
        }
        let both = database("DELETE FROM b; UPDATE a SET x = 5; DROP INDEX i");
        assert_eq!(differing_tables(&both, &database("")).unwrap(), ["a", "b"]);
    }

    /// Tables with deleted rows, before and after a VACUUM by the bundled SQLite.
    #[test]
    fn of_a_table_that_vacuum_renumbers_the_rows_are_compared_and_of_others_the_rowids_too() {
        for (table, is_renumbered) in [
            ("CREATE TABLE t (x)", true),
            ("CREATE TABLE t (x NOT NULL DEFAULT 5 CHECK (x > 0))", true),
            ("PRAGMA foreign_keys = OFF; CREATE TABLE t (x REFERENCES a, y AS (x + 1), z AS (x + 2) STORED)", true),
            ("CREATE TABLE t (x, rowid, _rowid_)", true),
            ("CREATE TABLE t (x INTEGER) STRICT", true),
            ("CREATE TABLE t (x INTEGER PRIMARY KEY)", false),
            ("CREATE TABLE t (x INT, y INTEGER PRIMARY KEY AUTOINCREMENT)", false),
            ("CREATE TABLE t (x INTEGER PRIMARY KEY DESC)", false),
            ("CREATE TABLE t (x BIGINT PRIMARY KEY)", false),
            ("CREATE TABLE t (x UNIQUE)", false),
            ("CREATE TABLE t (x, y AS (x + 1)); CREATE INDEX ty ON t (y)", false),
            ("CREATE TABLE t (x); CREATE INDEX tx ON t (x)", false),
            ("CREATE TABLE t (x); CREATE INDEX tx ON t (x) WHERE x > 100", false),
            ("CREATE TABLE t (x); CREATE INDEX tx ON t (x + 1)", false),
        ] {
            let made = format!("{table}; INSERT INTO t (x) VALUES (1), (2), (3), (4); DELETE FROM t WHERE x IN (1, 3)");
            let [before, after] = [database(&made), database(&format!("{made}; VACUUM"))];
            let known = tables(&before).unwrap().into_iter().find(|table| table.name == "t").unwrap();
            assert_eq!(known.is_renumbered, is_renumbered, "{table}");
            assert!(same(&before, &after), "{table}");
            assert_eq!(same_contents(&before, &after, Rowids::All).unwrap(), !is_renumbered, "{table}");
            let rowid = known.rowid.unwrap();
            let moved = format!("{made}; UPDATE t SET {rowid} = {rowid} + 7 WHERE x = 2");
            assert_eq!(same(&before, &database(&moved)), is_renumbered, "{table}");
            for other in ["DELETE FROM t WHERE x = 4", "INSERT INTO t (x) VALUES (7)", "UPDATE t SET x = 8 WHERE x = 4"]
            {
                let theirs = database(&format!("{made}; VACUUM; {other}"));
                assert!(!same(&before, &theirs) && !same(&theirs, &before), "{table}: {other}");
            }
        }
    }

    #[test]
    fn how_often_a_row_is_there_and_which_of_its_values_it_has_matter_in_any_order() {
        let rows = |rows: &str| database(&format!("CREATE TABLE t (x, y); INSERT INTO t VALUES {rows}"));
        let ours = rows("(1, 2), (1, 2), (3, 4), (NULL, 'a')");
        assert!(same(&ours, &rows("(NULL, 'a'), (1, 2), (3, 4), (1, 2)")));
        for other in [
            "(1, 2), (3, 4), (3, 4), (NULL, 'a')",
            "(1, 2), (3, 4), (NULL, 'a')",
            "(2, 1), (1, 2), (3, 4), (NULL, 'a')",
            "(3, 2), (1, 4), (1, 2), (NULL, 'a')",
            "(NULL, 'a'), (1.0, 2), (1, 2), (3, 4)",
            "(NULL, x'61'), (1, 2), (1, 2), (3, 4)",
        ] {
            assert!(!same(&ours, &rows(other)), "{other}");
            assert!(!same(&rows(other), &ours), "{other}");
        }
    }

    proptest! {
        /// Equal rows in any order are equal, and no others: checked by sorting.
        #[test]
        fn rows_are_the_same_in_any_order_and_no_others_are(
            ours in prop::collection::vec((0..3_i64, prop::sample::select(vec!["a", "A", ""])), 0..6),
            theirs in prop::collection::vec((0..3_i64, prop::sample::select(vec!["a", "A", ""])), 0..6),
            shuffled: prop::sample::Index,
        ) {
            let table = |rows: &[(i64, &str)]| {
                let connection = Connection::open_in_memory().unwrap();
                connection.execute_batch("CREATE TABLE t (x, y)").unwrap();
                for (x, y) in rows {
                    connection.execute("INSERT INTO t VALUES (?1, ?2)", rusqlite::params![x, y]).unwrap();
                }
                connection
            };
            let mut turned = ours.clone();
            turned.rotate_left(shuffled.index(ours.len() + 1));
            prop_assert!(same(&table(&ours), &table(&turned)));
            let sorted = |rows: &[(i64, &'static str)]| {
                let mut rows = rows.to_vec();
                rows.sort_unstable();
                rows
            };
            prop_assert_eq!(same(&table(&ours), &table(&theirs)), sorted(&ours) == sorted(&theirs));
        }
    }
}

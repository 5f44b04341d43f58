//! The differences of two databases, row by row: keys and columns. Values are never reported: they may be secrets.
//!
//! Both are read once, side by side, in the order of their keys; nothing is kept. Rows without a meaningful key are compared in
//! any order ([`any_order`](super::any_order)), in more passes where they differ.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use rusqlite::Connection;

use super::any_order::for_other_rows_in_any_order;
use super::rows::for_other_rows;
use super::table::{Layout, Table, schema_entries, tables};
use super::value::Value;

/// Maximum number of rows reported per table.
const ROWS_TOLD: usize = 20;

/// The differences between two databases.
#[derive(Debug, Default)]
pub struct ContentDifferences {
    /// Differing tables, indexes and other entries of the schema.
    pub schema: Vec<SchemaDifference>,
    /// Tables whose rows differ, by name.
    pub tables: Vec<TableDifferences>,
    /// Number of compared rows of the backup.
    pub rows: u64,
}

impl ContentDifferences {
    /// Whether there are no differences.
    pub fn is_empty(&self) -> bool {
        self.schema.is_empty() && self.tables.is_empty()
    }
}

/// A differing entry of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaDifference {
    /// `table`, `index`, `trigger` or `view`.
    pub kind: String,
    /// Name of the entry.
    pub name: String,
    /// The side that has it, or a difference of the definitions.
    pub which: WhichRow,
}

/// The differing rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDifferences {
    /// Name of the table.
    pub table: String,
    /// The first differing rows.
    pub first: Vec<RowDifference>,
    /// Number of rows that only the backup has.
    pub only_in_backup: u64,
    /// Number of rows that only the database has.
    pub only_in_database: u64,
    /// Number of rows that differ.
    pub changed: u64,
}

/// A differing row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDifference {
    /// Rowid or primary key; empty for a row of a table without either. Where VACUUM changes rowids, this is the rowid in the
    /// database that has the row.
    pub key: Vec<KeyPart>,
    /// The side that has it, or a difference of the rows.
    pub which: WhichRow,
    /// The columns that differ.
    pub columns: Vec<String>,
}

/// The side that has a row, or an entry of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichRow {
    /// The backup has it, and the database does not.
    OnlyInBackup,
    /// The database has it, and the backup does not.
    OnlyInDatabase,
    /// Both, with differences.
    Changed,
}

impl fmt::Display for WhichRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnlyInBackup => "only in the backup",
            Self::OnlyInDatabase => "only in the database",
            Self::Changed => "differs",
        })
    }
}

/// A column of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPart {
    /// Name of the column; `rowid` for an implicit rowid.
    pub column: String,
    /// The value as text.
    pub value: String,
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.column, self.value)
    }
}

/// Finds all differences.
///
/// # Errors
/// When one of the databases cannot be read.
pub(crate) fn differences(backup: &Connection, database: &Connection) -> rusqlite::Result<ContentDifferences> {
    let mut found = ContentDifferences { schema: schema_differences(backup, database)?, ..Default::default() };
    let theirs: BTreeMap<String, Table> =
        tables(database)?.into_iter().map(|table| (table.name.clone(), table)).collect();
    for ours in tables(backup)? {
        let Some(theirs) = theirs.get(&ours.name) else { continue };
        let layout = Layout::of(backup, &ours)?;
        // Already reported with the schema; rows with other columns are not comparable.
        if layout != Layout::of(database, theirs)? {
            continue;
        }
        let is_keyless = layout.key.is_empty() || ours.is_renumbered || theirs.is_renumbered;
        let identity = if is_keyless { Identity::Contents } else { Identity::Key };
        let compared = compare_table(&ours.name, (&layout, identity), backup, database)?;
        found.rows += compared.1;
        found.tables.extend(Some(compared.0).filter(TableDifferences::is_some));
    }
    Ok(found)
}

impl TableDifferences {
    fn is_some(&self) -> bool {
        self.only_in_backup + self.only_in_database + self.changed > 0
    }

    fn add(&mut self, layout: &Layout, row: &[Value], which: WhichRow, columns: Vec<String>) {
        match which {
            WhichRow::OnlyInBackup => self.only_in_backup += 1,
            WhichRow::OnlyInDatabase => self.only_in_database += 1,
            WhichRow::Changed => self.changed += 1,
        }
        if self.first.len() < ROWS_TOLD {
            self.first.push(RowDifference { key: key_of(layout, row), which, columns });
        }
    }
}

fn schema_differences(backup: &Connection, database: &Connection) -> rusqlite::Result<Vec<SchemaDifference>> {
    let (ours, theirs) = (schema_entries(backup)?, schema_entries(database)?);
    let mut found = Vec::new();
    for ((kind, name), entry) in &ours {
        let which = match theirs.get(&(kind.clone(), name.clone())) {
            None => WhichRow::OnlyInBackup,
            Some(other) if other != entry => WhichRow::Changed,
            Some(_) => continue,
        };
        found.push(SchemaDifference { kind: kind.clone(), name: name.clone(), which });
    }
    let missing = theirs.into_keys().filter(|key| !ours.contains_key(key));
    found.extend(missing.map(|(kind, name)| SchemaDifference { kind, name, which: WhichRow::OnlyInDatabase }));
    Ok(found)
}

fn key_of(layout: &Layout, row: &[Value]) -> Vec<KeyPart> {
    let parts = layout.key.iter().zip(row);
    parts.map(|(column, value)| KeyPart { column: column.clone(), value: value.to_string() }).collect()
}

/// The method of matching rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// Rows are matched by key.
    Key,
    /// Rows are matched by contents: they have no key, or one that VACUUM changes.
    Contents,
}

fn compare_table(
    table: &str,
    (layout, identity): (&Layout, Identity),
    backup: &Connection,
    database: &Connection,
) -> rusqlite::Result<(TableDifferences, u64)> {
    let mut found = TableDifferences {
        table: table.to_owned(),
        first: Vec::new(),
        only_in_backup: 0,
        only_in_database: 0,
        changed: 0,
    };
    let sql = layout.query(table);
    let pair = (Some((backup, sql.as_str())), Some((database, sql.as_str())));
    let compare = match identity {
        Identity::Key => for_other_rows,
        Identity::Contents => for_other_rows_in_any_order,
    };
    let rows = compare(pair, &layout.order, &mut |our, their| {
        match (our, their) {
            (Some(our), None) => found.add(layout, our, WhichRow::OnlyInBackup, Vec::new()),
            (None, Some(their)) => found.add(layout, their, WhichRow::OnlyInDatabase, Vec::new()),
            (Some(our), Some(their)) => {
                let columns = layout.differing(our, their);
                found.add(layout, our, WhichRow::Changed, columns.cloned().collect());
            }
            (None, None) => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok((found, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE a (x, y TEXT); CREATE TABLE b (k, l, v, PRIMARY KEY (l, k)) WITHOUT ROWID;
                 CREATE TABLE n (k TEXT COLLATE NOCASE PRIMARY KEY DESC, v) WITHOUT ROWID;
                 CREATE TABLE taken (rowid, _rowid_, oid); CREATE INDEX i ON a (x);
                 INSERT INTO a VALUES (1, 'one'), (2, 'two'), (3, NULL);
                 INSERT INTO b VALUES ('k', 1, x'00ff'), ('l', 2, 1.5), ('m', x'01', 3);
                 INSERT INTO n VALUES ('a', 1), ('B', 2), ('c', 3);
                 INSERT INTO taken VALUES (1, 2, 3), (1, 2, 3), (NULL, 'x', 2.5);",
            )
            .unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    fn differences_of(ours: &str, theirs: &str) -> String {
        let found = differences(&database(ours), &database(theirs)).unwrap();
        let mut reported: Vec<String> =
            found.schema.iter().map(|it| format!("{} {} {}", it.kind, it.name, it.which)).collect();
        for table in &found.tables {
            let TableDifferences { only_in_backup, only_in_database, changed, .. } = table;
            reported.push(format!("{} {only_in_backup} {only_in_database} {changed}", table.table));
            for row in &table.first {
                let key: Vec<_> = row.key.iter().map(ToString::to_string).collect();
                reported.push(format!("[{}] {} {:?}", key.join(", "), row.which, row.columns));
            }
        }
        assert_eq!(found.is_empty(), reported.is_empty());
        reported.join("; ")
    }

    #[test]
    fn layout_and_history_do_not_matter() {
        let moved = "INSERT INTO a VALUES (9, zeroblob(9000)); DELETE FROM a WHERE x = 9; ANALYZE; VACUUM;";
        assert_eq!(differences_of("", moved), "");
        assert_eq!(differences(&database(""), &database(moved)).unwrap().rows, 12);
    }

    #[test]
    fn rows_are_reported_by_table_and_key_and_columns_never_by_value() {
        for (sql, expected) in [
            ("UPDATE a SET y = 'secret' WHERE x = 2", r#"a 0 0 1; [rowid = 2] differs ["y"]"#),
            ("UPDATE a SET y = '1', x = 1.0 WHERE x = 1", r#"a 0 0 1; [rowid = 1] differs ["x", "y"]"#),
            ("UPDATE a SET y = CAST(x'ff' AS TEXT) WHERE x = 2", r#"a 0 0 1; [rowid = 2] differs ["y"]"#),
            ("DELETE FROM a WHERE x = 1", r"a 1 0 0; [rowid = 1] only in the backup []"),
            ("INSERT INTO a (rowid) VALUES (-5)", r"a 0 1 0; [rowid = -5] only in the database []"),
            (
                "UPDATE a SET rowid = 7 WHERE x = 3",
                r"a 1 1 0; [rowid = 3] only in the backup []; [rowid = 7] only in the database []",
            ),
            ("UPDATE b SET v = NULL WHERE l = 2", r#"b 0 0 1; [l = 2, k = 'l'] differs ["v"]"#),
            (
                "UPDATE b SET l = 1.5 WHERE l = 2",
                r"b 1 1 0; [l = 1.5, k = 'l'] only in the database []; [l = 2, k = 'l'] only in the backup []",
            ),
            ("DELETE FROM b WHERE k = 'm'", r"b 1 0 0; [l = x'01', k = 'm'] only in the backup []"),
            ("INSERT INTO n VALUES ('bb', 9)", r"n 0 1 0; [k = 'bb'] only in the database []"),
            ("DELETE FROM taken WHERE oid = 3", r"taken 2 0 0; [] only in the backup []; [] only in the backup []"),
            (
                "UPDATE taken SET oid = 3.0 WHERE _rowid_ = 'x'",
                r"taken 1 1 0; [] only in the backup []; [] only in the database []",
            ),
            // An equal key for SQLite, with another value.
            ("UPDATE b SET l = 2.0 WHERE l = 2", r#"b 0 0 1; [l = 2, k = 'l'] differs ["l"]"#),
            ("UPDATE n SET k = 'A' WHERE k = 'a'", r#"n 0 0 1; [k = 'a'] differs ["k"]"#),
            (
                "INSERT INTO n VALUES (CAST(x'ff' AS TEXT), 1), ('\\xff', 1), (x'ff', 1)",
                r"n 0 3 0; [k = x'ff'] only in the database []; [k = CAST(x'ff' AS TEXT)] only in the database []; [k = '\xff'] only in the database []",
            ),
            ("DROP INDEX i", "index i only in the backup"),
            ("CREATE TABLE c (x)", "table c only in the database"),
            ("ALTER TABLE a ADD COLUMN z", "table a differs"),
        ] {
            assert_eq!(differences_of("", sql), expected, "{sql}");
        }
    }

    #[test]
    fn of_many_rows_some_are_reported_and_all_are_counted() {
        let many = "INSERT INTO a SELECT value, 'x' FROM generate_series(10, 1009)";
        let many = many.replace(
            "generate_series(10, 1009)",
            "(WITH RECURSIVE n(value) AS (SELECT 10 UNION ALL SELECT value + 1 FROM n WHERE value < 1009) SELECT value FROM n)",
        );
        let found = differences(&database(""), &database(&many)).unwrap();
        assert_eq!((found.tables[0].only_in_database, found.tables[0].first.len()), (1000, ROWS_TOLD));
    }

    #[test]
    fn a_text_that_is_no_utf8_is_not_the_text_that_looks_like_it() {
        let rows = |value: &str| database(&format!("UPDATE a SET y = {value} WHERE x = 2"));
        let found = differences(&rows("'\\xff'"), &rows("CAST(x'ff' AS TEXT)")).unwrap();
        assert_eq!(found.tables[0].changed, 1);
    }

    /// Other sort orders than that of texts: numbers with equal keys, texts that are not UTF-8, other collations.
    #[test]
    fn rows_are_found_in_every_sort_order_of_their_key() {
        let many = "INSERT OR IGNORE INTO b (l, k) VALUES (1, 'z'), (1.0, 'y'), (9007199254740993, 'k'), \
             (9007199254740992.0, 'l'), (CAST(x'ff' AS TEXT), 'k'), (CAST(x'5c80' AS TEXT), 'k'), ('\\', 'k'), ('é', 'k');
             INSERT INTO n VALUES ('Z', 1), ('_', 2), ('[', 3), (CAST(x'ff' AS TEXT), 4), ('é', 5)";
        assert_eq!(differences_of(many, many), "");
        for gone in ["b WHERE k = 'y'", "b WHERE l = CAST(x'5c80' AS TEXT)", "n WHERE k = '_'", "n WHERE k = 'é'"] {
            let found = differences(&database(many), &database(&format!("{many}; DELETE FROM {gone}"))).unwrap();
            let [table] = &found.tables[..] else { panic!("{gone}: {found:?}") };
            assert_eq!((table.only_in_backup, table.only_in_database, table.changed), (1, 0, 0), "{gone}");
        }
    }

    #[test]
    fn rows_that_vacuum_renumbered_are_the_same_and_others_are_reported_where_they_are() {
        let made = "CREATE TABLE log (at, what); INSERT INTO log VALUES (1, 'a'), (2, 'b'), (2, 'b'), (3, 'c'), (4, 'd'); \
             DELETE FROM log WHERE at = 1";
        let reported = |sql: &str| differences_of(made, &format!("{made}; {sql}"));
        assert_eq!(reported("VACUUM"), "");
        // Rows 2 to 5 are then rows 1 to 4. Of two equal rows the first is named.
        assert_eq!(reported("DELETE FROM log WHERE at = 3; VACUUM"), "log 1 0 0; [rowid = 4] only in the backup []");
        assert_eq!(
            reported("INSERT INTO log VALUES (3, 'c'); VACUUM"),
            "log 0 1 0; [rowid = 3] only in the database []"
        );
        assert_eq!(
            reported("UPDATE log SET what = 'new' WHERE at = 4; VACUUM"),
            "log 1 1 0; [rowid = 4] only in the database []; [rowid = 5] only in the backup []"
        );
        // Without VACUUM it is the same row, changed.
        assert_eq!(reported("UPDATE log SET what = 'new' WHERE at = 4"), r#"log 0 0 1; [rowid = 5] differs ["what"]"#);
        assert_eq!(
            reported("DROP TABLE log; CREATE TABLE log (at, what)"),
            "log 4 0 0; [rowid = 2] only in the backup []; [rowid = 3] only in the backup []; [rowid = 4] only in the backup []; [rowid = 5] only in the backup []"
        );
    }
}

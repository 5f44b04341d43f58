//! What differs in two databases, row by row: whose keys are where, and which columns say something else. Values are never
//! told: they may be secrets.
//!
//! Both are read once, in the order of their keys, side by side: nothing of them is kept.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, Rows, Statement};

use crate::contents::{Table, tables};

/// Rows that are told of each table.
const ROWS_TOLD: usize = 20;

/// Bytes of a text or a blob in a key that are told.
const KEY_BYTES_TOLD: usize = 40;

/// What differs.
#[derive(Debug, Default)]
pub struct ContentDifferences {
    /// Tables, indexes and all else that the schema names.
    pub schema: Vec<SchemaDifference>,
    /// Tables whose rows differ, by name.
    pub tables: Vec<TableDifferences>,
    /// Rows of the backup that were compared.
    pub rows: u64,
}

impl ContentDifferences {
    /// Whether there is nothing that differs.
    pub fn is_empty(&self) -> bool {
        self.schema.is_empty() && self.tables.is_empty()
    }
}

/// Something in the schema that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaDifference {
    /// `table`, `index`, `trigger` or `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Which of the two has it, or that both say something else.
    pub which: WhichRow,
}

/// The rows of a table that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDifferences {
    /// Its name.
    pub table: String,
    /// The first of them.
    pub first: Vec<RowDifference>,
    /// Rows that the backup has and the database does not.
    pub only_in_backup: u64,
    /// Rows that the database has and the backup does not.
    pub only_in_database: u64,
    /// Rows that both have and that say something else.
    pub changed: u64,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDifference {
    /// Its rowid or primary key; empty for a row of a table that has neither.
    pub key: Vec<KeyPart>,
    /// Which of the two has it, or that both have another.
    pub which: WhichRow,
    /// The columns that say something else.
    pub columns: Vec<String>,
}

/// Who has a row, or an entry of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichRow {
    /// The backup only.
    OnlyInBackup,
    /// The database only.
    OnlyInDatabase,
    /// Both, and they are not the same.
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
    /// Its name; `rowid` for an implicit one.
    pub column: String,
    /// Its value, in words.
    pub value: String,
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.column, self.value)
    }
}

/// Finds what differs.
///
/// # Errors
/// When one of them cannot be read.
pub(crate) fn differences(backup: &Connection, database: &Connection) -> rusqlite::Result<ContentDifferences> {
    let mut found = ContentDifferences { schema: schema_differences(backup, database)?, ..Default::default() };
    let theirs: BTreeMap<String, Table> =
        tables(database)?.into_iter().map(|table| (table.name.clone(), table)).collect();
    for ours in tables(backup)? {
        let Some(theirs) = theirs.get(&ours.name) else { continue };
        let layout = Layout::of(backup, &ours)?;
        // Told of the schema already; the rows of other columns are other rows.
        if layout != Layout::of(database, theirs)? {
            continue;
        }
        let compared = compare_table(&ours.name, &layout, backup, database)?;
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
            self.first.push(RowDifference { key: layout.key_of(row), which, columns });
        }
    }
}

/// Type and name of what the schema has, and which table it is of and how it was made.
pub(crate) type SchemaEntries = BTreeMap<(String, String), (String, Option<String>)>;

/// What the schema of a database has.
pub(crate) fn schema_entries(connection: &Connection) -> rusqlite::Result<SchemaEntries> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?))))?;
    rows.collect()
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

/// What a table is read as: its columns, of which the first are the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns of the key; none if its rows are all that they say.
    pub(crate) key: Vec<String>,
    /// Whether the key is a rowid, which is asked for under this name.
    pub(crate) rowid: Option<&'static str>,
    /// All columns, whether in the key or not.
    pub(crate) columns: Vec<String>,
}

impl Layout {
    pub(crate) fn of(connection: &Connection, table: &Table) -> rusqlite::Result<Self> {
        let sql = "SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid";
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([&table.name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        let rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
        let columns: Vec<String> = rows.iter().map(|(name, _)| name.clone()).collect();
        let mut primary: Vec<_> = rows.into_iter().filter(|(_, place)| *place > 0).collect();
        primary.sort_by_key(|(_, place)| *place);
        let key = match (table.rowid, primary.is_empty()) {
            (Some(_), _) => vec!["rowid".to_owned()],
            (None, false) => primary.into_iter().map(|(name, _)| name).collect(),
            // All names of its rowid are taken by columns: its rows are all that they say.
            (None, true) => Vec::new(),
        };
        Ok(Self { key, rowid: table.rowid, columns })
    }

    /// Reads the key, then all columns, in the order in which keys are compared here.
    fn query(&self, table: &str) -> String {
        format!("{} {}", self.select(table, &self.columns), self.order())
    }

    /// Reads the key, then these columns; NULL for those that the table does not have.
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

    /// The order in which keys are compared here.
    pub(crate) fn order(&self) -> String {
        let order: Vec<String> = match self.rowid {
            Some(rowid) => vec![rowid.to_owned()],
            None => {
                let by = if self.key.is_empty() { &self.columns } else { &self.key };
                by.iter().map(|name| format!("{} COLLATE BINARY", quoted(name))).collect()
            }
        };
        format!("ORDER BY {}", order.join(", "))
    }

    /// Columns of a row that say which it is.
    pub(crate) fn compared_first(&self) -> usize {
        if self.key.is_empty() { self.columns.len() } else { self.key.len() }
    }

    /// The columns in which two rows differ, of which both have the key and then these columns.
    pub(crate) fn differing<'l>(&'l self, our: &'l [Value], their: &'l [Value]) -> impl Iterator<Item = &'l String> {
        let values = our.iter().zip(their).skip(self.key.len());
        let columns = self.columns.iter().zip(values).filter(|(_, (our, their))| !same_value(our, their));
        columns.map(|(name, _)| name)
    }

    fn key_of(&self, row: &[Value]) -> Vec<KeyPart> {
        let parts = self.key.iter().zip(row);
        parts.map(|(column, value)| KeyPart { column: column.clone(), value: told(value) }).collect()
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn compare_table(
    table: &str,
    layout: &Layout,
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
    let rows = for_other_rows(pair, layout.compared_first(), &mut |our, their| {
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

/// Where rows are read: on a connection, by a query.
pub(crate) type RowSource<'a> = Option<(&'a Connection, &'a str)>;

/// What to do with a row of one and that of the other; whether to go on.
pub(crate) type TakeRows<'t> = &'t mut dyn FnMut(Option<&[Value]>, Option<&[Value]>) -> ControlFlow<()>;

/// Reads the rows of two queries that are in the same order, of which the first `key` columns say which row it is, and hands
/// those to `take` that only one has, or that differ, until it breaks. A query that is not there has none. Returns how many
/// rows the first has.
pub(crate) fn for_other_rows(
    (ours, theirs): (RowSource<'_>, RowSource<'_>),
    key: usize,
    take: TakeRows<'_>,
) -> rusqlite::Result<u64> {
    let mut ours = ours.map(|(connection, sql)| connection.prepare(sql)).transpose()?;
    let mut theirs = theirs.map(|(connection, sql)| connection.prepare(sql)).transpose()?;
    let count = |statement: &Option<Statement<'_>>| statement.as_ref().map_or(0, |statement| statement.column_count());
    let (our_count, their_count) = (count(&ours), count(&theirs));
    let mut ours = ours.as_mut().map(|statement| statement.query([])).transpose()?;
    let mut theirs = theirs.as_mut().map(|statement| statement.query([])).transpose()?;
    let next = |rows: &mut Option<Rows<'_>>, count| match rows {
        Some(rows) => values(rows.next()?, count),
        None => Ok(None),
    };
    let (mut our, mut their) = (next(&mut ours, our_count)?, next(&mut theirs, their_count)?);
    let mut rows = 0;
    loop {
        let order = match (&our, &their) {
            (None, None) => return Ok(rows),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(our), Some(their)) => compare_keys(&our[..key], &their[..key]),
        };
        let taken = match (order, &our, &their) {
            (Ordering::Less, our, _) => take(our.as_deref(), None),
            (Ordering::Greater, _, their) => take(None, their.as_deref()),
            (_, Some(our), Some(their)) if !same_values(our, their) => take(Some(our), Some(their)),
            _ => ControlFlow::Continue(()),
        };
        if taken.is_break() {
            return Ok(rows);
        }
        if order.is_le() {
            rows += 1;
            our = next(&mut ours, our_count)?;
        }
        if order.is_ge() {
            their = next(&mut theirs, their_count)?;
        }
    }
}

/// The values of a row.
pub(crate) fn values(row: Option<&Row<'_>>, count: usize) -> rusqlite::Result<Option<Vec<Value>>> {
    let read = |row: &Row<'_>| (0..count).map(|column| Ok(owned(row.get_ref(column)?))).collect();
    row.map(read).transpose()
}

/// A text that is not UTF-8 is told from all others by its bytes.
fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Text(bytes.escape_ascii().to_string()),
        },
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// Whether two rows are the same.
pub(crate) fn same_values(ours: &[Value], theirs: &[Value]) -> bool {
    ours.iter().zip(theirs).all(|(our, their)| same_value(our, their))
}

/// Bit by bit: NaN is stored as NULL, and 0.0 and -0.0 are two numbers.
pub(crate) fn same_value(our: &Value, their: &Value) -> bool {
    match (our, their) {
        (Value::Real(our), Value::Real(their)) => our.to_bits() == their.to_bits(),
        _ => our == their,
    }
}

/// As SQLite sorts: NULL, numbers, texts, blobs.
pub(crate) fn compare_keys(ours: &[Value], theirs: &[Value]) -> Ordering {
    ours.iter()
        .zip(theirs)
        .map(|(our, their)| compare(our, their))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn compare(our: &Value, their: &Value) -> Ordering {
    let class = |value: &Value| match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    };
    match (our, their) {
        (Value::Integer(our), Value::Integer(their)) => our.cmp(their),
        (Value::Real(our), Value::Real(their)) => our.total_cmp(their),
        (Value::Integer(our), Value::Real(their)) => compare_mixed(*our, *their),
        (Value::Real(our), Value::Integer(their)) => compare_mixed(*their, *our).reverse(),
        (Value::Text(our), Value::Text(their)) => our.as_bytes().cmp(their.as_bytes()),
        (Value::Blob(our), Value::Blob(their)) => our.cmp(their),
        _ => class(our).cmp(&class(their)),
    }
}

/// A whole number and another one, which are different keys even if they are equal.
#[expect(clippy::cast_precision_loss, reason = "only to sort them")]
fn compare_mixed(whole: i64, real: f64) -> Ordering {
    (whole as f64).total_cmp(&real).then(Ordering::Less)
}

fn told(value: &Value) -> String {
    let short = |text: String| match text.char_indices().nth(KEY_BYTES_TOLD) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => format!("'{}'", short(text.escape_debug().to_string())),
        Value::Blob(bytes) => {
            format!("x'{}'", short(bytes.iter().take(KEY_BYTES_TOLD).map(|byte| format!("{byte:02x}")).collect()))
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

    fn told_of(ours: &str, theirs: &str) -> String {
        let found = differences(&database(ours), &database(theirs)).unwrap();
        let mut told: Vec<String> =
            found.schema.iter().map(|it| format!("{} {} {}", it.kind, it.name, it.which)).collect();
        for table in &found.tables {
            let TableDifferences { only_in_backup, only_in_database, changed, .. } = table;
            told.push(format!("{} {only_in_backup} {only_in_database} {changed}", table.table));
            for row in &table.first {
                let key: Vec<_> = row.key.iter().map(ToString::to_string).collect();
                told.push(format!("[{}] {} {:?}", key.join(", "), row.which, row.columns));
            }
        }
        assert_eq!(found.is_empty(), told.is_empty());
        told.join("; ")
    }

    #[test]
    fn layout_and_history_do_not_matter() {
        let moved = "INSERT INTO a VALUES (9, zeroblob(9000)); DELETE FROM a WHERE x = 9; ANALYZE; VACUUM;";
        assert_eq!(told_of("", moved), "");
        assert_eq!(differences(&database(""), &database(moved)).unwrap().rows, 12);
    }

    #[test]
    fn rows_are_told_by_table_and_key_and_columns_never_by_value() {
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
            ("DROP INDEX i", "index i only in the backup"),
            ("CREATE TABLE c (x)", "table c only in the database"),
            ("ALTER TABLE a ADD COLUMN z", "table a differs"),
        ] {
            assert_eq!(told_of("", sql), expected, "{sql}");
        }
    }

    #[test]
    fn of_many_rows_some_are_told_and_all_are_counted() {
        let many = "INSERT INTO a SELECT value, 'x' FROM generate_series(10, 1009)";
        let many = many.replace(
            "generate_series(10, 1009)",
            "(WITH RECURSIVE n(value) AS (SELECT 10 UNION ALL SELECT value + 1 FROM n WHERE value < 1009) SELECT value FROM n)",
        );
        let found = differences(&database(""), &database(&many)).unwrap();
        assert_eq!((found.tables[0].only_in_database, found.tables[0].first.len()), (1000, ROWS_TOLD));
    }
}

//! Every row that differs is found, and none else: compared with all rows of both databases, read one by one.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::databases::Databases;
use super::leaves::Scope;
use super::{DiffEntry, RowChange, RowFate};
use crate::backup::Backup;
use crate::backup::view::View;
use crate::compare::value::Value;
use crate::history::History;
use crate::pages::{MountedOverlay, NoPages, OverlayPages, PageIdentity, PageSource};
use crate::segment::version::Version;
use crate::storage::read_error::ReadError;
use format::units::{PageNo, PageSize};

const SCHEMA: &str = "
    CREATE TABLE plain (a INTEGER, b TEXT, c BLOB);
    CREATE TABLE keyed (id INTEGER PRIMARY KEY, x, y BLOB);
    CREATE INDEX keyed_x ON keyed (x);
    CREATE TABLE without (k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID;
    CREATE TABLE mixed (k TEXT COLLATE NOCASE, l, v, PRIMARY KEY (l DESC, k)) WITHOUT ROWID;
    CREATE TABLE taken (rowid, _rowid_, oid);
    CREATE TABLE child (keyed REFERENCES keyed(id) ON DELETE CASCADE, note);";

/// A table, its key, and the row as SQL would write it.
type Rows = BTreeMap<(String, String), String>;

/// Table, key, row before, row after.
type Found = Vec<(String, String, Option<String>, Option<String>)>;

fn empty(page_size: PageSize) -> OverlayPages {
    OverlayPages::new(Arc::new(NoPages(page_size)))
}

/// Runs statements, each in a transaction of its own; also returns the pages that were read or written.
fn run(pages: &OverlayPages, statements: &[String]) -> (OverlayPages, HashSet<PageNo>) {
    let mounted = MountedOverlay::new(pages.clone());
    let connection = mounted.connect().unwrap();
    if pages.page_count() == 0 {
        connection.execute_batch(&format!("PRAGMA page_size = {}", pages.page_size().get())).unwrap();
    }
    connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA foreign_keys = ON").unwrap();
    mounted.note_reads();
    for sql in statements {
        connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let mut touched = mounted.take_reads();
    let after = mounted.pages();
    touched.extend(after.written_since(pages).into_iter().map(|(page, _)| page));
    (after, touched)
}

/// The bytes of a database of which nothing else is known.
struct Bytes(PageSize, Vec<u8>);

impl PageSource for Bytes {
    fn page_size(&self) -> PageSize {
        self.0
    }

    fn page_count(&self) -> u32 {
        u32::try_from(self.1.len() / self.0.bytes()).unwrap()
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        match self.1.chunks_exact(self.0.bytes()).nth(page.get() as usize - 1) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => out.fill(0),
        }
        Ok(())
    }
}

fn bytes_of(pages: &OverlayPages) -> Vec<u8> {
    let mut bytes = vec![0; pages.page_count() as usize * pages.page_size().bytes()];
    pages.read_pages(PageNo::FIRST, &mut bytes).unwrap();
    bytes
}

fn vacuumed(pages: &OverlayPages) -> OverlayPages {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    std::fs::write(&path, bytes_of(pages)).unwrap();
    Connection::open(&path).unwrap().execute_batch("VACUUM").unwrap();
    OverlayPages::new(Arc::new(Bytes(pages.page_size(), std::fs::read(&path).unwrap())))
}

/// All rows, read without anything of what is tested.
fn all_rows(pages: &OverlayPages) -> Rows {
    let mounted = MountedOverlay::new(pages.clone());
    let connection = mounted.connect().unwrap();
    let mut found = Rows::new();
    let mut tables = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let tables = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
    for table in tables.map(Result::unwrap) {
        let mut columns = connection.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
        let columns = columns.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let columns: Vec<String> = columns.map(Result::unwrap).collect();
        let row = quote_all(&columns);
        let key = match table.as_str() {
            "without" => quote_all(&["k"]),
            "mixed" => key_of_mixed("l", "k"),
            "taken" => row.clone(),
            _ => "CAST(rowid AS TEXT)".to_owned(),
        };
        let mut rows = connection.prepare(&format!("SELECT {key}, {row} FROM {table} ORDER BY 1")).unwrap();
        let rows = rows.query_map([], |row| Ok((shown(row.get_ref(0)?), shown(row.get_ref(1)?))));
        for (number, row) in rows.unwrap().enumerate() {
            let (key, row) = row.unwrap();
            // Rows without a key may be the same one twice.
            let key = if table == "taken" { format!("{key}#{number:09}") } else { key };
            found.insert((table.clone(), key), row);
        }
    }
    found
}

/// As SQL would write some values; they need not be UTF-8.
fn quote_all(values: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("quote({})", value.as_ref())).collect();
    quoted.join(" || ',' || ")
}

/// What is the same for what is the same key: numbers that are equal, letters that differ in size.
fn key_of_mixed(l: &str, k: &str) -> String {
    format!("CASE typeof({l}) WHEN 'integer' THEN quote({l} * 1.0) ELSE quote({l}) END || ',' || quote(lower({k}))")
}

fn shown(value: ValueRef<'_>) -> String {
    value.as_bytes().unwrap().escape_ascii().to_string().replace(r"\'", "'")
}

fn asked(sql: &str, values: &[Value]) -> String {
    let connection = Connection::open_in_memory().unwrap();
    let sql = format!("SELECT {sql}");
    connection.query_row(&sql, rusqlite::params_from_iter(values), |row| Ok(shown(row.get_ref(0)?))).unwrap()
}

fn key(row: &RowChange<'_>) -> String {
    match row.table {
        "taken" => String::new(),
        "without" => quoted(row.key),
        "mixed" => asked(&key_of_mixed("?1", "?2"), row.key),
        _ => asked("CAST(?1 AS TEXT)", row.key),
    }
}

fn quoted(values: &[Value]) -> String {
    let parameters: Vec<String> = (1..=values.len()).map(|at| format!("?{at}")).collect();
    asked(&quote_all(&parameters), values)
}

/// What differs by all rows. Of a row without a key only how often it is there matters.
fn expected(from: &Rows, to: &Rows) -> Found {
    let mut found = Found::new();
    let keys: std::collections::BTreeSet<_> = from.keys().chain(to.keys()).collect();
    for key in keys.into_iter().filter(|(table, _)| table != "taken") {
        let (before, after) = (from.get(key), to.get(key));
        if before != after {
            found.push((key.0.clone(), key.1.clone(), before.cloned(), after.cloned()));
        }
    }
    let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
    let count = |rows: &'_ Rows, by: i64| -> Vec<(String, i64)> {
        rows.iter().filter(|((table, _), _)| table == "taken").map(|(_, row)| (row.clone(), by)).collect()
    };
    let all: Vec<(String, i64)> = count(from, -1).into_iter().chain(count(to, 1)).collect();
    all.iter().for_each(|(row, by)| *counts.entry(row).or_default() += by);
    for (row, more) in counts {
        for _ in 0..more.abs() {
            let (before, after) = if more < 0 { (Some(row.clone()), None) } else { (None, Some(row.clone())) };
            found.push(("taken".to_owned(), String::new(), before, after));
        }
    }
    found.sort();
    found
}

fn found(from: &OverlayPages, to: &OverlayPages, scope: Scope) -> Found {
    let mut found = Found::new();
    let mut totals = BTreeMap::new();
    Databases::open(from.clone(), to.clone())
        .unwrap()
        .compare(scope, &[], &mut |entry| {
            match entry {
                DiffEntry::Row(row) => {
                    assert_eq!(row.fate == RowFate::Added, row.before.is_none());
                    assert_eq!(row.fate == RowFate::Changed, !row.differing().is_empty());
                    found.push((row.table.to_owned(), key(row), row.before.map(quoted), row.after.map(quoted)));
                }
                DiffEntry::Table(table) => {
                    totals.insert(table.table.clone(), table.added + table.removed + table.changed);
                }
                DiffEntry::Schema(_) => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    for (table, total) in totals {
        assert_eq!(found.iter().filter(|row| row.0 == table).count() as u64, total, "{table}");
    }
    found.sort();
    found
}

/// Compares the payments of two versions of a backup, and that with all rows of both.
pub(crate) fn compare_with_all_rows(backup: &Backup, history: &History, from: &Version, to: &Version) {
    let rows = |version: &Version| {
        let view = View::build(backup, &history.plan(version).unwrap(), None).unwrap();
        all_rows(view.pages()).into_iter().filter(|((table, _), _)| table == "payments").collect::<Rows>()
    };
    let mut found = Found::new();
    let taken = super::diff(backup, history, (from, to), &["payments".to_owned()], &mut |entry| {
        if let DiffEntry::Row(row) = entry {
            found.push((row.table.to_owned(), key(row), row.before.map(quoted), row.after.map(quoted)));
        }
        ControlFlow::Continue(())
    });
    taken.unwrap();
    found.sort();
    assert_eq!(found, expected(&rows(from), &rows(to)), "{} and {}", from.data_version, to.data_version);
}

/// A statement, by lot.
fn statement() -> impl Strategy<Value = String> {
    let len = prop_oneof![0..60_u32, 300..3000_u32];
    let id = 0..60_u32;
    prop_oneof![
        4 => (id.clone(), len.clone()).prop_map(|(id, len)| {
            format!("INSERT INTO plain (rowid, a, b, c) VALUES ((SELECT coalesce(max(rowid), 0) FROM plain) + 1 + {id}, {id}, 'row {id}', zeroblob({len}))")
        }),
        4 => (id.clone(), len.clone()).prop_map(|(id, len)| {
            format!("INSERT OR REPLACE INTO keyed VALUES ({id}, {id} % 7, zeroblob({len}))")
        }),
        3 => (id.clone(), len.clone()).prop_map(|(id, len)| {
            format!("INSERT OR REPLACE INTO without VALUES ('key {id}', zeroblob({len}))")
        }),
        // Keys that are equal and not the same, and texts that are no UTF-8.
        3 => (id.clone(), len.clone()).prop_map(|(id, len)| {
            let l = ["1", "1.0", "2.5", "3", "'x'", "CAST(x'ff' AS TEXT)", "'\\xff'", "x'ff'"][id as usize % 8];
            let k = ["'a'", "'A'", "CAST(x'5cff' AS TEXT)", "'_'", "'Z'"][id as usize % 5];
            format!("INSERT OR REPLACE INTO mixed VALUES ({k}, {l}, zeroblob({len}))")
        }),
        1 => id.clone().prop_map(|id| format!("INSERT OR REPLACE INTO without VALUES (CAST(x'ff{id:02x}' AS TEXT), {id})")),
        1 => id.clone().prop_map(|id| format!("DELETE FROM mixed WHERE l > {id}")),
        1 => (id.clone(), 0..3_u32).prop_map(|(id, other)| format!("INSERT INTO taken VALUES ({id} % 3, {other}, NULL)")),
        1 => id.clone().prop_map(|id| format!("INSERT INTO child SELECT id, 'of {id}' FROM keyed WHERE id >= {id} LIMIT 3")),
        3 => id.clone().prop_map(|id| format!("UPDATE plain SET a = a + 1 WHERE a % 5 = {id} % 5")),
        // The end of a long row alone: SQLite writes over it where it is.
        4 => id.clone().prop_map(|id| {
            format!("UPDATE keyed SET y = CAST(substr(y, 1, length(y) - 1) || char(65 + {id} % 50) AS BLOB) WHERE id % 4 = {id} % 4 AND length(y) > 0")
        }),
        2 => (id.clone(), len).prop_map(|(id, len)| format!("UPDATE keyed SET y = zeroblob({len}) WHERE id = {id}")),
        1 => id.clone().prop_map(|id| format!("UPDATE plain SET rowid = rowid + 100000 WHERE a = {id}")),
        1 => id.clone().prop_map(|id| format!("UPDATE taken SET oid = {id} WHERE _rowid_ = 1")),
        2 => id.clone().prop_map(|id| format!("DELETE FROM plain WHERE a % 4 = {id} % 4")),
        2 => id.clone().prop_map(|id| format!("DELETE FROM keyed WHERE id BETWEEN {id} AND {id} + 20")),
        1 => id.clone().prop_map(|id| format!("DELETE FROM without WHERE k < 'key {id}'")),
        1 => Just("DELETE FROM plain".to_owned()),
        1 => Just("DELETE FROM taken WHERE rowid = 1".to_owned()),
        1 => Just("DROP TABLE IF EXISTS more; CREATE TABLE more (x); INSERT INTO more VALUES (1), (zeroblob(700))".to_owned()),
        1 => Just("ALTER TABLE plain RENAME TO aside; CREATE TABLE plain (a INTEGER, b TEXT, c BLOB); INSERT INTO plain SELECT * FROM aside; DROP TABLE aside".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_found_is_what_differs(
        before in prop::collection::vec(statement(), 0..60),
        steps in prop::collection::vec(prop::collection::vec(statement(), 1..4), 1..6),
        page_size in prop::sample::select(vec![512_u32, 1024]),
        auto_vacuum in prop::sample::select(vec![0, 1]),
        vacuum: bool,
    ) {
        let start = [format!("PRAGMA auto_vacuum = {auto_vacuum}; {SCHEMA}")];
        let (made, _) = run(&empty(PageSize::new(page_size).unwrap()), &start);
        let (first, _) = run(&made, &before);
        let mut versions = vec![(first.clone(), all_rows(&first))];
        let mut touched_since_first = HashSet::new();
        for step in &steps {
            let (last, last_rows) = versions.last().unwrap();
            let (next, touched) = run(last, step);
            let rows = all_rows(&next);
            // Neighbours, by what led from one to the other.
            prop_assert_eq!(found(last, &next, Scope::Touched(touched.clone())), expected(last_rows, &rows));
            prop_assert_eq!(found(&next, last, Scope::Touched(touched.clone())), expected(&rows, last_rows));
            touched_since_first.extend(touched);
            versions.push((next, rows));
        }
        let (first, first_rows) = &versions[0];
        let (last, last_rows) = &versions[versions.len() - 1];
        let all = expected(first_rows, last_rows);
        prop_assert_eq!(&found(first, last, Scope::Touched(touched_since_first)), &all);
        // Far apart, by where their pages come from.
        prop_assert_eq!(&found(first, last, Scope::of_identities(first, last).unwrap()), &all);
        prop_assert_eq!(&found(last, first, Scope::of_identities(last, first).unwrap()), &expected(last_rows, first_rows));
        prop_assert_eq!(&found(first, last, Scope::Everywhere), &all);
        if vacuum {
            // Implicit rowids are numbered anew.
            let moved = vacuumed(last);
            let rows = all_rows(&moved);
            let scope = Scope::of_identities(first, &moved).unwrap();
            prop_assert_eq!(&found(first, &moved, scope), &expected(first_rows, &rows));
            prop_assert_eq!(&found(last, &moved, Scope::Everywhere), &expected(last_rows, &rows));
        }
    }
}

/// A page source that reports equal pages.
struct Known(Bytes);

impl PageSource for Known {
    fn page_size(&self) -> PageSize {
        self.0.page_size()
    }

    fn page_count(&self) -> u32 {
        self.0.page_count()
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_page(page, out)
    }

    fn identities(&self, first: PageNo, out: &mut [PageIdentity]) -> Result<(), ReadError> {
        let pages = self.0.1.chunks_exact(self.page_size().bytes()).skip(first.get() as usize - 1);
        out.fill(PageIdentity::Zeros);
        for (out, bytes) in out.iter_mut().zip(pages) {
            *out = PageIdentity::Written(crc32c::crc32c(bytes) as usize);
        }
        Ok(())
    }
}

#[test]
fn a_change_that_no_leaf_shows_is_found() {
    let size = PageSize::new(512).unwrap();
    let (before, _) = run(
        &empty(size),
        &[
            SCHEMA.to_owned(),
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO keyed SELECT i, i, zeroblob(1500) FROM n"
                .to_owned(),
        ],
    );
    let sql = "UPDATE keyed SET y = CAST(substr(y, 1, 1499) || 'x' AS BLOB) WHERE id = 77".to_owned();
    let (after, touched) = run(&before, &[sql]);
    let known = |pages: &OverlayPages| OverlayPages::new(Arc::new(Known(Bytes(size, bytes_of(pages)))));
    let (before, after) = (known(&before), known(&after));
    let Scope::Differing(differing) = Scope::of_identities(&before, &after).unwrap() else { panic!("not compared") };
    // The change counter of page 1 and the page that the row ends on.
    assert_eq!(differing.len(), 2, "{differing:?}");
    let rows = found(&before, &after, Scope::Differing(differing));
    assert_eq!(rows.iter().map(|row| row.1.as_str()).collect::<Vec<_>>(), ["77"]);
    assert_eq!(found(&before, &after, Scope::Touched(touched)), rows);
}

#[test]
fn two_tables_that_take_each_others_name_are_reported() {
    // None of their pages was touched, and nothing was reported for them.
    let size = PageSize::new(512).unwrap();
    let rows = |table: &str| format!("INSERT INTO {table} (x) VALUES ('of {table}'), (zeroblob(3000))");
    let make = r#"CREATE TABLE "plain" (x); CREATE TABLE "keyed" (x)"#.to_owned();
    let (before, _) = run(&empty(size), &[make, rows("plain"), rows("keyed")]);
    let renames = [("plain", "other"), ("keyed", "plain"), ("other", "keyed")];
    let renames = renames.map(|(from, to)| format!("ALTER TABLE {from} RENAME TO {to}"));
    let (after, touched) = run(&before, &renames);
    let all = expected(&all_rows(&before), &all_rows(&after));
    assert_eq!(all.len(), 2);
    assert_eq!(found(&before, &after, Scope::Touched(touched)), all);
}

#[test]
fn columns_of_either_version_are_reported_and_schema_changes_first() {
    let size = PageSize::new(512).unwrap();
    let (before, _) = run(&empty(size), &[
        "CREATE TABLE a (x, y); CREATE TABLE gone (x); INSERT INTO a VALUES (1, 2), (3, 4); INSERT INTO gone VALUES (5)".to_owned(),
    ]);
    let (after, touched) = run(
        &before,
        &["ALTER TABLE a ADD COLUMN z; UPDATE a SET z = 'new' WHERE x = 3; DROP TABLE gone; CREATE INDEX i ON a (z)"
            .to_owned()],
    );
    let entries = RefCell::new(Vec::new());
    Databases::open(before, after)
        .unwrap()
        .compare(Scope::Touched(touched), &[], &mut |entry| {
            entries.borrow_mut().push(match entry {
                DiffEntry::Schema(it) => format!("{} {} of {} {:?}", it.kind, it.name, it.table, it.fate),
                DiffEntry::Row(it) => {
                    format!("{} {:?} {:?} {:?}", it.table, it.columns, it.before.map(quoted), it.after.map(quoted))
                }
                DiffEntry::Table(it) => format!("{} +{} -{} ~{}", it.table, it.added, it.removed, it.changed),
            });
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(
        entries.into_inner(),
        [
            "index i of a Added",
            "table a of a Changed",
            "table gone of gone Removed",
            r#"a ["x", "y", "z"] Some("3,4,NULL") Some("3,4,'new'")"#,
            "a +0 -0 ~1",
            r#"gone ["x"] Some("5") None"#,
            "gone +0 -1 ~0",
        ]
    );
}

#[test]
fn hostile_pages_end_and_are_left_to_sqlite() {
    let size = PageSize::new(512).unwrap();
    let (before, _) = run(
        &empty(size),
        &[
            SCHEMA.to_owned(),
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
         INSERT INTO keyed SELECT i, i, zeroblob(i * 30) FROM n; DELETE FROM keyed WHERE id > 50"
                .to_owned(),
        ],
    );
    let bytes = bytes_of(&before);
    let mut random = 7_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let (mut read, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut hostile = bytes.clone();
        for _ in 0..=next(3) {
            // Never the schema, which says what there is.
            let page = 1 + next(bytes.len() / 512 - 1);
            let at = if next(2) == 0 { next(12) } else { next(512) };
            hostile[page * 512 + at] = [0, 1, 2, 5, 13, 255][next(6)];
        }
        let hostile = OverlayPages::new(Arc::new(Bytes(size, hostile)));
        let scope = Scope::of_identities(&before, &hostile).unwrap();
        let opened = Databases::open(before.clone(), hostile);
        let compared = opened.and_then(|opened| opened.compare(scope, &[], &mut |_| ControlFlow::Continue(())));
        match compared {
            Ok(()) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 50 && refused > 5, "{read} read, {refused} refused");
}

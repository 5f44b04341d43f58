//! `backupfs diff`: what changed between two versions is what differs in two databases that only SQLite has touched.

#![expect(clippy::unwrap_used, reason = "a step that fails here is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::DataVersion;
use format_fuzz::seeded::Seeded;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use tests::cli::{self, Ran, backupfs};
use tests::recorded_trace::RecordedTrace;
use tests::small_node::SmallNode;
use tests::traces::{self, TraceFolder};
use tests::{binaries, compare};

fn run(backup: &Path, arguments: &[&str]) -> Ran {
    let mut all = vec!["diff", backup.to_str().unwrap()];
    all.extend(arguments);
    backupfs(&all)
}

/// Table and rowid, with all columns.
type Rows = BTreeMap<(String, i64), Value>;

fn rows(database: &Path) -> Rows {
    let connection = compare::open_read_only(database).unwrap();
    let mut tables = connection.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    tables
        .iter()
        .filter(|table| !table.starts_with("sqlite_stat"))
        .flat_map(|table| rows_of(&connection, table))
        .collect()
}

fn rows_of(connection: &Connection, table: &str) -> Vec<((String, i64), Value)> {
    let mut statement = connection.prepare(&format!("SELECT rowid, * FROM \"{table}\"")).unwrap();
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let read = statement.query_map([], |row| {
        let columns = names.iter().enumerate().skip(1);
        // A column that is not there is NULL as well.
        let columns = columns.map(|(at, name)| (name.clone(), value(row.get_ref(at).unwrap())));
        let columns = columns.filter(|(_, value)| !value.is_null());
        Ok(((table.to_owned(), row.get(0)?), columns.collect::<serde_json::Map<_, _>>().into()))
    });
    read.unwrap().map(Result::unwrap).collect()
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) => json!(std::str::from_utf8(text).unwrap()),
        ValueRef::Blob(bytes) => {
            json!({"blob": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()})
        }
    }
}

/// What the two databases say that `diff --json` must say.
fn expected(from: &Path, to: &Path) -> Vec<(String, i64, Value, Value)> {
    let (from, to) = (rows(from), rows(to));
    let keys: std::collections::BTreeSet<_> = from.keys().chain(to.keys()).collect();
    let of = |rows: &Rows, key| rows.get(key).cloned().unwrap_or_default();
    let pairs = keys.into_iter().map(|key| (key.0.clone(), key.1, of(&from, key), of(&to, key)));
    pairs.filter(|(_, _, before, after)| before != after).collect()
}

fn without_nulls(row: &Value) -> Value {
    let columns = row.as_object().map(|row| row.iter().filter(|(_, value)| !value.is_null()));
    let columns = columns.map(|columns| columns.map(|(name, value)| (name.clone(), value.clone())));
    columns.map_or(Value::Null, |columns| columns.collect::<serde_json::Map<_, _>>().into())
}

/// The rows of the JSON. The totals must be those of the rows.
fn reported(ran: &Ran) -> Vec<(String, i64, Value, Value)> {
    let mut rows = Vec::new();
    let mut counted: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for line in ran.json_lines() {
        let table = line["table"].as_str().unwrap().to_owned();
        match line["kind"].as_str().unwrap() {
            "row" => {
                let change = ["added", "removed", "changed"].into_iter().find(|name| line["change"] == *name).unwrap();
                let [before, after] = ["before", "after"].map(|side| without_nulls(&line[side]));
                assert_eq!((change == "added", change == "removed"), (before.is_null(), after.is_null()), "{line}");
                for column in line["columns"].as_array().unwrap() {
                    assert_ne!(before[column.as_str().unwrap()], after[column.as_str().unwrap()], "{line}");
                }
                *counted.entry((table.clone(), change)).or_default() += 1;
                rows.push((table, line["key"]["rowid"].as_i64().unwrap(), before, after));
            }
            "table" => {
                for name in ["added", "removed", "changed"] {
                    let count = counted.remove(&(table.clone(), name)).unwrap_or_default();
                    assert_eq!(line[name], count, "{name} of {table}");
                }
            }
            other => assert_eq!(other, "schema"),
        }
    }
    assert!(counted.is_empty(), "rows of tables without an end: {counted:?}");
    rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    rows
}

/// Compares pairs of versions, neighbours and others, in both directions.
fn compare_pairs(folder: &TraceFolder, most: usize, seed: u64) {
    let recorded = RecordedTrace::record(folder, most);
    let versions = recorded.versions();
    let mut luck = Seeded::new(seed);
    let mut pick = |below: usize| usize::try_from(luck.below(below as u64)).unwrap();
    let mut pairs = vec![(versions[0], versions[versions.len() - 1])];
    for _ in 0..5 {
        let (first, second) = (pick(versions.len() - 1), pick(versions.len()));
        pairs.push((versions[first], versions[first + 1]));
        pairs.push((versions[first], versions[second]));
        pairs.push((versions[(first + 300).min(versions.len() - 1)], versions[first]));
    }
    let mut copies: BTreeMap<DataVersion, PathBuf> = BTreeMap::new();
    recorded.replay(folder, |version, database| {
        if pairs.iter().any(|(from, to)| *from == version || *to == version) {
            let copy = recorded.home.join(format!("copy-{version}.sqlite3"));
            std::fs::copy(database, &copy).unwrap();
            copies.insert(version, copy);
        }
    });
    for (from, to) in pairs {
        let ran = run(&recorded.home.backup(), &["--json", &from.to_string(), &to.to_string()]);
        let found = reported(&ran.expect_done("diff"));
        let expected = expected(&copies[&from], &copies[&to]);
        let other = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert!(other.is_none(), "from {from} to {to}: {other:?}");
        assert_eq!(found.len(), expected.len(), "from {from} to {to}");
    }
}

#[test]
fn every_row_that_differs_is_reported_and_no_other() {
    compare_pairs(&traces::shipped(), 1500, 6);
}

/// The database of a node that has run for some time, with the snapshot that its backup began with.
#[test]
fn a_larger_node_is_compared_the_same_way() {
    if let Some(folder) = traces::folder("channels") {
        compare_pairs(&folder, 700, 7);
    }
}

fn node() -> SmallNode {
    let mut node = SmallNode::created();
    node.commit();
    node.commit_also(&["INSERT INTO invoices (id, label, msatoshi) VALUES (500, 'it''s\n\u{1b}[2J', 7)"]);
    node.commit_also(&["UPDATE invoices SET msatoshi = 8 WHERE id = 500", "DELETE FROM forwards"]);
    node.commit_also(&[
        "ALTER TABLE invoices ADD COLUMN note",
        "CREATE TABLE empty (x)",
        "UPDATE invoices SET note = x'00ff' WHERE id = 500",
    ]);
    node.stop();
    node
}

#[test]
fn the_text_has_table_key_and_values() {
    let node = node();
    let text = |arguments: &[&str]| run(&node.home.backup(), arguments).expect_done("diff").stdout;
    assert_eq!(
        text(&["--table", "invoices", "2", "3"]),
        "+ invoices rowid=500: id=500, label='it''s\\n\\u{1b}[2J', msatoshi=7\ninvoices: 1 added, 0 removed, 0 changed\n"
    );
    let changed = text(&["3", "4"]);
    assert!(changed.contains("~ invoices rowid=500\n    msatoshi: 7 -> 8\n"), "{changed}");
    assert!(
        changed
            .contains("- forwards rowid=101: in_htlc=1, out_htlc=1, fee=2\nforwards: 0 added, 1 removed, 0 changed\n"),
        "{changed}"
    );
    let summary = text(&["--summary", "4", "3"]);
    assert_eq!(
        summary,
        "forwards: 1 added, 0 removed, 0 changed\ninvoices: 0 added, 0 removed, 1 changed\nvars: 0 added, 0 removed, 1 changed\n"
    );
    let schema = text(&["4", "5"]);
    for part in [
        "~ table invoices\n    - CREATE TABLE invoices",
        "+ table empty\n    + CREATE TABLE empty (x)\n",
        "    note: NULL -> x'00ff'\n",
    ] {
        assert!(schema.contains(part), "no {part:?} in {schema}");
    }
    assert_eq!(text(&["3", "3"]), "");
}

#[test]
fn what_cannot_be_compared_is_refused_and_nothing_is_touched() {
    let node = node();
    let before = node.home.everything();
    let backup = node.home.backup();
    run(&backup, &["2", "77"]).expect_refused(2, &["version 77 is not in the backup", "nearest available: 5"]);
    run(&backup, &["0", "2"]).expect_refused(2, &["version 0 is not in the backup"]);
    run(&backup, &["--table", "nowhere", "2", "3"]).expect_refused(2, &["there is no table nowhere"]);
    run(&backup, &["2", "three"]).expect_refused(2, &["three"]);
    run(&node.home.join("elsewhere"), &["2", "3"]).expect_refused(2, &["there is no backup"]);
    assert!(node.home.everything() == before);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let node = node();
    let program = binaries::backupfs();
    let script = format!("set -o pipefail; '{}' diff '{}' 1 4 | true", program.display(), node.home.backup().display());
    let ran = cli::run(std::process::Command::new("bash").args(["-c", &script]));
    assert!(ran.code == 0 && !ran.stderr.contains("panicked"), "{ran:?}");
}

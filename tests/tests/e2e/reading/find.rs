//! `backupfs find`: the versions at which a condition turned are those at which a database that only SQLite has touched
//! answers otherwise.

#![expect(clippy::unwrap_used, reason = "a step that fails here is a failed test")]

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};
use tests::cli::{self, Ran, backupfs};
use tests::recorded_trace::RecordedTrace;
use tests::small_node::SmallNode;
use tests::traces::{self, TraceFolder};
use tests::{binaries, compare};

fn run(backup: &Path, table: &str, condition: &str, arguments: &[&str]) -> Ran {
    let mut all = vec!["find", backup.to_str().unwrap(), "--table", table, "--where", condition];
    all.extend(arguments);
    backupfs(&all)
}

/// The rowids that match.
fn matching(database: &Connection, table: &str, condition: &str) -> BTreeSet<i64> {
    let Ok(mut statement) = database.prepare_cached(&format!("SELECT rowid FROM {table} WHERE {condition}")) else {
        return BTreeSet::new();
    };
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn rowids(keys: &Value) -> Vec<i64> {
    keys.as_array().unwrap().iter().map(|key| key["rowid"].as_i64().unwrap()).collect()
}

/// A version, the rowids that begin and cease to match in it, and how many match.
type Turn = (u32, Vec<i64>, Vec<i64>, usize);

/// Asks each condition of every version, of the program and of a plain database.
fn compare_all(folder: &TraceFolder, most: usize, conditions: &[(&str, &str)]) {
    let recorded = RecordedTrace::record(folder, most);
    let mut expected: Vec<Vec<Turn>> = vec![Vec::new(); conditions.len()];
    let mut before: Vec<Option<BTreeSet<i64>>> = vec![None; conditions.len()];
    if folder.start_database(&recorded.home.join("start.sqlite3")) {
        let database = compare::open_read_only(&recorded.home.join("start.sqlite3")).unwrap();
        before = conditions.iter().map(|(table, condition)| Some(matching(&database, table, condition))).collect();
    }
    let mut database = None;
    recorded.replay(folder, |version, path| {
        let database = database.get_or_insert_with(|| compare::open_read_only(path).unwrap());
        for (at, (table, condition)) in conditions.iter().enumerate() {
            let now = matching(database, table, condition);
            if let Some(before) = before[at].as_ref().filter(|before| **before != now) {
                let difference = |a: &BTreeSet<i64>, b: &BTreeSet<i64>| a.difference(b).copied().collect();
                expected[at].push((version.get(), difference(&now, before), difference(before, &now), now.len()));
            }
            before[at] = Some(now);
        }
    });
    let mut found_any = 0;
    for ((table, condition), expected) in conditions.iter().zip(&expected) {
        let lines = run(&recorded.home.backup(), table, condition, &["--json"]).expect_done("find").json_lines();
        assert_eq!(lines[0]["kind"], "first");
        let found: Vec<_> = lines[1..]
            .iter()
            .map(|line| {
                assert_eq!(line["kind"], "turn");
                let number = |name: &str| line[name].as_u64().unwrap();
                let matches = usize::try_from(number("matches")).unwrap();
                (
                    u32::try_from(number("data_version")).unwrap(),
                    rowids(&line["began"]),
                    rowids(&line["ended"]),
                    matches,
                )
            })
            .collect();
        let other = found.iter().zip(expected).find(|(found, expected)| found != expected);
        assert!(other.is_none(), "{table}: {condition}: {other:?}");
        assert_eq!(found.len(), expected.len(), "{table}: {condition}");
        found_any += usize::from(!found.is_empty());
    }
    assert!(found_any * 3 > conditions.len() * 2, "only {found_any} conditions ever turned");
}

const CONDITIONS: [(&str, &str); 9] = [
    ("channels", "state = 2"),
    ("channels", "next_htlc_id % 2 = 1"),
    ("vars", "name = 'last_processed_block' AND intval % 2 = 0"),
    ("payments", "status = 0"),
    ("payments", "faildetail IS NOT NULL OR status = 1 AND msatoshi > 50000"),
    ("invoices", "state = 1"),
    ("channel_htlcs", "hstate = 9"),
    ("channel_htlcs", "direction = 1 AND msatoshi BETWEEN 10000 AND 60000"),
    ("penalty_bases", "commitnum % 10 = 3"),
];

#[test]
fn every_turn_is_found_and_no_other() {
    compare_all(&traces::shipped(), 400, &CONDITIONS);
}

#[test]
fn turns_of_a_larger_node_are_found_the_same_way() {
    if let Some(folder) = traces::folder("channels") {
        compare_all(&folder, 600, &CONDITIONS[4..]);
    }
}

/// A row that matches for one version only, a gap, a rewound change, and a cascade.
fn node() -> SmallNode {
    let mut node = SmallNode::created();
    node.commit_also(&["INSERT INTO invoices (id, label, msatoshi) VALUES (500, 'it''s', 7)"]);
    node.commit_also(&["UPDATE invoices SET msatoshi = 9 WHERE id = 500"]);
    node.commit_also(&["UPDATE invoices SET msatoshi = 7 WHERE id = 500", "INSERT INTO htlcs VALUES (1, 500, x'00')"]);
    node.commit_also(&["UPDATE invoices SET label = 'other' WHERE id = 500"]);
    node.commit_also(&["DELETE FROM invoices WHERE id = 500"]);
    node.stop();
    node.run_without_plugin(2);
    node.start();
    node.commit();
    node.stop();
    node
}

#[test]
fn a_match_of_a_single_version_a_cascade_and_a_gap_are_found() {
    let node = node();
    let ask = |table: &str, condition: &str, arguments: &[&str]| -> Vec<Value> {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let lines = run(&node.home.backup(), table, condition, &all).expect_done("find").json_lines();
        lines.iter().map(|line| json!([line["data_version"], line["matches"], line["began"], line["ended"]])).collect()
    };
    let key = json!([{"rowid": 500}]);
    assert_eq!(
        ask("invoices", "msatoshi = 9", &[]),
        [json!([1, 0, null, null]), json!([3, 1, key, []]), json!([4, 0, [], key])]
    );
    assert_eq!(ask("invoices", "id = 500", &["--from", "2", "--to", "5"]), [json!([2, 1, null, null])]);
    let cascade = ask("HTLCS", "invoice = 500", &["--to", "6"]);
    assert_eq!(cascade.iter().map(|line| line[0].clone()).collect::<Vec<_>>(), [1, 4, 6], "{cascade:?}");
    // Versions 7 and 8 were never recorded: what they did is seen in the snapshot behind them.
    let gap = ask("invoices", "msatoshi % 1000 = 0", &["--from", "6"]);
    assert_eq!(
        gap.iter().map(|line| json!([line[0], line[1]])).collect::<Vec<_>>(),
        [json!([6, 0]), json!([8, 2]), json!([9, 3])]
    );
    let text = run(&node.home.backup(), "invoices", "msatoshi = 9", &[]).expect_done("find").stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 4 && lines[0].contains("MATCHES") && lines[1].ends_with("in the first version"), "{text}");
    assert!(lines[2].ends_with("  + rowid=500") && lines[3].ends_with("  - rowid=500"), "{text}");
}

#[test]
fn what_is_no_condition_is_refused_and_nothing_is_touched() {
    let node = node();
    let before = node.home.everything();
    let backup = node.home.backup();
    for (condition, says) in [
        ("", "cannot be used"),
        ("msatoshi =", "cannot be used"),
        ("1; DELETE FROM invoices", "cannot be used"),
        ("1) UNION SELECT (1", "single expression"),
        ("id IN (SELECT id FROM invoices)", "single expression"),
        ("id IN invoices", "single expression"),
        ("elsewhere = 1", "no such column"),
        ("random() = 1", "random()"),
        ("load_extension('/tmp/x')", "load_extension"),
        ("writefile('/tmp/x', 'y')", "no such function"),
        ("count(*) = 1", "aggregate"),
        ("id = ?", "parameters"),
        ("json(label)", "malformed JSON"),
    ] {
        run(&backup, "invoices", condition, &[]).expect_refused(2, &[says]);
    }
    run(&backup, "nowhere", "1", &[]).expect_refused(2, &["there is no table nowhere"]);
    run(&backup, "invoices", "1", &["--from", "7"]).expect_refused(2, &["version 7 was never recorded"]);
    run(&backup, "invoices", "1", &["--from", "5", "--to", "3"])
        .expect_refused(2, &["version 5 comes after version 3"]);
    assert!(node.home.everything() == before);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let node = node();
    let find = format!("find '{}' --table invoices --where 1", node.home.backup().display());
    let script = format!("set -o pipefail; '{}' {find} | true", binaries::backupfs().display());
    let ran = cli::run(std::process::Command::new("bash").args(["-c", &script]));
    assert!(ran.code == 0 && !ran.stderr.contains("panicked"), "{ran:?}");
}

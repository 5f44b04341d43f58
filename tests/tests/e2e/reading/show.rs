//! `backupfs show` and `backupfs versions --graph`.

#![expect(clippy::unwrap_used, reason = "a step that fails here is a failed test")]

use std::process::Command;

use mountfs::demo::pretend_lightningd::Commit;
use serde_json::Value;
use tests::cli::{self, Ran, backupfs};
use tests::small_node::{SmallNode, bump};
use tests::{binaries, compare};

/// Recorded: 1, 2 (after one attempt that was lost), 5 as a snapshot, 6. Missing: 3 and 4.
fn node() -> SmallNode {
    let mut node = SmallNode::created();
    node.write(Commit::CrashBeforeCommit);
    node.start();
    node.commit_also(&["INSERT INTO invoices (label) VALUES ('a\n''b''')"]);
    node.stop();
    node.run_without_plugin(3);
    node.start();
    node.commit();
    node.stop();
    node
}

fn run(node: &SmallNode, arguments: &[&str]) -> Ran {
    let backup = node.home.backup();
    let mut all = vec![arguments[0], backup.to_str().unwrap()];
    all.extend(&arguments[1..]);
    backupfs(&all)
}

#[test]
fn a_version_is_shown_with_its_statements_as_they_were_sent() {
    let node = node();
    let shown = run(&node, &["show", "2", "--json"]).expect_done("show").json_lines().remove(0);
    let sql = ["INSERT INTO invoices (label) VALUES ('a\n''b''')".to_owned(), bump(common::DataVersion::new(2))];
    assert_eq!(shown["sql"], serde_json::json!(sql));
    let bytes = sql.iter().map(String::len).sum::<usize>();
    assert_eq!((&shown["data_version"], &shown["statements"], &shown["bytes"]), (&2.into(), &2.into(), &bytes.into()));
    assert_eq!((&shown["origin"], &shown["status"]), (&"change".into(), &"recorded".into()));
    // The list says the same of it.
    let listed =
        run(&node, &["versions", "--json", "--since", "2", "--until", "2"]).expect_done("versions").json_lines();
    let listed = listed.iter().find(|line| line["status"] == "recorded").unwrap();
    for (name, value) in listed.as_object().unwrap() {
        assert_eq!(&shown[name], value, "{name}");
    }
    let text = run(&node, &["show", "2"]).expect_done("show").stdout;
    assert!(text.ends_with(&format!("\n{};\n{};\n", sql[0], sql[1])), "{text}");
    let comments = text.lines().take_while(|line| line.starts_with("-- ")).count();
    assert!(comments >= 5 && text.contains(&format!("{bytes} bytes\n")), "{text}");
}

#[test]
fn what_is_shown_of_the_size_is_the_size() {
    let node = node();
    let restored = node.home.join("restored.sqlite3");
    run(&node, &["restore", restored.to_str().unwrap()]).expect_done("restore");
    let shown = run(&node, &["show", "6", "--json"]).expect_done("show").json_lines().remove(0);
    assert_eq!(shown["size_bytes"], std::fs::metadata(&restored).unwrap().len());
    assert_eq!(compare::data_version(&restored).unwrap(), 6);
    let pages = shown["size_bytes"].as_u64().unwrap() / shown["page_size"].as_u64().unwrap();
    assert_eq!(shown["pages"], pages);
}

#[test]
fn a_snapshot_has_no_statements_and_what_is_not_there_is_refused() {
    let node = node();
    let before = node.home.everything();
    let snapshot = run(&node, &["show", "5", "--json"]).expect_done("show").json_lines().remove(0);
    assert_eq!((&snapshot["origin"], &snapshot["sql"]), (&"snapshot".into(), &Value::Array(Vec::new())));
    run(&node, &["show", "4"]).expect_refused(2, &["version 4 was never recorded", "nearest available: 2 and 5"]);
    run(&node, &["show", "7"]).expect_refused(2, &["version 7 is not in the backup"]);
    run(&node, &["show", "x"]).expect_refused(2, &["x"]);
    assert!(node.home.everything() == before);
}

#[test]
fn the_graph_counts_what_the_list_lists() {
    let node = node();
    let listed = run(&node, &["versions", "--json"]).expect_done("versions").json_lines();
    for unit in ["--graph=hours", "--graph=days"] {
        let graph = run(&node, &["versions", unit, "--json"]).expect_done("graph").json_lines();
        for (name, status) in [("versions", "recorded"), ("rewound", "rewound"), ("missing", "missing")] {
            let counted: u64 = graph.iter().map(|line| line[name].as_u64().unwrap()).sum();
            assert_eq!(counted, listed.iter().filter(|line| line["status"] == status).count() as u64, "{name}");
        }
        let bytes: u64 = graph.iter().map(|line| line["bytes"].as_u64().unwrap()).sum();
        assert_eq!(bytes, listed.iter().filter_map(|line| line["bytes"].as_u64()).sum::<u64>());
        let unit = unit.trim_start_matches("--graph=");
        assert!(
            graph
                .iter()
                .all(|line| line["unit"] == unit && line["start"].as_str().unwrap().ends_with(":00:00.000000Z"))
        );
    }
    let text = run(&node, &["versions", "--graph"]).expect_done("graph").stdout;
    let total = text.lines().last().unwrap();
    assert!(total.starts_with("total") && total.contains("2 missing, 1 rewound"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let none = run(&node, &["versions", "--graph", "--until", "2020-01-01"]).expect_done("graph").stdout;
    assert_eq!(none, "no version\n");
    run(&node, &["versions", "--graph=weeks"]).expect_refused(2, &["weeks"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let node = node();
    for arguments in ["show BACKUP 1", "versions BACKUP --graph"] {
        let arguments = arguments.replace("BACKUP", &format!("'{}'", node.home.backup().display()));
        let script = format!("set -o pipefail; '{}' {arguments} | true", binaries::backupfs().display());
        let ran = cli::run(Command::new("bash").args(["-c", &script]));
        assert!(ran.code == 0 && !ran.stderr.contains("panicked"), "{ran:?}");
    }
}

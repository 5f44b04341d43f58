//! `backup-status`, and the replay check behind it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::node::{Node, bump, write};
use crate::recorder_process::RecorderProcess;

fn started(node: &Node) -> RecorderProcess {
    let mut recorder = RecorderProcess::start(node.path());
    recorder.get_manifest();
    recorder.init();
    recorder
}

/// The bytes of all files of a backup. A file that goes away meanwhile counts nothing.
fn size(backup: &Path) -> u64 {
    fs::read_dir(backup).unwrap().filter_map(|file| Some(file.unwrap().metadata().ok()?.len())).sum()
}

#[test]
fn it_reports_the_newest_version_the_destination_and_the_size() {
    let node = Node::with_backup();
    let mut recorder = started(&node);
    let empty = recorder.status();
    assert_eq!(empty["data_version"], Value::Null);
    assert_eq!(empty["last_problem"], Value::Null);
    assert_eq!(empty["destination"], format!("file://{}", node.backup().display()));
    for version in 1..=30 {
        recorder.record(&write(version));
    }
    let status = recorder.status();
    assert_eq!(status["data_version"], 30);
    assert!(status["seq"].as_u64().unwrap() >= 30, "{status}");
    assert!(status["recorded_at"].as_str().unwrap().ends_with('Z'), "{status}");
    // The recorder seals and makes the next log between a status and a look at the directory.
    recorder.status_when(|status| status["bytes"] == size(&node.backup()));
    assert_eq!(status["recorder_version"], env!("CARGO_PKG_VERSION"));
    assert!(status["format"].is_u64(), "{status}");
}

#[test]
fn recorded_changes_are_replayed_soon() {
    let node = Node::with_backup();
    let mut recorder = started(&node);
    for version in 1..=50 {
        recorder.record(&write(version));
    }
    let status = recorder.status_when(|status| status["replay"]["through"] == 50);
    assert_eq!(status["replay"]["problem"], Value::Null);
    recorder.hang_up();
    recorder.wait();
    // A new recorder proves what the old one recorded.
    let status = started(&node).status_when(|status| status["replay"]["through"] == 50);
    assert_eq!(status["last_problem"], Value::Null);
}

#[test]
fn a_statement_that_does_not_replay_is_recorded_and_reported() {
    let node = Node::with_backup();
    let mut recorder = started(&node);
    recorder.record(&write(1));
    recorder.status_when(|status| status["replay"]["through"] == 1);
    recorder.record(&json!({"data_version": 2, "writes": ["INSERT INTO no_such_table VALUES ('secret')", bump(2)]}));
    let status = recorder.status_when(|status| !status["replay"]["problem"].is_null());
    let problem = status["replay"]["problem"].as_str().unwrap();
    assert!(problem.contains("version 2"), "{problem}");
    assert!(!problem.contains("secret"), "{problem}");
    assert_eq!(status["replay"]["through"], 1);
    assert_eq!(status["last_problem"]["text"], problem);
    recorder.record(&write(3));
    assert_eq!(recorder.status()["data_version"], 3);
    let shouted = recorder.logs.iter().filter(|log| log["params"]["level"] == "error").count();
    assert_eq!(shouted, 1, "{:?}", recorder.logs);
}

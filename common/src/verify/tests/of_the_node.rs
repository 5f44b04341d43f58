//! Damage of the node's own database is distinguished from damage of the backup.

use std::borrow::Cow;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::log::DbWrite;
use crate::recording::BackupWriter;
use crate::verify::{Warning, Wrong};
use format::units::Timestamp;

/// Tables with a key that refers, with a rowid and without.
const TABLES: &str = "CREATE TABLE parents (id INTEGER PRIMARY KEY);
    CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents (id));
    CREATE TABLE keyed (id TEXT PRIMARY KEY, parent INTEGER REFERENCES parents (id)) WITHOUT ROWID;";

fn node(rows: &str) -> (Node, BackupWriter) {
    let node = Node::new(&format!("PRAGMA foreign_keys = OFF; {TABLES} {rows}"));
    let recording = node.record_within(LIMITS);
    (node, recording)
}

fn go_on(node: &mut Node, recording: &mut BackupWriter, changes: u32) {
    for _ in 0..changes {
        node.write(recording, "more", Fate::Committed).unwrap();
    }
}

fn seal(node: &Node, recording: &BackupWriter) {
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    sealer.advance(recording.newest().unwrap().seq, &mut |_| ControlFlow::Continue(())).unwrap();
    while sealer.check_snapshots(&Arc::default()).is_err() {}
}

fn report(node: &Node) -> Report {
    verify(&node.backup_lock.backend_url, Scope::default(), &|_, _| ()).unwrap()
}

/// Turns foreign keys off, as a migration does.
fn without_foreign_keys(node: &Node, recording: &mut BackupWriter) {
    let (data_version, statements) = (DataVersion::new(node.version), [Cow::Borrowed("PRAGMA foreign_keys = OFF;")]);
    recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() }).unwrap();
}

#[test]
fn foreign_keys_that_the_snapshot_violates_are_a_warning_sealed_or_not() {
    let (mut node, mut recording) =
        node("INSERT INTO children VALUES (1, 7), (2, 8); INSERT INTO keyed VALUES ('a secret', 9), ('b', 9);");
    go_on(&mut node, &mut recording, 3);
    for sealed in [false, true] {
        if sealed {
            go_on(&mut node, &mut recording, 80);
            seal(&node, &recording);
        }
        let report = report(&node);
        assert!(report.is_clean(), "{:?}", report.findings);
        let [Warning::ForeignKeys { snapshot, rows: Some(4), .. }] = &report.warnings[..] else {
            panic!("{:?}", report.warnings)
        };
        assert_eq!(*snapshot, DataVersion::new(10));
        assert!(!report.warnings[0].to_string().contains("secret"), "{}", report.warnings[0]);
        assert_ne!(report.newest.unwrap().foreign_key_check, "ok");
    }
}

#[test]
fn what_a_heal_took_is_of_the_node_as_well() {
    let (mut node, mut recording) = node("");
    go_on(&mut node, &mut recording, 1);
    node.connection.execute_batch("INSERT INTO children VALUES (1, 99)").unwrap();
    node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    go_on(&mut node, &mut recording, 1);
    let report = report(&node);
    assert!(report.is_clean() && report.lost.is_empty(), "{:?}", report.findings);
    assert!(report.warnings[0].to_string().contains("row 1 of children"), "{:?}", report.warnings);
}

#[test]
fn one_more_violation_than_the_node_gave_is_a_finding() {
    for (given, more) in [
        ("", "INSERT INTO children VALUES (2, 8)"),
        ("INSERT INTO children VALUES (1, 7);", "INSERT INTO children VALUES (2, 8)"),
        ("INSERT INTO keyed VALUES ('a', 9);", "INSERT INTO keyed VALUES ('b', 9)"),
    ] {
        let (mut node, mut recording) = node(given);
        go_on(&mut node, &mut recording, 2);
        without_foreign_keys(&node, &mut recording);
        node.execute(&mut recording, more);
        let report = report(&node);
        let wrong: Vec<_> = report.findings.iter().map(|finding| &finding.wrong).collect();
        assert!(matches!(wrong[..], [Wrong::Unsound { check: "foreign_key_check", .. }]), "{given}: {wrong:?}");
        assert!(report.warnings.is_empty() && !report.is_only_of_the_node());
    }
}

/// Damages a page of old rows in the database of the node.
fn damage(node: &Node) {
    node.connection.execute_batch(OLD_ROWS).unwrap();
    let len = std::fs::metadata(node.database()).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(node.database()).unwrap();
    file.write_all_at(&[0; 4096], len - 4096).unwrap();
}

#[test]
fn a_malformed_snapshot_is_the_nodes_until_another_one_heals_it() {
    let (mut node, mut recording) = node("");
    go_on(&mut node, &mut recording, 3);
    damage(&node);
    node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    go_on(&mut node, &mut recording, 3);
    seal(&node, &recording);
    let found = report(&node);
    let wrong: Vec<_> = found.findings.iter().map(|finding| &finding.wrong).collect();
    assert!(matches!(wrong[..], [Wrong::NodeDatabase { .. }]) && found.is_only_of_the_node(), "{found:?}");
    assert!(wrong[0].to_string().contains("the node's own database"), "{}", wrong[0]);
    assert!(found.lost.is_empty() && found.in_doubt.is_empty(), "{found:?}");
    // The database is repaired.
    node.connection.execute_batch("PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'old'").unwrap();
    node.connection.execute_batch("PRAGMA writable_schema = RESET; VACUUM").unwrap();
    node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    go_on(&mut node, &mut recording, 3);
    seal(&node, &recording);
    let report = report(&node);
    assert!(report.is_clean(), "{:?}", report.findings);
    let reported: Vec<_> = report.warnings.iter().map(Warning::kind).collect();
    assert_eq!(reported, ["node_database"], "of versions that are still there");
    assert!(node.backup().read_checked().unwrap().unwrap().newest_unsound().is_none());
}

#[test]
fn a_note_of_checked_snapshots_that_is_damaged_costs_nothing_and_is_reported() {
    let (mut node, mut recording) = node("");
    go_on(&mut node, &mut recording, 1);
    crate::testing::remove_parity(node.backup_path());
    let path = node.backup_path().join(names::CHECKED);
    let bytes = std::fs::read(&path).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &[], &[&bytes[..], &[0; 90_000]].concat(), &[&[7], &bytes[1..]].concat()]
    {
        std::fs::write(&path, damaged).unwrap();
        let report = report(&node);
        assert!(report.findings.iter().all(|finding| finding.file == names::CHECKED && finding.lost.is_empty()));
        assert_eq!(report.findings.len(), 1, "{} bytes", damaged.len());
    }
    // The holder of the lock checks again.
    seal(&node, &recording);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::remove_file(&path).unwrap();
    seal(&node, &recording);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

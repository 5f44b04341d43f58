//! What `restore` writes is what the mount shows of that version, byte for byte: also where the replay cuts the database and lets
//! it grow again, and where the pages that it replaces are damaged.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{Backup, DataVersion, View};
use mountfs::restore::{Checks, Damaged, Destination, Existing, Proof};
use rusqlite::Connection;
use tests::compare;
use tests::home::{Home, remove_parity};
use tests::small_node::SmallNode;

/// `count` rows with large values behind row `from`, each value another one.
fn rows(from: u32, count: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT {from} + 1 UNION ALL SELECT i + 1 FROM n WHERE i < {from} + {count}) \
         INSERT INTO large SELECT i, i || replace(hex(zeroblob(25000)), '00', char(65 + i % 26, 97 + i % 23)) FROM n"
    )
}

/// A stopped node whose backup began with a database that these statements made, with these transactions. None of them is sealed.
fn node(set_up: &str, transactions: &[String]) -> SmallNode {
    let home = Home::new();
    let database = Connection::open(home.database()).expect("a database");
    let tables = "CREATE TABLE vars (name TEXT, val TEXT, intval INTEGER, blobval BLOB, PRIMARY KEY (name)); \
                  CREATE TABLE large (id INTEGER PRIMARY KEY, value TEXT); \
                  INSERT INTO vars (name, intval) VALUES ('data_version', 1);";
    let (pragmas, statements) = set_up.split_once(';').expect("a pragma, then statements");
    database.execute_batch(&format!("{pragmas}; {tables} {statements}")).expect("the set-up");
    drop(database);
    home.init();
    let mut node = SmallNode::at(home);
    node.start();
    for transaction in transactions {
        node.commit_also(&[transaction]);
    }
    node.stop();
    node
}

fn opened(backup: &Path) -> Arc<Backup> {
    let url: common::BackupUrl = backup.to_str().expect("a path").parse().expect("a URL");
    Arc::new(Backup::open(&url).expect("a backup"))
}

/// Restores every version; returns how many bytes each had.
fn restored_as_shown(backup: &Arc<Backup>) -> Vec<usize> {
    let (history, read) = backup.read_history();
    read.expect("a history");
    let mut versions = Vec::new();
    let listed = history.for_versions_after(None, &mut |version| {
        versions.push(version.clone());
        ControlFlow::Continue(())
    });
    listed.expect("all versions");
    let to = tempfile::tempdir().expect("a directory");
    let file = to.path().join("restored.sqlite3");
    let restored = versions.iter().map(|version| {
        let destination = Destination::check(&file, backup.path(), Existing::Refuse).expect("a destination");
        let checks = Checks { proof: Proof::QuickCheck, damaged: Damaged::Refuse, inspect: &mut |_| Ok(()) };
        mountfs::restore::restore(backup, &history, version, &destination, checks, &mut |_| {}).expect("a restore");
        let view = View::open(backup, &history.plan(version).expect("a plan")).expect("a view");
        let mut shown = vec![0; usize::try_from(view.size_bytes()).expect("its size")];
        view.read_at(0, &mut shown).expect("its bytes");
        assert!(fs::read(&file).expect("the file") == shown, "version {}", version.data_version);
        fs::remove_file(&file).expect("removed");
        shown.len()
    });
    restored.collect()
}

#[test]
fn a_version_is_restored_as_it_is_shown_when_its_replay_cuts_the_database_and_lets_it_grow() {
    let transactions = [
        "UPDATE large SET value = substr(value, 2, 20000) WHERE id % 3 = 0".to_owned(),
        "DELETE FROM large WHERE id > 5".to_owned(),
        rows(100, 60),
        "DELETE FROM large WHERE id < 140".to_owned(),
        rows(200, 200),
    ];
    let node = node(&format!("PRAGMA auto_vacuum = FULL; {}", rows(0, 60)), &transactions);
    let sizes = restored_as_shown(&opened(&node.home.backup()));
    let [first, smaller, cut, grown, cut_again, largest] = sizes[..] else { panic!("{sizes:?}") };
    assert!(first > 3_000_000 && smaller < first && cut < 1 << 20 && grown > 3_000_000, "{sizes:?}");
    assert!(cut_again < grown && largest > 10_000_000, "{sizes:?}");
}

#[test]
fn a_damaged_page_that_the_replay_replaces_without_reading_it_costs_nothing() {
    let set_up = format!("PRAGMA auto_vacuum = NONE; {}; DELETE FROM large WHERE id > 5", rows(0, 60));
    let node = node(&set_up, &["DELETE FROM large WHERE id = 1".to_owned(), rows(100, 60)]);
    let backup = node.home.backup();
    remove_parity(&backup);
    let files = fs::read_dir(&backup).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = files.filter(|path| path.to_str().unwrap().contains("snapshot-")).max().expect("a snapshot");
    let mut bytes = fs::read(&snapshot).unwrap();
    // A page of one of the rows that were removed.
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    let opened = opened(&backup);
    let (history, read) = opened.read_history();
    read.unwrap();
    let to = tempfile::tempdir().expect("a directory");
    let file = to.path().join("restored.sqlite3");
    let restore = |version: u32| {
        let version = history.version(DataVersion::new(version)).unwrap().unwrap();
        let destination = Destination::check(&file, opened.path(), Existing::Refuse).unwrap();
        let checks = Checks { proof: Proof::QuickCheck, damaged: Damaged::Refuse, inspect: &mut |_| Ok(()) };
        mountfs::restore::restore(&opened, &history, &version, &destination, checks, &mut |_| {})
    };
    let error = format!("{:#}", anyhow::Error::new(restore(2).unwrap_err()));
    assert!(error.contains("damaged at byte"), "{error}");
    assert!(!file.exists());
    restore(3).unwrap();
    compare::same_contents(&node.home.database(), &file, &[]).unwrap();
}

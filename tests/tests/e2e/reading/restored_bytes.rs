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
use tests::home::Home;
use tests::small_node::SmallNode;

/// The number of versions of the node.
const VERSIONS: u32 = 12;

/// A stopped node with a database of some megabytes when the backup begins, of which all but little is removed, and which grows
/// again. None of that is sealed.
fn node() -> SmallNode {
    let home = Home::new();
    let database = Connection::open(home.database()).expect("a database");
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) \
                INSERT INTO large SELECT i, randomblob(50000) FROM n;";
    let set_up = format!(
        "PRAGMA auto_vacuum = FULL; \
         CREATE TABLE vars (name TEXT, val TEXT, intval INTEGER, blobval BLOB, PRIMARY KEY (name)); \
         CREATE TABLE large (id INTEGER PRIMARY KEY, bytes BLOB); \
         INSERT INTO vars (name, intval) VALUES ('data_version', 1); {rows}"
    );
    database.execute_batch(&set_up).expect("the set-up");
    drop(database);
    home.init();
    let mut node = SmallNode::at(home);
    node.start();
    for version in 2..=VERSIONS {
        match version {
            3 => node.commit_also(&["UPDATE large SET bytes = zeroblob(50000) WHERE id % 3 = 0"]),
            5 => node.commit_also(&["DELETE FROM large WHERE id > 5"]),
            7 => node.commit_also(&[&rows.replace("SELECT i,", "SELECT i + 100,")]),
            9 => node.commit_also(&["DELETE FROM large WHERE id < 140"]),
            11 => node.commit_also(&[&rows.replace("SELECT i,", "SELECT i + 200,").replace("60", "200")]),
            _ => node.commit_also(&["UPDATE large SET bytes = randomblob(49000) WHERE id IN (2, 159)"]),
        }
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
    let node = node();
    let sizes = restored_as_shown(&opened(&node.home.backup()));
    assert_eq!(sizes.len(), VERSIONS as usize);
    let (first, cut, grown) = (sizes[0], sizes[4], sizes[6]);
    assert!(first > 3 << 20 && cut < 1 << 20 && grown > 3 << 20, "{sizes:?}");
    assert!(sizes[10] > 9 << 20, "{sizes:?}");
}

#[test]
fn a_damaged_page_that_the_replay_cuts_off_or_replaces_costs_nothing() {
    let node = node();
    let backup = node.home.backup();
    let snapshot = fs::read_dir(&backup).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = snapshot.filter(|path| path.to_str().unwrap().contains("snapshot-")).max().expect("a snapshot");
    let mut bytes = fs::read(&snapshot).unwrap();
    // One of the rows that are removed in version 5.
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
    let error = format!("{:#}", anyhow::Error::new(restore(4).unwrap_err()));
    assert!(error.contains("damaged at byte"), "{error}");
    assert!(!file.exists());
    restore(VERSIONS).unwrap();
    compare::same_contents(&node.home.database(), &file, &[]).unwrap();
}

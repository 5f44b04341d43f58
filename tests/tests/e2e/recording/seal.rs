//! Sealing, as an operator sees it: files that come and go, and a command for a backup that was left unsealed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::Commit;
use tests::mounted::Mounted;
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;
use tests::{cli, compare};

fn files(backup: &Path, prefix: &str) -> usize {
    let names = fs::read_dir(backup).expect("a backup").map(|entry| entry.expect("a file").file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())).count()
}

/// A node whose logs end after some six transactions, with a copy of its database after each.
fn node(transactions: u32) -> (SmallNode, BTreeMap<u32, Vec<u8>>) {
    let mut node = SmallNode::before_its_first_write();
    node.lightningd.end_logs_after(30);
    node.start();
    assert!(
        node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write").is_continue()
    );
    let mut copies = BTreeMap::new();
    for _ in 0..transactions {
        let version = node.commit();
        copies.insert(version.get(), fs::read(node.home.database()).expect("a database"));
    }
    (node, copies)
}

fn expect_versions(backup: &Path, copies: &BTreeMap<u32, Vec<u8>>) {
    let mounted = Mounted::start(backup);
    let scratch = tempfile::tempdir().expect("a directory");
    let (expected, found) = (scratch.path().join("expected"), scratch.path().join("found"));
    for (version, bytes) in copies {
        fs::write(&expected, bytes).expect("a file");
        fs::copy(mounted.path().join(format!("versions/{version}/lightningd.sqlite3")), &found)
            .expect("a version of the mount");
        compare::same_contents(&expected, &found, &[]).unwrap_or_else(|error| panic!("version {version}: {error}"));
        for file in [&expected, &found] {
            fs::remove_file(file).expect("a file");
        }
    }
}

#[test]
fn a_recorder_seals_while_the_node_runs_and_every_version_stays_what_it_was() {
    let (mut node, mut copies) = node(60);
    let backup = node.home.backup();
    assert!(until(Duration::from_secs(20), || files(&backup, "log-") <= 2), "not all finished logs are sealed");
    // Nine logs, of which the last two are not sealed before a second record follows the first change of the newest.
    assert!(files(&backup, "segment-") >= 7, "{}", files(&backup, "segment-"));
    expect_versions(&backup, &copies);
    let locked = cli::backupfs(&["seal".as_ref(), backup.as_os_str()]);
    locked.expect_refused(2, &["locked", "recorder"]);
    // Crashes and gaps between what is sealed.
    for _ in 0..3 {
        node.write(Commit::CrashBeforeCommit);
        node.start();
        copies.insert(node.commit().get(), fs::read(node.home.database()).unwrap());
        node.stop();
        node.run_without_plugin(2);
        node.start();
        for _ in 0..10 {
            copies.insert(node.commit().get(), fs::read(node.home.database()).unwrap());
        }
    }
    node.stop();
    node.expect_restorable();
    expect_versions(&backup, &copies);
}

#[test]
fn a_backup_that_was_left_unsealed_is_sealed_by_command() {
    let (mut node, copies) = node(40);
    let backup = node.home.backup();
    // Nothing is ever sealed in a directory that takes no new files for a moment: the recorder is killed at once.
    node.lightningd.kill();
    let before = files(&backup, "segment-");
    let sealed = cli::backupfs(&["seal".as_ref(), backup.as_os_str()]).expect_done("seal");
    assert!(sealed.stdout.contains("every change up to version 41 has been replayed"), "{sealed:?}");
    assert!(files(&backup, "log-") <= 2);
    assert!(files(&backup, "segment-") >= before);
    let again = cli::backupfs(&["seal".as_ref(), backup.as_os_str()]).expect_done("seal again");
    assert!(again.stdout.starts_with("sealed 0 logs"), "{again:?}");
    expect_versions(&backup, &copies);
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn what_cannot_be_sealed_is_reported() {
    let missing = tempfile::tempdir().unwrap().path().join("node.bkp");
    cli::backupfs(&["seal".as_ref(), missing.as_os_str()]).expect_refused(2, &["no backup"]);
    let (mut node, _) = node(20);
    let backup = node.home.backup();
    assert!(until(Duration::from_secs(20), || files(&backup, "log-") <= 2));
    node.stop();
    let log = fs::read_dir(&backup).unwrap().map(|entry| entry.unwrap().path());
    let log = log.into_iter().filter(|path| path.to_string_lossy().contains("/log-")).min().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    // The header of the oldest log there is: damage, and nothing is changed.
    bytes[20] ^= 1;
    fs::write(&log, &bytes).unwrap();
    cli::backupfs(&["seal".as_ref(), backup.as_os_str()]).expect_refused(1, &["damaged", "log-"]);
    assert_eq!(fs::read(&log).unwrap(), bytes);
}

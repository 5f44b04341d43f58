//! `backupfs restore`: the database or nothing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tests::home::everything;
use tests::small_node::SmallNode;
use tests::tiny_disk::TinyDisk;
use tests::{cli, compare};

fn restore(node: &SmallNode, to: &Path, more: &[&str]) -> cli::Ran {
    let backup = node.home.backup();
    let mut arguments = vec![OsStr::new("restore"), backup.as_os_str(), to.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    cli::backupfs(&arguments)
}

/// A stopped node with five versions, and an empty directory to restore into.
fn node() -> (SmallNode, tempfile::TempDir) {
    let mut node = SmallNode::created();
    for _ in 0..4 {
        node.commit();
    }
    node.stop();
    (node, tempfile::tempdir().expect("a directory"))
}

#[test]
fn the_newest_version_needs_no_option_and_is_private() {
    let (node, to) = node();
    let file = to.path().join("here.sqlite3");
    restore(&node, &file, &[]).expect_done("restore");
    compare::same_contents(&node.home.database(), &file, &[]).unwrap();
    compare::sound(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "it holds channel state");
    assert_eq!(everything(to.path()).len(), 1, "nothing but the database is left");
}

#[test]
fn a_directory_gets_the_name_that_lightningd_expects() {
    let (node, to) = node();
    restore(&node, to.path(), &[]).expect_done("restore");
    compare::same_contents(&node.home.database(), &to.path().join("lightningd.sqlite3"), &[]).unwrap();
    assert_eq!(everything(to.path()).len(), 1);
}

#[test]
fn an_existing_file_is_never_touched() {
    let (node, to) = node();
    let file = to.path().join("lightningd.sqlite3");
    fs::write(&file, "precious").unwrap();
    restore(&node, &file, &[]).expect_refused(2, &["exists", "lightningd.sqlite3"]);
    restore(&node, to.path(), &[]).expect_refused(2, &["exists", "lightningd.sqlite3"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_eq!(everything(to.path()).len(), 1);
}

#[test]
fn a_dangling_link_is_an_existing_file() {
    let (node, to) = node();
    let link = to.path().join("lightningd.sqlite3");
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    restore(&node, &link, &[]).expect_refused(2, &["exists"]);
    assert_eq!(everything(to.path()).len(), 1);
}

#[test]
fn a_journal_beside_the_destination_would_corrupt_it() {
    let (node, to) = node();
    for suffix in ["-journal", "-wal"] {
        let journal = to.path().join(format!("db{suffix}"));
        fs::write(&journal, "left over").unwrap();
        restore(&node, &to.path().join("db"), &[]).expect_refused(2, &[&format!("db{suffix}")]);
        assert_eq!(everything(to.path()).len(), 1);
        fs::remove_file(&journal).unwrap();
    }
}

#[test]
fn an_older_version_needs_both_options() {
    let (node, to) = node();
    let file = to.path().join("db");
    restore(&node, &file, &["--version", "3"]).expect_refused(2, &["accept-stale-state"]);
    restore(&node, &file, &["--accept-stale-state", "--version", "99"]).expect_refused(1, &["99"]);
    restore(&node, &file, &["--accept-stale-state", "--version", "03"]).expect_refused(2, &["03"]);
    assert_eq!(everything(to.path()).len(), 0, "nothing was restored yet");

    let ran = restore(&node, &file, &["--version", "3", "--accept-stale-state"]).expect_done("restore");
    assert!(ran.stderr.contains("revoked") && ran.stderr.contains("funds"), "it says what that can cost: {ran:?}");
    assert_eq!(compare::data_version(&file).unwrap(), 3);
}

#[test]
fn a_missing_directory_is_not_made() {
    let (node, to) = node();
    restore(&node, &to.path().join("not/here"), &[]).expect_refused(2, &["not"]);
    assert_eq!(everything(to.path()).len(), 0);
}

#[test]
fn an_empty_backup_has_nothing_to_restore() {
    let node = SmallNode::before_its_first_write();
    let to = tempfile::tempdir().unwrap();
    let ran = restore(&node, to.path(), &[]);
    assert!(ran.code == 1 || ran.code == 2, "{ran:?}");
    assert!(!ran.stderr.is_empty() && !ran.stderr.contains("panicked"), "{ran:?}");
    assert_eq!(everything(to.path()).len(), 0);
}

#[test]
fn a_disk_that_fills_up_half_way_keeps_no_part() {
    let (node, to) = node();
    // The restored database has more than the 16 kB that fit here.
    let size = fs::metadata(node.home.database()).unwrap().len();
    assert!(size > 16 << 10, "{size}");
    let Some(disk) = TinyDisk::mounted(to.path(), c"size=16k") else { return };
    let ran = restore(&node, &disk.path().join("db"), &[]);
    let left = everything(disk.path());
    ran.expect_refused(2, &["space", "db"]);
    assert!(left.is_empty(), "{:?}", left.keys());
}

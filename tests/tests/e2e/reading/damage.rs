//! A backup whose log is damaged in the middle: what is intact is served, and nobody takes it for the newest state.

use std::fs;
use std::io;
use std::path::PathBuf;

use tests::home::everything;
use tests::mounted::{Mounted, fuse_is_here};
use tests::small_node::SmallNode;
use tests::{cli, compare};

/// A node that has stopped, and the log of its backup.
fn node() -> (SmallNode, PathBuf) {
    let mut node = SmallNode::created();
    for _ in 0..20 {
        node.commit();
    }
    node.stop();
    let log = node.home.backup().join("log-00000000000000000001");
    (node, log)
}

/// Flips a bit in the middle of the records.
fn damage(log: &PathBuf) {
    let mut bytes = fs::read(log).expect("reading the log");
    let end = bytes.iter().rposition(|&byte| byte != 0).expect("a log with records");
    bytes[end / 2] ^= 1;
    fs::write(log, bytes).expect("writing the log");
}

#[test]
fn a_mount_shows_the_intact_versions_and_no_latest() {
    if !fuse_is_here() {
        return;
    }
    let (node, log) = node();
    damage(&log);
    let mounted = Mounted::start(&node.home.backup());
    let error = fs::read_link(mounted.join("latest")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    assert!(fs::read(mounted.join("latest/lightningd.sqlite3")).is_err());
    compare::sound(&mounted.database(2)).unwrap();
    assert_eq!(compare::data_version(&mounted.database(2)).unwrap(), 2);
    let listed = fs::read_dir(mounted.join("versions")).unwrap().count();
    assert!((2..20).contains(&listed), "{listed} versions");
    assert_eq!(fs::metadata(mounted.database(20)).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_recorder_appends_nothing_and_changes_nothing() {
    let (mut node, log) = node();
    damage(&log);
    let backup = node.home.backup();
    let before = everything(&backup);
    let message = node.start_refused();
    assert!(message.contains("damaged at byte"), "{message}");
    assert!(everything(&backup) == before, "a damaged backup was changed");
}

#[test]
fn restore_of_the_newest_version_is_refused_and_of_an_intact_one_is_not() {
    let (node, log) = node();
    damage(&log);
    let (backup, to) = (node.home.backup(), node.home.join("restored.sqlite3"));
    cli::backupfs(&["restore".as_ref(), backup.as_os_str(), to.as_os_str()])
        .expect_refused(1, &["log-00000000000000000001", "damaged at byte"]);
    assert!(!to.exists());
    let old = ["--version", "2", "--accept-stale-state"].map(std::ffi::OsStr::new);
    cli::backupfs(&[&["restore".as_ref(), backup.as_os_str(), to.as_os_str()], &old[..]].concat())
        .expect_done("restore of an intact version");
    assert_eq!(compare::data_version(&to).unwrap(), 2);
}

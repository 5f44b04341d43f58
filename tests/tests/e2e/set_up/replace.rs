//! `backupfs init --replace`: a backup that is broken, or just no longer wanted, is put aside, and a new one begun.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use tests::cli;
use tests::home::{Home, everything};
use tests::listing;
use tests::small_node::{SmallNode, creation};
use tests::tiny_disk::TinyDisk;
use tests::wait::until;

/// A node with some versions, stopped.
fn stopped_node() -> SmallNode {
    let mut node = SmallNode::created();
    for _ in 0..8 {
        node.commit();
    }
    node.stop();
    node
}

fn replace(home: &Home, url: &Path) -> cli::Ran {
    let lightning_dir = home.lightning_dir();
    cli::backupfs(&[
        "init".as_ref(),
        "--replace".as_ref(),
        "--lightning-dir".as_ref(),
        lightning_dir.as_ref(),
        url.as_os_str(),
    ])
}

/// The replaced backups, beside the new one.
fn renamed_backups(home: &Home) -> Vec<PathBuf> {
    names_in(&home.join("")).into_iter().filter(|path| names_it(path, "node.bkp.replaced-")).collect()
}

fn names_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

fn names_it(path: &Path, beginning: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(beginning.as_bytes()))
}

/// The files below a directory, by their names in it.
fn files_in(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let relative = |path: &Path| path.strip_prefix(directory).expect("below the directory").to_owned();
    everything(directory).into_iter().map(|(path, bytes)| (relative(&path), bytes)).collect()
}

/// As an interrupted copy leaves it: acknowledged versions are gone, and nobody says "nothing is wrong".
#[test]
fn a_log_that_was_cut_off_is_reported_by_all_and_there_is_a_way_on() {
    let mut node = stopped_node();
    let backup = node.home.backup();
    let log = backup.join("log-00000000000000000001");
    let bytes = fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let run = |arguments: &[&str]| {
        let arguments = arguments.iter().map(AsRef::as_ref).chain([backup.as_os_str()]);
        cli::backupfs(&arguments.collect::<Vec<&std::ffi::OsStr>>())
    };
    // Within the zeros nothing was lost: it is told, all can be restored, and the recorder makes it whole.
    fs::write(&log, &bytes[..bytes.len() - 1000]).unwrap();
    run(&["verify"]).expect_refused(1, &["damaged"]).stdout.find("its end was cut off").expect("it is told");
    node.expect_restorable();
    node.start();
    node.lightningd.init().expect("the recorder takes init");
    node.commit();
    let recorder = node.lightningd.recorder().expect("it runs");
    // Lines of the log may come after the answer.
    let told = || recorder.log_lines().iter().any(|told| told.contains("the length is repaired"));
    assert!(until(Duration::from_secs(30), told), "{:?}", recorder.log_lines());
    node.stop();
    run(&["verify"]).expect_done("verify");
    // Within the records some are lost.
    fs::write(&log, &bytes[..end / 2]).unwrap();
    let told = run(&["verify"]).expect_refused(1, &["damaged"]);
    assert!(told.stdout.contains("its end was cut off") && told.stdout.contains("and all after it"), "{told:?}");
    run(&["versions"]).expect_refused(1, &["its end was cut off"]);
    let restored = node.home.join("restored.sqlite3");
    let restore = |more: &[&str]| {
        let mut arguments = vec!["restore"];
        arguments.extend(more);
        let paths = [backup.as_os_str(), restored.as_os_str()];
        let arguments = arguments.into_iter().map(AsRef::as_ref).chain(paths);
        cli::backupfs(&arguments.collect::<Vec<&std::ffi::OsStr>>())
    };
    restore(&[]).expect_refused(1, &["its end was cut off"]);
    restore(&["--version", "2", "--accept-stale-state"]).expect_done("a version that is there");
    let refused = node.start_refused();
    assert!(refused.contains("its end was cut off") && refused.contains("init --replace"), "{refused}");
    node.lightningd.kill();
    replace(&node.home, &backup).expect_done("init --replace");
    node.start();
    node.commit();
    node.expect_restorable();
    run(&["verify"]).expect_done("verify");
}

#[test]
fn a_damaged_backup_is_renamed_as_it_was_and_the_node_goes_on() {
    let mut node = stopped_node();
    let log = node.home.backup().join("log-00000000000000000001");
    let mut bytes = fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[end / 2] ^= 1;
    fs::write(&log, bytes).unwrap();
    let refused = node.start_refused();
    assert!(refused.contains("init --replace"), "{refused}");
    node.lightningd.kill();
    node.home.set_in_backup_lock("on_gap", json!("stop"));
    node.home.set_in_backup_lock("on_unreachable", json!("stop"));
    node.home.set_in_backup_lock("parity", json!("5%"));
    node.home.set_in_backup_lock("scrub", json!("90d"));
    let journal = node.home.lightning_dir().join("lightningd.sqlite3-journal");
    assert!(journal.exists(), "lightningd died in the middle of the transaction that was refused");
    let before = files_in(&node.home.backup());
    let lock_before = fs::read(node.home.backup_lock()).unwrap();

    replace(&node.home, &node.home.backup()).expect_done("init --replace");

    let [aside] = &renamed_backups(&node.home)[..] else { panic!("{:?}", renamed_backups(&node.home)) };
    assert!(files_in(aside) == before, "something in it was touched");
    let listed = listing::versions(&node.home.backup(), &[]);
    assert_eq!(listing::with_status(&listed, listing::Status::Recorded), [9]);
    let lock: serde_json::Value = serde_json::from_slice(&fs::read(node.home.backup_lock()).unwrap()).unwrap();
    let old: serde_json::Value = serde_json::from_slice(&lock_before).unwrap();
    let kept = ["on_gap", "on_unreachable", "parity", "scrub"].map(|key| &lock[key]);
    assert_eq!(kept, ["stop", "stop", "5%", "90d"], "the rest of backup.lock is kept");
    assert_eq!(lock["backend_url"], old["backend_url"]);
    assert_ne!(lock["backup_uuid"], old["backup_uuid"]);
    let copy =
        names_in(&node.home.lightning_dir()).into_iter().find(|path| names_it(path, "backup.lock.replaced-")).unwrap();
    assert_eq!(fs::read(copy).unwrap(), lock_before);
    assert_eq!(fs::metadata(node.home.backup_lock()).unwrap().nlink(), 1, "they are two files");
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn what_is_left_of_a_backup_is_enough() {
    for remove in [&["LOCK", "manifest"][..], &["manifest"], &["LOCK"]] {
        let mut node = stopped_node();
        for name in remove {
            fs::remove_file(node.home.backup().join(name)).unwrap();
        }
        replace(&node.home, &node.home.backup()).expect_done("init --replace");
        assert_eq!(renamed_backups(&node.home).len(), 1);
        node.start();
        node.commit();
        node.expect_restorable();
    }
}

/// As after a power failure between the two renames, and between them and the writing of `backup.lock`.
#[test]
fn doing_it_again_finishes_what_was_interrupted() {
    let mut node = stopped_node();
    fs::rename(node.home.backup(), node.home.join("node.bkp.replaced-20261122T140507Z")).unwrap();
    let left = node.home.join(".backupfs-init.x1y2z3");
    fs::create_dir(&left).unwrap();
    let ran = replace(&node.home, &node.home.backup()).expect_done("nothing to put aside");
    assert!(ran.stderr.contains(left.to_str().unwrap()) && !left.exists(), "{ran:?}");
    let lock = fs::read(node.home.backup_lock()).unwrap();
    replace(&node.home, &node.home.backup()).expect_done("once more");
    fs::write(node.home.backup_lock(), lock).unwrap();
    let refused = node.start_refused();
    assert!(refused.contains("but backup.lock of this node names"), "{refused}");
    node.lightningd.kill();
    replace(&node.home, &node.home.backup()).expect_done("with a backup.lock that names another");
    assert_eq!(renamed_backups(&node.home).len(), 3, "none was lost on the way");
    node.start();
    node.commit();
    node.expect_restorable();
}

/// What went wrong: the copy of what was there was waited for, for ever.
#[test]
fn a_backup_lock_that_is_no_file_is_renamed() {
    let node = stopped_node();
    fs::remove_file(node.home.backup_lock()).unwrap();
    mknodat(CWD, node.home.backup_lock(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    replace(&node.home, &node.home.backup()).expect_done("init --replace");
    assert!(fs::metadata(node.home.backup_lock()).unwrap().is_file());
}

/// What went wrong: with the disk of the backup not mounted a new one was begun below the mount point, and the old one went
/// unnoticed for good.
#[test]
fn nothing_at_its_place_may_be_a_disk_that_is_not_mounted() {
    let mut node = stopped_node();
    let elsewhere = node.home.join("elsewhere");
    fs::rename(node.home.backup(), &elsewhere).unwrap();
    let before = node.home.everything();
    replace(&node.home, &node.home.backup()).expect_refused(2, &["nothing at", "mounted", "backup.lock away"]);
    assert!(node.home.everything() == before, "something was changed");
    fs::remove_file(node.home.backup_lock()).unwrap();
    replace(&node.home, &node.home.backup()).expect_done("init --replace");
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn a_mount_point_is_refused_before_anything_is_written() {
    let node = stopped_node();
    let Some(disk) = TinyDisk::mounted(&node.home.join("disk"), c"size=40m") else { return };
    for name in names_in(&node.home.backup()) {
        fs::copy(&name, disk.path().join(name.file_name().unwrap())).unwrap();
    }
    fs::remove_file(node.home.backup_lock()).unwrap();
    let before = node.home.everything();
    replace(&node.home, disk.path()).expect_refused(2, &["is a mount point", "a directory in it"]);
    assert!(node.home.everything() == before, "something was changed");
}

#[test]
fn a_backup_lock_that_cannot_be_read_is_kept_and_replaced() {
    let mut node = stopped_node();
    node.home.write_backup_lock("{ not json");
    let ran = replace(&node.home, &node.home.backup()).expect_done("init --replace");
    assert!(ran.stderr.contains("not usable"), "{ran:?}");
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn a_link_to_the_backup_stays_and_leads_to_the_new_one() {
    let mut node = stopped_node();
    let link = node.home.join("link");
    std::os::unix::fs::symlink(node.home.backup(), &link).unwrap();
    replace(&node.home, &link).expect_done("init --replace");
    assert_eq!(renamed_backups(&node.home).len(), 1);
    assert_eq!(fs::read_link(&link).unwrap(), node.home.backup());
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn nothing_changes_when_it_is_refused() {
    let mut node = stopped_node();
    node.start();
    node.commit();
    replace(&node.home, &node.home.backup()).expect_refused(2, &["in use", "stop the node"]);
    node.commit();
    node.expect_restorable();
    node.stop();

    let newest = fs::read(node.home.database()).unwrap();
    let to = node.home.join("old.sqlite3");
    let old = ["restore", "--version", "5", "--accept-stale-state"].map(AsRef::<std::ffi::OsStr>::as_ref);
    let backup = node.home.backup();
    cli::backupfs(&[&old[..], &[backup.as_os_str(), to.as_os_str()]].concat()).expect_done("an old version");
    fs::copy(&to, node.home.database()).unwrap();
    let before = node.home.everything();
    replace(&node.home, &backup).expect_refused(2, &["holds version 11", "is at version 5", "restore"]);
    let away = node.home.join("away");
    fs::rename(node.home.database(), &away).unwrap();
    replace(&node.home, &backup).expect_refused(2, &["holds version 11", "is at version 0"]);
    fs::rename(&away, node.home.database()).unwrap();
    assert!(node.home.everything() == before, "something was changed");
    fs::write(node.home.database(), newest).unwrap();

    let documents = node.home.join("documents");
    fs::create_dir(&documents).unwrap();
    fs::write(documents.join("letter.txt"), "Dear Satoshi").unwrap();
    let before = node.home.everything();
    replace(&node.home, &documents).expect_refused(2, &["is backed up at", "backup.lock"]);
    assert!(node.home.everything() == before, "something was changed");

    fs::remove_file(node.home.backup_lock()).unwrap();
    let before = node.home.everything();
    replace(&node.home, &documents).expect_refused(2, &["no file of a backup"]);
    assert!(node.home.everything() == before, "something was changed");

    let other = SmallNode::before_its_first_write();
    let database = rusqlite::Connection::open(other.home.database()).unwrap();
    for statement in creation("03bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb") {
        database.execute_batch(&statement).unwrap();
    }
    drop(database);
    fs::remove_file(other.home.backup_lock()).unwrap();
    // The first backup of a new node does not know whose it is; the second does.
    replace(&node.home, &node.home.backup()).expect_done("one that knows its node");
    let before = node.home.everything();
    replace(&other.home, &node.home.backup()).expect_refused(2, &["is the backup of node 02aa", "of node 03bb"]);
    assert!(node.home.everything() == before, "something was changed");
}

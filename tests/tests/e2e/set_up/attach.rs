//! `backupfs attach`: a node goes on recording to a backup that is there, on this machine or another one.

use std::fs;
use std::path::Path;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use serde_json::json;
use tests::cli;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::python_file;
use tests::small_node::{NODE_ID, SmallNode, creation};

fn attach(lightning_dir: &Path, backup: &Path) -> cli::Ran {
    cli::backupfs(&["attach".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()])
}

fn restore(backup: &Path, to: &Path, more: &[&str]) -> cli::Ran {
    let more = more.iter().map(Path::new).map(Path::as_os_str);
    cli::backupfs(&["restore".as_ref(), backup.as_os_str(), to.as_os_str()].into_iter().chain(more).collect::<Vec<_>>())
}

/// A stopped node with five versions.
fn stopped_node() -> SmallNode {
    let mut node = SmallNode::created();
    for _ in 0..4 {
        node.commit();
    }
    node.stop();
    node
}

/// What went wrong: the recorder said `init`, `init` said that there is a backup, and nothing said how to go on with it.
#[test]
fn after_the_loss_of_everything_but_the_backup_the_hints_lead_back_to_it() {
    let lost = stopped_node();
    let home = Home::new();
    fs::rename(lost.home.backup(), home.backup()).unwrap();
    drop(lost);
    let (lightning_dir, backup) = (home.lightning_dir(), home.backup());
    let command = format!("backupfs attach --lightning-dir {}", lightning_dir.display());
    let mut node = SmallNode::at(home);

    node.start();
    let answer = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).unwrap();
    let Answer::Refused { message } = answer else { panic!("{answer:?}") };
    assert!(message.contains(&format!("{command} URL")), "{message}");
    node.lightningd.kill();
    fs::remove_file(node.home.database()).unwrap();
    drop(fs::remove_file(lightning_dir.join("lightningd.sqlite3-journal")));
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()];
    cli::backupfs(&init).expect_refused(2, &["backupfs attach --lightning-dir"]);
    let ran = attach(&lightning_dir, &backup).expect_done("attach");
    let told = format!("backupfs restore file://{} {}", backup.display(), lightning_dir.display());
    assert!(ran.stdout.contains(&told), "it says what is missing: {ran:?}");
    fs::remove_file(node.home.backup_lock()).unwrap();
    let ran = restore(&backup, &lightning_dir, &[]).expect_done("restore");
    assert!(ran.stderr.contains(&format!("{command} file://{}", backup.display())), "{ran:?}");
    let ran = attach(&lightning_dir, &backup).expect_done("attach");
    for needle in ["backup.lock", "at version 5, too", "important-plugin", "hsm_secret"] {
        assert!(ran.stdout.contains(needle), "no {needle} in {ran:?}");
    }
    node.start();
    node.commit();
    node.stop();
    node.expect_restorable();
    let listed = listing::versions(&backup, &[]);
    assert_eq!(listing::with_status(&listed, Status::Recorded), [1, 2, 3, 4, 5, 6]);
    let ran = restore(&backup, &lightning_dir, &["--backup-existing"]).expect_done("restore");
    assert!(ran.stderr.contains("backup.lock names this backup") && !ran.stderr.contains("attach"), "{ran:?}");
}

#[test]
fn a_backup_that_was_moved_keeps_the_settings_of_its_node() {
    let mut node = stopped_node();
    for (key, value) in [
        ("on_gap", json!("stop")),
        ("on_unreachable", json!("stop")),
        ("compact", json!({"keep_within": "90d"})),
        ("parity", json!("5%")),
        ("scrub", json!("90d")),
    ] {
        node.home.set_in_backup_lock(key, value);
    }
    let moved = node.home.join("moved.bkp");
    fs::rename(node.home.backup(), &moved).unwrap();
    let refused = node.start_refused();
    assert!(refused.contains("backupfs attach"), "{refused}");
    node.lightningd.kill();
    let before: serde_json::Value = serde_json::from_slice(&fs::read(node.home.backup_lock()).unwrap()).unwrap();
    let ran = attach(&node.home.lightning_dir(), &moved).expect_done("attach");
    assert!(ran.stdout.contains("backup.lock.replaced-") && ran.stdout.contains("left in the middle"), "{ran:?}");
    let mut after: serde_json::Value = serde_json::from_slice(&fs::read(node.home.backup_lock()).unwrap()).unwrap();
    assert_eq!(after["backend_url"], format!("file://{}", moved.display()));
    after["backend_url"] = before["backend_url"].clone();
    assert_eq!(after, before);
    node.start();
    node.commit();
    node.stop();
    let everything = node.home.everything();
    let ran = attach(&node.home.lightning_dir(), &moved).expect_done("attach once more");
    assert!(ran.stdout.contains("names this backup already") && node.home.everything() == everything, "{ran:?}");
}

#[test]
fn only_the_backup_of_this_node_that_is_not_newer_is_gone_on_with() {
    let mut node = stopped_node();
    let (lightning_dir, backup) = (node.home.lightning_dir(), node.home.backup());
    let lock = fs::read(node.home.backup_lock()).unwrap();
    let expect_refused = |code: i32, needles: &[&str]| {
        let before = node.home.everything();
        attach(&lightning_dir, &backup).expect_refused(code, needles);
        assert!(node.home.everything() == before, "something was changed");
    };

    let newest = fs::read(node.home.database()).unwrap();
    fs::remove_file(node.home.backup_lock()).unwrap();
    fs::remove_file(node.home.database()).unwrap();
    restore(&backup, &lightning_dir, &["--version", "3", "--accept-stale-state"]).expect_done("an old version");
    expect_refused(2, &["is at version 3", "holds version 5", "old state", "backupfs restore"]);

    fs::remove_file(node.home.database()).unwrap();
    let other = rusqlite::Connection::open(node.home.database()).unwrap();
    for statement in creation("03bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb") {
        other.execute_batch(&statement).unwrap();
    }
    drop(other);
    expect_refused(2, &["belongs to node 03bb", "backup of node 02aa"]);
    fs::write(node.home.database(), newest).unwrap();

    fs::write(node.home.backup_lock(), "{ not json").unwrap();
    expect_refused(2, &["backup.lock is not usable", "move it away"]);
    let foreign = format!(r#"{{"backend_url": "file:///mnt/x", "backup_uuid": "{}"}}"#, uuid::Uuid::from_u128(7));
    fs::write(node.home.backup_lock(), foreign).unwrap();
    expect_refused(2, &["another backup, at file:///mnt/x", "move"]);
    fs::remove_file(node.home.backup_lock()).unwrap();
    attach(&node.home.join(""), &backup).expect_refused(2, &["a directory for each network", "regtest"]);

    let log = backup.join("log-00000000000000000001");
    let whole = fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    let end = damaged.iter().rposition(|&byte| byte != 0).unwrap();
    damaged[end / 2] ^= 1;
    fs::write(&log, damaged).unwrap();
    expect_refused(1, &["is damaged", "backupfs verify", "init --replace"]);
    fs::write(&log, whole).unwrap();

    fs::write(node.home.backup_lock(), lock).unwrap();
    node.start();
    node.commit();
    let second = Home::new();
    attach(&second.lightning_dir(), &backup).expect_refused(2, &["records to", "Stop the other one"]);
    assert!(!second.backup_lock().exists());
}

#[test]
fn beside_the_python_plugin_its_lock_stays() {
    let node = stopped_node();
    let file = node.home.join("file.bkp");
    fs::write(&file, python_file::PythonFile::default().bytes()).unwrap();
    let theirs = format!(r#"{{"backend_url": "file://{}"}}"#, file.display());
    fs::write(node.home.backup_lock(), &theirs).unwrap();
    let ran = attach(&node.home.lightning_dir(), &node.home.backup()).expect_done("attach");
    assert!(ran.stdout.contains("backupfs.lock") && ran.stdout.contains("stays as it is"), "{ran:?}");
    assert_eq!(fs::read_to_string(node.home.backup_lock()).unwrap(), theirs);
    assert!(node.home.lightning_dir().join("backupfs.lock").exists());
}

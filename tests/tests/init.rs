//! `backupfs init`: from nothing, or from a database that is there.

use std::fs;

use mountfs::demo::pretend_lightningd::Commit;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::small_node::SmallNode;
use tests::{cli, compare};

/// The files of a node that has run for a while, in a new home without a backup.
fn node_without_backup(last: Commit) -> Home {
    let mut node = SmallNode::created();
    for _ in 0..8 {
        node.commit();
    }
    node.write(last);
    let home = Home::new();
    fs::copy(node.home.database(), home.database()).expect("the database");
    let journal = "lightningd.sqlite3-journal";
    if node.home.lightning_dir().join(journal).exists() {
        fs::copy(node.home.lightning_dir().join(journal), home.lightning_dir().join(journal)).expect("its journal");
    }
    home
}

#[test]
fn the_operator_is_told_what_comes_next() {
    let said = Home::new().init();
    let said = said.stdout + &said.stderr;
    for needle in ["hsm_secret", "important-plugin", "backup-recorder", "backup.lock"] {
        assert!(said.contains(needle), "no {needle} in {said}");
    }
}

#[test]
fn an_existing_database_is_the_first_version() {
    let home = node_without_backup(Commit::CrashAfterCommit);
    let before = fs::read(home.database()).unwrap();
    home.init();
    assert_eq!(fs::read(home.database()).unwrap(), before, "the database is only read");
    let listed = listing::versions(&home.backup(), &[]);
    assert_eq!(listing::with_status(&listed, Status::Recorded), [10]);
    let mut node = SmallNode::at(home);
    node.expect_restorable();
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn what_a_crash_left_uncommitted_is_in_no_snapshot() {
    let home = node_without_backup(Commit::CrashBeforeCommit);
    assert!(home.lightning_dir().join("lightningd.sqlite3-journal").exists(), "the crash left its journal");
    let [lightning_dir, backup] = [home.lightning_dir(), home.backup()];
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()];
    let ran = cli::backupfs(&init);
    if ran.code != 0 {
        // Fine as well, as long as the way out is named: the node rolls back when it starts.
        ran.expect_refused(2, &["lightningd.sqlite3", "start"]);
        assert!(!backup.exists() && !home.backup_lock().exists());
        return;
    }
    let mut node = SmallNode::at(home);
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn a_database_elsewhere_is_found_again_by_the_recorder() {
    let home = node_without_backup(Commit::CrashAfterCommit);
    let elsewhere = home.join("elsewhere.sqlite3");
    fs::copy(home.database(), &elsewhere).unwrap();
    let [lightning_dir, backup] = [home.lightning_dir(), home.backup()];
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), "--database".as_ref()];
    cli::backupfs(&[&init[..], &[elsewhere.as_os_str(), backup.as_os_str()]].concat()).expect_done("init");
    let lock: serde_json::Value = serde_json::from_slice(&fs::read(home.backup_lock()).unwrap()).unwrap();
    assert_eq!(lock["database"], elsewhere.to_str().unwrap());
    let to = home.join("restored");
    cli::backupfs(&["restore".as_ref(), backup.as_os_str(), to.as_os_str()]).expect_done("restore");
    compare::same_contents(&elsewhere, &to, &[]).unwrap();
}

#[test]
fn the_node_is_told_the_place_of_its_backup_without_detours() {
    let home = Home::new();
    let lightning_dir = home.lightning_dir();
    let detour = lightning_dir.join("../detour.bkp");
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), detour.as_os_str()];
    cli::backupfs(&init).expect_done("init");
    let lock: serde_json::Value = serde_json::from_slice(&fs::read(home.backup_lock()).unwrap()).unwrap();
    let straight = fs::canonicalize(home.join("detour.bkp")).unwrap();
    assert_eq!(lock["backend_url"], format!("file://{}", straight.display()));
}

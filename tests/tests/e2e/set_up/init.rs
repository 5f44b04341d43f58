//! `backupfs init`: from nothing, or from a database that is there.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::Commit;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::python_file::PythonFile;
use tests::small_node::{NODE_ID, SmallNode, creation};
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
fn the_next_steps_are_printed() {
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

/// What went wrong: it said nothing, or to start lightningd again. The node goes on, and nothing records it.
#[test]
fn a_node_that_runs_has_to_be_stopped_first() {
    let home = node_without_backup(Commit::CrashAfterCommit);
    let [lightning_dir, backup] = [home.lightning_dir(), home.backup()];
    let file = home.join("file.bkp");
    let mut python = PythonFile::default();
    python.change(1, &creation(NODE_ID));
    fs::write(&file, python.bytes()).unwrap();
    let ready = Home::new();
    ready.init();
    let ready_backup = ready.backup();
    let expect_refused = |how: &str| {
        let dir = ["--lightning-dir".as_ref(), lightning_dir.as_os_str()];
        let commands: [&[&OsStr]; 4] = [
            &["init".as_ref(), backup.as_os_str()],
            &["init".as_ref(), "--replace".as_ref(), backup.as_os_str()],
            &["import".as_ref(), file.as_os_str(), backup.as_os_str()],
            &["attach".as_ref(), ready_backup.as_os_str()],
        ];
        for command in commands {
            let ran = cli::backupfs(&[command, &dir].concat());
            ran.expect_refused(2, &["stop lightningd first", how]);
            assert!(!backup.exists() && !home.backup_lock().exists(), "{command:?}");
        }
    };
    let listening = UnixListener::bind(lightning_dir.join("lightning-rpc")).unwrap();
    expect_refused("lightning-rpc");
    drop(listening);
    // Neither where it locks nor where it listens is where it usually is: but it has its database open.
    let lightningd = home.join("lightningd");
    fs::copy("/bin/sleep", &lightningd).unwrap();
    let mut running = Command::new(&lightningd);
    let mut running = running.arg("1000").stdin(fs::File::open(home.database()).unwrap()).spawn().unwrap();
    expect_refused(&format!("process {}", running.id()));
    running.kill().unwrap();
    running.wait().unwrap();
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    expect_refused("lightningd.sqlite3");
    database.execute_batch("COMMIT").unwrap();
    // Somebody who only looks.
    let said = home.init().stderr;
    assert!(said.contains(&format!("process {}", std::process::id())) && said.contains("stop it first"), "{said}");
}

#[test]
fn a_node_whose_database_is_elsewhere_is_refused_at_once() {
    let home = Home::new();
    fs::write(home.lightning_dir().join("hsm_secret"), "").unwrap();
    let said = home.init().stderr;
    assert!(said.contains("hsm_secret is there, but no database") && said.contains("--database"), "{said}");
    home.set_in_backup_lock("database", "elsewhere.sqlite3".into());
    let mut node = SmallNode::at(home);
    node.start();
    node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).unwrap();
    expect_logged(&mut node, "elsewhere.sqlite3, so lightningd has its database elsewhere");
    node.commit();
    node.stop();
    // An old copy that lies where the database should be.
    fs::copy(node.home.database(), node.home.lightning_dir().join("elsewhere.sqlite3")).unwrap();
    node.start();
    node.commit();
    // A rider: what is before it is committed for certain, and nothing is to be compared.
    let version = node.data_version();
    node.lightningd.write(version, &["PRAGMA foreign_keys = ON;"], Commit::Normal).unwrap();
    node.stop();
    node.start();
    node.commit();
    expect_logged(&mut node, "it is not the database that lightningd is writing");
}

/// The recorder, at its start, logs a line with these words.
#[track_caller]
fn expect_logged(node: &mut SmallNode, words: &str) {
    node.lightningd.init().expect("the recorder lives");
    let recorder = node.lightningd.recorder().expect("the recorder lives");
    let is_there = |line: &String| line.contains(words);
    for _ in 0..100 {
        if recorder.log_lines().iter().any(is_there) {
            return;
        }
        recorder.ask("backup-status", &serde_json::json!({})).expect("the recorder lives");
    }
    panic!("{words:?} is not in {:?}", recorder.log_lines());
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
    let to = home.join("restored.sqlite3");
    cli::backupfs(&["restore".as_ref(), backup.as_os_str(), to.as_os_str()]).expect_done("restore");
    compare::same_contents(&elsewhere, &to, &[]).unwrap();
}

#[test]
fn backup_lock_has_the_place_of_the_backup_without_detours() {
    let home = Home::new();
    let lightning_dir = home.lightning_dir();
    let detour = lightning_dir.join("../detour.bkp");
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), detour.as_os_str()];
    cli::backupfs(&init).expect_done("init");
    let lock: serde_json::Value = serde_json::from_slice(&fs::read(home.backup_lock()).unwrap()).unwrap();
    let straight = fs::canonicalize(home.join("detour.bkp")).unwrap();
    assert_eq!(lock["backend_url"], format!("file://{}", straight.display()));
}

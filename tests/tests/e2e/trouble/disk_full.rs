//! A backup on a disk that fills up: the node stops before it commits what is not recorded.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use rustix::mount::{MountFlags, mount_remount};
use serde_json::{Value, json};
use tests::home::Home;
use tests::listing::{self, Status};
use tests::small_node::{NODE_ID, SmallNode, bump, creation};
use tests::tiny_disk::TinyDisk;
use tests::wait::until;

#[test]
fn a_full_disk_refuses_and_room_is_all_it_takes_to_go_on() {
    let home = Home::new();
    let Some(disk) = TinyDisk::mounted(&home.join("disk"), c"size=40m") else { return };
    std::os::unix::fs::symlink(disk.path().join("node.bkp"), home.backup()).unwrap();
    let backup = disk.path().join("node.bkp");
    let lightning_dir = home.lightning_dir();
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()];
    tests::cli::backupfs(&init).expect_done("init");

    home.set_in_backup_lock("on_unreachable", "stop".into());
    let mut node = SmallNode::at(home);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).unwrap();
    assert!(first.is_continue(), "{first:?}");
    let refusal = (0..100).find_map(|id| {
        let next = node.data_version().next();
        let big = format!("INSERT INTO htlcs (id, preimage) VALUES (-{id}, x'{}')", "5a".repeat(500_000));
        match node.lightningd.write(next, &[big, bump(next)], Commit::Normal).unwrap() {
            Answer::Continue { .. } => None,
            Answer::Refused { message } => Some((next, message)),
            Answer::Died => panic!("died at {next}: {}", node.home.recorder_stderr()),
        }
    });
    let (refused, message) = refusal.expect("100 MB do not fit into 40");
    assert!(message.to_lowercase().contains("space") && message.contains("node.bkp"), "{message}");
    assert_eq!(node.data_version().next(), refused, "refused before the commit");
    // After a restart sealing may have made room, or there is still none: the node goes on or is refused again.
    node.start();
    let big = format!("INSERT INTO htlcs (id, preimage) VALUES (0, x'{}')", "5a".repeat(500_000));
    let again = node.lightningd.write(refused, &[big, bump(refused)], Commit::Normal).unwrap();
    assert!(matches!(again, Answer::Refused { .. } | Answer::Continue { .. }), "{again:?}");
    mount_remount(disk.path(), MountFlags::empty(), c"size=200m").unwrap();
    node.start();
    node.commit();
    node.expect_restorable();
    let listed = listing::versions(&node.home.backup(), &[]);
    let all: Vec<u32> = (1..=node.data_version().get()).collect();
    assert_eq!(listing::with_status(&listed, Status::Recorded), all);
}

/// A transaction of half a megabyte.
fn write_much(node: &mut SmallNode, id: u32) -> Answer {
    let next = node.data_version().next();
    let big = format!("INSERT INTO htlcs (id, preimage) VALUES (-{id}, x'{}')", "5a".repeat(250_000));
    node.lightningd.write(next, &[big, bump(next)], Commit::Normal).expect("the pretended node works")
}

fn fill(disk: &Path) -> PathBuf {
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler).expect("a file");
    while file.write_all(&[1; 4096]).is_ok() {}
    filler
}

#[test]
fn with_a_spool_a_full_disk_is_shouted_about_and_drained_to_when_there_is_room() {
    let home = Home::new();
    let Some(disk) = TinyDisk::mounted(&home.join("disk"), c"size=24m") else { return };
    let backup = disk.path().join("node.bkp");
    std::os::unix::fs::symlink(&backup, home.backup()).unwrap();
    let lightning_dir = home.lightning_dir();
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()];
    tests::cli::backupfs(&init).expect_done("init");
    home.set_on_unreachable(json!({"spool": "", "wait_s": 0}));
    let mut node = SmallNode::at(home);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).unwrap();
    assert!(first.is_continue(), "{first:?}");
    for round in 0..2 {
        let filler = fill(disk.path());
        // The preallocated log takes some.
        let spooled = (0..60).find(|id| {
            let answer = write_much(&mut node, 100 * round + id);
            assert!(answer.is_continue(), "{answer:?}; {}", node.home.recorder_stderr());
            !node.backup_status()["spool"].is_null()
        });
        assert!(spooled.is_some(), "a full disk takes 30 MB");
        let told = node.backup_status();
        let problem = told["last_problem"]["text"].as_str().unwrap_or_default().to_lowercase();
        assert!(problem.contains("no space left") && problem.contains("node.bkp"), "{told}");
        let log = node.lightningd.recorder().expect("it runs").log_lines().join("\n");
        assert!(log.contains("is out of reach") && log.contains("exist on this machine only"), "{log}");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            node.commit();
            std::thread::sleep(Duration::from_millis(20));
        }
        let told = node.backup_status();
        assert!(told["spool"]["changes"].as_u64() > Some(20), "nothing of it has room: {told}");
        let problem = told["spool"]["problem"].as_str().unwrap_or_default().to_lowercase();
        assert!(problem.contains("no space left"), "{told}");
        if round == 1 {
            // Found again in its spool while there is still no room.
            node.stop();
            node.start();
            node.commit();
            assert!(!node.backup_status()["spool"].is_null());
        }
        fs::remove_file(filler).expect("room");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !node.backup_status()["spool"].is_null() {
            assert!(Instant::now() < deadline, "{}", node.backup_status());
            node.commit();
            std::thread::sleep(Duration::from_millis(50));
        }
        node.expect_all_recorded();
    }
    node.stop();
    node.expect_all_recorded();
}

#[test]
fn a_full_spool_while_the_backup_is_gone_is_a_refusal_that_loses_nothing() {
    let home = Home::new();
    let Some(disk) = TinyDisk::mounted(&home.join("spool"), c"size=14m") else { return };
    home.init();
    home.set_on_unreachable(json!({"spool": "", "wait_s": 0}));
    let mut node = SmallNode::at(home);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).unwrap();
    assert!(first.is_continue(), "{first:?}");
    let aside = node.home.join("aside.bkp");
    for room_first in [false, true] {
        fs::rename(node.home.backup(), &aside).expect("the backup is there");
        let refusal = (0..60).find_map(|id| match write_much(&mut node, 100 * u32::from(room_first) + id) {
            Answer::Continue { .. } => None,
            Answer::Refused { message } => Some((id, message)),
            Answer::Died => panic!("{}", node.home.recorder_stderr()),
        });
        let (fitted, message) = refusal.expect("30 MB do not fit into 14");
        assert!(fitted > 4, "only {fitted} fitted");
        let path = disk.path().to_str().expect("UTF-8");
        for part in
            ["did not record", "node.bkp is out of reach", path, "make room", "No space left", "start lightningd"]
        {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        // With neither of them well it is refused again, whatever does not fit, and no harm done.
        for id in 60..63 {
            node.start();
            let answer = write_much(&mut node, 100 * u32::from(room_first) + id);
            assert!(matches!(answer, Answer::Refused { .. } | Answer::Continue { .. }), "{answer:?}");
        }
        if room_first {
            mount_remount(disk.path(), MountFlags::empty(), c"size=200m").expect("room");
            node.start();
            for _ in 0..5 {
                node.commit();
            }
            assert!(!node.backup_status()["spool"].is_null());
            node.stop();
        }
        fs::rename(&aside, node.home.backup()).expect("the backup was put aside");
        node.start();
        node.commit();
        assert_eq!(node.backup_status()["spool"], Value::Null, "drained before the first answer");
        node.expect_all_recorded();
    }
    node.stop();
    node.expect_all_recorded();
}

/// Sealing needs room before recording does. What was lost: that was told as a backup that cannot be read back, and while the
/// node waited every attempt had lines of its own.
#[test]
fn a_full_disk_is_no_damage_and_what_waits_for_room_goes_on_when_there_is_some() {
    let home = Home::new();
    let Some(disk) = TinyDisk::mounted(&home.join("disk"), c"size=40m") else { return };
    let backup = disk.path().join("node.bkp");
    std::os::unix::fs::symlink(&backup, home.backup()).unwrap();
    let lightning_dir = home.lightning_dir();
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()];
    tests::cli::backupfs(&init).expect_done("init");
    home.set_on_unreachable(json!({"wait_s": 60}));
    let mut node = SmallNode::at(home);
    node.lightningd.end_logs_after(60);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).unwrap();
    assert!(first.is_continue(), "{first:?}");
    let preallocated = backup.join(format::names::PREALLOCATED);
    let is_made = || {
        fs::metadata(&preallocated).is_ok_and(|preallocated| preallocated.len() == common::LogLimits::default().bytes)
    };
    assert!(until(Duration::from_secs(20), is_made), "no log is preallocated");
    let filler = fill(disk.path());
    // Into the preallocated log: the one before is finished then.
    while preallocated.exists() {
        node.commit();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let told = loop {
        node.commit();
        let told = node.backup_status();
        if !told["sealing"]["problem"].is_null() {
            break told;
        }
        assert!(Instant::now() < deadline, "{told}");
        std::thread::sleep(Duration::from_millis(500));
    };
    let problem = told["sealing"]["problem"].as_str().unwrap_or_default();
    for part in ["not sealed", "nothing is lost", "No space left", "make room"] {
        assert!(problem.contains(part), "no {part:?} in {told}");
    }
    assert_eq!(
        (&told["replay"]["problem"], &told["last_problem"]["text"]),
        (&Value::Null, &told["sealing"]["problem"])
    );
    // Until the log is full: then lightningd waits, and there is room again.
    let room = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(4));
        fs::remove_file(filler).expect("room");
    });
    let before = Instant::now();
    let waited =
        (0..60).any(|_| matches!(node.write(Commit::Normal), Answer::Continue { elapsed } if elapsed.as_secs() > 0));
    assert!(waited, "it never waited in {:?}", before.elapsed());
    room.join().expect("room");
    let log = |node: &mut SmallNode| node.lightningd.recorder().expect("it runs").log_lines();
    let deadline = Instant::now() + Duration::from_secs(30);
    let is_over = |told: &Value| told["sealing"]["problem"].is_null() && told["stalls"]["last"]["over"] == true;
    while !is_over(&node.backup_status()) {
        assert!(Instant::now() < deadline, "{}", node.backup_status());
        std::thread::sleep(Duration::from_millis(100));
    }
    // Log lines come behind answers.
    std::thread::sleep(Duration::from_millis(300));
    node.backup_status();
    let log = log(&mut node);
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("cannot be read back"), count("error: ")), (0, 0), "{log:#?}");
    assert_eq!(count("info: recording to"), 2, "at the start, and when there was room: {log:#?}");
    assert_eq!(count("finished logs are not sealed"), 1, "{log:#?}");
    assert!(count("is not preallocated") <= 2 && count("goes on: it has waited") == 1, "{log:#?}");
    assert!(log.len() < 30, "{log:#?}");
    node.expect_all_recorded();
    node.stop();
    node.expect_all_recorded();
}

//! Gaps that are harder to close than by reading a quiet database.

use common::DataVersion;
use format_fuzz::seeded::Seeded;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};
use tests::cli;
use tests::listing::{self, Status};
use tests::small_node::{SmallNode, bump};

#[test]
fn a_vacuum_that_is_not_recorded_changes_no_contents() {
    let mut node = SmallNode::created();
    for _ in 0..12 {
        node.commit();
    }
    let vacuum = |node: &SmallNode| node.lightningd.database().expect("it runs").execute_batch("VACUUM");
    vacuum(&node).unwrap();
    node.commit();
    node.expect_restorable();
    // The image that heals a gap has other pages now than the backup would think.
    node.run_without_plugin(2);
    node.start();
    vacuum(&node).unwrap();
    node.commit();
    node.expect_restorable();
    for _ in 0..5 {
        node.commit();
    }
    node.expect_restorable();
}

#[test]
fn a_database_that_shrank_in_the_gap_is_healed() {
    let mut node = SmallNode::created();
    let grow = "INSERT INTO htlcs (id, preimage) VALUES (-1, zeroblob(3000000))";
    node.commit_also(&[grow]);
    node.run_without_plugin(1);
    node.lightningd.start_without_recorder().unwrap();
    let database = node.lightningd.database().expect("it runs");
    database.execute_batch("DELETE FROM htlcs WHERE id = -1; VACUUM").unwrap();
    node.lightningd.kill();
    node.start();
    node.commit();
    node.expect_restorable();
    node.commit_also(&[grow]);
    node.expect_restorable();
}

#[test]
fn a_transaction_too_big_for_the_cache_is_recorded_and_the_next_write_closes_the_gap() {
    let mut node = SmallNode::created();
    node.commit();
    node.run_without_plugin(2);
    node.start();
    // More than the page cache holds: SQLite writes to the file before the commit and lets nobody read it any more.
    let next = node.data_version().next();
    let spill = "INSERT INTO htlcs (id, preimage) VALUES (-1, zeroblob(30000000))".to_owned();
    let answer = node.lightningd.write(next, &[spill, bump(next)], Commit::Normal).unwrap();
    assert!(answer.is_continue(), "the node has to start: {answer:?}");
    // Until the next write nothing is claimed of that version.
    let restored = node.home.join("restored.sqlite3");
    let backup = node.home.backup();
    cli::backupfs(&["restore".as_ref(), backup.as_os_str(), restored.as_os_str()])
        .expect_refused(1, &[&format!("version {next}, the newest")]);
    node.commit();
    node.expect_restorable();
    let listed = listing::versions(&node.home.backup(), &[]);
    assert_eq!(listing::with_status(&listed, Status::Missing).len(), 2);
}

#[test]
fn a_recorder_killed_while_it_heals_heals_at_the_next_start() {
    let mut random = Seeded::new(4711);
    let mut node = SmallNode::created();
    let mut missing = Vec::new();
    for round in 0..15 {
        let transactions = 1 + random.below(3);
        node.run_without_plugin(transactions);
        let committed = node.data_version().get();
        missing.extend(committed - u32::try_from(transactions).unwrap() + 1..committed);
        node.start();
        let after = Duration::from_micros(random.below(3000));
        let answer = node.write(Commit::KillRecorder { after });
        assert!(!matches!(answer, Answer::Refused { .. }), "round {round}: {answer:?}");
        node.start();
        node.commit();
        node.expect_restorable();
    }
    let listed = listing::versions(&node.home.backup(), &[]);
    assert_eq!(listing::with_status(&listed, Status::Missing), missing);
    let all = 1..=node.data_version().get();
    let recorded: Vec<u32> = all.filter(|version| !missing.contains(version)).collect();
    assert_eq!(listing::with_status(&listed, Status::Recorded), recorded);
}

#[test]
fn a_gap_found_by_a_rider_is_healed() {
    let mut node = SmallNode::created();
    node.run_without_plugin(2);
    node.start();
    let rider = ["PRAGMA foreign_keys = OFF;"];
    let answer = node.lightningd.write(DataVersion::new(3), &rider, Commit::Normal).unwrap();
    assert!(answer.is_continue(), "{answer:?}");
    node.expect_restorable();
    node.commit();
    node.expect_restorable();
}

/// Asks the recorder for its state until `is_so`.
#[track_caller]
fn wait_for(node: &mut SmallNode, what: &str, is_so: impl Fn(&serde_json::Value, &[String]) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = node.backup_status();
        let lines = node.lightningd.recorder().expect("it runs").log_lines();
        if is_so(&status, &lines) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {status}, {lines:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_heal_stored_is_checked_soon_after() {
    let mut node = SmallNode::created();
    node.run_without_plugin(3);
    node.start();
    node.commit();
    node.lightningd.init().unwrap();
    wait_for(&mut node, "it is sound", |status, lines| {
        status["last_problem"].is_null()
            && lines.iter().any(|line| line.contains("version 4") && line.contains("is sound"))
    });
    node.commit();
    node.expect_restorable();
    // What was lost: at every start there was a line for every heal that there ever was.
    node.stop();
    node.start();
    node.commit();
    node.lightningd.init().unwrap();
    let newest = node.data_version().get();
    wait_for(&mut node, "it is replayed again", |status, _| status["replay"]["through"] == newest);
    thread::sleep(Duration::from_millis(500));
    wait_for(&mut node, "nothing is said", |_, lines| lines.iter().all(|line| !line.contains("is sound")));
}

#[test]
fn a_heal_from_a_damaged_database_is_shouted_about_and_recording_goes_on() {
    let mut node = SmallNode::created();
    node.run_without_plugin(1);
    node.lightningd.start_without_recorder().unwrap();
    let database = node.lightningd.database().expect("it runs");
    // Pages that no transaction touches again.
    database
        .execute_batch(
            "CREATE TABLE old (id INTEGER PRIMARY KEY, what BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
             INSERT INTO old SELECT i, randomblob(1000) FROM n",
        )
        .unwrap();
    node.write(Commit::WithoutPlugin);
    node.lightningd.kill();
    let file = OpenOptions::new().read(true).write(true).open(node.home.database()).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    let (mut page, mut damaged) = (vec![0; 4096], 0);
    for number in 1..pages {
        file.read_exact_at(&mut page, number * 4096).unwrap();
        // A leaf of a table (SQLite file format §1.6) with three or four rows of a thousand bytes.
        if page[0] == 13 && (3..=4).contains(&page[4]) {
            file.write_all_at(&[0xee; 8], number * 4096).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 10, "{damaged} of {pages} pages");
    node.start();
    node.commit();
    node.lightningd.init().unwrap();
    wait_for(&mut node, "it is not sound", |status, lines| {
        let said = |text: &str| text.contains("is not sound") && text.contains("integrity_check");
        status["last_problem"]["text"].as_str().is_some_and(said) && lines.iter().any(|line| said(line))
    });
    node.commit();
    node.commit();
}

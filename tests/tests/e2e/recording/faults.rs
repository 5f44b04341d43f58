//! Kills, crashes and wrong databases: the backup is right afterwards, or the node is refused before it commits.

use std::fs;
use std::time::Duration;

use common::DataVersion;
use format_fuzz::seeded::Seeded;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use tests::home::Home;
use tests::listing::{self, Status};
use tests::small_node::{NODE_ID, SmallNode, creation};

/// Environment variable: how many times the recorder is killed.
const KILLS: &str = "BACKUPFS_KILLS";

fn with_status(node: &SmallNode, status: Status) -> Vec<u32> {
    listing::with_status(&listing::versions(&node.home.backup(), &[]), status)
}

#[test]
fn a_recorder_killed_at_any_moment_loses_nothing_that_was_committed() {
    let rounds: u32 = std::env::var(KILLS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30);
    let mut random = Seeded::new(20_261_122);
    let mut node = SmallNode::created();
    let mut died = 0;
    for round in 0..rounds {
        for _ in 0..random.below(4) {
            node.commit();
        }
        let committed = node.data_version();
        // An answer takes about 0.2 ms: about half the blows come before it.
        let after = Duration::from_micros(random.below(500));
        let answer = node.write(Commit::KillRecorder { after });
        let now = node.data_version();
        match answer {
            Answer::Continue { .. } => assert_eq!(now, committed.next(), "round {round}"),
            Answer::Died => assert_eq!(now, committed, "round {round}"),
            Answer::Refused { message } => panic!("round {round}: {message}"),
        }
        died += u32::from(answer == Answer::Died);
        node.start();
        node.commit();
        if random.below(3) == 0 {
            node.lightningd.init().expect("the recorder takes init");
        }
        node.expect_restorable();
        assert_eq!(node.recorded_versions(), (1..=node.data_version().get()).collect::<Vec<_>>(), "round {round}");
    }
    println!("{rounds} kills, {died} of them before the answer");
    assert_eq!(with_status(&node, Status::Missing), Vec::<u32>::new());
}

#[test]
fn a_recorder_killed_between_two_calls_is_replaced_by_the_next() {
    let mut node = SmallNode::created();
    for _ in 0..5 {
        node.commit();
        node.lightningd.recorder().expect("it runs").kill().expect("it dies");
        assert_eq!(node.write(Commit::Normal), Answer::Died);
        node.start();
        node.commit();
        node.expect_restorable();
    }
    assert_eq!(node.recorded_versions(), (1..=11).collect::<Vec<_>>());
}

#[test]
fn a_node_killed_before_its_commit_is_rewound() {
    let mut node = SmallNode::created();
    node.commit();
    // Twice in a row, so that a rewound version is rewound again.
    for _ in 0..2 {
        assert!(node.write(Commit::CrashBeforeCommit).is_continue());
        assert_eq!(node.data_version(), DataVersion::new(2));
        node.start();
    }
    node.commit();
    node.commit();
    node.expect_restorable();
    assert_eq!(node.recorded_versions(), [1, 2, 3, 4]);
    assert_eq!(with_status(&node, Status::Rewound), [3, 3]);
}

#[test]
fn a_node_killed_after_its_commit_goes_on() {
    let mut node = SmallNode::created();
    assert!(node.write(Commit::CrashAfterCommit).is_continue());
    node.start();
    node.commit();
    node.expect_restorable();
    assert_eq!(node.recorded_versions(), [1, 2, 3]);
    assert_eq!(with_status(&node, Status::Rewound), Vec::<u32>::new());
}

#[test]
fn a_node_that_ran_without_the_plugin_is_healed() {
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    node.run_without_plugin(3);
    node.start();
    node.commit();
    node.expect_restorable();
    // Version 5 is in the backup: the database as it was when the recorder came back.
    assert_eq!(node.recorded_versions(), [1, 2, 5, 6]);
    assert_eq!(with_status(&node, Status::Missing), [3, 4]);
    node.commit();
    node.expect_restorable();
}

#[test]
fn on_gap_stop_refuses_instead_of_healing() {
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    node.home.set_in_backup_lock("on_gap", "stop".into());
    node.start();
    node.commit();
    node.stop();
    node.run_without_plugin(1);
    let before = node.recorded_versions();
    let message = node.start_refused();
    assert!(message.contains("on_gap") && message.contains('4'), "{message}");
    assert_eq!(node.recorded_versions(), before);
    node.home.set_in_backup_lock("on_gap", "heal".into());
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn an_old_database_is_refused_with_the_way_out() {
    let mut node = SmallNode::created();
    node.commit();
    let [old, new] = ["old", "new"].map(|name| node.home.join(name));
    node.stop();
    fs::copy(node.home.database(), &old).unwrap();
    node.start();
    for _ in 0..5 {
        node.commit();
    }
    node.stop();
    fs::copy(node.home.database(), &new).unwrap();

    fs::copy(&old, node.home.database()).unwrap();
    let message = node.start_refused();
    assert!(message.contains("restore") && message.contains('7') && message.contains('2'), "{message}");
    assert_eq!(node.data_version(), DataVersion::new(2), "refused before the commit");
    assert_eq!(node.recorded_versions(), [1, 2, 3, 4, 5, 6, 7]);

    fs::copy(&new, node.home.database()).unwrap();
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn the_database_of_another_node_is_refused() {
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    let mut other = SmallNode::before_its_first_write();
    other.start();
    let created = other.lightningd.write(DataVersion::new(1), &creation(&NODE_ID.replace('a', "b")), Commit::Normal);
    assert!(created.unwrap().is_continue());
    other.commit();
    other.stop();

    fs::copy(other.home.database(), node.home.database()).unwrap();
    let message = node.start_refused();
    assert!(message.contains("node"), "{message}");
    assert_eq!(node.recorded_versions(), [1, 2]);
}

#[test]
fn a_second_recorder_is_refused_while_the_first_lives() {
    let mut node = SmallNode::created();
    node.commit();
    let second = Home::new();
    fs::copy(node.home.backup_lock(), second.backup_lock()).unwrap();
    fs::copy(node.home.database(), second.database()).unwrap();
    let mut copy = SmallNode::at(second);
    let message = copy.start_refused();
    assert!(message.contains("lock") && message.contains("recorder"), "{message}");
    // The first does not notice.
    node.commit();
    node.expect_restorable();
    assert_eq!(node.recorded_versions(), [1, 2, 3]);
}

#[test]
fn a_backup_with_another_uuid_is_refused() {
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    node.home.set_in_backup_lock("backup_uuid", "00000000-0000-4000-8000-000000000000".into());
    let message = node.start_refused();
    assert!(message.contains("00000000-0000-4000-8000-000000000000") && message.contains("backup.lock"), "{message}");
    assert_eq!(node.recorded_versions(), [1, 2]);
}

#[test]
fn writes_after_the_announced_shutdown_are_recorded() {
    let mut node = SmallNode::created();
    node.commit();
    node.lightningd.announce_shutdown().unwrap();
    node.commit();
    node.commit();
    assert!(node.lightningd.stop().unwrap().success());
    assert_eq!(node.recorded_versions(), [1, 2, 3, 4]);
    node.expect_restorable();
}

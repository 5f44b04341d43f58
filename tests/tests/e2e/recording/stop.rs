//! The end of a run: the recorder stays for as long as `lightningd` writes, and not much longer, whatever it is at.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::{BackupWriter, DataVersion, DbWrite, LogLimits, Timestamp};
use mountfs::demo::pretend_lightningd::Commit;
use recorder::transport::QUIET_AFTER_SHUTDOWN;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;

/// What a machine that has other things to do may take on top of what was meant.
const LEEWAY: Duration = Duration::from_millis(1200);

/// Statements after which logs end here: some six transactions.
const LOGS_END_AFTER: usize = 30;

/// Transactions of a backlog that takes a sealer much longer than a stop.
const BACKLOG: u32 = 2500;

fn logs(backup: &Path) -> usize {
    names(backup).iter().filter(|name| name.starts_with("log-")).count()
}

fn names(backup: &Path) -> Vec<String> {
    let entries = fs::read_dir(backup).expect("a backup");
    entries.map(|entry| entry.expect("a file").file_name().into_string().expect("a plain name")).collect()
}

/// Checks how long the recorder stayed after `last`, the moment before the last message was sent.
#[track_caller]
fn expect_soon(last: Instant, at_least: Duration, what: &str) {
    let stayed = last.elapsed();
    println!("{what}: ended {} ms after the last message", stayed.as_millis());
    assert!(stayed >= at_least, "{what}: it left after {stayed:?}, when more could have come");
    assert!(stayed < at_least + LEEWAY, "{what}: it stayed for {stayed:?}");
}

#[test]
fn a_node_that_goes_on_writing_while_it_stops_loses_nothing_and_does_not_wait() {
    let mut node = SmallNode::created();
    node.commit();
    node.lightningd.announce_shutdown().unwrap();
    let mut last = Instant::now();
    // All in all for much longer than the recorder would stay if nothing came.
    for _ in 0..8 {
        thread::sleep(QUIET_AFTER_SHUTDOWN / 2);
        last = Instant::now();
        node.commit();
    }
    assert!(node.lightningd.stop().unwrap().success());
    expect_soon(last, QUIET_AFTER_SHUTDOWN, "a stop with late writes");
    assert_eq!(node.recorded_versions(), (1..=10).collect::<Vec<_>>());
    node.expect_restorable();
    // The last write is known to be committed, so nothing is compared, healed or rewound.
    node.start();
    node.commit();
    let all = listing::versions(&node.home.backup(), &[]);
    assert_eq!(listing::with_status(&all, Status::Recorded), (1..=11).collect::<Vec<_>>());
    assert_eq!(listing::with_status(&all, Status::Rewound), [0; 0]);
}

#[test]
fn a_stop_without_late_writes_takes_as_long_as_they_could_come() {
    let mut node = SmallNode::created();
    node.commit();
    let last = Instant::now();
    node.stop();
    expect_soon(last, QUIET_AFTER_SHUTDOWN, "a quiet stop");
    node.start();
    node.commit();
    let last = Instant::now();
    assert!(node.lightningd.end_input().unwrap().success());
    expect_soon(last, Duration::ZERO, "an end of input");
    assert_eq!(node.recorded_versions(), [1, 2, 3]);
}

/// A node whose backup has many finished logs, none of them sealed: recorded without a sealer.
fn with_backlog() -> SmallNode {
    let home = Home::new();
    home.init();
    let mut node = SmallNode::at(home);
    let limits = LogLimits { bytes: 64 << 10, statements: LOGS_END_AFTER };
    let mut recording = BackupWriter::open(&node.home.lightning_dir(), limits).expect("a backup");
    node.lightningd.start_without_recorder().expect("the node starts");
    for number in 1..=BACKLOG {
        let data_version = DataVersion::new(number);
        let statements = if number == 1 { creation(NODE_ID) } else { node.transaction(data_version) };
        let borrowed: Vec<_> = statements.iter().map(|statement| statement.as_str().into()).collect();
        let write = DbWrite { data_version, statements: &borrowed, received_at: Timestamp::now() };
        recording.record(&write).expect("a write");
        node.lightningd.write(data_version, &statements, Commit::WithoutPlugin).expect("a commit");
    }
    recording.note_commit().expect("a note");
    drop(recording);
    node.lightningd.kill();
    node.lightningd.end_logs_after(LOGS_END_AFTER);
    node
}

#[test]
fn sealing_a_backlog_is_abandoned_at_once_and_goes_on_at_the_next_start() {
    let mut node = with_backlog();
    let backup = node.home.backup();
    let mut before = logs(&backup);
    assert!(before > 300, "{before} logs");
    let mut abandoned = 0;
    for round in 0..4 {
        node.start();
        node.commit();
        node.lightningd.init().unwrap();
        let (ended, at_least) = if round % 2 == 0 {
            node.lightningd.announce_shutdown().unwrap();
            let last = Instant::now();
            node.commit();
            assert!(node.lightningd.stop().unwrap().success(), "{}", node.home.recorder_stderr());
            (last, QUIET_AFTER_SHUTDOWN)
        } else {
            let last = Instant::now();
            node.commit();
            assert!(node.lightningd.end_input().unwrap().success(), "{}", node.home.recorder_stderr());
            (last, Duration::ZERO)
        };
        expect_soon(ended, at_least, "a stop in the middle of sealing");
        let left = logs(&backup);
        println!("round {round}: {left} of {before} logs are left");
        abandoned += u32::from(left > 2);
        before = left;
        // Half of it sealed, and maybe a file that was being written.
        node.expect_restorable();
    }
    assert!(abandoned >= 2, "the backlog is too small for this machine: the sealer had done it all");
    node.start();
    let newest = node.commit();
    assert!(until(Duration::from_secs(600), || logs(&backup) == 1), "{} logs are left", logs(&backup));
    node.stop();
    let left_over: Vec<_> = names(&backup).into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert_eq!(left_over, [""; 0], "files of a sealing that was abandoned");
    node.expect_restorable();
    assert_eq!(node.recorded_versions(), (1..=newest.get()).collect::<Vec<_>>());
}

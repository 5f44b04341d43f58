//! The backup becomes unreachable, and reachable again.

use std::cell::Cell;
use std::fs;
use std::ops::ControlFlow;

use std::borrow::Cow;

use super::*;
use crate::history::History;
use crate::log::CutError;
use crate::segment::version::TimelineEntry;
use crate::storage::faulty::FaultyDirectory;
use crate::testing::{Fate, Node, contents};
use format::names;

/// Long enough for a log to end after two.
fn long() -> String {
    "long ".repeat(10_000)
}

/// Transactions, log rolls and a heal.
const SCRIPT: [Fate; 9] = {
    use Fate::{Committed, Unseen};
    [Committed, Committed, Committed, Committed, Committed, Unseen, Unseen, Committed, Committed]
};

fn note(position: usize) -> String {
    if position.is_multiple_of(2) { long() } else { format!("round {position}") }
}

/// Every version that is recorded, and that none was rewound.
fn recorded(history: &History) -> Vec<u32> {
    let mut recorded = Vec::new();
    history
        .for_timeline(&mut |entry| {
            match entry {
                TimelineEntry::Recorded(version) => recorded.push(version.data_version.get()),
                TimelineEntry::Rewound { data_version, .. }
                | TimelineEntry::Replaced { data_version, .. }
                | TimelineEntry::Unreadable { data_version, .. } => panic!("{data_version} was recorded twice"),
                TimelineEntry::Missing { .. } | TimelineEntry::Dropped { .. } => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    recorded
}

/// Plays the script with this failing call; then the recording is closed and opened again until that succeeds. Returns the number
/// of calls that the script made.
fn play_and_reopen(node: &mut Node, directory: &Arc<FaultyDirectory>, failing: u64, after_failure: &dyn Fn()) -> u64 {
    let mut recording = node.record_in(Arc::clone(directory) as _);
    let before = directory.calls();
    directory.fail_nth(failing);
    for (position, fate) in SCRIPT.into_iter().enumerate() {
        while let Err(error) = node.write(&mut recording, &note(position), fate) {
            assert!(error.is_trouble(), "{error}");
            after_failure();
            let interrupted = recording.interrupt();
            recording = loop {
                match interrupted.reopen_in(Arc::clone(directory) as _) {
                    Ok(recording) => break recording,
                    Err(error) => assert!(error.is_trouble(), "{error}"),
                }
            };
        }
    }
    directory.calls() - before
}

fn expect_whole(node: &Node, what: &str) {
    let (history, read) = node.backup().read_history();
    read.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(recorded(&history), [10, 11, 12, 13, 14, 15, 17, 18, 19], "{what}");
    assert_eq!(node.newest_contents(), (19, contents(&node.connection)), "{what}");
}

fn calls_of_the_script() -> u64 {
    let mut node = Node::new("");
    let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
    play_and_reopen(&mut node, &directory, u64::MAX / 2, &|| ())
}

#[test]
fn whichever_call_fails_the_write_is_recorded_once_when_the_place_is_back() {
    let calls = calls_of_the_script();
    assert!((40..400).contains(&calls), "{calls} calls: the script is another now");
    // A log is made with many writes of zeros, all alike.
    for nth in (0..calls).step_by(3) {
        let mut node = Node::new("");
        let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
        directory.fail_with(if nth % 2 == 0 { libc::EIO } else { libc::ENOSPC });
        play_and_reopen(&mut node, &directory, nth, &|| ());
        expect_whole(&node, &format!("call {nth}"));
    }
}

#[test]
fn calls_that_fail_while_it_is_opened_again_change_nothing() {
    let calls = calls_of_the_script();
    for nth in (0..calls).step_by(23) {
        for later in (0..12).step_by(3) {
            let mut node = Node::new("");
            let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
            let (again, once) = (Arc::clone(&directory), Cell::new(true));
            play_and_reopen(&mut node, &directory, nth, &move || {
                if once.take() {
                    again.fail_nth(later);
                }
            });
            expect_whole(&node, &format!("call {nth}, then {later} later"));
        }
    }
}

#[test]
fn a_torn_write_is_written_anew() {
    let mut node = Node::new("");
    let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
    let mut recording = node.record_in(Arc::clone(&directory) as _);
    node.write(&mut recording, &long(), Fate::Committed).unwrap();
    directory.tear_next_write_to_its_later_sectors();
    assert!(node.write(&mut recording, "torn in the middle of a page", Fate::Committed).unwrap_err().is_trouble());
    let mut recording = recording.interrupt().reopen_in(directory).unwrap();
    node.write(&mut recording, "torn in the middle of a page", Fate::Committed).unwrap();
    assert_eq!(node.newest_contents(), (12, contents(&node.connection)));
}

/// A recording whose next write fails in its sync: the record can be read, and may be on the disk or not.
fn interrupted_in_a_sync(node: &mut Node) -> Interrupted {
    let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
    let mut recording = node.record_in(Arc::clone(&directory) as _);
    node.write(&mut recording, "one", Fate::Committed).unwrap();
    directory.fail_nth(1);
    assert!(node.write(&mut recording, "two", Fate::Committed).unwrap_err().is_trouble());
    recording.interrupt()
}

#[test]
fn what_can_be_read_but_was_not_acknowledged_is_written_anew() {
    let mut node = Node::new("");
    let interrupted = interrupted_in_a_sync(&mut node);
    let (history, _) = node.backup().read_history();
    assert_eq!(recorded(&history), [10, 11, 12]);
    let mut recording = interrupted.reopen_in(Arc::new(RealDirectory::new(node.backup_path()))).unwrap();
    let (history, _) = node.backup().read_history();
    assert_eq!(recorded(&history), [10, 11], "it is gone before it is written again");
    node.write(&mut recording, "two", Fate::Committed).unwrap();
    let (history, _) = node.backup().read_history();
    assert_eq!(recorded(&history), [10, 11, 12]);
}

#[test]
fn a_backup_that_another_program_wrote_to_is_refused_and_left_alone() {
    let mut node = Node::new("");
    let interrupted = interrupted_in_a_sync(&mut node);
    let mut other = node.record();
    node.write(&mut other, "by another recorder", Fate::Committed).unwrap();
    drop(other);
    let log = node.backup_path().join(names::log(Seq::FIRST));
    let before = fs::read(&log).unwrap();
    let refused = interrupted.reopen_in(Arc::new(RealDirectory::new(node.backup_path()))).unwrap_err();
    assert!(
        matches!(&refused, OpenRecordingError::NotWhatWeWrote { source: CutError::Forked { .. }, .. }),
        "{refused}"
    );
    assert!(!refused.is_trouble(), "waiting cannot help");
    assert!(fs::read(&log).unwrap() == before);
}

#[test]
fn an_older_copy_of_the_backup_is_refused() {
    let mut node = Node::new("");
    let (backup, copy) = (node.backup_path().to_path_buf(), node.dir.path().join("copy"));
    let mut recording = node.record();
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&backup).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    node.write(&mut recording, "after the copy", Fate::Committed).unwrap();
    let interrupted = recording.interrupt();
    fs::rename(&backup, node.dir.path().join("aside")).unwrap();
    let gone = interrupted.reopen(&Arc::default()).unwrap_err();
    assert!(gone.is_trouble(), "{gone}");
    fs::rename(&copy, &backup).unwrap();
    let refused = interrupted.reopen(&Arc::default()).unwrap_err();
    assert!(matches!(&refused, OpenRecordingError::NotWhatWeWrote { source: CutError::Lost { .. }, .. }), "{refused}");
}

/// A regression: the first log of a new node was removed with its first record, no other one was created, and every write was
/// refused.
#[test]
fn the_very_first_write_of_a_node_may_fail() {
    for nth in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let url: BackupUrl = dir.path().join("node.bkp").to_str().unwrap().parse().unwrap();
        let created = crate::create::create_backup(&url, None, &mut |_| ControlFlow::Continue(())).unwrap();
        let (backup_uuid, on_unreachable) = (Some(created.uuid), OnUnreachable::Stop);
        let lock = BackupLock {
            backend_url: url.clone(),
            backup_uuid,
            database: None,
            on_gap: OnGap::Heal,
            on_unreachable,
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        };
        let directory = Arc::new(FaultyDirectory::new(url.path()));
        let limits = LogLimits::default();
        let mut recording = BackupWriter::open_in(Arc::clone(&directory) as _, &lock, dir.path(), limits).unwrap();
        let bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 0";
        let statements = [Cow::Borrowed("CREATE TABLE vars (name TEXT, intval INTEGER)"), Cow::Borrowed(bump)];
        let (data_version, received_at) = (DataVersion::new(1), Timestamp::now());
        let write = DbWrite { data_version, statements: &statements, received_at };
        directory.fail_nth(nth);
        if recording.record(&write).is_err() {
            recording = recording.interrupt().reopen_in(directory).unwrap();
            recording.record(&write).unwrap();
        }
        let (history, read) = Arc::new(Backup::open(&url).unwrap()).read_history();
        read.unwrap();
        assert_eq!(recorded(&history), [1], "call {nth}");
    }
}

/// A regression: while the lock was free, `backupfs seal` sealed the log before the one that the failed write had begun, which
/// was then cut off. Without a log nothing could be recorded any more, even after a restart.
#[test]
fn what_was_sealed_while_the_lock_was_free_is_gone_on_behind() {
    for nth in 0..10 {
        let mut node = Node::new("");
        let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
        let mut recording = node.record_in(Arc::clone(&directory) as _);
        node.write(&mut recording, &long(), Fate::Committed).unwrap();
        directory.fail_nth(nth);
        if node.write(&mut recording, &long(), Fate::Committed).is_err() {
            let interrupted = recording.interrupt();
            crate::seal::seal_backup(&node.backup_lock.backend_url, &mut |_| ControlFlow::Continue(())).unwrap();
            recording = match interrupted.reopen_in(directory) {
                Ok(recording) => recording,
                Err(refused) => {
                    let is_forked = |source: &CutError| matches!(source, CutError::Forked { .. });
                    assert!(
                        matches!(&refused, OpenRecordingError::NotWhatWeWrote { source, .. } if is_forked(source)),
                        "call {nth}: {refused}"
                    );
                    // As after a restart.
                    node.record()
                }
            };
            node.write(&mut recording, "again", Fate::Committed).unwrap();
        }
        assert_eq!(node.newest_contents(), (12, contents(&node.connection)), "call {nth}");
    }
}

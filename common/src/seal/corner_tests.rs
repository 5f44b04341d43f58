//! Combinations of two rare events.

use std::borrow::Cow;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::tests::{LIMITS, files, go_on, history, newest_seq, record, seal, timeline, versions};
use super::{Progress, SealError, Sealer};
use crate::backup::Backup;
use crate::backup::view::View;
use crate::config::log_limits::LogLimits;
use crate::history::Recorded;
use crate::log::DbWrite;
use crate::recording::BackupWriter;
use crate::storage::faulty::FaultyDirectory;
use crate::storage::{Directory, StorageOp};
use crate::testing::{Fate, Node};
use format::units::{DataVersion, Timestamp};

/// Every change begins a log.
const ONE_CHANGE: LogLimits = LogLimits { statements: 3, ..LIMITS };

fn record_rider(node: &Node, recording: &mut BackupWriter, sql: &'static str) -> Recorded {
    let data_version = DataVersion::new(node.version);
    let statements = [Cow::Borrowed(sql)];
    recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() }).unwrap()
}

/// The change that a log begins with dies before its COMMIT, and what the next run begins with is a rider: it acts on a
/// version of a log that is finished.
#[test]
fn a_rider_behind_a_rewound_first_change_is_recorded_and_sealed() {
    let mut node = Node::new("");
    let mut recording = node.record_within(ONE_CHANGE);
    for _ in 0..3 {
        node.write(&mut recording, "committed", Fate::Committed).unwrap();
    }
    node.write(&mut recording, "lost", Fate::Lost).unwrap();
    let first_of_log = newest_seq(&recording);
    assert!(node.backup_path().join(format::names::log(first_of_log)).exists());
    drop(recording);
    let mut recording = record(&node);
    let rewound = record_rider(&node, &mut recording, "PRAGMA foreign_keys = OFF");
    assert!(matches!(rewound, Recorded::Rewound { .. }), "{rewound:?}");
    drop(recording);
    // Nothing but the rider is in the log, then also a change that is rewound, then one that is not.
    assert_eq!(history(&node.backup()).newest().unwrap().data_version.get(), node.version);
    let mut recording = record(&node);
    node.write(&mut recording, "lost again", Fate::Lost).unwrap();
    drop(recording);
    let mut recording = record(&node);
    record_rider(&node, &mut recording, "PRAGMA foreign_keys = OFF");
    node.write(&mut recording, "committed", Fate::Committed).unwrap();
    let newest = history(&node.backup()).newest().unwrap().clone();
    assert_eq!((newest.data_version.get(), newest.statements), (node.version, 5), "with its riders");
    drop(recording);
    let mut recording = node.record_within(ONE_CHANGE);
    for _ in 0..3 {
        node.write(&mut recording, "committed", Fate::Committed).unwrap();
    }
    let (reported, held) = (timeline(&history(&node.backup())), versions(&node.backup()));
    assert_eq!(held.values().last().unwrap().0, fs::read(node.database()).unwrap());
    let logs = files(node.backup_path(), "log-").len();
    // The newest change is in a log of its own, and may still be rewound.
    assert_eq!(seal(node.backup(), newest_seq(&recording)).unwrap().logs_sealed, logs as u64 - 2);
    assert_eq!(timeline(&history(&node.backup())), reported);
    assert!(versions(&node.backup()) == held);
    drop(recording);
    node.write(&mut record(&node), "goes on", Fate::Committed).unwrap();
}

/// The recorder stops at any call while it begins a log, and a follower has looked just then: it may be in a log that
/// recovery removes.
#[test]
fn a_follower_finds_its_way_out_of_a_log_that_was_begun_in_vain() {
    let mut left = 0;
    for limits in [ONE_CHANGE, LIMITS] {
        for nth in 0.. {
            let mut node = Node::new("");
            let faulty = Arc::new(FaultyDirectory::new(node.backup_path()));
            let directory: Arc<dyn Directory> = Arc::clone(&faulty) as _;
            let opened = BackupWriter::open_in(directory, &node.backup_lock, node.dir.path(), ONE_CHANGE);
            let mut recording = opened.unwrap();
            node.write(&mut recording, "first", Fate::Committed).unwrap();
            let (followed, mut follower) = node.backup().follow().unwrap();
            follower.poll(&followed).unwrap();
            faulty.fail_nth(nth);
            let done = node.write(&mut recording, "begins a log", Fate::Committed).is_ok();
            let logs = files(node.backup_path(), "log-").len();
            follower.poll(&followed).unwrap();
            drop(recording);
            let mut recording = node.record_within(limits);
            left += usize::from(files(node.backup_path(), "log-").len() < logs);
            for _ in 0..3 {
                node.write(&mut recording, "goes on", Fate::Committed).unwrap();
                follower.poll(&followed).unwrap();
                let newest = followed.read().unwrap().newest().unwrap().seq;
                assert_eq!(newest, newest_seq(&recording), "call {nth}, {limits:?}");
            }
            assert_eq!(timeline(&followed.read().unwrap()), timeline(&history(&node.backup())));
            if done {
                break;
            }
        }
    }
    assert!(left > 2, "{left}");
}

/// What a delta snapshot cuts off is not part of it. When the database has grown again, a page that is all zeros there, as
/// the last one of a large blob may be, must not be what it was before.
#[test]
fn pages_that_a_delta_snapshot_cut_off_do_not_come_back() {
    let unseen = |node: &mut Node, sql: &str| {
        let bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version'";
        node.connection.execute_batch(&format!("BEGIN; {sql}; {bump}; COMMIT")).unwrap();
        node.version += 1;
    };
    let mut node = Node::new("PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL");
    let mut recording = record(&node);
    let sealed =
        |node: &Node, recording: &BackupWriter| seal(node.backup(), newest_seq(recording)).unwrap().logs_sealed;
    for _ in 0..20 {
        node.write(&mut recording, &"x".repeat(900), Fate::Committed).unwrap();
    }
    assert!(sealed(&node, &recording) > 0);
    for blobs in ["2000", "5000", "9000"] {
        unseen(&mut node, "DELETE FROM payments");
        node.write(&mut recording, "small", Fate::Committed).unwrap();
        assert!(sealed(&node, &recording) > 0);
        unseen(&mut node, &format!("INSERT INTO payments (preimage) VALUES (zeroblob({blobs}))"));
        node.write(&mut recording, "grown", Fate::Committed).unwrap();
        // Whether the snapshot that shrank is sealed or not.
        let held = versions(&node.backup());
        assert!(held.values().last().unwrap().0 == fs::read(node.database()).unwrap());
        node.write(&mut recording, &"x".repeat(9000), Fate::Unseen).unwrap();
        node.write(&mut recording, "behind", Fate::Committed).unwrap();
        assert!(sealed(&node, &recording) > 0);
        let now = versions(&node.backup());
        for (version, expected) in &held {
            assert!(now[version] == *expected, "version {version}, {blobs}");
        }
    }
}

/// The operating system's error for every write.
const ERRORS_OF_WRITES: [i32; 6] = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EROFS, libc::EACCES, libc::EIO];

/// The disk is full: an incomplete segment must not take the space that the recorder needs. Also a regression: it was reported as
/// a backup that cannot be read back.
#[test]
fn a_sealing_that_fails_leaves_no_temporary_file_and_is_no_fault_of_the_backup() {
    let mut node = Node::new("");
    let mut recording = record(&node);
    let fill_a_log = |node: &mut Node, recording: &mut BackupWriter| {
        while files(node.backup_path(), "log-").len() == 1 {
            node.write(recording, "change", Fate::Committed).unwrap();
        }
        node.write(recording, "settles it", Fate::Committed).unwrap();
    };
    fill_a_log(&mut node, &mut recording);
    let (mut failures, mut renamed) = (0, 0);
    for nth in 0.. {
        let faulty = Arc::new(FaultyDirectory::new(node.backup_path()));
        let backup = Arc::new(Backup::of(Arc::clone(&faulty) as _, node.backup().manifest().clone()));
        let mut sealer = Sealer::new(backup, LIMITS).unwrap();
        let errno = ERRORS_OF_WRITES[usize::try_from(nth).unwrap() % ERRORS_OF_WRITES.len()];
        faulty.fail_with(errno);
        faulty.fail_nth(nth);
        let result = sealer.advance(newest_seq(&recording), &mut go_on);
        if let Err(error) = &result {
            assert!(
                matches!(error, SealError::Write(error) if error.source.raw_os_error() == Some(errno)),
                "{error:?}"
            );
            assert!(!error.is_of_the_backup(), "{error:?}");
        }
        assert!(files(node.backup_path(), "segment-").iter().all(|name| !name.ends_with(".tmp")), "call {nth}");
        let segment = files(node.backup_path(), "log-")[0].replace("log", "segment");
        if result.is_err() && node.backup_path().join(segment).exists() && !is_removal(&result) {
            // The rename may not be durable, so that is ensured before the log is removed.
            faulty.fail_nth(0);
            let again = sealer.advance(newest_seq(&recording), &mut go_on);
            assert!(again.is_err() && !is_removal(&again), "{again:?}");
            renamed += 1;
        }
        failures += usize::from(result.is_err());
        // The same sealer goes on.
        sealer.advance(newest_seq(&recording), &mut go_on).unwrap();
        assert_eq!(files(node.backup_path(), "log-").len(), 1);
        if result.is_ok() {
            break;
        }
        fill_a_log(&mut node, &mut recording);
    }
    assert!(failures > 3 && renamed == 1, "{failures} {renamed}");
}

fn is_removal(result: &Result<(), SealError>) -> bool {
    matches!(result, Err(SealError::Write(error)) if error.op == StorageOp::Remove)
}

/// A record that was read before it was durable is gone after a power cut, and another has its seq; then the log is sealed
/// before the follower looks again.
#[test]
fn a_follower_notices_that_a_segment_holds_other_records_than_it_read() {
    for limits in [ONE_CHANGE, LIMITS] {
        let mut node = Node::new("");
        let mut recording = record(&node);
        node.write(&mut recording, "durable", Fate::Committed).unwrap();
        let log = node.backup_path().join(&files(node.backup_path(), "log-")[0]);
        let durable = fs::read(&log).unwrap();
        node.write(&mut recording, "not durable", Fate::Lost).unwrap();
        let (followed, mut follower) = node.backup().follow().unwrap();
        follower.poll(&followed).unwrap();
        drop(recording);
        fs::write(&log, durable).unwrap();
        node.write(&mut record(&node), "another", Fate::Committed).unwrap();
        let mut recording = node.record_within(limits);
        while files(node.backup_path(), "log-").len() < 3 {
            node.write(&mut recording, "another", Fate::Committed).unwrap();
        }
        assert!(seal(node.backup(), newest_seq(&recording)).unwrap().logs_sealed > 0);
        assert!(follower.poll(&followed).unwrap_err().is_replaced());
        let (anew, mut follower) = node.backup().follow().unwrap();
        follower.poll(&anew).unwrap();
        assert_eq!(timeline(&anew.read().unwrap()), timeline(&history(&node.backup())));
    }
}

/// Two lines of history with the same schema counter and different schemas: the change that died before its COMMIT made a
/// table, and so did what `lightningd` did instead, unseen.
#[test]
fn a_connection_is_not_used_for_another_line_of_history() {
    let mut node = Node::new("");
    let mut recording = record(&node);
    node.write(&mut recording, "committed", Fate::Committed).unwrap();
    let bump = node.statements("").pop().unwrap();
    let lost: [Cow<'_, str>; 4] = [
        "CREATE TABLE three (a, b)".into(),
        "CREATE TABLE four (a)".into(),
        "INSERT INTO three (a, b) VALUES (1, 2)".into(),
        bump,
    ];
    let lost_version = DataVersion::new(node.version + 1);
    let write = DbWrite { data_version: lost_version, statements: &lost, received_at: Timestamp::now() };
    recording.record(&write).unwrap();
    drop(recording);
    node.connection.execute_batch("CREATE TABLE four (a); CREATE TABLE three (b, a)").unwrap();
    let mut recording = node.record_within(ONE_CHANGE);
    for _ in 0..2 {
        node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    }
    node.write(&mut recording, "seen", Fate::Committed).unwrap();
    for _ in 0..4 {
        node.execute(&mut recording, "INSERT INTO three (a, b) VALUES (1, 2)");
    }
    let held = versions(&node.backup());
    assert!(held.values().last().unwrap().0 == fs::read(node.database()).unwrap());
    seal(node.backup(), newest_seq(&recording)).unwrap();
    assert!(versions(&node.backup()) == held);
    let (backup, lost) = (node.backup(), lost_version.get());
    for version in [lost, node.version - 2, lost, node.version - 1] {
        assert!(bytes_of(&backup, version) == held[&version].0, "version {version}");
    }
}

fn bytes_of(backup: &Arc<Backup>, version: u32) -> Vec<u8> {
    let history = history(backup);
    let plan = history.plan(&history.version(DataVersion::new(version)).unwrap().unwrap()).unwrap();
    let view = View::open(backup, &plan).unwrap();
    let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
    assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

/// The recorder stops when it has begun a log and written nothing to it, and the power cut undoes the COMMIT before: the
/// rewind belongs into the log of its change.
#[test]
fn a_rewind_behind_a_log_that_was_begun_in_vain_goes_to_the_log_of_its_change() {
    let mut begun = 0;
    for nth in 0.. {
        let mut node = Node::new("");
        let faulty = Arc::new(FaultyDirectory::new(node.backup_path()));
        let directory: Arc<dyn Directory> = Arc::clone(&faulty) as _;
        let mut recording = BackupWriter::open_in(directory, &node.backup_lock, node.dir.path(), ONE_CHANGE).unwrap();
        node.write(&mut recording, "committed", Fate::Committed).unwrap();
        node.write(&mut recording, "undone", Fate::Lost).unwrap();
        let logs = files(node.backup_path(), "log-").len();
        node.version += 1;
        let (statements, data_version) = (node.statements("next"), DataVersion::new(node.version + 1));
        node.version -= 1;
        faulty.fail_nth(nth);
        let next = DbWrite { data_version, statements: &statements, received_at: Timestamp::now() };
        if recording.record(&next).is_ok() {
            break;
        }
        // A sync that failed leaves a whole record, which is recorded then.
        let recorded = history(&node.backup()).newest().unwrap().data_version == data_version;
        begun += usize::from(!recorded && files(node.backup_path(), "log-").len() > logs);
        drop(recording);
        if !recorded {
            let rewound = node.write(&mut record(&node), "instead", Fate::Committed).unwrap();
            assert!(matches!(rewound, Some(Recorded::Rewound { .. })), "{rewound:?}");
            node.write(&mut record(&node), "behind", Fate::Committed).unwrap();
        }
    }
    assert!(begun > 0);
}

/// A change that fills a log dies before its COMMIT, and so does the next: the newest segment has no version. The newest version
/// that is sealed is the one before all that.
#[test]
fn a_segment_without_a_version_does_not_hide_the_newest() {
    let mut node = Node::new("");
    let mut recording = node.record_within(ONE_CHANGE);
    for _ in 0..3 {
        node.write(&mut recording, "committed", Fate::Committed).unwrap();
    }
    for _ in 0..2 {
        node.write(&mut recording, "lost", Fate::Lost).unwrap();
        drop(recording);
        recording = node.record_within(ONE_CHANGE);
    }
    // What comes behind it has to settle that it stays so.
    let before = node.version;
    for _ in 0..2 {
        node.write(&mut recording, "committed", Fate::Committed).unwrap();
    }
    seal(node.backup(), newest_seq(&recording)).unwrap();
    let (sealed, _) = node.backup().sealed_history().unwrap();
    let backup = node.backup();
    assert!(backup.segments().timeline(*sealed.sealed().last().unwrap()).unwrap().versions().is_empty());
    let newest = sealed.newest().map(|version| version.data_version.get());
    assert_eq!(newest, Some(before));
    drop(recording);
    let mut recording = node.record_within(ONE_CHANGE);
    node.write(&mut recording, "committed", Fate::Committed).unwrap();
    assert_eq!(history(&node.backup()).newest().unwrap().data_version.get(), node.version);
}

/// A follower has read that the newest change is void, and not yet the snapshot behind that, which takes the place of the version
/// before. By the time it looks again the log of that version is sealed, and gone.
#[test]
fn a_follower_goes_on_behind_a_version_that_was_replaced_when_its_log_was_sealed() {
    let mut node = Node::new("");
    let mut recording = node.record_within(ONE_CHANGE);
    node.write(&mut recording, "committed", Fate::Committed).unwrap();
    node.write(&mut recording, "replaced", Fate::Committed).unwrap();
    node.write(&mut recording, "lost", Fate::Lost).unwrap();
    let void = newest_seq(&recording);
    drop(recording);
    node.connection.execute_batch("DELETE FROM payments").unwrap();
    let mut recording = node.record_within(ONE_CHANGE);
    let recorded = node.write(&mut recording, "behind", Fate::Committed).unwrap();
    assert!(matches!(recorded, Some(Recorded::Replaced { rewound: Some(_), .. })), "{recorded:?}");
    node.write(&mut recording, "settles it", Fate::Committed).unwrap();
    let later: Vec<_> = files(node.backup_path(), "log-")
        .into_iter()
        .filter(|name| format::names::parse_log(name).is_some_and(|first| first > void))
        .map(|name| node.backup_path().join(name))
        .collect();
    let aside = |path: &std::path::Path| path.with_extension("aside");
    later.iter().for_each(|path| fs::rename(path, aside(path)).unwrap());
    let (followed, mut follower) = node.backup().follow().unwrap();
    follower.poll(&followed).unwrap();
    assert_eq!(followed.read().unwrap().newest().unwrap().data_version.get(), node.version - 2);
    later.iter().for_each(|path| fs::rename(aside(path), path).unwrap());
    // The log of the void change is not sealed yet.
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    let mut until_replaced = |progress: Progress| match progress.sealed_through {
        Some(through) if through.seq.next() == void => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    sealer.advance(newest_seq(&recording), &mut until_replaced).unwrap();
    assert_eq!(sealer.progress().sealed_through.unwrap().seq.next(), void);
    follower.poll(&followed).unwrap();
    assert_eq!(timeline(&followed.read().unwrap()), timeline(&history(&node.backup())));
}

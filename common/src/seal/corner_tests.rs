//! Sealing where two rare things meet.

use std::borrow::Cow;
use std::fs;
use std::sync::Arc;

use super::Sealer;
use super::tests::{LIMITS, files, go_on, history, newest_seq, record, seal, timeline, versions};
use crate::storage::faulty::FaultyDirectory;
use crate::testing::{Fate, Node};
use crate::{Backup, DataVersion, DbWrite, LogLimits, Recorded, Recording, Timestamp};

/// Every change begins a log.
const ONE_CHANGE: LogLimits = LogLimits { statements: 3, ..LIMITS };

fn record_rider(node: &Node, recording: &mut Recording, sql: &'static str) -> Recorded {
    let data_version = DataVersion::new(node.version);
    let statements = [Cow::Borrowed(sql)];
    recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() }).unwrap()
}

/// The change that a log begins with dies before its COMMIT, and what the next run begins with is a rider: it acts on a
/// version of a log that is finished.
#[test]
fn a_rider_behind_a_rewound_first_change_is_recorded_and_sealed() {
    let mut node = Node::new("");
    let mut recording = record(&node);
    recording.set_log_limits(ONE_CHANGE);
    for _ in 0..3 {
        node.write(&mut recording, "committed", Fate::Committed).unwrap();
    }
    node.write(&mut recording, "lost", Fate::Lost).unwrap();
    let first_of_log = newest_seq(&recording);
    assert!(node.backup_path().join(crate::format::names::log(first_of_log)).exists());
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
    recording.set_log_limits(ONE_CHANGE);
    for _ in 0..3 {
        node.write(&mut recording, "committed", Fate::Committed).unwrap();
    }
    let (told, held) = (timeline(&history(&node.backup())), versions(&node.backup()));
    assert_eq!(held.values().last().unwrap().0, fs::read(node.database()).unwrap());
    let logs = files(node.backup_path(), "log-").len();
    assert_eq!(seal(node.backup(), newest_seq(&recording)).unwrap().logs_sealed as usize, logs - 1);
    assert_eq!(timeline(&history(&node.backup())), told);
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
            let mut recording = node.record_in(Arc::clone(&faulty) as _);
            recording.set_log_limits(ONE_CHANGE);
            node.write(&mut recording, "first", Fate::Committed).unwrap();
            let (followed, mut follower) = node.backup().follow().unwrap();
            follower.poll(&followed).unwrap();
            faulty.fail_nth(nth);
            let done = node.write(&mut recording, "begins a log", Fate::Committed).is_ok();
            let logs = files(node.backup_path(), "log-").len();
            follower.poll(&followed).unwrap();
            drop(recording);
            let mut recording = node.record();
            left += usize::from(files(node.backup_path(), "log-").len() < logs);
            recording.set_log_limits(limits);
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
    let sealed = |node: &Node, recording: &Recording| seal(node.backup(), newest_seq(recording)).unwrap().logs_sealed;
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

/// The disk is full: what was written of the segment must not take the space that the recorder needs.
#[test]
fn a_sealing_that_fails_leaves_no_temporary_file() {
    let mut node = Node::new("");
    let mut recording = record(&node);
    while files(node.backup_path(), "log-").len() == 1 {
        node.write(&mut recording, "change", Fate::Committed).unwrap();
    }
    let mut failures = 0;
    for nth in 0.. {
        let faulty = Arc::new(FaultyDirectory::new(node.backup_path()));
        let backup = Arc::new(Backup::of(Arc::clone(&faulty) as _, node.backup().manifest().clone()));
        let mut sealer = Sealer::new(backup, LIMITS).unwrap();
        faulty.fail_nth(nth);
        let result = sealer.advance(newest_seq(&recording), &mut go_on);
        assert!(files(node.backup_path(), "segment-").iter().all(|name| !name.ends_with(".tmp")), "call {nth}");
        failures += usize::from(result.is_err());
        // The same sealer goes on.
        sealer.advance(newest_seq(&recording), &mut go_on).unwrap();
        assert_eq!(files(node.backup_path(), "log-").len(), 1);
        if result.is_ok() {
            break;
        }
        while files(node.backup_path(), "log-").len() == 1 {
            node.write(&mut recording, "change", Fate::Committed).unwrap();
        }
    }
    assert!(failures > 3, "{failures}");
}

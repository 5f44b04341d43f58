//! Snapshots that replace a version, wherever that version and the void changes behind it are: in one log or in several, sealed
//! one by one.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::tests::statuses;
use super::*;
use crate::seal::{SealError, Sealer};
use crate::storage::faulty::FaultyDirectory;
use crate::testing::{Fate, Node, contents};
use crate::verify::{Scope, verify};

/// A change begins a log.
const ONE: LogLimits = LogLimits { bytes: 1 << 16, statements: 3 };
/// A log holds some changes.
const SOME: LogLimits = LogLimits { bytes: 1 << 16, statements: 32 };
/// Not even the snapshot of `init` and a change are in one log.
const NONE: LogLimits = LogLimits { bytes: 1 << 16, statements: 2 };

fn go_on(_: crate::seal::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn by_hand(node: &Node) {
    node.connection.execute_batch("INSERT INTO payments (note) VALUES ('by hand')").unwrap();
}

fn rider(node: &Node, recording: &mut BackupWriter) {
    let (statements, data_version) = (["PRAGMA foreign_keys = ON;".into()], DataVersion::new(node.version));
    recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() }).unwrap();
}

/// The same is read of it before and after each log is sealed, by a reader that begins then and by one that has followed from
/// `since` on; it verifies, and recording goes on.
fn expect_sound(node: &mut Node, mut recording: BackupWriter) {
    node.write(&mut recording, "after", Fate::Committed).unwrap();
    let reported = statuses(node);
    let newest = recording.newest().unwrap().seq;
    let (followed, mut follower) = node.backup().follow().unwrap();
    follower.poll(&followed).unwrap();
    let mut sealer = Sealer::new(node.backup(), SOME).unwrap();
    for logs in 1.. {
        let mut until = |progress: crate::seal::Progress| match progress.logs_sealed >= logs {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        sealer.advance(newest, &mut until).unwrap();
        assert_eq!(statuses(node), reported, "{logs} logs sealed");
        follower.poll(&followed).unwrap();
        assert_eq!(followed.read().unwrap().newest().map(|newest| newest.seq), Some(newest));
        if sealer.progress().logs_sealed < logs {
            break;
        }
    }
    assert!(sealer.progress().logs_sealed > 0);
    assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)));
    let report = verify(&node.backup_lock.backend_url, Scope::default(), &|_, _| ()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    drop(recording);
    node.write(&mut node.record_within(SOME), "goes on", Fate::Committed).unwrap();
    assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)));
}

/// A regression: with the rider the log before counted as settled, was sealed, and the snapshot was refused for ever.
#[test]
fn a_rider_behind_a_change_that_was_rewound_settles_nothing() {
    for variant in ["written beside", "changed while stopped", "lost again", "nothing"] {
        let mut node = Node::new("");
        let mut recording = node.record_within(ONE);
        for _ in 0..3 {
            node.write(&mut recording, "committed", Fate::Committed).unwrap();
        }
        node.write(&mut recording, "lost", Fate::Lost).unwrap();
        drop(recording);
        let mut recording = node.record_within(SOME);
        rider(&node, &mut recording);
        match variant {
            "written beside" => {
                by_hand(&node);
                recording.compare_at_once();
            }
            "changed while stopped" => {
                recording.note_commit().unwrap();
                drop(recording);
                by_hand(&node);
                recording = node.record_within(SOME);
            }
            "lost again" => {
                node.write(&mut recording, "lost again", Fate::Lost).unwrap();
                drop(recording);
                let mut sealer = Sealer::new(node.backup(), ONE).unwrap();
                sealer.advance(Seq::new(u64::MAX).unwrap(), &mut go_on).unwrap();
                by_hand(&node);
                recording = node.record_within(SOME);
            }
            _ => {}
        }
        node.write(&mut recording, "next", Fate::Committed).unwrap();
        expect_sound(&mut node, recording);
    }
}

/// The log of the replaced version has no other, and a log without a version is behind it.
#[test]
fn the_only_version_of_a_log_is_replaced_behind_one_that_is_void() {
    for limits in [NONE, ONE] {
        let mut node = Node::new("");
        let mut recording = node.record_within(limits);
        node.write(&mut recording, "lost", Fate::Lost).unwrap();
        drop(recording);
        by_hand(&node);
        let mut recording = node.record_within(SOME);
        node.write(&mut recording, "next", Fate::Committed).unwrap();
        expect_sound(&mut node, recording);
    }
}

#[test]
fn a_change_that_does_not_replay_and_is_rewound_leaves_nothing_unreadable() {
    let mut node = Node::new("");
    let mut recording = node.record_within(NONE);
    let bump = node.statements("").pop().unwrap();
    let statements = ["INSERT INTO no_such VALUES (1)".into(), "INSERT INTO no_such VALUES (2)".into(), bump];
    let data_version = DataVersion::new(node.version + 1);
    recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() }).unwrap();
    drop(recording);
    let mut recording = node.record_within(SOME);
    let mut sealer = Sealer::new(node.backup(), SOME).unwrap();
    let error = sealer.advance(recording.newest().unwrap().seq, &mut go_on).unwrap_err();
    let SealError::Replay { change, .. } = error else { panic!("{error:?}") };
    recording.share_lock().ask_for_snapshot(change);
    node.write(&mut recording, "next", Fate::Committed).unwrap();
    expect_sound(&mut node, recording);
}

/// The sealing thread checks snapshots before it reports, which takes seconds: there may be a snapshot by then.
#[test]
fn a_late_word_of_a_change_that_does_not_replay_changes_nothing() {
    let mut node = Node::new("");
    let mut recording = node.record_within(SOME);
    node.write(&mut recording, "good", Fate::Committed).unwrap();
    node.record_only(&mut recording, "INSERT INTO no_such VALUES (1)");
    let mut sealer = Sealer::new(node.backup(), SOME).unwrap();
    let error = sealer.advance(recording.newest().unwrap().seq, &mut go_on).unwrap_err();
    let SealError::Replay { change, .. } = error else { panic!("{error:?}") };
    for expected in [Recorded::Replaced { data_version: DataVersion::new(12), rewound: None }, Recorded::Appended] {
        recording.share_lock().ask_for_snapshot(change);
        assert_eq!(node.write(&mut recording, "heals", Fate::Committed).unwrap(), Some(expected));
    }
    let expected = [(12, "unreadable"), (12, "unreplayable"), (13, "change"), (14, "change")];
    assert_eq!(statuses(&node)[2..], expected);
    expect_sound(&mut node, recording);
}

/// A run that knows nothing of the first snapshot takes a second one for the same change: what builds on the first stays good.
#[test]
fn a_second_snapshot_for_the_same_change_leaves_what_builds_on_the_first() {
    let mut node = Node::new("");
    let mut recording = node.record_within(SOME);
    node.write(&mut recording, "good", Fate::Committed).unwrap();
    node.record_only(&mut recording, "INSERT INTO no_such VALUES (1)");
    let change = recording.newest().unwrap().seq;
    for _ in 0..2 {
        recording.share_lock().ask_for_snapshot(change);
        node.write(&mut recording, "heals", Fate::Committed).unwrap();
        node.write(&mut recording, "good", Fate::Committed).unwrap();
        recording.note_commit().unwrap();
        drop(recording);
        recording = node.record_within(SOME);
    }
    let first = [(12, "unreadable"), (12, "unreplayable"), (13, "change")];
    let second = [(14, "replaced"), (14, "unreplayable"), (15, "change"), (16, "change")];
    assert_eq!(statuses(&node)[2..], [&first[..], &second].concat());
}

/// A regression: the change behind the gap began a log of its own and was never committed.
#[test]
fn a_gap_is_closed_although_the_change_behind_it_is_void_and_in_another_log() {
    for unseen in [1, 3] {
        let mut node = Node::new("");
        let mut recording = node.record_within(SOME);
        for _ in 0..3 {
            node.write(&mut recording, "committed", Fate::Committed).unwrap();
        }
        for _ in 0..unseen {
            node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
        }
        // Two hundred statements are more than a log takes.
        super::changed_tests::write_spilling(&mut node, &mut recording, Fate::Lost).unwrap();
        drop(recording);
        let mut recording = node.record_within(SOME);
        node.write(&mut recording, "next", Fate::Committed).unwrap();
        expect_sound(&mut node, recording);
    }
}

/// Whichever call fails for lack of space: a change that does not replay stops nothing, and a database that differs from what was
/// recorded is not built upon.
#[test]
fn no_room_for_a_snapshot_stops_a_write_only_when_the_database_holds_something_else() {
    for differs in [false, true] {
        let mut put_off = 0;
        for call in 0..12 {
            let mut node = Node::new("");
            let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
            directory.fail_with(libc::ENOSPC);
            let mut recording = node.record_in(Arc::clone(&directory) as _);
            node.write(&mut recording, "good", Fate::Committed).unwrap();
            if differs {
                by_hand(&node);
                recording.compare_at_once();
            } else {
                let bad = recording.newest().unwrap().seq;
                recording.share_lock().ask_for_snapshot(bad);
            }
            directory.fail_nth(call);
            match node.write(&mut recording, "no room", Fate::Committed) {
                Ok(Some(Recorded::Replaced { .. })) => {}
                Ok(Some(Recorded::Appended)) if !differs => {
                    put_off += 1;
                    let asked = recording.share_lock().unreplayable();
                    assert!(asked.is_some(), "call {call}: the snapshot is not owed any more");
                    assert_eq!(
                        node.write(&mut recording, "at once", Fate::Committed).unwrap(),
                        Some(Recorded::Appended)
                    );
                    recording.compare_at_once();
                    let replaced = node.write(&mut recording, "room again", Fate::Committed).unwrap();
                    assert!(matches!(replaced, Some(Recorded::Replaced { .. })), "call {call}: {replaced:?}");
                }
                Err(error) => {
                    assert!(error.is_trouble(), "call {call}: {error}");
                    put_off += u32::from(differs && error.is_no_space());
                    continue;
                }
                other => panic!("call {call}: {other:?}"),
            }
            assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)), "call {call}");
        }
        assert!(put_off >= 4, "{put_off} calls of a snapshot failed");
    }
}

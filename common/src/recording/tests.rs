//! Recording on a real directory and a real database.

use std::ops::ControlFlow;

use std::borrow::Cow;

use super::*;
use crate::log::AppendError;
use crate::segment::version::{Origin, TimelineEntry};
use crate::storage::faulty::FaultyDirectory;
use crate::testing::{Fate, Node, contents};
use format::snapshot_ref::SnapshotReason;

pub(super) fn statuses(node: &Node) -> Vec<(u32, &'static str)> {
    let (history, read) = node.backup().read_history();
    read.unwrap();
    let status = |entry| match entry {
        TimelineEntry::Recorded(version) => (
            version.data_version.get(),
            match version.origin {
                Origin::Change => "change",
                Origin::Snapshot(SnapshotReason::Init) => "init",
                Origin::Snapshot(SnapshotReason::Gap) => "gap",
                Origin::Snapshot(SnapshotReason::Changed) => "changed",
                Origin::Snapshot(SnapshotReason::Unreplayable) => "unreplayable",
            },
        ),
        TimelineEntry::Rewound { data_version, .. } => (data_version.get(), "rewound"),
        TimelineEntry::Replaced { data_version, .. } => (data_version.get(), "replaced"),
        TimelineEntry::Unreadable { data_version, .. } => (data_version.get(), "unreadable"),
        TimelineEntry::Missing { first, .. } => (first.get(), "missing"),
        TimelineEntry::Dropped { last, .. } => (last.get(), "dropped"),
    };
    let mut statuses = Vec::new();
    history
        .for_timeline(&mut |entry| {
            statuses.push(status(entry));
            ControlFlow::Continue(())
        })
        .unwrap();
    statuses
}

#[test]
fn every_version_is_what_the_node_had() {
    for pragmas in [
        "",
        "PRAGMA page_size = 512",
        "PRAGMA page_size = 65536",
        "PRAGMA auto_vacuum = FULL",
        "PRAGMA auto_vacuum = INCREMENTAL",
        "PRAGMA journal_mode = WAL",
    ] {
        let mut node = Node::new(pragmas);
        let mut expected = vec![(10, contents(&node.connection))];
        let mut recording = node.record();
        for round in 0..40 {
            node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
            expected.push((node.version, contents(&node.connection)));
        }
        let (history, read) = node.backup().read_history();
        read.unwrap();
        for (version, contents) in expected {
            assert_eq!(node.contents_of(&history, version), contents, "version {version}, {pragmas}");
        }
    }
}

#[test]
fn a_change_that_was_not_committed_is_rewound_and_its_number_used_again() {
    let mut node = Node::new("");
    node.write(&mut node.record(), "one", Fate::Committed).unwrap();
    node.write(&mut node.record(), "never", Fate::Lost).unwrap();
    let recorded = node.write(&mut node.record(), "two", Fate::Committed).unwrap();
    assert_eq!(recorded, Some(Recorded::Rewound { data_version: DataVersion::new(12) }));
    assert_eq!(statuses(&node), [(10, "init"), (11, "change"), (12, "rewound"), (12, "change")]);
    assert_eq!(node.newest_contents(), (12, contents(&node.connection)));
}

#[test]
fn a_gap_is_healed_by_storing_the_pages_that_differ() {
    let mut node = Node::new("PRAGMA page_size = 512");
    let mut recording = node.record();
    for round in 0..200 {
        node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
    }
    drop(recording);
    for _ in 0..10 {
        let mut recording = node.record();
        for _ in 0..3 {
            node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
        }
        let to = DataVersion::new(node.version);
        let recorded = node.write(&mut recording, "seen", Fate::Committed).unwrap();
        assert!(matches!(recorded, Some(Recorded::Healed { to: healed, .. }) if healed == to), "{recorded:?}");
        assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)));
    }
    assert_eq!(&statuses(&node)[200..204], [(210, "change"), (211, "missing"), (213, "gap"), (214, "change")]);
}

#[test]
fn on_gap_stop_refuses_and_records_nothing() {
    let mut node = Node::new("");
    node.backup_lock.on_gap = OnGap::Stop;
    let mut recording = node.record();
    node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    let error = node.write(&mut recording, "refused", Fate::Committed).unwrap_err();
    assert!(matches!(error, RecordError::Gap { .. }), "{error}");
    drop(recording);
    assert_eq!(statuses(&node), [(10, "init")]);
}

#[test]
fn an_old_state_put_back_is_refused() {
    let mut node = Node::new("");
    std::fs::copy(node.database(), node.dir.path().join("old")).unwrap();
    let mut recording = node.record();
    for _ in 0..3 {
        node.write(&mut recording, "lost", Fate::Committed).unwrap();
    }
    drop(recording);
    std::fs::copy(node.dir.path().join("old"), node.database()).unwrap();
    node.connection = rusqlite::Connection::open(node.database()).unwrap();
    node.version = 10;
    let error = node.write(&mut node.record(), "old", Fate::Committed).unwrap_err();
    assert!(error.to_string().contains("backupfs restore"), "{error}");
    assert_eq!(statuses(&node).len(), 4);
}

#[test]
fn the_database_of_another_node_is_refused() {
    let mut node = Node::new("");
    node.connection
        .execute("UPDATE vars SET blobval = x'aa' || substr(zeroblob(33), 2) WHERE name = 'node_id'", [])
        .unwrap();
    node.connection.execute("UPDATE vars SET blobval = CAST(blobval AS BLOB) WHERE name = 'node_id'", []).unwrap();
    let error = node.write(&mut node.record(), "other", Fate::Committed).unwrap_err();
    assert!(matches!(error, RecordError::OtherNode { .. }), "{error}");
    assert_eq!(statuses(&node), [(10, "init")]);
}

#[test]
fn a_second_recorder_is_refused_while_the_first_lives() {
    let node = Node::new("");
    let first = node.record();
    let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(node.backup_path()));
    let second =
        BackupWriter::open_in(Arc::clone(&directory), &node.backup_lock, node.dir.path(), LogLimits::default());
    assert!(matches!(second, Err(OpenRecordingError::Locked { .. })), "{second:?}");
    drop(first);
    BackupWriter::open_in(directory, &node.backup_lock, node.dir.path(), LogLimits::default()).unwrap();
}

/// A supervisor restarts a node that died at once; its recorder may still be waiting for the disk.
#[test]
fn a_recorder_that_is_about_to_end_is_waited_for() {
    let node = Node::new("");
    node.backup_lock.create(node.dir.path()).unwrap();
    let first = node.record();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(10 * LOCK_RETRY_AFTER);
            drop(first);
        });
        BackupWriter::open(node.dir.path(), LogLimits::default()).unwrap();
    });
}

#[test]
fn a_write_that_does_not_fit_is_refused_and_the_next_one_recorded() {
    let mut node = Node::new("");
    let mut recording = node.record();
    let huge = "x".repeat(format::record::PAYLOAD_LEN_MAX);
    let write =
        DbWrite { data_version: DataVersion::new(11), statements: &[(&*huge).into()], received_at: Timestamp::now() };
    // Without a bump it would be a rider on 11, a gap; with one it is too long. Either way it is refused.
    assert!(recording.record(&write).is_err());
    let mut statements = node.statements("x");
    statements.push((&*huge).into());
    let write = DbWrite { statements: &statements, ..write };
    assert!(matches!(recording.record(&write), Err(RecordError::Append(AppendError::TooLong(_)))));
    node.write(&mut recording, "fits", Fate::Committed).unwrap();
    assert_eq!(node.newest_contents(), (11, contents(&node.connection)));
}

/// What was acknowledged is there and nothing else, whichever call fails, and recording goes on after a restart.
#[test]
fn every_failing_call_is_a_refusal_and_loses_nothing() {
    let script = |node: &mut Node, recording: &mut BackupWriter| -> Result<(), RecordError> {
        // Log rolls, a heal and ordinary writes.
        recording.log.set_limits(LogLimits { bytes: 64 << 10, ..LogLimits::default() });
        for round in 0..3 {
            node.write(recording, &"long ".repeat(8_000), Fate::Committed)?;
            node.write(recording, &format!("round {round}"), Fate::Committed)?;
        }
        node.write(recording, "unseen", Fate::Unseen)?;
        node.write(recording, "unseen", Fate::Unseen)?;
        node.write(recording, "seen", Fate::Committed)?;
        Ok(())
    };
    let calls = {
        let mut node = Node::new("");
        let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
        let mut recording = node.record_in(Arc::clone(&directory) as _);
        let before = directory.calls();
        script(&mut node, &mut recording).unwrap();
        directory.calls() - before
    };
    assert!(calls > 35, "{calls} calls: the script no longer rolls the log or heals");
    for nth in 0..calls {
        let mut node = Node::new("");
        let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
        let mut recording = node.record_in(Arc::clone(&directory) as _);
        directory.fail_nth(nth);
        let result = script(&mut node, &mut recording);
        // A snapshot that failed has not touched the log; a write or sync of the log that failed poisons it.
        if matches!(result, Err(RecordError::Append(_))) {
            let again = node.write(&mut recording, "again", Fate::Committed);
            assert!(again.is_err(), "call {nth}: a writer that failed goes on");
        }
        drop(recording);
        node.write(&mut node.record(), "after", Fate::Committed).unwrap();
        assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)), "call {nth}");
    }
}

/// A regression: `lightningd` dies before the COMMIT of version 12, runs without the recorder until another transaction is
/// version 12, and continues with it. The backup reported its own version 12 as good.
#[test]
fn a_version_that_was_committed_with_other_contents_is_replaced() {
    let mut node = Node::new("");
    node.write(&mut node.record(), "one", Fate::Committed).unwrap();
    node.write(&mut node.record(), "never committed", Fate::Lost).unwrap();
    let mut recording = node.record();
    node.write(&mut recording, "another", Fate::Unseen).unwrap();
    let recorded = node.write(&mut recording, "seen", Fate::Committed).unwrap();
    assert_eq!(recorded, Some(Recorded::Replaced { data_version: DataVersion::new(12), rewound: None }));
    assert_eq!(statuses(&node), [(10, "init"), (11, "change"), (12, "replaced"), (12, "changed"), (13, "change")]);
    assert_eq!(node.newest_contents(), (13, contents(&node.connection)));
}

#[test]
fn an_ordinary_restart_takes_no_snapshot_with_or_without_a_note() {
    for pragmas in ["", "PRAGMA page_size = 512", "PRAGMA journal_mode = WAL", "PRAGMA auto_vacuum = FULL"] {
        let mut node = Node::new(pragmas);
        for round in 0..6 {
            let mut recording = node.record();
            for _ in 0..2 {
                let recorded = node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
                assert_eq!(recorded, Some(Recorded::Appended), "{pragmas}");
            }
            if round % 2 == 0 {
                recording.note_commit().unwrap();
                recording.note_commit().unwrap();
            }
            // Another layout of the same contents is the same version, with or without the note.
            if round > 3 {
                node.connection.execute_batch("VACUUM").unwrap();
            }
        }
        assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)));
    }
}

#[test]
fn only_what_this_run_recorded_and_the_database_holds_is_noted() {
    let mut node = Node::new("");
    let seen = |node: &Node| {
        let (history, read) = node.backup().read_history();
        read.unwrap();
        history.newest().unwrap().commit
    };
    let mut recording = node.record();
    recording.note_commit().unwrap();
    assert_eq!(seen(&node), Commit::Certain, "the snapshot of init");
    node.write(&mut recording, "lost", Fate::Lost).unwrap();
    recording.note_commit().unwrap();
    assert_eq!(seen(&node), Commit::Unknown, "it was not committed");
    drop(recording);
    let mut recording = node.record();
    recording.note_commit().unwrap();
    assert_eq!(seen(&node), Commit::Unknown, "it is not of this run");
    node.write(&mut recording, "committed", Fate::Committed).unwrap();
    recording.note_commit().unwrap();
    assert_eq!(seen(&node), Commit::Seen);
    drop(recording);
    // Another machine, or this one started anew: a power cut brings the journal back, and with it the version before.
    node.connection
        .execute_batch(
            "UPDATE vars SET intval = 10 WHERE name = 'data_version';
             DELETE FROM payments WHERE id = (SELECT max(id) FROM payments);",
        )
        .unwrap();
    node.version = 10;
    let refused = node.write(&mut node.record(), "again", Fate::Committed).unwrap_err();
    assert!(matches!(refused, RecordError::OldState { .. }), "in the same boot nothing can undo a commit: {refused}");
    let mut recording = node.record();
    recording.pretend_another_boot();
    let recorded = node.write(&mut recording, "again", Fate::Committed).unwrap();
    assert_eq!(recorded, Some(Recorded::Rewound { data_version: DataVersion::new(11) }));
}

/// A regression: refused twice and then recorded, because the third write was not checked.
#[test]
fn the_database_of_another_node_stays_refused() {
    let mut node = Node::new("");
    node.connection.execute("UPDATE vars SET blobval = ?1 WHERE name = 'node_id'", [[2; 33]]).unwrap();
    let mut recording = node.record();
    for _ in 0..10 {
        let error = node.write(&mut recording, "other", Fate::Committed).unwrap_err();
        assert!(matches!(error, RecordError::OtherNode { .. }), "{error}");
    }
}

/// A regression: it was refused as the database of another node.
#[test]
fn a_bump_in_words_that_are_not_known_is_named_as_what_it_may_be() {
    let mut node = Node::new("");
    let mut recording = node.record();
    node.write(&mut recording, "as ever", Fate::Committed).unwrap();
    let newest = recording.newest().unwrap();
    let record = |recording: &mut BackupWriter, bump: &'static str| {
        let statements = [Cow::Borrowed("DELETE FROM payments"), Cow::Borrowed(bump)];
        let data_version = DataVersion::new(node.version + 1);
        recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() }).unwrap_err()
    };
    let known = record(&mut recording, "UPDATE vars SET intval=intval+1 WHERE name='data_version'");
    assert!(matches!(known, RecordError::UnknownBump { .. }), "{known}");
    let said = known.to_string();
    assert!(said.contains("newer backup-recorder") && said.contains("nothing is lost"), "{said}");
    let unknown = record(&mut recording, "INSERT INTO counted VALUES (12)");
    assert!(matches!(unknown, RecordError::WrongDatabase { .. }), "{unknown}");
    assert!(unknown.to_string().contains("newer backup-recorder"), "{unknown}");
    assert_eq!(recording.newest(), Some(newest), "nothing is recorded");
    node.write(&mut recording, "as ever", Fate::Committed).unwrap();
}

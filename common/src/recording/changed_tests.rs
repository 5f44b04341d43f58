//! A database that differs from what was recorded: changed by others, locked, or not replayable.

use std::borrow::Cow;

use super::tests::statuses;
use super::*;
use crate::seal::{SealError, Sealer};
use crate::testing::{Fate, Node, contents};
use format::change_flags::RunStart;

/// A node whose last run ended cleanly at version 12.
fn stopped(pragmas: &str) -> Node {
    let mut node = Node::new(pragmas);
    let mut recording = node.record();
    for note in ["one", "two"] {
        node.write(&mut recording, note, Fate::Committed).unwrap();
    }
    recording.note_commit().unwrap();
    node
}

fn replaced(data_version: u32) -> Option<Recorded> {
    Some(Recorded::Replaced { data_version: DataVersion::new(data_version), rewound: None })
}

fn expect_newest(node: &Node) {
    assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)));
}

const CHANGES: [&str; 5] = [
    "DELETE FROM payments WHERE id = 1",
    "INSERT INTO payments (note) VALUES ('by hand')",
    "UPDATE payments SET amount = amount + 1",
    "CREATE INDEX by_amount ON payments (amount)",
    "CREATE TABLE extra (x); INSERT INTO extra VALUES (1)",
];

#[test]
fn a_change_while_lightningd_was_stopped_is_found_at_the_first_write() {
    for pragmas in ["", "PRAGMA journal_mode = WAL", "PRAGMA page_size = 512"] {
        for change in CHANGES {
            let mut node = stopped(pragmas);
            node.connection.execute_batch(change).unwrap();
            let mut recording = node.record();
            assert_eq!(
                node.write(&mut recording, "next", Fate::Committed).unwrap(),
                replaced(12),
                "{change} {pragmas}"
            );
            let expected = [(10, "init"), (11, "change"), (12, "replaced"), (12, "changed"), (13, "change")];
            assert_eq!(statuses(&node), expected);
            expect_newest(&node);
            // Once is enough.
            assert_eq!(node.write(&mut recording, "after", Fate::Committed).unwrap(), Some(Recorded::Appended));
            expect_newest(&node);
        }
    }
}

/// After every possible end of the previous run: a committed change, an uncommitted one, a rider, the snapshot of `init`.
#[test]
fn it_is_found_behind_every_kind_of_newest_record() {
    let lost = DataVersion::new(12);
    for (what, expected) in [
        ("kill", replaced(12)),
        ("lost", Some(Recorded::Replaced { data_version: DataVersion::new(11), rewound: Some(lost) })),
        ("rider", replaced(12)),
        ("init", replaced(10)),
    ] {
        let mut node = Node::new("");
        if what != "init" {
            let mut recording = node.record();
            node.write(&mut recording, "one", Fate::Committed).unwrap();
            let fate = if what == "lost" { Fate::Lost } else { Fate::Committed };
            node.write(&mut recording, "two", fate).unwrap();
            if what == "rider" {
                let statements = ["PRAGMA foreign_keys = ON;".into()];
                let data_version = DataVersion::new(node.version);
                let rider = DbWrite { data_version, statements: &statements, received_at: Timestamp::now() };
                recording.record(&rider).unwrap();
            }
        }
        node.connection.execute_batch(CHANGES[1]).unwrap();
        let recorded = node.write(&mut node.record(), "next", Fate::Committed).unwrap();
        assert_eq!(recorded, expected, "{what}");
        expect_newest(&node);
    }
}

#[test]
fn what_leaves_the_contents_as_they_are_takes_no_snapshot() {
    for harmless in ["SELECT * FROM payments", "PRAGMA integrity_check", "VACUUM", "BEGIN; DELETE FROM vars; ROLLBACK"]
    {
        let mut node = stopped("");
        node.connection.execute_batch(harmless).unwrap();
        let mut recording = node.record();
        assert_eq!(
            node.write(&mut recording, "next", Fate::Committed).unwrap(),
            Some(Recorded::Appended),
            "{harmless}"
        );
        node.connection.execute_batch(harmless).unwrap();
        recording.compare_at_once();
        assert_eq!(
            node.write(&mut recording, "after", Fate::Committed).unwrap(),
            Some(Recorded::Appended),
            "{harmless}"
        );
        expect_newest(&node);
    }
}

#[test]
fn on_gap_stop_refuses_a_changed_database_and_names_its_tables() {
    let mut node = stopped("");
    node.connection.execute_batch(CHANGES[1]).unwrap();
    node.backup_lock.on_gap = OnGap::Stop;
    let error = node.write(&mut node.record(), "refused", Fate::Committed).unwrap_err();
    assert!(matches!(&error, RecordError::Changed { tables, .. } if tables == "payments"), "{error}");
    assert!(!error.to_string().contains("by hand"), "{error}");
    node.backup_lock.on_gap = OnGap::Heal;
    assert_eq!(node.write(&mut node.record(), "goes on", Fate::Committed).unwrap(), replaced(12));
    expect_newest(&node);
}

#[test]
fn a_writer_beside_lightningd_is_found_at_its_next_write() {
    for change in CHANGES {
        let mut node = Node::new("");
        let mut recording = node.record();
        node.write(&mut recording, "one", Fate::Committed).unwrap();
        let other = rusqlite::Connection::open(node.database()).unwrap();
        other.execute_batch(change).unwrap();
        recording.compare_at_once();
        assert_eq!(node.write(&mut recording, "two", Fate::Committed).unwrap(), replaced(11), "{change}");
        expect_newest(&node);
        assert_eq!(node.write(&mut recording, "three", Fate::Committed).unwrap(), Some(Recorded::Appended));
        expect_newest(&node);
    }
}

/// A run that has not compared the database records no commit.
#[test]
fn a_writer_behind_the_last_write_is_found_by_the_next_run() {
    let mut node = Node::new("");
    let mut recording = node.record();
    node.write(&mut recording, "one", Fate::Committed).unwrap();
    node.connection.execute_batch(CHANGES[0]).unwrap();
    recording.note_commit().unwrap();
    drop(recording);
    assert_eq!(node.write(&mut node.record(), "two", Fate::Committed).unwrap(), replaced(11));
    expect_newest(&node);
}

/// A transaction that is larger than SQLite's cache, recorded while the database cannot be read.
pub(super) fn write_spilling(
    node: &mut Node,
    recording: &mut BackupWriter,
    fate: Fate,
) -> Result<Recorded, RecordError> {
    node.connection.execute_batch("PRAGMA cache_size = 10").unwrap();
    let text = "x".repeat(2000);
    let mut statements: Vec<Cow<'_, str>> =
        (0..200).map(|i| format!("INSERT INTO payments (note, amount) VALUES ('{text}', {i})").into()).collect();
    statements.push(node.statements("").pop().unwrap());
    let transaction = node.connection.transaction().unwrap();
    for statement in &statements {
        transaction.execute(statement, []).unwrap();
    }
    let data_version = DataVersion::new(node.version + 1);
    let recorded =
        recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() })?;
    match fate {
        Fate::Lost => transaction.rollback().unwrap(),
        _ => {
            transaction.commit().unwrap();
            node.version += 1;
        }
    }
    node.connection.execute_batch("PRAGMA cache_size = 2000").unwrap();
    Ok(recorded)
}

/// A regression: the first write locked the database, so nothing was compared, and at the end the run noted that all was well.
#[test]
fn a_comparison_that_a_large_transaction_prevents_is_made_at_the_next_write_or_by_the_next_run() {
    for ends_at_once in [false, true] {
        let mut node = stopped("");
        node.connection.execute_batch(CHANGES[0]).unwrap();
        let mut recording = node.record();
        assert_eq!(write_spilling(&mut node, &mut recording, Fate::Committed).unwrap(), Recorded::Appended);
        if ends_at_once {
            recording.note_commit().unwrap();
            drop(recording);
            recording = node.record();
        }
        assert_eq!(node.write(&mut recording, "next", Fate::Committed).unwrap(), replaced(13), "{ends_at_once}");
        expect_newest(&node);
    }
}

/// Changes recorded before the comparison are right if it finds no difference; otherwise they build on another database than the
/// node's. Until then their logs are not sealed, because sealed logs are final.
#[test]
fn what_was_recorded_before_a_late_comparison_is_as_good_as_its_outcome() {
    let late: Vec<_> = (13..=16).collect();
    for (change, newest, reason) in [("", "change", None), (CHANGES[0], "unreadable", Some((16, "changed")))] {
        for runs in [1, 2] {
            let mut node = stopped("");
            // A run that is killed leaves no note.
            node.write(&mut node.record(), "killed", Fate::Lost).unwrap();
            node.connection.execute_batch(change).unwrap();
            let mut recording = node.record();
            let mut sealer = Sealer::new(node.backup(), SHORT).unwrap();
            let mut go_on = |_| std::ops::ControlFlow::Continue(());
            for position in 0..late.len() {
                if runs == 2 && position == 2 {
                    drop(recording);
                    recording = node.record();
                }
                write_spilling(&mut node, &mut recording, Fate::Committed).unwrap();
                sealer.advance(recording.newest().unwrap().seq, &mut go_on).unwrap();
            }
            let sealed = sealer.progress().sealed_through.and_then(|through| through.data_version);
            assert!(sealed.is_none_or(|sealed| sealed.get() <= 12), "{sealed:?}");

            let mut expected = vec![(10, "init"), (11, "change"), (12, "change"), (13, "rewound")];
            expected.extend(late.iter().map(|version| (*version, newest)));
            expected.extend(reason);
            expected.push((17, "change"));
            node.write(&mut recording, "finds it free", Fate::Committed).unwrap();
            assert_eq!(statuses(&node), expected, "{change} {runs}");
            expect_newest(&node);
            // One that has not seen them replay.
            if runs == 2 {
                sealer = Sealer::new(node.backup(), SHORT).unwrap();
            }
            for _ in 0..40 {
                node.write(&mut recording, &"sealed".repeat(500), Fate::Committed).unwrap();
                expected.push((node.version, "change"));
            }
            sealer.advance(recording.newest().unwrap().seq, &mut go_on).unwrap();
            let sealed = sealer.progress().sealed_through.and_then(|through| through.data_version);
            assert!(sealed.is_some_and(|sealed| sealed.get() > 17), "{sealed:?}");
            assert_eq!(statuses(&node), expected, "{change} {runs}, sealed");
            expect_newest(&node);
            let (history, read) = node.backup().read_history();
            read.unwrap();
            node.contents_of(&history, 12);
            let url = &node.backup_lock.backend_url;
            let report = crate::verify::verify(url, crate::verify::Scope::default(), &|_, _| ()).unwrap();
            assert!(report.findings.is_empty(), "{:?}", report.findings);
        }
    }
}

/// A database that can never be read does not prevent sealing for ever.
#[test]
fn a_comparison_that_never_comes_is_not_waited_for_without_end() {
    let mut node = stopped("");
    node.write(&mut node.record(), "killed", Fate::Lost).unwrap();
    let mut recording = node.record();
    let mut sealer = Sealer::new(node.backup(), SHORT).unwrap();
    for _ in 0..20 {
        write_spilling(&mut node, &mut recording, Fate::Committed).unwrap();
        sealer.advance(recording.newest().unwrap().seq, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    }
    let logs_sealed = sealer.progress().logs_sealed;
    assert!((1..6).contains(&logs_sealed), "{logs_sealed}");
    node.write(&mut recording, "finds it free", Fate::Committed).unwrap();
    expect_newest(&node);
}

/// A transaction that spills changes page 1 before its COMMIT: that is no other writer.
#[test]
fn a_large_transaction_in_the_middle_of_a_run_is_no_reason_to_compare() {
    let mut node = Node::new("");
    let mut recording = node.record();
    for round in 0..3 {
        node.write(&mut recording, "small", Fate::Committed).unwrap();
        let expected = recording.known.comparison.expected_counter();
        write_spilling(&mut node, &mut recording, Fate::Committed).unwrap();
        assert!(expected.is_some_and(|counter| counter.is_some()), "{round}");
        recording.compare_at_once();
    }
    node.write(&mut recording, "small", Fate::Committed).unwrap();
    let note = recording.commit_note(DataVersion::new(node.version));
    assert!(note.is_some_and(|note| note.stamp.is_some()), "every transaction was followed: {note:?}");
    expect_newest(&node);
}

#[test]
fn a_gap_before_a_large_transaction_is_closed_by_the_next_write() {
    let mut node = stopped("");
    let mut recording = node.record();
    node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    let recorded = write_spilling(&mut node, &mut recording, Fate::Committed).unwrap();
    let [from, to] = [12, 13].map(DataVersion::new);
    assert_eq!(recorded, Recorded::Gap { from: Some(from), to });
    let (history, read) = node.backup().read_history();
    let claimed = read.unwrap_err();
    assert!(
        matches!(&claimed, crate::storage::read_error::ReadError::NewestUnreadable { version, .. } if version.get() == 14),
        "{claimed}"
    );
    assert_eq!(history.newest().unwrap().data_version, from, "what can be opened");
    assert!(history.version(to).unwrap().is_none() && history.version(to.next()).unwrap().is_none());

    assert_eq!(node.write(&mut recording, "next", Fate::Committed).unwrap(), replaced(14));
    let expected = [(13, "missing"), (14, "unreadable"), (14, "gap"), (15, "change")];
    assert_eq!(statuses(&node)[3..], expected);
    expect_newest(&node);
    seal_all_and_verify(&node, recording, &expected);
}

/// The run ends before the snapshot: by a kill before or behind the COMMIT, or by a clean stop.
#[test]
fn a_gap_that_was_not_closed_is_closed_by_the_next_run() {
    for (what, fate) in [("lost", Fate::Lost), ("killed", Fate::Committed), ("stopped", Fate::Committed)] {
        let mut node = stopped("");
        let mut recording = node.record();
        node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
        write_spilling(&mut node, &mut recording, fate).unwrap();
        if what == "stopped" {
            recording.note_commit().unwrap();
        }
        drop(recording);
        let mut recording = node.record();
        let before = node.version;
        let recorded = node.write(&mut recording, "next", Fate::Committed).unwrap();
        assert!(
            matches!(recorded, Some(Recorded::Replaced { data_version, .. }) if data_version.get() == before),
            "{what}: {recorded:?}"
        );
        expect_newest(&node);
        let expected = statuses(&node);
        seal_all_and_verify(&node, recording, &expected[3..]);
    }
}

/// Seals what can be sealed, twice a reader's way, and has everything verified.
fn seal_all_and_verify(node: &Node, mut recording: BackupWriter, tail: &[(u32, &'static str)]) {
    let mut node = NodeRef(node);
    node.fill_logs(&mut recording);
    let mut sealer = Sealer::new(node.0.backup(), crate::config::log_limits::LogLimits::default()).unwrap();
    let newest = recording.newest().unwrap().seq;
    sealer.advance(newest, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(sealer.progress().logs_sealed >= 2, "{:?}", sealer.progress());
    let statuses = statuses(node.0);
    assert_eq!(&statuses[3..3 + tail.len()], tail, "sealed");
    let report =
        crate::verify::verify(&node.0.backup_lock.backend_url, crate::verify::Scope::default(), &|_, _| ()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// A node that is only recorded on, so that logs end.
struct NodeRef<'a>(&'a Node);

impl NodeRef<'_> {
    /// Records riders of nothing but length: they lead to no other database.
    fn fill_logs(&mut self, recording: &mut BackupWriter) {
        let mut version = self.0.version;
        for _ in 0..4 {
            let old = version;
            version += 1;
            let statements = [
                Cow::Owned(format!("INSERT INTO payments (note) VALUES ('{}')", "y".repeat(40_000))),
                format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {old}").into(),
            ];
            let data_version = DataVersion::new(version);
            recording
                .record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() })
                .unwrap();
        }
    }
}

#[test]
fn behind_a_change_that_does_not_replay_the_next_write_takes_a_snapshot() {
    for good in [1, 40] {
        let mut node = stopped("");
        let mut recording = node.record();
        for _ in 0..good {
            node.write(&mut recording, &"good".repeat(500), Fate::Committed).unwrap();
        }
        let first_bad = node.version + 1;
        node.record_only(&mut recording, "INSERT INTO no_such VALUES (1)");
        for _ in 0..good {
            node.write(&mut recording, &"builds on it".repeat(300), Fate::Committed).unwrap();
        }
        let mut sealer = Sealer::new(node.backup(), SHORT).unwrap();
        let mut go_on = |_| std::ops::ControlFlow::Continue(());
        let error = sealer.advance(recording.newest().unwrap().seq, &mut go_on).unwrap_err();
        let SealError::Replay { change, .. } = error else { panic!("{error:?}") };
        recording.share_lock().ask_for_snapshot(change);
        let before = node.version;
        assert_eq!(node.write(&mut recording, "heals", Fate::Committed).unwrap(), replaced(before));
        expect_newest(&node);
        let reported = statuses(&node);
        let unreadable: Vec<_> =
            reported.iter().filter(|(_, status)| *status == "unreadable").map(|(number, _)| *number).collect();
        assert_eq!(unreadable, (first_bad..=before).collect::<Vec<_>>(), "{reported:?}");
        assert!(reported.contains(&(before, "unreplayable")));
        // It is taken once.
        assert_eq!(node.write(&mut recording, "after", Fate::Committed).unwrap(), Some(Recorded::Appended));
        // And sealing goes on.
        for _ in 0..40 {
            node.write(&mut recording, &"sealed".repeat(500), Fate::Committed).unwrap();
        }
        sealer.advance(recording.newest().unwrap().seq, &mut go_on).unwrap();
        assert!(sealer.progress().logs_sealed >= 2, "{:?}", sealer.progress());
        assert_eq!(statuses(&node)[..reported.len()], reported);
        expect_newest(&node);
        let (history, read) = node.backup().read_history();
        read.unwrap();
        node.contents_of(&history, first_bad - 1);
        let report =
            crate::verify::verify(&node.backup_lock.backend_url, crate::verify::Scope::default(), &|_, _| ()).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert_eq!(recording.known.run_start, RunStart::Later);
    }
}

/// Logs that are soon made, as those of the node.
const SHORT: LogLimits = LogLimits { bytes: 1 << 16, statements: 12_000 };

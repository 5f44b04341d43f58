//! Changes on their way through a spool: none is lost or duplicated, whichever call fails.

mod compared;
mod marker;
mod note;
mod replaced;
mod spooled;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::backup::attach_error::OpenRecordingError;
use crate::config::log_limits::LogLimits;
use crate::config::on_unreachable::OnUnreachable;
use crate::recording::BackupWriter;
use crate::recording::record_error::RecordError;
use crate::segment::version::TimelineEntry;
use crate::storage::faulty::FaultyDirectory;
use crate::storage::{Directory, RealDirectory};
use crate::testing::{Fate, Node, contents};
use format::names;
use format::units::{DataVersion, Timestamp};
use spooled::{SHORT, Spooled, drain, files};

#[test]
fn what_is_spooled_comes_into_the_backup_and_the_spool_is_gone() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 20);
    let (path, spooled) = recording.spooled().unwrap();
    assert_eq!(path, it.spool());
    let versions = (spooled.from_version, spooled.to_version);
    assert_eq!((spooled.changes, versions), (20, (Some(DataVersion::new(12)), Some(DataVersion::new(31)))));
    let SpoolStatus::Behind(behind) = it.node.backup().spool_sight() else { panic!("the backup is behind") };
    assert_eq!((behind.changes, behind.from_version, behind.to_version), (20, versions.0, versions.1));
    assert_eq!(behind.commit, format::version_rules::Commit::Unknown, "nothing follows the last change");
    drain(&mut recording).unwrap();
    assert!(recording.spooled().is_none());
    assert_eq!(files(&it.spool()), [names::LOCK]);
    assert_eq!(it.node.backup().spool_sight(), SpoolStatus::Complete);
    it.expect_all_once("drained");
    it.write(&mut recording, "directly");
    it.expect_all_once("going on");
    drop(recording);
    it.write(&mut it.record(), "after a restart");
    it.expect_all_once("restarted");
}

#[test]
fn a_spool_is_found_again_after_a_restart_and_goes_on_without_the_backup() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 5);
    drop(recording);
    let aside = it.node.dir.path().join("aside");
    fs::rename(it.node.backup_path(), &aside).unwrap();
    let mut recording = it.reopened().unwrap();
    assert_eq!(recording.spooled().unwrap().1.changes, 5);
    it.spool_more(&mut recording, 5);
    let away = drain(&mut recording).unwrap_err();
    assert!(away.is_trouble(), "{away}");
    drop(recording);
    fs::rename(&aside, it.node.backup_path()).unwrap();
    let mut recording = it.reopened().unwrap();
    drain(&mut recording).unwrap();
    it.expect_all_once("drained after two restarts");
    drop(recording);
    assert!(it.reopened().is_none(), "it is empty");
}

#[test]
fn the_version_rules_go_on_where_they_were() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 3);
    assert!(it.node.write(&mut recording, "never committed", Fate::Lost).is_ok());
    drop(recording);
    let mut recording = it.reopened().unwrap();
    let again = it.node.write(&mut recording, "instead", Fate::Committed).unwrap();
    assert_eq!(again, Some(crate::history::Recorded::Rewound { data_version: DataVersion::new(15) }));
    drop(recording);
    let mut recording = it.reopened().unwrap();
    recording.note_commit().unwrap();
    it.write(&mut recording, "next");
    recording.note_commit().unwrap();
    drop(recording);
    let mut recording = it.reopened().unwrap();
    it.node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    it.node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    let gap = it.node.write(&mut recording, "seen", Fate::Committed).unwrap_err();
    assert!(matches!(gap, RecordError::HealWhileAway { .. }) && !gap.is_trouble(), "{gap}");
    drain(&mut recording).unwrap();
    // In the backup a gap is healed.
    it.write(&mut recording, "seen");
    assert_eq!(it.node.newest_contents(), (it.node.version, contents(&it.node.connection)));
}

/// Whichever call of the spool fails, what was acknowledged is in backup and spool together.
#[test]
fn a_call_of_the_spool_that_fails_is_a_refusal_and_loses_nothing() {
    let calls = {
        let mut it = Spooled::new();
        let (mut recording, spool) = it.spooling();
        let before = spool.calls();
        it.spool_more(&mut recording, 12);
        spool.calls() - before
    };
    for nth in 0..calls {
        let mut it = Spooled::new();
        let (mut recording, spool) = it.spooling();
        spool.fail_with(libc::ENOSPC);
        spool.fail_nth(nth);
        let failed = (0..12).find_map(|_| it.node.write(&mut recording, &"x".repeat(3000), Fate::Committed).err());
        if let Some(error) = failed {
            assert!(matches!(error, RecordError::Spool { .. }) && !error.is_trouble(), "call {nth}: {error}");
        }
        drop(recording);
        // The node has stopped; the next run begins with what is in the spool, or with the backup when nothing is.
        let mut recording = it.reopened().unwrap_or_else(|| it.record());
        it.write(&mut recording, "the next run");
        if recording.spooled().is_some() {
            drain(&mut recording).unwrap();
        }
        drop(recording);
        let (history, read) = it.node.backup().read_history();
        read.unwrap();
        assert_eq!(history.newest().unwrap().data_version.get(), it.node.version, "call {nth}");
        assert_eq!(it.node.newest_contents(), (it.node.version, contents(&it.node.connection)), "call {nth}");
    }
}

/// A drain that is interrupted at any call of the backup, and continued.
#[test]
fn a_drain_that_is_interrupted_goes_on_without_a_gap_and_without_a_second_copy() {
    let attempt = |it: &Spooled, recording: &mut BackupWriter, fail: Option<u64>| -> Result<u64, DrainError> {
        let backup = Arc::new(FaultyDirectory::new(it.node.backup_path()));
        if let Some(nth) = fail {
            backup.fail_nth(nth);
        }
        let plan = recording.drain_plan().unwrap();
        let mut drain = plan.attach_in(Arc::clone(&backup) as _, None)?;
        drain.advance(recording.end())?;
        // From here on a thread preallocates logs there.
        let calls = backup.calls();
        backup.fail_nth(u64::MAX / 2);
        recording.return_to_backup(drain).unwrap();
        Ok(calls)
    };
    let calls = {
        let mut it = Spooled::new();
        let (mut recording, _) = it.spooling();
        it.spool_more(&mut recording, 12);
        attempt(&it, &mut recording, None).unwrap()
    };
    assert!((24..300).contains(&calls), "{calls} calls");
    for nth in (0..calls).step_by(2) {
        let mut it = Spooled::new();
        let (mut recording, _) = it.spooling();
        it.spool_more(&mut recording, 12);
        if let Err(error) = attempt(&it, &mut recording, Some(nth)) {
            assert!(error.is_trouble(), "call {nth}: {error}");
            // New changes come behind, before and after a restart.
            it.spool_more(&mut recording, 1);
            drop(recording);
            recording = it.reopened().unwrap();
            it.spool_more(&mut recording, 1);
            attempt(&it, &mut recording, None).unwrap();
        }
        it.write(&mut recording, "directly");
        it.expect_all_once(&format!("call {nth}"));
    }
}

/// The spool is emptied log by log; a crash leaves any of its ends.
#[test]
fn a_crash_while_the_spool_is_emptied_leaves_what_is_drained_once() {
    for nth in 0..16 {
        let mut it = Spooled::new();
        let (mut recording, spool) = it.spooling();
        it.spool_more(&mut recording, 12);
        assert!(files(&it.spool()).len() > 4, "several logs");
        let mut drained = recording.drain_plan().unwrap().attach().unwrap();
        drained.advance(recording.end()).unwrap();
        spool.fail_nth(nth);
        let returned = recording.return_to_backup(drained);
        if returned.is_err() {
            assert!(recording.spooled().is_some(), "it goes on spooling");
        }
        drop(recording);
        let mut recording = it.reopened().unwrap_or_else(|| it.record());
        it.write(&mut recording, "after the crash");
        if recording.spooled().is_some() {
            drain(&mut recording).unwrap();
        }
        it.expect_all_once(&format!("call {nth}"));
    }
}

#[test]
fn a_backup_that_went_another_way_is_refused_and_named() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 3);
    let (version, spool) = (it.node.version, it.spool());
    // Another machine, with a copy of backup.lock and an earlier database.
    it.node.version = 11;
    let mut lock = it.node.backup_lock.clone();
    lock.on_unreachable = OnUnreachable::Stop;
    let forgotten =
        BackupWriter::open_in(Arc::new(RealDirectory::new(it.node.backup_path())), &lock, it.node.dir.path(), SHORT);
    assert!(matches!(&forgotten, Err(OpenRecordingError::ForgottenSpool { changes: 3, .. })), "{forgotten:?}");
    fs::remove_file(it.node.backup_path().join(names::SPOOL_NOTE)).unwrap();
    let mut other =
        BackupWriter::open_in(Arc::new(RealDirectory::new(it.node.backup_path())), &lock, it.node.dir.path(), SHORT)
            .unwrap();
    let statements = it.node.statements("elsewhere");
    let write = crate::log::DbWrite {
        data_version: DataVersion::new(13),
        statements: &statements[..1],
        received_at: Timestamp::now(),
    };
    // Any record.
    let _ = other.record(&write);
    let statements = {
        it.node.version = 12;
        it.node.statements("elsewhere")
    };
    other
        .record(&crate::log::DbWrite {
            data_version: DataVersion::new(13),
            statements: &statements,
            received_at: Timestamp::now(),
        })
        .unwrap();
    drop(other);
    it.node.version = version;
    let before = (files(it.node.backup_path()), files(&spool));
    let forked = drain(&mut recording).unwrap_err();
    assert!(matches!(forked, DrainError::Forked { .. }) && !forked.is_trouble(), "{forked}");
    let text = forked.to_string();
    assert!(text.contains("node.bkp") && text.contains(&spool.display().to_string()), "{text}");
    assert_eq!((files(it.node.backup_path()), files(&spool)), before);
}

#[test]
fn the_spool_is_locked_and_private_and_never_begun_over_changes() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 1);
    let lock = it.node.backup_lock.clone();
    let second = BackupWriter::open_spool(&lock, it.node.dir.path(), SHORT, &Arc::default());
    assert!(matches!(second, Err(SpoolError::Locked { .. })), "{second:?}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&it.spool()), 0o700);
    for file in files(&it.spool()) {
        assert_eq!(mode(&it.spool().join(&file)), 0o600, "{file}");
    }
    drop(recording);
    let recording = it.record();
    let again = recording.interrupt().spool(&Arc::default());
    assert!(matches!(again, Err(SpoolError::NotEmpty { .. })), "{again:?}");
}

/// A regression: the spool was one log, whose record had also been written to the backup in a failed write. It was drained and
/// removed, but not durably; the next attempt took the record in the backup for the failed one.
#[test]
fn a_drained_record_stays_when_the_spool_cannot_be_emptied() {
    for nth in 0..4 {
        let mut it = Spooled::new();
        let backup = Arc::new(FaultyDirectory::new(it.node.backup_path()));
        let lock = &it.node.backup_lock;
        let mut recording = BackupWriter::open_in(Arc::clone(&backup) as _, lock, it.node.dir.path(), SHORT).unwrap();
        it.write(&mut recording, "before");
        let statements = it.node.statements("tried twice");
        let data_version = DataVersion::new(it.node.version + 1);
        let write = crate::log::DbWrite { data_version, statements: &statements, received_at: Timestamp::now() };
        backup.fail_nth(1);
        assert!(recording.record(&write).unwrap_err().is_trouble());
        let interrupted = recording.interrupt();
        let spool = spool_directory(&it.root, it.uuid()).unwrap();
        let spool = Arc::new(FaultyDirectory::new(spool.path()));
        let mut recording = interrupted.spool_in(Arc::clone(&spool) as _).unwrap();
        recording.record(&write).unwrap();
        let mut drained = recording.drain_plan().unwrap().attach().unwrap();
        drained.advance(recording.end()).unwrap();
        spool.fail_nth(nth);
        if recording.return_to_backup(drained).is_err() {
            // The draining thread retries. What it cuts off in the backup it appends again.
            if let Ok(mut again) = recording.drain_plan().unwrap().attach() {
                again.advance(recording.end()).unwrap();
            }
        }
        let (history, read) = it.node.backup().read_history();
        read.unwrap();
        assert_eq!(history.newest().unwrap().data_version, data_version, "call {nth}");
    }
}

/// The run begins in the spool, where nothing can be compared: the first write behind the drain, or else the next run, makes the
/// comparison. A clean stop must not hide that.
#[test]
fn what_could_not_be_compared_is_compared_behind_the_drain_or_at_the_next_start() {
    for payer in ["behind the drain", "at the next start"] {
        compared(payer);
    }
}

fn compared(payer: &str) {
    for fate in [Fate::Lost, Fate::Committed] {
        let mut it = Spooled::new();
        let (mut recording, _) = it.spooling();
        it.node.write(&mut recording, "recorded", fate).unwrap();
        drop(recording);
        if fate == Fate::Lost {
            // Without the recorder another transaction takes its number.
            let mut unused = it.reopened().unwrap();
            it.node.write(&mut unused, "another", Fate::Unseen).unwrap();
        }
        let mut recording = it.reopened().unwrap();
        it.write(&mut recording, "next");
        drain(&mut recording).unwrap();
        if payer == "at the next start" {
            // The comparison is pending, so no commit is recorded.
            recording.note_commit().unwrap();
            drop(recording);
            recording = it.record();
        }
        let expected = match fate {
            Fate::Lost => crate::history::Recorded::Replaced { data_version: DataVersion::new(13), rewound: None },
            Fate::Committed | Fate::Unseen => crate::history::Recorded::Appended,
        };
        let recorded = it.node.write(&mut recording, payer, Fate::Committed).unwrap();
        assert_eq!(recorded, Some(expected), "{payer}");
        assert_eq!(it.node.newest_contents(), (it.node.version, contents(&it.node.connection)));
        // Now it is known.
        recording.note_commit().unwrap();
        let (history, _) = it.node.backup().read_history();
        assert_eq!(history.newest_recorded().unwrap().commit, format::version_rules::Commit::Seen);
    }
}

#[test]
fn a_spool_that_cannot_be_looked_at_is_not_taken_for_empty() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 1);
    drop(recording);
    fs::rename(&it.root, it.node.dir.path().join("aside")).unwrap();
    fs::write(&it.root, "in its place").unwrap();
    let opened = BackupWriter::open_spool(&it.node.backup_lock, it.node.dir.path(), SHORT, &Arc::default());
    assert!(matches!(opened, Err(SpoolError::Read(_))), "{opened:?}");
}

#[test]
fn a_spool_that_has_failed_refuses_every_later_write() {
    let mut it = Spooled::new();
    let (mut recording, spool) = it.spooling();
    it.spool_more(&mut recording, 1);
    spool.fail_nth(0);
    for _ in 0..3 {
        let error = it.node.write(&mut recording, "fails", Fate::Committed).unwrap_err();
        assert!(matches!(error, RecordError::Spool { .. }) && !error.is_trouble(), "{error}");
    }
}

/// A regression: the spool could not be emptied completely, its log was gone, and every write was refused until a restart.
#[test]
fn a_spool_that_is_emptied_but_for_the_last_step_refuses_nothing() {
    for nth in 0..16 {
        let mut it = Spooled::new();
        let (mut recording, spool) = it.spooling();
        it.spool_more(&mut recording, 12);
        let mut drained = recording.drain_plan().unwrap().attach().unwrap();
        drained.advance(recording.end()).unwrap();
        spool.fail_nth(nth);
        let returned = recording.return_to_backup(drained);
        let written = it.node.write(&mut recording, "at once", Fate::Committed);
        assert!(written.is_ok(), "call {nth}: {written:?} after {returned:?}");
        assert_eq!(recording.spooled().is_some(), returned.is_err(), "call {nth}");
        drop(recording);
        it.reopened().map_or(Ok(()), |mut recording| drain(&mut recording)).unwrap();
        it.expect_all_once(&format!("call {nth}"));
    }
}

#[test]
fn a_drain_goes_on_where_only_the_log_of_the_spool_is_gone() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 2);
    recording.drain_plan().unwrap().attach().unwrap().advance(recording.end()).unwrap();
    for log in contents::logs(&RealDirectory::new(it.spool())).unwrap() {
        fs::remove_file(it.spool().join(names::log(log))).unwrap();
    }
    drain(&mut recording).unwrap();
    it.write(&mut recording, "directly");
    it.expect_all_once("drained");
    // But not where the backup lacks what was recorded.
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 2);
    for log in contents::logs(&RealDirectory::new(it.spool())).unwrap() {
        fs::remove_file(it.spool().join(names::log(log))).unwrap();
    }
    let forked = recording.drain_plan().unwrap().attach().unwrap_err();
    assert!(matches!(forked, DrainError::Forked { .. }), "{forked}");
}

//! Continuing in a preallocated log: what readers see of it, and what is not taken for one. `campaign` covers failing calls and
//! power cuts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::preallocated::Made;
use super::writer::create_first_log_within;
use super::{LogCursor, LogWriter, RecoverError, recover};
use crate::config::log_limits::LogLimits;
use crate::storage::faulty::FaultyDirectory;
use crate::storage::read_error::ReadError;
use crate::storage::{Directory, RealDirectory};
use format::change_flags::{ChangeFlags, RunStart};
use format::names;
use format::record::Body;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::Bump;

const UUID: Uuid = Uuid::from_u128(7);

/// Three or four records of [`text`] in a log.
const LIMITS: LogLimits = LogLimits { bytes: 4096, statements: 12_000 };

fn real(path: &Path) -> Arc<dyn Directory> {
    Arc::new(RealDirectory::new(path))
}

/// A log with a record that is never lost, made before the directory underneath may fail.
fn first_log(path: &Path) {
    let mut writer = create_first_log_within(&real(path), UUID, LIMITS).unwrap();
    push(&mut writer, "0");
    writer.commit().unwrap();
}

fn recover_in(directory: Arc<dyn Directory>) -> Result<LogWriter, RecoverError> {
    let mut writer = recover(LogCursor::new(directory, UUID), &mut |_, _| Ok(()))?;
    writer.set_limits(LIMITS);
    Ok(writer)
}

fn push(writer: &mut LogWriter, number: &str) {
    let now = Timestamp::from_micros(1).unwrap();
    // Text that is different everywhere, so that a half is not taken for a whole.
    let text = format!("{number} ").repeat(1200 / (number.len() + 1));
    writer
        .push_change(DataVersion::new(1), now, ChangeFlags::verified(RunStart::Later), Bump::Present, &[text])
        .unwrap();
}

fn read_with(cursor: &mut LogCursor) -> Result<Vec<String>, ReadError> {
    let mut found = Vec::new();
    cursor.read_new(&mut |record, _| {
        found.push(match &record.body {
            Body::Change { statements, .. } => statements[0].split(' ').next().unwrap().to_owned(),
            _ => "rewind".to_owned(),
        });
        Ok(())
    })?;
    Ok(found)
}

/// The numbers of the records there are.
fn read(path: &Path) -> Result<Vec<String>, ReadError> {
    read_with(&mut LogCursor::new(real(path), UUID))
}

fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// A reader that is there all the time, and one that comes after the name was undone, see every record when it is durable.
#[test]
fn a_reader_follows_from_log_to_log_through_the_preallocated_file() {
    let dir = tempfile::tempdir().unwrap();
    first_log(dir.path());
    let mut follower = LogCursor::new(real(dir.path()), UUID);
    let mut followed = read_with(&mut follower).unwrap();
    let mut writer = recover_in(real(dir.path())).unwrap();
    let (mut newest_before, mut begun) = (names::log(Seq::FIRST), 0);
    for number in 1..20 {
        writer.preallocated().make().unwrap();
        push(&mut writer, &number.to_string());
        writer.commit().unwrap();
        let newest = files(dir.path()).into_keys().rfind(|name| name.starts_with("log-")).unwrap();
        let (named, preallocated) = (dir.path().join(&newest), dir.path().join(names::PREALLOCATED));
        // At a log that was begun just now it looks every other time before that has its name.
        if std::mem::replace(&mut newest_before, newest.clone()) != newest {
            begun += 1;
            if begun % 2 == 0 {
                // What it was made from is gone, and the next one is not there yet.
                fs::rename(&named, &preallocated).unwrap();
                followed.extend(read_with(&mut follower).unwrap());
                assert_eq!(read(dir.path()).unwrap(), followed);
                fs::rename(&preallocated, &named).unwrap();
            }
        }
        followed.extend(read_with(&mut follower).unwrap());
        assert_eq!(followed.len(), number + 1);
        assert_eq!(read(dir.path()).unwrap(), followed);
    }
    assert!(begun > 3);
}

/// The machine of the recorder crashed between a write, which this reader has seen, and its sync.
#[test]
fn a_reader_that_saw_what_was_not_durable_gets_an_error() {
    let dir = tempfile::tempdir().unwrap();
    first_log(dir.path());
    let mut writer = recover_in(real(dir.path())).unwrap();
    while files(dir.path()).len() < 2 {
        push(&mut writer, "1");
        writer.commit().unwrap();
    }
    drop(writer);
    let newest = files(dir.path()).into_keys().next_back().unwrap();
    fs::rename(dir.path().join(&newest), dir.path().join(names::PREALLOCATED)).unwrap();
    let mut follower = LogCursor::new(real(dir.path()), UUID);
    let seen = read_with(&mut follower).unwrap();
    fs::write(dir.path().join(names::PREALLOCATED), vec![0; 4096]).unwrap();
    let mut writer = recover_in(real(dir.path())).unwrap();
    read_with(&mut follower).expect_err("stands in a log that is gone");
    assert_eq!(read(dir.path()).unwrap().len(), seen.len() - 1);
    push(&mut writer, "another");
    writer.commit().unwrap();
    assert_eq!(read(dir.path()).unwrap().last().unwrap(), "another");
}

/// A state that no crash leaves is damage, and is not changed.
#[test]
fn a_preallocated_file_with_records_that_nothing_leads_to_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    first_log(dir.path());
    let mut writer = recover_in(real(dir.path())).unwrap();
    for number in 1..12 {
        push(&mut writer, &number.to_string());
        writer.commit().unwrap();
    }
    drop(writer);
    let all = files(dir.path());
    let logs: Vec<&String> = all.keys().collect();
    let (newest, before) = (logs[logs.len() - 1], logs[logs.len() - 2]);
    fs::rename(dir.path().join(newest), dir.path().join(names::PREALLOCATED)).unwrap();
    let preallocated = &all[newest];
    let mut headless = preallocated.clone();
    headless[..64].fill(0);
    let foreign = {
        let other = tempfile::tempdir().unwrap();
        drop(create_first_log_within(&real(other.path()), Uuid::from_u128(8), LIMITS).unwrap());
        fs::read(other.path().join(names::log(Seq::FIRST))).unwrap()
    };
    let last_record_lost = {
        let mut bytes = all[before].clone();
        let last = bytes.windows(4).rposition(|tag| tag == b"BREC").unwrap();
        bytes[last..].fill(0);
        bytes
    };
    let rows: [(&str, &Vec<u8>, &Vec<u8>); 3] = [
        ("its header is lost, its records are not", &headless, &all[before]),
        ("the record before it is lost", preallocated, &last_record_lost),
        ("it is of another backup", &foreign, &all[before]),
    ];
    for (what, preallocated, before_bytes) in rows {
        fs::write(dir.path().join(names::PREALLOCATED), preallocated).unwrap();
        fs::write(dir.path().join(before), before_bytes).unwrap();
        let untouched = files(dir.path());
        recover_in(real(dir.path())).map(|_| ()).expect_err(what);
        assert!(files(dir.path()) == untouched, "{what}: something was changed");
    }
    // A copy of the newest log, made before that got its name: everything in it is in the log, too.
    fs::write(dir.path().join(before), &all[before]).unwrap();
    fs::write(dir.path().join(newest), &all[newest]).unwrap();
    fs::write(dir.path().join(names::PREALLOCATED), &all[newest][..2048]).unwrap();
    recover_in(real(dir.path())).unwrap();
    assert!(files(dir.path()) == all);
}

/// The preallocated log is used: the record that begins a log is one write, one sync and one rename.
#[test]
fn going_on_in_a_preallocated_file_is_one_write_one_sync_and_a_rename() {
    let dir = tempfile::tempdir().unwrap();
    first_log(dir.path());
    let faulty = Arc::new(FaultyDirectory::new(dir.path()));
    let mut writer = recover_in(Arc::clone(&faulty) as _).unwrap();
    let mut calls = Vec::new();
    for number in 1..9 {
        writer.preallocated().make().unwrap();
        push(&mut writer, &number.to_string());
        let before = faulty.calls();
        writer.commit().unwrap();
        calls.push(faulty.calls() - before);
    }
    assert!(calls.iter().all(|&calls| calls == 2 || calls == 3), "{calls:?}");
    assert!(calls.contains(&3), "{calls:?}: never went on in another log");
}

/// The thread does what the tests above do in its place.
#[test]
fn a_thread_makes_preallocated_files_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    first_log(dir.path());
    let mut writer = recover_in(real(dir.path())).unwrap();
    let held = Arc::new(());
    writer.preallocated().keep_ready(Arc::clone(&held)).unwrap();
    let preallocated = dir.path().join(names::PREALLOCATED);
    let is_there = || fs::metadata(&preallocated).is_ok_and(|metadata| metadata.len() == LIMITS.bytes);
    let wait = || {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !is_there() {
            assert!(std::time::Instant::now() < deadline, "no preallocated file was made");
            std::thread::yield_now();
        }
    };
    for number in 1..9 {
        wait();
        push(&mut writer, &number.to_string());
        writer.commit().unwrap();
    }
    wait();
    assert_eq!(read(dir.path()).unwrap().len(), 9);
    while Arc::strong_count(&held) > 1 {
        writer.preallocated().remove().unwrap();
    }
    assert!(!preallocated.exists(), "it takes room without being used");
}

/// A regression: when the writer could not make the name of the newest log durable, the thread made another file of the name that
/// this log could still have after a power cut.
#[test]
fn nothing_is_preallocated_while_a_log_may_have_its_name() {
    let dir = tempfile::tempdir().unwrap();
    first_log(dir.path());
    let faulty = Arc::new(FaultyDirectory::new(dir.path()));
    let mut writer = recover_in(Arc::clone(&faulty) as _).unwrap();
    writer.preallocated().make().unwrap();
    // A gap begins a log: the first in the preallocated log, the second needs another file.
    let mut begin_log = || {
        writer.push_gap(DataVersion::new(1), Timestamp::from_micros(1).unwrap());
        writer.commit()
    };
    begin_log().unwrap();
    faulty.fail_nth(0);
    begin_log().unwrap_err();
    assert_eq!(writer.preallocated().make().unwrap(), Made::Nothing);
    assert!(!dir.path().join(names::PREALLOCATED).exists());
}

/// A regression: a disk failed for the thread and for the record at the same moment, the thread then slept while it had the lock,
/// and the backup could not be opened again for ten seconds.
#[test]
fn a_thread_that_is_to_stop_does_not_pause() {
    let dir = tempfile::tempdir().unwrap();
    first_log(dir.path());
    let writer = recover_in(real(dir.path())).unwrap();
    writer.preallocated().stop();
    let before = std::time::Instant::now();
    writer.preallocated().pause_after_failure();
    assert!(before.elapsed() < std::time::Duration::from_secs(5));
}

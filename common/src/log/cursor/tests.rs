//! What a cut, a flip or a swap makes of a log.

use std::fs;
use std::path::Path;

use super::*;
use crate::config::log_limits::LogLimits;
use crate::log::{LogWriter, RecoverError, create_first_log, create_first_log_within, recover};
use crate::storage::RealDirectory;
use format::change_flags::{ChangeFlags, RunStart};
use format::record::Body;
use format::units::{DataVersion, Timestamp};
use format::version_rules::Bump;

const UUID: Uuid = Uuid::from_u128(7);

fn directory(path: &Path) -> Arc<dyn Directory> {
    Arc::new(RealDirectory::new(path))
}

fn recover_all(path: &Path) -> Result<LogWriter, RecoverError> {
    recover(LogCursor::new(directory(path), UUID), &mut |_, _| Ok(()))
}

fn append(writer: &mut LogWriter, text: &str) {
    let now = Timestamp::from_micros(1).unwrap();
    writer
        .push_change(DataVersion::new(1), now, ChangeFlags::verified(RunStart::Later), Bump::Present, &[text])
        .unwrap();
    writer.commit().unwrap();
}

/// The first statements of all records, and how reading ended. Without reading again, because no writer runs.
fn read(path: &Path, uuid: Uuid) -> (Vec<String>, Result<(), ReadError>) {
    let mut texts = Vec::new();
    let mut cursor = LogCursor::new(directory(path), uuid);
    let result = cursor.read_once(&mut |record, _| {
        if let Body::Change { statements, .. } = &record.body {
            texts.extend(statements.first().map(ToString::to_string));
        }
        Ok(std::ops::ControlFlow::Continue(()))
    });
    (texts, result)
}

const LIMITS: LogLimits = LogLimits { bytes: 4096, statements: 100 };

/// A log with these records. Returns its bytes and where each record ends.
fn sample(path: &Path) -> (Vec<u8>, Vec<usize>) {
    let mut writer = create_first_log_within(&directory(path), UUID, LIMITS).unwrap();
    let mut ends = Vec::new();
    for text in ["a", "INSERT INTO t VALUES ('BREC')", "", "'\u{1f980}\n'"] {
        append(&mut writer, text);
        let mut cursor = LogCursor::new(directory(path), UUID);
        cursor.read_new(&mut |_, _| Ok(())).unwrap();
        ends.push(usize::try_from(cursor.position().unwrap().1).unwrap());
    }
    (fs::read(path.join(names::log(Seq::FIRST))).unwrap(), ends)
}

#[test]
fn every_torn_write_leaves_a_shorter_history_and_recovers_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = sample(dir.path());
    let (all, result) = read(dir.path(), UUID);
    result.unwrap();
    let file = dir.path().join(names::log(Seq::FIRST));
    for cut in 0..=ends[3] {
        let torn = [&bytes[..cut], &vec![0; bytes.len() - cut]].concat();
        // A record that ends in zeros is whole even when they are cut off and zeros follow.
        let whole = ends.iter().filter(|&&end| torn.get(..end) == bytes.get(..end)).count();
        fs::write(&file, &torn).unwrap();
        let (texts, result) = read(dir.path(), UUID);
        if cut < LOG_HEADER_LEN {
            // A log has its name only once its header is durable, so this is no torn write.
            assert!(result.is_err() && texts.is_empty(), "cut at {cut}");
            continue;
        }
        result.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(texts, all[..whole], "cut at {cut}");
        let mut writer = recover_all(dir.path()).unwrap();
        let once = fs::read(&file).unwrap();
        recover_all(dir.path()).unwrap();
        assert!(once == fs::read(&file).unwrap(), "cut at {cut}: recovering twice differs from once");
        append(&mut writer, "after");
        let (texts, result) = read(dir.path(), UUID);
        result.unwrap();
        assert_eq!(texts, [&all[..whole], &["after".to_owned()]].concat(), "cut at {cut}");
    }
}

/// As a copy that was interrupted leaves it.
#[test]
fn a_log_that_was_cut_off_is_damaged_unless_zeros_follow_its_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = sample(dir.path());
    let (all, _) = read(dir.path(), UUID);
    let file = dir.path().join(names::log(Seq::FIRST));
    for cut in 0..bytes.len() {
        fs::write(&file, &bytes[..cut]).unwrap();
        let (texts, result) = read(dir.path(), UUID);
        if cut > ends[3] {
            result.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            assert_eq!(texts, all, "cut at {cut}");
        } else {
            result.expect_err(&format!("cut at {cut}"));
        }
        if cut % 23 == 0 || (ends[3]..ends[3] + 3).contains(&cut) {
            let recovered = recover_all(dir.path()).map(|mut writer| append(&mut writer, "after"));
            assert_eq!(recovered.is_ok(), cut > ends[3], "cut at {cut}: {recovered:?}");
            let now = fs::read(&file).unwrap();
            assert!(recovered.is_ok() || now == bytes[..cut], "cut at {cut}: a damaged log was changed");
            assert!(recovered.is_err() || now.len() == bytes.len(), "cut at {cut}: its length is not repaired");
        }
    }
}

#[test]
fn every_flipped_bit_is_damage_or_a_shorter_history_and_never_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = sample(dir.path());
    let (all, _) = read(dir.path(), UUID);
    let last_begins = ends[2];
    for bit in 0..ends[3] * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(dir.path().join(names::log(Seq::FIRST)), &flipped).unwrap();
        let (texts, result) = read(dir.path(), UUID);
        let whole = ends.iter().filter(|&&end| end <= bit / 8).count();
        let whole = if bit / 8 < LOG_HEADER_LEN { 0 } else { whole };
        assert_eq!(texts, all[..whole], "bit {bit}");
        // Damage in the last record looks like a torn write, unless it is said to go on behind the end of the file: the next
        // data_version exposes it.
        let is_length = (last_begins + 8..last_begins + 12).contains(&(bit / 8));
        assert!(is_length || result.is_err() == (bit / 8 < last_begins), "bit {bit}: {result:?}");
        // Sampled, for `recover` looks twice at what seems damaged.
        if result.is_err() && bit % 31 == 0 {
            let recovered = recover_all(dir.path());
            assert!(recovered.is_err(), "bit {bit}: appending to a damaged log");
            let now = fs::read(dir.path().join(names::log(Seq::FIRST))).unwrap();
            assert!(now == flipped, "bit {bit}: a damaged log was changed");
        }
    }
}

#[test]
fn a_log_that_is_missing_swapped_or_of_another_backup_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = create_first_log(&directory(dir.path()), UUID).unwrap();
    let long = "x".repeat(1 << 20);
    for _ in 0..20 {
        append(&mut writer, &long);
    }
    drop(writer);
    let (texts, result) = read(dir.path(), UUID);
    result.unwrap();
    assert_eq!(texts.len(), 20);
    let mut logs: Vec<_> = directory(dir.path()).list().unwrap();
    logs.sort();
    assert!(logs.len() >= 5, "{logs:?}");
    for (position, log) in logs.iter().enumerate() {
        let (path, aside) = (dir.path().join(log), dir.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        let (before, result) = read(dir.path(), UUID);
        let last = position + 1 == logs.len();
        // Without its last log a backup is a shorter one; the next data_version exposes that.
        assert_eq!(result.is_err(), !last, "{log} missing: {result:?}");
        if let Some(next) = logs.get(position + 1) {
            fs::copy(dir.path().join(next), &path).unwrap();
            assert!(read(dir.path(), UUID).1.is_err(), "{log} replaced by {next}");
            fs::remove_file(&path).unwrap();
        }
        fs::rename(&aside, &path).unwrap();
        assert!(before.len() < 20);
    }
    assert!(read(dir.path(), Uuid::from_u128(8)).1.is_err());
    assert!(read(dir.path(), UUID).1.is_ok());
}

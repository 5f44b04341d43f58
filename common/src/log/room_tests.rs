//! The length of a log: it is longer than its records, and made longer before they are written.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::room::check_len;
use super::{LogCursor, LogWriter, create_first_log_within, recover, write_log};
use crate::config::log_limits::LogLimits;
use crate::log::LogEnd;
use crate::storage::faulty::FaultyDirectory;
use crate::storage::read_error::ReadError;
use crate::storage::{Directory, RealDirectory};
use format::change_flags::{ChangeFlags, RunStart};
use format::names;
use format::record::Body;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::Bump;

const UUID: Uuid = Uuid::from_u128(7);
const UNIT: u64 = 4096;
const LIMITS: LogLimits = LogLimits { bytes: UNIT, statements: 12_000 };

/// Bytes of the record of a change with one statement, without that.
const AROUND: usize = 48;

fn real(path: &Path) -> Arc<dyn Directory> {
    Arc::new(RealDirectory::new(path))
}

fn push(writer: &mut LogWriter, bump: Bump, record_len: usize) {
    let (now, text) = (Timestamp::from_micros(1).unwrap(), "x".repeat(record_len - AROUND));
    writer.push_change(DataVersion::new(1), now, ChangeFlags::verified(RunStart::Later), bump, &[text]).unwrap();
}

fn read(path: &Path) -> Result<usize, ReadError> {
    let mut records = 0;
    LogCursor::new(real(path), UUID).read_new(&mut |record, _| {
        records += usize::from(matches!(record.body, Body::Change { .. }));
        Ok(())
    })?;
    Ok(records)
}

fn log(path: &Path) -> std::path::PathBuf {
    path.join(names::log(Seq::FIRST))
}

fn len(path: &Path) -> u64 {
    fs::metadata(log(path)).unwrap().len()
}

/// Riders stay in the log of their change, however long they are.
#[test]
fn a_log_that_grows_keeps_a_byte_free_and_a_whole_number_of_units() {
    for last in [1, 2, 900, 4096, 20_000] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = create_first_log_within(&real(dir.path()), UUID, LIMITS).unwrap();
        push(&mut writer, Bump::Present, 100);
        writer.commit().unwrap();
        // Up to a byte before the end, and then over it.
        let free = usize::try_from(UNIT).unwrap() - 64 - 100;
        push(&mut writer, Bump::Absent, free - AROUND - last.min(900));
        writer.commit().unwrap();
        assert_eq!(len(dir.path()), UNIT);
        push(&mut writer, Bump::Absent, AROUND + last);
        writer.commit().unwrap();
        assert!(len(dir.path()) > UNIT && check_len(len(dir.path()), UNIT).is_ok(), "{last}: {}", len(dir.path()));
        assert_eq!(read(dir.path()).unwrap(), 3);
        drop(writer);
        let mut writer = recover(LogCursor::new(real(dir.path()), UUID), &mut |_, _| Ok(())).unwrap();
        push(&mut writer, Bump::Absent, AROUND + 5);
        writer.commit().unwrap();
        let bytes = fs::read(log(dir.path())).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        // Wherever it is cut, lost records are reported.
        // Damage is read several times, which takes a while.
        let some = (64..bytes.len()).step_by(bytes.len() / 12);
        for cut in some.chain([used - 50, used - 6, used - 1, used, used + 1, 4095, 4096, 4097]) {
            fs::write(log(dir.path()), &bytes[..cut]).unwrap();
            match read(dir.path()) {
                Ok(records) => assert!(cut > used && records == 4, "{last}: cut at {cut}, {records} records"),
                Err(error) => assert!(cut <= used && error.to_string().contains("cut off"), "{last}: {cut}: {error}"),
            }
        }
    }
}

#[test]
fn a_log_of_one_long_record_is_longer_than_that() {
    let unit = usize::try_from(UNIT).unwrap();
    for record_len in [unit - 65, unit - 64, unit, 3 * unit - 64, 3 * unit] {
        // The first of a backup, one that was a preallocated file, one that was none, and one that was imported.
        let dir = tempfile::tempdir().unwrap();
        let mut writer = create_first_log_within(&real(dir.path()), UUID, LIMITS).unwrap();
        for preallocated in [false, true, false] {
            if preallocated {
                writer.preallocated().make().unwrap();
            }
            push(&mut writer, Bump::Present, record_len);
            writer.commit().unwrap();
        }
        let record = fs::read(log(dir.path())).unwrap()[64..64 + record_len].to_vec();
        let imported = tempfile::tempdir().unwrap();
        let from = LogEnd { next_seq: Seq::FIRST, previous_checksum: format::record::first_link(UUID) };
        write_log(&*real(imported.path()), UUID, from, &record, LIMITS).unwrap();
        for (path, records) in [(dir.path(), 3), (imported.path(), 1)] {
            assert_eq!(read(path).unwrap(), records);
            for entry in fs::read_dir(path).unwrap() {
                let len = entry.unwrap().metadata().unwrap().len();
                assert!(len > 64 + record_len as u64 && check_len(len, UNIT).is_ok(), "{record_len}: {len}");
            }
        }
    }
}

/// Otherwise a torn write could not be distinguished from a file that was cut off.
#[test]
fn a_log_is_longer_for_good_before_a_record_is_written_that_does_not_fit() {
    for (nth, changed) in [(0, false), (1, true), (2, true), (3, true), (4, true)] {
        let dir = tempfile::tempdir().unwrap();
        let faulty = Arc::new(FaultyDirectory::new(dir.path()));
        let mut writer = create_first_log_within(&(Arc::clone(&faulty) as Arc<dyn Directory>), UUID, LIMITS).unwrap();
        push(&mut writer, Bump::Present, 100);
        writer.commit().unwrap();
        push(&mut writer, Bump::Absent, 9000);
        faulty.fail_nth(nth);
        // It is made longer, synced, written to, synced.
        assert_eq!(writer.commit().is_ok(), nth == 4, "call {nth}");
        drop(writer);
        assert_eq!(len(dir.path()) > UNIT, changed, "call {nth}");
        let records = read(dir.path()).unwrap();
        assert!(if nth < 2 { records == 1 } else { records <= 2 }, "call {nth}: {records}");
        recover(LogCursor::new(real(dir.path()), UUID), &mut |_, _| Ok(())).unwrap();
    }
}

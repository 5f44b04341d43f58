//! Logs after a crash, hostile logs, and logs changed by an operator.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::{LogCursor, LogWriter, RecoverError, create_first_log, recover};
use crate::storage::faulty::FaultyDirectory;
use crate::storage::read_error::ReadError;
use crate::storage::{Directory, RealDirectory, StorageError, StorageOp};
use format::change_flags::{ChangeFlags, RunStart};
use format::log_header::LOG_HEADER_LEN;
use format::record::{Body, RECORD_HEADER_LEN};
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::Bump;
use format::{checksum, names};

const UUID: Uuid = Uuid::from_u128(7);
/// The unit that a disk writes atomically.
const SECTOR: u64 = 512;

fn directory(path: &Path) -> Arc<dyn Directory> {
    Arc::new(RealDirectory::new(path))
}

fn recover_all(path: &Path) -> Result<LogWriter, RecoverError> {
    recover(LogCursor::new(directory(path), UUID), &mut |_, _| Ok(()))
}

fn now() -> Timestamp {
    Timestamp::from_micros(1).unwrap()
}

fn push(writer: &mut LogWriter, text: &str) {
    writer
        .push_change(DataVersion::new(1), now(), ChangeFlags::verified(RunStart::Later), Bump::Present, &[text])
        .unwrap();
}

/// The records there are, as the first statement of a change, or "rewind".
fn records(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut cursor = LogCursor::new(directory(path), UUID);
    cursor
        .read_new(&mut |record, _| {
            found.push(match &record.body {
                Body::Change { statements, .. } => statements[0].to_string(),
                _ => "rewind".to_owned(),
            });
            Ok(())
        })
        .unwrap();
    found
}

/// Power fails while a rewind and a change are being written; the disk has written the later sectors and not the first.
#[test]
fn a_batch_of_which_only_the_end_reached_the_disk_is_torn_and_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = Arc::new(FaultyDirectory::new(dir.path()));
    let mut writer = create_first_log(&(Arc::clone(&faulty) as Arc<dyn Directory>), UUID).unwrap();
    push(&mut writer, "");
    writer.commit().unwrap();
    // The next record begins 20 bytes before the end of a sector.
    let mut cursor = LogCursor::new(directory(dir.path()), UUID);
    cursor.read_new(&mut |_, _| Ok(())).unwrap();
    let offset = cursor.position().unwrap().1;
    push(&mut writer, &"x".repeat(usize::try_from(2 * SECTOR - 20 - offset - 48).unwrap()));
    writer.commit().unwrap();
    let before = records(dir.path());
    faulty.tear_next_write_to_its_later_sectors();
    writer.push_rewind(DataVersion::new(0), now(), Seq::new(2).unwrap());
    push(&mut writer, "after the rewind");
    writer.commit().unwrap_err();
    drop(writer);
    let mut writer = recover_all(dir.path()).unwrap();
    assert_eq!(records(dir.path()), before);
    push(&mut writer, "goes on");
    writer.commit().unwrap();
    assert_eq!(records(dir.path()).last().unwrap(), "goes on");
}

/// An attacker who can make a node store a text can make it store the tag of a record, many times.
#[test]
fn a_torn_record_that_holds_the_tag_many_times_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = create_first_log(&directory(dir.path()), UUID).unwrap();
    push(&mut writer, "good");
    writer.commit().unwrap();
    push(&mut writer, &format!("INSERT INTO t VALUES ('{}')", "BREC".repeat(2000)));
    writer.commit().unwrap();
    drop(writer);
    let file = dir.path().join(names::log(Seq::FIRST));
    let mut bytes = fs::read(&file).unwrap();
    bytes[4096..8192].fill(0);
    fs::write(&file, bytes).unwrap();
    assert_eq!(records(dir.path()), ["good"]);
    recover_all(dir.path()).unwrap();
}

#[test]
fn a_log_of_a_terabyte_is_an_error_and_not_read_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    create_first_log(&directory(dir.path()), UUID).unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.path().join(names::log(Seq::FIRST))).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut cursor = LogCursor::new(directory(dir.path()), UUID);
    let error = cursor.read_new(&mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains("log length"), "{error}");
}

#[test]
fn a_directory_that_looks_temporary_does_not_stop_the_node() {
    let dir = tempfile::tempdir().unwrap();
    drop(create_first_log(&directory(dir.path()), UUID).unwrap());
    fs::create_dir(dir.path().join("old.tmp")).unwrap();
    recover_all(dir.path()).unwrap();
}

/// `mv` to another disk, `rm -r`, `umount -l`: writes to the open file would be lost.
#[test]
fn a_log_that_was_deleted_or_replaced_takes_no_more_records() {
    for replaced in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("node.bkp");
        fs::create_dir(&backup).unwrap();
        let mut writer = create_first_log(&directory(&backup), UUID).unwrap();
        push(&mut writer, "good");
        writer.commit().unwrap();
        fs::rename(&backup, dir.path().join("moved")).unwrap();
        if replaced {
            fs::create_dir(&backup).unwrap();
            create_first_log(&directory(&backup), Uuid::from_u128(8)).unwrap();
        }
        push(&mut writer, "where to?");
        let error = writer.commit().expect_err("recorded in a file without a name");
        let error = format!("{error} {error:?}");
        assert!(error.contains("moved or deleted") && !error.contains("0.tmp") && !error.contains("1.tmp"), "{error}");
    }
}

/// A newer program may have recorded it, and acknowledged it.
#[test]
fn a_whole_record_of_an_unknown_kind_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = create_first_log(&directory(dir.path()), UUID).unwrap();
    push(&mut writer, "good");
    writer.commit().unwrap();
    let file = dir.path().join(names::log(Seq::FIRST));
    let mut bytes = fs::read(&file).unwrap();
    let start = LOG_HEADER_LEN;
    let end = start + RECORD_HEADER_LEN + 4 + 4 + "good".len();
    for (at, value) in [(28, 9), (29, 128)] {
        let mut bytes = bytes.clone();
        bytes[start + at] = value;
        let sum = checksum(&[UUID.as_bytes(), &bytes[start + 8..end]]);
        bytes[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
        fs::write(&file, &bytes).unwrap();
        recover_all(dir.path()).expect_err("a record was taken for a torn write");
        assert!(fs::read(&file).unwrap() == bytes, "a record that was not understood is gone");
    }
    // The same, but not whole, is a torn write.
    bytes[start + 28] = 9;
    fs::write(&file, &bytes).unwrap();
    recover_all(dir.path()).unwrap();
}

/// The operation that fails when the n-th changing call does; `None` when there are fewer calls.
fn failing(result: Result<(), impl std::error::Error + 'static>) -> Option<StorageOp> {
    let error = result.err()?;
    std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .find_map(|error| error.downcast_ref::<StorageError>())
        .map(|error| error.op)
}

#[test]
fn a_record_is_one_write_and_then_one_sync() {
    for (nth, expected) in [(0, Some(StorageOp::Write)), (1, Some(StorageOp::Sync)), (2, None)] {
        let dir = tempfile::tempdir().unwrap();
        let faulty = Arc::new(FaultyDirectory::new(dir.path()));
        let mut writer = create_first_log(&(Arc::clone(&faulty) as Arc<dyn Directory>), UUID).unwrap();
        push(&mut writer, "acknowledged");
        faulty.fail_nth(nth);
        assert_eq!(failing(writer.commit()), expected, "call {nth}");
    }
}

/// After a failed sync the last record may be only in the page cache, and clean: it must be written and synced again before
/// anything follows it.
#[test]
fn recovery_writes_the_last_records_again() {
    for (nth, expected) in
        [(0, Some(StorageOp::Write)), (1, Some(StorageOp::Sync)), (2, Some(StorageOp::Sync)), (3, None)]
    {
        let dir = tempfile::tempdir().unwrap();
        let faulty = Arc::new(FaultyDirectory::new(dir.path()));
        let any: Arc<dyn Directory> = Arc::clone(&faulty) as _;
        let mut writer = create_first_log(&any, UUID).unwrap();
        push(&mut writer, "good");
        writer.commit().unwrap();
        drop(writer);
        faulty.fail_nth(nth);
        let recovered =
            recover(LogCursor::new(any, UUID), &mut |_, _| Ok(())).map(|_| ()).map_err(|error| match error {
                RecoverError::Storage(error) => error,
                RecoverError::Read(error) => panic!("{error}"),
            });
        assert_eq!(failing(recovered), expected, "call {nth}");
        // Half of the same bytes are the same bytes.
        assert_eq!(records(dir.path()), ["good"]);
    }
}

#[test]
fn a_log_is_durable_before_it_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = Arc::new(FaultyDirectory::new(dir.path()));
    create_first_log(&(Arc::clone(&faulty) as Arc<dyn Directory>), UUID).unwrap();
    assert!(faulty.named_what_is_durable());
}

/// The first record of a log was read, its sync failed, and the recorder that began anew has cut it off.
#[test]
fn a_log_that_was_made_anew_is_not_waited_for_in_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = create_first_log(&directory(dir.path()), UUID).unwrap();
    push(&mut writer, "one");
    writer.commit().unwrap();
    let mut cursor = LogCursor::new(directory(dir.path()), UUID);
    cursor.read_new(&mut |_, _| Ok(())).unwrap();
    let log = dir.path().join(names::log(Seq::FIRST));
    let copy = dir.path().join("copy");
    fs::copy(&log, &copy).unwrap();
    cursor.read_new(&mut |_, _| Ok(())).unwrap();
    fs::remove_file(&log).unwrap();
    assert!(matches!(cursor.read_new(&mut |_, _| Ok(())), Err(ReadError::Damaged { .. })), "it is not there any more");
    fs::rename(&copy, &log).unwrap();
    assert!(matches!(cursor.read_new(&mut |_, _| Ok(())), Err(ReadError::Damaged { .. })), "it is another one");
}

//! The file of the Python plugin `backup`.

use std::fs;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use common::python_plugin::bytes::{Kind, RecordHeader, join_statements};
use common::python_plugin::{Next, NextRecord, OnDamage, Payload, PythonFile, TornBy, export_backup, import_backup};
use common::{Backup, BackupUrl, Views};
use mountfs::demo::trace::TraceWrite;
use tempfile::TempDir;

use crate::python_file;

/// Where inputs are put; the last one stays until the next.
static SCRATCH: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

fn scratch() -> std::path::PathBuf {
    let path = SCRATCH.path().join(format!("{:?}", std::thread::current().id()));
    fs::create_dir_all(&path).expect("a directory");
    path
}

fn open(input: &[u8], directory: &Path) -> Option<PythonFile> {
    let path = directory.join("file.bkp");
    // A new one: file systems take time to make one durable that is cut off and written again. The first time there is none.
    let _: std::io::Result<()> = fs::remove_file(&path);
    fs::write(&path, input).expect("a file");
    PythonFile::open(&path).ok()
}

/// The whole file, record by record. What is understood is the same when it is written again.
pub(super) fn python_records(input: &[u8]) -> bool {
    let Some(mut file) = open(input, &scratch()) else { return false };
    let mut end = 512;
    loop {
        match file.next_record() {
            Err(_) => return false,
            Ok(Next::End) => {
                assert_eq!(end, input.len());
                return true;
            }
            Ok(Next::Torn { offset, left, by }) => {
                assert_eq!(offset + left, input.len() as u64);
                match by {
                    TornBy::Short { claimed } => assert!(claimed > left),
                    TornBy::Zeros => assert_eq!(input.last(), Some(&0)),
                }
                return true;
            }
            Ok(Next::Record(NextRecord { offset, data_version, payload })) => {
                assert_eq!(offset, end as u64);
                let mut bytes = Vec::new();
                let kind = match payload {
                    Payload::Statements(statements) => {
                        join_statements(&statements, &mut bytes).expect("no zeros");
                        Kind::Change
                    }
                    Payload::Snapshot { bytes: mut snapshot, len } => {
                        snapshot.read_to_end(&mut bytes).expect("a file");
                        assert_eq!(bytes.len(), len as usize);
                        Kind::Snapshot
                    }
                };
                let len = u32::try_from(bytes.len()).expect("small");
                let record = [&RecordHeader { len, data_version, kind }.encode()[..], &bytes].concat();
                assert!(record == input[end..end + record.len()], "the record at byte {end} is another one");
                end += record.len();
            }
        }
    }
}

/// The whole file, imported. What is made of it opens, and is the same when it is exported and imported again.
pub(super) fn python_import(input: &[u8]) -> bool {
    let directory = scratch();
    let Some(file) = open(input, &directory) else { return false };
    let go_on = &mut |_| ControlFlow::Continue(());
    let [first, exported, second] = ["first.bkp", "exported.bkp", "second.bkp"].map(|name| directory.join(name));
    let url = |path: &Path| path.to_str().and_then(|path| path.parse::<BackupUrl>().ok()).expect("a path");
    let until =
        |damage, file| import_backup(None, file, &url(&first), damage, &|_| Ok(()), &mut |_| ControlFlow::Continue(()));
    let (imported, whole) = match until(OnDamage::Refuse, file) {
        Ok(imported) => (imported, true),
        Err(_) => {
            assert!(!first.exists(), "nothing is left of what failed");
            let Ok(rescued) =
                until(OnDamage::StopBefore, PythonFile::open(&directory.join("file.bkp")).expect("a header"))
            else {
                assert!(!first.exists(), "nothing is left of what failed");
                return false;
            };
            assert!(rescued.rescue.is_some() && first.join("RESCUED.txt").exists());
            (rescued, false)
        }
    };
    let backup = Arc::new(Backup::open(&url(&first)).expect("what was imported"));
    let (history, read) = backup.read_history();
    read.expect("what was imported");
    let newest = history.newest().expect("what was imported");
    assert_eq!(newest.data_version, imported.newest);
    let views = Views::new(Arc::clone(&backup), 0);
    views.open(&history.plan(newest).expect("a plan")).expect("a version that was replayed");
    if export_backup(&backup, &history, newest, &exported, go_on).is_ok() {
        let again = PythonFile::open(&exported).expect("its header");
        let again = import_backup(None, again, &url(&second), OnDamage::Refuse, &|_| Ok(()), go_on);
        assert_eq!(again.expect("what was exported").newest, imported.newest);
        fs::remove_dir_all(&second).expect("a directory");
        fs::remove_file(&exported).expect("a file");
    }
    fs::remove_dir_all(&first).expect("a directory");
    whole
}

/// Files with what there can be in them: changes, riders, what was never committed, a snapshot.
pub(super) fn corpus(writes: &[TraceWrite]) -> Vec<Vec<u8>> {
    let mut changes = python_file::PythonFile::default();
    for write in writes.iter().take(6) {
        changes.change(write.data_version.get(), &write.statements);
    }
    let bump = |version: u32| {
        let sql = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = ";
        format!("{sql}{}", version - 1)
    };
    let tables = |version: u32| {
        let vars = format!("INSERT INTO vars VALUES ('data_version', {version})");
        ["CREATE TABLE vars (name TEXT, intval INTEGER)".to_owned(), "CREATE TABLE t (x)".to_owned(), vars]
    };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("db");
    let database = rusqlite::Connection::open(&path).expect("a database");
    database.execute_batch(&format!("PRAGMA page_size = 512; {}", tables(7).join(";"))).expect("tables");
    drop(database);
    let mut small = python_file::PythonFile::default();
    small.snapshot(7, &fs::read(&path).expect("a database"));
    small.change(8, &["INSERT INTO t VALUES (1)".to_owned(), bump(8)]);
    small.rewind();
    small.change(8, &["UPDATE t SET x=7WHERE x=2".to_owned(), bump(8)]);
    small.change(8, &["PRAGMA foreign_keys = OFF;"]);
    small.change(9, &["DELETE FROM t".to_owned(), bump(9)]);
    let mut new = python_file::PythonFile::default();
    new.change(1, &[&tables(0)[..], &[bump(1)]].concat());
    new.change(2, &["INSERT INTO t VALUES ('☃')".to_owned(), bump(2)]);
    let torn = small.bytes();
    [changes.bytes(), small.bytes(), new.bytes(), torn[..torn.len() - 3].to_vec()].to_vec()
}

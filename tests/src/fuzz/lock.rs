//! `backup.lock`, which people write by hand, and the other files that are JSON.

use std::path::Path;

use common::BackupLock;
use common::spool::{SpoolMarker, SpoolNote};

/// The bytes of the file. What is understood is the same when it is written and read again.
pub(super) fn backup_lock(input: &[u8]) -> bool {
    let path = Path::new("/l/backup.lock");
    match BackupLock::parse(path, input) {
        Ok(lock) => {
            let bytes = lock.encode().expect("JSON");
            assert_eq!(BackupLock::parse(path, &bytes).expect("what was written"), lock);
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("backup.lock"), "{error}");
            false
        }
    }
}

/// `spool-note` and `backup.spool`, which say where a spool is.
pub(super) fn spool_place(input: &[u8]) -> bool {
    let note = SpoolNote::decode(input);
    if let Ok(note) = &note {
        assert_eq!(&SpoolNote::decode(&note.encode()).expect("what was written"), note);
    }
    let marker = SpoolMarker::decode(input);
    match &marker {
        Ok(marker) => {
            let bytes = marker.encode().expect("JSON");
            assert_eq!(SpoolMarker::decode(&bytes).as_ref(), Ok(marker));
        }
        Err(reason) => assert!(!reason.is_empty(), "an error that says nothing"),
    }
    note.is_ok() || marker.is_ok()
}

pub(super) fn spool_places() -> Vec<Vec<u8>> {
    let uuid = r#""backup_uuid":"00112233-4455-6677-8899-aabbccddeeff""#;
    [
        r#"{"host":"node","path":"/var/spool/00112233-4455-6677-8899-aabbccddeeff"}"#.to_owned(),
        r#"{"host":"","path":"\u0000/\u00e4 b"}"#.to_owned(),
        format!(r#"{{{uuid},"path":"/var/spool","begun_us":1795356307123456}}"#),
        format!(r#"{{{uuid},"path":"","begun_us":-1}}"#),
        format!(r#"{{"host":{}1{}}}"#, "[".repeat(200), "]".repeat(200)),
    ]
    .map(String::into_bytes)
    .to_vec()
}

pub(super) fn corpus() -> Vec<Vec<u8>> {
    let uuid = r#""backup_uuid": "00112233-4455-6677-8899-aabbccddeeff""#;
    [
        r#"{"backend_url": "file:///mnt/node.bkp"}"#.to_owned(),
        format!(r#"{{"backend_url": "/mnt/node.bkp", {uuid}, "on_gap": "stop", "database": "/d/lightningd.sqlite3"}}"#),
        format!(r#"{{"backend_url": "file:///a%20b", {uuid}, "on_unreachable": {{"spool": "/s", "wait_s": 7}}}}"#),
        r#"{"backend_url": "file:///ä", "on_unreachable": "stop", "on_gap": "heal"}"#.to_owned(),
        r#"{"backend_url": "/"}"#.to_owned(),
        r#"{"backend_url": "file:///x", "on_unreachable": {"wait_s": 86400}}"#.to_owned(),
        format!(r#"{{"backend_url": {}1{}}}"#, "[".repeat(200), "]".repeat(200)),
    ]
    .map(String::into_bytes)
    .to_vec()
}

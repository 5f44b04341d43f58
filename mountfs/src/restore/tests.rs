use std::fs;

use super::*;

/// Checks a database file as a restore does.
fn check(database: &Path, version: DataVersion) -> Result<Vec<String>, RestoreError> {
    findings(&Connection::open(database).unwrap(), version)
}

#[test]
fn a_copy_must_hold_the_version_it_is_said_to_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE vars (name TEXT, val TEXT)").unwrap();
    assert!(check(&path, DataVersion::new(0)).is_ok());
    connection.execute_batch("ALTER TABLE vars ADD COLUMN intval INTEGER").unwrap();
    assert!(check(&path, DataVersion::new(0)).is_ok());
    connection.execute_batch("INSERT INTO vars (name, intval) VALUES ('data_version', 7)").unwrap();
    assert!(check(&path, DataVersion::new(7)).is_ok());
    assert!(matches!(check(&path, DataVersion::new(8)), Err(RestoreError::OtherVersion { .. })));
}

#[test]
fn a_damaged_copy_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE vars (name TEXT, intval INTEGER)").unwrap();
    drop(connection);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let found = check(&path, DataVersion::new(0)).unwrap();
    assert!(!found.is_empty());
}

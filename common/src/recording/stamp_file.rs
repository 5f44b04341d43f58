//! [`StampFile`]: the first bytes of the node's database, read with one call per write.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use format::commit_note::{DatabaseStamp, STAMPED_HEADER_LEN};

/// The database file, open during the whole recording.
///
/// It is never closed in between: closing any descriptor of a file releases all POSIX locks of this process on it, including
/// those of SQLite (fcntl(2), "Advisory record locking").
#[derive(Debug, Clone)]
pub(super) struct StampFile {
    path: PathBuf,
    file: Option<Arc<File>>,
}

impl StampFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// The current stamp of the file; `None` when it cannot be read or has none.
    pub(super) fn read(&mut self) -> Option<DatabaseStamp> {
        if self.file.is_none() {
            // Opening a FIFO does not block.
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path);
            self.file = opened.ok().map(Arc::new);
        }
        let mut header = [0; STAMPED_HEADER_LEN];
        let len = self.file.as_ref()?.read_at(&mut header, 0).ok()?;
        DatabaseStamp::of_first_page(&header[..len])
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use format::commit_note::DatabaseStamp;

    fn stamp(path: &std::path::Path) -> Option<DatabaseStamp> {
        DatabaseStamp::of_first_page(&std::fs::read(path).unwrap())
    }

    /// The recorder relies on this behaviour of the bundled SQLite.
    #[test]
    fn every_transaction_adds_one_and_nothing_else_changes_a_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)").unwrap();
        let before = stamp(&path).unwrap();
        for sql in ["SELECT * FROM t", "PRAGMA integrity_check", "BEGIN; DELETE FROM t; ROLLBACK", "BEGIN; COMMIT"] {
            connection.execute_batch(sql).unwrap();
            assert_eq!(stamp(&path), Some(before), "{sql}");
        }
        std::fs::copy(&path, dir.path().join("copy")).unwrap();
        assert_eq!(stamp(&dir.path().join("copy")), Some(before));
        let mut expected = before.change_counter;
        for sql in [
            "INSERT INTO t VALUES (3)",
            "UPDATE t SET x = x + 1",
            "BEGIN; DELETE FROM t; INSERT INTO t VALUES (4); COMMIT",
            "CREATE INDEX i ON t (x)",
            "VACUUM",
            "ANALYZE",
        ] {
            connection.execute_batch(sql).unwrap();
            expected += 1;
            assert_eq!(stamp(&path).unwrap().change_counter, expected, "{sql}");
        }
        connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        assert_eq!(stamp(&path), None);
    }
}

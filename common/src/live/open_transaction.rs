//! Whether a database is being written to, determined without interfering.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

/// First bytes of a journal, which are zero when its transaction has ended (`journal_mode=PERSIST`).
const JOURNAL_HEADER_LEN: usize = 28;

/// The byte of the `-shm` file that a writer locks in WAL mode.
const WAL_WRITE_LOCK: u64 = 120;

/// Whether a transaction that changes pages is in progress: from the first changed page to the end of the COMMIT.
///
/// In rollback mode a journal exists for that time. (SQLite removes it as its last step; a kept journal has its header zeroed
/// instead.) In WAL mode the writer holds a lock, which is queried and not taken. A database that cannot be examined counts as
/// not being written to.
///
/// Must not be called while this process has the database open: by the rules of POSIX its locks would be released when the file
/// is closed here.
pub fn is_in_transaction(database: &Path) -> bool {
    // SQLite resolves links to the database before it derives the name of the journal.
    let database = fs::canonicalize(database).unwrap_or_else(|_| database.to_path_buf());
    has_journal(&beside(&database, "-journal")) || is_wal_being_written(&beside(&database, "-shm"))
}

fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn has_journal(path: &Path) -> bool {
    if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    let mut header = [0; JOURNAL_HEADER_LEN];
    let is_over = File::open(path)
        .and_then(|mut journal| journal.read_exact(&mut header))
        .is_ok_and(|()| header == [0; JOURNAL_HEADER_LEN]);
    !is_over
}

fn is_wal_being_written(path: &Path) -> bool {
    if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    let Ok(shared) = File::open(path) else { return false };
    let wanted = Flock {
        start: WAL_WRITE_LOCK,
        length: 1,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    fcntl_getlk(&shared, &wanted).is_ok_and(|held| held.is_some())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use rusqlite::Connection;

    fn journal_in_mode(mode: &str) -> [bool; 3] {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("db"), dir.path().join("link"));
        let connection = Connection::open(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        connection.execute_batch(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (x)")).unwrap();
        let before = is_in_transaction(&path);
        connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
        let (within, through_link) = (is_in_transaction(&path), is_in_transaction(&link));
        assert_eq!(within, through_link);
        connection.execute_batch("COMMIT").unwrap();
        [before, within, is_in_transaction(&path)]
    }

    #[test]
    fn a_transaction_is_seen_by_its_journal_until_it_is_committed() {
        assert_eq!(journal_in_mode("DELETE"), [false, true, false]);
        assert_eq!(journal_in_mode("PERSIST"), [false, true, false]);
        assert!(!is_in_transaction(Path::new("/missing/lightningd.sqlite3")));
    }

    /// The `sqlite3` command line in a transaction: the locks of the own process are not visible.
    fn writer(path: &Path) -> Option<Child> {
        let mut child = Command::new("sqlite3").arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"BEGIN IMMEDIATE; INSERT INTO t VALUES (1);\n").unwrap();
        child.stdin = Some(input);
        Some(child)
    }

    #[test]
    fn in_wal_mode_it_is_seen_by_the_lock_of_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
        drop(connection);
        let Some(mut writer) = writer(&path) else {
            println!("SKIPPED: there is no sqlite3 command line");
            return;
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_in_transaction(&path) {
            assert!(Instant::now() < deadline, "a transaction in WAL mode is not seen");
            thread::sleep(Duration::from_millis(5));
        }
        drop(writer.stdin.take());
        writer.wait().unwrap();
        assert!(!is_in_transaction(&path));
    }
}

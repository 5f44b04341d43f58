//! [`ReadableDatabase`]: a node's database, read without changing it, after a clean stop or a crash.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::preflight::node_state::{NodeState, NodeStateError};
use crate::replay::reason;
use crate::storage::regular_file::open_regular_file;
use format::manifest::NodeId;
use format::units::DataVersion;

/// How long to retry while the database is locked: as long as `verify --against`.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a database is copied that changes meanwhile.
const COPIES_MAX: u32 = 3;

/// The name of the copy.
const COPY: &str = "lightningd.sqlite3";

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnreadableDatabase {
    /// It does not exist.
    #[error("there is no database at {path}; check the path", path = .0.display())]
    Missing(PathBuf),
    /// Another process excludes readers.
    #[error("{path} is locked, by lightningd in the middle of a large transaction or by another program; try again", path = .0.display())]
    Busy(PathBuf),
    /// SQLite cannot read it.
    #[error(transparent)]
    Live(LiveDatabaseError),
    /// The copy, in which a transaction is rolled back, cannot be made.
    #[error("a crash left {path} in the middle of a transaction, and it cannot be copied to roll that back; make room where temporary files go, or set TMPDIR", path = .path.display())]
    Copy {
        /// The database.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// It changes all the time.
    #[error("{path} changes while it is read; stop lightningd, and do it again", path = .0.display())]
    Changes(PathBuf),
    /// SQLite cannot roll back.
    #[error("a crash left {path} in the middle of a transaction, and SQLite cannot roll that back: {reason}", path = .path.display())]
    RollBack {
        /// The database.
        path: PathBuf,
        /// SQLite's message.
        reason: String,
    },
}

/// A database that can be read where it is; or, if a crash left a transaction in it, a copy in which that is rolled back.
#[derive(Debug)]
pub(super) struct ReadableDatabase {
    path: PathBuf,
    copy: Option<TempDir>,
}

/// What was read of a database, in one transaction.
#[derive(Debug)]
pub(super) struct Read {
    /// Its version.
    pub(super) data_version: DataVersion,
    /// The id of the node; `None` in a database that does not have it yet.
    pub(super) node_id: Option<NodeId>,
    /// Its channels, or why nothing is concluded from them.
    pub(super) state: Result<NodeState, NodeStateError>,
}

impl ReadableDatabase {
    /// Opens a database. It waits while another process excludes readers.
    pub(super) fn open(path: &Path) -> Result<Self, UnreadableDatabase> {
        match open_patiently(path) {
            Ok(_) => Ok(Self { path: path.to_owned(), copy: None }),
            Err(UnreadableDatabase::Live(LiveDatabaseError::HotJournal { .. })) => {
                let copy = rolled_back_copy(path)?;
                Ok(Self { path: copy.path().join(COPY), copy: Some(copy) })
            }
            Err(error) => Err(error),
        }
    }

    /// The file that can be read.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a copy, in which a transaction was rolled back.
    pub(super) fn is_rolled_back(&self) -> bool {
        self.copy.is_some()
    }

    /// Reads it, in a transaction that is as short as that takes.
    pub(super) fn read(&self) -> Result<Read, UnreadableDatabase> {
        let live = open_patiently(&self.path)?;
        let fail = UnreadableDatabase::Live;
        Ok(Read {
            data_version: live.data_version().map_err(fail)?,
            node_id: live.node_id().map_err(fail)?,
            state: NodeState::read(live.connection()),
        })
    }
}

fn open_patiently(path: &Path) -> Result<LiveDatabase, UnreadableDatabase> {
    let began = Instant::now();
    loop {
        match LiveDatabase::open(path) {
            Err(LiveDatabaseError::Busy { .. }) if began.elapsed() < TIMEOUT => thread::sleep(PAUSE),
            Err(LiveDatabaseError::Busy { path }) => return Err(UnreadableDatabase::Busy(path)),
            Err(LiveDatabaseError::Missing { path }) => return Err(UnreadableDatabase::Missing(path)),
            opened => return opened.map_err(UnreadableDatabase::Live),
        }
    }
}

/// Copies the database and its journal to a directory of this user, and has SQLite roll back there.
fn rolled_back_copy(path: &Path) -> Result<TempDir, UnreadableDatabase> {
    let copy_error = |source| UnreadableDatabase::Copy { path: path.to_owned(), source };
    // Closed to other users.
    let directory = tempfile::Builder::new().prefix("backupfs-preflight-").tempdir().map_err(copy_error)?;
    let copy = directory.path().join(COPY);
    let journals = [path, &copy].map(journal_of);
    let files = [(path, copy.as_path()), (&journals[0], &journals[1])];
    for attempt in 1.. {
        let before = files.map(|(from, _)| identity(from));
        for (from, to) in files {
            copy_file(from, to).map_err(copy_error)?;
        }
        // A node that started meanwhile has rolled back, and writes.
        if before.iter().all(Option::is_some) && files.map(|(from, _)| identity(from)) == before {
            break;
        }
        if attempt == COPIES_MAX {
            return Err(UnreadableDatabase::Changes(path.to_owned()));
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // The first read rolls back.
    let roll_back = || -> rusqlite::Result<i64> {
        let connection = Connection::open_with_flags(&copy, flags)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
    };
    match roll_back() {
        Ok(_) => Ok(directory),
        Err(error) => Err(UnreadableDatabase::RollBack { path: path.to_owned(), reason: reason(&error) }),
    }
}

fn journal_of(database: &Path) -> PathBuf {
    let mut journal = OsString::from(database);
    journal.push("-journal");
    journal.into()
}

/// Length and time of a file; `None` where there is none.
fn identity(path: &Path) -> Option<(u64, SystemTime)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// Copies the bytes of a file, and not its permissions: the copy is written to.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    io::copy(&mut open_regular_file(from)?, &mut fs::File::create(to)?).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database that a crash left in the middle of a transaction, at version 7, with its journal.
    fn crashed(directory: &Path) -> PathBuf {
        let path = directory.join("running");
        let writer = Connection::open(&path).unwrap();
        writer
            .execute_batch(
                "CREATE TABLE vars (name TEXT, intval INTEGER); INSERT INTO vars VALUES ('data_version', 7);
                 PRAGMA cache_size = 1; CREATE TABLE big (x); BEGIN; UPDATE vars SET intval = 8",
            )
            .unwrap();
        for _ in 0..50 {
            writer.execute("INSERT INTO big VALUES (zeroblob(3000))", []).unwrap();
        }
        let crashed = directory.join("crashed");
        fs::copy(&path, &crashed).unwrap();
        fs::copy(journal_of(&path), journal_of(&crashed)).unwrap();
        crashed
    }

    #[test]
    fn a_transaction_that_a_crash_left_is_rolled_back_in_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = crashed(dir.path());
        let files = [path.clone(), journal_of(&path)];
        let before = files.each_ref().map(|path| (fs::read(path).unwrap(), identity(path)));
        let database = ReadableDatabase::open(&path).unwrap();
        assert!(database.is_rolled_back() && database.path() != path);
        assert_eq!(database.read().unwrap().data_version, DataVersion::new(7));
        let copy = database.path().to_owned();
        drop(database);
        assert!(!copy.exists(), "the copy goes");
        assert_eq!(files.each_ref().map(|path| (fs::read(path).unwrap(), identity(path))), before);
    }

    #[test]
    fn a_database_without_channels_has_a_version_and_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE vars (name TEXT, intval INTEGER, blobval BLOB)").unwrap();
        let read = ReadableDatabase::open(&path).unwrap().read().unwrap();
        assert_eq!((read.data_version, read.node_id), (DataVersion::new(0), None));
        assert!(matches!(read.state, Err(NodeStateError::Missing(_))), "{read:?}");
        assert!(matches!(ReadableDatabase::open(&dir.path().join("none")), Err(UnreadableDatabase::Missing(_))));
    }
}

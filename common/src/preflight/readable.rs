//! [`ReadableDatabase`]: a node's database, read without changing it, after a clean stop or a crash.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::preflight::backup_evidence::LastRun;
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
    #[error("{reason}, and it cannot be copied; make room where temporary files go, or set TMPDIR")]
    Copy {
        /// Why a copy is needed.
        reason: String,
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

/// A database that can be read where it is; or a copy, if a crash left a transaction in it, which is rolled back there, or if it is in
/// WAL mode.
#[derive(Debug)]
pub(super) struct ReadableDatabase {
    path: PathBuf,
    copy: Option<(TempDir, Beside)>,
    last_run: LastRun,
}

/// The file beside a database that is copied with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// The journal of a transaction that a crash left.
    HotJournal,
    /// The log of a database in WAL mode, if it has one. SQLite makes or changes that and a second file even for a reader.
    Wal,
}

impl Beside {
    /// The path of the file.
    fn of(self, database: &Path) -> PathBuf {
        let mut path = OsString::from(database);
        path.push(match self {
            Self::HotJournal => "-journal",
            Self::Wal => "-wal",
        });
        path.into()
    }

    /// Why a database is copied, in words.
    fn reason(self, database: &Path) -> String {
        let path = database.display();
        match self {
            Self::HotJournal => {
                format!("a crash left {path} in the middle of a transaction, which is rolled back in a copy")
            }
            Self::Wal => format!("{path} is in WAL mode, in which SQLite would write files beside it"),
        }
    }
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
        // SQLite looks for the files beside it where a link leads. If there is nothing, that is found out below.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let last_run = last_run(&path);
        let copied = |beside| {
            let copy = copy_of(&path, beside)?;
            Ok(Self { path: copy.path().join(COPY), copy: Some((copy, beside)), last_run })
        };
        if is_in_wal_mode(&path) {
            return copied(Beside::Wal);
        }
        match open_patiently(&path) {
            Ok(_) => Ok(Self { path, copy: None, last_run }),
            Err(UnreadableDatabase::Live(LiveDatabaseError::HotJournal { .. })) => {
                let database = copied(Beside::HotJournal)?;
                roll_back(&path, &database.path)?;
                Ok(database)
            }
            Err(error) => Err(error),
        }
    }

    /// The file that can be read.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `lightningd` ran on this file last.
    pub(super) fn last_run(&self) -> LastRun {
        self.last_run
    }

    /// Whether it is a copy, in which a transaction was rolled back.
    pub(super) fn is_rolled_back(&self) -> bool {
        self.copy.as_ref().is_some_and(|(_, beside)| *beside == Beside::HotJournal)
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

/// Whether `lightningd` died in a transaction on this very file: that leaves its journal. Until SQLite has written to the database, as
/// in the usual crash, the journal begins with zeros, and there is nothing to roll back.
fn last_run(path: &Path) -> LastRun {
    let is_left = fs::metadata(Beside::HotJournal.of(path)).is_ok_and(|journal| journal.len() > 0);
    if is_left { LastRun::On } else { LastRun::Unknown }
}

/// Whether the header of a database says so (SQLite file format §1.3.3). What cannot be read is not: SQLite says why.
fn is_in_wal_mode(path: &Path) -> bool {
    let mut header = [0; 20];
    open_regular_file(path).is_ok_and(|mut file| file.read_exact(&mut header).is_ok())
        && header.starts_with(b"SQLite format 3\0")
        && header[19] == 2
}

/// A copy of a database, with the file beside it.
fn copy_of(path: &Path, beside: Beside) -> Result<TempDir, UnreadableDatabase> {
    let copy_error = |source| UnreadableDatabase::Copy { reason: beside.reason(path), source };
    // Closed to other users.
    let directory = tempfile::Builder::new().prefix("backupfs-preflight-").tempdir().map_err(copy_error)?;
    let copy = directory.path().join(COPY);
    let [from_beside, to_beside] = [path, &copy].map(|database| beside.of(database));
    for _ in 0..COPIES_MAX {
        let before = [path, &from_beside].map(identity);
        copy_file(path, &copy).map_err(copy_error)?;
        match copy_file(&from_beside, &to_beside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _: io::Result<()> = fs::remove_file(&to_beside);
            }
            copied => copied.map_err(copy_error)?,
        }
        // A node that started meanwhile has rolled back, and writes.
        let is_complete = before[0].is_some() && (before[1].is_some() || beside == Beside::Wal);
        if is_complete && [path, &from_beside].map(identity) == before {
            return Ok(directory);
        }
    }
    Err(UnreadableDatabase::Changes(path.to_owned()))
}

/// Rolls the transaction of a crash back in a copy of the database at `path`.
fn roll_back(path: &Path, copy: &Path) -> Result<(), UnreadableDatabase> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // The first read rolls back.
    let read = Connection::open_with_flags(copy, flags).and_then(|connection| {
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
    });
    read.map(drop).map_err(|error| UnreadableDatabase::RollBack { path: path.to_owned(), reason: reason(&error) })
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
        fs::copy(Beside::HotJournal.of(&path), Beside::HotJournal.of(&crashed)).unwrap();
        crashed
    }

    #[test]
    fn a_transaction_that_a_crash_left_is_rolled_back_in_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = crashed(dir.path());
        let files = [path.clone(), Beside::HotJournal.of(&path)];
        let before = files.each_ref().map(|path| (fs::read(path).unwrap(), identity(path)));
        let database = ReadableDatabase::open(&path).unwrap();
        assert!(database.is_rolled_back() && database.path() != path);
        assert_eq!(database.read().unwrap().data_version, DataVersion::new(7));
        assert_eq!(database.last_run(), LastRun::On);
        let copy = database.path().to_owned();
        drop(database);
        assert!(!copy.exists(), "the copy goes");
        assert_eq!(files.each_ref().map(|path| (fs::read(path).unwrap(), identity(path))), before);
        // The journal lies where the link leads.
        let link = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&path, link.path().join("link")).unwrap();
        let database = ReadableDatabase::open(&link.path().join("link")).unwrap();
        assert_eq!(database.read().unwrap().data_version, DataVersion::new(7));
    }

    /// Even a reader makes the files of the WAL, and leaves them if it may not write to the database.
    #[test]
    fn a_database_in_wal_mode_is_read_in_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE vars (name TEXT, intval INTEGER)").unwrap();
        let files = |directory: &Path| {
            let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
            files.sort();
            files
        };
        let version = |path: &Path| {
            let database = ReadableDatabase::open(path).unwrap();
            assert!(!database.is_rolled_back() && database.path() != path);
            database.read().unwrap().data_version
        };
        writer.execute_batch("INSERT INTO vars VALUES ('data_version', 7)").unwrap();
        let crashed = tempfile::tempdir().unwrap();
        for name in ["running", "running-wal"] {
            fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
        }
        for directory in [dir.path(), crashed.path()] {
            let before = files(directory);
            assert_eq!(version(&directory.join("running")), DataVersion::new(7), "what is in the WAL counts");
            assert_eq!(files(directory), before);
        }
        drop(writer);
        let before = files(dir.path());
        assert_eq!((version(&path), before.len()), (DataVersion::new(7), 1));
        assert_eq!(files(dir.path()), before);
    }

    #[test]
    fn a_database_without_channels_has_a_version_and_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE vars (name TEXT, intval INTEGER, blobval BLOB)").unwrap();
        let database = ReadableDatabase::open(&path).unwrap();
        assert_eq!(database.last_run(), LastRun::Unknown);
        let read = database.read().unwrap();
        assert_eq!((read.data_version, read.node_id), (DataVersion::new(0), None));
        assert!(matches!(read.state, Err(NodeStateError::Missing(_))), "{read:?}");
        assert!(matches!(ReadableDatabase::open(&dir.path().join("none")), Err(UnreadableDatabase::Missing(_))));
    }
}

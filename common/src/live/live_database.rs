//! The database of a `lightningd`, running or stopped, read through SQLite without disturbing it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::replay::reason;
use crate::storage::regular_file::expect_regular_file;
use format::commit_note::DatabaseStamp;
use format::manifest::NodeId;
use format::units::{DataVersion, PageNo, PageSize};

/// The reason why the live database cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveDatabaseError {
    /// `lightningd` holds a lock that excludes readers: its cache spilled in a large transaction.
    #[error("{path} is locked by lightningd in the middle of a large transaction; start lightningd again", path = .path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// A crash left a journal that `lightningd` has not rolled back yet.
    #[error("{path} was left in the middle of a transaction by a crash; start lightningd once, so that it rolls it back, \
        stop it, and try again", path = .path.display())]
    HotJournal {
        /// The database.
        path: PathBuf,
    },
    /// The database does not exist.
    #[error("there is no database at {path}; name it with `--database`, or as `database` in backup.lock", path = .path.display())]
    Missing {
        /// The expected path.
        path: PathBuf,
    },
    /// SQLite cannot read it.
    #[error("cannot read {path} as a SQLite database: {reason}", path = .path.display())]
    Unreadable {
        /// The database.
        path: PathBuf,
        /// SQLite's message.
        reason: String,
    },
}

/// A read transaction on the live database.
///
/// It holds a SHARED lock, which coexists with the RESERVED lock of a writer but delays its COMMIT: it must be dropped before the
/// hook is answered.
#[derive(Debug)]
pub(crate) struct LiveDatabase {
    connection: Connection,
    path: PathBuf,
    page_size: PageSize,
    page_count: u32,
}

impl LiveDatabase {
    /// Opens the database read-only and begins a transaction.
    pub(crate) fn open(path: &Path) -> Result<Self, LiveDatabaseError> {
        expect_openable(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || -> rusqlite::Result<(Connection, i64, i64)> {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(std::time::Duration::ZERO)?;
            connection.execute_batch("BEGIN")?;
            // The first read takes the lock.
            let page_count = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
            let page_size = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
            Ok((connection, page_size, page_count))
        };
        let (connection, page_size, page_count) = open().map_err(|error| Self::error(path, &error))?;
        let unreadable =
            |reason: &str| LiveDatabaseError::Unreadable { path: path.to_path_buf(), reason: reason.to_owned() };
        let page_size = u32::try_from(page_size)
            .ok()
            .and_then(PageSize::new)
            .ok_or_else(|| unreadable("it has an impossible page size"))?;
        let page_count = u32::try_from(page_count).map_err(|_| unreadable("it has an impossible number of pages"))?;
        Ok(Self { connection, path: path.to_path_buf(), page_size, page_count })
    }

    /// Like [`open`](Self::open), but first rolls back the transaction that a crash left, as `lightningd` does at its next start,
    /// unless `lightningd` is running.
    pub(crate) fn open_rolled_back(path: &Path) -> Result<Self, LiveDatabaseError> {
        match Self::open(path) {
            Err(LiveDatabaseError::HotJournal { .. }) => {}
            opened => return opened,
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // The first read rolls back, under SQLite's own lock.
        let roll_back = || -> rusqlite::Result<i64> {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        };
        roll_back().map_err(|error| Self::error(path, &error))?;
        log::warn!("rolled back the transaction that a crash left in {}", path.display());
        Self::open(path)
    }

    fn error(path: &Path, error: &rusqlite::Error) -> LiveDatabaseError {
        let path = path.to_path_buf();
        let extended = error.sqlite_error().map(|error| error.extended_code);
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => LiveDatabaseError::Busy { path },
            _ if extended == Some(rusqlite::ffi::SQLITE_READONLY_ROLLBACK) => LiveDatabaseError::HotJournal { path },
            _ => LiveDatabaseError::Unreadable { path, reason: reason(error) },
        }
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub(crate) fn page_count(&self) -> u32 {
        self.page_count
    }

    /// `vars.data_version`; 0 when it is missing, as in a new database or one older than the counter.
    pub(crate) fn data_version(&self) -> Result<DataVersion, LiveDatabaseError> {
        version_of_database(&self.connection).map_err(|error| Self::error(&self.path, &error))
    }

    /// The stamp on page 1; `None` in WAL mode, and while the database is empty.
    pub(crate) fn stamp(&self) -> Result<Option<DatabaseStamp>, LiveDatabaseError> {
        let first = "SELECT data FROM sqlite_dbpage WHERE pgno = 1";
        let stamp = self.connection.query_row(first, [], |row| {
            Ok(DatabaseStamp::of_first_page(row.get_ref(0)?.as_blob().unwrap_or_default()))
        });
        match stamp {
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            stamp => stamp.map_err(|error| Self::error(&self.path, &error)),
        }
    }

    /// `vars.node_id`; `None` in a database that does not have it yet.
    pub(crate) fn node_id(&self) -> Result<Option<NodeId>, LiveDatabaseError> {
        node_id_of_database(&self.connection).map_err(|error| Self::error(&self.path, &error))
    }

    /// Names of the virtual tables, which replay does not support.
    pub(crate) fn virtual_tables(&self) -> Result<Vec<String>, LiveDatabaseError> {
        crate::replay::virtual_tables(&self.connection).map_err(|error| Self::error(&self.path, &error))
    }

    /// Ends the transaction and releases its lock.
    pub(crate) fn let_go(&self) -> Result<(), LiveDatabaseError> {
        self.connection.execute_batch("COMMIT").map_err(|error| Self::error(&self.path, &error))
    }

    /// The connection, for other queries in the transaction.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Passes every page to `take`, in order, as SQLite sees it in this transaction.
    ///
    /// # Errors
    /// When the database cannot be read; also the first error of `take`, which stops the reading.
    pub(crate) fn read_pages<E: From<LiveDatabaseError>>(
        &self,
        mut take: impl FnMut(PageNo, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let fail = |error: rusqlite::Error| Self::error(&self.path, &error);
        let mut statement = self.connection.prepare("SELECT data FROM sqlite_dbpage ORDER BY pgno").map_err(fail)?;
        let mut rows = statement.query([]).map_err(fail)?;
        let mut read = 0;
        while let Some(row) = rows.next().map_err(fail)? {
            read += 1;
            let page = PageNo::new(read).unwrap_or(PageNo::FIRST);
            let bytes = row.get_ref(0).and_then(|value| value.as_blob().map_err(Into::into)).map_err(fail)?;
            if bytes.len() != self.page_size.bytes() {
                return Err(self.unreadable("SQLite returned a page of the wrong size").into());
            }
            match page {
                PageNo::FIRST => take(page, &in_rollback_mode(bytes))?,
                _ => take(page, bytes)?,
            }
        }
        if read == self.page_count {
            Ok(())
        } else {
            Err(self.unreadable("SQLite returned fewer pages than the database has").into())
        }
    }

    /// The error with a message of SQLite.
    pub(crate) fn unreadable(&self, reason: &str) -> LiveDatabaseError {
        LiveDatabaseError::Unreadable { path: self.path.clone(), reason: reason.to_owned() }
    }
}

/// Checks that SQLite can open the database and the files beside it without blocking, as it would on a FIFO.
///
/// # Errors
/// [`LiveDatabaseError::Missing`], or [`LiveDatabaseError::Unreadable`] for anything but a regular file.
pub fn expect_openable(database: &Path) -> Result<(), LiveDatabaseError> {
    let unreadable = |path: &Path, reason: io::Error| LiveDatabaseError::Unreadable {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    };
    expect_regular_file(database).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LiveDatabaseError::Missing { path: database.to_path_buf() },
        _ => unreadable(database, error),
    })?;
    for suffix in ["-journal", "-wal", "-shm"] {
        let mut beside = database.as_os_str().to_owned();
        beside.push(suffix);
        match expect_regular_file(Path::new(&beside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreadable(Path::new(&beside), error)),
            _ => {}
        }
    }
    Ok(())
}

/// `vars.node_id` of a database; `None` in one that does not have it yet.
///
/// # Errors
/// Errors of SQLite.
pub fn node_id_of_database(connection: &Connection) -> rusqlite::Result<Option<NodeId>> {
    variable(connection, "blobval", "node_id", |value| match value {
        ValueRef::Blob(bytes) => bytes.try_into().ok(),
        _ => None,
    })
}

/// `vars.data_version` of a database; 0 when it is missing, as in old databases.
///
/// # Errors
/// Errors of SQLite.
pub fn version_of_database(connection: &Connection) -> rusqlite::Result<DataVersion> {
    let value = variable(connection, "intval", "data_version", |value| match value {
        ValueRef::Integer(number) => Some(DataVersion::from_database(number)),
        _ => None,
    })?;
    Ok(value.unwrap_or(DataVersion::new(0)))
}

/// A value of table `vars`; old databases lack the table or the column.
fn variable<T>(
    connection: &Connection,
    column: &str,
    name: &str,
    take: impl Fn(ValueRef<'_>) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    let has = "SELECT count(*) FROM pragma_table_info('vars') WHERE name = ?1";
    if connection.query_row(has, [column], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let mut statement = connection.prepare(&format!("SELECT {column} FROM vars WHERE name = ?1"))?;
    let mut rows = statement.query([name])?;
    match rows.next()? {
        Some(row) => Ok(take(row.get_ref(0)?)),
        None => Ok(None),
    }
}

/// Page 1 with the rollback journal mode in its header (bytes 18 and 19, SQLite file format §1.3.3), even when the database is in
/// WAL mode: the copy has no WAL, and must open on a read-only file system.
pub(crate) fn in_rollback_mode(page: &[u8]) -> Vec<u8> {
    let mut page = page.to_vec();
    if let Some(versions) = page.get_mut(18..20) {
        versions.fill(1);
    }
    page
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn database(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE vars (name TEXT, intval INTEGER); INSERT INTO vars VALUES ('data_version', 7);",
            )
            .unwrap();
        connection
    }

    #[test]
    fn is_read_beside_a_writer_that_has_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let writer = database(&path);
        writer.execute_batch("BEGIN; UPDATE vars SET intval = 8").unwrap();
        let live = LiveDatabase::open(&path).unwrap();
        assert_eq!(live.data_version().unwrap(), DataVersion::new(7));
        assert_eq!(live.node_id().unwrap(), None, "this database is older than the column");
        let mut pages = Vec::new();
        live.read_pages(|_, bytes| {
            pages.extend_from_slice(bytes);
            Ok::<_, LiveDatabaseError>(())
        })
        .unwrap();
        drop(live);
        assert_eq!(pages, fs::read(&path).unwrap());
        writer.execute_batch("COMMIT").unwrap();
    }

    #[test]
    fn a_lock_that_shuts_out_readers_is_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let writer = database(&path);
        writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert!(matches!(LiveDatabase::open(&path), Err(LiveDatabaseError::Busy { .. })));
    }

    #[test]
    fn a_journal_left_by_a_crash_is_distinguished_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let writer = database(&path);
        // More pages than the cache has: they reach the file before COMMIT, and the journal with them.
        writer.execute_batch("PRAGMA cache_size = 1; CREATE TABLE big (x)").unwrap();
        writer.execute_batch("BEGIN").unwrap();
        for _ in 0..50 {
            writer.execute("INSERT INTO big VALUES (zeroblob(3000))", []).unwrap();
        }
        let crashed = dir.path().join("crashed");
        fs::copy(&path, &crashed).unwrap();
        fs::copy(dir.path().join("db-journal"), dir.path().join("crashed-journal")).unwrap();
        drop(writer);
        let before = fs::read(&crashed).unwrap();
        let result = LiveDatabase::open(&crashed);
        assert!(matches!(result, Err(LiveDatabaseError::HotJournal { .. })), "{result:?}");
        assert_eq!(fs::read(&crashed).unwrap(), before);
    }

    /// SQLite would wait for a writer, and block the node.
    #[test]
    fn a_fifo_is_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let fifo = |name: &str| {
            let path = dir.path().join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            path
        };
        assert!(matches!(LiveDatabase::open(&fifo("fifo")), Err(LiveDatabaseError::Unreadable { .. })));
        drop(database(&dir.path().join("db")));
        let journal = fifo("db-journal");
        let error = LiveDatabase::open(&dir.path().join("db")).unwrap_err();
        assert!(error.to_string().contains(journal.to_str().unwrap()), "{error}");
    }

    #[test]
    fn what_is_no_database_is_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        assert!(matches!(LiveDatabase::open(&path), Err(LiveDatabaseError::Missing { .. })));
        fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(matches!(LiveDatabase::open(&path), Err(LiveDatabaseError::Unreadable { .. })));
    }
}

//! A small node for the tests of this crate: a real database, with a backup.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use crate::backup::Backup;
use crate::backup::attach_error::OpenRecordingError;
use crate::backup::views::Views;
use crate::config::backup_lock::{BackupLock, OnGap};
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::config::on_unreachable::OnUnreachable;
use crate::create::create_backup;
use crate::history::Recorded;
use crate::log::DbWrite;
use crate::recording::BackupWriter;
use crate::recording::record_error::RecordError;
use crate::storage::{Directory, RealDirectory};
use format::units::{DataVersion, Timestamp};

/// Limits for short logs.
const SHORT: LogLimits = LogLimits { bytes: 1 << 16, statements: 12_000 };

/// The circumstances of a transaction's COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Recorded, then committed.
    Committed,
    /// Recorded, but the node dies before COMMIT.
    Lost,
    /// Committed without the recorder.
    Unseen,
}

/// A node and its backup, in a temporary directory.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) connection: Connection,
    pub(crate) backup_lock: BackupLock,
    pub(crate) version: u32,
}

/// Removes the parity of a backup, so that damage costs what it would without.
pub(crate) fn remove_parity(backup: &Path) {
    for entry in std::fs::read_dir(backup).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with("parity-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

impl Node {
    /// A node with a table and a few rows, whose database was created with these PRAGMAs, and its backup.
    pub(crate) fn new(pragmas: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("lightningd.sqlite3");
        let connection = Connection::open(&database).unwrap();
        connection.execute_batch(pragmas).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE vars (name TEXT PRIMARY KEY, val TEXT, intval INTEGER, blobval BLOB);
                 INSERT INTO vars (name, intval) VALUES ('data_version', 10);
                 INSERT INTO vars (name, blobval) VALUES ('node_id', zeroblob(33));
                 CREATE TABLE payments (id INTEGER PRIMARY KEY, note TEXT, amount INTEGER, preimage BLOB);",
            )
            .unwrap();
        let url: BackupUrl = dir.path().join("node.bkp").to_str().unwrap().parse().unwrap();
        let created = create_backup(&url, Some(&database), &mut |_| ControlFlow::Continue(())).unwrap();
        let (backup_uuid, on_unreachable) = (Some(created.uuid), OnUnreachable::Stop);
        let backup_lock = BackupLock {
            backend_url: url,
            backup_uuid,
            database: None,
            on_gap: OnGap::Heal,
            on_unreachable,
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        };
        Self { dir, connection, backup_lock, version: 10 }
    }

    pub(crate) fn backup_path(&self) -> &Path {
        self.backup_lock.backend_url.path()
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("lightningd.sqlite3")
    }

    pub(crate) fn backup(&self) -> Arc<Backup> {
        Arc::new(Backup::open(&self.backup_lock.backend_url).unwrap())
    }

    pub(crate) fn record(&self) -> BackupWriter {
        self.record_in(Arc::new(RealDirectory::new(self.backup_path())))
    }

    /// A recorder with other limits of logs.
    pub(crate) fn record_within(&self, limits: LogLimits) -> BackupWriter {
        let directory = Arc::new(RealDirectory::new(self.backup_path()));
        self.open(directory, limits)
    }

    pub(crate) fn record_in(&self, directory: Arc<dyn Directory>) -> BackupWriter {
        self.open(directory, SHORT)
    }

    /// Waits for a lock that a process which another test starts has for a moment, between its fork and its exec.
    fn open(&self, directory: Arc<dyn Directory>, limits: LogLimits) -> BackupWriter {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let directory = Arc::clone(&directory);
            match BackupWriter::open_in(directory, &self.backup_lock, self.dir.path(), limits) {
                Err(OpenRecordingError::Locked { .. }) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                opened => return opened.unwrap(),
            }
        }
    }

    /// The statements of the next transaction.
    pub(crate) fn statements(&self, note: &str) -> Vec<Cow<'static, str>> {
        let old = self.version;
        vec![
            format!("INSERT INTO payments (note, amount, preimage) VALUES ('{note}', {old}, x'00ff')").into(),
            format!("UPDATE payments SET amount = amount + 1 WHERE id % 3 = {}", old % 3).into(),
            format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {old}").into(),
        ]
    }

    /// Executes, records and commits a transaction of this statement.
    pub(crate) fn execute(&mut self, recording: &mut BackupWriter, sql: &str) {
        let bump = self.statements("").pop().unwrap();
        self.connection.execute_batch(&format!("BEGIN; {sql}; {bump}; COMMIT")).unwrap();
        self.record_only(recording, sql);
    }

    /// Records a change of this statement, even if the database refuses it. Then the database is at its version.
    pub(crate) fn record_only(&mut self, recording: &mut BackupWriter, sql: &str) {
        let statements = [Cow::Owned(sql.to_owned()), self.statements("").pop().unwrap()];
        self.version += 1;
        let data_version = DataVersion::new(self.version);
        recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() }).unwrap();
        self.connection.execute("UPDATE vars SET intval = ? WHERE name = 'data_version'", [self.version]).unwrap();
    }

    /// Checks that these bytes are an intact database of this version.
    pub(crate) fn check(&self, bytes: &[u8], version: u32) {
        let copy = self.dir.path().join("checked.sqlite3");
        std::fs::write(&copy, bytes).unwrap();
        let database = Connection::open(&copy).unwrap();
        let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        let found: u32 =
            database.query_row("SELECT intval FROM vars WHERE name = 'data_version'", [], |row| row.get(0)).unwrap();
        assert_eq!((check.as_str(), found), ("ok", version));
    }

    /// Executes the next transaction as `lightningd` would, with the recorder in the hook.
    pub(crate) fn write(
        &mut self,
        recording: &mut BackupWriter,
        note: &str,
        fate: Fate,
    ) -> Result<Option<Recorded>, RecordError> {
        self.write_at(recording, note, fate, Timestamp::now())
    }

    /// The same, at this time.
    pub(crate) fn write_at(
        &mut self,
        recording: &mut BackupWriter,
        note: &str,
        fate: Fate,
        received_at: Timestamp,
    ) -> Result<Option<Recorded>, RecordError> {
        let statements = self.statements(note);
        let transaction = self.connection.transaction().unwrap();
        for statement in &statements {
            transaction.execute(statement, []).unwrap();
        }
        let data_version = DataVersion::new(self.version + 1);
        let write = DbWrite { data_version, statements: &statements, received_at };
        let recorded = if fate == Fate::Unseen { None } else { Some(recording.record(&write)?) };
        if fate == Fate::Lost {
            transaction.rollback().unwrap();
        } else {
            transaction.commit().unwrap();
            self.version += 1;
        }
        Ok(recorded)
    }

    /// The contents of the newest version of the backup, opened as a user would open it.
    pub(crate) fn newest_contents(&self) -> (u32, Vec<String>) {
        let (history, read) = self.backup().read_history();
        read.unwrap();
        let newest = history.newest().unwrap();
        (newest.data_version.get(), self.contents_of(&history, newest.data_version.get()))
    }

    /// The contents of a version of the backup.
    pub(crate) fn contents_of(&self, history: &crate::history::History, version: u32) -> Vec<String> {
        let version = history.version(DataVersion::new(version)).unwrap().unwrap();
        let view = Views::new(self.backup(), 1 << 20).open(&history.plan(&version).unwrap()).unwrap();
        let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
        assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
        let copy = self.dir.path().join("copy.sqlite3");
        std::fs::write(&copy, bytes).unwrap();
        contents(&Connection::open(&copy).unwrap())
    }
}

/// All rows of a database, which must be sound.
pub(crate) fn contents(connection: &Connection) -> Vec<String> {
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut rows = Vec::new();
    for sql in [
        "SELECT quote(name) || quote(intval) || quote(blobval) FROM vars ORDER BY name",
        "SELECT id || quote(note) || quote(amount) || quote(preimage) FROM payments ORDER BY id",
        "SELECT quote(sql) FROM sqlite_schema ORDER BY name",
    ] {
        let mut statement = connection.prepare(sql).unwrap();
        rows.extend(statement.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap));
    }
    rows
}

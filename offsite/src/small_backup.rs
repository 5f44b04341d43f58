//! [`SmallBackup`]: a backup of a few changes, for tests.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{
    Backup, BackupLock, BackupUrl, BackupWriter, DataVersion, DbWrite, LogLimits, OnGap, OnUnreachable, Sealer, Seq,
    Source, Timestamp, View, create_backup,
};
use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

/// Some ten changes a log.
const LIMITS: LogLimits = LogLimits { bytes: 1 << 16, statements: 32 };

/// A state of a [`SmallBackup`].
pub struct Saved {
    dir: TempDir,
    database: Vec<u8>,
    version: u32,
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Commits a transaction, with something done before its COMMIT.
fn commit(database: &mut Connection, statements: &[Cow<'_, str>], before: impl FnOnce()) {
    let transaction = database.transaction().unwrap();
    for statement in statements {
        transaction.execute(statement, []).unwrap();
    }
    before();
    transaction.commit().unwrap();
}

/// A backup in a temporary directory, and the database of its node.
pub struct SmallBackup {
    dir: TempDir,
    lock: BackupLock,
    version: u32,
}

impl SmallBackup {
    /// An empty backup.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend_url: BackupUrl = dir.path().join("node.bkp").to_str().unwrap().parse().unwrap();
        let created = create_backup(&backend_url, None, &mut |_| ControlFlow::Continue(())).unwrap();
        let lock = BackupLock {
            backend_url,
            backup_uuid: Some(created.uuid),
            database: None,
            on_gap: OnGap::Stop,
            on_unreachable: OnUnreachable::Stop,
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        };
        lock.create(dir.path()).unwrap();
        Self { dir, lock, version: 0 }
    }

    pub fn uuid(&self) -> Uuid {
        self.lock.backup_uuid.unwrap()
    }

    pub fn path(&self) -> PathBuf {
        self.lock.backend_url.path().to_owned()
    }

    /// Where runs of `ship` leave word.
    pub fn state_directory(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn open(&self) -> Arc<Backup> {
        Arc::new(Backup::open(&self.lock.backend_url).unwrap())
    }

    /// The newest version.
    pub fn version(&self) -> u32 {
        self.version
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("lightningd.sqlite3")
    }

    /// Keeps the state of backup and node.
    pub fn save(&self) -> Saved {
        let dir = tempfile::tempdir().unwrap();
        copy_files(&self.path(), dir.path());
        Saved { dir, database: std::fs::read(self.database()).unwrap(), version: self.version }
    }

    /// Puts a state back, as a power cut or an image of the disk does.
    pub fn put_back(&mut self, saved: &Saved) {
        std::fs::remove_dir_all(self.path()).unwrap();
        std::fs::create_dir(self.path()).unwrap();
        copy_files(saved.dir.path(), &self.path());
        std::fs::write(self.database(), &saved.database).unwrap();
        self.version = saved.version;
    }

    /// Records changes; each is different from all others.
    pub fn record(&mut self, count: u32) {
        self.record_at(count, Timestamp::now());
    }

    /// Like [`record`](Self::record), at a time.
    pub fn record_at(&mut self, count: u32, received_at: Timestamp) {
        let mut database = Connection::open(self.database()).unwrap();
        let mut writer = BackupWriter::open(self.dir.path(), LIMITS).unwrap();
        for _ in 0..count {
            let statements = self.next_statements();
            let data_version = DataVersion::new(self.version);
            let write = DbWrite { data_version, statements: &statements, received_at };
            // As lightningd does: the hook is called before the COMMIT.
            commit(&mut database, &statements, || {
                let _recorded = writer.record(&write).unwrap();
            });
        }
    }

    /// Commits a change that is not recorded, and records one behind it: the gap is healed by a snapshot.
    pub fn record_after_a_gap(&mut self) {
        commit(&mut Connection::open(self.database()).unwrap(), &self.next_statements(), || {});
        self.lock.on_gap = OnGap::Heal;
        self.lock.update(self.dir.path()).unwrap();
        self.record(1);
    }

    /// The statements of the next version, which it becomes.
    fn next_statements(&mut self) -> Vec<Cow<'static, str>> {
        let (before, version) = (self.version, self.version + 1);
        self.version = version;
        let mut statements: Vec<Cow<'_, str>> = Vec::new();
        if version == 1 {
            statements.push("CREATE TABLE vars (name TEXT PRIMARY KEY, intval INTEGER, blobval BLOB)".into());
            statements.push("INSERT INTO vars (name, intval) VALUES ('data_version', 0)".into());
            statements.push("CREATE TABLE notes (id INTEGER PRIMARY KEY, note TEXT)".into());
        }
        statements.push(format!("INSERT INTO notes (note) VALUES ('{}')", Uuid::new_v4()).into());
        statements.push(format!("UPDATE notes SET note = note || '{version}' WHERE id % 3 = {}", version % 3).into());
        let bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval =";
        statements.push(format!("{bump} {before}").into());
        statements
    }

    /// Seals the finished logs.
    pub fn seal(&self) {
        let mut sealer = Sealer::new(self.open(), LIMITS).unwrap();
        sealer.advance(Seq::new(u64::MAX).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap();
    }

    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.files("segment-")
    }

    /// How many logs are not sealed.
    pub fn logs(&self) -> usize {
        self.files("log-")
    }

    fn files(&self, prefix: &str) -> usize {
        let names = std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(prefix)).count()
    }

    /// Expects what is read from `source` to have exactly the first `newest` versions of this backup, byte for byte.
    pub fn expect_equal(&self, source: &Source, newest: u32) {
        self.expect_equal_from(source, 1, newest);
    }

    /// Like [`expect_equal`](Self::expect_equal), for the versions from `oldest` on.
    pub fn expect_equal_from(&self, source: &Source, oldest: u32, newest: u32) {
        let copied = Arc::new(Backup::open(source).unwrap());
        let (history, read) = copied.read_history();
        read.unwrap();
        assert_eq!(history.newest().map_or(0, |newest| newest.data_version.get()), newest);
        let own = self.open();
        let (own_history, read) = own.read_history();
        read.unwrap();
        for version in oldest..=newest {
            let of = |backup: &Arc<Backup>, history: &common::History| {
                let version = history.version(DataVersion::new(version)).unwrap().unwrap();
                let view = View::open(backup, &history.plan(&version).unwrap()).unwrap();
                let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
                assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
                bytes
            };
            assert!(of(&copied, &history) == of(&own, &own_history), "version {version} is another one");
        }
    }
}

//! What is tampered with: the files of a node and its backup, of every kind that there is, and what can be read from them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::KeepPolicy;
use common::compact::{Clock, CompactBackupError, CompactOutcome, compact_backup};
use common::{
    Backup, BackupLock, BackupUrl, BackupWriter, DataVersion, DbWrite, LogLimits, ParityShare, Sealer, SpoolStatus,
    Timestamp, Views,
};
use mountfs::demo::pretend_lightningd::Commit;
use rusqlite::Connection;
use tests::home::{Home, everything};
use tests::small_node::{NODE_ID, SmallNode, bump, creation};
use tests::wait::until;

/// Logs are small, so that there are several although there is little in them.
pub const LIMITS: LogLimits = LogLimits { bytes: 16 << 10, statements: 24 };

/// A timeout longer than a slow machine needs.
const TIMEOUT: Duration = Duration::from_secs(30);

const HOUR_MICROS: i64 = 3_600_000_000;

/// What a version holds: its database, and its statements with the time, as hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    pub database: u64,
    about: u64,
}

/// Every version that can be opened.
pub type Held = BTreeMap<u32, Contents>;

/// Files, by their path below a [`Home`].
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A node that is down, with its backup.
pub struct Recorded {
    pub home: Home,
    pub files: Files,
    /// The files as they were in the middle of it.
    pub older: Files,
    /// What is read.
    pub readable: Held,
    /// What is there, in the backup or in its spool.
    pub held: Held,
    /// With what was dropped.
    pub ever: Held,
    /// The version that the node has.
    pub newest: u32,
    /// The node's database, as it is, and after its next transaction.
    pub node_has: u64,
    pub node_has_next: u64,
}

/// A history being made.
struct Making {
    node: SmallNode,
    recording: Option<BackupWriter>,
    number: u32,
    /// The node's database at each version.
    node_had: BTreeMap<u32, u64>,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Recorded,
    /// By a node without its plugin.
    Unseen,
    /// The node dies before it commits, and makes another one of the same number.
    Lost,
}

pub fn url(backup: &Path) -> BackupUrl {
    backup.to_str().expect("a path in UTF-8").parse().expect("a URL")
}

/// Records a transaction.
///
/// # Errors
/// As the recorder says it.
pub fn record(
    recording: &mut BackupWriter,
    data_version: DataVersion,
    statements: &[String],
    at: Timestamp,
) -> Result<(), String> {
    let statements: Vec<_> = statements.iter().map(|statement| statement.as_str().into()).collect();
    let write = DbWrite { data_version, statements: &statements, received_at: at };
    recording.record(&write).map(|_| ()).map_err(|error| error.to_string())
}

impl Making {
    fn new() -> Self {
        let home = Home::in_memory();
        home.init();
        home.set_on_unreachable(serde_json::json!({"spool": ""}));
        let mut node = SmallNode::at(home);
        node.lightningd.start_without_recorder().expect("the node starts");
        let mut making = Self { node, recording: None, number: 0, node_had: BTreeMap::new() };
        making.restart();
        making
    }

    fn restart(&mut self) {
        // The one before has to end first.
        self.recording = None;
        self.recording = Some(BackupWriter::open(&self.node.home.lightning_dir(), LIMITS).expect("a backup"));
    }

    fn recording(&mut self) -> &mut BackupWriter {
        self.recording.as_mut().expect("it is open")
    }

    fn record(&mut self, data_version: DataVersion, statements: &[String], at: Timestamp) {
        record(self.recording(), data_version, statements, at).expect("it is recorded");
    }

    fn transaction(&mut self, fate: Fate, at: Timestamp) {
        let data_version = DataVersion::new(self.number + 1);
        if fate == Fate::Lost {
            let lost = self.node.transaction(data_version);
            self.record(data_version, &lost, at);
            self.restart();
        }
        let statements = if self.number == 0 { creation(NODE_ID) } else { self.node.transaction(data_version) };
        if fate != Fate::Unseen {
            self.record(data_version, &statements, at);
        }
        self.node.lightningd.write(data_version, &statements, Commit::WithoutPlugin).expect("a commit");
        self.number += 1;
        let database = fs::read(self.node.home.database()).expect("the database");
        self.node_had.insert(self.number, hash_of(&database));
    }

    fn transactions(&mut self, count: u32) {
        for _ in 0..count {
            self.transaction(Fate::Recorded, Timestamp::now());
        }
    }

    fn rider(&mut self, statement: &str) {
        let before = DataVersion::new(self.number);
        self.record(before, &[statement.to_owned()], Timestamp::now());
    }

    fn seal(&mut self) {
        let opened = Arc::new(Backup::open(&url(&self.node.home.backup())).expect("a backup"));
        // As a recorder does.
        opened.set_parity_share(ParityShare::default());
        let newest = self.recording().newest().expect("a version").seq;
        let mut sealer = Sealer::new(opened, LIMITS).expect("a sealer");
        sealer.advance(newest, &mut |_| ControlFlow::Continue(())).expect("all of it replays");
    }

    /// Of history that is more than an hour old one version is kept.
    fn compact(&mut self) {
        self.recording = None;
        let [hour, day] = ["1h", "1d"].map(|span| Some(span.parse().expect("a span")));
        let policy = KeepPolicy { within: hour, hourly: day, ..KeepPolicy::default() };
        let backup = url(&self.node.home.backup());
        let compaction = Cell::new(None);
        // The recorder may be making a preallocated file still.
        let is_done = || {
            let outcome = compact_backup(&backup, &policy, Clock::Trusted, &mut |_| ControlFlow::Continue(()));
            let is_locked = matches!(outcome, Err(CompactBackupError::Locked { .. }));
            compaction.set(Some(outcome));
            !is_locked
        };
        assert!(until(TIMEOUT, is_done), "the backup stays locked");
        let outcome = compaction.into_inner().expect("it was tried").expect("a compaction");
        let CompactOutcome::Done(compaction) = outcome else { panic!("it was not stopped") };
        assert!(compaction.dropped_segments > 1 && compaction.dropped_versions > 5, "{compaction:?}");
        self.restart();
    }

    /// Brings what is in the spool into the backup.
    fn drain(&self) {
        let dir = self.node.home.lightning_dir();
        let lock = BackupLock::read(&dir).expect("backup.lock");
        let Some(mut spooling) = BackupWriter::open_spool(&lock, &dir, LIMITS, &Arc::default()).expect("a spool")
        else {
            return;
        };
        let mut drain = spooling.drain_plan().expect("it goes to a spool").attach().expect("a backup");
        drain.advance(spooling.end()).expect("all of it");
        spooling.return_to_backup(drain).expect("an empty spool");
    }

    /// The files, and what is read from them.
    fn so_far(&self) -> (Files, Held) {
        (self.files(), read(&self.node.home, self.number).expect("nothing is wrong yet").held)
    }

    fn files(&self) -> Files {
        files(&self.node.home)
    }

    /// Ends the node. There is a preallocated file by then where changes go.
    fn ended(mut self, older: Files, older_held: Held) -> Recorded {
        let spool = self.recording().spooled().map(|(path, _)| path);
        let preallocated = spool.unwrap_or_else(|| self.node.home.backup()).join("preallocated");
        assert!(until(TIMEOUT, || preallocated.exists()), "there is no preallocated file");
        self.recording = None;
        self.node.lightningd.kill();
        let files = self.files();
        let readable = read(&self.node.home, self.number).expect("nothing is wrong yet").held;
        self.drain();
        let held = read(&self.node.home, self.number).expect("nothing is wrong yet").held;
        let ever: Held = older_held.into_iter().chain(held.clone()).collect();
        for (version, contents) in &ever {
            assert_eq!(self.node_had.get(version), Some(&contents.database), "version {version}");
        }
        assert!(readable.iter().all(|(version, contents)| held.get(version) == Some(contents)));
        let database = self.node.home.database();
        let node_has = hash_of(&fs::read(&database).expect("the database"));
        let next = self.node.home.join("next.sqlite3");
        fs::copy(&database, &next).expect("a copy");
        let opened = Connection::open(&next).expect("a database");
        opened.execute_batch(&bump(DataVersion::new(self.number + 1))).expect("the next transaction");
        drop(opened);
        let node_has_next = hash_of(&fs::read(&next).expect("the database"));
        fs::remove_file(&next).expect("it is there");
        Recorded {
            home: self.node.home,
            files,
            older,
            readable,
            held,
            ever,
            newest: self.number,
            node_has,
            node_has_next,
        }
    }
}

impl Recorded {
    /// With everything that happens to a backup: a change that was lost with its node, versions that went unseen, riders,
    /// restarts, history that was dropped; and files of every kind.
    pub fn with_all_kinds() -> Self {
        let mut making = Making::new();
        let old = Timestamp::from_micros(Timestamp::now().as_micros() - 2 * HOUR_MICROS).expect("a time");
        // Of these the snapshot is full: there is nothing yet that it could build on.
        for number in 1..=14 {
            let fate = match number {
                4 | 5 => Fate::Unseen,
                9 => Fate::Lost,
                _ => Fate::Recorded,
            };
            making.transaction(fate, old);
        }
        making.transactions(10);
        making.seal();
        let (older, older_held) = making.so_far();
        making.compact();
        making.transaction(Fate::Recorded, Timestamp::now());
        making.rider("PRAGMA foreign_keys = OFF;");
        making.rider("PRAGMA foreign_keys = ON;");
        making.transaction(Fate::Lost, Timestamp::now());
        making.transactions(4);
        making.seal();
        // A delta, in a log that is finished; another one behind it is not.
        making.transaction(Fate::Unseen, Timestamp::now());
        making.transactions(8);
        let recorded = making.ended(older, older_held);
        recorded.expect_all_kinds();
        assert!(recorded.held.len() > 15, "{:?}", recorded.held.keys());
        recorded
    }

    /// The same without parity, so that what is tampered with costs what it costs.
    pub fn without_parity(mut self) -> Self {
        let is_of_parity =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("parity-"));
        self.files.retain(|path, _| !is_of_parity(path));
        self.older.retain(|path, _| !is_of_parity(path));
        self
    }

    fn expect_all_kinds(&self) {
        let names: Vec<_> = self.files.keys().filter_map(|path| path.file_name()?.to_str()).collect();
        let count = |kind: &str| names.iter().filter(|name| name.starts_with(kind)).count();
        let once = ["manifest", "LOCK", "preallocated", "pruned", "spool-note", "backup.lock"].map(count);
        // One `LOCK` is in the spool, which is empty.
        assert!(once == [1, 2, 1, 1, 1, 1], "{names:?}");
        assert!(count("segment-") >= 3 && count("log-") >= 2 && count("snapshot-") == 2, "{names:?}");
        let is_delta = |bytes: &[u8]| bytes[40] != 0;
        let snapshots = self
            .files
            .iter()
            .filter(|(path, _)| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshot-")));
        let deltas: Vec<_> = snapshots.map(|(_, bytes)| is_delta(bytes)).collect();
        assert!(deltas == [false, true], "a full snapshot and a delta: {names:?}");
    }

    /// The backup is out of reach, and the newest changes are in the spool.
    pub fn with_spooled_changes() -> Self {
        let mut making = Making::new();
        // The very first log is made with room for a busy node.
        making.transactions(10);
        making.seal();
        let (older, older_held) = making.so_far();
        let interrupted = making.recording.take().expect("it is open").interrupt();
        making.recording = interrupted.spool(&Arc::default()).expect("a spool");
        making.transactions(4);
        making.ended(older, older_held)
    }
}

/// The files below a home.
pub fn files(home: &Home) -> Files {
    let all = everything(&home.join(""));
    let relative = |path: PathBuf| path.strip_prefix(home.join("")).expect("it is below").to_owned();
    all.into_iter().filter_map(|(path, bytes)| Some((relative(path), bytes?))).collect()
}

/// What was read.
pub struct Read {
    pub held: Held,
    /// Versions that cannot be opened although they are listed.
    pub refused: usize,
}

/// Every version up to the one behind `newest` that can be opened.
///
/// # Errors
/// When nothing can be read.
pub fn read(home: &Home, newest: u32) -> Result<Read, String> {
    let backup = Arc::new(Backup::open(&url(&home.backup())).map_err(|error| error.to_string())?);
    let (history, ended) = backup.read_history();
    if let Err(error) = ended {
        expect_says(&error.to_string());
    }
    if let SpoolStatus::Unreadable { reason, .. } = backup.spool_sight_beside(&home.lightning_dir()) {
        expect_says(&reason);
    }
    let views = Views::new(Arc::clone(&backup), 0);
    let mut read = Read { held: Held::new(), refused: 0 };
    for number in 1..=newest + 2 {
        let open = || -> Result<Option<Contents>, String> {
            let Some(version) = history.version(DataVersion::new(number)).map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            let plan = history.plan(&version).map_err(|error| error.to_string())?;
            let view = views.open(&plan).map_err(|error| error.to_string())?;
            let mut bytes = vec![0; usize::try_from(view.size_bytes()).expect("a small database")];
            view.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
            let records = history.records_of(&version).map_err(|error| error.to_string())?;
            let statements = backup.statements(&records).map_err(|error| error.to_string())?;
            let about = hash_of(&(statements, version.recorded_at.as_micros()));
            Ok(Some(Contents { database: hash_of(&bytes), about }))
        };
        match open() {
            Ok(Some(contents)) => drop(read.held.insert(number, contents)),
            Ok(None) => {}
            Err(text) => {
                expect_says(&text);
                read.refused += 1;
            }
        }
    }
    Ok(read)
}

/// An error must say something.
#[track_caller]
fn expect_says(text: &str) {
    assert!(text.len() > 20, "an error that says nothing: {text}");
}

fn hash_of(what: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

//! [`Recording`]: the recorder's hold on a backup. Applies the version rules to every write and makes it durable.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::{Backup, OpenError, read_manifest};
use crate::format::manifest::{Manifest, NodeId};
use crate::format::names;
use crate::format::record::{RunStart, SnapshotReason};
use crate::history::History;
use crate::live_database::{LiveDatabase, LiveDatabaseError};
use crate::log::{AppendError, LogWriter, RecoverError, recover};
use crate::pages::ExpectedSnapshot;
use crate::snapshot::{Base, NewSnapshot, SnapshotError, take_snapshot};
use crate::storage::{Directory, RealDirectory, StorageError, replace_file};
use crate::version_rules::{Bump, Commit, Decision, Newest, decide};
use crate::{BackupLock, BackupLockError, BackupUrl, DataVersion, OnGap, Seq, Timestamp};

/// A chain of delta snapshots longer than this is cut by a full one: finding a page looks into every one.
const SNAPSHOT_CHAIN_MAX: usize = 16;

/// Why recording cannot begin. Nothing was created or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenRecordingError {
    /// No usable `backup.lock`.
    #[error(transparent)]
    BackupLock(#[from] BackupLockError),
    /// No usable backup.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Another one than `backup.lock` names.
    #[error(
        "{url} holds backup {found}, but backup.lock of this node names {expected}: it is the backup of another node, or \
         of an earlier `init`; correct backend_url in backup.lock, or move the file away and run `backupfs init`"
    )]
    Foreign {
        /// Where it is.
        url: BackupUrl,
        /// What is there.
        found: uuid::Uuid,
        /// What should be.
        expected: uuid::Uuid,
    },
    /// Somebody else records.
    #[error(
        "{url} is locked: another recorder is writing to it; stop the other lightningd, or give this node a backup of its own"
    )]
    Locked {
        /// Where it is.
        url: BackupUrl,
    },
    /// It cannot be written to.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A file system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a write was not recorded: the hook must not answer "continue".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// PostgreSQL nodes send writes without statements.
    #[error(
        "the write of version {data_version} has no statements: lightningd sends them for SQLite only; for a PostgreSQL \
         node use PostgreSQL's own replication, and remove this plugin"
    )]
    NoStatements {
        /// The version.
        data_version: DataVersion,
    },
    /// The node runs on an old database.
    #[error(
        "the database is at version {committed}, but the backup {url} already holds version {newest}: this node was put \
         on an old state, and running it can lose all funds in its channels. Restore the newest version with \
         `backupfs restore {url} DEST` and start lightningd on that"
    )]
    OldState {
        /// The version on `lightningd`'s disk.
        committed: DataVersion,
        /// The newest version of the backup.
        newest: DataVersion,
        /// The backup.
        url: BackupUrl,
    },
    /// There is a gap, and `backup.lock` says to stop.
    #[error(
        "lightningd committed up to version {committed} but the backup {url} ends at {newest}, and backup.lock says \
         \"on_gap\": \"stop\"; set it to \"heal\" to take a snapshot of the database and go on", newest = Shown(.newest)
    )]
    Gap {
        /// The version on `lightningd`'s disk.
        committed: DataVersion,
        /// The newest version of the backup.
        newest: Option<DataVersion>,
        /// The backup.
        url: BackupUrl,
    },
    /// A gap cannot be healed.
    #[error("versions up to {committed} were committed without being recorded, and no snapshot can be taken")]
    Heal {
        /// The version on `lightningd`'s disk.
        committed: DataVersion,
        /// Why.
        source: SnapshotError,
    },
    /// The database file is not the one that the write is about.
    #[error(
        "{path} is at version {found}, not {committed}: it is not the database that lightningd is writing; name the right \
         one as `database` in backup.lock", path = .path.display()
    )]
    WrongDatabase {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: DataVersion,
        /// The version on `lightningd`'s disk according to the write.
        committed: DataVersion,
    },
    /// The database is another node's.
    #[error(
        "{path} belongs to node {found}, but the backup {url} is of node {expected}; give this node a backup of its own \
         with `backupfs init`", path = .path.display(), found = Hex(.found), expected = Hex(.expected)
    )]
    OtherNode {
        /// The database.
        path: PathBuf,
        /// The node that it belongs to.
        found: NodeId,
        /// The node that the backup belongs to.
        expected: NodeId,
        /// The backup.
        url: BackupUrl,
    },
    /// It cannot be made durable.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// The newest version, or "nothing".
struct Shown<'a>(&'a Option<DataVersion>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(version) => write!(f, "version {version}"),
            None => f.write_str("nothing"),
        }
    }
}

/// Bytes in hexadecimal.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A `db_write` to record.
#[derive(Debug)]
pub struct DbWrite<'a> {
    /// The version it leads to.
    pub data_version: DataVersion,
    /// Its statements, in order, as received.
    pub statements: &'a [Cow<'a, str>],
    /// When it was received.
    pub received_at: Timestamp,
}

/// The newest recorded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestVersion {
    /// Its number.
    pub data_version: DataVersion,
    /// Its record.
    pub seq: Seq,
    /// When that was received.
    pub recorded_at: Timestamp,
}

/// What was recorded for a write, beside the write itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Nothing else.
    Appended,
    /// That the change before it was never committed.
    Rewound {
        /// The version that change would have led to.
        data_version: DataVersion,
    },
    /// A snapshot that closes a gap.
    Healed {
        /// The newest version before the gap; `None` when there was none.
        from: Option<DataVersion>,
        /// The version of the snapshot.
        to: DataVersion,
    },
}

/// When the database is looked at next to learn or check whose it is.
///
/// A new node knows its id some transactions after its first; looking costs a millisecond, so it is done at the 1st,
/// 2nd, 4th, 8th, … write until it has been seen.
#[derive(Debug, Clone, Copy)]
enum Identity {
    Unchecked { writes: u32, next_look: u32 },
    Checked,
}

/// A backup being recorded to. Holds its lock until dropped.
#[derive(Debug)]
pub struct Recording {
    directory: Arc<dyn Directory>,
    url: BackupUrl,
    database: PathBuf,
    on_gap: OnGap,
    manifest: Manifest,
    log: LogWriter,
    newest: Option<NewestVersion>,
    commit: Commit,
    snapshots: Vec<ExpectedSnapshot>,
    run_start: RunStart,
    identity: Identity,
    _lock: Box<dyn fmt::Debug + Send>,
}

impl Recording {
    /// Takes the backup that `backup.lock` in `lightning_dir` names, puts its log right, and is ready to record.
    ///
    /// # Errors
    /// When `backup.lock` or the backup is not usable, or somebody else records to it.
    pub fn open(lightning_dir: &Path) -> Result<Self, OpenRecordingError> {
        let lock = BackupLock::read(lightning_dir)?;
        let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(lock.backend_url.path()));
        Self::open_in(directory, &lock, &lock.database_path(lightning_dir))
    }

    pub(crate) fn open_in(
        directory: Arc<dyn Directory>,
        backup_lock: &BackupLock,
        database: &Path,
    ) -> Result<Self, OpenRecordingError> {
        let url = &backup_lock.backend_url;
        let manifest = read_manifest(&*directory, url)?;
        if let Some(expected) = backup_lock.backup_uuid.filter(|&uuid| uuid != manifest.uuid) {
            return Err(OpenRecordingError::Foreign { url: url.clone(), found: manifest.uuid, expected });
        }
        let lock = directory.lock(names::LOCK).map_err(|error| match error.source.kind() {
            io::ErrorKind::WouldBlock => OpenRecordingError::Locked { url: url.clone() },
            _ => error.into(),
        })?;
        // Read again under the lock: the recorder that held it may have learned the node's id.
        let manifest = read_manifest(&*directory, url).map(|again| Manifest { uuid: manifest.uuid, ..again })?;
        let mut history = History::new(manifest.uuid, manifest.page_size);
        let log = recover(&directory, manifest.uuid, &mut |record, place| history.apply(record, place))?;
        let newest = history.newest().map(|newest| NewestVersion {
            data_version: newest.data_version,
            seq: newest.seq,
            recorded_at: newest.recorded_at,
        });
        Ok(Self {
            directory,
            url: url.clone(),
            database: database.to_path_buf(),
            on_gap: backup_lock.on_gap,
            manifest,
            log,
            newest,
            commit: history.newest_for_rules().map_or(Commit::Certain, |newest| newest.commit),
            snapshots: history.newest_snapshots(),
            run_start: RunStart::First,
            identity: Identity::Unchecked { writes: 0, next_look: 1 },
            _lock: lock,
        })
    }

    /// Records a write. When this returns `Ok`, it is durable: answer "continue".
    ///
    /// # Errors
    /// The write is not recorded and `lightningd` must not commit it. The message says what the operator can do.
    pub fn record(&mut self, write: &DbWrite<'_>) -> Result<Recorded, RecordError> {
        let data_version = write.data_version;
        if write.statements.is_empty() {
            return Err(RecordError::NoStatements { data_version });
        }
        // After a failed write the last batch may be in the log or not: not even its snapshot may be replaced.
        self.log.check_sound()?;
        self.check_identity()?;
        let bump = Bump::find(data_version, write.statements);
        let mut snapshots = None;
        let recorded = match decide(self.newest_for_rules(), data_version, bump) {
            Decision::Append => Recorded::Appended,
            Decision::Rewind => self.push_rewind(write.received_at),
            Decision::Heal { committed } => {
                let (recorded, chain) = self.push_heal(committed, write.received_at)?;
                snapshots = Some(chain);
                recorded
            }
            Decision::Refuse { committed, newest } => {
                return Err(RecordError::OldState { committed, newest, url: self.url.clone() });
            }
        };
        let pushed = self.log.push_change(data_version, write.received_at, self.run_start, write.statements);
        let seq = pushed.inspect_err(|_| self.log.discard())?;
        self.log.commit()?;
        if let Some(chain) = snapshots {
            self.snapshots = chain;
        }
        self.newest = Some(NewestVersion { data_version, seq, recorded_at: write.received_at });
        self.commit = match bump {
            Bump::Present => Commit::Unknown,
            Bump::Absent => Commit::Certain,
        };
        self.run_start = RunStart::Later;
        Ok(recorded)
    }

    fn newest_for_rules(&self) -> Option<Newest> {
        self.newest.map(|newest| Newest { data_version: newest.data_version, commit: self.commit })
    }

    /// Adds to the batch that the newest change never happened.
    fn push_rewind(&mut self, now: Timestamp) -> Recorded {
        let newest = self.newest.expect("BUG: only a recorded change is rewound");
        self.log.push_rewind(newest.data_version.previous(), now, newest.seq);
        Recorded::Rewound { data_version: newest.data_version }
    }

    /// Takes a snapshot of the database, which `lightningd` holds still, and adds it to the batch. Also returns the
    /// chain of snapshots that is the newest once the batch is durable.
    fn push_heal(
        &mut self,
        committed: DataVersion,
        now: Timestamp,
    ) -> Result<(Recorded, Vec<ExpectedSnapshot>), RecordError> {
        let from = self.newest.map(|newest| newest.data_version);
        if self.on_gap == OnGap::Stop {
            return Err(RecordError::Gap { committed, newest: from, url: self.url.clone() });
        }
        log::warn!(
            "lightningd committed up to version {committed}, the backup ends at {}: taking a snapshot of {}",
            Shown(&from),
            self.database.display()
        );
        let heal = |source| RecordError::Heal { committed, source };
        let database = LiveDatabase::open(&self.database).map_err(|error| heal(error.into()))?;
        let found = database.data_version().map_err(|error| heal(error.into()))?;
        if found != committed {
            return Err(RecordError::WrongDatabase { path: self.database.clone(), found, committed });
        }
        self.compare_node_id(&database)?;
        let new = NewSnapshot {
            uuid: self.manifest.uuid,
            seq: self.log.next_seq(),
            data_version: committed,
            reason: SnapshotReason::Heal,
            time: now,
        };
        let base = self.delta_base();
        let taken = take_snapshot(&*self.directory, &database, &new, base.as_ref(), &mut |_| ());
        let snapshot = match taken {
            Err(SnapshotError::Base(error)) => {
                log::error!("{error}; taking a full snapshot instead of a delta");
                take_snapshot(&*self.directory, &database, &new, None, &mut |_| ())
            }
            other => other,
        }
        .map_err(heal)?;
        let seq = self.log.push_snapshot(committed, now, &snapshot);
        let mut chain =
            vec![ExpectedSnapshot { uuid: self.manifest.uuid, seq, footer_checksum: snapshot.footer_checksum }];
        if snapshot.base.is_some() {
            chain.extend_from_slice(&self.snapshots);
        }
        Ok((Recorded::Healed { from, to: committed }, chain))
    }

    /// The snapshots that a delta can build on; `None` when a full one is due.
    fn delta_base(&self) -> Option<Base> {
        let newest = self.snapshots.first()?;
        if self.snapshots.len() >= SNAPSHOT_CHAIN_MAX {
            return None;
        }
        let backup = Backup::open_in(Arc::clone(&self.directory), &self.url).ok()?;
        match backup.open_snapshots(&self.snapshots) {
            Ok(pages) => Some(Base { seq: newest.seq, pages }),
            Err(error) => {
                log::error!("{error}; taking a full snapshot instead of a delta");
                None
            }
        }
    }

    /// Looks, now and then, whether the database is that of the node that the backup belongs to.
    fn check_identity(&mut self) -> Result<(), RecordError> {
        let Identity::Unchecked { writes, next_look } = &mut self.identity else {
            return Ok(());
        };
        *writes = writes.saturating_add(1);
        if writes < next_look {
            return Ok(());
        }
        *next_look = next_look.saturating_mul(2);
        match LiveDatabase::open(&self.database) {
            Ok(database) => self.compare_node_id(&database),
            // It is a check on top of the version rules, which decide alone when the file cannot be read now.
            Err(LiveDatabaseError::Busy { .. } | LiveDatabaseError::Missing { .. }) => Ok(()),
            Err(error) => {
                log::warn!("cannot check whose database this is: {error}");
                Ok(())
            }
        }
    }

    fn compare_node_id(&mut self, database: &LiveDatabase) -> Result<(), RecordError> {
        let found = match database.node_id() {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error) => {
                log::warn!("cannot check whose database this is: {error}");
                return Ok(());
            }
        };
        match self.manifest.node_id {
            Some(expected) if expected != found => {
                Err(RecordError::OtherNode { path: self.database.clone(), found, expected, url: self.url.clone() })
            }
            Some(_) => {
                self.identity = Identity::Checked;
                Ok(())
            }
            None => {
                let learned = Manifest { node_id: Some(found), ..self.manifest.clone() };
                match replace_file(&*self.directory, names::MANIFEST, &learned.encode()) {
                    Ok(()) => {
                        log::info!("{} is the backup of node {}", self.url, Hex(&found));
                        self.manifest = learned;
                        self.identity = Identity::Checked;
                    }
                    Err(error) => log::warn!("cannot note whose backup this is: {error}"),
                }
                Ok(())
            }
        }
    }

    /// The newest recorded version; `None` when there is none yet.
    pub fn newest(&self) -> Option<NewestVersion> {
        self.newest
    }

    /// Where the backup is.
    pub fn url(&self) -> &BackupUrl {
        &self.url
    }

    /// What the backup is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::faulty::FaultyDirectory;
    use crate::testing::{Fate, Node, contents};
    use crate::{Origin, TimelineEntry};

    fn statuses(node: &Node) -> Vec<(u32, &'static str)> {
        let (history, read) = node.backup().read_history();
        read.unwrap();
        let status = |entry| match entry {
            TimelineEntry::Recorded(version) => (
                version.data_version.get(),
                match version.origin {
                    Origin::Change => "change",
                    Origin::Snapshot(_) => "snapshot",
                },
            ),
            TimelineEntry::Rewound { data_version, .. } => (data_version.get(), "rewound"),
            TimelineEntry::Missing { first, .. } => (first.get(), "missing"),
        };
        history.timeline().map(status).collect()
    }

    #[test]
    fn every_version_is_what_the_node_had() {
        for pragmas in [
            "",
            "PRAGMA page_size = 512",
            "PRAGMA page_size = 65536",
            "PRAGMA auto_vacuum = FULL",
            "PRAGMA auto_vacuum = INCREMENTAL",
            "PRAGMA journal_mode = WAL",
        ] {
            let mut node = Node::new(pragmas);
            let mut expected = vec![(10, contents(&node.connection))];
            let mut recording = node.record();
            for round in 0..40 {
                node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
                expected.push((node.version, contents(&node.connection)));
            }
            let (history, read) = node.backup().read_history();
            read.unwrap();
            for (version, contents) in expected {
                assert_eq!(node.contents_of(&history, version), contents, "version {version}, {pragmas}");
            }
        }
    }

    #[test]
    fn a_change_that_was_not_committed_is_rewound_and_its_number_used_again() {
        let mut node = Node::new("");
        node.write(&mut node.record(), "one", Fate::Committed).unwrap();
        node.write(&mut node.record(), "never", Fate::Lost).unwrap();
        let recorded = node.write(&mut node.record(), "two", Fate::Committed).unwrap();
        assert_eq!(recorded, Some(Recorded::Rewound { data_version: DataVersion::new(12) }));
        assert_eq!(statuses(&node), [(10, "snapshot"), (11, "change"), (12, "rewound"), (12, "change")]);
        assert_eq!(node.newest_contents(), (12, contents(&node.connection)));
    }

    #[test]
    fn a_gap_is_healed_by_storing_the_pages_that_differ() {
        let mut node = Node::new("PRAGMA page_size = 512");
        let mut recording = node.record();
        for round in 0..200 {
            node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
        }
        drop(recording);
        for _ in 0..SNAPSHOT_CHAIN_MAX + 2 {
            let mut recording = node.record();
            for _ in 0..3 {
                node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
            }
            let to = DataVersion::new(node.version);
            let recorded = node.write(&mut recording, "seen", Fate::Committed).unwrap();
            assert!(matches!(recorded, Some(Recorded::Healed { to: healed, .. }) if healed == to), "{recorded:?}");
            assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)));
        }
        assert_eq!(&statuses(&node)[200..204], [(210, "change"), (211, "missing"), (213, "snapshot"), (214, "change")]);
        let (history, _) = node.backup().read_history();
        let chain = history.newest_snapshots().len();
        assert!(chain <= SNAPSHOT_CHAIN_MAX, "{chain}");
        assert!(chain < history.timeline().filter(|e| matches!(e, TimelineEntry::Missing { .. })).count());
    }

    #[test]
    fn on_gap_stop_refuses_and_records_nothing() {
        let mut node = Node::new("");
        node.backup_lock.on_gap = OnGap::Stop;
        let mut recording = node.record();
        node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
        let error = node.write(&mut recording, "refused", Fate::Committed).unwrap_err();
        assert!(matches!(error, RecordError::Gap { .. }), "{error}");
        drop(recording);
        assert_eq!(statuses(&node), [(10, "snapshot")]);
    }

    #[test]
    fn an_old_state_put_back_is_refused() {
        let mut node = Node::new("");
        std::fs::copy(node.database(), node.dir.path().join("old")).unwrap();
        let mut recording = node.record();
        for _ in 0..3 {
            node.write(&mut recording, "lost", Fate::Committed).unwrap();
        }
        drop(recording);
        std::fs::copy(node.dir.path().join("old"), node.database()).unwrap();
        node.connection = rusqlite::Connection::open(node.database()).unwrap();
        node.version = 10;
        let error = node.write(&mut node.record(), "old", Fate::Committed).unwrap_err();
        assert!(error.to_string().contains("backupfs restore"), "{error}");
        assert_eq!(statuses(&node).len(), 4);
    }

    #[test]
    fn the_database_of_another_node_is_refused() {
        let mut node = Node::new("");
        node.connection
            .execute("UPDATE vars SET blobval = x'aa' || substr(zeroblob(33), 2) WHERE name = 'node_id'", [])
            .unwrap();
        node.connection.execute("UPDATE vars SET blobval = CAST(blobval AS BLOB) WHERE name = 'node_id'", []).unwrap();
        let error = node.write(&mut node.record(), "other", Fate::Committed).unwrap_err();
        assert!(matches!(error, RecordError::OtherNode { .. }), "{error}");
        assert_eq!(statuses(&node), [(10, "snapshot")]);
    }

    #[test]
    fn a_second_recorder_is_refused_while_the_first_lives() {
        let node = Node::new("");
        let first = node.record();
        let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(node.backup_path()));
        let second = Recording::open_in(Arc::clone(&directory), &node.backup_lock, &node.database());
        assert!(matches!(second, Err(OpenRecordingError::Locked { .. })), "{second:?}");
        drop(first);
        Recording::open_in(directory, &node.backup_lock, &node.database()).unwrap();
    }

    #[test]
    fn a_write_that_does_not_fit_is_refused_and_the_next_one_recorded() {
        let mut node = Node::new("");
        let mut recording = node.record();
        let huge = "x".repeat(crate::format::record::PAYLOAD_LEN_MAX);
        let write =
            DbWrite { data_version: DataVersion::new(11), statements: &[huge.into()], received_at: Timestamp::now() };
        // Without a bump it would be a rider on 11, a gap; with one it is too long. Either way it is refused.
        assert!(recording.record(&write).is_err());
        let mut statements = node.statements("x");
        statements.push("y".repeat(crate::format::record::PAYLOAD_LEN_MAX).into());
        let write = DbWrite { statements: &statements, ..write };
        assert!(matches!(recording.record(&write), Err(RecordError::Append(AppendError::TooLong(_)))));
        node.write(&mut recording, "fits", Fate::Committed).unwrap();
        assert_eq!(node.newest_contents(), (11, contents(&node.connection)));
    }

    /// What was acknowledged is there and nothing else, whichever call fails, and recording goes on after a restart.
    #[test]
    fn every_failing_call_is_a_refusal_and_loses_nothing() {
        let script = |node: &mut Node, recording: &mut Recording| -> Result<(), RecordError> {
            // A log roll, a heal and ordinary writes.
            for round in 0..3 {
                node.write(recording, &"long ".repeat(300_000), Fate::Committed)?;
                node.write(recording, &format!("round {round}"), Fate::Committed)?;
            }
            node.write(recording, "unseen", Fate::Unseen)?;
            node.write(recording, "unseen", Fate::Unseen)?;
            node.write(recording, "seen", Fate::Committed)?;
            Ok(())
        };
        let calls = {
            let mut node = Node::new("");
            let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
            let mut recording = node.record_in(Arc::clone(&directory) as _);
            let before = directory.calls();
            script(&mut node, &mut recording).unwrap();
            directory.calls() - before
        };
        assert!(calls > 150, "{calls} calls: the script no longer rolls the log or heals");
        let zero_fill = 20..130; // all alike: sampled
        for nth in (0..calls).filter(|nth| !zero_fill.contains(nth) || nth % 10 == 0) {
            let mut node = Node::new("");
            let directory = Arc::new(FaultyDirectory::new(node.backup_path()));
            let mut recording = node.record_in(Arc::clone(&directory) as _);
            directory.fail_nth(nth);
            let result = script(&mut node, &mut recording);
            // A snapshot that failed has not touched the log; a write or sync of the log that failed poisons it.
            if matches!(result, Err(RecordError::Append(_))) {
                let again = node.write(&mut recording, "again", Fate::Committed);
                assert!(again.is_err(), "call {nth}: a writer that failed goes on");
            }
            drop(recording);
            node.write(&mut node.record(), "after", Fate::Committed).unwrap();
            assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)), "call {nth}");
        }
    }
}

//! [`Recording`]: the recorder's hold on a backup. Applies the version rules to every write and makes it durable.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::{Backup, read_manifest};
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::format::record::{RunStart, SnapshotReason};
use crate::history::History;
use crate::live_database::{LiveDatabase, LiveDatabaseError};
use crate::log::{LogWriter, recover};
use crate::pages::ExpectedSnapshot;
use crate::record_error::{Hex, Shown};
use crate::snapshot::{Base, NewSnapshot, SnapshotError, take_snapshot};
use crate::storage::{Directory, RealDirectory, replace_file};
use crate::version_rules::{Bump, Commit, Decision, Newest, decide};
use crate::{BackupLock, BackupUrl, DataVersion, OnGap, OpenRecordingError, RecordError, Seq, Timestamp};

/// A chain of delta snapshots longer than this is cut by a full one: finding a page looks into every one.
const SNAPSHOT_CHAIN_MAX: usize = 16;

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
mod tests;

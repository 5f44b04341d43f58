//! The locations of backup and spool on the disk, and how a recorder opens them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use super::disk::{Disk, Node, Tree};
use crate::backup::Backup;
use crate::backup::source::Source;
use crate::config::backup_lock::{BackupLock, OnGap};
use crate::config::log_limits::LogLimits;
use crate::config::on_unreachable::OnUnreachable;
use crate::recording::BackupWriter;
use crate::storage::causes::with_causes;

/// Logs of some four changes, keyframes of one or two.
pub(super) const LIMITS: LogLimits = LogLimits { bytes: 3 << 10, statements: 60 };

pub(super) const BACKUP: &str = "node.bkp";
pub(super) const SPOOL: &str = "spool";
pub(super) const LIGHTNING_DIR: &str = "lightning-dir";

/// Temporary name of the backup while it is created.
pub(super) const BUILDING: &str = ".backupfs-init.x";

pub(super) const UUID: Uuid = Uuid::from_u128(7);

/// The parts besides the disk: `backup.lock` and the node's database.
pub(super) struct Home {
    dir: TempDir,
    lock: BackupLock,
}

impl Home {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let on_unreachable = OnUnreachable::Spool { directory: dir.path().join(SPOOL), wait: Duration::ZERO };
        let (backend_url, backup_uuid) = (format!("file:///disk/{BACKUP}").parse().unwrap(), Some(UUID));
        let lock = BackupLock {
            backend_url,
            backup_uuid,
            database: None,
            on_gap: OnGap::Heal,
            on_unreachable,
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        };
        Self { dir, lock }
    }

    /// A disk with an empty spool, and a lightning-dir.
    pub(super) fn disk() -> Tree {
        let root = [(SPOOL.to_owned(), Node::Directory(1)), (LIGHTNING_DIR.to_owned(), Node::Directory(2))].into();
        let spool = [(format::names::LOCK.to_owned(), Node::File(0))].into();
        Tree { directories: vec![root, spool, BTreeMap::new()], files: vec![Arc::default()] }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.dir.path().join("lightningd.sqlite3")
    }

    /// Sets the state of the node's database.
    pub(super) fn put_database(&self, bytes: &[u8]) {
        fs::write(self.database(), bytes).unwrap();
    }

    /// Opens what a recorder opens at its start: a spool with changes, or else the backup.
    pub(super) fn open(&self, disk: &Disk, database: &Path) -> Result<BackupWriter, String> {
        let directory = |path| disk.directory(path).ok_or_else(|| format!("there is no {path}"));
        let (beside, path) = (directory(LIGHTNING_DIR)?, database.to_path_buf());
        let spool =
            BackupWriter::open_spool_in(directory(SPOOL)?, Arc::clone(&beside), UUID, &self.lock, path.clone(), LIMITS);
        if let Some(spooling) = spool.map_err(|error| with_causes(&error))? {
            return Ok(spooling);
        }
        BackupWriter::open_beside(directory(BACKUP)?, &self.lock, beside, path, LIMITS)
            .map_err(|error| with_causes(&error))
    }

    /// Opens it beside a missing database.
    pub(super) fn open_alone(&self, disk: &Disk) -> Result<BackupWriter, String> {
        self.open(disk, &self.dir.path().join("no.sqlite3"))
    }

    pub(super) fn backup(&self, disk: &Disk) -> Result<Arc<Backup>, String> {
        let directory = disk.directory(BACKUP).ok_or("there is no backup")?;
        Backup::open(Source::new(self.lock.backend_url.to_string(), directory))
            .map(Arc::new)
            .map_err(|error| with_causes(&error))
    }
}

/// Drains the spool into the backup.
pub(super) fn drain(disk: &Disk, recording: &mut BackupWriter) -> Result<(), String> {
    let directory = |path| disk.directory(path).ok_or_else(|| format!("there is no {path}"));
    let Some(plan) = recording.drain_plan_of(directory(SPOOL)?) else { return Ok(()) };
    let mut drain = plan.attach_in(directory(BACKUP)?, None).map_err(|error| with_causes(&error))?;
    drain.advance(recording.end()).map_err(|error| with_causes(&error))?;
    recording.go_on_in_backup(drain).map_err(|error| with_causes(&error))
}

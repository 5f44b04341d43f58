//! Replacing a backup: it is renamed, never deleted, and only while it is not in use.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::backup::snapshot_check::check_pages;
use crate::backup::view::View;
use crate::backup::{Backup, OpenError};
use crate::config::backup_lock::BackupLock;
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::create::CreateError;
use crate::live::live_database::LiveDatabase;
use crate::spool::SpoolError;
use crate::spool::{HeldSpool, SpoolMarker};
use crate::storage::boot::{commit_in_boot, current_boot};
use crate::storage::unused_name::{REPLACED, unused_name};
use crate::storage::{Directory, RealDirectory, StorageError};
use format::Damage;
use format::manifest::NodeId;
use format::names;
use format::units::Hex;
use format::units::{DataVersion, Timestamp};
use format::version_rules::{Bump, Decision, Newest, decide};

/// The reason why a backup cannot be replaced. It is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The directory has other files.
    #[error("{path} holds no file of a backup, so it is left alone; check the path", path = .path.display())]
    NotABackup {
        /// The directory.
        path: PathBuf,
    },
    /// The backup of `backup.lock` is missing, and no earlier attempt has renamed it.
    #[error("there is nothing at {path}, where backup.lock of this node says that the backup is: is its disk mounted? Only if \
        that backup is gone for good, move backup.lock away and run `backupfs init`", path = .path.display())]
    NothingThere {
        /// The expected path.
        path: PathBuf,
    },
    /// The path is a mount point, which cannot be renamed.
    #[error("{path} is a mount point, which cannot be renamed: move the files of the backup into a directory in it, and run \
        `backupfs init` with a URL for a new one beside that (backup.lock has to be moved away first)", path = .path.display())]
    MountPoint {
        /// The directory.
        path: PathBuf,
    },
    /// A recorder, or `backupfs seal`, has the lock.
    #[error("{path} is in use: stop the node first, and every other program that writes to the backup", path = .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The backup was written by a later release, so its node and its newest version are unknown.
    #[error("{path} is left alone: {reason}. Only if it is not that but damaged, rename it and backup.lock by hand, and run \
        `backupfs init`", path = .path.display())]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Error of its manifest.
        reason: Damage,
    },
    /// The backup belongs to another node.
    #[error("{path} is the backup of node {theirs}, but the database is of node {ours}; check the paths", path = .path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Node of the backup.
        theirs: String,
        /// Node of the database.
        ours: String,
    },
    /// The database is older than the backup, as far as that can be read.
    #[error("{path} holds version {newest}, but the database is at version {database}: this node was put on an old state, \
        which peers may punish; restore the newest version with `backupfs restore` instead. Only if you went back on purpose, as to \
        the version before a failed upgrade, and `backupfs preflight` says that going back is safe, add \
        --accept-stale-state",
        path = .path.display())]
    DatabaseIsBehind {
        /// The directory.
        path: PathBuf,
        /// Newest version of the backup.
        newest: DataVersion,
        /// Version of the database; 0 when there is none.
        database: DataVersion,
    },
    /// The database is older than the spool of the backup.
    #[error("the spool {path} holds version {newest}, but the database is at version {database}: this node was put on an old \
        state, which peers may punish; make the backup reachable and start lightningd once, which drains the spool and then \
        refuses; then restore the newest version with `backupfs restore`. Only if you went back on purpose, and no commitment was \
        revoked in between, add --accept-stale-state",
        path = .path.display())]
    DatabaseIsBehindSpool {
        /// Path of the spool.
        path: PathBuf,
        /// Newest version in the spool.
        newest: DataVersion,
        /// Version of the database; 0 when there is none.
        database: DataVersion,
    },
    /// A spool has changes, and its newest version is unknown.
    #[error("whether the spool of this backup holds a newer version than the database cannot be found out; only if the \
        database is the one that lightningd ran on last, and not a restored one, move {marker} away and do it again",
        marker = .marker.display())]
    Spool {
        /// Path of the marker.
        marker: PathBuf,
        /// Reason why the spool cannot be used.
        source: SpoolError,
    },
    /// The directory cannot be read or renamed.
    #[error("cannot put {path} aside", path = .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The lock cannot be taken.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Whether the backup of a database that is older may replace the existing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleDatabase {
    /// No: the node was put on an old state.
    Refuse,
    /// Yes: the operator went back on purpose.
    Accept,
}

/// A directory with a backup, intact or broken, locked while this exists.
#[derive(Debug)]
pub(crate) struct Replaced {
    path: PathBuf,
    uuid: Option<Uuid>,
    node_id: Option<NodeId>,
    newest: Option<Newest>,
    backup: Option<Arc<Backup>>,
    /// `None` for a backup without its `LOCK` file.
    _lock: Option<Box<dyn fmt::Debug + Send + Sync>>,
}

impl Replaced {
    /// Checks the directory and locks it.
    ///
    /// # Errors
    /// When it is in use, or has no file of a backup.
    pub(crate) fn find(path: &Path) -> Result<Self, ReplaceError> {
        let io_error = |source| ReplaceError::Io { path: path.to_path_buf(), source };
        // A link stays, and still leads to the path of the backup.
        let path = path.canonicalize().map_err(io_error)?;
        // Checked before anything is written, not only at the rename.
        if is_mount_point(&path).map_err(io_error)? {
            return Err(ReplaceError::MountPoint { path });
        }
        let directory = RealDirectory::new(&path);
        if !directory.list()?.iter().any(|name| is_of_a_backup(name)) {
            return Err(ReplaceError::NotABackup { path });
        }
        let lock = match directory.lock(names::LOCK) {
            Ok(lock) => Some(lock),
            Err(error) if error.is_not_found() => None,
            Err(error) if error.source.kind() == io::ErrorKind::WouldBlock => {
                return Err(ReplaceError::InUse { path });
            }
            Err(error) => return Err(error.into()),
        };
        // Node and newest version are known only as far as the backup can be read.
        let Some(url) = path.to_str().and_then(|path| path.parse::<BackupUrl>().ok()) else {
            let reason = "without links, its path cannot be written as a URL";
            return Err(io_error(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        };
        let backup = match Backup::open(&url) {
            Err(OpenError::NewerFormat { reason, .. }) => return Err(ReplaceError::NewerFormat { path, reason }),
            opened => opened.ok().map(Arc::new),
        };
        let uuid = backup.as_ref().map(|backup| backup.manifest().uuid);
        let node_id = backup.as_ref().and_then(|backup| backup.manifest().node_id);
        let newest = backup.as_ref().and_then(|backup| backup.read_records().0.newest_for_rules());
        Ok(Self { path, uuid, node_id, newest, backup, _lock: lock })
    }

    /// Path without links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the database, if there is one, belongs to the same node and, unless that is accepted, is no older, as far as
    /// that is known. A database that is missing is never accepted.
    ///
    /// # Errors
    /// [`ReplaceError::OtherNode`], [`ReplaceError::DatabaseIsBehind`], or when the database cannot be read.
    pub(crate) fn expect_same_node(
        &self,
        live: Option<&LiveDatabase>,
        stale: StaleDatabase,
    ) -> Result<(), CreateError> {
        let path = || self.path.clone();
        let node_id = live.map(LiveDatabase::node_id).transpose()?.flatten();
        if let (Some(theirs), Some(ours)) = (self.node_id, node_id)
            && theirs != ours
        {
            let [theirs, ours] = [theirs, ours].map(|id| Hex(&id).to_string());
            return Err(ReplaceError::OtherNode { path: path(), theirs, ours }.into());
        }
        match older_than(self.newest, live)? {
            Some(_) if stale == StaleDatabase::Accept && live.is_some() => Ok(()),
            Some((database, newest)) => Err(ReplaceError::DatabaseIsBehind { path: path(), newest, database }.into()),
            None => Ok(()),
        }
    }

    /// The newest version, if it can be restored: all records are readable, it opens, and SQLite finds no damage.
    pub(crate) fn restorable(&self) -> Option<DataVersion> {
        let backup = self.backup.as_ref()?;
        let (history, read) = backup.read_history();
        let newest = read.ok().and_then(|()| history.newest())?;
        let view = View::build(backup, &history.plan(newest).ok()?, None).ok()?;
        let checked = check_pages(Arc::new(view.pages().clone()), newest.data_version, &Arc::default());
        checked.is_ok_and(|found| found.is_none()).then_some(newest.data_version)
    }

    /// Renames it to an unused name beside it, which is returned. Durable once the parent directory is synced.
    ///
    /// # Errors
    /// When the operating system refuses, as for a mount point.
    pub(crate) fn rename(&self, now: Timestamp) -> Result<PathBuf, ReplaceError> {
        let io_error = |source| ReplaceError::Io { path: self.path.clone(), source };
        let aside = unused_name(&self.path, now).map_err(io_error)?;
        fs::rename(&self.path, &aside).map_err(io_error)?;
        Ok(aside)
    }
}

/// The spool with changes that the replaced backup may lack, locked while this exists: a recorder that spools holds no other
/// lock.
#[derive(Debug)]
pub(crate) struct LeftSpool {
    held: HeldSpool,
}

impl LeftSpool {
    /// Follows the marker in the lightning-dir, if it belongs to the existing backup or the one of `backup.lock`, and locks the
    /// spool. `None` when the spool has no changes.
    ///
    /// # Errors
    /// When it is in use, missing, or cannot be read.
    pub(crate) fn find(lightning_dir: &Path, replaced: Option<&Replaced>) -> Result<Option<Self>, ReplaceError> {
        let named = BackupLock::read(lightning_dir).ok().and_then(|lock| lock.backup_uuid);
        let known = [replaced.and_then(|replaced| replaced.uuid), named];
        let is_ours = |uuid: Uuid| known.contains(&Some(uuid)) || known == [None, None];
        let beside_lock = RealDirectory::new(lightning_dir);
        let find = || -> Result<Option<HeldSpool>, SpoolError> {
            let Some(marker) = SpoolMarker::read(&beside_lock, None)?.filter(|marker| is_ours(marker.uuid)) else {
                return Ok(None);
            };
            let directory = Arc::new(RealDirectory::new(marker.path));
            HeldSpool::take(directory, &beside_lock, marker.uuid, LogLimits::default())
        };
        match find() {
            Ok(held) => Ok(held.map(|held| Self { held })),
            Err(SpoolError::Locked { path }) => Err(ReplaceError::InUse { path }),
            Err(source) => Err(ReplaceError::Spool { marker: lightning_dir.join(SpoolMarker::FILE_NAME), source }),
        }
    }

    /// Path of the spool.
    pub(crate) fn path(&self) -> &Path {
        self.held.directory.path()
    }

    /// Checks that the database, if there is one, is no older, unless that is accepted.
    ///
    /// # Errors
    /// [`ReplaceError::DatabaseIsBehindSpool`], or when the database cannot be read.
    pub(crate) fn expect_no_newer(&self, live: Option<&LiveDatabase>, stale: StaleDatabase) -> Result<(), CreateError> {
        let contents = &self.held.contents;
        let newest = contents.newest.map(|newest| {
            let commit = commit_in_boot(contents.commit, contents.note, current_boot());
            Newest { data_version: newest.data_version, commit }
        });
        match older_than(newest, live)? {
            Some(_) if stale == StaleDatabase::Accept && live.is_some() => Ok(()),
            Some((database, newest)) => {
                let path = self.path().to_path_buf();
                Err(ReplaceError::DatabaseIsBehindSpool { path, newest, database }.into())
            }
            None => Ok(()),
        }
    }
}

/// The version of a database that the version rules refuse, with the expected one; `None` when they accept it.
fn older_than(
    newest: Option<Newest>,
    live: Option<&LiveDatabase>,
) -> Result<Option<(DataVersion, DataVersion)>, CreateError> {
    let database = live.map(LiveDatabase::data_version).transpose()?.unwrap_or_default();
    Ok(match decide(newest, database, Bump::Absent) {
        Decision::Refuse { newest, .. } => Some((database, newest)),
        Decision::Append | Decision::Rewind | Decision::Heal { .. } => None,
    })
}

/// Checks that a missing `target` was really removed, and that not just a disk is missing: what `backup.lock` names must exist,
/// unless power failed between the two renames of an earlier attempt.
///
/// # Errors
/// [`ReplaceError::NothingThere`], or when the parent directory cannot be read.
pub(crate) fn expect_gone(target: &Path, lightning_dir: &Path) -> Result<(), ReplaceError> {
    if BackupLock::read(lightning_dir).is_err() || was_renamed(target)? {
        return Ok(());
    }
    Err(ReplaceError::NothingThere { path: target.to_path_buf() })
}

/// Whether there is a directory that [`Replaced::rename`] may have renamed from `target`.
fn was_renamed(target: &Path) -> Result<bool, ReplaceError> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Ok(false) };
    let aside = format!("{}{REPLACED}", name.to_string_lossy());
    Ok(RealDirectory::new(parent).list()?.iter().any(|name| name.starts_with(&aside)))
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

/// Whether a broken backup may have this file.
fn is_of_a_backup(name: &str) -> bool {
    [names::MANIFEST, names::LOCK].contains(&name)
        || names::parse_log(name).is_some()
        || names::parse_segment(name).is_some()
        || names::parse_snapshot(name).is_some()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::create::{DamagedDatabase, replace_backup};
    use crate::testing::Node;

    /// A regression: a backup that an older release cannot read was taken for a broken one, whose node and newest version are
    /// unknown.
    #[test]
    fn a_backup_of_a_newer_format_is_not_taken_for_a_broken_one() {
        let node = Node::new("");
        let manifest = node.backup_path().join(names::MANIFEST);
        let mut bytes = fs::read(&manifest).unwrap();
        let format_version = 8;
        assert_eq!(bytes[format_version], 1, "little-endian, behind the magic");
        bytes[format_version] = 99;
        fs::write(&manifest, bytes).unwrap();
        let url = &node.backup_lock.backend_url;
        let (dir, database) = (node.dir.path(), node.database());
        let go_on = &mut |_| ControlFlow::Continue(());
        let replaced = replace_backup(url, dir, Some(&database), DamagedDatabase::Refuse, StaleDatabase::Refuse, go_on);
        let Err(CreateError::Replace(refused @ ReplaceError::NewerFormat { .. })) = replaced else {
            panic!("{replaced:?}")
        };
        assert!(refused.to_string().contains("99"), "{refused}");
        assert!(manifest.exists(), "it stays where it is");
    }
}

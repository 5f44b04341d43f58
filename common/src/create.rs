//! Creating a new backup.

pub(crate) mod replace;

use std::fmt;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::backup::Backup;
use crate::backup::snapshot_check::{StoredSnapshot, interruptible, write_checked};
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::create::replace::{LeftSpool, ReplaceError, Replaced, StaleDatabase, expect_gone};
use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::live::take_snapshot::{NewSnapshot, PagesDone, SnapshotError, take_snapshot};
use crate::log::{AppendError, create_first_log_within};
use crate::parity::share::ParityShare;
use crate::storage::owner::Owner;
use crate::storage::read_error::ReadError;
use crate::storage::unfinished::new_building;
use crate::storage::{Directory, RealDirectory, StorageError, StorageOp, replace_file};
use format::checked::CheckedSnapshots;
use format::manifest::Manifest;
use format::names;
use format::snapshot_ref::SnapshotReason;
use format::units::{DataVersion, PageSize, Timestamp};

/// Treatment of an existing backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing<'a> {
    /// The existing backup stays, and no backup is created.
    Refuse,
    /// The existing backup is renamed, intact or broken, when the new one is complete.
    Replace {
        /// The directory of the spool marker.
        lightning_dir: &'a Path,
        /// Treatment of a damaged database.
        damaged: DamagedDatabase,
        /// Treatment of a database that is older than the backup.
        stale: StaleDatabase,
    },
}

/// Whether the backup of a damaged database may replace an intact backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamagedDatabase {
    /// No: the old backup stays.
    Refuse,
    /// Yes.
    Accept,
}

/// The reason why no backup was created. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The path exists already.
    #[error(
        "{url} exists already and is not an empty directory. If it is the backup of this node, connect the node to it with \
         `backupfs attach --lightning-dir DIR {url}`; `backupfs init --replace` renames a broken one and begins anew. Else choose \
         another place"
    )]
    Exists {
        /// The URL of the new backup.
        url: BackupUrl,
    },
    /// The parent directory does not exist.
    #[error("there is no directory {path}; mount the disk it is on, or make it with `mkdir`", path = .path.display())]
    NoParent {
        /// The directory.
        path: PathBuf,
    },
    /// A directory or file cannot be created.
    #[error("cannot create {path}", path = .path.display())]
    Io {
        /// Path of that.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database is being written to.
    #[error("{path} is locked by a node that is running: stop lightningd first (`lightning-cli stop`)", path = .path.display())]
    NodeRuns {
        /// The database.
        path: PathBuf,
    },
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] LiveDatabaseError),
    /// The pages of the database cannot be copied.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log cannot be created.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The existing backup cannot be replaced.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// The stored snapshot cannot be read back.
    #[error("what was stored cannot be read back, so no backup was made; check the disk")]
    ReadBack(#[from] ReadError),
    /// The database is damaged, and the existing backup is intact.
    #[error(
        "the database is damaged ({found}), and the backup at {path} is whole up to version {newest}, so it stays where it is. \
         {}. To begin anew with the damaged database all the same, add --accept-damaged-database",
        instead_of_damaged(*newest, *database), path = .path.display()
    )]
    DamagedDatabase {
        /// Path of the backup.
        path: PathBuf,
        /// Newest version of the backup.
        newest: DataVersion,
        /// Version of the database.
        database: DataVersion,
        /// SQLite's message about the database.
        found: String,
    },
    /// The new backup could not be renamed, and neither could the old one be renamed back.
    #[error("{path} could not be replaced, and is now {aside}; rename it back by hand",
        path = .path.display(), aside = .aside.display())]
    LeftAside {
        /// Former path of the old backup.
        path: PathBuf,
        /// Current path of the old backup.
        aside: PathBuf,
        /// Reason why the new one was not renamed.
        source: Box<CreateError>,
    },
}

/// A backup that was just created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// UUID for `backup.lock`.
    pub uuid: Uuid,
    /// The snapshot that it begins with; `None` for a new node.
    pub snapshot: Option<CreatedSnapshot>,
    /// New path of the backup that was replaced.
    pub renamed_to: Option<PathBuf>,
    /// Spool of the replaced backup, which may have changes that are in neither backup; it is unchanged.
    pub left_spool: Option<PathBuf>,
}

/// Advice for a damaged database when there is a backup.
fn instead_of_damaged(newest: DataVersion, database: DataVersion) -> String {
    if newest == database {
        return "Restore that version instead: `backupfs restore --backup-existing`".to_owned();
    }
    format!(
        "The database is at version {database}, so do not run a node on what is in the backup: repair the database, for \
         instance with `sqlite3 lightningd.sqlite3 .recover | sqlite3 repaired.sqlite3`, and put the repaired one in its place"
    )
}

/// The snapshot that a backup begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSnapshot {
    /// Version of the database.
    pub data_version: DataVersion,
    /// Number of pages of the database.
    pub page_count: u32,
    /// Page size.
    pub page_size: PageSize,
    /// SQLite's message if the database is damaged; the backup has it as it is.
    pub damage: Option<String>,
    /// Names of its virtual tables: changes that write to them may not replay.
    pub virtual_tables: Vec<String>,
}

/// Creates a backup at `url`: with a snapshot of `database`, or empty for a new node.
///
/// The directory is renamed to its final name when everything in it is durable: a power cut leaves a complete backup or none.
/// `progress` is called for every page, and can stop it.
///
/// # Errors
/// When `url` exists, or the database cannot be read. Then nothing has been created.
pub fn create_backup(
    url: &BackupUrl,
    database: Option<&Path>,
    progress: &mut dyn FnMut(PagesDone) -> ControlFlow<()>,
) -> Result<Created, CreateError> {
    create(url, None, database, Existing::Refuse, progress)
}

/// Like [`create_backup`], for the node in `lightning_dir`: when root creates it, it belongs to the owner of that directory.
///
/// # Errors
/// The same as for [`create_backup`].
pub fn create_backup_for(
    url: &BackupUrl,
    lightning_dir: &Path,
    database: Option<&Path>,
    progress: &mut dyn FnMut(PagesDone) -> ControlFlow<()>,
) -> Result<Created, CreateError> {
    create(url, Some(lightning_dir), database, Existing::Refuse, progress)
}

/// Creates a backup at `url` like [`create_backup`], and renames the existing one, intact or broken.
///
/// A transaction that a crash left in the database is rolled back first. The old backup is renamed when the new one is complete.
/// After a power cut between the two renames there is no backup at `url`, and the old one has its new name: repeating the call
/// creates one. If nothing else explains a missing backup, the call is refused: the disk may not be mounted.
///
/// # Errors
/// The same as for [`create_backup`]; also when the existing backup, or the spool known to `lightning_dir`, is in use or, unless
/// `stale` accepts it, newer than the database, when the directory is no backup or belongs to another node, and, unless `damaged`
/// accepts it, when the database is damaged and the existing backup intact. Then nothing has been created and, except for
/// [`CreateError::LeftAside`], nothing renamed.
pub fn replace_backup(
    url: &BackupUrl,
    lightning_dir: &Path,
    database: Option<&Path>,
    damaged: DamagedDatabase,
    stale: StaleDatabase,
    progress: &mut dyn FnMut(PagesDone) -> ControlFlow<()>,
) -> Result<Created, CreateError> {
    create(url, Some(lightning_dir), database, Existing::Replace { lightning_dir, damaged, stale }, progress)
}

fn create(
    url: &BackupUrl,
    node: Option<&Path>,
    database: Option<&Path>,
    existing: Existing<'_>,
    progress: &mut dyn FnMut(PagesDone) -> ControlFlow<()>,
) -> Result<Created, CreateError> {
    let target = url.path();
    let parent = target
        .parent()
        .filter(|parent| parent.is_dir())
        .ok_or_else(|| CreateError::NoParent { path: target.parent().unwrap_or(target).to_path_buf() })?;
    let replaced = match (is_absent_or_empty(target).map_err(|source| io_error(target, source))?, existing) {
        (true, Existing::Refuse) => None,
        (true, Existing::Replace { lightning_dir, .. }) => {
            expect_gone(target, lightning_dir)?;
            None
        }
        (false, Existing::Refuse) => return Err(CreateError::Exists { url: url.clone() }),
        (false, Existing::Replace { .. }) => Some(Replaced::find(target)?),
    };
    let left_spool = match existing {
        Existing::Refuse => None,
        Existing::Replace { lightning_dir, .. } => LeftSpool::find(lightning_dir, replaced.as_ref())?,
    };
    // Beside the replaced backup, following links.
    let (target, parent) = match &replaced {
        Some(replaced) => (replaced.path(), replaced.path().parent().unwrap_or(parent)),
        None => (target, parent),
    };
    let open = match existing {
        Existing::Refuse => LiveDatabase::open,
        // The recorder refused a write, and `lightningd` died within its transaction. The next start would end in the same way.
        Existing::Replace { .. } => LiveDatabase::open_rolled_back,
    };
    let live = database.filter(|path| !is_new(path)).map(open).transpose().map_err(|error| match error {
        LiveDatabaseError::Busy { path } => CreateError::NodeRuns { path },
        error => error.into(),
    })?;
    let stale = match existing {
        Existing::Replace { stale, .. } => stale,
        Existing::Refuse => StaleDatabase::Refuse,
    };
    if let Some(replaced) = &replaced {
        replaced.expect_same_node(live.as_ref(), stale)?;
    }
    if let Some(spool) = &left_spool {
        spool.expect_no_newer(live.as_ref(), stale)?;
    }
    let owner = Owner::other_than_root([node.unwrap_or(parent)]);
    let building = new_building(parent, owner).map_err(|source| io_error(target, source))?;
    let new = NewBackup {
        parent: &RealDirectory::new(parent),
        building: &file_name(building.path()),
        name: &file_name(target),
        inside: Arc::new(RealDirectory::new(building.path())),
    };
    let (uuid, mut renamed_to) = (Uuid::new_v4(), None);
    let made = create_in(&new, uuid, live.as_ref(), LogLimits::default(), progress, &mut |snapshot| {
        if let (Some(replaced), Some(snapshot), Existing::Replace { damaged: DamagedDatabase::Refuse, .. }) =
            (&replaced, snapshot, existing)
        {
            expect_sound(replaced, snapshot)?;
        }
        renamed_to = replaced.as_ref().map(|replaced| replaced.rename(Timestamp::now())).transpose()?;
        Ok(())
    });
    let left_spool = left_spool.map(|spool| spool.path().to_path_buf());
    let renamed = renamed_to.clone();
    made.map(|snapshot| Created { uuid, snapshot, renamed_to, left_spool }).map_err(|error| match (renamed, error) {
        (Some(aside), error) if fs::rename(&aside, target).is_err() => {
            CreateError::LeftAside { path: target.to_path_buf(), aside, source: Box::new(error) }
        }
        (_, CreateError::Storage(error)) if error.op == StorageOp::Rename && is_taken(&error.source) => {
            CreateError::Exists { url: url.clone() }
        }
        (_, error) => error,
    })
}

/// Refuses to replace a restorable backup by one of a damaged database.
fn expect_sound(replaced: &Replaced, snapshot: &CreatedSnapshot) -> Result<(), CreateError> {
    let Some(found) = snapshot.damage.clone() else { return Ok(()) };
    match replaced.restorable() {
        Some(newest) => {
            let (path, database) = (replaced.path().to_path_buf(), snapshot.data_version);
            Err(CreateError::DamagedDatabase { path, newest, database, found })
        }
        None => Ok(()),
    }
}

/// Creates a backup at `url` with the contents that `fill` writes, durably. Root gives it to `owner`.
///
/// It is renamed to its final name at the end: a power cut leaves a complete backup or none.
///
/// # Errors
/// When `url` exists, or `fill` fails. Then nothing has been created.
pub(crate) fn create_filled<T, E: From<CreateError>>(
    url: &BackupUrl,
    owner: Option<Owner>,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let target = url.path();
    let io = |source| io_error(target, source);
    let parent = target.parent().filter(|parent| parent.is_dir());
    let parent =
        parent.ok_or_else(|| CreateError::NoParent { path: target.parent().unwrap_or(target).to_path_buf() })?;
    if !is_absent_or_empty(target).map_err(io)? {
        return Err(CreateError::Exists { url: url.clone() }.into());
    }
    let building = new_building(parent, owner).map_err(io)?;
    let _lock = lock_building(&RealDirectory::new(building.path())).map_err(CreateError::from)?;
    let filled = fill(building.path())?;
    let named = publish(&RealDirectory::new(parent), &file_name(building.path()), &file_name(target));
    named.map_err(|error| match error.op {
        StorageOp::Rename if is_taken(&error.source) => CreateError::Exists { url: url.clone() },
        _ => error.into(),
    })?;
    Ok(filled)
}

/// The directory in which a backup is created, and its final name.
pub(crate) struct NewBackup<'a> {
    pub(crate) parent: &'a dyn Directory,
    /// Name of the new directory in `parent` while it is filled.
    pub(crate) building: &'a str,
    pub(crate) name: &'a str,
    pub(crate) inside: Arc<dyn Directory>,
}

/// Fills a directory, frees its final name, and renames it, in this order.
pub(crate) fn create_in(
    new: &NewBackup<'_>,
    uuid: Uuid,
    live: Option<&LiveDatabase>,
    limits: LogLimits,
    progress: &mut dyn FnMut(PagesDone) -> ControlFlow<()>,
    make_room: &mut dyn FnMut(Option<&CreatedSnapshot>) -> Result<(), CreateError>,
) -> Result<Option<CreatedSnapshot>, CreateError> {
    let _lock = lock_building(&*new.inside)?;
    let snapshot = fill(&new.inside, uuid, live, limits, progress)?;
    make_room(snapshot.as_ref())?;
    publish(new.parent, new.building, new.name)?;
    Ok(snapshot)
}

/// Creates and takes the lock before anything else: a directory without a lock file, or with a free lock, is a leftover.
fn lock_building(inside: &dyn Directory) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
    inside.create(names::LOCK)?.sync()?;
    inside.lock(names::LOCK)
}

/// Renames a complete directory to its final name, durably.
fn publish(parent: &dyn Directory, building: &str, name: &str) -> Result<(), StorageError> {
    // Replaces an empty directory; fails if anything was created at the path meanwhile.
    parent.rename(building, name)?;
    parent.sync().inspect_err(|_| {
        // The rename may not survive a power cut; it is undone, and only the first error is reported.
        let _stays = parent.rename(name, building);
    })
}

/// Writes the files of the new backup.
fn fill(
    directory: &Arc<dyn Directory>,
    uuid: Uuid,
    live: Option<&LiveDatabase>,
    limits: LogLimits,
    progress: &mut dyn FnMut(PagesDone) -> ControlFlow<()>,
) -> Result<Option<CreatedSnapshot>, CreateError> {
    let now = Timestamp::now();
    let manifest = Manifest {
        uuid,
        created: now,
        page_size: live.map_or(PageSize::DEFAULT, LiveDatabase::page_size),
        node_id: live.map(LiveDatabase::node_id).transpose()?.flatten(),
    };
    replace_file(&**directory, names::MANIFEST, &manifest.encode())?;
    let backup = Backup::of(Arc::clone(directory), manifest);
    let mut writer = create_first_log_within(directory, uuid, limits)?;
    let Some(live) = live else {
        make_parity(&backup)?;
        return Ok(None);
    };
    let data_version = live.data_version()?;
    let (seq, reason) = (writer.next_seq(), SnapshotReason::Init);
    let new = NewSnapshot { uuid, seq, data_version, reason, unreadable_since: None, time: now };
    let snapshot = take_snapshot(&**directory, live, &new, None, progress)?;
    writer.push_snapshot(data_version, now, &snapshot);
    writer.commit()?;
    let virtual_tables = live.virtual_tables()?;
    // The check takes as long again, and does not need the node's database.
    live.let_go()?;
    let (page_count, page_size) = (snapshot.page_count, snapshot.page_size);
    let stored = StoredSnapshot { seq: new.seq, data_version, snapshot };
    let mut is_stopped = false;
    let mut go_on = || {
        is_stopped |= progress(PagesDone { done: page_count, total: page_count, page_size }).is_break();
        !is_stopped
    };
    let checked = interruptible(&mut go_on, |stop| stored.check(&backup, stop));
    let damage = match checked.map_err(|source| io_error(directory.path(), source))? {
        Err(_) if is_stopped => return Err(SnapshotError::Interrupted.into()),
        checked => checked?,
    };
    // Before the backup has its final name, so that every backup of a damaged database has the result.
    write_checked(&**directory, uuid, &CheckedSnapshots::add(None, new.seq, data_version, damage.as_deref()))?;
    make_parity(&backup)?;
    Ok(Some(CreatedSnapshot { data_version, page_count, page_size, damage, virtual_tables }))
}

/// Makes the parity of a new backup, whose files were written and read back a moment ago.
pub(crate) fn make_parity(backup: &Backup) -> Result<(), StorageError> {
    let mut parity = backup.parity();
    parity.set_share(ParityShare::default());
    parity.complete(&|_| true, &mut || ControlFlow::Continue(())).map(drop)
}

/// Whether a database is missing or empty: SQLite first creates an empty file.
fn is_new(database: &Path) -> bool {
    fs::metadata(database).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |file| file.len() == 0)
}

fn is_absent_or_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the path was taken meanwhile.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory)
}

/// Last component of a path.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn io_error(path: &Path, source: io::Error) -> CreateError {
    CreateError::Io { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_interrupted_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        let connection = rusqlite::Connection::open(&database).unwrap();
        connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000))").unwrap();
        drop(connection);
        let url: BackupUrl = dir.path().join("node.bkp").to_str().unwrap().parse().unwrap();
        let mut seen = 0;
        let result = create_backup(&url, Some(&database), &mut |pages| {
            seen += 1;
            if pages.done == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(CreateError::Snapshot(SnapshotError::Interrupted))), "{result:?}");
        assert_eq!(seen, 7);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["db"]);
    }
}

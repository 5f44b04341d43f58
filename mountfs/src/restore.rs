//! Writing a version to a file: all of it, checked, or nothing.

use std::fs::{self, File};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, ScopedJoinHandle};

use common::{Backup, DataVersion, History, ReadError, ReplayError, Version, View, Views, version_of_database};
use rusqlite::{Connection, OpenFlags};

/// Name of the database in a directory given as the destination.
const DATABASE_NAME: &str = "lightningd.sqlite3";

/// Files that SQLite would take for a part of the restored database.
const COMPANIONS: [&str; 3] = ["-journal", "-wal", "-shm"];

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Threads that copy.
const COPIERS_MAX: usize = 4;

/// Bytes after which what is written is sent to the disk.
const SYNC_BYTES: u64 = 32 << 20;

/// How far a restore has come.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// The temporary file has been made; it has to go if the process is ended.
    Started {
        /// Its path.
        temporary: &'a Path,
        /// Bytes that will be copied.
        total_bytes: u64,
    },
    /// So many bytes have been copied.
    Copied(u64),
    /// Everything has been copied; SQLite is checking it.
    Checking,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new file.
    pub path: PathBuf,
    /// The version it holds.
    pub data_version: DataVersion,
    /// Its size.
    pub bytes: u64,
}

/// Why nothing was restored. In every case no file was left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is something already.
    #[error("{} exists and is not overwritten; move it away or name another destination", .0.display())]
    Exists(PathBuf),
    /// A journal of another database lies beside the destination.
    #[error(
        "{} lies beside the destination: SQLite would apply it to the restored database and destroy it; \
         move it away first",
        .0.display()
    )]
    Companion(PathBuf),
    /// The directory of the destination is not there.
    #[error("directory {path} does not exist; create it with `mkdir -p {path}`", path = .0.display())]
    NoDirectory(PathBuf),
    /// The destination is a place in the backup.
    #[error("{} is inside the backup; name a destination outside of it", .0.display())]
    InsideBackup(PathBuf),
    /// The destination names no file.
    #[error("{} names no file", .0.display())]
    NoFileName(PathBuf),
    /// A file cannot be made or written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The destination.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The version cannot be rebuilt.
    #[error("version {version} cannot be rebuilt from the backup")]
    View {
        /// The version.
        version: DataVersion,
        /// Why.
        #[source]
        source: Arc<ReplayError>,
    },
    /// A part of what the version is made of cannot be read.
    #[error("version {version} cannot be read from the backup")]
    Read {
        /// The version.
        version: DataVersion,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// SQLite cannot read the copy.
    #[error("SQLite cannot read what was restored of version {version}; do not use this backup before it is examined")]
    Sqlite {
        /// The version.
        version: DataVersion,
        /// What it said.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite found damage.
    #[error(
        "version {version} did not pass SQLite's quick_check ({finding}); do not use this backup before it is examined"
    )]
    Damaged {
        /// The version.
        version: DataVersion,
        /// The first line of what it said.
        finding: String,
    },
    /// The copy holds another version.
    #[error("the restored database says data_version {found} but should be {expected}; do not use it")]
    OtherVersion {
        /// The version that was asked for.
        expected: DataVersion,
        /// What the database says.
        found: DataVersion,
    },
}

impl RestoreError {
    /// True if the backup is at fault, not the destination.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Exists(_)
            | Self::Companion(_)
            | Self::NoDirectory(_)
            | Self::InsideBackup(_)
            | Self::NoFileName(_)
            | Self::Write { .. } => false,
            Self::View { .. }
            | Self::Read { .. }
            | Self::Sqlite { .. }
            | Self::Damaged { .. }
            | Self::OtherVersion { .. } => true,
        }
    }
}

/// A place where nothing is yet: checked before anything is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    path: PathBuf,
    directory: PathBuf,
}

impl Destination {
    /// Checks `path`; a directory means a file of the usual name in it.
    ///
    /// # Errors
    /// [`RestoreError`] says why nothing may be written there.
    pub fn check(path: &Path, backup: &Path) -> Result<Self, RestoreError> {
        let path = if path.is_dir() { path.join(DATABASE_NAME) } else { path.to_owned() };
        let Some(name) = path.file_name() else { return Err(RestoreError::NoFileName(path)) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            return Err(RestoreError::NoDirectory(parent.to_owned()));
        }
        let resolve = |directory: &Path| {
            directory.canonicalize().map_err(|source| RestoreError::Write { path: path.clone(), source })
        };
        let directory = resolve(parent)?;
        if directory.starts_with(resolve(backup)?) {
            return Err(RestoreError::InsideBackup(path));
        }
        // Not `exists()`: a link that leads nowhere is something, too.
        if path.symlink_metadata().is_ok() {
            return Err(RestoreError::Exists(path));
        }
        for suffix in COMPANIONS {
            let mut companion = name.to_owned();
            companion.push(suffix);
            let companion = parent.join(companion);
            if companion.symlink_metadata().is_ok() {
                return Err(RestoreError::Companion(companion));
            }
        }
        Ok(Self { path, directory })
    }

    /// The directory that it is in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Writes `version` to `destination`.
///
/// When this returns `Ok`, the file is complete, has passed SQLite's `quick_check`, says the right data_version, and
/// survives a power cut under its name.
///
/// # Errors
/// [`RestoreError`]; no file is left behind then.
pub fn restore(
    backup: &Arc<Backup>,
    history: &History,
    version: &Version,
    destination: &Destination,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Restored, RestoreError> {
    let data_version = version.data_version;
    let write_error = |source| RestoreError::Write { path: destination.path.clone(), source };
    let plan = history.plan(version).map_err(|source| RestoreError::Read { version: data_version, source })?;
    // One view is all that is needed: a cache would only keep it.
    let view = Views::new(Arc::clone(backup), 0)
        .open(&plan)
        .map_err(|error| RestoreError::View { version: data_version, source: error.reason })?;

    let temporary = tempfile::Builder::new()
        .prefix(".restoring-")
        .suffix(".tmp")
        .tempfile_in(&destination.directory)
        .map_err(write_error)?;
    progress(Progress::Started { temporary: temporary.path(), total_bytes: view.size_bytes() });
    copy(&view, data_version, destination, temporary.as_file(), progress)?;
    progress(Progress::Checking);
    let (checked, synced) = thread::scope(|scope| {
        let sync = || temporary.as_file().sync_all();
        let syncing = thread::Builder::new().name("restore-sync".to_owned()).spawn_scoped(scope, sync);
        (check(temporary.path(), data_version), syncing.map_or_else(|_| sync(), join))
    });
    checked?;
    synced.map_err(write_error)?;
    temporary.persist_noclobber(&destination.path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => RestoreError::Exists(destination.path.clone()),
        _ => write_error(error.error),
    })?;
    let synced = File::open(&destination.directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| {
        // The name may not survive a power cut; better none than one that is trusted. The error that counts is `source`.
        let _: io::Result<()> = fs::remove_file(&destination.path);
        write_error(source)
    })?;
    Ok(Restored { path: destination.path.clone(), data_version, bytes: view.size_bytes() })
}

/// Copies all pages, by several threads: decompressing them takes longer than writing them. What is written goes to the disk
/// meanwhile, so that little is left to wait for in the end.
fn copy(
    view: &View,
    version: DataVersion,
    destination: &Destination,
    file: &File,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), RestoreError> {
    let write_error = |source| RestoreError::Write { path: destination.path.clone(), source };
    let size_bytes = view.size_bytes();
    file.set_len(size_bytes).map_err(write_error)?;
    let (offsets, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let copier = |report: Sender<Result<u64, RestoreError>>| {
            let mut chunk = vec![0; CHUNK_BYTES];
            while !failed.load(Ordering::Relaxed) {
                let offset = offsets.fetch_add(CHUNK_BYTES as u64, Ordering::Relaxed);
                let len = size_bytes.saturating_sub(offset).min(CHUNK_BYTES as u64);
                if len == 0 {
                    break;
                }
                let copied = copy_chunk(view, version, offset, &mut chunk)
                    .and_then(|chunk| file.write_all_at(chunk, offset).map_err(write_error));
                // Who listens only stops when there are no more copiers.
                let _: Result<(), _> = report.send(copied.map(|()| len));
            }
        };
        let mut started = Err(io::ErrorKind::OutOfMemory.into());
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get).min(COPIERS_MAX) {
            let report = report.clone();
            let spawned = thread::Builder::new().name("restore".to_owned()).spawn_scoped(scope, move || copier(report));
            started = started.or(spawned.map(drop));
        }
        drop(report);
        started.map_err(write_error)?;

        let (sync, due) = mpsc::sync_channel(1);
        // Its errors count: the kernel tells each only once.
        let syncing = thread::Builder::new().name("restore-sync".to_owned());
        let syncing = syncing.spawn_scoped(scope, move || due.into_iter().try_for_each(|()| file.sync_data()));
        let (mut copied_bytes, mut first_error) = (0, None);
        for copied in reports {
            match copied {
                Ok(len) => {
                    copied_bytes += len;
                    progress(Progress::Copied(copied_bytes));
                    if copied_bytes % SYNC_BYTES < len {
                        // Full: the next one is for these bytes, too. Gone: it has failed, or was never started.
                        let _: Result<(), _> = sync.try_send(());
                    }
                }
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                }
            }
        }
        drop(sync);
        // Without the thread there is more to wait for in the end, nothing else.
        let synced = syncing.map_or(Ok(()), join);
        first_error.map_or(Ok(()), Err)?;
        synced.map_err(write_error)
    })
}

fn copy_chunk<'a>(
    view: &View,
    version: DataVersion,
    offset: u64,
    chunk: &'a mut [u8],
) -> Result<&'a [u8], RestoreError> {
    let read = view.read_at(offset, chunk).map_err(|source| RestoreError::Read { version, source })?;
    if offset + read as u64 == view.size_bytes().min(offset + chunk.len() as u64) {
        return Ok(&chunk[..read]);
    }
    let finding = format!("it ends at byte {} of {}", offset + read as u64, view.size_bytes());
    Err(RestoreError::Damaged { version, finding })
}

/// What a thread returned; its panic goes on here.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// SQLite's own check of a database file, and that it holds this version.
///
/// # Errors
/// [`RestoreError::Sqlite`], [`RestoreError::Damaged`] or [`RestoreError::OtherVersion`].
pub fn check(database: &Path, version: DataVersion) -> Result<(), RestoreError> {
    let sqlite = |source| RestoreError::Sqlite { version, source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).map_err(sqlite)?;
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
    if finding != "ok" {
        return Err(RestoreError::Damaged { version, finding });
    }
    let found = version_of_database(&connection).map_err(sqlite)?;
    if found != version {
        return Err(RestoreError::OtherVersion { expected: version, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refusal(path: &Path, backup: &Path) -> RestoreError {
        Destination::check(path, backup).unwrap_err()
    }

    #[test]
    fn only_a_free_name_in_an_existing_directory_is_a_destination() {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("node.bkp");
        fs::create_dir(&backup).unwrap();
        let free = dir.path().join("free.sqlite3");
        assert_eq!(Destination::check(&free, &backup).unwrap().path, free);
        let node = dir.path().join("node");
        fs::create_dir(&node).unwrap();
        assert_eq!(Destination::check(&node, &backup).unwrap().path, node.join(DATABASE_NAME));

        let taken = dir.path().join("taken");
        fs::write(&taken, "").unwrap();
        assert!(matches!(refusal(&taken, &backup), RestoreError::Exists(_)));
        let dangling = dir.path().join("dangling");
        symlink("/nowhere/at/all", &dangling).unwrap();
        assert!(matches!(refusal(&dangling, &backup), RestoreError::Exists(_)));
        fs::write(node.join(DATABASE_NAME), "").unwrap();
        assert!(matches!(refusal(&node, &backup), RestoreError::Exists(_)));
        assert!(matches!(refusal(&dir.path().join("no/where"), &backup), RestoreError::NoDirectory(_)));
        assert!(matches!(refusal(&backup.join("x"), &backup), RestoreError::InsideBackup(_)));
        for suffix in COMPANIONS {
            let name = dir.path().join(format!("with{suffix}"));
            fs::write(&name, "").unwrap();
            assert!(matches!(refusal(&dir.path().join("with"), &backup), RestoreError::Companion(_)), "{suffix}");
            fs::remove_file(name).unwrap();
        }
    }

    #[test]
    fn a_copy_must_hold_the_version_it_is_said_to_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE vars (name TEXT, val TEXT)").unwrap();
        assert!(check(&path, DataVersion::new(0)).is_ok());
        connection.execute_batch("ALTER TABLE vars ADD COLUMN intval INTEGER").unwrap();
        assert!(check(&path, DataVersion::new(0)).is_ok());
        connection.execute_batch("INSERT INTO vars (name, intval) VALUES ('data_version', 7)").unwrap();
        assert!(check(&path, DataVersion::new(7)).is_ok());
        assert!(matches!(check(&path, DataVersion::new(8)), Err(RestoreError::OtherVersion { .. })));
    }

    #[test]
    fn a_damaged_copy_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE vars (name TEXT, intval INTEGER)").unwrap();
        drop(connection);
        let mut bytes = fs::read(&path).unwrap();
        bytes[4096..].fill(0x5a);
        fs::write(&path, bytes).unwrap();
        let error = check(&path, DataVersion::new(0)).unwrap_err();
        assert!(matches!(error, RestoreError::Damaged { .. } | RestoreError::Sqlite { .. }), "{error}");
    }
}

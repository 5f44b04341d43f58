//! [`restore`]: writes a version to a file, complete and checked, or not at all.

mod copying;
mod destination;
pub mod lightning_dir;
pub mod lightning_rpc;
mod made_directories;
pub mod rehearsal;
mod restore_error;
pub mod running_node;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use common::verify::{Hold, compare_with_database};
use common::{
    Backup, CopyOrder, DataVersion, DatabaseCopy, History, Version, View, ViewError, quick_check, sqlite_reason,
    version_of_database,
};
use rusqlite::{Connection, ErrorCode};
use tempfile::NamedTempFile;

pub use self::destination::{Destination, Existing};
pub use self::made_directories::MadeDirectories;
pub use self::restore_error::RestoreError;

/// The progress of a restore.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// The temporary file has been made; it must be removed if the process ends early.
    Started {
        /// The path of the temporary file.
        temporary: &'a Path,
        /// The number of bytes to copy.
        total_bytes: u64,
    },
    /// This many bytes have been copied.
    Copied(u64),
    /// Everything has been copied; SQLite has not checked all of it yet.
    Checking,
    /// Pages have been read back and compared.
    ReadBack {
        /// Pages read so far.
        pages: u64,
        /// Number of pages of the database.
        total_pages: u64,
    },
    /// The file is complete and gets its name; an existing one is renamed first. If the process ends now, neither may be there.
    Placing,
}

/// The checks of a restored database before it gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// SQLite's `quick_check`, and the data_version.
    QuickCheck,
    /// The file is also read back from the disk and compared with the backup: its pages, and its rows if those differ.
    ReadBack,
}

/// The handling of a version that SQLite finds damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damaged {
    /// The version is not restored.
    Refuse,
    /// The version is restored, and SQLite's findings are reported.
    Accept,
}

/// The checks of a restored database before it gets its name.
pub struct Checks<'a> {
    /// The check of its bytes.
    pub proof: Proof,
    /// Reaction to damage.
    pub damaged: Damaged,
    /// The last check, of the complete file under its temporary name. Its error is that of the restore.
    pub inspect: &'a mut dyn FnMut(&Path) -> Result<(), RestoreError>,
}

/// The most lines of `quick_check` that are reported.
const FINDINGS_MAX: u32 = 20;

/// The result of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new file.
    pub path: PathBuf,
    /// The restored version.
    pub data_version: DataVersion,
    /// The size of the file.
    pub bytes: u64,
    /// The new name of the database that was there before.
    pub renamed_to: Option<PathBuf>,
    /// The findings of SQLite's `quick_check`; empty unless they were accepted.
    pub damage: Vec<String>,
}

/// Writes `version` to `destination`.
///
/// When this returns `Ok`, the file is complete, has passed the `checks`, and survives a power cut under its name. With
/// [`Damaged::Accept`] the findings of SQLite are in the result.
///
/// # Errors
/// [`RestoreError`]; no file is left behind then.
pub fn restore(
    backup: &Arc<Backup>,
    history: &History,
    version: &Version,
    destination: &Destination,
    checks: Checks<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Restored, RestoreError> {
    let Written { temporary, bytes, damage } = write(backup, history, version, destination, checks, progress)?;
    progress(Progress::Placing);
    let renamed_to = destination.take(temporary)?;
    let (path, data_version) = (destination.path().to_owned(), version.data_version);
    Ok(Restored { path, data_version, bytes, renamed_to, damage })
}

/// A version in a file that is complete, checked and synced, and has no name yet. It is removed when this is dropped.
struct Written {
    temporary: NamedTempFile,
    /// Its length.
    bytes: u64,
    /// The findings of SQLite's `quick_check`; empty unless they were accepted.
    damage: Vec<String>,
}

fn write(
    backup: &Arc<Backup>,
    history: &History,
    version: &Version,
    destination: &Destination,
    checks: Checks<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written, RestoreError> {
    let Checks { proof, damaged, inspect } = checks;
    let data_version = version.data_version;
    let write_error = |source| RestoreError::Write { path: destination.path().to_owned(), source };
    let plan = history.plan(version).map_err(|source| RestoreError::Read { version: data_version, source })?;
    let view = View::open(backup, &plan).map_err(|error| view_error(error, data_version))?;

    let temporary = destination.new_file().map_err(write_error)?;
    let bytes = view.size_bytes();
    progress(Progress::Started { temporary: temporary.path(), total_bytes: bytes });
    let file = temporary.as_file().try_clone().map_err(write_error)?;
    let order = if backup.is_far() { CopyOrder::Ascending } else { CopyOrder::AsChecked };
    let path = temporary.path().to_owned();
    let copy = Arc::new(DatabaseCopy::new(file, path, view.page_size(), view.page_count(), order));
    let damage = copying::write_version(&view, data_version, &copy, write_error, progress)?;
    if let (Some(finding), Damaged::Refuse) = (damage.first(), damaged) {
        return Err(RestoreError::Damaged { version: data_version, finding: finding.clone() });
    }
    if proof == Proof::ReadBack {
        read_back(backup, temporary.as_file(), temporary.path(), data_version, destination, progress)?;
    }
    inspect(temporary.path())?;
    Ok(Written { temporary, bytes, damage })
}

/// The error of a version that does not open.
fn view_error(error: ViewError, version: DataVersion) -> RestoreError {
    RestoreError::View { version, source: error.reason }
}

/// Reads the synced file from the disk, and compares it with the backup.
fn read_back(
    backup: &Arc<Backup>,
    file: &File,
    path: &Path,
    version: DataVersion,
    destination: &Destination,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), RestoreError> {
    // Pages in the kernel's cache prove nothing about the disk. This is only a hint: if it is ignored, less is proven.
    let _hint = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    let mut watch = |pages, total_pages| progress(Progress::ReadBack { pages, total_pages });
    let compared = compare_with_database(backup, path, Hold::AsLongAsItTakes, &mut watch)
        .map_err(|source| RestoreError::Compare { version, source })?;
    if compared.is_same() && compared.data_version == version {
        return Ok(());
    }
    Err(RestoreError::NotAsWritten { version, path: destination.path().to_owned() })
}

/// The result of a thread; its panic is resumed here.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// SQLite's findings about a database, which must contain this version unless even that cannot be read.
fn findings(connection: &Connection, version: DataVersion) -> Result<Vec<String>, RestoreError> {
    let sqlite = |error: &rusqlite::Error| RestoreError::Sqlite { version, reason: sqlite_reason(error) };
    let is_damage = |error: &rusqlite::Error| {
        matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
    };
    let mut findings = match quick_check(connection, FINDINGS_MAX) {
        Err(error) if is_damage(&error) => vec![sqlite_reason(&error)],
        findings => findings.map_err(|error| sqlite(&error))?,
    };
    match version_of_database(connection) {
        Ok(found) if found == version => {}
        Ok(found) => return Err(RestoreError::OtherVersion { expected: version, found }),
        Err(error) if is_damage(&error) => {
            findings.push(format!("its data_version cannot be read: {}", sqlite_reason(&error)));
        }
        Err(error) => return Err(sqlite(&error)),
    }
    Ok(findings)
}

#[cfg(test)]
mod tests;

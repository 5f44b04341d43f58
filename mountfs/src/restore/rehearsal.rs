//! [`rehearse`]: a restore of the newest version of a copy, compared with the backup that it is a copy of. What is restored is removed
//! again.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::storage::StorageError;
use common::verify::{Against, AgainstError, Hold, compare_with_database};
use common::{
    Backup, DataVersion, FreeSpace, History, OpenError, ReadError, Source, Timestamp, Version, View, sqlite_reason,
};
use rusqlite::{Connection, OpenFlags};

use super::{Checks, Damaged, Destination, Existing, Progress, Proof, RestoreError, view_error, write};

/// Name of the file. It never gets it: it is removed under its temporary name.
const NAME: &str = "rehearsal.sqlite3";

/// Bytes that stay free on the disk in any case.
const STAYS_FREE: u64 = 256 << 20;

/// The result of SQLite's check without faults.
const OK: &str = "ok";

/// A rehearsal that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsed {
    /// The version that was restored, the newest of the copy.
    pub data_version: DataVersion,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// The length of its database in bytes.
    pub bytes: u64,
    /// The number of versions that the backup has after it.
    pub behind: u32,
    /// How long it took.
    pub duration: Duration,
}

/// Why a rehearsal did not go well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RehearsalError {
    /// The copy cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy cannot be read.
    #[error("the copy cannot be read to its end")]
    Read(#[from] ReadError),
    /// The disk has too little room.
    #[error(
        "{directory} has {free} bytes free, and a rehearsal takes {needed} for a while: nothing is written, because a full disk would \
         stop the node. Make room, or rehearse on another machine with `backupfs restore`"
    )]
    NoRoom {
        /// Where the file would be.
        directory: String,
        /// Bytes available.
        free: u64,
        /// Bytes needed, with what must stay free.
        needed: u64,
    },
    /// How much room there is cannot be found out.
    #[error(transparent)]
    Room(#[from] StorageError),
    /// The copy has no version.
    #[error("the copy has no version yet; `backupfs ship --once` brings it up to date")]
    Empty,
    /// The newest version cannot be restored.
    #[error("the newest version of the copy cannot be restored")]
    Restore(#[from] RestoreError),
    /// SQLite finds the restored database damaged.
    #[error(
        "the restored version {version} does not pass SQLite's integrity_check ({finding}); `backupfs verify` of the backup \
         shows whether the node's own database is damaged"
    )]
    Unsound {
        /// The version.
        version: DataVersion,
        /// What SQLite says.
        finding: String,
    },
    /// The restored database cannot be compared with the backup.
    #[error("the restored version cannot be compared with the backup")]
    Compare(#[from] AgainstError),
    /// The restored database differs.
    #[error(
        "version {version} of the copy DIFFERS from the same version of the backup: one of them is damaged, or the copy is of \
         another backup. Keep both, and run `backupfs verify` on the backup and `backupfs verify --deep` on the copy"
    )]
    Differs {
        /// The version.
        version: DataVersion,
    },
}

impl RehearsalError {
    /// Whether the copy is not what it should be. Otherwise it could not be found out.
    pub fn is_of_the_copy(&self) -> bool {
        if is_unreachable(self) {
            return false;
        }
        match self {
            Self::Read(_) | Self::Unsound { .. } | Self::Differs { .. } => true,
            Self::Restore(error) => error.is_damage(),
            Self::Compare(error) => error.is_damage(),
            Self::Open(_) | Self::Empty | Self::NoRoom { .. } | Self::Room(_) => false,
        }
    }
}

/// Whether a store did not answer.
fn is_unreachable(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::HostUnreachable) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Restores the newest version of `copy` to a temporary file in `directory`, has SQLite check all of it, and compares it with the same
/// version of `backup`. `progress` gets the number of restored bytes, and the total.
///
/// # Errors
/// When any of that fails. No file is left behind; if the process is killed, the next rehearsal removes it.
pub fn rehearse(
    copy: &Source,
    backup: &Arc<Backup>,
    directory: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rehearsed, RehearsalError> {
    let began = Instant::now();
    let opened = Arc::new(Backup::open(copy)?);
    let (history, read) = opened.read_history();
    read?;
    let newest = history.newest().ok_or(RehearsalError::Empty)?;
    expect_room(&opened, &history, newest, directory)?;
    let destination = Destination::check(&directory.join(NAME), opened.path(), Existing::Refuse)?;
    let mut found: Option<Result<Against, RehearsalError>> = None;
    let mut inspect = |path: &Path| {
        found = Some(inspect(backup, path, newest.data_version));
        Ok(())
    };
    let checks = Checks { proof: Proof::QuickCheck, damaged: Damaged::Accept, inspect: &mut inspect };
    let mut total = 0;
    let written = write(&opened, &history, newest, &destination, checks, &mut |step| match step {
        Progress::Started { total_bytes, .. } => total = total_bytes,
        Progress::Copied(done) => progress(done, total),
        Progress::Checking | Progress::ReadBack { .. } | Progress::Placing => {}
    })?;
    let bytes = written.bytes;
    drop(written);
    let against = found.ok_or(RehearsalError::Empty)??;
    let (data_version, recorded_at) = (newest.data_version, newest.recorded_at);
    Ok(Rehearsed { data_version, recorded_at, bytes, behind: against.behind, duration: began.elapsed() })
}

/// Checks that the disk has room for the version, and twice as much as that stays free for the node.
fn expect_room(backup: &Backup, history: &History, version: &Version, directory: &Path) -> Result<(), RehearsalError> {
    // The last changes make it hardly any larger.
    let start = View::open(backup, &history.plan(version)?.without_changes())
        .map_err(|error| view_error(error, version.data_version))?;
    let needed = start.size_bytes().saturating_mul(3).saturating_add(STAYS_FREE);
    let free = FreeSpace::at(directory)?.bytes;
    if free < needed {
        return Err(RehearsalError::NoRoom { directory: directory.display().to_string(), free, needed });
    }
    Ok(())
}

/// Checks a restored database, and compares it with the backup.
fn inspect(backup: &Arc<Backup>, path: &Path, version: DataVersion) -> Result<Against, RehearsalError> {
    let against = compare_with_database(backup, path, Hold::AsLongAsItTakes, &mut |_, _| {})?;
    if !against.is_same() {
        return Err(RehearsalError::Differs { version });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let checked = Connection::open_with_flags(path, flags)
        .and_then(|database| database.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0)));
    match checked {
        Ok(said) if said == OK => Ok(against),
        Ok(finding) => Err(RehearsalError::Unsound { version, finding }),
        Err(error) => Err(RehearsalError::Unsound { version, finding: sqlite_reason(&error) }),
    }
}

//! Whether a snapshot is a sound database, read back as it was stored, and what is remembered of that.
//!
//! A snapshot has whatever pages the node's database had: of a damaged one SQLite copies the pages without looking at them.
//! Everything that is recorded later stands on them. So what was stored is checked as a whole: at `init` before the backup
//! has its name, of a heal soon after, in the background. What came of it is in the file `checked`, for to check it again
//! takes seconds, and whoever asks how the backup is doing does not wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use uuid::Uuid;

use crate::backup::Backup;
use crate::history::History;
use crate::history::Start;
use crate::live::live_database::version_of_database;
use crate::pages::{MountedOverlay, OverlayPages, PageSource, PagesInRuns};
use crate::replay::sqlite_reason::reason;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StorageError, read_exact_at, replace_file};
use format::checked::{CHECKED_LEN_MAX, CheckedSnapshots};
use format::snapshot_ref::SnapshotRef;
use format::units::{DataVersion, Seq};
use format::{Damage, names};

/// How often it is looked whether a check is to be stopped.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is known of a snapshot that is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredSnapshot {
    pub(crate) seq: Seq,
    pub(crate) data_version: DataVersion,
    pub(crate) snapshot: SnapshotRef,
}

impl StoredSnapshot {
    /// The newest that the newest version of a history stands on; `None` where there is none, or where it was dropped.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub(crate) fn newest(backup: &Backup, history: &History) -> Result<Option<Self>, ReadError> {
        let of = |seq, data_version: Option<DataVersion>, snapshot: Option<&SnapshotRef>| {
            Some(Self { seq, data_version: data_version?, snapshot: *snapshot? })
        };
        let first_version =
            |records: &[crate::segment::live_record::LiveRecord]| records.first().map(|it| it.about.data_version);
        let unsealed = history.unsealed().iter().rev().find(|timeline| timeline.snapshot().is_some());
        if let Some(timeline) = unsealed {
            return Ok(of(timeline.first_seq(), first_version(timeline.records()), timeline.snapshot()));
        }
        let Some(&last) = history.sealed().last() else { return Ok(None) };
        let Some(seq) = backup.segments().footer(last)?.newest_snapshot else { return Ok(None) };
        if !history.sealed().contains(&seq) {
            return Ok(None);
        }
        let timeline = backup.segments().timeline(seq)?;
        Ok(of(seq, first_version(timeline.records()), timeline.snapshot()))
    }

    /// The database.
    pub(crate) fn pages(&self, backup: &Backup) -> Result<Arc<dyn PageSource>, ReadError> {
        backup.start_pages(&Start::Snapshot(self.seq, self.snapshot)).map(|(pages, _)| pages)
    }

    /// Has SQLite look at it until `stop` says so; returns what is wrong with it, if anything is.
    ///
    /// # Errors
    /// When it cannot be read back, or is to stop.
    pub(crate) fn check(&self, backup: &Backup, stop: &Arc<AtomicBool>) -> Result<Option<String>, ReadError> {
        let pages = self.pages(backup)?;
        if pages.page_count() != self.snapshot.page_count {
            let found = format!("it has {} pages instead of {}", pages.page_count(), self.snapshot.page_count);
            return Ok(Some(found));
        }
        check_pages(pages, self.data_version, stop)
    }
}

/// Has SQLite look at a database, which is to be at this version; returns what is wrong with it, if anything is.
///
/// # Errors
/// When a page cannot be read, or it is to stop.
pub(crate) fn check_pages(
    pages: Arc<dyn PageSource>,
    data_version: DataVersion,
    stop: &Arc<AtomicBool>,
) -> Result<Option<String>, ReadError> {
    let (expected, in_runs) = (pages.page_count(), PagesInRuns::new(pages, Arc::clone(stop)));
    let mounted = MountedOverlay::new(OverlayPages::new(Arc::new(in_runs)));
    let look = || -> rusqlite::Result<Option<String>> {
        let connection = mounted.connect()?;
        // The first problem will do.
        if let Some(found) = quick_check(&connection, 1)?.pop() {
            return Ok(Some(found));
        }
        let found = version_of_database(&connection)?;
        if found != data_version {
            return Ok(Some(format!("it is at version {found}")));
        }
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        Ok((pages != i64::from(expected)).then(|| format!("it has {pages} pages instead of {expected}")))
    };
    let found = look();
    match (mounted.take_problem(), found) {
        (Some(problem), _) => Err(problem),
        (None, Ok(found)) => Ok(found),
        (None, Err(error)) => Ok(Some(reason(&error))),
    }
}

/// What SQLite's `quick_check` says is wrong with a database, each in one line, and no more than `most`.
///
/// # Errors
/// When it cannot even be looked at.
pub fn quick_check(connection: &Connection, most: u32) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({most})"))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let lines: Vec<String> = lines.collect::<rusqlite::Result<_>>()?;
    Ok(lines.iter().filter(|line| *line != "ok").map(|line| in_one_line(line)).collect())
}

/// What SQLite says of a tree has the name of the database in a line of its own.
pub(crate) fn in_one_line(said: &str) -> String {
    let lines = said.lines().filter(|line| *line != "*** in database main ***");
    lines.collect::<Vec<_>>().join("; ")
}

/// Does what takes long on a thread of its own, which is told to stop when `go_on` says so.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn interruptible<T: Send>(
    go_on: &mut dyn FnMut() -> bool,
    work: impl FnOnce(&Arc<AtomicBool>) -> T + Send,
) -> std::io::Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let (stopped, (done, is_done)) = (Arc::clone(&stop), mpsc::sync_channel::<()>(1));
        let worker = thread::Builder::new().name("check".to_owned()).spawn_scoped(scope, move || {
            let _dropped_at_the_end = done;
            work(&stopped)
        })?;
        while is_done.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            if !go_on() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        Ok(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

impl Backup {
    /// What is known of its snapshots; `None` when none was checked.
    ///
    /// # Errors
    /// When the file that says so cannot be read.
    pub fn read_checked(&self) -> Result<Option<CheckedSnapshots>, ReadError> {
        let file = match self.directory().open(names::CHECKED, Access::Read) {
            Err(error) if error.is_not_found() => return Ok(None),
            file => file?,
        };
        let damaged = |damage| ReadError::damaged(&self.path().join(names::CHECKED), 0, damage);
        let len = usize::try_from(file.read_len()?).unwrap_or(usize::MAX);
        if len > CHECKED_LEN_MAX {
            return Err(damaged(Damage::Field { field: "length", value: len as u64 }));
        }
        let mut bytes = vec![0; len];
        if !read_exact_at(&*file, &mut bytes, 0)? {
            return Err(damaged(Damage::Short { have: 0, want: len }));
        }
        CheckedSnapshots::decode(&bytes, self.manifest().uuid).map(Some).map_err(damaged)
    }
}

/// Notes what was found, durably.
pub(crate) fn write_checked(
    directory: &dyn Directory,
    uuid: Uuid,
    checked: &CheckedSnapshots,
) -> Result<(), StorageError> {
    replace_file(directory, names::CHECKED, &checked.encode(uuid))
}

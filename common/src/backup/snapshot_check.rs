//! Checks of snapshots with SQLite, and the file with their results.
//!
//! A snapshot has the pages of the node's database as they were: SQLite copies the pages of a damaged database without checking
//! them, and all later versions build on them. So the stored snapshot is read back and checked as a whole: at `init` before the
//! backup has its name, after a heal in the background. The result is in the file `checked`, because a check takes seconds, and a
//! status query should not wait for that.

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
use crate::parity::replacing::replace_protected;
use crate::replay::sqlite_reason::reason;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StorageError, StoredFile, WHOLE_FILE, read_exact_at, read_healing};
use format::checked::{CHECKED_LEN_MAX, CheckedSnapshots};
use format::parity::Protected;
use format::snapshot_ref::SnapshotRef;
use format::units::{DataVersion, Seq};
use format::{Damage, names};

/// Interval of checking the stop flag.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A stored snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredSnapshot {
    pub(crate) seq: Seq,
    pub(crate) data_version: DataVersion,
    pub(crate) snapshot: SnapshotRef,
}

impl StoredSnapshot {
    /// The newest snapshot below the newest version of a history; `None` when there is none, or it was dropped.
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

    /// Pages of the snapshot.
    pub(crate) fn pages(&self, backup: &Backup) -> Result<Arc<dyn PageSource>, ReadError> {
        backup.start_pages(&Start::Snapshot(self.seq, self.snapshot)).map(|(pages, _)| pages)
    }

    /// Checks the snapshot with SQLite until `stop` is set; returns what is wrong with it, if anything.
    ///
    /// # Errors
    /// When it cannot be read back, or was stopped.
    pub(crate) fn check(&self, backup: &Backup, stop: &Arc<AtomicBool>) -> Result<Option<String>, ReadError> {
        let pages = self.pages(backup)?;
        if pages.page_count() != self.snapshot.page_count {
            let found = format!("it has {} pages instead of {}", pages.page_count(), self.snapshot.page_count);
            return Ok(Some(found));
        }
        check_pages(pages, self.data_version, stop)
    }
}

/// Checks a database of this version with SQLite; returns what is wrong with it, if anything.
///
/// # Errors
/// When a page cannot be read, or the check was stopped.
pub(crate) fn check_pages(
    pages: Arc<dyn PageSource>,
    data_version: DataVersion,
    stop: &Arc<AtomicBool>,
) -> Result<Option<String>, ReadError> {
    let (expected, in_runs) = (pages.page_count(), PagesInRuns::new(pages, Arc::clone(stop)));
    let mounted = MountedOverlay::new(OverlayPages::new(Arc::new(in_runs)));
    let look = || -> rusqlite::Result<Option<String>> {
        let connection = mounted.connect()?;
        // The first problem suffices.
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

/// Messages of SQLite's `quick_check`, each in one line, at most `most` of them.
///
/// # Errors
/// When the check itself fails.
pub fn quick_check(connection: &Connection, most: u32) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({most})"))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let lines: Vec<String> = lines.collect::<rusqlite::Result<_>>()?;
    Ok(lines.iter().filter(|line| *line != "ok").map(|line| in_one_line(line)).collect())
}

/// Messages about a tree begin with a line with the name of the database.
pub(crate) fn in_one_line(said: &str) -> String {
    let lines = said.lines().filter(|line| *line != "*** in database main ***");
    lines.collect::<Vec<_>>().join("; ")
}

/// Runs `work` in a thread, and sets its stop flag when `go_on` returns false.
///
/// # Errors
/// When the thread cannot be started.
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
    /// Results of the snapshot checks; `None` when no snapshot was checked.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_checked(&self) -> Result<Option<CheckedSnapshots>, ReadError> {
        let file = match self.directory().open(names::CHECKED, Access::Read) {
            Err(error) if error.is_not_found() => return Ok(None),
            file => file?,
        };
        read_healing(&*file, &WHOLE_FILE, || self.decode_checked(&*file)).map(Some)
    }

    fn decode_checked(&self, file: &dyn StoredFile) -> Result<CheckedSnapshots, ReadError> {
        let damaged = |damage| ReadError::damaged(&self.path().join(names::CHECKED), 0, damage);
        let len = usize::try_from(file.read_len()?).unwrap_or(usize::MAX);
        if len > CHECKED_LEN_MAX {
            return Err(damaged(Damage::Field { field: "length", value: len as u64 }));
        }
        let mut bytes = vec![0; len];
        if !read_exact_at(file, &mut bytes, 0)? {
            return Err(damaged(Damage::Short { have: 0, want: len }));
        }
        CheckedSnapshots::decode(&bytes, self.manifest().uuid).map_err(damaged)
    }
}

/// Writes the results durably.
pub(crate) fn write_checked(
    directory: &dyn Directory,
    uuid: Uuid,
    checked: &CheckedSnapshots,
) -> Result<(), StorageError> {
    replace_protected(directory, Protected::Checked, &checked.encode(uuid))
}

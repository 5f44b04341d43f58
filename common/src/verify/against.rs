//! Comparison of a database with the version of the backup with its number: equal rows, wherever they are stored.
//!
//! A reader of `lightningd`'s database delays its next COMMIT. So the database is read only once, from the first page to the
//! last, as for a snapshot: if all pages are equal to those of the backup, nothing more is needed. Other pages are copied to a
//! temporary file, and the rows are compared after the database is released.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::hold::{DatabaseFile, Held, Hold};
use crate::backup::Backup;
use crate::backup::view::View;
use crate::compare::commit_check::same_but_for_the_writer;
use crate::compare::differences::{ContentDifferences, differences};
use crate::history::History;
use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::pages::{MountedOverlay, OverlayPages, PageSource, PagesInRuns, read_ahead};
use crate::replay::{ReplayError, reason};
use crate::storage::read_error::ReadError;
use crate::storage::{StorageError, StorageOp};
use format::units::{DataVersion, PageNo, PageSize};
use format::version_rules::Commit;

/// Time for retries while the database is locked, or ahead of the readable part of the backup.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Time for reading a changing database again until it stays at one version long enough. Most nodes do so at once; then equal
/// pages need no comparison of rows.
const CHASE: Duration = Duration::from_secs(1);

/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Page cache of SQLite for each database, in KiB.
const CACHE_KIB: u32 = 32 << 10;

/// Result of the comparison.
#[derive(Debug)]
pub struct Against {
    /// The version of both.
    pub data_version: DataVersion,
    /// Whether all pages are equal, so that no rows were compared.
    pub same_pages: bool,
    /// Number of versions that the database is behind the newest of the backup: if it is not 0, the database is an old state. A
    /// version that `lightningd` is about to commit, or died before committing, does not count.
    pub behind: u32,
    /// The differences.
    pub differences: ContentDifferences,
    /// Time for which the database was held open.
    pub held: Duration,
    /// Duration of the comparison.
    pub duration: Duration,
}

impl Against {
    /// Whether both are equal.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }
}

/// The reason why a database was not compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgainstError {
    /// The database does not exist.
    #[error("there is no database at {path}; check the path", path = .path.display())]
    NoDatabase {
        /// The expected path.
        path: PathBuf,
    },
    /// Another process holds a lock that excludes readers.
    #[error("{path} is locked, by lightningd in the middle of a large transaction or by another program; try again", path = .path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// Reading takes longer than a node tolerates.
    #[error(
        "{path} was let go after {} s, before all of it was read: lightningd stops when it cannot commit for 60 s. The disk \
         of the database or of the backup is slow now. Nothing was compared. Try again when less is going on; or stop the \
         node, copy the database to a faster disk, and compare the copy",
        .after.as_secs_f32(),
        path = .path.display()
    )]
    LetGo {
        /// The database.
        path: PathBuf,
        /// Time for which it was held.
        after: Duration,
    },
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] LiveDatabaseError),
    /// The backup does not have the version.
    #[error("{database} is at version {version}, which the backup does not have: {why}", database = .database.display())]
    NoSuchVersion {
        /// The database.
        database: PathBuf,
        /// Version of the database.
        version: DataVersion,
        /// The state of the backup, and the possible reason.
        why: String,
    },
    /// The version cannot be opened.
    #[error("version {version} of the backup cannot be opened")]
    Version {
        /// Number of the version.
        version: DataVersion,
        /// The reason.
        source: ReplayError,
    },
    /// The database or the version cannot be read.
    #[error("version {version} cannot be compared: {reason}")]
    Unreadable {
        /// Number of the version.
        version: DataVersion,
        /// SQLite's message.
        reason: String,
    },
    /// Pages cannot be copied to a temporary file.
    #[error("pages that differ cannot be put aside; make room where temporary files go, or set TMPDIR")]
    Aside(#[source] io::Error),
}

impl AgainstError {
    /// Whether the backup is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Unreadable { .. })
    }
}

/// Compares `database` with the version of the backup with its number. `watch` gets the number of pages read, and their total.
///
/// # Errors
/// When the version is missing, one side cannot be read, or not as fast as `hold` requires.
pub fn compare_with_database(
    backup: &Arc<Backup>,
    database: &Path,
    hold: Hold,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<Against, AgainstError> {
    compare(backup, database, hold, CHASE, watch)
}

fn compare(
    backup: &Arc<Backup>,
    database: &Path,
    hold: Hold,
    chase: Duration,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<Against, AgainstError> {
    let file = DatabaseFile::read_ahead(database);
    let began = Instant::now();
    loop {
        let expected = open_patiently(database, began)?.data_version()?;
        let view = view_of(backup, database, expected, began)?;
        // Opened again, for the shortest possible time.
        let read: Result<_, AgainstError> = file.held(hold, |held| {
            let live = open_patiently(database, Instant::now())?;
            let since = Instant::now();
            let data_version = live.data_version()?;
            if data_version != expected && began.elapsed() < chase {
                return Ok(None);
            }
            let theirs = read_other_pages(&view, &live, held, watch).map_err(|ended| match ended {
                Ended::Ours(error) => AgainstError::Version { version: data_version, source: error.into() },
                Ended::Theirs(error) => error.into(),
                Ended::Aside(error) => AgainstError::Aside(error),
                Ended::LetGo => AgainstError::LetGo { path: database.to_owned(), after: since.elapsed() },
            })?;
            Ok(Some((data_version, theirs, since.elapsed())))
        });
        let Some((data_version, theirs, held)) = read? else { continue };
        let is_moved = data_version != expected;
        let same_pages = theirs.is_same() && !is_moved;
        let differences = if same_pages {
            ContentDifferences::default()
        } else {
            // Whichever version the pages were compared with, with the copied pages they form the database as it was read.
            let view = if is_moved { view_of(backup, database, data_version, began)? } else { view };
            compare_rows(&view, theirs, data_version)?
        };
        let behind = versions_behind(backup, database)?;
        return Ok(Against { data_version, same_pages, behind, differences, held, duration: began.elapsed() });
    }
}

/// Number of versions that the database is behind the backup. The database is read last: while a node runs on it, it has all
/// versions recorded before, except possibly the newest.
fn versions_behind(backup: &Arc<Backup>, database: &Path) -> Result<u32, AgainstError> {
    let Some(newest) = backup.read_records().0.newest_recorded() else { return Ok(0) };
    let now = open_patiently(database, Instant::now())?.data_version()?;
    let behind = u32::try_from(newest.data_version.distance_from(now)).unwrap_or(0);
    Ok(if behind == 1 && newest.commit == Commit::Unknown { 0 } else { behind })
}

fn open_patiently(path: &Path, began: Instant) -> Result<LiveDatabase, AgainstError> {
    loop {
        match LiveDatabase::open(path) {
            Err(LiveDatabaseError::Busy { .. }) if began.elapsed() < TIMEOUT => thread::sleep(PAUSE),
            Err(LiveDatabaseError::Busy { path }) => return Err(AgainstError::Busy { path }),
            Err(LiveDatabaseError::Missing { path }) => return Err(AgainstError::NoDatabase { path }),
            opened => return Ok(opened?),
        }
    }
}

/// Opens a version. One that is not recorded yet may be a moment later.
fn view_of(backup: &Arc<Backup>, database: &Path, version: DataVersion, began: Instant) -> Result<View, AgainstError> {
    let fail = |source| AgainstError::Version { version, source };
    loop {
        let (history, read) = backup.read_history();
        if let Some(found) = history.version(version).map_err(|error| fail(error.into()))? {
            let plan = history.plan(&found).map_err(|error| fail(error.into()))?;
            return View::build(backup, &plan, None).map_err(|error| fail(error.reason));
        }
        if began.elapsed() > TIMEOUT {
            let why = why_not_there(&history, read.err());
            return Err(AgainstError::NoSuchVersion { database: database.to_owned(), version, why });
        }
        thread::sleep(PAUSE);
    }
}

fn why_not_there(history: &History, damage: Option<ReadError>) -> String {
    let newest = history.newest().map(|newest| newest.data_version);
    let has = newest.map_or_else(|| "it has none".to_owned(), |newest| format!("its newest is {newest}"));
    match damage {
        Some(damage) => format!("{has}, and it cannot be read any further ({damage})"),
        None => format!("{has}; is it the backup of this node, and is nothing left in a spool?"),
    }
}

/// The reason why reading ended.
enum Ended {
    Ours(ReadError),
    Theirs(LiveDatabaseError),
    Aside(io::Error),
    LetGo,
}

impl From<LiveDatabaseError> for Ended {
    fn from(error: LiveDatabaseError) -> Self {
        Self::Theirs(error)
    }
}

/// Reads the database once and copies the pages that differ from ours.
fn read_other_pages(
    view: &View,
    live: &LiveDatabase,
    held: &Held,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<TheirPages, Ended> {
    let ours = view.pages();
    let same_size = live.page_size() == ours.page_size();
    let mut theirs = TheirPages::new(ours.clone(), live).map_err(Ended::Aside)?;
    let pages = if same_size { ours.page_count() } else { 0 };
    let total = u64::from(live.page_count());
    let read = read_ahead(ours, pages, |ours| {
        let mut number = 0;
        live.read_pages(|page, bytes| {
            if held.is_over() {
                return Err(Ended::LetGo);
            }
            number += 1;
            if number % 256 == 0 {
                watch(number, total);
            }
            let same = same_size && page.get() <= pages && {
                let our = ours.next_page().map_err(Ended::Ours)?;
                same_but_for_the_writer(page, our, bytes)
            };
            if same {
                return Ok(());
            }
            theirs.store(page, bytes).map_err(Ended::Aside)
        })
    });
    match read {
        _ if held.is_over() => Err(Ended::LetGo),
        read => read.map(|()| theirs),
    }
}

fn compare_rows(view: &View, theirs: TheirPages, version: DataVersion) -> Result<ContentDifferences, AgainstError> {
    let ours: Arc<dyn PageSource> = Arc::new(view.pages().clone());
    let [ours, theirs] = [ours, Arc::new(theirs)].map(|pages| {
        let in_runs = PagesInRuns::new(pages, Arc::default());
        MountedOverlay::new(OverlayPages::new(Arc::new(in_runs)))
    });
    let compared = || {
        let [ours, theirs] = [ours.connect()?, theirs.connect()?];
        for connection in [&ours, &theirs] {
            connection.execute_batch(&format!("PRAGMA cache_size = -{CACHE_KIB}"))?;
        }
        differences(&ours, &theirs)
    };
    let compared = compared();
    match (ours.take_problem().or_else(|| theirs.take_problem()), compared) {
        (Some(problem), _) => Err(AgainstError::Version { version, source: problem.into() }),
        (None, Ok(differences)) => Ok(differences),
        (None, Err(error)) => Err(AgainstError::Unreadable { version, reason: reason(&error) }),
    }
}

/// The database as it was read: our pages, with the differing ones in an unnamed file.
struct TheirPages {
    ours: OverlayPages,
    page_size: PageSize,
    page_count: u32,
    aside: File,
    /// Position of a page in the file, in pages.
    slots: HashMap<PageNo, u64>,
}

impl TheirPages {
    fn new(ours: OverlayPages, live: &LiveDatabase) -> io::Result<Self> {
        let aside = tempfile::tempfile()?;
        Ok(Self { ours, page_size: live.page_size(), page_count: live.page_count(), aside, slots: HashMap::new() })
    }

    /// Whether all pages are ours.
    fn is_same(&self) -> bool {
        self.slots.is_empty() && (self.page_size, self.page_count) == (self.ours.page_size(), self.ours.page_count())
    }

    fn store(&mut self, page: PageNo, bytes: &[u8]) -> io::Result<()> {
        let slot = self.slots.len() as u64;
        self.aside.seek(SeekFrom::Start(slot * self.page_size.bytes() as u64))?;
        self.aside.write_all(bytes)?;
        self.slots.insert(page, slot);
        Ok(())
    }
}

impl PageSource for TheirPages {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        match self.slots.get(&page) {
            _ if page.get() > self.page_count => out.fill(0),
            Some(slot) => {
                let offset = slot * out.len() as u64;
                self.aside.read_exact_at(out, offset).map_err(|source| StorageError {
                    op: StorageOp::Read,
                    path: std::env::temp_dir(),
                    offset: Some(offset),
                    source,
                })?;
            }
            None => self.ours.read_page(page, out)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::config::backup_url::BackupUrl;
    use crate::testing::{Fate, Node};

    fn go(url: &BackupUrl, database: &Path, chase: Duration) -> Result<Against, AgainstError> {
        compare(&Arc::new(Backup::open(url).unwrap()), database, Hold::BESIDE_A_NODE, chase, &mut |_, _| ())
    }

    /// The disk is slow, in many reads or stuck in one: `lightningd` still commits soon after the time limit.
    #[test]
    fn a_database_that_takes_too_long_is_let_go() {
        const AT_MOST: Duration = Duration::from_millis(300);
        for (slow_at, pause) in [(u64::MAX, Duration::from_millis(100)), (1024, Duration::from_secs(4))] {
            let mut node = Node::new("");
            node.connection
                .execute_batch("CREATE TABLE large (x); INSERT INTO large VALUES (zeroblob(10000000))")
                .unwrap();
            let mut recording = node.record();
            node.write(&mut recording, "first", Fate::Committed).unwrap();
            let (url, path) = (node.backup_lock.backend_url.clone(), node.database());
            let (begun, has_begun) = std::sync::mpsc::channel();
            let comparing = thread::spawn(move || {
                let mut watch = |pages, _| {
                    let _sent = begun.send(());
                    if slow_at == u64::MAX || pages == slow_at {
                        thread::sleep(pause);
                    }
                };
                let backup = Arc::new(Backup::open(&url).unwrap());
                compare(&backup, &path, Hold::AtMost(AT_MOST), CHASE, &mut watch)
            });
            has_begun.recv().unwrap();
            // In another process: within one process SQLite itself tracks readers.
            let sql = "BEGIN IMMEDIATE; INSERT INTO payments (note) VALUES ('waits'); COMMIT";
            let sqlite = Command::new("sqlite3").args(["-cmd", ".timeout 3000"]).arg(node.database()).arg(sql).output();
            match sqlite {
                Ok(output) => assert!(output.status.success(), "{output:?}"),
                Err(_) => println!("SKIPPED in part: there is no sqlite3 command line"),
            }
            let outcome = comparing.join().unwrap();
            let Err(error @ AgainstError::LetGo { .. }) = outcome else { panic!("{outcome:?}") };
            assert!(!error.is_damage() && error.to_string().contains("Nothing was compared"), "{error}");
            drop(recording);
        }
    }

    /// A regression: "the same" was reported for a database that its node must never run on.
    #[test]
    fn a_database_that_is_behind_is_an_old_state_unless_its_node_is_about_to_commit() {
        let mut node = Node::new("");
        let mut recording = node.record();
        node.write(&mut recording, "first", Fate::Committed).unwrap();
        let old = node.dir.path().join("old.sqlite3");
        std::fs::copy(node.database(), &old).unwrap();
        let url = node.backup_lock.backend_url.clone();
        let behind = |database: &Path| {
            let against = go(&url, database, CHASE).unwrap();
            assert!(against.is_same());
            against.behind
        };
        assert_eq!(behind(&old), 0);
        node.write(&mut recording, "lost", Fate::Lost).unwrap();
        assert_eq!((behind(&old), behind(&node.database())), (0, 0), "it may be that of a node in the hook");
        drop(recording);
        let mut recording = node.record();
        node.write(&mut recording, "second", Fate::Committed).unwrap();
        recording.note_commit().unwrap();
        assert_eq!((behind(&old), behind(&node.database())), (1, 0), "it was seen to be committed");
        node.write(&mut recording, "third", Fate::Committed).unwrap();
        assert_eq!((behind(&old), behind(&node.database())), (2, 0));
    }

    /// It never stays at one version long enough: the version that was read is not the one that was looked up.
    #[test]
    fn a_database_that_goes_on_all_the_time_is_compared_with_the_version_it_was_read_at() {
        let mut node = Node::new("");
        let mut recording = node.record();
        node.write(&mut recording, "first", Fate::Committed).unwrap();
        let (url, database) = (node.backup_lock.backend_url.clone(), node.database());
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let comparing = thread::spawn(move || {
            let mut moved = 0;
            for _ in 0..200 {
                let against = go(&url, &database, Duration::ZERO).unwrap();
                assert!(against.is_same(), "{against:?}");
                moved += u32::from(!against.same_pages);
                if moved > 3 {
                    break;
                }
            }
            ended.store(true, Ordering::Relaxed);
            moved
        });
        node.connection.busy_timeout(Duration::from_secs(60)).unwrap();
        while !done.load(Ordering::Relaxed) {
            node.write(&mut recording, "goes on", Fate::Committed).unwrap();
        }
        assert!(comparing.join().unwrap() > 3);
    }

    #[test]
    fn the_next_transaction_waits_for_no_row() {
        let mut node = Node::new("");
        let mut recording = node.record();
        node.write(&mut recording, "first", Fate::Committed).unwrap();
        // As `lightningd` within a transaction: nothing is committed, and it continues afterwards.
        node.connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO payments (note) VALUES ('not yet')").unwrap();
        let against = go(&node.backup_lock.backend_url, &node.database(), CHASE).unwrap();
        assert!(against.is_same() && against.same_pages && against.held <= against.duration);
        node.connection.execute_batch("COMMIT").unwrap();
        let against = go(&node.backup_lock.backend_url, &node.database(), CHASE).unwrap();
        assert_eq!(against.differences.tables[0].only_in_database, 1);
        assert_eq!(against.differences.tables[0].table, "payments");
    }
}

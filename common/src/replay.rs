//! Replay: executing recorded statements on an overlay, as `lightningd` executed them on its database.

#[expect(unsafe_code, reason = "SQLite asks through C function pointers; every block says why it is sound")]
mod bounds;
#[cfg(test)]
mod equivalence;
mod execution;
// The statements at random that `format` tests with, too: a feature for it would have everything compiled twice.
#[cfg(test)]
#[path = "../format/src/sql/generated.rs"]
mod generated;
#[cfg(test)]
mod hostile_tests;
pub(crate) mod sqlite_reason;
pub mod statement;
#[cfg(test)]
mod tests;
mod virtual_table;

use rusqlite::Connection;
use rusqlite::hooks::Action;
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

pub(crate) use self::bounds::Bounds;
pub use self::bounds::{Forbidden, OutOfBounds};
pub(crate) use self::execution::{ChangeAbout, is_pragma};
use self::execution::{Control, execute};
use self::statement::PreparedTemplates;
pub use self::virtual_table::VirtualTable;
pub(crate) use self::virtual_table::virtual_tables;
use crate::pages::{MountedOverlay, NoPages, OverlayPages, PageSource, with_replay_clock};
pub(crate) use crate::replay::sqlite_reason::reason;
use crate::storage::read_error::ReadError;
pub(crate) use format::record_index::ForeignKeys;
use format::sql::lexed::LexedChange;
use format::statements::{Statements, Templates};
use format::units::{DataVersion, PageNo, Seq, Timestamp, counted};

/// A change could not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// SQLite refused a statement.
    #[error("statement {statement} of version {data_version} (record {seq}) fails: {reason}")]
    Statement {
        /// Version of the change.
        data_version: DataVersion,
        /// Seq of the change.
        seq: Seq,
        /// Position of the statement, from 1.
        statement: usize,
        /// SQLite's message; never the text of the statement, which may contain secrets.
        reason: String,
    },
    /// A statement does what no statement of `lightningd` does.
    #[error(
        "statement {statement} of version {data_version} (record {seq}) was stopped: it {why}, which no statement of a \
         known lightningd does. Another program may have written to this backup: compare it with a copy that no other \
         program can write to"
    )]
    OutOfBounds {
        /// Version of the change.
        data_version: DataVersion,
        /// Seq of the change.
        seq: Seq,
        /// Position of the statement, from 1.
        statement: usize,
        /// The reason why it was stopped.
        why: OutOfBounds,
    },
    /// A statement involves a virtual table.
    #[error(
        "statement {statement} of version {data_version} (record {seq}) {how}. Virtual tables (FTS5 and the like) are not \
         supported: what writes to one need not replay. lightningd needs none: stop it, drop them with their triggers \
         (`sqlite3 lightningd.sqlite3 .schema` shows both), and begin anew with `backupfs init --replace`"
    )]
    VirtualTable {
        /// Version of the change.
        data_version: DataVersion,
        /// Seq of the change.
        seq: Seq,
        /// Position of the statement, from 1.
        statement: usize,
        /// The part that the virtual table has in it.
        how: VirtualTable,
    },
    /// The bump found another version than the previous one.
    #[error(
        "version {data_version} (record {seq}) does not follow the version in the database: its bump changes {}",
        counted(*.rows, "row")
    )]
    BumpMissed {
        /// Version of the change.
        data_version: DataVersion,
        /// Seq of the change.
        seq: Seq,
        /// Number of rows that it changed instead of 1.
        rows: u64,
    },
    /// SQLite could not be set up.
    #[error("cannot prepare SQLite for replay: {reason}")]
    SetUp {
        /// SQLite's message.
        reason: String,
    },
    /// A page that a statement needs cannot be read.
    #[error(transparent)]
    Pages(#[from] ReadError),
}

/// A database that changes are replayed onto.
#[derive(Debug)]
pub(crate) struct Replay {
    // Dropped before the overlay that it uses.
    connection: Connection,
    mounted: MountedOverlay,
    bounds: Bounds,
    /// Whether the connection is as it was set up: nothing failed, and only templates were executed, which leave no settings and
    /// no temporary tables behind.
    is_clean: Cell<bool>,
}

/// A connection whose replay has ended, with its prepared statements, which are most of the cost of opening a version.
#[derive(Debug)]
pub(crate) struct IdleReplay(Replay);

/// A pool of idle connections, for the next replay on the same line of history: see [`IdleReplay::start`].
#[derive(Debug, Default)]
pub(crate) struct IdleReplays(Mutex<Vec<(Line, IdleReplay)>>);

/// A line of history, identified by the newest snapshot before it.
pub(crate) type Line = Option<Seq>;

/// Maximum number of idle connections: as many as views are built at once. Each has its schema and about a hundred prepared
/// statements.
const IDLE_MAX: usize = 4;

impl IdleReplays {
    /// Takes a connection of this line, if there is one.
    pub(crate) fn take(&self, line: Line) -> Option<IdleReplay> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let position = kept.iter().rposition(|(kept, _)| *kept == line)?;
        Some(kept.remove(position).1)
    }

    /// Adds a connection. When there are too many, the oldest is dropped.
    pub(crate) fn put(&self, line: Line, idle: IdleReplay) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((line, idle));
        if kept.len() > IDLE_MAX {
            kept.remove(0);
        }
    }
}

impl Replay {
    /// Begins a replay on `pages`.
    pub(crate) fn start(pages: OverlayPages, foreign_keys: ForeignKeys) -> Result<Self, ReplayError> {
        Self::start_within(Bounds::default(), pages, foreign_keys)
    }

    /// Like [`start`](Self::start), with other bounds.
    pub(crate) fn start_within(
        bounds: Bounds,
        pages: OverlayPages,
        foreign_keys: ForeignKeys,
    ) -> Result<Self, ReplayError> {
        let (page_size, page_count) = (pages.page_size(), pages.page_count());
        let mounted = MountedOverlay::with_room(pages, bounds.memory_bytes);
        let set_up = || -> rusqlite::Result<Connection> {
            let connection = mounted.connect()?;
            // `lightningd` links a stock SQLite, which treats a double-quoted word that names nothing as a string.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, true)?;
            if page_count == 0 {
                connection.execute_batch(&format!("PRAGMA page_size = {}", page_size.get()))?;
            }
            // No files besides the overlay: no rollback journal, no temporary files. A change that fails half-way leaves the
            // overlay inconsistent, and it is then discarded.
            connection.execute_batch(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; \
                 PRAGMA cache_size = -8192;",
            )?;
            enforce(foreign_keys, &connection)?;
            statement::set_up(&connection)?;
            bounds::set_up(&connection)?;
            Ok(connection)
        };
        match set_up() {
            Ok(connection) => Ok(Self { connection, mounted, bounds, is_clean: Cell::new(true) }),
            Err(error) => {
                let reason = reason(&error);
                Err(mounted.take_problem().map_or(ReplayError::SetUp { reason }, ReplayError::Pages))
            }
        }
    }

    /// Executes the statements of a change: in a transaction of its own, or without one for a PRAGMA rider.
    ///
    /// # Errors
    /// When a statement fails or the bump does not change exactly one row. Then the overlay is inconsistent.
    pub(crate) fn apply<S: AsRef<str>>(&mut self, about: &ChangeAbout, statements: &[S]) -> Result<(), ReplayError> {
        let statements = statements.iter().map(AsRef::as_ref);
        let mut control = Control::new(&self.connection);
        execute(self, &mut control, about, statements, |sql| statement::execute(&self.connection, sql))
    }

    /// Like [`apply`](Self::apply), for statements whose literals were already extracted.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn apply_lexed(&mut self, about: &ChangeAbout, change: &LexedChange) -> Result<(), ReplayError> {
        let mut control = Control::new(&self.connection);
        let run = |statement| statement::execute_lexed(&self.connection, &statement);
        execute(self, &mut control, about, change.statements(), run)
    }

    /// Lets statements make small values only: what is executed for its reads needs no others, and several threads do it at once.
    pub(crate) fn narrow(&self) {
        const VALUE_BYTES_MAX: i32 = 1 << 20;
        const COLUMNS_MAX: i32 = 200;
        for (limit, max) in [(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX), (Limit::SQLITE_LIMIT_COLUMN, COLUMNS_MAX)] {
            // It fails only for a limit that SQLite does not have.
            let _: rusqlite::Result<i32> = self.connection.set_limit(limit, max);
        }
    }

    /// Executes a statement as far as that goes, for the pages that it reads: the database is good for nothing else then. Returns
    /// whether there is a reason to go on: all pages could be read, and there is room for more.
    pub(crate) fn attempt(&self, statement: &str) -> bool {
        let run = || statement::execute(&self.connection, statement).is_ok();
        let _: (bool, Option<OutOfBounds>) = bounds::within(&self.bounds, self.page_count(), run);
        self.take_problem().is_none() && !self.mounted.is_full()
    }

    /// Begins to execute changes of blocks with the table `templates`.
    pub(crate) fn stored<'r>(&'r mut self, templates: &Templates) -> StoredReplay<'r> {
        StoredReplay {
            control: Control::new(&self.connection),
            prepared: PreparedTemplates::new(&self.connection, templates),
            replay: self,
        }
    }

    /// Starts to record which rows of a table are written, as SQLite reports them.
    pub(crate) fn note_rows(&mut self, table: &str, notes: &RowNotes) -> rusqlite::Result<()> {
        let (table, notes) = (table.to_owned(), notes.clone());
        self.connection.update_hook(Some(move |action, database: &str, written: &str, rowid| {
            if database == "main" && written.eq_ignore_ascii_case(&table) {
                notes.add(action, rowid);
            }
        }))
    }

    /// Queries the database between two changes, within the bounds of a change and with the clock at `now`. Also returns the
    /// bound that stopped it, if any.
    pub(crate) fn look<T>(&self, now: Timestamp, look: impl FnOnce(&Connection) -> T) -> (T, Option<OutOfBounds>) {
        with_replay_clock(now, || bounds::within(&self.bounds, self.page_count(), || look(&self.connection)))
    }

    /// The first page that could not be read, if any.
    pub(crate) fn take_problem(&self) -> Option<ReadError> {
        self.mounted.take_problem()
    }

    /// Starts to record which pages are read.
    pub(crate) fn note_reads(&self) {
        self.mounted.note_reads();
    }

    /// The pages read since [`note_reads`](Self::note_reads).
    pub(crate) fn take_reads(&self) -> HashSet<PageNo> {
        self.mounted.take_reads()
    }

    /// Has SQLite drop its copies of pages, between two changes: what the next one needs is read again.
    pub(crate) fn forget_pages(&self) -> Result<(), ReplayError> {
        self.connection.release_memory().map_err(|error| ReplayError::SetUp { reason: reason(&error) })
    }

    /// The pages that have the schema. SQLite reads them before the first statement of a connection. Its copies of pages are dropped.
    pub(crate) fn schema_pages(&self) -> Result<HashSet<PageNo>, ReplayError> {
        let read = || {
            self.connection.release_memory()?;
            self.note_reads();
            self.connection.query_row("SELECT sum(length(sql)) FROM sqlite_schema", [], |_| Ok(()))?;
            self.connection.release_memory()
        };
        let read = read().map_err(|error| reason(&error));
        let pages = self.take_reads();
        read.map(|()| pages)
            .map_err(|reason| self.take_problem().map_or(ReplayError::SetUp { reason }, ReplayError::Pages))
    }

    /// The current database, between two changes. Replay continues on its own copy.
    pub(crate) fn pages(&self) -> OverlayPages {
        self.mounted.pages()
    }

    /// Current number of pages of the database.
    pub(crate) fn page_count(&self) -> u32 {
        self.mounted.page_count()
    }

    /// The final database.
    #[cfg(test)]
    pub(crate) fn finish(self) -> Result<(OverlayPages, ForeignKeys), ReplayError> {
        Ok((self.mounted.pages(), self.foreign_keys()?))
    }

    /// The final database, and the connection if it can be reused.
    pub(crate) fn finish_and_keep(self) -> Result<(OverlayPages, ForeignKeys, Option<IdleReplay>), ReplayError> {
        let foreign_keys = self.foreign_keys()?;
        let nothing = OverlayPages::new(Arc::new(NoPages(self.mounted.pages().page_size())));
        // SQLite must keep no pages: after a rewind two databases may have the same change counter.
        let is_fit = self.is_clean.get() && self.connection.is_autocommit() && self.connection.release_memory().is_ok();
        let pages = self.mounted.replace(nothing);
        Ok((pages, foreign_keys, is_fit.then_some(IdleReplay(self))))
    }

    /// The version in the database, or a message when there is none.
    pub(crate) fn read_data_version(&self) -> Result<DataVersion, String> {
        const QUERY: &str = "SELECT intval FROM vars WHERE name = 'data_version'";
        let query = || self.connection.query_row(QUERY, [], |row| row.get(0));
        let (found, stopped) = bounds::within(&self.bounds, self.page_count(), query);
        found
            .map(DataVersion::from_database)
            .map_err(|error| stopped.map_or_else(|| reason(&error), |why| why.to_string()))
    }

    /// Whether foreign keys are currently enforced.
    pub(crate) fn foreign_keys(&self) -> Result<ForeignKeys, ReplayError> {
        let on = self.connection.query_row("PRAGMA foreign_keys", [], |row| row.get::<_, bool>(0));
        on.map(|on| if on { ForeignKeys::On } else { ForeignKeys::Off })
            .map_err(|error| ReplayError::SetUp { reason: reason(&error) })
    }
}

impl IdleReplay {
    /// Like [`Replay::start`], on pages of another version of the database.
    ///
    /// SQLite reads the schema again when the schema cookie in the pages differs. So two versions with the same cookie must have
    /// the same schema: both must be on one line of history, without a rewind or a snapshot between them. What was recorded
    /// before a snapshot need never have been committed.
    pub(crate) fn start(self, pages: OverlayPages, foreign_keys: ForeignKeys) -> Result<Replay, ReplayError> {
        let Self(replay) = self;
        if pages.page_count() == 0 || pages.page_size() != replay.mounted.pages().page_size() {
            return Replay::start(pages, foreign_keys);
        }
        replay.mounted.replace(pages);
        enforce(foreign_keys, &replay.connection).map_err(|error| {
            let reason = reason(&error);
            replay.mounted.take_problem().map_or(ReplayError::SetUp { reason }, ReplayError::Pages)
        })?;
        Ok(replay)
    }
}

/// The rows that were written, in order, each with the action and the rowid.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowNotes(Arc<Mutex<Vec<(Action, i64)>>>);

impl RowNotes {
    fn add(&self, action: Action, rowid: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((action, rowid));
    }

    /// The rows since the last call.
    pub(crate) fn take(&self) -> Vec<(Action, i64)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A database that changes of blocks with one table are replayed onto; its templates stay prepared.
pub(crate) struct StoredReplay<'r> {
    replay: &'r Replay,
    control: Control<'r>,
    prepared: PreparedTemplates<'r>,
}

impl StoredReplay<'_> {
    /// The database.
    pub(crate) fn replay(&self) -> &Replay {
        self.replay
    }

    /// Like [`Replay::apply`].
    ///
    /// # Errors
    /// The same.
    pub(crate) fn apply(&mut self, about: &ChangeAbout, statements: Statements<'_>) -> Result<(), ReplayError> {
        execute(self.replay, &mut self.control, about, statements, |statement| self.prepared.execute(&statement))
    }
}

fn enforce(foreign_keys: ForeignKeys, connection: &Connection) -> rusqlite::Result<()> {
    // The PRAGMA would invalidate every prepared statement, even without a change of the setting.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, foreign_keys == ForeignKeys::On).map(drop)
}

//! Execution of one change: its transaction, its clock, the check of its bump.

use rusqlite::{CachedStatement, Connection};

use super::bounds::{self, OutOfBounds};
use super::statement::Executed;
use super::{ForeignKeys, Replay, ReplayError, VirtualTable, reason};
use crate::pages::with_replay_clock;
use format::change_flags::RunStart;
use format::sql::lexed::LexedStatement;
use format::statements::StoredStatement;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::{BUMP, is_bump_of};

/// A change without its statements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChangeAbout {
    pub(crate) data_version: DataVersion,
    pub(crate) seq: Seq,
    pub(crate) time: Timestamp,
    pub(crate) run_start: RunStart,
}

/// The BEGIN and COMMIT statements of a connection.
pub(super) struct Control<'c> {
    connection: &'c Connection,
    begin: Option<CachedStatement<'c>>,
    commit: Option<CachedStatement<'c>>,
}

impl<'c> Control<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, begin: None, commit: None }
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        Self::run(self.connection, &mut self.begin, "BEGIN")
    }

    fn commit(&mut self) -> rusqlite::Result<()> {
        Self::run(self.connection, &mut self.commit, "COMMIT")
    }

    fn run(connection: &'c Connection, slot: &mut Option<CachedStatement<'c>>, sql: &str) -> rusqlite::Result<()> {
        let statement = match slot {
            Some(statement) => statement,
            None => slot.insert(connection.prepare_cached(sql)?),
        };
        statement.raw_execute().map(drop)
    }
}

/// A statement in one of its forms.
pub(super) trait Executable: Copy {
    /// Whether the statement is a PRAGMA. Riders are executed outside of any transaction: inside, `PRAGMA foreign_keys` would do
    /// nothing (SQLite, "PRAGMA").
    fn is_pragma(self) -> bool;

    /// Whether the statement is the bump to a version.
    fn is_bump_of(self, data_version: DataVersion) -> bool;

    /// A lower bound of the length of its text.
    fn len_min(self) -> usize;
}

/// Whether a statement is a PRAGMA: changes that consist of PRAGMAs are executed outside of any transaction.
pub(crate) fn is_pragma(statement: &str) -> bool {
    statement.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("pragma"))
}

impl Executable for &str {
    fn is_pragma(self) -> bool {
        is_pragma(self)
    }

    fn is_bump_of(self, data_version: DataVersion) -> bool {
        is_bump_of(self, data_version)
    }

    fn len_min(self) -> usize {
        self.len()
    }
}

impl Executable for LexedStatement<'_> {
    fn is_pragma(self) -> bool {
        self.text.is_pragma()
    }

    fn is_bump_of(self, data_version: DataVersion) -> bool {
        self.text.is_bump_of(data_version)
    }

    fn len_min(self) -> usize {
        self.text.len()
    }
}

impl Executable for StoredStatement<'_> {
    fn len_min(self) -> usize {
        StoredStatement::len_min(&self)
    }

    fn is_pragma(self) -> bool {
        match self {
            Self::Plain(text) => text.is_pragma(),
            Self::Templated(templated) => templated.template().is_pragma(),
        }
    }

    fn is_bump_of(self, data_version: DataVersion) -> bool {
        match self {
            Self::Plain(text) => text.is_bump_of(data_version),
            Self::Templated(templated) => {
                let may_be = templated.beginning().bytes().zip(BUMP.bytes()).all(|(one, other)| one == other);
                may_be && templated.text().is_bump_of(data_version)
            }
        }
    }
}

/// Executes a change with the clock at its time.
pub(super) fn execute<T: Executable>(
    replay: &Replay,
    control: &mut Control<'_>,
    about: &ChangeAbout,
    statements: impl ExactSizeIterator<Item = T> + Clone,
    mut run: impl FnMut(T) -> rusqlite::Result<Executed>,
) -> Result<(), ReplayError> {
    let run = |statement| {
        let executed = run(statement)?;
        if executed == Executed::AsText {
            replay.is_clean.set(false);
        }
        Ok(executed)
    };
    let bytes = statements.clone().map(|statement| statement.len_min() as u64).sum();
    let bounds = replay.bounds.of_change(bytes);
    replay.mounted.make_room(bounds.memory_bytes);
    let work = || execute_at_its_time(&replay.connection, control, about, statements, run);
    let work = || {
        let fail = |error| {
            let ChangeAbout { data_version, seq, .. } = *about;
            ReplayError::Statement { data_version, seq, statement: 0, reason: reason(&error) }
        };
        bounds::with_values_of(&replay.connection, bytes, work).map_err(fail)?
    };
    let timed = || with_replay_clock(about.time, work);
    let (executed, stopped) = bounds::within(&bounds, replay.page_count(), timed);
    executed.map_err(|error| {
        replay.is_clean.set(false);
        // SQLite reports only a read error or an interrupt; the overlay has the page and the reason.
        if let Some(problem) = replay.mounted.take_problem() {
            return ReplayError::Pages(problem);
        }
        let stopped = stopped.or(replay.mounted.is_full().then_some(OutOfBounds::Memory(bounds.memory_bytes)));
        let ReplayError::Statement { data_version, seq, statement, reason } = error else { return error };
        match (VirtualTable::of(replay, stopped, &reason), stopped) {
            (Some(how), _) => ReplayError::VirtualTable { data_version, seq, statement, how },
            (None, Some(why)) => ReplayError::OutOfBounds { data_version, seq, statement, why },
            (None, None) => ReplayError::Statement { data_version, seq, statement, reason },
        }
    })
}

fn execute_at_its_time<T: Executable>(
    connection: &Connection,
    control: &mut Control<'_>,
    about: &ChangeAbout,
    statements: impl ExactSizeIterator<Item = T> + Clone,
    mut run: impl FnMut(T) -> rusqlite::Result<Executed>,
) -> Result<(), ReplayError> {
    let ChangeAbout { data_version, seq, .. } = *about;
    let fail = |statement: usize| {
        move |error: rusqlite::Error| ReplayError::Statement { data_version, seq, statement, reason: reason(&error) }
    };
    if about.run_start == RunStart::First {
        super::enforce(ForeignKeys::On, connection).map_err(fail(0))?;
    }
    let in_transaction = !statements.clone().all(T::is_pragma);
    let count = statements.len();
    if in_transaction {
        control.begin().map_err(fail(0))?;
    }
    for (index, statement) in statements.enumerate() {
        run(statement).map_err(fail(index + 1))?;
        if statement.is_bump_of(data_version) {
            let rows = connection.changes();
            if rows != 1 {
                return Err(ReplayError::BumpMissed { data_version, seq, rows });
            }
        }
    }
    if in_transaction {
        control.commit().map_err(fail(count))?;
    }
    Ok(())
}

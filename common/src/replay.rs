//! Replay: executing recorded statements on an overlay, as `lightningd` executed them on its database.

#[cfg(test)]
mod equivalence;
mod lexer;
mod parameters;
pub mod statement;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

use crate::format::record::RunStart;
use crate::pages::{MountedOverlay, OverlayPages, PageSource, with_replay_clock};
use crate::version_rules::is_bump_of;
use crate::{DataVersion, ReadError, Seq, Timestamp};

/// What a rider may have set on the connection and later changes depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForeignKeys {
    /// Enforced, as `lightningd` sets it when it opens its database.
    On,
    /// Switched off, as in the middle of a migration.
    Off,
}

/// A change could not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// SQLite refused a statement.
    #[error("statement {statement} of version {data_version} (record {seq}) fails: {reason}")]
    Statement {
        /// The version.
        data_version: DataVersion,
        /// The record.
        seq: Seq,
        /// Which one, from 1.
        statement: usize,
        /// What SQLite says; never the text of the statement, which may hold secrets.
        reason: String,
    },
    /// The bump found another version than the one recorded before it.
    #[error(
        "version {data_version} (record {seq}) does not follow the version in the database: its bump changes {rows} rows"
    )]
    BumpMissed {
        /// The version.
        data_version: DataVersion,
        /// The record.
        seq: Seq,
        /// Rows that it changed instead of 1.
        rows: u64,
    },
    /// SQLite could not be set up.
    #[error("cannot prepare SQLite for replay: {reason}")]
    SetUp {
        /// What SQLite says.
        reason: String,
    },
    /// A page that a statement needs cannot be read.
    #[error(transparent)]
    Pages(#[from] ReadError),
}

/// A change to replay.
#[derive(Debug)]
pub(crate) struct Change<'a, S> {
    pub(crate) data_version: DataVersion,
    pub(crate) seq: Seq,
    pub(crate) time: Timestamp,
    pub(crate) run_start: RunStart,
    pub(crate) statements: &'a [S],
}

/// A database being replayed onto.
#[derive(Debug)]
pub(crate) struct Replay {
    // Dropped before what it is connected to.
    connection: Connection,
    mounted: MountedOverlay,
}

impl Replay {
    /// Begins on `pages`.
    pub(crate) fn start(pages: OverlayPages, foreign_keys: ForeignKeys) -> Result<Self, ReplayError> {
        let (page_size, page_count) = (pages.page_size(), pages.page_count());
        let mounted = MountedOverlay::new(pages);
        let set_up = || -> rusqlite::Result<Connection> {
            let connection = mounted.connect()?;
            // `lightningd` links a stock SQLite, which takes a double-quoted word that names nothing for a string.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, true)?;
            // No ATTACH, and no VACUUM, which attaches: through them a statement could write any file of whoever opens
            // the backup.
            connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            if page_count == 0 {
                connection.execute_batch(&format!("PRAGMA page_size = {}", page_size.get()))?;
            }
            // Nothing outside of the overlay: no rollback journal, no temporary files. A change that fails half-way
            // spoils the overlay, which is then thrown away.
            connection.execute_batch(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; \
                 PRAGMA cache_size = -8192;",
            )?;
            foreign_keys.set_on(&connection)?;
            statement::set_up(&connection)?;
            Ok(connection)
        };
        match set_up() {
            Ok(connection) => Ok(Self { connection, mounted }),
            Err(error) => {
                let reason = reason(&error);
                Err(mounted.take_problem().map_or(ReplayError::SetUp { reason }, ReplayError::Pages))
            }
        }
    }

    /// Executes the statements of a change: in a transaction of its own, or outside of any for a PRAGMA rider.
    ///
    /// # Errors
    /// When a statement fails or the bump does not change exactly one row. The overlay is spoilt then.
    pub(crate) fn apply<S: AsRef<str>>(&mut self, change: &Change<'_, S>) -> Result<(), ReplayError> {
        with_replay_clock(change.time, || self.execute(change)).map_err(|error| {
            // SQLite says only that a read failed; the overlay knows of which page and why.
            self.mounted.take_problem().map_or(error, ReplayError::Pages)
        })
    }

    fn execute<S: AsRef<str>>(&self, change: &Change<'_, S>) -> Result<(), ReplayError> {
        let fail = |statement: usize| {
            move |error: rusqlite::Error| ReplayError::Statement {
                data_version: change.data_version,
                seq: change.seq,
                statement,
                reason: reason(&error),
            }
        };
        if change.run_start == RunStart::First {
            ForeignKeys::On.set_on(&self.connection).map_err(fail(0))?;
        }
        let in_transaction = !change.statements.iter().all(|statement| is_pragma(statement.as_ref()));
        if in_transaction {
            self.control("BEGIN").map_err(fail(0))?;
        }
        for (index, statement) in change.statements.iter().enumerate() {
            let sql = statement.as_ref();
            statement::execute(&self.connection, sql).map_err(fail(index + 1))?;
            if is_bump_of(sql, change.data_version) {
                let rows = self.connection.changes();
                if rows != 1 {
                    return Err(ReplayError::BumpMissed { data_version: change.data_version, seq: change.seq, rows });
                }
            }
        }
        if in_transaction {
            self.control("COMMIT").map_err(fail(change.statements.len()))?;
        }
        Ok(())
    }

    /// Begins or ends a transaction.
    fn control(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.raw_execute().map(drop)
    }

    /// The database as it is now.
    pub(crate) fn finish(self) -> Result<(OverlayPages, ForeignKeys), ReplayError> {
        let foreign_keys = self
            .connection
            .query_row("PRAGMA foreign_keys", [], |row| row.get::<_, bool>(0))
            .map(|on| if on { ForeignKeys::On } else { ForeignKeys::Off })
            .map_err(|error| ReplayError::SetUp { reason: reason(&error) })?;
        Ok((self.mounted.pages(), foreign_keys))
    }
}

impl ForeignKeys {
    fn set_on(self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(match self {
            Self::On => "PRAGMA foreign_keys = ON",
            Self::Off => "PRAGMA foreign_keys = OFF",
        })
    }
}

/// A rider is executed outside of any transaction: inside, `PRAGMA foreign_keys` would do nothing (SQLite, "PRAGMA").
fn is_pragma(statement: &str) -> bool {
    statement.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("pragma"))
}

/// What SQLite says, without the text of the statement.
pub(crate) fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, None) => code.to_string(),
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::PageSize;
    use crate::pages::NoPages;

    fn start() -> Replay {
        Replay::start(OverlayPages::new(Arc::new(NoPages(PageSize::DEFAULT))), ForeignKeys::On).unwrap()
    }

    fn change<'a>(data_version: u32, run_start: RunStart, statements: &'a [&'a str]) -> Change<'a, &'a str> {
        Change {
            data_version: DataVersion::new(data_version),
            seq: Seq::FIRST,
            time: Timestamp::from_micros(1_795_356_307_123_456).unwrap(),
            run_start,
            statements,
        }
    }

    fn query(replay: &Replay, sql: &str) -> String {
        replay.connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_clock_of_sql_stands_at_the_time_of_the_record() {
        let mut replay = start();
        let statements = ["CREATE TABLE t (x)", "INSERT INTO t VALUES (strftime('%s', 'now') || CURRENT_TIMESTAMP)"];
        replay.apply(&change(1, RunStart::First, &statements)).unwrap();
        assert_eq!(query(&replay, "SELECT x FROM t"), "17953563072026-11-22 14:05:07");
    }

    #[test]
    fn riders_act_until_the_next_run_and_are_remembered() {
        let mut replay = start();
        let schema = ["CREATE TABLE a (id PRIMARY KEY)", "CREATE TABLE b (a REFERENCES a(id))"];
        replay.apply(&change(1, RunStart::First, &schema)).unwrap();
        let orphan = ["INSERT INTO b VALUES (7)"];
        replay.apply(&change(1, RunStart::Later, &["PRAGMA foreign_keys = OFF;"])).unwrap();
        replay.apply(&change(2, RunStart::Later, &orphan)).unwrap();
        let (pages, foreign_keys) = replay.finish().unwrap();
        assert_eq!(foreign_keys, ForeignKeys::Off);
        let mut replay = Replay::start(pages, foreign_keys).unwrap();
        replay.apply(&change(3, RunStart::Later, &orphan)).unwrap();
        let error = replay.apply(&change(4, RunStart::First, &orphan)).unwrap_err().to_string();
        assert!(error.contains("FOREIGN KEY constraint failed"), "{error}");
    }

    #[test]
    fn a_bump_that_changes_no_row_is_a_failure() {
        let mut replay = start();
        let bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 6";
        let schema = ["CREATE TABLE vars (name, intval)", "INSERT INTO vars VALUES ('data_version', 5)"];
        replay.apply(&change(1, RunStart::First, &schema)).unwrap();
        let error = replay.apply(&change(7, RunStart::Later, &[bump])).unwrap_err();
        assert!(matches!(error, ReplayError::BumpMissed { rows: 0, .. }), "{error}");
    }

    #[test]
    fn statements_run_as_a_stock_sqlite_runs_them() {
        let mut replay = start();
        let statements = [
            "CREATE TABLE t (x)",
            "INSERT INTO t VALUES (\"a string in double quotes\")",
            "INSERT INTO t VALUES ('first') RETURNING x",
            "INSERT INTO t VALUES ('second'); INSERT INTO t VALUES ('ignored, as sqlite3_prepare does');",
            "  -- nothing but a comment",
            "",
        ];
        replay.apply(&change(1, RunStart::First, &statements)).unwrap();
        assert_eq!(query(&replay, "SELECT group_concat(x, ',') FROM t"), "a string in double quotes,first,second");
    }

    #[test]
    fn large_sorts_and_statements_that_touch_many_rows_need_no_files() {
        let mut replay = start();
        let statements = [
            "CREATE TABLE t (id INTEGER PRIMARY KEY, x)",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) \
             INSERT INTO t SELECT i, hex(i * 7919 % 50000) || zeroblob(100) FROM n ORDER BY i * 7919 % 50000",
            "CREATE INDEX t_x ON t (x)",
            "UPDATE t SET id = -id",
        ];
        replay.apply(&change(1, RunStart::First, &statements)).unwrap();
        assert_eq!(query(&replay, "PRAGMA integrity_check"), "ok");
        assert_eq!(query(&replay, "SELECT count(*) || ' ' || min(id) FROM t"), "50000 -50000");
    }

    /// A backup may lie on rented space: its statements are not to be trusted with the files of whoever opens it.
    #[test]
    fn statements_reach_no_file_outside_of_the_overlay() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let attach = format!("ATTACH 'file:{}?vfs=unix&mode=rwc' AS outside", file.display());
        let mut replay = start();
        let statements = [&attach, "CREATE TABLE outside.t (x)", "INSERT INTO outside.t VALUES ('written')"];
        let result = replay.apply(&change(1, RunStart::First, &statements));
        assert!(!file.exists(), "a statement wrote to {}", file.display());
        assert!(result.unwrap_err().to_string().contains("attached databases"));
        let mut replay = start();
        let into = format!("VACUUM INTO 'file:{}?vfs=unix'", file.display());
        assert!(replay.apply(&change(1, RunStart::First, &[&into])).is_err());
        assert!(!file.exists());
    }
}

//! Replay: executing recorded statements on an overlay, as `lightningd` executed them on its database.

#[cfg(test)]
pub(crate) mod equivalence;
mod execution;
mod lexer;
pub(crate) mod parameters;
pub mod statement;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

pub(crate) use self::execution::ChangeAbout;
use self::execution::{Control, execute};
use self::statement::PreparedTemplates;
use crate::format::record::RunStart;
pub(crate) use crate::format::record_index::ForeignKeys;
use crate::format::statements::{Statements, Templates};
use crate::pages::{MountedOverlay, OverlayPages, PageSource};
use crate::{DataVersion, ReadError, Seq, Timestamp};

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
        let Change { data_version, seq, time, run_start, statements } = *change;
        let about = ChangeAbout { data_version, seq, time, run_start };
        let statements = statements.iter().map(AsRef::as_ref);
        let mut control = Control::new(&self.connection);
        execute(self, &mut control, &about, statements, |sql| statement::execute(&self.connection, sql))
    }

    /// Begins to execute changes of blocks with the table `templates`.
    pub(crate) fn stored<'r>(&'r mut self, templates: &Templates) -> StoredReplay<'r> {
        StoredReplay {
            control: Control::new(&self.connection),
            prepared: PreparedTemplates::new(&self.connection, templates),
            replay: self,
        }
    }

    /// The database as it is now, between two changes. Replay goes on with pages of its own.
    pub(crate) fn pages(&self) -> OverlayPages {
        self.mounted.pages()
    }

    /// Pages of the database as it is now.
    pub(crate) fn page_count(&self) -> u32 {
        self.mounted.page_count()
    }

    /// Whether foreign keys are enforced now.
    pub(crate) fn foreign_keys(&self) -> Result<ForeignKeys, ReplayError> {
        self.connection
            .query_row("PRAGMA foreign_keys", [], |row| row.get::<_, bool>(0))
            .map(|on| if on { ForeignKeys::On } else { ForeignKeys::Off })
            .map_err(|error| ReplayError::SetUp { reason: reason(&error) })
    }

    /// The database as it is now.
    pub(crate) fn finish(self) -> Result<(OverlayPages, ForeignKeys), ReplayError> {
        let foreign_keys = self.foreign_keys()?;
        Ok((self.mounted.pages(), foreign_keys))
    }
}

/// A database being replayed onto from blocks with one table, whose templates stay prepared.
pub(crate) struct StoredReplay<'r> {
    replay: &'r Replay,
    control: Control<'r>,
    prepared: PreparedTemplates<'r>,
}

impl StoredReplay<'_> {
    /// As [`Replay::apply`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn apply(&mut self, about: &ChangeAbout, statements: Statements<'_>) -> Result<(), ReplayError> {
        execute(self.replay, &mut self.control, about, statements, |statement| self.prepared.execute(&statement))
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
    use crate::format::statements::{Block, TemplatesWriter, encode_block};
    use crate::pages::NoPages;
    use crate::{PageNo, PageSize};

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

    fn block_of(changes: &[Vec<String>]) -> Block {
        let mut writer = TemplatesWriter::new();
        let block = encode_block(&mut writer, changes);
        Block::decode(&block, &Arc::new(Templates::decode(&writer.encode()).unwrap())).unwrap()
    }

    fn about(data_version: u32) -> ChangeAbout {
        let Change { data_version, seq, time, run_start, .. } = change(data_version, RunStart::Later, &[]);
        ChangeAbout { data_version, seq, time, run_start }
    }

    fn bump(from: u32) -> String {
        format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {from}")
    }

    /// Riders included.
    #[test]
    fn changes_of_blocks_do_what_their_texts_do() {
        let schema = [
            "CREATE TABLE vars (name, intval)",
            "CREATE TABLE a (id PRIMARY KEY, at)",
            "CREATE TABLE b (a REFERENCES a(id))",
            "INSERT INTO vars VALUES ('data_version', 1)",
        ];
        let mut changes = vec![(1, schema.map(str::to_owned).to_vec())];
        for n in 2..40 {
            let row = format!("INSERT INTO a VALUES ({n}, strftime('%f', 'now') || x'6869')");
            changes.push((n, vec![row, format!("INSERT INTO b VALUES ({n});"), bump(n - 1)]));
        }
        changes.push((39, vec!["PRAGMA foreign_keys = OFF;".to_owned()]));
        changes.push((40, vec!["INSERT INTO b VALUES (1000)".to_owned(), bump(39)]));
        let block = block_of(&changes.iter().map(|(_, statements)| statements.clone()).collect::<Vec<_>>());

        let [mut from_texts, mut from_blocks] = [start(), start()];
        let mut stored = from_blocks.stored(block.templates());
        for (index, (version, statements)) in changes.iter().enumerate() {
            let texts: Vec<_> = statements.iter().map(String::as_str).collect();
            from_texts.apply(&change(*version, RunStart::Later, &texts)).unwrap();
            stored.apply(&about(*version), block.change(index).unwrap()).unwrap();
        }
        drop(stored);
        let [texts, blocks] = [from_texts, from_blocks].map(|replay| {
            let (pages, foreign_keys) = replay.finish().unwrap();
            assert_eq!(foreign_keys, ForeignKeys::Off);
            let mut bytes = vec![0; pages.page_count() as usize * pages.page_size().bytes()];
            for (page, out) in (1..).zip(bytes.chunks_mut(pages.page_size().bytes())) {
                pages.read_page(PageNo::new(page).unwrap(), out).unwrap();
            }
            bytes
        });
        assert!(texts == blocks);
    }

    #[test]
    fn a_bump_of_a_block_that_changes_no_row_is_a_failure() {
        let block = block_of(&[vec!["CREATE TABLE vars (name, intval)".to_owned()], vec![bump(6)]]);
        let mut replay = start();
        let mut stored = replay.stored(block.templates());
        stored.apply(&about(1), block.change(0).unwrap()).unwrap();
        let error = stored.apply(&about(7), block.change(1).unwrap()).unwrap_err();
        assert!(matches!(error, ReplayError::BumpMissed { rows: 0, .. }), "{error}");
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

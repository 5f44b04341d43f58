//! The yardstick of an import: SQLite executing the same changes, each in a transaction of its own, on a plain file that is
//! never synced. No program that replays every change on one connection is faster.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::replay::statement;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tests::python_file::Record;

/// The method of executing statements.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// Each statement is prepared as it is.
    Text,
    /// Statements are executed from templates that stay prepared, as in replay.
    Templates,
}

/// The changes of a file, behind the snapshot that it may begin with.
pub struct Changes<'a> {
    snapshot: Option<&'a [u8]>,
    changes: Vec<Vec<&'a str>>,
}

impl<'a> Changes<'a> {
    /// Those of these records.
    pub fn of(records: &'a [Record]) -> anyhow::Result<Self> {
        let snapshot = records.first().filter(|record| record.kind == 2).map(|record| &*record.payload);
        let statements = |record: &'a Record| record.payload.split(|&byte| byte == 0).map(str::from_utf8).collect();
        let changes = records.iter().filter(|record| record.kind == 1).map(statements);
        Ok(Self { snapshot, changes: changes.collect::<Result<_, _>>()? })
    }

    /// What executing them takes, once the database is open, at `path`.
    ///
    /// # Errors
    /// When one fails, such as a change that was never committed and that an import leaves out.
    pub fn execute(&self, way: Way, path: &Path) -> anyhow::Result<Duration> {
        fs::write(path, self.snapshot.unwrap_or_default())?;
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON;")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, true)?;
        statement::set_up(&connection)?;
        let started = Instant::now();
        for (number, change) in self.changes.iter().enumerate() {
            let is_rider = change.iter().all(|sql| sql.starts_with("PRAGMA"));
            let around = |sql| if is_rider { Ok(()) } else { statement::execute_text(&connection, sql) };
            around("BEGIN")?;
            for sql in change {
                let executed = match way {
                    Way::Text => statement::execute_text(&connection, sql),
                    Way::Templates => statement::execute(&connection, sql).map(drop),
                };
                executed.with_context(|| format!("change {number} of the file fails"))?;
            }
            around("COMMIT")?;
        }
        Ok(started.elapsed())
    }
}

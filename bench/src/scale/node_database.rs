//! The database of a node that is pretended: a plain SQLite file, changed as `lightningd` changes its own, but without
//! waiting for the disk.

use std::path::Path;

use anyhow::{Context as _, ensure};
use rusqlite::Connection;

/// Enough for all that is changed again and again.
const CACHE_KIB: i32 = 256 << 10;

/// A database open for changes.
pub struct NodeDatabase(Connection);

impl NodeDatabase {
    /// Opens the database at `path`, or makes an empty one.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot open {}", path.display());
        let connection = Connection::open(path).with_context(failed)?;
        // A journal in memory: readers do not take the file for one that a crash left behind.
        connection
            .execute_batch(&format!(
                "PRAGMA foreign_keys = ON; PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;
                 PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{CACHE_KIB};"
            ))
            .with_context(failed)?;
        Ok(Self(connection))
    }

    /// Executes the statements of a change in a transaction, calls `hook`, and commits. A PRAGMA alone is executed outside of
    /// any transaction.
    pub fn change<'a, T>(
        &self,
        statements: impl Iterator<Item = &'a str>,
        hook: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut statements = statements.peekable();
        let is_rider = statements.peek().is_some_and(|first| first.starts_with("PRAGMA"));
        let mut last = None;
        if !is_rider {
            self.0.execute_batch("BEGIN")?;
        }
        for sql in statements {
            self.execute(sql)?;
            last = Some(sql);
        }
        let counts = last.is_some_and(|sql| sql.starts_with("UPDATE vars SET intval = intval + 1"));
        let rows = self.0.changes();
        ensure!(!counts || rows == 1, "data_version was counted up in {rows} rows: {}", last.unwrap_or_default());
        let said = hook()?;
        if !is_rider {
            self.0.execute_batch("COMMIT")?;
        }
        Ok(said)
    }

    /// Executes one statement, and returns how many rows it changed.
    pub fn execute(&self, sql: &str) -> anyhow::Result<u64> {
        self.0.execute_batch(sql).with_context(|| {
            // Those of a trace are long; where it went wrong is seen from the beginning.
            format!("statement {}", sql.chars().take(300).collect::<String>())
        })?;
        Ok(self.0.changes())
    }

    /// The connection, to read.
    pub fn connection(&self) -> &Connection {
        &self.0
    }

    /// Bytes of the file, as far as committed.
    pub fn size(&self) -> anyhow::Result<u64> {
        let pages: i64 = self.0.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        let page_size: i64 = self.0.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        Ok(u64::try_from(pages * page_size)?)
    }
}

//! An independent replay: a plain SQLite file to which statements are given as `lightningd` gave them.

use std::fs;
use std::path::{Path, PathBuf};

use common::DataVersion;
use rusqlite::Connection;

/// A database that only SQLite has touched.
pub struct Reference {
    database: Connection,
    path: PathBuf,
}

impl Reference {
    /// Goes on with the database at `path`, or with an empty one.
    pub fn open(path: &Path) -> Self {
        let database = Connection::open(path).expect("a database");
        database
            .execute_batch("PRAGMA foreign_keys = ON; PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF;")
            .expect("the settings of lightningd");
        Self { database, path: path.to_owned() }
    }

    /// One transaction, or one rider outside of a transaction.
    pub fn apply<S: AsRef<str>>(&self, statements: &[S]) {
        let rider = matches!(statements, [only] if only.as_ref().starts_with("PRAGMA"));
        let execute = |sql: &str| {
            self.database.execute_batch(sql).unwrap_or_else(|error| panic!("the reference refuses {sql}: {error}"));
        };
        if !rider {
            execute("BEGIN");
        }
        statements.iter().for_each(|statement| execute(statement.as_ref()));
        if !rider {
            execute("COMMIT");
        }
    }

    /// Does what nothing looks at in between: without a journal file for each transaction, which takes most of the time.
    pub fn quickly<T>(&self, work: impl FnOnce() -> T) -> T {
        let journal = |mode: &str| {
            self.database.execute_batch(&format!("PRAGMA journal_mode = {mode}")).expect("a journal of another kind");
        };
        journal("MEMORY");
        let done = work();
        journal("DELETE");
        done
    }

    /// Goes over transactions that are not known.
    pub fn set_data_version(&self, data_version: DataVersion) {
        let sql = format!("UPDATE vars SET intval = {data_version} WHERE name = 'data_version'");
        self.database.execute_batch(&sql).expect("a database with variables");
    }

    /// Copies the database file as it is between two transactions.
    pub fn copy_to(&self, to: &Path) {
        fs::copy(&self.path, to).expect("copying the reference");
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

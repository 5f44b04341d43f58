//! A node with the Python plugin: what it executed, and in a file what its plugin made of it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use common::DataVersion;

use crate::home::Home;
use crate::python_file::PythonFile;
use crate::small_node::{NODE_ID, bump, creation};
use crate::{cli, compare};

/// Runs `backupfs import`.
pub fn import(home: &Home, file: &Path, more: &[&str]) -> cli::Ran {
    let backup = home.backup();
    let mut arguments = vec![OsStr::new("import"), file.as_os_str(), backup.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    cli::backupfs(&arguments)
}

/// That the newest version is what the node had.
#[track_caller]
pub fn expect_newest(home: &Home, expected: &Path) {
    let restored = home.join("restored.sqlite3");
    let backup = home.backup();
    cli::backupfs(&["restore".as_ref(), backup.as_os_str(), restored.as_os_str()]).expect_done("restore");
    compare::same_contents(expected, &restored, &[]).expect("what was restored is what the node had");
    fs::remove_file(restored).expect("a file");
}

/// Statements that make `version`, different ones for each `attempt`.
pub fn transaction(version: u32, attempt: u32) -> Vec<String> {
    let label = format!("{version}.{attempt}");
    let mut all = vec![format!("INSERT INTO invoices (label, msatoshi) VALUES ('№{label} ''it''', {version})")];
    if version.is_multiple_of(4) {
        all.push(format!("UPDATE invoices SET msatoshi = msatoshi + {version} WHERE label <> '№{label}'"));
    }
    all.push(bump(DataVersion::new(version)));
    all
}

/// What a node executed and, in a file, what its plugin made of it.
pub struct History {
    /// What the plugin wrote.
    pub file: PythonFile,
    database: rusqlite::Connection,
    /// Its newest version.
    pub version: u32,
}

impl History {
    /// A new node.
    pub fn new(home: &Home) -> Self {
        let database = rusqlite::Connection::open(home.database()).expect("a database");
        database.execute_batch("PRAGMA foreign_keys = 1; PRAGMA synchronous = OFF").expect("settings");
        let mut history = Self { file: PythonFile::default(), database, version: 0 };
        history.commit(&creation(NODE_ID));
        history
    }

    /// Commits some statements.
    pub fn commit(&mut self, statements: &[String]) {
        self.version += 1;
        self.file.change(self.version, statements);
        self.execute(statements);
    }

    fn execute(&self, statements: &[String]) {
        let all =
            statements.iter().map(|statement| format!("{};", statement.trim_end_matches(';'))).collect::<String>();
        self.database.execute_batch(&format!("BEGIN; {all} COMMIT")).expect("a transaction");
    }

    /// Commits the next version.
    pub fn next(&mut self) {
        self.commit(&transaction(self.version + 1, 0));
    }

    /// Dies before COMMIT; the plugin takes it back when the next change comes.
    pub fn die(&mut self, attempt: u32) {
        self.file.change(self.version + 1, &transaction(self.version + 1, attempt));
        self.file.rewind();
    }

    /// Sends a rider.
    pub fn rider(&mut self, statement: &str) {
        self.file.change(self.version, &[statement]);
        self.database.execute_batch(statement).expect("a statement");
    }

    /// Writes the file of the plugin.
    pub fn write(&self, home: &Home) -> PathBuf {
        let path = home.join("file.bkp");
        fs::write(&path, self.file.bytes()).expect("a file");
        path
    }
}

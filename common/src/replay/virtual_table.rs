//! Virtual tables, which replay does not support: their modules execute statements of their own.
//!
//! If the node's database has a virtual table that triggers update, statements of `lightningd` fail in replay, although the
//! backup is unchanged.

use std::fmt;

use rusqlite::Connection;

use super::bounds::{self, Forbidden, OutOfBounds};
use super::{Bounds, Replay};

/// The part of a virtual table in a statement that cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VirtualTable {
    /// The statement creates a virtual table.
    Made,
    /// The statement fails in a database that has a virtual table.
    Present {
        /// Name of the first virtual table.
        table: String,
        /// SQLite's message.
        reason: String,
    },
}

impl fmt::Display for VirtualTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made => f.write_str("makes a virtual table"),
            Self::Present { table, reason } => {
                write!(f, "fails ({reason}) in a database that has the virtual table {table}")
            }
        }
    }
}

impl VirtualTable {
    /// Whether a statement failed, or was stopped, because of a virtual table.
    pub(super) fn of(replay: &Replay, stopped: Option<OutOfBounds>, reason: &str) -> Option<Self> {
        match stopped {
            Some(OutOfBounds::Forbidden(Forbidden::VirtualTable)) => return Some(Self::Made),
            // A module uses what no statement of `lightningd` uses.
            Some(OutOfBounds::Forbidden(Forbidden::Pragma | Forbidden::Function)) => {}
            Some(OutOfBounds::Steps(_) | OutOfBounds::Memory(_) | OutOfBounds::Time(_)) => return None,
            // A constraint of a table of `lightningd`.
            None if reason.contains("constraint failed") => return None,
            None => {}
        }
        let within: &Bounds = &replay.bounds;
        let (tables, _) = bounds::within(within, replay.page_count(), || virtual_tables(&replay.connection));
        let table = tables.ok()?.into_iter().next()?;
        Some(Self::Present { table, reason: stopped.map_or_else(|| reason.to_owned(), |why| format!("it {why}")) })
    }
}

/// Names of the virtual tables of a database, in order.
///
/// # Errors
/// Errors of SQLite.
pub(crate) fn virtual_tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    // By SQLite's file format ("Representation Of SQL Tables"): the root page of a virtual table is 0 or NULL.
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND coalesce(rootpage, 0) = 0 ORDER BY name";
    connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use crate::config::log_limits::LogLimits;
    use crate::seal::{SealError, Sealer};
    use crate::testing::Node;

    /// The sealer's message for a node whose database has a virtual table that a trigger writes to.
    fn sealed_with(schema: &str) -> String {
        let mut node = Node::new(schema);
        let mut recording = node.record();
        node.execute(&mut recording, "INSERT INTO notes (text) VALUES ('a secret')");
        let mut sealer = Sealer::new(node.backup(), LogLimits::default()).unwrap();
        match sealer.advance(recording.newest().unwrap().seq, &mut |_| ControlFlow::Continue(())) {
            Ok(()) => "replayed".to_owned(),
            Err(SealError::Replay { source, .. }) => source.to_string(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_trigger_that_writes_to_one_is_reported_as_such() {
        let said = sealed_with(
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);
             CREATE VIRTUAL TABLE found USING fts5(text);
             CREATE TRIGGER keep AFTER INSERT ON notes BEGIN INSERT INTO found (text) VALUES (new.text); END;",
        );
        for part in ["version 11", "virtual table found", "not supported", "init --replace"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains("omebody else") && !said.contains("secret"), "{said}");
    }

    #[test]
    fn one_that_is_never_written_to_does_not_matter() {
        let schema =
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT); CREATE VIRTUAL TABLE found USING fts5(text)";
        assert_eq!(sealed_with(schema), "replayed");
    }
}

//! [`NodeDatabase`]: the state of the database of a node that is to be connected to a backup.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use common::{DataVersion, LiveDatabaseError, expect_openable, node_id_of_database, version_of_database};
use format::manifest::NodeId;
use rusqlite::ffi::SQLITE_READONLY_ROLLBACK;
use rusqlite::{Connection, OpenFlags};

use crate::say;

/// The state of a node's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeDatabase {
    /// There is no database yet.
    Absent,
    /// The database is in the middle of a transaction, which lightningd rolls back when it starts. lightningd leaves it so when a
    /// plugin refuses a write.
    LeftByCrash,
    /// The database is at a version.
    At {
        /// The version.
        version: DataVersion,
        /// The node's id, once it is in the database.
        node_id: Option<NodeId>,
    },
}

impl NodeDatabase {
    /// Reads the state of a database.
    ///
    /// # Errors
    /// When it exists and cannot be read.
    pub(super) fn look(database: &Path) -> anyhow::Result<Self> {
        match expect_openable(database) {
            Err(LiveDatabaseError::Missing { .. }) => return Ok(Self::Absent),
            openable => openable?,
        }
        let read = || {
            let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.busy_timeout(Duration::ZERO)?;
            let version = version_of_database(&connection)?;
            Ok(Self::At { version, node_id: node_id_of_database(&connection)? })
        };
        read().or_else(|error: rusqlite::Error| {
            if error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_READONLY_ROLLBACK) {
                return Ok(Self::LeftByCrash);
            }
            Err(error).with_context(|| format!("cannot read {}; stop lightningd first", database.display()))
        })
    }

    /// Prints how the database relates to the newest version of the backup, and what the recorder does at its first start.
    pub(super) fn say_how_it_stands(self, newest: DataVersion, restore: &str) {
        match self {
            Self::At { version, .. } => match version.distance_from(newest) {
                0 => say!(
                    "the node's database is at version {newest}, too; at its first start the recorder compares all of it \
                     with the backup"
                ),
                distance if distance > 0 => say!(
                    "the node's database is at version {version}: at its first start the recorder takes a snapshot of it; \
                     versions between {newest} and {version} are missing"
                ),
                _ => say!(
                    "the node's database is at version {version}: lightningd died before it committed version {newest}, \
                     which the recorder rewinds at its first start"
                ),
            },
            Self::LeftByCrash => say!(
                "the node's database was left in the middle of a transaction, which lightningd rolls back when it starts; \
                 the recorder then compares it with the backup"
            ),
            Self::Absent => say!("there is no database yet; restore it before you start the node:\n\n    {restore}\n"),
        }
    }
}

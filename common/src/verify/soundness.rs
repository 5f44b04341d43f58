//! Whether SQLite finds a version sound: `integrity_check` and `foreign_key_check`.

use std::sync::Arc;

use rusqlite::Connection;

use super::finding::Wrong;
use crate::ReadError;
use crate::live_database::version_of_database;
use crate::pages::{MountedOverlay, OverlayPages, PagesInRuns};
use crate::replay::reason;
use crate::view::View;
use crate::{DataVersion, ReplayError};

/// What SQLite says where everything is as it should be.
const OK: &str = "ok";

/// KiB of pages that SQLite may keep while it checks.
const CACHE_KIB: u32 = 64 << 10;

/// What SQLite says of the newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soundness {
    /// The version.
    pub data_version: DataVersion,
    /// The first line of `PRAGMA integrity_check`: `ok` if all is well.
    pub integrity_check: String,
    /// The first row of `PRAGMA foreign_key_check`, in words: `ok` if there is none.
    pub foreign_key_check: String,
}

impl Soundness {
    /// What is wrong.
    pub(super) fn problems(&self) -> impl Iterator<Item = Wrong> {
        let data_version = self.data_version;
        let said = [("integrity_check", &self.integrity_check), ("foreign_key_check", &self.foreign_key_check)];
        said.into_iter().filter(|(_, said)| *said != OK).map(move |(check, said)| Wrong::Unsound {
            check,
            data_version,
            found: said.clone(),
        })
    }
}

/// Has SQLite check a version.
pub(super) fn check_soundness(view: &View, data_version: DataVersion) -> Result<Soundness, ReplayError> {
    let in_runs = PagesInRuns::new(Arc::new(view.pages().clone()), Arc::default());
    let mounted = MountedOverlay::new(OverlayPages::new(Arc::new(in_runs)));
    let checked = mounted.connect().and_then(|connection| look(&connection, data_version));
    match (checked, mounted.take_problem()) {
        (_, Some(problem)) => Err(ReadError::into(problem)),
        (Ok(soundness), None) => Ok(soundness),
        (Err(error), None) => {
            let said = reason(&error);
            Ok(Soundness { data_version, integrity_check: said.clone(), foreign_key_check: said })
        }
    }
}

fn look(connection: &Connection, data_version: DataVersion) -> rusqlite::Result<Soundness> {
    connection.execute_batch(&format!("PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY;"))?;
    let found = version_of_database(connection)?;
    let integrity_check = if found == data_version {
        // The first problem will do.
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?
    } else {
        format!("the database is at version {found}")
    };
    let mut foreign_keys = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = foreign_keys.query([])?;
    let foreign_key_check = match rows.next()? {
        None => OK.to_owned(),
        Some(row) => {
            let (table, rowid): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
            let rowid = rowid.map_or_else(|| "?".to_owned(), |rowid| rowid.to_string());
            format!("row {rowid} of {table} refers to a row that is not there")
        }
    };
    Ok(Soundness { data_version, integrity_check, foreign_key_check })
}

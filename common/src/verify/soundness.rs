//! Whether SQLite finds a version sound (`integrity_check` and `foreign_key_check`), and whose fault it is when not.
//!
//! A backup holds what the node's database had, damage included. So what is wrong with the newest version is looked for in
//! the snapshot that it stands on, too: what is there came from the node, and the backup is as it should be.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;

use super::finding::Wrong;
use super::warning::Warning;
use crate::backup::snapshot_check::in_one_line;
use crate::live::live_database::version_of_database;
use crate::pages::{MountedOverlay, OverlayPages, PageSource, PagesInRuns};
use crate::replay::sqlite_reason::reason;
use crate::storage::read_error::ReadError;
use format::units::DataVersion;

/// What SQLite says where everything is as it should be.
const OK: &str = "ok";

/// KiB of pages that SQLite may keep while it checks.
const CACHE_KIB: u32 = 64 << 10;

/// Violated foreign keys of a version that are looked for in what the node gave.
const VIOLATIONS_MAX: usize = 10_000;

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

/// A database that is looked at, and the version that it should be at.
pub(super) struct Looked {
    pub(super) data_version: DataVersion,
    pub(super) pages: Arc<dyn PageSource>,
}

/// What came of looking at the newest version.
pub(super) struct Judgement {
    pub(super) soundness: Soundness,
    pub(super) wrong: Vec<Wrong>,
    pub(super) warnings: Vec<Warning>,
}

/// Has SQLite check the newest version. `given` is asked for what the node gave when something is wrong: the pages that it
/// was replayed onto; `None` when it was replayed from nothing, or that cannot be read.
pub(super) fn judge(newest: &Looked, given: impl FnOnce() -> Option<Looked>) -> Result<Judgement, ReadError> {
    let Looked { data_version, .. } = *newest;
    let mut seen = Seen::of(newest)?;
    let soundness = Soundness {
        data_version,
        integrity_check: seen.integrity_check.clone(),
        foreign_key_check: seen.foreign_keys.in_words(),
    };
    let mut judgement = Judgement { soundness, wrong: Vec::new(), warnings: Vec::new() };
    if seen.integrity_check == OK && judgement.soundness.foreign_key_check == OK {
        return Ok(judgement);
    }
    // What of it cannot be read excuses nothing.
    let given = given().and_then(|looked| Some((looked.data_version, Seen::of(&looked).ok()?)));
    if seen.integrity_check != OK {
        let snapshot = given.as_ref().filter(|(_, seen)| seen.integrity_check != OK).map(|(version, _)| *version);
        let found = seen.integrity_check;
        judgement.wrong.push(match snapshot {
            Some(snapshot) => Wrong::NodeDatabase { data_version, snapshot, found },
            None => Wrong::Unsound { check: "integrity_check", data_version, found },
        });
        // What a damaged database says of its rows says nothing.
        return Ok(judgement);
    }
    let rows = seen.foreign_keys.rows();
    let before = given.map(|(version, given)| (version, seen.foreign_keys.without(&given.foreign_keys)));
    let found = seen.foreign_keys.in_words();
    match before {
        Some((snapshot, Rest::Nothing { first })) => {
            judgement.warnings.push(Warning::ForeignKeys { data_version, snapshot, rows, found: first });
        }
        Some((_, Rest::Something)) | None => {
            judgement.wrong.push(Wrong::Unsound { check: "foreign_key_check", data_version, found });
        }
    }
    Ok(judgement)
}

/// What SQLite says of a database.
struct Seen {
    integrity_check: String,
    foreign_keys: ForeignKeyCheck,
}

/// What `PRAGMA foreign_key_check` says.
enum ForeignKeyCheck {
    /// It cannot be done, for a key refers to what cannot be referred to.
    Fails(String),
    /// Rows that refer to rows that are not there, how often each: rows without a rowid all look the same.
    Violated(HashMap<Violation, u64>),
}

/// Table, rowid, and number of the key.
type Violation = (String, Option<i64>, i64);

/// What is left of violations when those of another database are taken away.
enum Rest {
    Nothing { first: String },
    Something,
}

impl Seen {
    fn of(looked: &Looked) -> Result<Self, ReadError> {
        let in_runs = PagesInRuns::new(Arc::clone(&looked.pages), Arc::default());
        let mounted = MountedOverlay::new(OverlayPages::new(Arc::new(in_runs)));
        let checked = mounted.connect().and_then(|connection| Self::look(&connection, looked.data_version));
        match (checked, mounted.take_problem()) {
            (_, Some(problem)) => Err(problem),
            (Ok(seen), None) => Ok(seen),
            (Err(error), None) => {
                let said = reason(&error);
                Ok(Self { integrity_check: said.clone(), foreign_keys: ForeignKeyCheck::Fails(said) })
            }
        }
    }

    fn look(connection: &Connection, data_version: DataVersion) -> rusqlite::Result<Self> {
        connection.execute_batch(&format!("PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY;"))?;
        // The first problem will do.
        let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        let integrity_check = match in_one_line(&said) {
            ok if ok == OK => match version_of_database(connection)? {
                found if found == data_version => ok,
                found => format!("the database is at version {found}"),
            },
            found => found,
        };
        let foreign_keys = ForeignKeyCheck::of(connection);
        Ok(Self { integrity_check, foreign_keys })
    }
}

impl ForeignKeyCheck {
    fn of(connection: &Connection) -> Self {
        let violated = || -> rusqlite::Result<HashMap<Violation, u64>> {
            let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
            let mut rows = statement.query([])?;
            let mut violated = HashMap::new();
            while let Some(row) = rows.next()? {
                if violated.len() == VIOLATIONS_MAX {
                    break;
                }
                *violated.entry((row.get(0)?, row.get(1)?, row.get(3)?)).or_default() += 1;
            }
            Ok(violated)
        };
        violated().map_or_else(|error| Self::Fails(reason(&error)), Self::Violated)
    }

    /// The first of them, in words.
    fn in_words(&self) -> String {
        match self {
            Self::Fails(said) => said.clone(),
            Self::Violated(violated) => violated.keys().min().map_or_else(
                || OK.to_owned(),
                |(table, rowid, _)| {
                    let rowid = rowid.map_or_else(|| "?".to_owned(), |rowid| rowid.to_string());
                    format!("row {rowid} of {table} refers to a row that is not there")
                },
            ),
        }
    }

    /// How many rows violate a key; `None` when that is not known.
    fn rows(&self) -> Option<u64> {
        match self {
            Self::Fails(_) => None,
            Self::Violated(violated) => Some(violated.values().sum()),
        }
    }

    /// Takes away what `other` has, too.
    fn without(&mut self, other: &Self) -> Rest {
        let first = self.in_words();
        let is_there = match (&mut *self, other) {
            (Self::Fails(ours), Self::Fails(theirs)) => ours == theirs,
            (Self::Violated(ours), Self::Violated(theirs)) => {
                ours.retain(|violation, times| *times > theirs.get(violation).copied().unwrap_or_default());
                ours.is_empty()
            }
            (Self::Fails(_), Self::Violated(_)) | (Self::Violated(_), Self::Fails(_)) => false,
        };
        if is_there { Rest::Nothing { first } } else { Rest::Something }
    }
}

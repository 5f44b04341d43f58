//! SQLite's checks of a version (`integrity_check` and `foreign_key_check`), and whether a fault comes from the node.
//!
//! A backup has what the node's database had, damage included. So faults of the newest version are also searched in the snapshot
//! that it builds on: a fault in there came from the node, and the backup is right.

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

/// The result of a check without faults.
const OK: &str = "ok";

/// Page cache of SQLite for the checks, in KiB: an eighth of the database, within bounds. It looks up each row in each index.
const CACHE_KIB: std::ops::RangeInclusive<u64> = 64 << 10..=256 << 10;

/// Share of the database.
const CACHE_SHARE: u64 = 8;

/// Maximum number of foreign key violations that are compared with those in the snapshot.
const VIOLATIONS_MAX: usize = 10_000;

/// SQLite's results for the newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soundness {
    /// Number of the version.
    pub data_version: DataVersion,
    /// First line of `PRAGMA integrity_check`: `ok` without faults.
    pub integrity_check: String,
    /// First row of `PRAGMA foreign_key_check`, as text: `ok` without faults.
    pub foreign_key_check: String,
}

/// A database with its expected version.
pub(super) struct Looked {
    pub(super) data_version: DataVersion,
    pub(super) pages: Arc<dyn PageSource>,
}

/// Result of the checks of the newest version.
pub(super) struct Judgement {
    pub(super) soundness: Soundness,
    pub(super) wrong: Vec<Wrong>,
    pub(super) warnings: Vec<Warning>,
}

/// Checks the newest version with SQLite. If there are faults, `given` returns the pages from the node that it was replayed onto;
/// `None` when it was replayed from nothing, or they cannot be read.
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
    // An unreadable snapshot excuses no fault.
    let given = given().and_then(|looked| Some((looked.data_version, Seen::of(&looked).ok()?)));
    if seen.integrity_check != OK {
        let snapshot = given.as_ref().filter(|(_, seen)| seen.integrity_check != OK).map(|(version, _)| *version);
        let found = seen.integrity_check;
        judgement.wrong.push(match snapshot {
            Some(snapshot) => Wrong::NodeDatabase { data_version, snapshot, found },
            None => Wrong::Unsound { check: "integrity_check", data_version, found },
        });
        // Queries of a damaged database prove nothing.
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

/// SQLite's results for a database.
struct Seen {
    integrity_check: String,
    foreign_keys: ForeignKeyCheck,
}

/// Result of `PRAGMA foreign_key_check`.
enum ForeignKeyCheck {
    /// The check fails, because a foreign key has an invalid target.
    Fails(String),
    /// The violating rows with their numbers: rows without a rowid are not distinguishable.
    Violated(HashMap<Violation, u64>),
}

/// Table, rowid, and number of the foreign key.
type Violation = (String, Option<i64>, i64);

/// The violations left after removing those of another database.
enum Rest {
    Nothing { first: String },
    Something,
}

impl Seen {
    fn of(looked: &Looked) -> Result<Self, ReadError> {
        let in_runs = PagesInRuns::new(Arc::clone(&looked.pages), Arc::default());
        let mounted = MountedOverlay::new(OverlayPages::new(Arc::new(in_runs)));
        let checked = mounted.connect().and_then(|connection| Self::look(&connection, looked));
        match (checked, mounted.take_problem()) {
            (_, Some(problem)) => Err(problem),
            (Ok(seen), None) => Ok(seen),
            (Err(error), None) => {
                let said = reason(&error);
                Ok(Self { integrity_check: said.clone(), foreign_keys: ForeignKeyCheck::Fails(said) })
            }
        }
    }

    fn look(connection: &Connection, Looked { data_version, pages }: &Looked) -> rusqlite::Result<Self> {
        let bytes = u64::from(pages.page_count()) * pages.page_size().bytes() as u64;
        let cache_kib = (bytes / CACHE_SHARE / 1024).clamp(*CACHE_KIB.start(), *CACHE_KIB.end());
        connection.execute_batch(&format!("PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = MEMORY;"))?;
        // The first problem suffices.
        let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        let integrity_check = match in_one_line(&said) {
            ok if ok == OK => match version_of_database(connection)? {
                found if found == *data_version => ok,
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

    /// The first violation, as text.
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

    /// Number of violating rows; `None` when unknown.
    fn rows(&self) -> Option<u64> {
        match self {
            Self::Fails(_) => None,
            Self::Violated(violated) => Some(violated.values().sum()),
        }
    }

    /// Removes the violations that `other` has, too.
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

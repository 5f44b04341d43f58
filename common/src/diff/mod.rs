//! Differences of two versions: every row added, removed or changed, with its values.
//!
//! Pages first, rows second. Where the changes between the two are few, they are replayed from the one to the other: only
//! pages that this read or wrote can hold rows that differ. Where they are many, the page maps tell which pages may differ
//! ([`PageIdentity`](crate::pages::PageIdentity)). Either way the b-trees of a table are followed in both databases (`tree`), past
//! all leaves that are the same, and only rows whose bytes differ are asked for. A table whose schema changed, or that
//! has no rowids, is compared as a whole, unless no page of it was touched.

mod btree;
mod databases;
mod entries;
mod hidden;
mod leaves;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

use std::ops::ControlFlow;

use self::databases::Databases;
pub use self::entries::{DiffEntry, RowChange, RowFate, SchemaChange, TableTotals};
use self::leaves::Scope;
use crate::backup::Backup;
use crate::backup::view::{BuildError, View};
use crate::history::History;
use crate::history::PlannedChange;
use crate::replay::ReplayError;
use crate::segment::version::Version;
use crate::storage::read_error::ReadError;
use format::units::DataVersion;

/// Maximum number of changes that are replayed instead of comparing page maps.
const REPLAYED_MAX: usize = 512;

/// The reason why two versions were not compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// A version cannot be opened.
    #[error("version {version} cannot be opened")]
    Version {
        /// The version.
        version: DataVersion,
        /// The reason.
        source: ReplayError,
    },
    /// The backup cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A version cannot be read as a database.
    #[error("the versions cannot be compared: {reason}; `backupfs verify` says whether the backup is damaged")]
    Unreadable {
        /// SQLite's message.
        reason: String,
    },
    /// Neither version has the table.
    #[error("there is no table {table} in either version")]
    NoSuchTable {
        /// The requested name.
        table: String,
    },
}

impl DiffError {
    /// Whether the backup is damaged.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::NoSuchTable { .. })
    }
}

/// Compares two versions of a backup, and passes the differences to `take`: the schema first, then table by table. `tables` are
/// the names of the tables to compare; empty for all. Stops when `take` breaks.
///
/// # Errors
/// When a version cannot be opened or read. The differences passed on before are valid.
pub fn diff(
    backup: &Backup,
    history: &History,
    (from, to): (&Version, &Version),
    tables: &[String],
    take: &mut dyn FnMut(DiffEntry<'_>) -> ControlFlow<()>,
) -> Result<(), DiffError> {
    let (views, scope) = open(backup, history, from, to)?;
    let [from, to] = views.map(|view| view.pages().clone());
    Databases::open(from, to)?.compare(scope, tables, take)
}

/// Opens both versions, and determines where rows can differ.
fn open(backup: &Backup, history: &History, from: &Version, to: &Version) -> Result<([View; 2], Scope), DiffError> {
    let is_forward = from.seq <= to.seq;
    let (older, newer) = if is_forward { (from, to) } else { (to, from) };
    let changes = history.changes_between(older.seq, newer.seq, REPLAYED_MAX)?;
    let older_view = view(backup, history, older)?;
    let (newer_view, scope) = match changes {
        Some(changes) => onward(backup, &older_view, newer, &changes)?,
        None => {
            let newer_view = view(backup, history, newer)?;
            let scope = Scope::of_identities(older_view.pages(), newer_view.pages())?;
            (newer_view, scope)
        }
    };
    let views = if is_forward { [older_view, newer_view] } else { [newer_view, older_view] };
    Ok((views, scope))
}

fn onward(
    backup: &Backup,
    older: &View,
    newer: &Version,
    changes: &[PlannedChange],
) -> Result<(View, Scope), DiffError> {
    let built = older.build_onward(backup, newer.seq, changes);
    let (view, mut touched) = built.map_err(|error| not_opened(newer, error))?;
    touched.extend(view.pages().written_since(older.pages()).into_iter().map(|(page, _)| page));
    Ok((view, Scope::Touched(touched)))
}

fn view(backup: &Backup, history: &History, version: &Version) -> Result<View, DiffError> {
    let plan = history.plan(version)?;
    View::build(backup, &plan, None).map_err(|error| not_opened(version, error))
}

fn not_opened(version: &Version, error: BuildError) -> DiffError {
    DiffError::Version { version: version.data_version, source: error.reason }
}

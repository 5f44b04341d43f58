//! The versions at which the matches of a condition changed: rows of a table began or ceased to match.
//!
//! Exact, version by version. When SQLite prepares a recorded statement, it reports which columns of which tables it writes.
//! Between two keyframes the changes are replayed only if one of them writes what the condition reads; if that holds for
//! consecutive intervals, replay continues from one to the next with its cached pages, and in the last only up to the last
//! relevant change. During replay SQLite reports each row that it writes, and only those are queried.

mod condition;
mod condition_text;
mod matches;
mod relevance;
mod search;
#[cfg(test)]
pub(crate) mod tests;

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use self::condition::Condition;
use self::matches::Query;
use self::search::Search;
use crate::backup::Backup;
use crate::backup::view::View;
use crate::compare::value::Value;
use crate::history::History;
use crate::pages::MountedOverlay;
use crate::replay::{OutOfBounds, ReplayError, reason};
use crate::segment::version::Version;
use crate::storage::read_error::ReadError;
use format::units::{DataVersion, Seq, Timestamp};

/// The reason why the search failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The table does not exist.
    #[error("there is no table {table}, neither in the newest nor in the oldest of these versions")]
    NoSuchTable {
        /// The requested name.
        table: String,
    },
    /// The condition is not a single expression about a row.
    #[error("the condition `{condition}` cannot be used: {reason}")]
    Condition {
        /// The condition.
        condition: String,
        /// The reason.
        reason: String,
    },
    /// The names that the condition uses change at a version.
    #[error(
        "the condition does not mean the same before and from version {version} on: of table {table}, {why}; ask for the \
        versions before it with --to, and for it and those after it with --from, each time with the names of those versions"
    )]
    Renamed {
        /// The first version with other names.
        version: DataVersion,
        /// The table.
        table: String,
        /// The change.
        why: String,
    },
    /// The condition cannot be evaluated for a row.
    #[error("the condition cannot be answered: {reason}")]
    Evaluation {
        /// SQLite's message.
        reason: String,
    },
    /// The condition exceeds a bound.
    #[error("the condition was stopped: it {why}")]
    TooMuch {
        /// The exceeded bound.
        why: OutOfBounds,
    },
    /// A version cannot be opened, or a change does not replay.
    #[error(transparent)]
    Replay {
        /// The reason.
        source: ReplayError,
    },
    /// The backup cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A version cannot be read as a database.
    #[error("a version cannot be read: {reason}; `backupfs verify` says whether the backup is damaged")]
    Unreadable {
        /// SQLite's message.
        reason: String,
    },
}

impl FindError {
    /// Whether the backup is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Replay { .. } | Self::Read(_) | Self::Unreadable { .. })
    }
}

/// The key of a row: its rowid, the columns of its primary key, or all columns of a table without either, with a number that
/// distinguishes equal rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey(pub Vec<Value>, u32);

/// A version at which the matches changed.
#[derive(Debug, Clone)]
pub struct Transition {
    /// The version.
    pub version: Version,
    /// Rows that match in it and did not in the previous version.
    pub began: Vec<RowKey>,
    /// Rows that matched only in the previous version.
    pub ended: Vec<RowKey>,
    /// Number of matching rows.
    pub matches: u64,
}

/// The matches in the first version, and every later version at which they changed.
#[derive(Debug)]
pub struct Turns {
    /// Name of the table as in its schema.
    pub table: String,
    /// Names of the columns of a key.
    pub key_columns: Vec<String>,
    /// The first version of the search.
    pub first: Version,
    /// Number of matching rows in it.
    pub matches: u64,
    /// The transitions behind it, in order.
    pub turns: Vec<Transition>,
}

/// Finds the versions behind `first`, up to `last`, at which other rows of `table` match a condition than in the previous
/// version.
///
/// # Errors
/// When the condition is not a single expression about a row, or the backup cannot be read.
pub fn find(
    backup: &Backup,
    history: &History,
    (first, last): (&Version, &Version),
    table: &str,
    condition: &str,
) -> Result<Turns, FindError> {
    let condition = check(backup, history, (first, last), table, condition)?;
    let asking = Query::new(&condition, Timestamp::now());
    let wanted = first.seq..=last.seq;
    let search = || Search::new(backup, history, &asking, wanted.clone());
    let matches = search().all_at(first)?.0.len() as u64;
    let jobs = jobs(history, first.seq, last.seq);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Done>> = Mutex::default();
    let work = || {
        let mut search = search();
        let mut line = None;
        while let Some((at, job)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, jobs.get(at)?)))
        {
            let found = match *job {
                Job::Segment(segment) => {
                    backup.segments().footer(segment).map_err(FindError::from).and_then(|footer| {
                        // A connection must not be used on both sides of a rewind or a snapshot.
                        if line.replace(footer.newest_snapshot) != Some(footer.newest_snapshot) {
                            search.forget();
                        }
                        search.segment(segment)
                    })
                }
                Job::Unsealed => {
                    search.forget();
                    search.unsealed()
                }
            };
            let failed = found.is_err();
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, found));
            if failed {
                // Stops the other threads.
                next.store(jobs.len(), Ordering::Relaxed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    let mut turns: Vec<Transition> = Vec::new();
    for (_, found) in done {
        turns.extend(found?);
    }
    let mut standing = matches;
    for turn in &mut turns {
        standing = (standing + turn.began.len() as u64).saturating_sub(turn.ended.len() as u64);
        turn.matches = standing;
    }
    let key_columns = condition.key_columns().to_vec();
    Ok(Turns { table: condition.table.clone(), key_columns, first: first.clone(), matches, turns })
}

/// Number and result of a job.
type Done = (usize, Result<Vec<Transition>, FindError>);

/// The work of a thread.
enum Job {
    Segment(Seq),
    Unsealed,
}

fn jobs(history: &History, first: Seq, last: Seq) -> Vec<Job> {
    let sealed = history.sealed();
    // The segment of the first version may have later ones.
    let from = match history.is_sealed(first) {
        true => sealed.partition_point(|&segment| segment <= first).saturating_sub(1),
        false => sealed.len(),
    };
    let upto = sealed.partition_point(|&segment| segment <= last);
    let segments = sealed.get(from..upto).unwrap_or_default().iter().map(|&segment| Job::Segment(segment));
    let unsealed = (!history.is_sealed(last)).then_some(Job::Unsealed);
    segments.chain(unsealed).collect()
}

/// Checks the condition on the newest version, or on the oldest if the newest lacks the table or a column.
fn check(
    backup: &Backup,
    history: &History,
    (first, last): (&Version, &Version),
    table: &str,
    condition: &str,
) -> Result<Condition, FindError> {
    let on = |version: &Version| {
        let plan = history.plan(version)?;
        let view = View::build(backup, &plan, None).map_err(|error| FindError::Replay { source: error.reason })?;
        let mounted = MountedOverlay::new(view.pages().clone());
        let connection = mounted.connect();
        let mut connection = connection.map_err(|error| FindError::Unreadable { reason: reason(&error) })?;
        let checked = Condition::check(&mut connection, table, condition);
        drop(connection);
        checked.map_err(|error| mounted.take_problem().map_or(error, FindError::Read))
    };
    on(last).or_else(|error| if error.is_damage() { Err(error) } else { on(first).map_err(|_| error) })
}

//! Whether the newest recorded change is what `lightningd` committed under its number.
//!
//! When a run begins, the database is at the version recorded last: usually because that change was committed. But
//! `lightningd` may have died before its COMMIT, and have run without the recorder until one other transaction took the
//! same number. The version rules cannot tell; the contents can. A recorder that saw the end of its run has noted that
//! the change was committed, so this is asked only after it was killed, or the power failed.

use std::sync::Arc;

use crate::backup::Backup;
use crate::contents::same_contents;
use crate::history::History;
use crate::live_database::{LiveDatabase, LiveDatabaseError};
use crate::pages::MountedOverlay;
use crate::replay::reason;
use crate::views::Views;

/// What the comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The database holds the recorded change.
    Same,
    /// It holds something else, or the recorded version cannot be opened.
    Differs,
}

/// Compares the newest version of `history` with the database: all rows of all tables.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn compare_newest(
    backup: Arc<Backup>,
    history: &History,
    database: &LiveDatabase,
) -> Result<Verdict, LiveDatabaseError> {
    let Some(newest) = history.newest() else {
        return Ok(Verdict::Same);
    };
    let opened = history.plan(newest).map_err(|error| error.to_string()).and_then(|plan| {
        let opened = Views::new(backup, 0).open(&plan);
        opened.map_err(|error| format!("{error}: {}", error.reason))
    });
    let view = match opened {
        Ok(view) => view,
        Err(problem) => {
            log::error!("{problem}");
            return Ok(Verdict::Differs);
        }
    };
    let mounted = MountedOverlay::new(view.pages().clone());
    let same = mounted.connect().and_then(|ours| same_contents(&ours, database.connection()));
    match (same, mounted.take_problem()) {
        (Ok(true), _) => Ok(Verdict::Same),
        (Ok(false), _) => Ok(Verdict::Differs),
        (Err(_), Some(damage)) => {
            log::error!("{damage}");
            Ok(Verdict::Differs)
        }
        (Err(error), None) => Err(database.unreadable(&reason(&error))),
    }
}

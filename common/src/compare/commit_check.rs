//! Whether the database of `lightningd` equals a recorded version.
//!
//! The version rules use numbers alone. But another transaction may have taken a number while `lightningd` ran without the
//! recorder, and another program may have changed the database without a new number. Only the contents show that.

use std::ops::Range;
use std::sync::Arc;

use crate::backup::Backup;
use crate::backup::view::View;
use crate::compare::differing_tables;
use crate::history::History;
use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::pages::{MountedOverlay, PageSource, read_ahead};
use crate::replay::reason;
use crate::storage::read_error::ReadError;
use format::units::{DataVersion, PageNo};

/// Result of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The database equals the recorded version.
    Same,
    /// These tables differ.
    Differs(Vec<String>),
    /// The recorded version cannot be opened.
    Unreadable,
}

/// Compares a version of `history` with the database: first page by page, which suffices when the same SQLite wrote both, then
/// all rows of all tables.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn compare_version(
    backup: Arc<Backup>,
    history: &History,
    data_version: DataVersion,
    database: &LiveDatabase,
) -> Result<Verdict, LiveDatabaseError> {
    let opened = history.version(data_version).and_then(|version| {
        let plan = version.map(|version| history.plan(&version)).transpose();
        plan.map(|plan| plan.map(|plan| View::open(&backup, &plan)))
    });
    let view = match opened {
        Ok(Some(Ok(view))) => view,
        Ok(Some(Err(error))) => {
            log::error!("{error}: {}", error.reason);
            return Ok(Verdict::Unreadable);
        }
        Ok(None) => return Ok(Verdict::Unreadable),
        Err(error) => {
            log::error!("{error}");
            return Ok(Verdict::Unreadable);
        }
    };
    if same_pages(view.pages(), database)? {
        return Ok(Verdict::Same);
    }
    let mounted = MountedOverlay::new(view.pages().clone());
    let differing = mounted.connect().and_then(|ours| differing_tables(&ours, database.connection()));
    match (differing, mounted.take_problem()) {
        (Ok(tables), _) if tables.is_empty() => Ok(Verdict::Same),
        (Ok(tables), None) => Ok(Verdict::Differs(tables)),
        (_, Some(damage)) => {
            log::error!("{damage}");
            Ok(Verdict::Unreadable)
        }
        (Err(error), None) => Err(database.unreadable(&reason(&error))),
    }
}

/// Bytes of page 1 that do not concern contents: write counters and the version of SQLite (file format §1.3, bytes 24 to 27 and
/// 92 to 99).
const ABOUT_THE_WRITER: [Range<usize>; 2] = [24..28, 92..100];

/// The reason why the pages are not known to be equal.
enum NotSame {
    Differs,
    Ours(ReadError),
    Theirs(LiveDatabaseError),
}

impl From<LiveDatabaseError> for NotSame {
    fn from(error: LiveDatabaseError) -> Self {
        Self::Theirs(error)
    }
}

/// Whether two databases have equal pages, and so equal contents. Stops at the first difference.
fn same_pages(ours: &dyn PageSource, theirs: &LiveDatabase) -> Result<bool, LiveDatabaseError> {
    if (ours.page_size(), ours.page_count()) != (theirs.page_size(), theirs.page_count()) {
        return Ok(false);
    }
    let compared = read_ahead(ours, ours.page_count(), |ours| {
        theirs.read_pages(|page, bytes| {
            let our = ours.next_page().map_err(NotSame::Ours)?;
            if same_but_for_the_writer(page, our, bytes) { Ok(()) } else { Err(NotSame::Differs) }
        })
    });
    match compared {
        Ok(()) => Ok(true),
        Err(NotSame::Differs) => Ok(false),
        Err(NotSame::Ours(error)) => {
            // The comparison of rows decides: it may not need that page.
            log::error!("{error}");
            Ok(false)
        }
        Err(NotSame::Theirs(error)) => Err(error),
    }
}

/// Whether a page is equal in two databases, except for the bytes about the writer.
pub(crate) fn same_but_for_the_writer(page: PageNo, ours: &[u8], theirs: &[u8]) -> bool {
    ours == theirs || page == PageNo::FIRST && without_writer(ours) == without_writer(theirs)
}

fn without_writer(page: &[u8]) -> Vec<u8> {
    let mut page = page.to_vec();
    for about in ABOUT_THE_WRITER {
        if let Some(bytes) = page.get_mut(about) {
            bytes.fill(0);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::testing::{Fate, Node};

    fn compare(node: &Node) -> bool {
        let backup = node.backup();
        let (history, read) = backup.read_history();
        read.unwrap();
        let view = View::open(&backup, &history.plan(history.newest().unwrap()).unwrap()).unwrap();
        same_pages(view.pages(), &LiveDatabase::open(&node.database()).unwrap()).unwrap()
    }

    #[test]
    fn pages_are_equal_after_any_number_of_writes_and_no_other_byte_may_differ() {
        let mut node = Node::new("");
        let mut recording = node.record();
        for _ in 0..5 {
            node.write(&mut recording, "recorded", Fate::Committed).unwrap();
        }
        assert!(compare(&node), "the usual case: this is why it is looked at");
        let file = OpenOptions::new().write(true).open(node.database()).unwrap();
        // Change counter, version-valid-for counter, SQLite version.
        for (offset, bytes) in [(24, [0, 0, 7, 7]), (92, [0, 0, 7, 7]), (96, [0, 45, 0, 1])] {
            file.write_all_at(&bytes, offset).unwrap();
        }
        assert!(compare(&node));
        // The user version, which was changed.
        file.write_all_at(&[0, 0, 0, 1], 60).unwrap();
        assert!(!compare(&node));
        file.write_all_at(&[0, 0, 0, 0], 60).unwrap();
        assert!(compare(&node));
        node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
        assert!(!compare(&node));
    }
}

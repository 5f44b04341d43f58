//! Whether the newest recorded change is what `lightningd` committed under its number.
//!
//! When a run begins, the database is at the version recorded last: usually because that change was committed. But
//! `lightningd` may have died before its COMMIT, and have run without the recorder until one other transaction took the
//! same number. The version rules cannot tell; the pages can.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::backup::Backup;
use crate::history::{History, Version};
use crate::live_database::{LiveDatabase, LiveDatabaseError};
use crate::pages::PageSource;
use crate::views::Views;
use crate::{PageNo, Timestamp};

/// What the comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The database holds the recorded change.
    Same,
    /// It holds something else, or pages laid out in another way, or the change cannot be replayed.
    Differs,
}

/// A COMMIT follows the answer of the hook within milliseconds. A database file written later than this was written by
/// somebody else: by a run without the recorder, or by whoever copied it there.
const COMMIT_WITHIN: Duration = Duration::from_secs(1);

/// Compares the newest version of `history`, a change, with the database.
///
/// The pages that the change wrote are compared: a few. All pages are when the database was written after the change was
/// recorded, because another transaction may have written others.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn compare_newest(
    backup: &Arc<Backup>,
    history: &History,
    path: &Path,
    database: &LiveDatabase,
) -> Result<Verdict, LiveDatabaseError> {
    let Some((newest, before)) = history.versions().split_last() else {
        return Ok(Verdict::Same);
    };
    // Both views share the pages that the change did not write.
    let views = Views::new(Arc::clone(backup), u64::MAX);
    let open = |version: &Version| {
        views.open(&history.plan(version)).inspect_err(|error| {
            log::error!("{error}: {}; a snapshot is taken instead", error.reason);
        })
    };
    let before = match before.last().map(open).transpose() {
        Ok(before) => before,
        Err(_) => return Ok(Verdict::Differs),
    };
    let Ok(newest_view) = open(newest) else {
        return Ok(Verdict::Differs);
    };
    if (newest_view.page_size(), newest_view.page_count()) != (database.page_size(), database.page_count()) {
        return Ok(Verdict::Differs);
    }
    let mut ours = vec![0; newest_view.page_size().bytes()];
    let mut same = |page: PageNo, theirs: &[u8]| match newest_view.pages().read_page(page, &mut ours) {
        Ok(()) => comparable(page, &mut ours) == comparable(page, &mut theirs.to_vec()),
        Err(error) => {
            log::error!("{error}; a snapshot is taken instead");
            false
        }
    };
    let mut all_same = true;
    match before.filter(|_| !written_after(path, newest.recorded_at)) {
        Some(before) => {
            for page in newest_view.pages().written_since(before.pages()) {
                all_same &= same(page, &database.read_page(page)?);
            }
        }
        None => database.read_pages(&mut |page, theirs| {
            all_same &= same(page, theirs);
            Ok(())
        })?,
    }
    Ok(if all_same { Verdict::Same } else { Verdict::Differs })
}

/// A page without what depends on who wrote it: of page 1 the file change counter, the version-valid-for number and the
/// version of SQLite (SQLite file format §1.3), none of which is content.
fn comparable(page: PageNo, bytes: &mut [u8]) -> &[u8] {
    if page == PageNo::FIRST {
        for range in [24..28, 92..100] {
            if let Some(bytes) = bytes.get_mut(range) {
                bytes.fill(0);
            }
        }
    }
    bytes
}

/// Whether the database, or its WAL, was written later than a COMMIT of what was recorded at `recorded_at` would have.
fn written_after(path: &Path, recorded_at: Timestamp) -> bool {
    let recorded_at = SystemTime::UNIX_EPOCH + Duration::from_micros(recorded_at.as_micros().unsigned_abs());
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    [path.to_path_buf(), PathBuf::from(wal)]
        .iter()
        .filter_map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
        .any(|modified| modified > recorded_at + COMMIT_WITHIN)
}

//! Writing a version to a file, and having SQLite check it meanwhile.
//!
//! The pages are read in several threads, because decompressing takes longer than writing, and because each read may be of a store
//! far away. SQLite needs about as long for its check as they do, so it does not wait for the last page.

use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use common::{DataVersion, DatabaseCopy, Piece, ReadError, View, sqlite_reason};

use super::{Progress, RestoreError, findings, join};

/// The maximum number of copying threads.
const COPIERS_MAX: usize = 4;

/// The number of bytes after which written data is synced to the disk.
const SYNC_BYTES: u64 = 32 << 20;

/// Why a piece was not copied.
enum Failure {
    Unreadable(ReadError),
    Unwritable(io::Error),
}

/// Writes a version to a new file, and checks it; returns the findings of SQLite. The file is synced.
pub(super) fn write_version(
    view: &View,
    version: DataVersion,
    copy: &Arc<DatabaseCopy>,
    write_error: impl Fn(io::Error) -> RestoreError,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<String>, RestoreError> {
    copy.file().set_len(copy.size_bytes()).map_err(&write_error)?;
    thread::scope(|scope| {
        let check = || findings_of_copy(copy, version);
        let checking = thread::Builder::new().name("restore-check".to_owned()).spawn_scoped(scope, check);
        let ending = GivesUp(copy);
        let copied = copy_pieces(view, copy, progress);
        drop(ending);
        progress(Progress::Checking);
        let synced = copy.file().sync_all();
        // Without the thread it is done now.
        let checked = || checking.map_or_else(|_| findings_of_copy(copy, version), join);
        copied.map_err(|failure| match failure {
            Failure::Unreadable(source) => RestoreError::Read { version, source },
            Failure::Unwritable(source) => write_error(source),
        })?;
        synced.map_err(&write_error)?;
        checked()
    })
}

/// Ends the copying when it is dropped, also by a panic: the check would wait for pieces that never come. Once all pieces are there
/// it waits for none.
struct GivesUp<'a>(&'a DatabaseCopy);

impl Drop for GivesUp<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Checks a copy while it is written.
fn findings_of_copy(copy: &Arc<DatabaseCopy>, version: DataVersion) -> Result<Vec<String>, RestoreError> {
    let sqlite = |reason| RestoreError::Sqlite { version, reason };
    let opened = copy.connect().map_err(|error| sqlite(sqlite_reason(&error)))?;
    let found = findings(opened.connection(), version);
    // SQLite says only that something could not be read.
    opened.take_problem().map_or(found, |problem| Err(sqlite(problem.in_words())))
}

/// Copies all pieces. Written pages are synced meanwhile, so that little is left to wait for in the end.
fn copy_pieces(view: &View, copy: &DatabaseCopy, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Failure> {
    thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let mut started = Err(io::ErrorKind::OutOfMemory.into());
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get).min(COPIERS_MAX) {
            let report = report.clone();
            let copier = move || copy_until_the_end(view, copy, &report);
            let spawned = thread::Builder::new().name("restore".to_owned()).spawn_scoped(scope, copier);
            started = started.or(spawned.map(drop));
        }
        drop(report);
        started.map_err(Failure::Unwritable)?;

        let (sync, due) = mpsc::sync_channel(1);
        // Its errors count, because the kernel reports each only once.
        let syncing = thread::Builder::new().name("restore-sync".to_owned());
        let syncing = syncing.spawn_scoped(scope, move || due.into_iter().try_for_each(|()| copy.file().sync_data()));
        let (mut copied_bytes, mut first) = (0, None);
        for done in reports {
            match done {
                Ok(len) => {
                    copied_bytes += len;
                    progress(Progress::Copied(copied_bytes));
                    if copied_bytes % SYNC_BYTES < len {
                        // Full: the next sync covers these bytes, too. Disconnected: it has failed, or was never started.
                        let _: Result<(), _> = sync.try_send(());
                    }
                }
                Err(failure) => _ = first.get_or_insert(failure),
            }
        }
        drop(sync);
        // Without the thread the final sync only takes longer.
        let synced = syncing.map_or(Ok(()), join).map_err(Failure::Unwritable);
        first.map_or(synced, Err)
    })
}

/// Copies one piece after the other, and reports the length of each.
fn copy_until_the_end(view: &View, copy: &DatabaseCopy, report: &Sender<Result<u64, Failure>>) {
    let mut bytes = vec![0; DatabaseCopy::PIECE_BYTES];
    while let Some(piece) = copy.begin_piece() {
        let copied = copy_piece(view, copy, piece, &mut bytes[..piece.len]);
        match copied {
            Ok(_) => copy.finish_piece(piece),
            Err(_) => copy.give_up(),
        }
        // The receiver lives as long as the copiers.
        let _: Result<(), _> = report.send(copied);
    }
}

fn copy_piece(view: &View, copy: &DatabaseCopy, piece: Piece, bytes: &mut [u8]) -> Result<u64, Failure> {
    let len = view.read_at(piece.offset, bytes).map_err(Failure::Unreadable)?;
    copy.file().write_all_at(&bytes[..len], piece.offset).map_err(Failure::Unwritable)?;
    Ok(len as u64)
}

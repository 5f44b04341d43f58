//! Writing a version to a file: first the database that its replay begins with, then the replay on this copy, and what it wrote.
//!
//! So the pages of the backup are read once and in order, in several threads, because decompressing takes longer than writing, and
//! because each read may be of a store far away. The replay, which reads pages here and there, reads the file.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use common::{Backup, DataVersion, DatabaseCopy, ReadError, ReplayPlan, View};
use tempfile::NamedTempFile;

use super::{Destination, Progress, RestoreError, join, view_error};

/// The number of bytes copied at a time.
const PIECE_BYTES: usize = DatabaseCopy::PIECE_BYTES;

/// The maximum number of copying threads.
const COPIERS_MAX: usize = 4;

/// The number of bytes after which written data is synced to the disk.
const SYNC_BYTES: u64 = 32 << 20;

/// The version to write.
pub(super) struct WantedVersion<'a> {
    pub(super) backup: &'a Backup,
    pub(super) plan: &'a ReplayPlan,
    pub(super) data_version: DataVersion,
}

/// Writes a version, whose replay begins with `start`, to a new file; returns its length. It is not synced.
pub(super) fn write_version(
    version: &WantedVersion<'_>,
    start: &View,
    destination: &Destination,
    temporary: &NamedTempFile,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<u64, RestoreError> {
    let write_error = |source| RestoreError::Write { path: destination.path().to_owned(), source };
    let read_error = |source| RestoreError::Read { version: version.data_version, source };
    let file = temporary.as_file();
    let pieces = copy(start, file, progress).map_err(write_error)?;
    let copy = Arc::new(DatabaseCopy {
        file: file.try_clone().map_err(write_error)?,
        path: temporary.path().to_owned(),
        pieces,
    });
    let view = start
        .open_on_copy(version.backup, version.plan, Arc::clone(&copy))
        .map_err(|error| view_error(error, version.data_version))?;
    let size_bytes = view.size_bytes();
    file.set_len(size_bytes).map_err(write_error)?;
    for (offset, bytes) in view.written() {
        file.write_all_at(&bytes, offset).map_err(write_error)?;
    }
    // Unreadable pages that the replay wrote cost nothing; another one is an error now.
    let mut piece = vec![0; PIECE_BYTES];
    for offset in (0..size_bytes).step_by(PIECE_BYTES).filter(|&offset| !copy.has(offset)) {
        let len = view.read_at(offset, &mut piece).map_err(read_error)?;
        file.write_all_at(&piece[..len], offset).map_err(write_error)?;
    }
    Ok(size_bytes)
}

/// The result of copying a piece.
enum Piece {
    Copied { number: usize, len: u64 },
    Unreadable(ReadError),
    Unwritable(io::Error),
}

/// Copies a database up to the first pieces that cannot be read; returns which were copied. Written pages are synced meanwhile, so
/// that little is left to wait for in the end.
fn copy(view: &View, file: &File, progress: &mut dyn FnMut(Progress<'_>)) -> io::Result<Vec<bool>> {
    let size_bytes = view.size_bytes();
    file.set_len(size_bytes)?;
    let count = usize::try_from(size_bytes.div_ceil(PIECE_BYTES as u64)).unwrap_or(usize::MAX);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let copier = |report: Sender<Piece>| {
            let mut bytes = vec![0; PIECE_BYTES];
            while !failed.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                // The receiver lives as long as the copiers.
                let _: Result<(), _> = report.send(copy_piece(view, file, number, &mut bytes));
            }
        };
        let mut started = Err(io::ErrorKind::OutOfMemory.into());
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get).min(COPIERS_MAX) {
            let report = report.clone();
            let spawned = thread::Builder::new().name("restore".to_owned()).spawn_scoped(scope, move || copier(report));
            started = started.or(spawned.map(drop));
        }
        drop(report);
        started?;

        let (sync, due) = mpsc::sync_channel(1);
        // Its errors count, because the kernel reports each only once.
        let syncing = thread::Builder::new().name("restore-sync".to_owned());
        let syncing = syncing.spawn_scoped(scope, move || due.into_iter().try_for_each(|()| file.sync_data()));
        let (mut pieces, mut copied_bytes, mut first_error) = (vec![false; count], 0, None);
        for piece in reports {
            match piece {
                Piece::Copied { number, len } => {
                    pieces[number] = true;
                    copied_bytes += len;
                    progress(Progress::Copied(copied_bytes));
                    if copied_bytes % SYNC_BYTES < len {
                        // Full: the next sync covers these bytes, too. Disconnected: it has failed, or was never started.
                        let _: Result<(), _> = sync.try_send(());
                    }
                }
                Piece::Unreadable(error) => {
                    log::debug!("copied as far as it can be read: {error}");
                    failed.store(true, Ordering::Relaxed);
                }
                Piece::Unwritable(error) => {
                    failed.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                }
            }
        }
        drop(sync);
        // Without the thread the final sync only takes longer.
        let synced = syncing.map_or(Ok(()), join);
        first_error.map_or(Ok(()), Err)?;
        synced.map(|()| pieces)
    })
}

fn copy_piece(view: &View, file: &File, number: usize, bytes: &mut [u8]) -> Piece {
    let offset = number as u64 * PIECE_BYTES as u64;
    match view.read_at(offset, bytes) {
        Err(error) => Piece::Unreadable(error),
        Ok(len) => match file.write_all_at(&bytes[..len], offset) {
            Ok(()) => Piece::Copied { number, len: len as u64 },
            Err(error) => Piece::Unwritable(error),
        },
    }
}

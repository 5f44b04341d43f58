//! Making a backup of a file of the plugin.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, ScopedJoinHandle};

use uuid::Uuid;

use super::copy::{BytesDone, Imported, Stop, To, copy};
use super::import_error::ImportError;
use super::log_cutter::LogCutter;
use super::reader::PythonFile;
use super::replay::{replay_logs, write_segments};
use super::to_replay::Records;
use crate::create::create_filled;
use crate::format::checked::CheckedSnapshots;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::snapshot_check::{StoredSnapshot, interruptible, write_checked};
use crate::storage::{Directory, RealDirectory, UnnamedDirectory, replace_file};
use crate::{Backup, BackupUrl, LogLimits, PageSize, ReplayError, Timestamp};

/// Makes a backup at `url` of all versions in `file`, and replays each change on the way. Memory and what is on the disk
/// beside the result are bounded, whatever the size of the file.
///
/// The directory gets its name when everything in it is durable: whenever power fails, there is a whole backup or none.
/// `progress` is asked now and then, and can end it.
///
/// # Errors
/// When there is something at `url`, or the file is none of the plugin, is damaged, or does not replay. Nothing has been
/// made then.
pub fn import_backup(
    mut file: PythonFile,
    url: &BackupUrl,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Imported, ImportError> {
    create_filled(url, |building| fill(building, &mut file, progress))
}

fn fill(
    building: &Path,
    file: &mut PythonFile,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Imported, ImportError> {
    let unnamed = Arc::new(UnnamedDirectory::new(RealDirectory::new(building)));
    let directory: Arc<dyn Directory> = unnamed.clone();
    directory.create(names::LOCK)?;
    // Whose it is the recorder finds out at its first start, as it does for a new node.
    let manifest =
        Manifest { uuid: Uuid::new_v4(), created: Timestamp::now(), page_size: PageSize::DEFAULT, node_id: None };
    replace_file(&*directory, names::MANIFEST, &manifest.encode())?;
    let limits = LogLimits::from_env();
    let backup = Arc::new(Backup::of(directory, manifest));
    let uuid = backup.manifest().uuid;
    let (copied, replayed, written) = thread::scope(|scope| {
        let (records, to_replay) = Records::way();
        // Without room: who has handed on a log knows that the one before it is written.
        let (replayed, to_write) = sync_channel(0);
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let replaying =
            named("import-replay").spawn_scoped(scope, || replay_logs(&backup, limits, to_replay, replayed));
        let writing = named("import-write").spawn_scoped(scope, || write_segments(&backup, to_write));
        let copied = match (&replaying, &writing) {
            (Ok(_), Ok(_)) => {
                let to = To { backup: &backup, cutter: LogCutter::new(uuid, limits), records };
                copy(file, to, progress).and_then(|(imported, newest_log)| {
                    // It may still be replayed: if that fails, nothing of all this is kept.
                    newest_log.write(backup.directory(), uuid, limits)?;
                    Ok(imported)
                })
            }
            _ => Err(Stop::Because(ImportError::Thread)),
        };
        (copied, replaying.map_or(Ok(()), join), writing.map_or(Ok(()), join))
    });
    // What does not replay is in front of what else may be wrong.
    replayed.map_err(|error| match error {
        ReplayError::Pages(error) => ImportError::Read(error),
        source => ImportError::Replay { path: file.path().to_path_buf(), source },
    })?;
    written?;
    let mut imported = copied.map_err(|stop| match stop {
        Stop::Because(error) => error,
        Stop::NobodyReplays => unreachable!("BUG: replay ended early and without an error"),
    })?;
    imported.damage = check_copy(&backup, file.len(), progress)?;
    unnamed.make_durable()?;
    Ok(imported)
}

/// Has SQLite look at the copy of the node's database that the file begins with, as it was stored, and notes what it says.
fn check_copy(
    backup: &Arc<Backup>,
    total: u64,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Option<String>, ImportError> {
    let (history, read) = backup.read_history();
    read?;
    let Some(copy) = StoredSnapshot::newest(backup, &history)? else { return Ok(None) };
    let mut is_stopped = false;
    let mut go_on = || {
        is_stopped |= progress(BytesDone { done: total, total }).is_break();
        !is_stopped
    };
    let checked = interruptible(&mut go_on, |stop| copy.check(backup, stop)).map_err(|_| ImportError::Thread)?;
    let found = match checked {
        Err(_) if is_stopped => return Err(ImportError::Interrupted),
        checked => checked?,
    };
    let checked = CheckedSnapshots::add(None, copy.seq, copy.data_version, found.as_deref());
    write_checked(&**backup.directory(), backup.manifest().uuid, &checked)?;
    Ok(found)
}

/// What a thread returned; its panic goes on here.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

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
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::storage::{Directory, RealDirectory, UnnamedDirectory, replace_file};
use crate::{Backup, BackupUrl, LogLimits, Owner, PageSize, ReplayError, Timestamp};

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
    file: PythonFile,
    url: &BackupUrl,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Imported, ImportError> {
    let place = url.path().parent().unwrap_or(url.path());
    // Whose node it is the file knows, when the place does not.
    let owner = Owner::other_than_root([place, file.path()]);
    import_for(owner, file, url, progress)
}

/// As [`import_backup`], for the node in `lightning_dir`: whoever owns that owns the backup, when root makes it.
///
/// # Errors
/// As [`import_backup`].
pub fn import_backup_for(
    lightning_dir: &Path,
    file: PythonFile,
    url: &BackupUrl,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Imported, ImportError> {
    import_for(Owner::other_than_root([lightning_dir]), file, url, progress)
}

fn import_for(
    owner: Option<Owner>,
    mut file: PythonFile,
    url: &BackupUrl,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Imported, ImportError> {
    create_filled(url, owner, |building| fill(building, &mut file, progress))
}

fn fill(
    building: &Path,
    file: &mut PythonFile,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Imported, ImportError> {
    let unnamed = Arc::new(UnnamedDirectory::new(RealDirectory::new(building)));
    let directory: Arc<dyn Directory> = unnamed.clone();
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
    let imported = copied.map_err(|stop| match stop {
        Stop::Because(error) => error,
        Stop::NobodyReplays => unreachable!("BUG: replay ended early and without an error"),
    })?;
    drop(backup);
    unnamed.make_durable()?;
    Ok(imported)
}

/// What a thread returned; its panic goes on here.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

//! Making a backup of a file of the plugin.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use uuid::Uuid;

use super::copy::{BytesDone, Imported, Stop, To, copy};
use super::import_error::ImportError;
use super::reader::PythonFile;
use crate::create::create_filled;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::log::create_first_log_within;
use crate::seal::{SealError, Sealer};
use crate::storage::{Directory, RealDirectory, UnnamedDirectory, replace_file};
use crate::{Backup, BackupUrl, LogLimits, PageSize, Seq, Timestamp};

/// Logs that may be written and not sealed yet.
const LOGS_AHEAD: usize = 2;

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
    let writer = create_first_log_within(&directory, manifest.uuid, limits)?;
    let backup = Arc::new(Backup::of(directory, manifest));
    let (copied, sealed) = thread::scope(|scope| {
        let (written, told) = sync_channel(LOGS_AHEAD);
        let sealing = thread::Builder::new()
            .name("import-seal".to_owned())
            .spawn_scoped(scope, || seal(&backup, limits, told))
            .map_err(|source| ImportError::Io { path: file.path().to_path_buf(), source });
        let sealing = match sealing {
            Ok(sealing) => sealing,
            Err(error) => return (Err(Stop::Because(error)), Ok(())),
        };
        let copied = copy(file, To { backup: &backup, writer, limits, written }, progress);
        (copied, sealing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    // What does not replay is in front of what else may be wrong.
    sealed.map_err(|error| match error {
        SealError::Replay { source, .. } => ImportError::Replay { path: file.path().to_path_buf(), source },
        error => ImportError::Seal(error),
    })?;
    let imported = copied.map_err(|stop| match stop {
        Stop::Because(error) => error,
        Stop::NobodySeals => unreachable!("BUG: sealing ended early and without an error"),
    })?;
    drop(backup);
    unnamed.make_durable()?;
    Ok(imported)
}

/// Replays and seals what is written, until nothing is written any more.
fn seal(backup: &Arc<Backup>, limits: LogLimits, told: Receiver<Seq>) -> Result<(), SealError> {
    let mut sealer = Sealer::new(Arc::clone(backup), limits)?;
    told.into_iter().try_for_each(|newest| sealer.advance(newest, &mut |_| ControlFlow::Continue(())))
}

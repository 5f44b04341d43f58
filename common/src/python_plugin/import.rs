//! Creating a backup from a file of the Python plugin.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, ScopedJoinHandle};

use uuid::Uuid;

use super::bytes::Header;
use super::copy::{BytesDone, Imported, Repairs, Rescue, Stop, To, Until, copy};
use super::import_error::ImportError;
use super::log_cutter::LogCutter;
use super::reader::PythonFile;
use super::replay::{replay_logs, write_segments};
use super::to_replay::Records;
use crate::backup::Backup;
use crate::backup::snapshot_check::{StoredSnapshot, interruptible, write_checked};
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::create::{create_filled, make_parity};
use crate::replay::ReplayError;
use crate::storage::owner::Owner;
use crate::storage::{Directory, RealDirectory, StagingDirectory, replace_file};
use format::checked::CheckedSnapshots;
use format::manifest::Manifest;
use format::names;
use format::units::{PageSize, Seq, Timestamp};

/// Treatment of a file that is damaged, or has a change that does not replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDamage {
    /// No backup is created.
    Refuse,
    /// The part before it is imported, and the backup notes that it is incomplete.
    StopBefore,
}

/// Creates a backup at `url` of the versions in `file`, and replays each change. Memory and temporary disk space are bounded, for
/// any size of the file.
///
/// The directory is renamed to its final name when everything in it is durable: a power cut leaves a complete backup or none.
/// When root creates it, it belongs to the owner of `lightning_dir`. `accept` gets the result before the rename, and may refuse
/// it. `progress` is called at intervals, and can stop it.
///
/// # Errors
/// When `url` exists, or the file is not of the plugin, is damaged, or does not replay, or the result is not accepted. Then
/// nothing has been created.
pub fn import_backup(
    lightning_dir: Option<&Path>,
    mut file: PythonFile,
    url: &BackupUrl,
    on_damage: OnDamage,
    accept: &dyn Fn(&Imported) -> Result<(), String>,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Imported, ImportError> {
    // Without a lightning-dir, the directory of the backup or the owner of the file decides.
    let owner = match lightning_dir {
        Some(lightning_dir) => Owner::other_than_root([lightning_dir]),
        None => Owner::other_than_root([url.path().parent().unwrap_or(url.path()), file.path()]),
    };
    let mut until = match on_damage {
        OnDamage::Refuse => Until::End,
        OnDamage::StopBefore => Until::Damage,
    };
    loop {
        let imported = create_filled(url, owner, |building| fill(building, &mut file, &until, accept, progress));
        match imported {
            // The record is already in logs and segments: the import is repeated, and ends before it.
            Err(ImportError::Replay { source, .. })
                if on_damage == OnDamage::StopBefore && record_of(&source).is_some_and(|seq| seq > Seq::FIRST) =>
            {
                let why = source.to_string();
                until = record_of(&source).map_or(Until::Damage, |seq| Until::Unreplayable(seq, why));
                file = PythonFile::open(file.path())?;
            }
            imported => return imported,
        }
    }
}

/// The record that does not replay.
fn record_of(error: &ReplayError) -> Option<Seq> {
    match *error {
        ReplayError::Statement { seq, .. }
        | ReplayError::OutOfBounds { seq, .. }
        | ReplayError::VirtualTable { seq, .. }
        | ReplayError::BumpMissed { seq, .. } => Some(seq),
        ReplayError::SetUp { .. } | ReplayError::Pages(_) => None,
    }
}

/// Whether the plugin's own restore, which executes all records up to the version of the header without foreign keys, fails there
/// for the same reason.
fn fails_in_the_plugin(error: &ReplayError, header: &Header, repairs: &Repairs) -> bool {
    const OF_ANY_SQLITE: [&str; 6] = [
        "no such table",
        "no such column",
        "UNIQUE constraint",
        "NOT NULL constraint",
        "syntax error",
        "already exists",
    ];
    match error {
        ReplayError::Statement { data_version, reason, .. } => {
            repairs.never_committed == 0
                && data_version.distance_from(header.version) <= 0
                && OF_ANY_SQLITE.iter().any(|known| reason.contains(known))
        }
        _ => false,
    }
}

fn fill(
    building: &Path,
    file: &mut PythonFile,
    until: &Until,
    accept: &dyn Fn(&Imported) -> Result<(), String>,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Imported, ImportError> {
    let unnamed = Arc::new(StagingDirectory::new(RealDirectory::new(building)));
    let directory: Arc<dyn Directory> = unnamed.clone();
    // The recorder adds the node id at its first start, as for a new node.
    let manifest =
        Manifest { uuid: Uuid::new_v4(), created: Timestamp::now(), page_size: PageSize::DEFAULT, node_id: None };
    replace_file(&*directory, names::MANIFEST, &manifest.encode())?;
    let limits = LogLimits::from_env();
    let backup = Arc::new(Backup::of(directory, manifest));
    let uuid = backup.manifest().uuid;
    let mut repairs = Repairs::default();
    let (copied, replayed, written) = thread::scope(|scope| {
        let (records, to_replay) = Records::way();
        // Without capacity: when a log was passed on, the segment of the previous one is written.
        let (replayed, to_write) = sync_channel(0);
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let replaying =
            named("import-replay").spawn_scoped(scope, || replay_logs(&backup, limits, to_replay, replayed));
        let writing = named("import-write").spawn_scoped(scope, || write_segments(&backup, to_write));
        let copied = match (&replaying, &writing) {
            (Ok(_), Ok(_)) => {
                let to = To { backup: &backup, cutter: LogCutter::new(uuid, limits), records };
                copy(file, until, to, &mut repairs, progress).and_then(|(imported, newest_log)| {
                    // It may still be replaying: if that fails, everything is discarded.
                    newest_log.write(backup.directory(), uuid, limits)?;
                    Ok(imported)
                })
            }
            _ => Err(Stop::Because(ImportError::Thread)),
        };
        (copied, replaying.map_or(Ok(()), join), writing.map_or(Ok(()), join))
    });
    // A change that does not replay precedes any other fault.
    replayed.map_err(|error| match error {
        ReplayError::Pages(error) => ImportError::Read(error),
        source => {
            let plugin_too = fails_in_the_plugin(&source, file.header(), &repairs);
            ImportError::Replay { path: file.path().to_path_buf(), source, plugin_too }
        }
    })?;
    written?;
    let mut imported = copied.map_err(|stop| match stop {
        Stop::Because(error) => error,
        Stop::ReplayEnded | Stop::Unreplayable { .. } => {
            unreachable!("BUG: replay ended early and without an error")
        }
    })?;
    accept(&imported).map_err(ImportError::NotWanted)?;
    if let Some(rescue) = &imported.rescue {
        let text = rescue_text(file.path(), &imported, rescue);
        replace_file(&**backup.directory(), names::RESCUED, text.as_bytes())?;
    }
    imported.damage = check_copy(&backup, file.len(), progress)?;
    make_parity(&backup)?;
    drop(backup);
    unnamed.make_durable()?;
    Ok(imported)
}

/// The text in an incomplete backup.
fn rescue_text(file: &Path, imported: &Imported, rescue: &Rescue) -> String {
    format!(
        "This backup was rescued from a damaged file of the Python plugin, and ends before the damage.\n\
         Never run a node on it: what came after version {} is missing.\n\
         \n\
         file: {}\nfrom byte: {}\nbecause: {}\nthe header of the file says that its newest version is: {}\n",
        imported.newest,
        file.display(),
        rescue.offset,
        rescue.why,
        imported.newest_known(),
    )
}

/// Checks the database at the beginning of the file with SQLite, as it was stored, and notes the result.
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

/// The result of a thread; a panic is propagated.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

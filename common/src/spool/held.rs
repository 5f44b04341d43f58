//! [`HeldSpool`]: a spool that a recorder writes to.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::contents::{first_record, logs, read_header};
use super::{SpoolContents, SpoolError, SpoolMarker, spool_path};
use crate::config::log_limits::LogLimits;
use crate::log::{LogEnd, LogWriter, create_log_at, recover};
use crate::storage::{Directory, RealDirectory, remove_if_present, replace_file};
use format::names;
use format::spool::SpoolHeader;

/// A locked spool, with the end of its log.
#[derive(Debug)]
pub(crate) struct HeldSpool {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) lock: Arc<dyn fmt::Debug + Send + Sync>,
    pub(crate) log: LogWriter,
    pub(crate) contents: SpoolContents,
}

impl HeldSpool {
    /// Creates a spool: header, first log and then marker are durable before anything is acknowledged.
    pub(crate) fn begin(
        directory: Arc<dyn Directory>,
        lightning_dir: &dyn Directory,
        header: SpoolHeader,
        limits: LogLimits,
    ) -> Result<Self, SpoolError> {
        let lock = lock(&*directory)?;
        if SpoolContents::read(&directory)?.is_some() {
            return Err(SpoolError::NotEmpty { path: directory.path().to_path_buf() });
        }
        clear(&*directory, lightning_dir)?;
        replace_file(&*directory, names::SPOOL_HEADER, &header.encode())?;
        let from = LogEnd { next_seq: header.from.0, previous_checksum: header.from.1 };
        let log = create_log_at(&directory, header.manifest.uuid, from, limits)?;
        SpoolMarker::of(&header, directory.path()).write(lightning_dir)?;
        Ok(Self { directory, lock, log, contents: SpoolContents::new(header) })
    }

    /// Opens the spool of this backup that an earlier run has left; `None` when it is empty.
    ///
    /// # Errors
    /// Among others, when there is a marker of another spool.
    pub(crate) fn take(
        directory: Arc<dyn Directory>,
        lightning_dir: &dyn Directory,
        uuid: Uuid,
        limits: LogLimits,
    ) -> Result<Option<Self>, SpoolError> {
        if read_header(&*directory)?.is_none() && SpoolMarker::read(lightning_dir, Some(uuid))?.is_none() {
            return Ok(None);
        }
        let not_there = || SpoolError::NotThere {
            path: directory.path().to_path_buf(),
            marker: lightning_dir.path().join(SpoolMarker::FILE_NAME),
        };
        let lock = match lock(&*directory) {
            Err(SpoolError::Storage(error)) if error.is_not_found() => return Err(not_there()),
            lock => lock?,
        };
        // Read again under the lock: the previous recorder may have drained the spool.
        let marker = SpoolMarker::read(lightning_dir, Some(uuid))?;
        let Some(header) = read_header(&*directory)? else {
            return if marker.is_some() { Err(not_there()) } else { Ok(None) };
        };
        if header.manifest.uuid != uuid {
            let (path, found) = (directory.path().to_path_buf(), header.manifest.uuid);
            return Err(SpoolError::Foreign { path, found });
        }
        if marker.as_ref().is_some_and(|marker| !marker.is_of(&header)) {
            return Err(not_there());
        }
        let mut contents = SpoolContents::new(header);
        let log = match first_record(&directory, &contents.header)? {
            Some(cursor) => Some(recover(cursor, &mut |record, _| contents.apply(record))?),
            None => None,
        };
        match log.filter(|_| contents.records > 0) {
            Some(mut log) => {
                if marker.is_none() {
                    SpoolMarker::of(&contents.header, directory.path()).write(lightning_dir)?;
                }
                log.set_limits(limits);
                Ok(Some(Self { directory, lock, log, contents }))
            }
            None => {
                // The previous run may have died while it emptied the spool: a log whose removal a power cut undoes does not
                // continue the records that the backup has by then. And an empty spool must not cause a refusal when its disk is
                // not mounted.
                if let Err(error) = clear(&*directory, lightning_dir) {
                    log::warn!(
                        "the spool {} is empty, and cannot be tidied up: {error}. Nothing is lost by that",
                        directory.path().display()
                    );
                }
                Ok(None)
            }
        }
    }
}

/// Time within which the previous holder of the lock must end: the recorder of a node that was restarted at once, or its
/// preallocation thread. On a busy machine that takes seconds, and a refusal would end the node.
const HOLDER_ENDS_WITHIN: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(10) };
const LOCK_RETRY_AFTER: Duration = Duration::from_millis(20);

fn lock(directory: &dyn Directory) -> Result<Arc<dyn fmt::Debug + Send + Sync>, SpoolError> {
    let deadline = Instant::now() + HOLDER_ENDS_WITHIN;
    loop {
        match directory.lock(names::LOCK) {
            Ok(lock) => return Ok(Arc::from(lock)),
            Err(error) if error.source.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_held) if Instant::now() < deadline => thread::sleep(LOCK_RETRY_AFTER),
            Err(_held) => return Err(SpoolError::Locked { path: directory.path().to_path_buf() }),
        }
    }
}

/// Empties a spool whose records are all in the backup: the logs, the oldest first, then the marker, then the header. Each step
/// is durable, so that a crash leaves the end of the chain, or nothing, and never a marker alone.
pub(crate) fn clear(directory: &dyn Directory, lightning_dir: &dyn Directory) -> Result<(), SpoolError> {
    for log in logs(directory)? {
        directory.remove(&names::log(log))?;
        directory.sync()?;
    }
    SpoolMarker::remove(lightning_dir, directory.path())?;
    remove_if_present(directory, names::PREALLOCATED)?;
    remove_if_present(directory, names::SPOOL_HEADER)?;
    Ok(directory.sync()?)
}

/// The spool, the configured directory, and its parent.
const OWN_LEVELS: usize = 3;

/// The directory of a backup's spool, created if necessary, and private.
pub(crate) fn spool_directory(root: &Path, uuid: Uuid) -> Result<RealDirectory, SpoolError> {
    let path = spool_path(root, uuid);
    let lock = path.join(names::LOCK);
    let make = || -> io::Result<()> {
        DirBuilder::new().mode(0o700).recursive(true).create(&path)?;
        if lock.symlink_metadata().is_ok() {
            return Ok(());
        }
        // The lock is created last: once it exists, all directories on the path are durable, even if their creator was killed.
        for (level, directory) in path.canonicalize()?.ancestors().enumerate() {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            // Ancestors far up are older, and may be closed to this user.
            if level < OWN_LEVELS {
                synced?;
            }
        }
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => File::open(&path)?.sync_all(),
        }
    };
    match make() {
        Ok(()) => Ok(RealDirectory::new(path)),
        Err(source) => Err(SpoolError::Make { path, source }),
    }
}

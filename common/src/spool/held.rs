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
use super::{SpoolContents, SpoolError, spool_path};
use crate::LogLimits;
use crate::format::names;
use crate::format::spool::SpoolHeader;
use crate::log::{LogEnd, LogWriter, create_log_at, recover};
use crate::storage::{Directory, RealDirectory, remove_if_present, replace_file};

/// A spool under its lock, and the end of its log.
#[derive(Debug)]
pub(crate) struct HeldSpool {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) lock: Arc<dyn fmt::Debug + Send + Sync>,
    pub(crate) log: LogWriter,
    pub(crate) contents: SpoolContents,
}

impl HeldSpool {
    /// Begins a spool: nothing can be acknowledged before its header and its first log are durable.
    pub(crate) fn begin(
        directory: Arc<dyn Directory>,
        header: SpoolHeader,
        limits: LogLimits,
    ) -> Result<Self, SpoolError> {
        let lock = lock(&*directory)?;
        if SpoolContents::read(&directory)?.is_some() {
            return Err(SpoolError::NotEmpty { path: directory.path().to_path_buf() });
        }
        clear(&*directory)?;
        replace_file(&*directory, names::SPOOL_HEADER, &header.encode())?;
        let from = LogEnd { next_seq: header.from.0, previous_checksum: header.from.1 };
        let log = create_log_at(&directory, header.manifest.uuid, from, limits)?;
        Ok(Self { directory, lock, log, contents: SpoolContents::new(header) })
    }

    /// Takes the spool of this backup that an earlier run has left; `None` when it is empty.
    pub(crate) fn take(
        directory: Arc<dyn Directory>,
        uuid: Uuid,
        limits: LogLimits,
    ) -> Result<Option<Self>, SpoolError> {
        let Some(header) = read_header(&*directory)? else { return Ok(None) };
        if header.manifest.uuid != uuid {
            let (path, found) = (directory.path().to_path_buf(), header.manifest.uuid);
            return Err(SpoolError::Foreign { path, found });
        }
        let lock = lock(&*directory)?;
        let Some(cursor) = first_record(&directory, &header)? else { return Ok(None) };
        let mut contents = SpoolContents::new(header);
        let mut log = recover(cursor, &mut |record, _| contents.apply(record))?;
        if contents.records == 0 {
            return Ok(None);
        }
        log.set_limits(limits);
        Ok(Some(Self { directory, lock, log, contents }))
    }
}

/// How long whoever had the lock before may take to end: the recorder of a node that was started again at once, or a thread
/// that was making room ahead.
const HOLDER_ENDS_WITHIN: Duration = Duration::from_secs(3);
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

/// Empties a spool of which the backup has everything: the logs, the oldest first, then the header. Durable step by step,
/// so that what a crash leaves is the end of the chain, or nothing.
pub(crate) fn clear(directory: &dyn Directory) -> Result<(), SpoolError> {
    for log in logs(directory)? {
        directory.remove(&names::log(log))?;
        directory.sync()?;
    }
    remove_if_present(directory, names::SPARE)?;
    remove_if_present(directory, names::SPOOL_HEADER)?;
    Ok(directory.sync()?)
}

/// The directory of the spool of a backup, made if it is not there: nobody else may read it.
pub(crate) fn spool_directory(root: &Path, uuid: Uuid) -> Result<RealDirectory, SpoolError> {
    let path = spool_path(root, uuid);
    let lock = path.join(names::LOCK);
    let make = || -> io::Result<()> {
        DirBuilder::new().mode(0o700).recursive(true).create(&path)?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock);
        match made {
            Ok(file) => file.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(error),
        }
        let parents = [Some(path.as_path()), Some(root), root.parent()];
        parents.into_iter().flatten().try_for_each(|directory| File::open(directory)?.sync_all())
    };
    match make() {
        Ok(()) => Ok(RealDirectory::new(path)),
        Err(source) => Err(SpoolError::Make { path, source }),
    }
}

//! [`CopyDirectory`]: a copy, read as the directory of a backup.
//!
//! * [`contents`]: the files that the objects amount to, and [`logs`]: logs put together from their pieces;
//! * [`statements`]: what the copy says about how current it is;
//! * [`object_file`]: a file read chunk by chunk, and [`chunks`], which fetches and keeps chunks; [`disk_cache`] keeps them longer;
//!   `read_ahead` says how many chunks are fetched for a reader that goes on, and `at_once` makes many requests at the same time.

mod at_once;
pub mod chunks;
pub mod contents;
pub mod disk_cache;
pub mod logs;
pub mod object_file;
mod read_ahead;
pub mod statements;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::storage::{Access, Directory, StorageError, StorageOp, StoredFile, Wanted};

use crate::copy::at_once::at_once;
use crate::copy::chunks::Chunks;
use crate::copy::contents::{Content, Contents};
use crate::copy::object_file::read_only;
use crate::copy::statements::Statements;
use crate::copy_error::CopyError;
use crate::store::Failure;

/// How often the newest logs of a copy are looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The maximum length of a range that is read ahead, in bytes: what is fetched must stay in the cache until it is read.
const READ_AHEAD_MAX: u64 = 1 << 20;

/// A copy as a directory, which can only be read. What is shipped meanwhile is seen within some seconds.
#[derive(Debug)]
pub struct CopyDirectory {
    path: PathBuf,
    chunks: Arc<Chunks>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    contents: Contents,
    looked: Instant,
}

impl CopyDirectory {
    /// The directory of a copy. Lists it.
    ///
    /// # Errors
    /// When the copy cannot be read, or its logs do not open with the keys at hand.
    pub fn open(chunks: Arc<Chunks>) -> Result<Self, CopyError> {
        let contents = Contents::read(&chunks)?;
        let url = chunks.store().url();
        // Names of files are appended to it, in messages.
        let without_options = || url.split_once('?').map_or(url.as_str(), |(place, _)| place);
        let path = PathBuf::from(url.strip_prefix("file://").unwrap_or_else(without_options));
        Ok(Self { path, chunks, state: Mutex::new(State { contents, looked: Instant::now() }) })
    }

    /// What the copy says about how current it is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn statements(&self) -> Result<Statements, CopyError> {
        let (holds, missing_through, shipped) = {
            let state = self.state()?;
            (state.contents.holds(), state.contents.missing_through(), state.contents.newest_shipped())
        };
        Statements::read(&self.chunks, (holds, missing_through), shipped)
    }

    /// Seq of the last record that the copy lacks although it has later ones; 0 when it lacks none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn missing_through(&self) -> Result<u64, CopyError> {
        Ok(self.state()?.contents.missing_through())
    }

    /// The state, not older than the poll interval.
    fn state(&self) -> Result<MutexGuard<'_, State>, CopyError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= POLL_INTERVAL {
            let read = state.contents.read_new(&self.chunks);
            // Not before: a store that does not answer must not be asked at every call.
            state.looked = Instant::now();
            read?;
        }
        Ok(state)
    }

    fn error(&self, op: StorageOp, name: &str, error: CopyError) -> StorageError {
        storage_error(op, self.path.join(name), None, error)
    }

    fn read_only(&self, op: StorageOp, name: &str) -> StorageError {
        read_only(op, &self.path.join(name))
    }
}

/// The error of the storage interface for one of a copy.
pub(crate) fn storage_error(op: StorageOp, path: PathBuf, offset: Option<u64>, error: CopyError) -> StorageError {
    let source = match &error {
        CopyError::Store(store) if store.failure == Failure::NotFound => io::Error::new(io::ErrorKind::NotFound, error),
        CopyError::Store(store) if store.failure == Failure::Unreachable => {
            io::Error::new(io::ErrorKind::HostUnreachable, error)
        }
        _ => io::Error::other(error),
    };
    StorageError { op, path, offset, source }
}

impl Directory for CopyDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        if access == Access::ReadWrite {
            return Err(self.read_only(StorageOp::Open, name));
        }
        let state = self.state().map_err(|error| self.error(StorageOp::Open, name, error))?;
        let path = self.path.join(name);
        match state.contents.get(name) {
            Some(Content::Parts(file)) => Ok(Box::new(file.opened(path, Arc::clone(&self.chunks)))),
            Some(Content::Bytes(bytes)) => Ok(Box::new(logs::BytesFile::new(path, Arc::clone(bytes)))),
            None => {
                Err(StorageError { op: StorageOp::Open, path, offset: None, source: io::ErrorKind::NotFound.into() })
            }
        }
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        Err(self.read_only(StorageOp::Create, name))
    }

    fn rename(&self, from: &str, _to: &str) -> Result<(), StorageError> {
        Err(self.read_only(StorageOp::Rename, from))
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        Err(self.read_only(StorageOp::Remove, name))
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        let state = self.state().map_err(|error| self.error(StorageOp::List, "", error))?;
        Ok(state.contents.names())
    }

    fn may_end_sealed(&self) -> bool {
        true
    }

    fn is_far(&self) -> bool {
        true
    }

    fn will_need(&self, wanted: &[Wanted]) {
        let opened = wanted.iter().filter_map(|one| Some((self.open(&one.name, Access::Read).ok()?, &one.range)));
        at_once(&opened.collect::<Vec<_>>(), |(file, range)| {
            let len = range.end.saturating_sub(range.start).min(READ_AHEAD_MAX);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            if let Err(error) = file.read_at(&mut bytes, range.start) {
                log::debug!("{error}: it is not read ahead");
            }
        });
    }

    fn sync(&self) -> Result<(), StorageError> {
        Err(self.read_only(StorageOp::Sync, ""))
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        Err(self.read_only(StorageOp::Lock, name))
    }
}

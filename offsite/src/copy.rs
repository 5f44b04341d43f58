//! [`CopyDirectory`]: a copy, read as the directory of a backup.
//!
//! * [`contents`]: the files that the objects amount to, `catalogs`: what catalogs say of them, and [`logs`]: logs put together from their pieces;
//! * [`statements`]: what the copy says about how current it is;
//! * [`object_file`]: a file read chunk by chunk, and [`chunks`], which fetches and keeps chunks; [`disk_cache`] keeps them longer;
//!   `read_ahead` says how many chunks are fetched for a reader that goes on, and `at_once` makes many requests at the same time.

mod at_once;
mod catalogs;
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::storage::{Access, Directory, StorageError, StorageOp, StoredFile, Wanted};

use crate::copy::at_once::at_once;
pub use crate::copy::catalogs::CatalogDepth;
use crate::copy::chunks::Chunks;
use crate::copy::contents::{Content, Contents, UseOfCatalogs};
use crate::copy::object_file::Fetch;
use crate::copy::object_file::read_only;
use crate::copy::statements::Statements;
use crate::copy_error::CopyError;
use crate::objects::Object;
use crate::seal::layout::CHUNK_LEN;
use crate::ship::listing::Listing;
use crate::store::Failure;

/// How often the newest logs of a copy are looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The maximum length of a range that is fetched at once, in bytes.
const FETCH_MAX: u64 = 1 << 20;

/// The maximum number of bytes that are fetched at once: they must stay in the cache until they are read.
const BYTES_AT_ONCE_MAX: u64 = 16 << 20;

/// Bytes between two ranges that are fetched as one: one more request costs more than they do.
const GAP_MAX: u64 = 32 << 10;

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
    pub fn open(chunks: Arc<Chunks>, catalogs: UseOfCatalogs) -> Result<Self, CopyError> {
        let contents = Contents::read(&chunks, catalogs)?;
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

    /// The names of the catalogs that say something else than the segments, or are damaged. A copy that is opened for this ignores them.
    ///
    /// # Errors
    /// When the store or a catalog cannot be read. Segments that cannot are passed over.
    pub fn wrong_catalogs(&self, depth: CatalogDepth) -> Result<Vec<String>, CopyError> {
        let listing = Listing::read(self.chunks.store())?;
        let listed: Vec<_> = listing.catalogs().iter().map(|(&of, &object_len)| (of, object_len)).collect();
        let checked = at_once(&listed, |&(of, object_len)| catalogs::check(of, object_len, &self.chunks, self, depth));
        let mut wrong = Vec::new();
        for (((first, last), _), checked) in listed.into_iter().zip(checked) {
            match checked {
                Err(CopyError::Damaged { .. } | CopyError::Seal(_)) => {
                    wrong.push(Object::Catalog { first, last }.to_string());
                }
                checked => checked?,
            }
        }
        Ok(wrong)
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

    /// Looks for what was shipped, however short it is since the last time.
    #[cfg(test)]
    pub(crate) fn look_now(&self) -> Result<(), CopyError> {
        self.state()?.contents.read_all(&self.chunks)
    }

    fn error(&self, op: StorageOp, name: &str, error: CopyError) -> StorageError {
        storage_error(op, self.path.join(name), None, error)
    }

    fn read_only(&self, op: StorageOp, name: &str) -> StorageError {
        read_only(op, &self.path.join(name))
    }
}

/// A range, in pieces that one request asks for.
fn in_pieces(Fetch { name, object_len, range }: Fetch) -> impl Iterator<Item = Fetch> {
    let end = range.end;
    let starts = std::iter::successors(Some(range.start), |start| start.checked_add(FETCH_MAX));
    starts.take_while(move |&start| start < end).map(move |start| {
        let range = start..end.min(start.saturating_add(FETCH_MAX));
        Fetch { name: name.clone(), object_len, range }
    })
}

/// Ranges of each object in ascending order, those as one that have little between them, as far as there is room.
fn joined(mut fetches: Vec<Fetch>) -> Vec<Fetch> {
    fetches.sort_unstable_by(|a, b| (&a.name, a.range.start).cmp(&(&b.name, b.range.start)));
    let mut joined: Vec<Fetch> = Vec::with_capacity(fetches.len());
    let mut bytes = 0;
    for fetch in fetches.into_iter().flat_map(in_pieces) {
        let range = fetch.range.clone();
        let near = joined.last_mut().filter(|last| {
            last.name == fetch.name
                && range.start <= last.range.end.saturating_add(GAP_MAX)
                && range.end.saturating_sub(last.range.start) <= FETCH_MAX
        });
        match near {
            Some(last) => {
                bytes += range.end.saturating_sub(last.range.end);
                last.range.end = last.range.end.max(range.end);
            }
            None if range.start < range.end => {
                bytes += range.end - range.start;
                joined.push(fetch);
            }
            None => {}
        }
        // Of each range whole chunks are fetched.
        if bytes + joined.len() as u64 * CHUNK_LEN > BYTES_AT_ONCE_MAX {
            break;
        }
    }
    joined
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
        let mut fetches = Vec::new();
        {
            let Ok(state) = self.state() else { return };
            for one in wanted {
                if let Some(Content::Parts(file)) = state.contents.get(&one.name) {
                    fetches.extend(file.sources(&one.range));
                }
            }
        }
        let fetches = joined(fetches);
        // Once for each object, not by each of its ranges.
        let mut objects: Vec<_> = fetches.iter().map(|fetch| (&fetch.name, fetch.object_len)).collect();
        objects.dedup();
        objects.retain(|(name, _)| !self.chunks.has_header(name));
        // A store that does not answer would be waited for again and again.
        let has_failed = AtomicBool::new(false);
        let unless_failed = |fetch: &dyn Fn() -> Result<(), CopyError>| {
            if !has_failed.load(Ordering::Relaxed)
                && let Err(error) = fetch()
            {
                log::debug!("{error}: it is not read ahead");
                // Not what is damaged: all the others are there.
                has_failed
                    .fetch_or(!matches!(error, CopyError::Damaged { .. } | CopyError::Seal(_)), Ordering::Relaxed);
            }
        };
        at_once(&objects, |(name, object_len)| unless_failed(&|| self.chunks.fetch_header(name, *object_len)));
        at_once(&fetches, |Fetch { name, object_len, range }| {
            unless_failed(&|| {
                let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
                self.chunks.read(name, *object_len, range.start, &mut bytes)
            });
        });
    }

    fn sync(&self) -> Result<(), StorageError> {
        Err(self.read_only(StorageOp::Sync, ""))
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        Err(self.read_only(StorageOp::Lock, name))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn fetch(name: &str, range: Range<u64>) -> Fetch {
        Fetch { name: name.to_owned(), object_len: 1 << 30, range }
    }

    #[test]
    fn near_ranges_are_one_request_and_long_ones_are_several() {
        let far = 200 + GAP_MAX + 1;
        let near = vec![fetch("a", far..far + 5), fetch("a", 100..200), fetch("b", 201..202), fetch("a", 0..10)];
        assert_eq!(joined(near), [fetch("a", 0..200), fetch("a", far..far + 5), fetch("b", 201..202)]);
        let long = joined(vec![fetch("a", 7..7 + 2 * FETCH_MAX + 5)]);
        let lens: Vec<_> = long.iter().map(|fetch| fetch.range.end - fetch.range.start).collect();
        assert_eq!(lens, [FETCH_MAX, FETCH_MAX, 5]);
        assert!(joined(vec![fetch("a", 5..5), fetch("a", u64::MAX - 3..u64::MAX)]).len() == 1);
    }

    #[test]
    fn what_is_fetched_at_once_is_bounded() {
        let everywhere = (0..100_000).map(|at| fetch("a", at * 100_000..at * 100_000 + 10)).collect();
        let bytes: u64 = joined(everywhere).len() as u64 * CHUNK_LEN;
        assert!(bytes <= BYTES_AT_ONCE_MAX + CHUNK_LEN, "{bytes} bytes");
        assert!(joined(vec![fetch("a", 0..u64::MAX)]).len() as u64 <= BYTES_AT_ONCE_MAX / FETCH_MAX + 1);
    }
}

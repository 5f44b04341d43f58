//! [`WatchedDirectory`]: a directory whose calls are timed while they run, so that one that does not return is noticed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Access, Directory, StorageError, StoredFile};

/// Tells others how long the call that a thread is in has been running. A call to a network file system whose server is
/// gone may never return, and nothing can interrupt it.
///
/// Costs two reads of the clock and two stores a call. It is meant for one thread: of several at once it knows the one that
/// began or ended a call last.
#[derive(Debug)]
pub struct Pulse {
    epoch: Instant,
    /// Microseconds from the epoch to the beginning of the call, plus 1; 0 between calls.
    call_began: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { epoch: Instant::now(), call_began: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// How long the call that is running has been running; `None` when none is.
    pub fn in_call_for(&self) -> Option<Duration> {
        let began = self.call_began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.epoch.elapsed().saturating_sub(Duration::from_micros(began)))
    }

    fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        let now = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.call_began.store(now + 1, Ordering::Relaxed);
        let returned = call();
        self.call_began.store(0, Ordering::Relaxed);
        returned
    }
}

/// A directory whose calls show in a [`Pulse`].
#[derive(Debug)]
pub(crate) struct WatchedDirectory<D> {
    directory: D,
    pulse: Arc<Pulse>,
}

impl<D: Directory> WatchedDirectory<D> {
    pub(crate) fn new(directory: D, pulse: Arc<Pulse>) -> Self {
        Self { directory, pulse }
    }

    fn watch(&self, file: Box<dyn StoredFile>) -> Box<dyn StoredFile> {
        Box::new(WatchedFile { file: Some(file), pulse: Arc::clone(&self.pulse) })
    }
}

impl<D: Directory> Directory for WatchedDirectory<D> {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        self.pulse.during(|| self.directory.open(name, access)).map(|file| self.watch(file))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        self.pulse.during(|| self.directory.create(name)).map(|file| self.watch(file))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.pulse.during(|| self.directory.rename(from, to))
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.pulse.during(|| self.directory.remove(name))
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.pulse.during(|| self.directory.list())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.pulse.during(|| self.directory.sync())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        self.pulse.during(|| self.directory.lock(name))
    }
}

#[derive(Debug)]
struct WatchedFile {
    /// Always there: taken when it is closed, which is a call like others, and over a network may write.
    file: Option<Box<dyn StoredFile>>,
    pulse: Arc<Pulse>,
}

impl WatchedFile {
    fn during<T>(&self, call: impl FnOnce(&dyn StoredFile) -> T) -> T {
        let file = self.file.as_deref().expect("BUG: a file is there until it is dropped");
        self.pulse.during(|| call(file))
    }
}

impl Drop for WatchedFile {
    fn drop(&mut self) {
        let file = self.file.take();
        self.pulse.during(|| drop(file));
    }
}

impl StoredFile for WatchedFile {
    fn path(&self) -> &Path {
        self.file.as_deref().expect("BUG: a file is there until it is dropped").path()
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        self.during(|file| file.read_len())
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        self.during(|file| file.check_in_place())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        self.during(|file| file.read_at(buf, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.during(|file| file.write_at(bytes, offset))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.during(|file| file.sync())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_call_shows_while_it_runs() {
        let pulse = Arc::new(Pulse::default());
        assert_eq!(pulse.in_call_for(), None);
        pulse.during(|| {
            thread::sleep(Duration::from_millis(20));
            assert!(pulse.in_call_for().unwrap() >= Duration::from_millis(19));
        });
        assert_eq!(pulse.in_call_for(), None);
    }
}

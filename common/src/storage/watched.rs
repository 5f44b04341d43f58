//! [`WatchedDirectory`]: a directory whose running calls are timed, so that a hanging one is noticed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Access, Directory, StorageError, StoredFile};

/// Shows for how long calls have been running. A call to a network file system whose server is gone may never return, and cannot
/// be interrupted.
///
/// Costs a read of the clock and two stores per call. Calls of several threads are tracked separately: one that returns must not
/// hide another that hangs.
#[derive(Debug)]
pub struct InFlightCalls {
    epoch: Instant,
    running: Running,
    /// Calls with a deadline, which are abandoned when they hang.
    with_deadline: Running,
}

/// The start of each running call, in microseconds from the epoch, plus 1; 0 in a free slot.
#[derive(Debug)]
struct Running([AtomicU64; CALLS_MAX]);

/// Maximum number of tracked calls. Three threads make calls: one records, one preallocates and one drains. Their abandoned calls
/// come on top.
const CALLS_MAX: usize = 16;

impl Default for InFlightCalls {
    fn default() -> Self {
        let none = || Running([const { AtomicU64::new(0) }; CALLS_MAX]);
        Self { epoch: Instant::now(), running: none(), with_deadline: none() }
    }
}

impl InFlightCalls {
    /// Duration of the longest running call; `None` when no call is running.
    pub fn longest(&self) -> Option<Duration> {
        self.longest_of(&self.running)
    }

    /// Duration of the longest running call with a deadline; `None` when no such call is running.
    pub fn longest_with_deadline(&self) -> Option<Duration> {
        self.longest_of(&self.with_deadline)
    }

    fn longest_of(&self, running: &Running) -> Option<Duration> {
        let began = running.0.iter().filter_map(|call| call.load(Ordering::Relaxed).checked_sub(1)).min()?;
        Some(self.epoch.elapsed().saturating_sub(Duration::from_micros(began)))
    }

    fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        self.during_one_of(&self.running, call)
    }

    pub(super) fn during_with_deadline<T>(&self, call: impl FnOnce() -> T) -> T {
        self.during_one_of(&self.with_deadline, call)
    }

    fn during_one_of<T>(&self, running: &Running, call: impl FnOnce() -> T) -> T {
        let now = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        let free = |slot: &&AtomicU64| slot.compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        // Without a free slot so many calls hang that this one need not be tracked.
        let slot = running.0.iter().find(free);
        let returned = call();
        if let Some(slot) = slot {
            slot.store(0, Ordering::Relaxed);
        }
        returned
    }
}

/// A directory whose calls are tracked in [`InFlightCalls`].
#[derive(Debug)]
pub(crate) struct WatchedDirectory<D> {
    directory: D,
    in_flight: Arc<InFlightCalls>,
}

impl<D: Directory> WatchedDirectory<D> {
    pub(crate) fn new(directory: D, in_flight: Arc<InFlightCalls>) -> Self {
        Self { directory, in_flight }
    }

    fn watch(&self, file: Box<dyn StoredFile>) -> Box<dyn StoredFile> {
        Box::new(WatchedFile { file: Some(file), in_flight: Arc::clone(&self.in_flight) })
    }
}

impl<D: Directory> Directory for WatchedDirectory<D> {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        self.in_flight.during(|| self.directory.open(name, access)).map(|file| self.watch(file))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        self.in_flight.during(|| self.directory.create(name)).map(|file| self.watch(file))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.in_flight.during(|| self.directory.rename(from, to))
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.in_flight.during(|| self.directory.remove(name))
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.in_flight.during(|| self.directory.list())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.in_flight.during(|| self.directory.sync())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        self.in_flight.during(|| self.directory.lock(name))
    }
}

#[derive(Debug)]
struct WatchedFile {
    /// `None` only while it is closed: closing is tracked, because over a network it may write.
    file: Option<Box<dyn StoredFile>>,
    in_flight: Arc<InFlightCalls>,
}

impl WatchedFile {
    fn during<T>(&self, call: impl FnOnce(&dyn StoredFile) -> T) -> T {
        let file = self.file.as_deref().expect("BUG: a file is there until it is dropped");
        self.in_flight.during(|| call(file))
    }
}

impl Drop for WatchedFile {
    fn drop(&mut self) {
        let file = self.file.take();
        self.in_flight.during(|| drop(file));
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
        let in_flight = Arc::new(InFlightCalls::default());
        assert_eq!(in_flight.longest(), None);
        in_flight.during(|| {
            thread::sleep(Duration::from_millis(20));
            assert!(in_flight.longest().unwrap() >= Duration::from_millis(19));
        });
        assert_eq!(in_flight.longest(), None);
    }

    /// A regression: a preallocation ran when the disk began to hang, its call returned last, and the hanging write was never
    /// refused.
    /// that hung was never refused.
    #[test]
    fn a_call_that_returns_does_not_hide_one_that_hangs() {
        let in_flight = InFlightCalls::default();
        in_flight.during(|| {
            thread::scope(|scope| {
                scope.spawn(|| in_flight.during(|| thread::sleep(Duration::from_millis(20))));
            });
            assert!(in_flight.longest().unwrap() >= Duration::from_millis(19));
        });
        assert_eq!(in_flight.longest(), None);
    }
}

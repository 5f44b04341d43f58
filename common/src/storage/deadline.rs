//! [`DeadlineDirectory`]: a directory whose calls run in a thread of their own, which is abandoned when one hangs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Access, Directory, InFlightCalls, StorageError, StorageOp, StoredFile};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use crate::sync::{Mutex, thread};

/// A directory whose calls have a deadline: a call that misses it is an error, and so is every later call. The stuck thread
/// closes all files and releases the lock when its call returns; until then the lock stays taken, so that no other process begins
/// to write while an old write may still arrive. Calls of [`background`](Directory::background) run in the calling thread, which
/// must keep the lock while they run.
///
/// A call costs a round trip to another thread.
#[derive(Debug, Clone)]
pub(crate) struct DeadlineDirectory {
    directory: Arc<dyn Directory>,
    caller: Arc<Caller>,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
struct Caller {
    jobs: Mutex<Sender<Job>>,
    left: AtomicBool,
    timeout_ms: AtomicU64,
    /// Shows how long a call has been running.
    in_flight: Arc<InFlightCalls>,
}

impl DeadlineDirectory {
    /// Starts the thread. Calls have no deadline until [`set_timeout`](Self::set_timeout), and show in `in_flight`.
    pub(crate) fn new(directory: Arc<dyn Directory>, in_flight: Arc<InFlightCalls>) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        thread::Builder::new().name("destination".to_owned()).spawn(move || queue.iter().for_each(|job| job()))?;
        let (jobs, left, timeout_ms) = (Mutex::new(jobs), AtomicBool::new(false), AtomicU64::new(u64::MAX));
        Ok(Self { directory, caller: Arc::new(Caller { jobs, left, timeout_ms, in_flight }) })
    }

    /// Sets the deadline of all later calls.
    pub(crate) fn set_timeout(&self, timeout: Duration) {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.caller.timeout_ms.store(ms, Ordering::Relaxed);
    }

    fn call<T: Send + 'static>(
        &self,
        op: StorageOp,
        name: &str,
        call: impl FnOnce(&dyn Directory) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let directory = Arc::clone(&self.directory);
        self.caller.call(op, &|| self.directory.path().join(name), move || call(&*directory))
    }

    fn file(&self, file: Box<dyn StoredFile>) -> Box<dyn StoredFile> {
        let path = file.path().to_path_buf();
        Box::new(DeadlineFile { file: Some(Arc::from(file)), path, caller: Arc::clone(&self.caller) })
    }
}

impl Caller {
    fn call<T: Send + 'static>(
        &self,
        op: StorageOp,
        path: &dyn Fn() -> PathBuf,
        call: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let hung = || {
            let source = io::Error::new(io::ErrorKind::TimedOut, "the call has not returned");
            StorageError { op, path: path(), offset: None, source }
        };
        if self.left.load(Ordering::Relaxed) {
            return Err(hung());
        }
        let (answer, answered) = sync_channel(1);
        // A result that is no longer awaited is dropped in the other thread: closing a file may hang, too.
        self.give(Box::new(move || drop(answer.send(call()))));
        let timeout = Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed));
        match self.in_flight.during_with_deadline(|| answered.recv_timeout(timeout)) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.left.store(true, Ordering::Relaxed);
                // So is one that arrives just now.
                self.give(Box::new(move || drop(answered)));
                Err(hung())
            }
        }
    }

    /// The thread ends when the last sender is dropped.
    fn give(&self, job: Job) {
        let _thread_panicked = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
    }
}

impl Directory for DeadlineDirectory {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        let owned = name.to_owned();
        self.call(StorageOp::Open, name, move |directory| directory.open(&owned, access)).map(|file| self.file(file))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        let owned = name.to_owned();
        self.call(StorageOp::Create, name, move |directory| directory.create(&owned)).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let (name, to) = (from.to_owned(), to.to_owned());
        self.call(StorageOp::Rename, from, move |directory| directory.rename(&name, &to))
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        let owned = name.to_owned();
        self.call(StorageOp::Remove, name, move |directory| directory.remove(&owned))
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.call(StorageOp::List, "", |directory| directory.list())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.call(StorageOp::Sync, "", |directory| directory.sync())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        let owned = name.to_owned();
        let held = self.call(StorageOp::Lock, name, move |directory| directory.lock(&owned))?;
        Ok(Box::new(DeadlineLock { held: Some(held), caller: Arc::clone(&self.caller) }))
    }

    fn background(&self) -> Option<Arc<dyn Directory>> {
        Some(Arc::clone(&self.directory))
    }

    fn foreground(&self, file: Box<dyn StoredFile>) -> Box<dyn StoredFile> {
        self.file(file)
    }
}

/// A lock that is released behind all calls in progress.
#[derive(Debug)]
struct DeadlineLock {
    held: Option<Box<dyn fmt::Debug + Send + Sync>>,
    caller: Arc<Caller>,
}

impl Drop for DeadlineLock {
    fn drop(&mut self) {
        let held = self.held.take();
        self.caller.give(Box::new(move || drop(held)));
    }
}

#[derive(Debug)]
struct DeadlineFile {
    /// `None` only while the file is closed.
    file: Option<Arc<dyn StoredFile>>,
    path: PathBuf,
    caller: Arc<Caller>,
}

impl DeadlineFile {
    fn call<T: Send + 'static>(
        &self,
        op: StorageOp,
        call: impl FnOnce(&dyn StoredFile) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let file = self.file.clone().expect("BUG: a file is there until it is dropped");
        self.caller.call(op, &|| self.path.clone(), move || call(&*file))
    }
}

impl Drop for DeadlineFile {
    fn drop(&mut self) {
        // The other thread closes the file: over a network that may write, and hang.
        let file = self.file.take();
        self.caller.give(Box::new(move || drop(file)));
    }
}

impl StoredFile for DeadlineFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        self.call(StorageOp::Measure, |file| file.read_len())
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        self.call(StorageOp::Open, |file| file.check_in_place())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let len = buf.len();
        let bytes = self.call(StorageOp::Read, move |file| {
            let mut bytes = vec![0; len];
            let read = file.read_at(&mut bytes, offset)?;
            bytes.truncate(read);
            Ok(bytes)
        })?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        let bytes = bytes.to_vec();
        self.call(StorageOp::Write, move |file| file.write_at(&bytes, offset))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.call(StorageOp::Sync, |file| file.sync())
    }
}

#[cfg(test)]
#[cfg(feature = "shuttle")]
mod shuttle_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RealDirectory;
    use std::sync::mpsc;
    use std::time::Instant;

    #[test]
    fn it_does_what_the_directory_does() {
        let dir = tempfile::tempdir().unwrap();
        let with_deadline = DeadlineDirectory::new(Arc::new(RealDirectory::new(dir.path())), Arc::default()).unwrap();
        with_deadline.set_timeout(Duration::from_secs(60));
        let file = with_deadline.create("a").unwrap();
        file.write_at(b"hello", 3).unwrap();
        file.sync().unwrap();
        let mut bytes = [9; 10];
        assert_eq!(file.read_at(&mut bytes, 2).unwrap(), 6);
        assert_eq!(&bytes[..7], b"\0hello\x09");
        with_deadline.rename("a", "b").unwrap();
        assert_eq!(with_deadline.list().unwrap(), ["b"]);
        assert!(with_deadline.open("a", Access::Read).unwrap_err().is_not_found());
    }

    #[test]
    fn a_call_that_hangs_is_left_behind_and_the_lock_is_held_until_it_returns() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("LOCK"), "").unwrap();
        let real: Arc<dyn Directory> = Arc::new(RealDirectory::new(dir.path()));
        let in_flight = Arc::new(InFlightCalls::default());
        let with_deadline = DeadlineDirectory::new(Arc::clone(&real), Arc::clone(&in_flight)).unwrap();
        with_deadline.set_timeout(Duration::from_millis(30));
        let lock = with_deadline.lock("LOCK").unwrap();
        let (release, released) = mpsc::channel::<()>();
        let hung = thread::scope(|scope| {
            let hung = scope.spawn(|| {
                with_deadline.call(StorageOp::Sync, "x", move |_| {
                    let _ended = released.recv();
                    Ok(())
                })
            });
            while in_flight.longest_with_deadline().is_none() && !hung.is_finished() {
                thread::yield_now();
            }
            assert!(!hung.is_finished() && in_flight.longest().is_none(), "it shows while it is waited for");
            hung.join().unwrap()
        });
        assert_eq!(in_flight.longest_with_deadline(), None, "no call waits for it any more");
        assert_eq!(hung.unwrap_err().source.kind(), io::ErrorKind::TimedOut);
        let before = Instant::now();
        assert!(with_deadline.list().is_err() && before.elapsed() < Duration::from_millis(20), "it is not asked again");
        drop(lock);
        assert!(real.lock("LOCK").is_err(), "an old write may still arrive");
        drop(release);
        while real.lock("LOCK").is_err() {
            assert!(before.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(5));
        }
    }
}

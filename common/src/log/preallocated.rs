//! Preallocation: the file of the next log, created in the background.
//!
//! The file is zero-filled and durable before the current log is full. Beginning the next log then takes one write, one fdatasync
//! and a rename without a sync; this thread syncs the directory before it preallocates again. So at most one name is not durable
//! at any moment, and after a power cut the log is found under either of its two names.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::storage::{Directory, StorageError, StorageOp, StoredFile, fill_with_zeros, remove_if_present};
use crate::sync::{Condvar, Mutex, MutexGuard, thread};
use format::names;

/// Pause after a failed preallocation: a full disk need not be tried all the time.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// Time to wait for the thread to stop. Its current step takes a moment, unless the disk hangs.
const STOPS_WITHIN: Duration = Duration::from_millis(100);

/// Added to the thread's nice value: it gets the time that the node leaves.
const NICENESS: i32 = 10;

/// Zeros written between checks of the stop flag.
const STEP: u64 = 256 << 10;

/// The preallocated log of a backup, shared by the writer and the background thread.
#[derive(Debug)]
pub(crate) struct PreallocatedLogs {
    /// Directory of the writer.
    directory: Arc<dyn Directory>,
    /// Directory of the background thread: no append waits for its zeros.
    background: Arc<dyn Directory>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    file: NextFile,
    newest_name: NewestName,
    /// Length of a preallocated log.
    bytes: u64,
    stopped: bool,
    /// Whether the background thread runs.
    making: bool,
}

#[derive(Debug)]
enum NextFile {
    /// None exists; one may be under construction.
    Absent,
    /// Zeros and name are durable; with its length in bytes.
    Ready(Box<dyn StoredFile>, u64),
    /// The file is becoming a log. Until that is renamed, no other file may get the name `preallocated`.
    Taken,
}

/// The name of the newest log.
#[derive(Debug)]
enum NewestName {
    Durable,
    /// The file is new: after a power cut it may have its old name.
    Fresh,
    /// The name could not be made durable. No other file may get the name `preallocated`.
    Uncertain(StorageError),
    /// The same, and the writer has the error.
    Reported,
}

/// Outcome of a round of background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// A log was preallocated.
    Log,
    /// The step had nothing to do.
    Nothing,
}

impl State {
    /// Whether to preallocate a log: there is none, and the name of the newest log is durable or can still be made so.
    fn may_make(&self) -> bool {
        matches!((&self.file, &self.newest_name), (NextFile::Absent, NewestName::Durable | NewestName::Fresh))
    }
}

/// The remedy, as the end of a sentence.
fn remedy(error: &StorageError) -> String {
    error.trouble().remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default()
}

impl PreallocatedLogs {
    /// Creates the state without a preallocated log; later ones have this length.
    pub(super) fn new(directory: Arc<dyn Directory>, bytes: u64) -> Self {
        let state =
            State { file: NextFile::Absent, newest_name: NewestName::Durable, bytes, stopped: false, making: false };
        let background = directory.background().unwrap_or_else(|| Arc::clone(&directory));
        Self { directory, background, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Sets the length of later preallocated logs.
    pub(super) fn set_bytes(&self, bytes: u64) {
        self.state().bytes = bytes;
    }

    /// Takes the preallocated log with its length, if it is ready. [`named`](Self::named) or [`lost`](Self::lost) must follow; if
    /// the outcome is unknown and neither is called, no other log is preallocated.
    pub(super) fn take(&self) -> Option<(Box<dyn StoredFile>, u64)> {
        let mut state = self.state();
        match std::mem::replace(&mut state.file, NextFile::Taken) {
            NextFile::Ready(file, bytes) => Some((file, bytes)),
            other => {
                state.file = other;
                None
            }
        }
    }

    /// The taken file was renamed; the new name is not durable yet.
    pub(super) fn named(&self) {
        let mut state = self.state();
        state.file = NextFile::Absent;
        state.newest_name = NewestName::Fresh;
        self.changed.notify_all();
    }

    /// The taken file is no longer in the directory.
    pub(super) fn lost(&self) {
        self.state().file = NextFile::Absent;
        self.changed.notify_all();
    }

    /// Makes the name of the newest log durable, before another log is created without preallocation.
    ///
    /// # Errors
    /// When the name cannot be made durable, now or before. After a power cut the newest log could have the name `preallocated`,
    /// and it is not searched there once another log follows.
    pub(super) fn make_name_durable(&self) -> Result<(), StorageError> {
        // Locked during the sync: if it fails, no preallocated log may have been begun meanwhile.
        let mut state = self.state();
        match std::mem::replace(&mut state.newest_name, NewestName::Reported) {
            NewestName::Durable => {}
            NewestName::Fresh => self.directory.sync()?,
            NewestName::Uncertain(error) => return Err(error),
            NewestName::Reported => {
                let (path, source) = (self.directory.path().to_path_buf(), io::Error::other("an earlier sync failed"));
                return Err(StorageError { op: StorageOp::Sync, path, offset: None, source });
            }
        }
        state.newest_name = NewestName::Durable;
        Ok(())
    }

    /// A log could be created, so there may be space for preallocation.
    pub(super) fn try_again(&self) {
        self.changed.notify_all();
    }

    /// Makes the newest name durable, then preallocates a log if there is none.
    ///
    /// Power may fail at any point. A preallocated file without its last zeros, or without any, has no records.
    ///
    /// # Errors
    /// When it cannot be created. Recording continues, but beginning the next log is slower.
    pub(crate) fn make(&self) -> Result<Made, StorageError> {
        let (bytes, is_fresh) = {
            let state = self.state();
            if state.stopped || !state.may_make() {
                return Ok(Made::Nothing);
            }
            (state.bytes, matches!(state.newest_name, NewestName::Fresh))
        };
        if is_fresh {
            if let Err(error) = self.background.sync() {
                log::error!(
                    "{error}: {}; recording goes on until this log is full, and is refused then: after a power cut it could not \
                     be determined which log is the newest{}",
                    error.source,
                    remedy(&error)
                );
                self.state().newest_name = NewestName::Uncertain(error);
                return Ok(Made::Nothing);
            }
            let mut state = self.state();
            if !state.may_make() {
                // The writer has synced it, too, and failed.
                return Ok(Made::Nothing);
            }
            state.newest_name = NewestName::Durable;
        }
        let made = self.make_file(bytes);
        if !matches!(made, Ok(Some(_))) {
            // An incomplete file only takes space. The next recorder removes it, too.
            let _stays = remove_if_present(&*self.background, names::PREALLOCATED);
        }
        match made? {
            Some(file) => {
                self.state().file = NextFile::Ready(self.directory.foreground(file), bytes);
                Ok(Made::Log)
            }
            None => Ok(Made::Nothing),
        }
    }

    /// `None` when the thread was stopped.
    fn make_file(&self, bytes: u64) -> Result<Option<Box<dyn StoredFile>>, StorageError> {
        // Fails if the file exists: its contents are never overwritten.
        let file = self.background.create(names::PREALLOCATED)?;
        let mut offset = 0;
        while offset < bytes {
            if self.state().stopped {
                return Ok(None);
            }
            let end = bytes.min(offset + STEP);
            fill_with_zeros(&*file, offset..end)?;
            offset = end;
        }
        file.sync()?;
        self.background.sync()?;
        Ok(Some(file))
    }

    /// Ends [`keep_ready`](Self::keep_ready) at its next step. Waits for that, but not for a hanging disk.
    pub(crate) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(self.state(), STOPS_WITHIN, |state| state.making));
    }

    /// Stops, and removes the preallocated log.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn remove(&self) -> Result<(), StorageError> {
        self.stop();
        match self.take() {
            // If a power cut undoes the removal, the next recorder finds zeros.
            Some(_file) => self.directory.remove(names::PREALLOCATED),
            None => Ok(()),
        }
    }

    /// Preallocates logs in a thread until [`stop`](Self::stop). `held` is dropped when the thread ends.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn keep_ready(self: &Arc<Self>, held: impl Send + 'static) -> io::Result<()> {
        let logs = Arc::clone(self);
        self.state().making = true;
        let started = thread::Builder::new().name("preallocate".to_owned()).spawn(move || {
            // On Linux this concerns the calling thread alone. If it fails, the thread only competes more with the node.
            if let Err(error) = rustix::process::nice(NICENESS) {
                log::debug!("cannot lower the priority of preallocation: {error}");
            }
            logs.make_until_stopped();
            drop(held);
            logs.state().making = false;
            logs.changed.notify_all();
        });
        started.map(|_thread| ()).inspect_err(|_| self.state().making = false)
    }

    fn make_until_stopped(&self) {
        let mut logged = None;
        loop {
            let is_idle = |state: &mut State| !state.stopped && !state.may_make();
            let state = self.changed.wait_while(self.state(), is_idle).unwrap_or_else(PoisonError::into_inner);
            if state.stopped {
                return;
            }
            drop(state);
            match self.make() {
                Ok(_) => logged = None,
                Err(error) => {
                    // The failing offset can differ, so it is not compared.
                    let trouble = Some((error.op, error.trouble()));
                    if logged != trouble {
                        log::warn!(
                            "{error}: {}; the next log is not preallocated. Recording goes on{}",
                            error.source,
                            remedy(&error)
                        );
                        logged = trouble;
                    }
                    self.pause_after_failure();
                }
            }
        }
    }

    /// Whether no preallocated log is ready.
    #[cfg(test)]
    pub(crate) fn is_pending(&self) -> bool {
        !matches!(self.state().file, NextFile::Ready(..))
    }

    /// Waits until another attempt is worthwhile. Returns at once after a stop: `stop` waits for the lock that the thread holds.
    pub(super) fn pause_after_failure(&self) {
        let state = self.state();
        if !state.stopped {
            drop(self.changed.wait_timeout(state, PAUSE_AFTER_FAILURE));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a plain assignment, so the state is consistent even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(feature = "shuttle")]
mod shuttle_tests;

//! The spare: the file of the next log, made while nobody waits for it.
//!
//! Zeros are written to it, and it is durable, before the log that is open is full. Going on in it is then one write, one
//! fdatasync and a rename that is not waited for; the directory is synced here, before the next spare is made. So at any
//! moment at most one name is not durable, and whichever of its two names a power cut leaves the file with, it is found.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use crate::storage::{Directory, StorageError, StoredFile, fill_with_zeros, remove_if_present};
use format::names;

/// The pause after a spare could not be made: a full disk is not full any sooner for being asked all the time.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// How long the thread is waited for. What it is at when it is told to stop takes a moment, unless the disk hangs.
const STOPS_WITHIN: Duration = Duration::from_millis(100);

/// Added to the thread's nice value: it gets what the node leaves over.
const NICENESS: i32 = 10;

/// Zeros that are written before whoever wants it to stop is asked.
const STEP: u64 = 256 << 10;

/// The spare of a backup, shared by whoever records and whoever makes it.
#[derive(Debug)]
pub(crate) struct PreallocatedLogs {
    /// For whoever records.
    directory: Arc<dyn Directory>,
    /// For the thread that makes them: no append waits for its zeros.
    background: Arc<dyn Directory>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    spare: Spare,
    newest_name: NewestName,
    /// How long a spare is.
    bytes: u64,
    stopped: bool,
    /// Whether there is a thread that makes spares.
    making: bool,
}

#[derive(Debug)]
enum Spare {
    /// There is none; it may be in the making.
    Absent,
    /// Durable, name and zeros; so many bytes.
    Ready(Box<dyn StoredFile>, u64),
    /// It is becoming a log. Until that has its name, nothing else may get the name of the spare.
    Taken,
}

/// The name of the newest log.
#[derive(Debug)]
enum NewestName {
    Durable,
    /// A power cut may still give it its old name back.
    Fresh,
    /// It could not be made durable.
    Uncertain(StorageError),
}

/// What there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// A spare, which is ready now.
    Spare,
    /// Nothing.
    Nothing,
}

/// What to do, as the end of a sentence.
fn remedy(error: &StorageError) -> String {
    error.trouble().remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default()
}

impl PreallocatedLogs {
    /// No spare yet; those to come have this many bytes.
    pub(super) fn new(directory: Arc<dyn Directory>, bytes: u64) -> Self {
        let state =
            State { spare: Spare::Absent, newest_name: NewestName::Durable, bytes, stopped: false, making: false };
        let background = directory.background().unwrap_or_else(|| Arc::clone(&directory));
        Self { directory, background, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Lets spares that are not made yet have another length.
    pub(super) fn set_bytes(&self, bytes: u64) {
        self.state().bytes = bytes;
    }

    /// The spare and its length, if it is ready. Say what became of it with [`named`](Self::named) or [`lost`](Self::lost); if neither
    /// is said, for it is not known, no other one is made.
    pub(super) fn take(&self) -> Option<(Box<dyn StoredFile>, u64)> {
        let mut state = self.state();
        match std::mem::replace(&mut state.spare, Spare::Taken) {
            Spare::Ready(file, bytes) => Some((file, bytes)),
            other => {
                state.spare = other;
                None
            }
        }
    }

    /// The spare that was taken has its own name now, which is not durable yet.
    pub(super) fn named(&self) {
        let mut state = self.state();
        state.spare = Spare::Absent;
        state.newest_name = NewestName::Fresh;
        self.changed.notify_all();
    }

    /// The spare that was taken is not in the directory any more.
    pub(super) fn lost(&self) {
        self.state().spare = Spare::Absent;
        self.changed.notify_all();
    }

    /// Makes the name of the newest log durable, before another log is made without a spare.
    ///
    /// # Errors
    /// When it cannot be made durable, now or, said once, before. Power that fails could leave the newest log under the name
    /// of the spare, and nobody would look for it there once another log follows.
    pub(super) fn make_name_durable(&self) -> Result<(), StorageError> {
        match std::mem::replace(&mut self.state().newest_name, NewestName::Durable) {
            NewestName::Durable => Ok(()),
            NewestName::Fresh => self.directory.sync(),
            NewestName::Uncertain(error) => Err(error),
        }
    }

    /// There was room for a log, so there may be some for a spare.
    pub(super) fn try_again(&self) {
        self.changed.notify_all();
    }

    /// Makes the newest name durable and then, if there is no spare, one.
    ///
    /// Power may fail at any point. A spare without its last zeros, or without any, is one that nothing was recorded in.
    ///
    /// # Errors
    /// When it cannot be made. Recording goes on without, but slower when it comes to the next log.
    pub(crate) fn make(&self) -> Result<Made, StorageError> {
        let (bytes, is_fresh) = {
            let state = self.state();
            if state.stopped || !matches!(state.spare, Spare::Absent) {
                return Ok(Made::Nothing);
            }
            (state.bytes, matches!(state.newest_name, NewestName::Fresh))
        };
        if is_fresh {
            if let Err(error) = self.background.sync() {
                log::error!(
                    "{error}: {}; recording goes on until the log is full, and is refused then, for nobody would know which \
                     log is the newest after a power cut{}",
                    error.source,
                    remedy(&error)
                );
                self.state().newest_name = NewestName::Uncertain(error);
                return Ok(Made::Nothing);
            }
            self.state().newest_name = NewestName::Durable;
        }
        let made = self.make_file(bytes);
        if !matches!(made, Ok(Some(_))) {
            // Of no use to anybody; it only takes room. The next recorder removes it, too.
            let _stays = remove_if_present(&*self.background, names::SPARE);
        }
        match made? {
            Some(file) => {
                self.state().spare = Spare::Ready(self.directory.foreground(file), bytes);
                Ok(Made::Spare)
            }
            None => Ok(Made::Nothing),
        }
    }

    /// `None` when it was told to stop.
    fn make_file(&self, bytes: u64) -> Result<Option<Box<dyn StoredFile>>, StorageError> {
        // Fails if there is one: whatever it holds, it is not overwritten.
        let file = self.background.create(names::SPARE)?;
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

    /// Ends [`keep_ready`](Self::keep_ready), at its next step. Waits for that, but not for a disk that hangs.
    pub(crate) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(self.state(), STOPS_WITHIN, |state| state.making));
    }

    /// Stops, and gives the room of the spare back to the disk.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn give_back(&self) -> Result<(), StorageError> {
        self.stop();
        match self.take() {
            // If that does not last until a power cut, the next recorder finds zeros.
            Some(_spare) => self.directory.remove(names::SPARE),
            None => Ok(()),
        }
    }

    /// Makes spares in a thread of its own, until it is told to [`stop`](Self::stop). `held` is dropped when the thread
    /// ends.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn keep_ready(self: &Arc<Self>, held: impl Send + 'static) -> io::Result<()> {
        let spares = Arc::clone(self);
        self.state().making = true;
        let started = thread::Builder::new().name("spare".to_owned()).spawn(move || {
            // On Linux this concerns the calling thread alone. Without it everything works, only less politely.
            if let Err(error) = rustix::process::nice(NICENESS) {
                log::debug!("cannot lower the priority of making room: {error}");
            }
            spares.make_until_stopped();
            drop(held);
            spares.state().making = false;
            spares.changed.notify_all();
        });
        started.map(|_thread| ()).inspect_err(|_| self.state().making = false)
    }

    fn make_until_stopped(&self) {
        let mut said = None;
        loop {
            let is_idle = |state: &mut State| {
                !state.stopped
                    && !matches!(
                        (&state.spare, &state.newest_name),
                        (Spare::Absent, NewestName::Durable | NewestName::Fresh)
                    )
            };
            let state = self.changed.wait_while(self.state(), is_idle).unwrap_or_else(PoisonError::into_inner);
            if state.stopped {
                return;
            }
            drop(state);
            match self.make() {
                Ok(_) => said = None,
                Err(error) => {
                    // Where in the file it was is not always the same.
                    let trouble = Some((error.op, error.trouble()));
                    if said != trouble {
                        log::warn!(
                            "{error}: {}; the file of the next log is not made ahead. Recording goes on{}",
                            error.source,
                            remedy(&error)
                        );
                        said = trouble;
                    }
                    self.pause_after_failure();
                }
            }
        }
    }

    /// Whether there is none that could be gone on in.
    #[cfg(test)]
    pub(crate) fn is_in_the_making(&self) -> bool {
        !matches!(self.state().spare, Spare::Ready(..))
    }

    /// Waits until another attempt is worth it. Not at all when it was told to stop meanwhile: whoever did waits for the
    /// lock that the thread has.
    pub(super) fn pause_after_failure(&self) {
        let state = self.state();
        if !state.stopped {
            drop(self.changed.wait_timeout(state, PAUSE_AFTER_FAILURE));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a plain assignment, so what a panicking thread left behind is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

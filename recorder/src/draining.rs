//! The thread that brings what was spooled into the backup, as soon as that is reachable again.
//!
//! It appends record after record while changes go on to the spool. When it has come close to the end it takes the
//! recording for a moment, appends what is left, and hands it the backup: from then on changes go there. A hook that comes
//! in that moment waits for a few appends, or, when one of them hangs, for as long as a call may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use common::{DrainError, counted};

use crate::causes::with_remedy;
use crate::shared_writer::{SharedWriter, WeakWriter};
use crate::status::Status;

/// The pause before the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The pause when an attempt failed for a reason that does not pass by itself.
const RETRY_LATER: Duration = Duration::from_secs(60);

/// How often the log says how far behind the backup is.
const SHOUT_EVERY: Duration = Duration::from_secs(60);

/// With so few records left the recording is taken.
const CLOSE: u64 = 16;

/// How long a call may take while the recording is taken.
const CALL_WHILE_TAKEN: Duration = Duration::from_secs(2);

/// The thread's handle. Dropped, it tells the thread to stop after the append that it is in.
#[derive(Debug)]
pub struct Draining {
    stop: Arc<AtomicBool>,
    first_attempt_failed: Arc<AtomicBool>,
}

impl Draining {
    /// Starts it for a recording that spools.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(writer: &SharedWriter, status: Arc<Status>) -> io::Result<Self> {
        let (stop, first_attempt_failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let draining = Self { stop: Arc::clone(&stop), first_attempt_failed: Arc::clone(&first_attempt_failed) };
        let writer = writer.downgrade();
        let worker = Worker { writer, status, stop, first_attempt_failed, shouted: None };
        thread::Builder::new().name("draining".to_owned()).spawn(move || worker.run())?;
        Ok(draining)
    }

    /// Whether the first attempt has failed: waiting for the others is in vain for now.
    pub fn has_failed(&self) -> bool {
        self.first_attempt_failed.load(Ordering::Relaxed)
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether there is nothing left to do for a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emptied {
    Yes,
    /// The backup has all of it, and it is still there.
    No,
}

struct Worker {
    /// Not kept: a call to the backup's place may hang for longer than the process is wanted, and the next recorder needs the
    /// lock of the spool.
    writer: WeakWriter,
    status: Arc<Status>,
    stop: Arc<AtomicBool>,
    first_attempt_failed: Arc<AtomicBool>,
    /// When it was said last that the backup is behind.
    shouted: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        while !self.stopped() {
            let error = match self.attempt() {
                Ok(()) => return,
                Err(error) => error,
            };
            self.first_attempt_failed.store(true, Ordering::Relaxed);
            if self.stopped() {
                return;
            }
            let text = format!("the spool is not drained: {}", with_remedy(&error));
            if error.is_trouble() {
                self.log_once();
                log::debug!("{text}");
                self.status.spool_problem(text);
                thread::sleep(RETRY_AFTER);
            } else {
                log::error!("{text}");
                self.status.spool_problem(text.clone());
                self.status.problem(text);
                self.sleep(RETRY_LATER);
            }
        }
    }

    fn attempt(&self) -> Result<(), DrainError> {
        while !self.stopped() && self.attempt_once()? == Emptied::No {
            // Another attempt finds everything in the backup already.
            self.sleep(RETRY_LATER);
        }
        Ok(())
    }

    fn attempt_once(&self) -> Result<Emptied, DrainError> {
        let plan = self.writer.upgrade().and_then(|writer| writer.lock().drain_plan());
        let Some(plan) = plan else { return Ok(Emptied::Yes) };
        let mut drain = plan.attach()?;
        loop {
            let Some(through) = self.writer.upgrade().map(|writer| writer.lock().end()) else {
                return Ok(Emptied::Yes);
            };
            log::debug!("draining the spool up to record {}", through.next_seq.get() - 1);
            drain.advance(through)?;
            if self.stopped() {
                return Ok(Emptied::Yes);
            }
            let Some(writer) = self.writer.upgrade() else { return Ok(Emptied::Yes) };
            let mut writer = writer.lock();
            let end = writer.end();
            if end.next_seq.get() - drain.end().next_seq.get() > CLOSE {
                continue;
            }
            drain.set_timeout(CALL_WHILE_TAKEN);
            drain.advance(end)?;
            // Whoever stops now has the recording next, and finds the spool empty.
            match writer.return_to_backup(drain) {
                Ok(()) => {
                    log::warn!("the spool is drained: {} has all changes, and new ones go there again", writer.url());
                    self.status.spool_drained();
                }
                Err(error) => {
                    let text = format!(
                        "the backup has all that is in the spool, which cannot be emptied: {}. Nothing is lost by that; new \
                         changes go to the spool, and it is tried again in a minute",
                        with_remedy(&error)
                    );
                    log::error!("{text}");
                    self.status.problem(text);
                    return Ok(Emptied::No);
                }
            }
            return Ok(Emptied::Yes);
        }
    }

    fn log_once(&mut self) {
        if self.shouted.is_some_and(|last| last.elapsed() < SHOUT_EVERY) {
            return;
        }
        self.shouted = Some(Instant::now());
        let Some(writer) = self.writer.upgrade() else { return };
        let writer = writer.lock();
        if let Some((path, spooled)) = writer.spooled() {
            log::error!(
                "{} is out of reach and behind by {}: the newest changes are in {}, on this machine only. Make the backup \
                 reachable",
                writer.url(),
                counted(spooled.changes, "change"),
                path.display()
            );
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn sleep(&self, long: Duration) {
        let until = Instant::now() + long;
        while !self.stopped() && Instant::now() < until {
            thread::sleep(RETRY_AFTER);
        }
    }
}

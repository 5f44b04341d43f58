//! The draining thread: it copies the changes in the spool into the backup as soon as the backup is reachable again.
//!
//! It appends record after record while new changes still go to the spool. Close to the end it locks the writer, appends the
//! rest, and switches the writer to the backup: from then on changes go there. A hook that comes in that moment waits for a
//! few appends, or, if one of them hangs, for the timeout of a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use common::{DrainError, counted};

use crate::shared_writer::{SharedWriter, WeakWriter};
use crate::status::Status;
use common::with_remedy;

/// The pause before the next attempt, when the destination is out of reach.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The pause before the next attempt, when the reason does not pass by itself.
const RETRY_LATER: Duration = Duration::from_secs(60);

/// The interval of the log line that reports how far the backup is behind.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// The number of records left at which the writer is locked.
const CLOSE: u64 = 16;

/// The timeout of a call while the writer is locked.
const CALL_WHILE_LOCKED: Duration = Duration::from_secs(2);

/// The handle of the draining thread. Dropping it stops the thread after the current append.
#[derive(Debug)]
pub struct Draining {
    stop: Arc<AtomicBool>,
    first_attempt_failed: Arc<AtomicBool>,
}

impl Draining {
    /// Starts the thread for a writer that spools.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(writer: &SharedWriter, status: Arc<Status>) -> io::Result<Self> {
        let (stop, first_attempt_failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let draining = Self { stop: Arc::clone(&stop), first_attempt_failed: Arc::clone(&first_attempt_failed) };
        let writer = writer.downgrade();
        let worker = Worker { writer, status, stop, first_attempt_failed, reported: None };
        thread::Builder::new().name("draining".to_owned()).spawn(move || worker.run())?;
        Ok(draining)
    }

    /// Whether the first attempt has failed: then there is no point in waiting for the next one.
    pub fn has_failed(&self) -> bool {
        self.first_attempt_failed.load(Ordering::Relaxed)
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether the spool was emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emptied {
    Yes,
    /// The backup has all changes, but the spool could not be emptied.
    No,
}

struct Worker {
    /// A weak handle: a call to the backup may hang for longer than the destination stays open, and the next recorder needs
    /// the lock of the spool.
    writer: WeakWriter,
    status: Arc<Status>,
    stop: Arc<AtomicBool>,
    first_attempt_failed: Arc<AtomicBool>,
    /// The time of the last report that the backup is behind.
    reported: Option<Instant>,
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
                self.report_behind();
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
            // The next attempt finds all changes in the backup already.
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
            drain.set_timeout(CALL_WHILE_LOCKED);
            drain.advance(end)?;
            // The writer stays locked until here, so that a stop finds the spool empty.
            match writer.return_to_backup(drain) {
                Ok(()) => {
                    log::warn!("the spool is drained: {} has all changes, and new ones go there again", writer.url());
                    self.status.spool_drained();
                }
                Err(error) => {
                    let text = format!(
                        "the backup has all changes, but the spool cannot be emptied: {}. Nothing is lost. New changes go to the \
                         spool; the next attempt is in a minute",
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

    fn report_behind(&mut self) {
        if self.reported.is_some_and(|last| last.elapsed() < REPORT_EVERY) {
            return;
        }
        self.reported = Some(Instant::now());
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

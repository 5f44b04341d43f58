//! The scrubbing thread: it reads the backup back from its disk, a little at a time, so that rot is found while it can be mended.
//!
//! It writes nothing to the backup, and has no lock: what it finds, the sealing thread writes anew. It takes what the disk leaves over, and
//! never more than a hundredth of a core.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, panic, thread};

use common::scrub::{DamagedBlock, Scrub, ScrubbedPart};
use common::{Backup, Timestamp, counted, with_causes};
use rustix::time::{ClockId, clock_gettime};

use crate::status::Status;

/// Pauses take so many times as long as the work between them.
const PAUSE_PER_WORK: u32 = 99;

/// Added to the thread's nice value: it uses the processor time that others leave.
const NICENESS: i32 = 19;

/// Interval at which the records that are not sealed yet are read back: they have no parity, and what rots there is put right only
/// while the recorder has it in memory.
const LOGS_EVERY: Duration = Duration::from_secs(3600);

/// The same for an interval of scrubbing that is shorter than a day, as its part.
const LOGS_PER_INTERVAL: u32 = 24;

/// Pause after the directory did not answer.
const AFTER_FAILURE: Duration = Duration::from_secs(600);

/// The handle of the thread. Dropping it stops the thread without waiting for it.
#[derive(Debug)]
pub struct Scrubbing(Arc<Stop>);

#[derive(Debug, Default)]
struct Stop {
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Waits for so long, or until it is time to stop: then breaks.
    fn pause(&self, pause: Duration) -> ControlFlow<()> {
        let is_stopped = self.is_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_stopped, pause, |is_stopped| !*is_stopped);
        let (is_stopped, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *is_stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Drop for Scrubbing {
    fn drop(&mut self) {
        *self.0.is_stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

impl Scrubbing {
    /// Starts the thread, unless `backup.lock` says that nothing is read back.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(backup: Arc<Backup>, status: Arc<Status>) -> io::Result<Option<Self>> {
        let Some(interval) = status.scrubs().interval() else { return Ok(None) };
        let stop = Arc::new(Stop::default());
        let stopped = Arc::clone(&stop);
        thread::Builder::new().name("scrubbing".to_owned()).spawn(move || {
            // On Linux both concern the calling thread alone. If they fail, scrubbing competes more with the node.
            if let Err(error) = rustix::process::nice(NICENESS) {
                log::debug!("cannot lower the priority of scrubbing: {error}");
            }
            let logs_every = LOGS_EVERY.min(interval / LOGS_PER_INTERVAL);
            let pace = Arc::new(Pace { stop: stopped, used: Mutex::new(processor_time()) });
            let watching = Arc::clone(&pace);
            let mut worker = Worker {
                scrub: Scrub::new(Arc::clone(&backup), Arc::new(move || watching.step())),
                backup,
                pace,
                reported: Reported::default(),
                logs_every,
                next_logs: Instant::now() + logs_every,
                status: Arc::clone(&status),
            };
            if panic::catch_unwind(panic::AssertUnwindSafe(|| worker.run())).is_err() {
                let problem = "scrubbing broke off (a bug); the backup is not read back any more until lightningd is started anew";
                log::error!("{problem}");
                status.scrubs().log_problem(Some(problem.to_owned()));
            }
        })?;
        Ok(Some(Self(stop)))
    }
}

/// Keeps the thread below its share of a core.
#[derive(Debug)]
struct Pace {
    stop: Arc<Stop>,
    /// Processor time of the thread at the end of the last pause.
    used: Mutex<Duration>,
}

impl Pace {
    /// Pauses in proportion to the processor time that was used since the last pause. Called by one thread only.
    fn step(&self) -> ControlFlow<()> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let flow = self.stop.pause(processor_time().saturating_sub(*used) * PAUSE_PER_WORK);
        *used = processor_time();
        flow
    }
}

/// What was logged in this pass: a disk that fails everywhere is reported once.
#[derive(Debug, Default)]
struct Reported {
    unhealable: bool,
    /// That the directory does not answer.
    failure: bool,
}

struct Worker {
    backup: Arc<Backup>,
    scrub: Scrub,
    status: Arc<Status>,
    pace: Arc<Pace>,
    reported: Reported,
    logs_every: Duration,
    next_logs: Instant,
}

impl Worker {
    fn run(&mut self) {
        let left = self.status.scrubs().resume(&self.backup.manifest().uuid.to_string());
        left.iter().for_each(|name| self.scrub.note(name, 0));
        set_io_priority(IoPriority::Idle);
        while self.go_on().is_continue() {}
    }

    /// Does what is due, or waits until something is.
    fn go_on(&mut self) -> ControlFlow<()> {
        if self.next_logs <= Instant::now() {
            self.read_logs()?;
            self.next_logs = Instant::now() + self.logs_every;
        }
        let until_logs = self.next_logs.saturating_duration_since(Instant::now());
        let done = match self.status.scrubs().due_in(Timestamp::now()) {
            None => self.begin(),
            Some(due) if due.is_zero() => self.read_part(),
            Some(due) => return self.pace.stop.pause(due.min(until_logs)),
        };
        match done {
            Ok(flow) => {
                self.reported.failure = false;
                flow
            }
            Err(error) => {
                // A backup that is out of reach is reported by those who write to it.
                if !std::mem::replace(&mut self.reported.failure, true) {
                    log::info!("the backup is not read back for now: {error}");
                }
                self.pace.stop.pause(AFTER_FAILURE.min(self.logs_every))
            }
        }
    }

    fn begin(&mut self) -> Result<ControlFlow<()>, String> {
        let bytes = self.backup.read_bytes().map_err(|error| with_causes(&error))?;
        self.status.scrubs().begin(Timestamp::now(), bytes.segments + bytes.snapshots + bytes.parity);
        self.reported.unhealable = false;
        Ok(self.pace.step())
    }

    fn read_part(&mut self) -> Result<ControlFlow<()>, String> {
        let status = Arc::clone(&self.status);
        let scrubs = status.scrubs();
        let read = self.scrub.read_part(scrubs.through().as_deref());
        // It may have hung, and another thread reads by now.
        if self.pace.stop.pause(Duration::ZERO).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        match read.map_err(|error| with_causes(&error))? {
            ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
            ControlFlow::Continue(Some(part)) => {
                scrubs.read(&part);
                self.report(&part);
            }
            ControlFlow::Continue(None) => {
                let is_well = scrubs.complete(Timestamp::now());
                log::log!(
                    if is_well { log::Level::Info } else { log::Level::Warn },
                    "{}: everything was read back{}",
                    self.backup.path().display(),
                    if is_well { "" } else { ", and some of it is damaged beyond parity, as was said" }
                );
            }
        }
        Ok(self.pace.step())
    }

    fn report(&mut self, part: &ScrubbedPart) {
        if let Some(DamagedBlock { name, offset }) = part.healed.first() {
            log::warn!(
                "{name} is damaged at byte {offset}, {} in all; parity mends that, and the file will be written anew. Nothing is lost; \
                 check the disk of the backup",
                counted(part.healed.len() as u64, "block")
            );
        }
        if let Some(DamagedBlock { name, offset }) = part.unhealable.first() {
            let path = self.backup.path().display();
            let problem = format!(
                "{name} is damaged at byte {offset}, {} in all, and parity does not mend that. `backupfs verify {path}` says which versions \
                 it costs. If there is another copy, stop lightningd and run `backupfs repair --from COPY {path}`. Check the disk of the \
                 backup",
                counted(part.unhealable.len() as u64, "block")
            );
            if !std::mem::replace(&mut self.reported.unhealable, true) {
                log::error!("{problem}");
                self.status.problem(problem.clone());
            }
            self.status.scrubs().file_problem(problem);
        }
    }

    /// Reads the newest log, too, which the node writes to: no write of it may wait for a read that waits for everybody else.
    fn read_logs(&mut self) -> ControlFlow<()> {
        set_io_priority(IoPriority::OfNiceness);
        let read = self.scrub.read_logs(self.status.newest_seq());
        set_io_priority(IoPriority::Idle);
        self.pace.stop.pause(Duration::ZERO)?;
        match read {
            Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
            Ok(ControlFlow::Continue(None)) => self.status.scrubs().log_problem(None),
            Ok(ControlFlow::Continue(Some(damaged))) => self.status.scrubs().hand_over(damaged),
            Err(error) => log::debug!("the newest records are not read back for now: {}", error.in_words()),
        }
        self.pace.step()
    }
}

/// Processor time that this thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Duration::new(seconds, nanos)
}

/// When the disk serves the reads of a thread.
#[derive(Debug, Clone, Copy)]
enum IoPriority {
    /// After the reads and writes of all others.
    Idle,
    /// As its nice value says.
    OfNiceness,
}

/// Sets the priority of the calling thread's reads, where the disk's scheduler knows any. If that fails, they compete more with others.
fn set_io_priority(priority: IoPriority) {
    // ioprio_set(2): `IOPRIO_WHO_PROCESS` with the id 0 is the calling thread; the class is in the upper bits.
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: libc::c_int = 13;
    let class: libc::c_int = match priority {
        IoPriority::Idle => 3,
        IoPriority::OfNiceness => 0,
    };
    // SAFETY: the call takes three numbers and touches no memory.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << CLASS_SHIFT) } != 0 {
        log::debug!("cannot set the priority of reads: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_long_beside_the_work() {
        let pace = Pace { stop: Arc::new(Stop::default()), used: Mutex::new(processor_time()) };
        let before = processor_time();
        while processor_time() - before < Duration::from_millis(2) {}
        let began = Instant::now();
        assert_eq!(pace.step(), ControlFlow::Continue(()));
        assert!(began.elapsed() >= 98 * Duration::from_millis(2), "{:?}", began.elapsed());
        let began = Instant::now();
        *pace.stop.is_stopped.lock().unwrap() = true;
        while processor_time() - before < Duration::from_millis(50) {}
        assert_eq!(pace.step(), ControlFlow::Break(()), "a stop is not slept through");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
}

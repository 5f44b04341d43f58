//! [`Destination`]: the backup that writes go to. It is opened when first needed, and again after a call to it has failed.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Backup, BackupLock, BackupWriter, DbWrite, Interrupted, LogLimits, OnUnreachable, OpenRecordingError, Recorded,
    Timestamp, is_in_transaction,
};

use crate::answer::{Record, Refusal};
use crate::draining::Draining;
use crate::hook::IncomingWrite;
use crate::scrubbing::Scrubbing;
use crate::sealing::Sealing;
use crate::shared_writer::SharedWriter;
use crate::status::{DestinationStatus, Status};
use crate::waited_copy::LastRecord;
use crate::waiting::Waiting;
use crate::watchdog::Watched;
use common::{with_causes, with_remedy};

/// The minimum time that draining a spool gets at a start before new changes go to the spool again.
const DRAIN_AT_LEAST: Duration = Duration::from_secs(2);

/// The maximum of that time, for any `wait_s`: `lightningd` gives a plugin 60 s to answer `init`, and the first writes
/// come before that. What is left then is drained while the node runs.
const DRAIN_AT_MOST: Duration = Duration::from_secs(20);

/// The interval of the log line that `lightningd` waits for the drain.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// The poll interval while waiting for another thread: the drain of a spool, or the release of the writer.
const DRAINED_YET: Duration = Duration::from_millis(5);

/// The backup named by the `backup.lock` of a lightning-dir.
///
/// The backup may be out of reach: a disk that is not mounted or full, a network that is down. The policy of `backup.lock`
/// decides what happens then. After every failed call all files are closed, and the backup is opened anew by its path: a
/// descriptor that failed once is never used again.
#[derive(Debug)]
pub struct Destination {
    lightning_dir: PathBuf,
    status: Arc<Status>,
    watched: Arc<Watched>,
    policy: OnUnreachable,
    /// The URL of the backup; empty until `backup.lock` has been read.
    url: String,
    /// The path of the node's database; `None` until `backup.lock` has been read.
    database: Option<PathBuf>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The backup was not opened yet.
    Closed,
    Open(Open),
    /// A call failed, and all files were closed.
    Interrupted(Box<Interrupted>),
}

#[derive(Debug)]
struct Open {
    writer: SharedWriter,
    /// The sealing thread; `None` while changes go to a spool.
    sealing: Option<Sealing>,
    /// The scrubbing thread, if there is one.
    scrubbing: Option<Scrubbing>,
    /// The draining thread; `None` while changes go to the backup.
    draining: Option<Draining>,
    /// The outcome of the last write, reported after its answer is sent.
    unreported: Option<Recorded>,
    background: Background,
}

/// Whether the work beside recording has begun: sealing, and preallocating the next log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Background {
    Begun,
    /// The work begins after the first durable write.
    Due,
}

/// The reason why an attempt to record a write failed.
enum Failure {
    /// The destination is out of reach, maybe only for now.
    Trouble(String),
    /// A call to the destination did not return in time: another attempt would take as long.
    Hang(String),
    /// The failure is permanent: no further attempt can succeed.
    Refused(Refusal),
}

impl Destination {
    /// The destination of a lightning-dir, not opened yet.
    pub fn new(lightning_dir: PathBuf, status: Arc<Status>, watched: Arc<Watched>) -> Self {
        Self {
            lightning_dir,
            status,
            watched,
            policy: OnUnreachable::default(),
            url: String::new(),
            database: None,
            state: State::Closed,
        }
    }

    fn ready(&mut self) -> Result<&mut Open, Failure> {
        if !matches!(self.state, State::Open(_)) {
            self.state = State::Open(self.open_backup()?);
        }
        match &mut self.state {
            State::Open(open) => Ok(open),
            State::Closed | State::Interrupted(_) => unreachable!("BUG: it was opened just now"),
        }
    }

    fn open_backup(&mut self) -> Result<Open, Failure> {
        let State::Interrupted(interrupted) = &self.state else { return self.open_first() };
        let writer = interrupted.reopen(&self.watched.in_flight).map_err(|error| match error {
            // The sealing thread may still have the lock.
            OpenRecordingError::Locked { .. } => Failure::Trouble(error.to_string()),
            error => Failure::of_opening(&error),
        })?;
        // This may be one of many attempts: nothing else begins, and nothing is logged, before a write is durable.
        Ok(Open { background: Background::Due, ..Open::of(writer) })
    }

    /// Opens what `backup.lock` names: a spool that contains changes, or else the backup.
    fn open_first(&mut self) -> Result<Open, Failure> {
        let lock = BackupLock::read(&self.lightning_dir).map_err(|error| Failure::refused(&error))?;
        self.policy = lock.on_unreachable.clone();
        self.status.compactions().set_policy(lock.compact);
        self.status.scrubs().set_interval(lock.scrub.unwrap_or_default(), &self.lightning_dir);
        self.url = lock.backend_url.to_string();
        self.database = Some(lock.database_path(&self.lightning_dir));
        self.watched.set_limit(&self.policy, &self.url);
        let (limits, in_flight) = (LogLimits::from_env(), &self.watched.in_flight);
        let spool = BackupWriter::open_spool(&lock, &self.lightning_dir, limits, in_flight);
        if let Some(spooling) = spool.map_err(|error| Failure::refused(&error))? {
            let open = self.begin(spooling)?;
            if !self.is_drained_soon(&open) {
                return Ok(open);
            }
            // The spool is drained: go on with the backup, as at any other start.
        }
        let writer = BackupWriter::open_locked(&lock, &self.lightning_dir, limits, &self.watched.in_flight).map_err(
            |error| match error.is_lasting() {
                // Nothing was recorded yet, so this is more likely a mistake in the set-up: refuse at once.
                true => Failure::refused(&error),
                false => Failure::of_opening(&error),
            },
        )?;
        self.begin(writer)
    }

    /// Waits for the drain of a spool, for a limited time; `false` if changes have to go to the spool meanwhile.
    fn is_drained_soon(&self, open: &Open) -> bool {
        let (began, timeout) = (Instant::now(), drain_timeout(&self.policy));
        let mut next_line = SAY_EVERY;
        loop {
            if open.writer.lock().spooled().is_none() {
                return true;
            }
            let waited = began.elapsed();
            if open.draining.as_ref().is_none_or(Draining::has_failed) {
                return false;
            }
            if waited >= timeout {
                log::warn!(
                    "the spool is not drained after {} s. lightningd goes on; new changes go to the spool until the backup has \
                     all of them",
                    timeout.as_secs()
                );
                return false;
            }
            if waited >= next_line {
                next_line += SAY_EVERY;
                let left = (timeout - waited).as_secs_f64().ceil();
                log::info!("lightningd waits while the spool is drained into the backup, for {left} s more at most");
            }
            thread::sleep(DRAINED_YET);
        }
    }

    /// Reports the destination to the status, and starts the sealing thread, or for a spool the draining thread.
    fn begin(&self, writer: BackupWriter) -> Result<Open, Failure> {
        let mut open = Open::of(writer);
        let spooled = open.writer.lock().spooled();
        match spooled {
            Some((path, spooled)) => {
                self.status.recorded(open.writer.lock().newest(), None);
                self.status.spooled(&self.url, &path, spooled);
                open.draining = Some(
                    Draining::spawn(&open.writer, Arc::clone(&self.status))
                        .map_err(|error| Failure::Trouble(format!("cannot start a thread ({error})")))?,
                );
            }
            None => open.begin_sealing(&self.status),
        }
        Ok(open)
    }

    /// Attempts once to record a write.
    fn attempt(&mut self, write: &DbWrite<'_>) -> Result<(), Failure> {
        self.ready()?;
        let State::Open(open) = &mut self.state else { unreachable!("BUG: it is ready") };
        let mut writer = open.writer.lock();
        let recorded = match writer.record(write) {
            Ok(recorded) => recorded,
            Err(error) if error.is_trouble() => {
                let (trouble, is_hang) = (with_remedy(&error), error.is_hang());
                drop(writer);
                self.close();
                return Err(if is_hang { Failure::Hang(trouble) } else { Failure::Trouble(trouble) });
            }
            Err(error) => return Err(Failure::refused(&error)),
        };
        open.unreported = Some(recorded);
        Ok(())
    }

    /// Closes all files, releases the lock, and stops the threads that work beside recording.
    fn close(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Open(Open { writer, sealing, scrubbing, draining, .. }) => {
                drop((sealing, scrubbing, draining));
                // The draining thread releases the writer when its current step ends.
                let mut shared = writer;
                loop {
                    match shared.into_inner() {
                        Ok(writer) => break State::Interrupted(Box::new(writer.interrupt())),
                        Err(still_shared) => shared = still_shared,
                    }
                    thread::sleep(DRAINED_YET);
                }
            }
            other => other,
        };
    }

    /// Continues in the spool, if there is one, after the timeout of the backup.
    fn spool(&mut self, trouble: &str) -> Result<(), Refusal> {
        let State::Interrupted(interrupted) = &self.state else {
            return Err(Refusal(format!(
                "{trouble}. The spool is empty, so it is not known where the backup ends, and nothing can be spooled. Make {} \
                 reachable (mounted, writable, with room on its disk), then start lightningd: nothing is lost",
                self.url
            )));
        };
        match interrupted.spool(&self.watched.in_flight) {
            Ok(Some(writer)) => {
                self.status.problem(format!("changes go to a spool: {trouble}"));
                self.state = State::Open(self.begin(writer).map_err(Failure::into_refusal)?);
                Ok(())
            }
            Ok(None) => Err(Refusal(trouble.to_owned())),
            Err(error) => Err(Refusal(format!("{trouble}; and {}", with_remedy(&error)))),
        }
    }
}

/// The time that draining a spool gets at a start before recording goes on in the spool.
fn drain_timeout(policy: &OnUnreachable) -> Duration {
    policy.wait().clamp(DRAIN_AT_LEAST, DRAIN_AT_MOST)
}

impl Open {
    fn of(writer: BackupWriter) -> Self {
        let writer = SharedWriter::new(writer);
        Self { writer, sealing: None, scrubbing: None, draining: None, unreported: None, background: Background::Begun }
    }

    fn begin_sealing(&mut self, status: &Arc<Status>) {
        let writer = self.writer.lock();
        let backup = Arc::new(writer.backup());
        self.sealing = begin_sealing(&writer, Arc::clone(&backup), status);
        self.scrubbing = Scrubbing::spawn(backup, Arc::clone(status)).unwrap_or_else(|error| {
            log::warn!("the backup is not read back: cannot start a thread ({error}). It is recorded to all the same");
            None
        });
    }
}

impl Failure {
    fn of_opening(error: &OpenRecordingError) -> Self {
        let text = with_remedy(error);
        if error.is_trouble() { Self::Trouble(text) } else { Self::Refused(Refusal(text)) }
    }

    fn refused(error: &(dyn Error + 'static)) -> Self {
        Self::Refused(Refusal(with_remedy(error)))
    }

    fn into_refusal(self) -> Refusal {
        match self {
            Self::Trouble(text) | Self::Hang(text) => Refusal(text),
            Self::Refused(refusal) => refusal,
        }
    }
}

/// Logs that the backup is open, reports it to the status, and starts the sealing thread.
fn begin_sealing(writer: &BackupWriter, backup: Arc<Backup>, status: &Arc<Status>) -> Option<Sealing> {
    let newest = writer.newest();
    let url = writer.url().to_string();
    match newest {
        Some(newest) => log::info!("recording to {url}; its newest version is {}", newest.data_version),
        None => log::info!("recording to {url}, which has no version yet"),
    }
    status.opened(DestinationStatus { url, backup: Arc::clone(&backup) }, newest, writer.unsealed());
    match Sealing::spawn(
        backup,
        LogLimits::from_env(),
        newest.map(|newest| newest.seq),
        Arc::clone(status),
        writer.share_lock(),
    ) {
        Ok(sealing) => Some(sealing),
        Err(error) => {
            let problem = format!(
                "changes are recorded, but neither replayed nor sealed: cannot start a thread ({error}). Nothing is lost. Give \
                 lightningd more memory or threads, and start it again"
            );
            log::error!("{problem}");
            status.sealing_problem(problem);
            None
        }
    }
}

impl Record for Destination {
    fn open(&mut self) -> Result<(), Refusal> {
        self.ready().map(drop).map_err(Failure::into_refusal)
    }

    fn record(&mut self, write: &IncomingWrite<'_>, received_at: Timestamp) -> Result<(), Refusal> {
        let write = DbWrite { data_version: write.data_version, statements: &write.statements, received_at };
        let mut waiting: Option<Waiting> = None;
        loop {
            let (trouble, hangs) = match self.attempt(&write) {
                // The watchdog reports how long lightningd has waited.
                Ok(()) => return Ok(()),
                Err(Failure::Refused(refusal)) => return Err(refusal),
                Err(Failure::Trouble(trouble)) => (trouble, false),
                Err(Failure::Hang(trouble)) => (trouble, true),
            };
            self.watched.pending.note_trouble(&trouble);
            if self.watched.pending.is_refused() {
                return Err(Refusal(trouble));
            }
            let (may_spool, then) = match self.policy {
                OnUnreachable::Spool { .. } => (true, "changes go to the spool"),
                OnUnreachable::Wait(_) | OnUnreachable::Stop => (false, "the write is refused and lightningd stops"),
            };
            let waiting = waiting.get_or_insert_with(|| Waiting::begin(self.policy.wait()));
            if may_spool && hangs {
                self.spool(&trouble)?;
            } else if let Err(refusal) = waiting.pause(&self.url, &trouble, then) {
                if !may_spool {
                    return Err(refusal);
                }
                self.spool(&trouble)?;
            }
        }
    }

    fn last_record(&self) -> Option<LastRecord> {
        let State::Open(open) = &self.state else { return None };
        let end = open.writer.lock().end();
        Some(LastRecord { seq: end.next_seq.get().saturating_sub(1), checksum: end.previous_checksum })
    }

    fn after_reply(&mut self) {
        let State::Open(open) = &mut self.state else { return };
        let writer = open.writer.lock();
        let newest = writer.newest();
        let spooled = writer.spooled();
        drop(writer);
        if open.draining.is_some() {
            match spooled {
                Some((path, spooled)) => self.status.spooled(&self.url, &path, spooled),
                None => {
                    open.draining = None;
                    // Again: a late update of the spool's state may have overwritten "drained".
                    self.status.spool_drained();
                    open.begin_sealing(&self.status);
                }
            }
        }
        if open.background == Background::Due {
            open.background = Background::Begun;
            open.writer.lock().preallocate_logs();
            open.begin_sealing(&self.status);
        }
        if let (Some(sealing), Some(newest)) = (&open.sealing, newest) {
            sealing.wake(newest.seq);
        }
        let recorded = open.unreported.take();
        self.status.recorded(newest, recorded);
        recorded.into_iter().for_each(report);
    }

    fn is_in_transaction(&self) -> bool {
        self.database.as_deref().is_some_and(is_in_transaction)
    }

    fn end(&mut self) {
        let State::Open(open) = &mut self.state else { return };
        let mut writer = open.writer.lock();
        if let Err(error) = writer.note_commit() {
            log::warn!(
                "cannot note that the last change was committed: {}. Nothing is lost. The next start compares the whole \
                 database with the backup, which takes some seconds",
                with_remedy(&error)
            );
        }
        if let Err(error) = writer.remove_preallocated() {
            log::debug!("the preallocated log cannot be removed: {}", with_causes(&error));
        }
    }
}

/// Logs the outcomes that are rare and not logged elsewhere.
fn report(recorded: Recorded) {
    match recorded {
        // Logged when it was detected.
        Recorded::Appended | Recorded::Rewound { .. } | Recorded::Gap { .. } => {}
        Recorded::Replaced { data_version, .. } => {
            log::info!("version {data_version} is a snapshot of the node's database now");
        }
        Recorded::Healed { from: Some(from), to } => {
            log::warn!(
                "the versions after {from} and before {to} were not recorded; version {to} is a snapshot of the database"
            );
        }
        Recorded::Healed { from: None, to } => log::info!("the backup begins with a snapshot of version {to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drain_timeout_is_below_that_of_init() {
        let spool = |wait_s| OnUnreachable::Spool { directory: "/spool".into(), wait: Duration::from_secs(wait_s) };
        assert_eq!(drain_timeout(&spool(0)), DRAIN_AT_LEAST);
        assert_eq!(drain_timeout(&spool(7)), Duration::from_secs(7));
        assert!(
            drain_timeout(&spool(24 * 60 * 60)) <= Duration::from_secs(30),
            "of 60 s, with what else a start takes"
        );
    }
}

//! The backup that writes go to, opened when it is first needed, and again when a call to it has failed.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    BackupLock, BackupWriter, DbWrite, Interrupted, LogLimits, OnUnreachable, OpenRecordingError, Recorded, Timestamp,
    is_in_transaction,
};

use crate::answer::{Record, Refusal};
use crate::causes::{with_causes, with_remedy};
use crate::draining::Draining;
use crate::hook::IncomingWrite;
use crate::sealing::Sealing;
use crate::shared_writer::SharedWriter;
use crate::status::{DestinationStatus, Status};
use crate::waiting::Waiting;
use crate::watchdog::Watched;

/// How long the drain of a spool that was found gets, if it has not failed, before changes go there again.
const DRAIN_AT_LEAST: Duration = Duration::from_secs(2);

/// How long it gets at most, whatever `wait_s` is: `lightningd` gives a plugin 60 s until it has answered `init`, and the
/// first writes come before that. What is not drained by then is drained while the node runs.
const DRAIN_AT_MOST: Duration = Duration::from_secs(20);

/// How often the log says that `lightningd` waits for it.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// How often it is looked whether a spool is drained, at the beginning of a run.
const DRAINED_YET: Duration = Duration::from_millis(5);

/// The backup named by the `backup.lock` of a lightning-dir.
///
/// Its place may be out of reach: a disk that is not mounted, a network that is down, a disk that is full. What is done
/// then is the policy of `backup.lock`. Whenever a call has failed, everything is closed, and the backup is opened anew by
/// its path: a descriptor that failed once is never trusted again.
#[derive(Debug)]
pub struct Destination {
    lightning_dir: PathBuf,
    status: Arc<Status>,
    watched: Arc<Watched>,
    policy: OnUnreachable,
    /// The URL of the backup, once it is known.
    place: String,
    /// That of `lightningd`, once it is known.
    database: Option<PathBuf>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was opened yet.
    Closed,
    Open(Open),
    /// A call failed.
    Interrupted(Box<Interrupted>),
}

#[derive(Debug)]
struct Open {
    writer: SharedWriter,
    /// Only where the backup itself is recorded to.
    sealing: Option<Sealing>,
    /// Only where a spool is.
    draining: Option<Draining>,
    /// What was recorded with the last write, until that is answered and there is time to tell.
    unreported: Option<Recorded>,
    background: Background,
}

/// Whether what goes on beside recording has been begun: sealing, and making room for the next log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Background {
    Begun,
    /// With the first write that is durable.
    Due,
}

/// Why a write is not recorded at the first attempt.
enum Failure {
    /// The backup's place is out of reach, maybe only for now.
    Trouble(String),
    /// A call to it has not returned in time: another attempt is going to take as long.
    Hang(String),
    /// No further attempt can help.
    Refused(Refusal),
}

impl Destination {
    /// Nothing is opened yet.
    pub fn new(lightning_dir: PathBuf, status: Arc<Status>, watched: Arc<Watched>) -> Self {
        Self {
            lightning_dir,
            status,
            watched,
            policy: OnUnreachable::default(),
            place: String::new(),
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
            // What was sealing may not have ended yet.
            OpenRecordingError::Locked { .. } => Failure::Trouble(error.to_string()),
            error => Failure::of_opening(&error),
        })?;
        // It may be one of many attempts: nothing else is begun, nor said, before a write is durable.
        Ok(Open { background: Background::Due, ..Open::of(writer) })
    }

    /// Opens what `backup.lock` names: a spool that holds changes, or else the backup.
    fn open_first(&mut self) -> Result<Open, Failure> {
        let lock = BackupLock::read(&self.lightning_dir).map_err(|error| Failure::refused(&error))?;
        self.policy = lock.on_unreachable.clone();
        self.status.compactions().set_policy(lock.compact);
        self.place = lock.backend_url.to_string();
        self.database = Some(lock.database_path(&self.lightning_dir));
        self.watched.set_limit(&self.policy, &self.place);
        let (limits, in_flight) = (LogLimits::from_env(), &self.watched.in_flight);
        let spool = BackupWriter::open_spool(&lock, &self.lightning_dir, limits, in_flight);
        if let Some(spooling) = spool.map_err(|error| Failure::refused(&error))? {
            let open = self.begin(spooling)?;
            if !self.is_drained_soon(&open) {
                return Ok(open);
            }
            // With the backup at hand the beginning of a run is as any other.
        }
        let writer = BackupWriter::open_locked(&lock, &self.lightning_dir, limits, &self.watched.in_flight).map_err(
            |error| match error.is_lasting() {
                // Nothing was recorded yet, so that it is more likely a mistake than bad luck: that is told at once.
                true => Failure::refused(&error),
                false => Failure::of_opening(&error),
            },
        )?;
        self.begin(writer)
    }

    /// Gives the drain of a spool that was found some time before recording goes on there.
    fn is_drained_soon(&self, open: &Open) -> bool {
        let (began, timeout) = (Instant::now(), drain_gets(&self.policy));
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
                    "the spool is not drained after {} s; lightningd goes on, and new changes go to the spool until the backup has \
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

    /// Makes it known where changes go, and has them sealed, or drained, from now on.
    fn begin(&self, writer: BackupWriter) -> Result<Open, Failure> {
        let mut open = Open::of(writer);
        let spooled = open.writer.lock().spooled();
        match spooled {
            Some((path, spooled)) => {
                self.status.recorded(open.writer.lock().newest(), None);
                self.status.spooled(&self.place, &path, spooled);
                open.draining = Some(
                    Draining::spawn(&open.writer, Arc::clone(&self.status))
                        .map_err(|error| Failure::Trouble(format!("cannot start a thread ({error})")))?,
                );
            }
            None => open.begin_sealing(&self.status),
        }
        Ok(open)
    }

    /// Records a write, once.
    fn attempt(&mut self, write: &DbWrite<'_>) -> Result<(), Failure> {
        self.ready()?;
        let State::Open(open) = &mut self.state else { unreachable!("BUG: it is ready") };
        let mut writer = open.writer.lock();
        let recorded = match writer.record(write) {
            Ok(recorded) => recorded,
            Err(error) if error.is_trouble() => {
                let (trouble, is_hang) = (with_remedy(&error), error.is_hang());
                drop(writer);
                self.let_go();
                return Err(if is_hang { Failure::Hang(trouble) } else { Failure::Trouble(trouble) });
            }
            Err(error) => return Err(Failure::refused(&error)),
        };
        open.unreported = Some(recorded);
        Ok(())
    }

    /// Closes all files and gives the lock back; what is sealing stops, too.
    fn let_go(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Open(Open { writer, sealing, draining, .. }) => {
                drop((sealing, draining));
                // A thread that has drained it has nothing more to do, and lets go of it.
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

    /// Goes on in the spool, if there is one: the time for the backup is up.
    fn spool(&mut self, trouble: &str) -> Result<(), Refusal> {
        let State::Interrupted(interrupted) = &self.state else {
            return Err(Refusal(format!(
                "{trouble}. The spool is empty, so it is not known where the backup ends, and nothing can be spooled. Make {} \
                 reachable (mounted, writable, with room on its disk), then start lightningd: nothing is lost",
                self.place
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

/// How long the drain of a spool that was found may take before recording goes on in the spool.
fn drain_gets(policy: &OnUnreachable) -> Duration {
    policy.wait().clamp(DRAIN_AT_LEAST, DRAIN_AT_MOST)
}

impl Open {
    fn of(writer: BackupWriter) -> Self {
        let writer = SharedWriter::new(writer);
        Self { writer, sealing: None, draining: None, unreported: None, background: Background::Begun }
    }

    fn begin_sealing(&mut self, status: &Arc<Status>) {
        let writer = self.writer.lock();
        self.sealing = begin_sealing(&writer, status);
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

/// Says that the backup is open, and has it sealed from now on.
fn begin_sealing(writer: &BackupWriter, status: &Arc<Status>) -> Option<Sealing> {
    let backup = Arc::new(writer.backup());
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
                "changes are recorded, but neither replayed nor sealed: cannot start a thread ({error}). Nothing is lost by \
                 that; give lightningd more memory or threads, and start it again"
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
                // How long lightningd has waited is told by the watchdog.
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
            } else if let Err(refusal) = waiting.pause(&self.place, &trouble, then) {
                if !may_spool {
                    return Err(refusal);
                }
                self.spool(&trouble)?;
            }
        }
    }

    fn after_reply(&mut self) {
        let State::Open(open) = &mut self.state else { return };
        let writer = open.writer.lock();
        let newest = writer.newest();
        let spooled = writer.spooled();
        drop(writer);
        if open.draining.is_some() {
            match spooled {
                Some((path, spooled)) => self.status.spooled(&self.place, &path, spooled),
                None => {
                    open.draining = None;
                    // Once more: what was told of the spool may have come after the word that it is drained.
                    self.status.spool_drained();
                    open.begin_sealing(&self.status);
                }
            }
        }
        if open.background == Background::Due {
            open.background = Background::Begun;
            open.writer.lock().make_room_ahead();
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
                "cannot note that the last change was committed: {}. Nothing is lost by that; the next start compares the \
                 whole database with the backup, which takes some seconds",
                with_remedy(&error)
            );
        }
        if let Err(error) = writer.give_back_room() {
            log::debug!("the room for the next log stays: {}", with_causes(&error));
        }
    }
}

/// What happens at some starts and is worth a line then.
fn report(recorded: Recorded) {
    match recorded {
        // Said when it was noticed.
        Recorded::Appended | Recorded::Rewound { .. } | Recorded::Gap { .. } => {}
        Recorded::Replaced { data_version, .. } => {
            log::info!("version {data_version} is a snapshot of the node's database now");
        }
        Recorded::Healed { from: Some(from), to } => {
            log::warn!("versions after {from} and before {to} were committed unseen; version {to} is a snapshot");
        }
        Recorded::Healed { from: None, to } => log::info!("the backup begins with a snapshot of version {to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_given_time_but_not_so_much_that_lightningd_gives_up_the_plugin() {
        let spool = |wait_s| OnUnreachable::Spool { directory: "/spool".into(), wait: Duration::from_secs(wait_s) };
        assert_eq!(drain_gets(&spool(0)), DRAIN_AT_LEAST);
        assert_eq!(drain_gets(&spool(7)), Duration::from_secs(7));
        assert!(drain_gets(&spool(24 * 60 * 60)) <= Duration::from_secs(30), "of 60 s, with what else a start takes");
    }
}

//! The background thread that replays what is recorded and seals finished logs.
//!
//! It reads the backup as any other reader does and shares nothing with the recording but a bell. A change that does not
//! replay never stops recording, for it is what `lightningd` did; it is shouted about instead. A disk that has no room for
//! segments is no fault of the backup: that is told as what it is.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, panic, thread};

use common::KeepPolicy;
use common::compact::{Clock, ClockWatch, CompactError, CompactOutcome, Compaction, Force, Manner};
use common::{Backup, DatabaseDamage, LogLimits, SealError, Sealer, Seq, SharedLock, Timestamp, Trouble, counted};

use crate::causes::with_remedy;
use crate::status::Status;

/// The pause after each round, so that a busy node costs a few rounds a second and not one for each write.
const PAUSE: Duration = Duration::from_millis(200);

/// The pause after a round that failed: a full disk is not full any sooner for being asked all the time.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// How often it is looked whether somebody has asked for a compaction, while nothing is recorded.
const LOOK_FOR_REQUESTS: Duration = Duration::from_millis(500);

/// How often it is looked whether one is due.
const LOOK_WHAT_IS_DUE: Duration = Duration::from_secs(60 * 60);

/// The same, when that has failed.
const AFTER_FAILED_COMPACTION: Duration = Duration::from_secs(10 * 60);

/// Added to the thread's nice value: it gets what the node leaves over.
const NICENESS: i32 = 10;

/// The thread's handle. Dropped, it tells the thread to stop, at once, and does not wait for it: whatever it was writing has
/// no name yet, and the next start begins it anew.
#[derive(Debug)]
pub struct Sealing {
    wakeup: Arc<Wakeup>,
    stop: Arc<AtomicBool>,
}

impl Sealing {
    /// Starts with what the backup holds, whose logs have these limits; `durable` is the newest record, if there is any.
    /// `lock` is that of the backup.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(
        backup: Arc<Backup>,
        limits: LogLimits,
        durable: Option<Seq>,
        status: Arc<Status>,
        lock: SharedLock,
    ) -> io::Result<Self> {
        let (wakeup, stop) = (Arc::new(Wakeup::default()), Arc::new(AtomicBool::new(false)));
        let (rung, stopped) = (Arc::clone(&wakeup), Arc::clone(&stop));
        thread::Builder::new().name("sealing".to_owned()).spawn(move || {
            // On Linux this concerns the calling thread alone. Without it everything works, only less politely.
            if let Err(error) = rustix::process::nice(NICENESS) {
                log::debug!("cannot lower the priority of sealing: {error}");
            }
            let round = panic::AssertUnwindSafe(|| {
                // Whatever it is at when it is told to stop, the next recorder begins only when it has stopped and given the
                // lock back.
                let status = Arc::clone(&status);
                let (began, watch) = (Instant::now(), ClockWatch::default());
                Worker { backup, limits, status, lock, sealer: None, told: None, next_look: began, began, watch }
                    .run(&rung, &stopped);
            });
            if panic::catch_unwind(round).is_err() {
                log_once(
                    &status,
                    "sealing broke off (a bug); what is recorded is neither replayed nor sealed any more",
                );
            }
        })?;
        if let Some(durable) = durable {
            wakeup.ring(durable);
        }
        Ok(Self { wakeup, stop })
    }

    /// Says that everything up to this record is durable. Cheap: at most one call for each round wakes anybody.
    pub fn wake(&self, durable: Seq) {
        self.wakeup.ring(durable);
    }
}

impl Drop for Sealing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wakeup.stop();
    }
}

struct Worker {
    backup: Arc<Backup>,
    limits: LogLimits,
    status: Arc<Status>,
    lock: SharedLock,
    sealer: Option<Sealer>,
    /// When it is looked the next time whether history is to be dropped.
    next_look: Instant,
    /// Since when the clock is watched.
    began: Instant,
    watch: ClockWatch,
    /// What was told last, so that it is told once and not after every write.
    told: Option<Told>,
}

/// What goes wrong with sealing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// The backup cannot be restored as it is, in these words.
    OfTheBackup(String),
    /// Its place is in trouble. The words are not always the same, such as the byte that there was no room for.
    OfItsPlace(Option<Trouble>),
}

impl Worker {
    fn run(&mut self, wakeup: &Wakeup, stop: &Arc<AtomicBool>) {
        loop {
            let durable = match wakeup.wait(LOOK_FOR_REQUESTS) {
                Event::Durable(durable) => durable,
                Event::Nothing => {
                    self.compact(stop);
                    continue;
                }
                Event::Stop => return,
            };
            let sealed = self.seal(durable, stop);
            let is_broken_off = self.status.compactions().is_asked();
            self.check_snapshots(stop);
            match sealed {
                Ok(()) => {
                    if self.told.take().is_some() {
                        log::info!("{}: changes are replayed and sealed again", self.backup.path().display());
                    }
                    self.status.sealing_is_well();
                    self.compact(stop);
                    if is_broken_off {
                        wakeup.ring_unless_rung(durable);
                    }
                    wakeup.pause(PAUSE);
                }
                Err(error) => {
                    self.report(&error);
                    // That makes room.
                    if is_broken_off {
                        self.compact(stop);
                    }
                    wakeup.pause(PAUSE_AFTER_FAILURE);
                }
            }
        }
    }

    /// Tells what goes wrong, if that is news.
    fn report(&mut self, error: &SealError) {
        if let SealError::Replay { change, .. } = error {
            self.lock.ask_for_snapshot(*change);
        }
        let problem = format!("{}: {}", self.backup.path().display(), with_remedy(error));
        let trouble = Trouble::behind(error);
        let told = match error.is_of_the_backup() && self.is_there() {
            true => Told::OfTheBackup(problem.clone()),
            false => Told::OfItsPlace(trouble),
        };
        if self.told.as_ref() == Some(&told) {
            return;
        }
        match &told {
            Told::OfTheBackup(problem) => {
                log_once(&self.status, problem);
                // It stays in the status when what comes behind a snapshot replays well.
                self.status.problem(problem.clone());
            }
            Told::OfItsPlace(trouble) => {
                let level = if *trouble == Some(Trouble::BadDisk) { log::Level::Error } else { log::Level::Warn };
                log::log!(level, "{problem}");
                self.status.sealing_problem(problem);
            }
        }
        self.told = Some(told);
    }

    /// Whether the directory is that of a backup: where it is not mounted, no file is missing from it.
    fn is_there(&self) -> bool {
        self.backup.path().join(format::names::MANIFEST).exists()
    }

    /// Looks at snapshots that nobody has looked at, when all that was recorded since has been replayed.
    fn check_snapshots(&mut self, stop: &Arc<AtomicBool>) {
        let Some(sealer) = &mut self.sealer else { return };
        let before = sealer.checked_snapshots().cloned();
        let mut problems = Vec::new();
        while let Err(error) = sealer.check_snapshots(stop) {
            problems.push(error);
        }
        if before.as_ref() != sealer.checked_snapshots() {
            self.status.database_damage(sealer.checked_snapshots().and_then(DatabaseDamage::of));
        }
        for error in problems {
            let problem = format!("{}: {}", self.backup.path().display(), with_remedy(&error));
            log::error!("{problem}");
            log::logger().flush();
            // It does not go away when later changes replay well.
            self.status.problem(problem);
        }
    }

    /// Drops history if somebody has asked for it, or if it is due by the policy of `backup.lock`.
    fn compact(&mut self, stop: &AtomicBool) {
        let status = Arc::clone(&self.status);
        let compactions = status.compactions();
        if let Some(asked) = compactions.take_asked() {
            if let Some(outcome) = self.compact_by(&asked.policy, asked.force, stop) {
                let outcome = outcome.map_err(|error| with_remedy(&error));
                compactions.ended(Some(&outcome));
                let _gone = asked.answer.send(outcome);
            }
            return;
        }
        let Some(policy) = compactions.policy().filter(|_| self.next_look <= Instant::now()) else { return };
        let clock = Clock::Watched(&mut self.watch, self.began.elapsed());
        let compacted = match self.backup.is_compaction_due(&policy, Timestamp::now(), clock) {
            Ok(false) => None,
            Ok(true) => self.compact_by(&policy, Force::No, stop),
            Err(error) => Some(Err(error)),
        };
        self.next_look = Instant::now() + LOOK_WHAT_IS_DUE;
        let where_it_is = self.backup.path().display();
        match compacted {
            Some(Err(CompactError::Clock(doubt))) => {
                if compactions.doubt_clock(Some(doubt)) {
                    log::warn!(
                        "{where_it_is}: old versions are not dropped as `compact` in backup.lock says, for now: {doubt}"
                    );
                }
                return;
            }
            Some(Err(error)) => {
                let problem = with_remedy(&error);
                log::warn!(
                    "{where_it_is}: old versions are not dropped as `compact` in backup.lock says; nothing is lost by that: \
                     {problem}. It is tried again in 10 minutes"
                );
                compactions.ended(Some(&Err(problem)));
                self.next_look = Instant::now() + AFTER_FAILED_COMPACTION;
            }
            Some(Ok(compaction)) => compactions.ended(Some(&Ok(compaction))),
            None => {}
        }
        compactions.doubt_clock(None);
    }

    /// `None` when it was interrupted by a stop.
    fn compact_by(
        &mut self,
        policy: &KeepPolicy,
        force: Force,
        stop: &AtomicBool,
    ) -> Option<Result<Compaction, CompactError>> {
        let compactions = self.status.compactions();
        let mut watch = |progress| {
            compactions.progress(progress);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let ran = self.began.elapsed();
        let clock = match force {
            Force::Yes => Clock::Trusted,
            Force::No => Clock::Watched(&mut self.watch, ran),
        };
        let compacted = self.backup.compact(policy, (Timestamp::now(), clock), Manner::GENTLE, &self.lock, &mut watch);
        let outcome = match compacted {
            Ok(CompactOutcome::Interrupted) => None,
            Ok(CompactOutcome::Done(compaction)) => Some(Ok(compaction)),
            Err(error) => Some(Err(error)),
        };
        compactions.ended(None);
        if let Some(Ok(Compaction { dropped_versions: versions @ 1.., freed_bytes, .. })) = &outcome {
            log::info!(
                "dropped {}, as the policy says; that has freed {freed_bytes} bytes",
                counted(*versions, "old version")
            );
        }
        outcome
    }

    fn seal(&mut self, durable: Seq, stop: &AtomicBool) -> Result<(), SealError> {
        let sealer = match &mut self.sealer {
            Some(sealer) => sealer,
            none => {
                let sealer = none.insert(Sealer::new(Arc::clone(&self.backup), self.limits)?);
                let damage = sealer.checked_snapshots().and_then(DatabaseDamage::of);
                if let Some(DatabaseDamage { data_version, text }) = &damage {
                    log::warn!(
                        "the node's own database was damaged when version {data_version} was copied from it ({text}): \
                         `backupfs restore` needs --accept-damaged for that version and those after it"
                    );
                }
                self.status.database_damage(damage);
                sealer
            }
        };
        // At full load there is always more to seal: who has asked for a compaction need not wait for the end of it.
        let compactions = self.status.compactions();
        let result = sealer.advance(durable, &mut |_| match stop.load(Ordering::Relaxed) || compactions.is_asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        let progress = sealer.progress();
        self.status.sealed(progress);
        result
    }
}

fn log_once(status: &Status, problem: &str) {
    log::error!("{problem}");
    // Whoever reads the status finds it in the log, too.
    log::logger().flush();
    status.replay_problem(problem.to_owned());
}

/// Wakes one sleeper, however often it is rung.
#[derive(Debug, Default)]
struct Wakeup {
    state: Mutex<BellState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BellState {
    rung: Option<Seq>,
    stopped: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Durable(Seq),
    /// Nobody has rung for a while.
    Nothing,
    Stop,
}

impl Wakeup {
    fn ring(&self, durable: Seq) {
        if self.state().rung.replace(durable).is_none() {
            self.changed.notify_one();
        }
    }

    /// Rings for something older than whatever it has been rung for since.
    fn ring_unless_rung(&self, durable: Seq) {
        self.state().rung.get_or_insert(durable);
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_one();
    }

    /// Sleeps until it is rung, once for all rings since the last time, but not for ever.
    fn wait(&self, timeout: Duration) -> Event {
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.state(), timeout, |state| state.rung.is_none() && !state.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        match state.rung.take() {
            _ if state.stopped => Event::Stop,
            Some(durable) => Event::Durable(durable),
            None => Event::Nothing,
        }
    }

    /// Lets rings pile up for a while; only a stop cuts it short.
    fn pause(&self, pause: Duration) {
        drop(self.changed.wait_timeout_while(self.state(), pause, |state| !state.stopped));
    }

    fn state(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use common::{BackupLock, BackupUrl, BackupWriter, OnGap, OnUnreachable, OpenRecordingError, create_backup};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    #[test]
    fn rings_are_coalesced_and_none_is_lost() {
        let wakeup = Wakeup::default();
        wakeup.ring(seq(1));
        wakeup.ring(seq(2));
        assert_eq!(wakeup.wait(TIMEOUT), Event::Durable(seq(2)));
        assert!(wakeup.state().rung.is_none());
        wakeup.ring(seq(3));
        assert_eq!(wakeup.wait(TIMEOUT), Event::Durable(seq(3)), "a ring after the wait counts anew");
        assert_eq!(wakeup.wait(Duration::ZERO), Event::Nothing);
    }

    #[test]
    fn a_stop_ends_sleep_and_pause_at_once() {
        let wakeup = Arc::new(Wakeup::default());
        let sleeper = thread::spawn({
            let wakeup = Arc::clone(&wakeup);
            move || wakeup.wait(TIMEOUT)
        });
        wakeup.stop();
        assert_eq!(sleeper.join().unwrap(), Event::Stop);
        wakeup.ring(seq(1));
        assert_eq!(wakeup.wait(TIMEOUT), Event::Stop, "a stop is final");
        let before = Instant::now();
        wakeup.pause(PAUSE_AFTER_FAILURE);
        assert!(before.elapsed() < PAUSE);
    }

    /// Two that seal at once would give the name of a segment to what the other has only begun.
    #[test]
    fn the_backup_stays_locked_until_the_thread_has_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let url: BackupUrl = dir.path().join("node.bkp").to_str().unwrap().parse().unwrap();
        let created = create_backup(&url, None, &mut |_| ControlFlow::Continue(())).unwrap();
        let (backup_uuid, database, on_gap) = (Some(created.uuid), None, OnGap::Heal);
        let on_unreachable = OnUnreachable::Stop;
        BackupLock { backend_url: url.clone(), backup_uuid, database, on_gap, on_unreachable, compact: None }
            .create(dir.path())
            .unwrap();
        let limits = LogLimits::default();
        let recording = BackupWriter::open(dir.path(), limits).unwrap();
        let backup = Arc::new(Backup::open(&url).unwrap());
        let sealing = Sealing::spawn(backup, limits, None, Arc::default(), recording.share_lock()).unwrap();
        drop(recording);
        let second = BackupWriter::open(dir.path(), limits);
        assert!(matches!(second, Err(OpenRecordingError::Locked { .. })), "{second:?}");
        drop(sealing);
        BackupWriter::open(dir.path(), limits).unwrap();
    }

    #[test]
    fn a_pause_is_not_cut_short_by_rings() {
        let wakeup = Wakeup::default();
        wakeup.ring(seq(1));
        let before = Instant::now();
        wakeup.pause(PAUSE);
        assert!(before.elapsed() >= PAUSE);
    }
}

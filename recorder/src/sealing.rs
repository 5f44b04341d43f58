//! The sealing thread: it replays what is recorded and seals finished logs, in the background.
//!
//! It reads the backup as any other reader does, and shares only a `Wakeup` with the recording thread. A change that does
//! not replay is logged as an error but never stops recording, because it is what `lightningd` did. A disk that has no room
//! for segments is no fault of the backup, and is reported as a problem of sealing.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, panic, thread};

use common::KeepPolicy;
use common::compact::{Clock, ClockWatch, CompactError, CompactOutcome, Compaction, Force, Manner};
use common::scrub::DamagedRecord;
use common::{
    Backup, DatabaseDamage, LogLimits, MendedLog, SealError, Sealer, Seq, SharedLock, Timestamp, Trouble, counted,
};

use crate::status::Status;
use crate::wakeup::{Event, Wakeup};
use common::with_remedy;

/// The pause after each round, so that a busy node costs a few rounds a second and not one for each write.
const PAUSE: Duration = Duration::from_millis(200);

/// The pause after a round that failed: frequent retries would not help on a full disk.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The poll interval for compaction requests while nothing is recorded.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// The interval at which the policy of `backup.lock` is applied.
const POLICY_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Interval after a compaction that failed.
const AFTER_FAILED_COMPACTION: Duration = Duration::from_secs(10 * 60);

/// Added to the thread's nice value: it uses the processor time that the node leaves.
const NICENESS: i32 = 10;

/// The handle of the sealing thread. Dropping it stops the thread without waiting for it: a segment that is being written has
/// no final name yet, and the next start writes it anew.
#[derive(Debug)]
pub struct Sealing {
    wakeup: Arc<Wakeup>,
    stop: Arc<AtomicBool>,
}

impl Sealing {
    /// Starts the thread for a backup whose logs have these limits. `durable` is the newest record, if there is any; `lock` is
    /// the lock of the backup.
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
        let (signals, stopped) = (Arc::clone(&wakeup), Arc::clone(&stop));
        thread::Builder::new().name("sealing".to_owned()).spawn(move || {
            // On Linux this concerns the calling thread alone. If it fails, sealing only competes more with the node.
            if let Err(error) = rustix::process::nice(NICENESS) {
                log::debug!("cannot lower the priority of sealing: {error}");
            }
            let round = panic::AssertUnwindSafe(|| {
                // The next recorder begins only when this thread has stopped and released the lock.
                let status = Arc::clone(&status);
                let (began, watch) = (Instant::now(), ClockWatch::default());
                Worker { backup, limits, status, lock, sealer: None, reported: None, next_check: began, began, watch }
                    .run(&signals, &stopped);
            });
            if panic::catch_unwind(round).is_err() {
                report_replay_problem(
                    &status,
                    "sealing broke off (a bug); what is recorded is neither replayed nor sealed any more",
                );
            }
        })?;
        if let Some(durable) = durable {
            wakeup.signal(durable);
        }
        Ok(Self { wakeup, stop })
    }

    /// Reports that everything up to this record is durable. Cheap: at most one call per round wakes the thread.
    pub fn wake(&self, durable: Seq) {
        self.wakeup.signal(durable);
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
    /// The time of the next check whether the policy of `backup.lock` drops history.
    next_check: Instant,
    /// The start of the thread, from which the clock is watched.
    began: Instant,
    watch: ClockWatch,
    /// The failure that was reported last, so that it is reported once and not after every write.
    reported: Option<Failure>,
}

/// A failure of sealing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// The backup cannot be restored as it is; the text of the problem.
    OfTheBackup(String),
    /// Its file system failed. The text is not kept: it differs each time, for example in the offset of the write.
    OfItsDisk(Option<Trouble>),
}

impl Worker {
    fn run(&mut self, wakeup: &Wakeup, stop: &Arc<AtomicBool>) {
        loop {
            let durable = match wakeup.wait(REQUEST_INTERVAL) {
                Event::Durable(durable) => durable,
                Event::Timeout => {
                    self.mend(stop);
                    self.compact(stop);
                    continue;
                }
                Event::Stop => return,
            };
            self.mend(stop);
            let sealed = self.seal(durable, stop);
            let is_broken_off = self.status.compactions().is_asked();
            self.check_snapshots(stop);
            match sealed {
                Ok(()) => {
                    if self.reported.take().is_some() {
                        log::info!("{}: changes are replayed and sealed again", self.backup.path().display());
                    }
                    self.status.sealing_is_well();
                    self.compact(stop);
                    if is_broken_off {
                        wakeup.signal_unless_signalled(durable);
                    }
                    wakeup.pause(PAUSE);
                }
                Err(error) => {
                    self.report(&error);
                    // A compaction makes room.
                    if is_broken_off {
                        self.compact(stop);
                    }
                    wakeup.pause(PAUSE_AFTER_FAILURE);
                }
            }
        }
    }

    /// Writes damaged files anew, and the damaged part of a log.
    fn mend(&mut self, stop: &AtomicBool) {
        let Some(sealer) = &mut self.sealer else { return };
        let scrubs = self.status.scrubs();
        if let Some(damaged) = scrubs.take_damaged() {
            mend_log(sealer, &damaged, &self.status);
        }
        sealer.keep_up(&mut || match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        scrubs.mending_problem(sealer.upkeep_problem().map(str::to_owned));
        let healed = self.backup.healed();
        scrubs.still_to_mend(|name| healed.iter().any(|block| block.name == name));
        if scrubs.take_all_sound() {
            sealer.remove_kept();
        }
    }

    /// Reports a failure, unless it is the one that was reported last.
    fn report(&mut self, error: &SealError) {
        if let SealError::Replay { change, .. } = error {
            self.lock.ask_for_snapshot(*change);
        }
        let problem = format!("{}: {}", self.backup.path().display(), with_remedy(error));
        let trouble = Trouble::behind(error);
        let failure = match error.is_of_the_backup() && self.is_there() {
            true => Failure::OfTheBackup(problem.clone()),
            false => Failure::OfItsDisk(trouble),
        };
        if self.reported.as_ref() == Some(&failure) {
            return;
        }
        match &failure {
            Failure::OfTheBackup(problem) => {
                report_replay_problem(&self.status, problem);
                // `last_problem` keeps it when the changes after a later snapshot replay well.
                self.status.problem(problem.clone());
            }
            Failure::OfItsDisk(trouble) => {
                let level = if *trouble == Some(Trouble::BadDisk) { log::Level::Error } else { log::Level::Warn };
                log::log!(level, "{problem}");
                self.status.sealing_problem(problem);
            }
        }
        self.reported = Some(failure);
    }

    /// Whether the directory contains a manifest. Without it the disk is not mounted, rather than files missing.
    fn is_there(&self) -> bool {
        self.backup.path().join(format::names::MANIFEST).exists()
    }

    /// Checks the snapshots that were not checked yet, once all changes after them have been replayed.
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
            // `last_problem` keeps it when later changes replay well.
            self.status.problem(problem);
        }
    }

    /// Drops history if it was requested by `backup-compact`, or is due by the policy of `backup.lock`.
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
        let Some(policy) = compactions.policy().filter(|_| self.next_check <= Instant::now()) else { return };
        let clock = Clock::Watched(&mut self.watch, self.began.elapsed());
        let compacted = match self.backup.is_compaction_due(&policy, Timestamp::now(), clock) {
            Ok(false) => None,
            Ok(true) => self.compact_by(&policy, Force::No, stop),
            Err(error) => Some(Err(error)),
        };
        self.next_check = Instant::now() + POLICY_INTERVAL;
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
                    "{where_it_is}: old versions are not dropped as `compact` in backup.lock says: {problem}. Nothing is \
                     lost; the next attempt is in 10 minutes"
                );
                compactions.ended(Some(&Err(problem)));
                self.next_check = Instant::now() + AFTER_FAILED_COMPACTION;
            }
            Some(Ok(compaction)) => compactions.ended(Some(&Ok(compaction))),
            None => {}
        }
        compactions.doubt_clock(None);
    }

    /// Compacts by this policy; `None` when it was interrupted by a stop.
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
            log::info!("dropped {} by the policy, and freed {freed_bytes} bytes", counted(*versions, "old version"));
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
        // At full load there is always more to seal: a requested compaction does not wait for the end of it.
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

/// Makes a damaged log whole from what the sealer has in memory.
fn mend_log(sealer: &mut Sealer, damaged: &DamagedRecord, status: &Status) {
    let found = &damaged.error;
    let problem = match sealer.mend_log(damaged.seq) {
        // What has taken its place is reported by those who write there.
        Ok(MendedLog::Sealed | MendedLog::Replaced) => return,
        Ok(MendedLog::Whole(blocks)) => {
            log::warn!(
                "{found}. What was recorded there was in memory, and {} written anew. Nothing is lost; check the disk of the backup",
                match blocks {
                    1 => "1 block is".to_owned(),
                    blocks => format!("{} are", counted(blocks, "block")),
                }
            );
            return status.scrubs().log_problem(None);
        }
        Ok(MendedLog::AwaitsSealing) => format!(
            "{found}. What was recorded there is in memory, and is sealed when this log is full and two more changes have followed: do not stop \
             lightningd before `sealed_through_seq` in backup-status is {} or more. Then nothing is lost. Check the disk of the backup",
            damaged.seq
        ),
        Ok(MendedLog::NotKept) => format!(
            "{found}. Versions from that record on cannot be restored, and the next start of lightningd is refused: stop it when it suits \
             you, and begin a new backup with `backupfs init --replace`"
        ),
        Err(error) => format!(
            "{found}. What was recorded there is in memory, but cannot be written anew ({}). Do not stop lightningd before that is solved: \
             it is tried again with the next look at the log",
            with_remedy(&error)
        ),
    };
    log::error!("{problem}");
    status.problem(problem.clone());
    status.scrubs().log_problem(Some(problem));
}

fn report_replay_problem(status: &Status, problem: &str) {
    log::error!("{problem}");
    // When the status shows the problem, the log has it, too.
    log::logger().flush();
    status.replay_problem(problem.to_owned());
}

#[cfg(test)]
mod tests {
    use common::{BackupLock, BackupUrl, BackupWriter, OnGap, OnUnreachable, OpenRecordingError, create_backup};

    use super::*;

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    #[test]
    fn the_backup_stays_locked_until_the_thread_has_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let url: BackupUrl = dir.path().join("node.bkp").to_str().unwrap().parse().unwrap();
        let created = create_backup(&url, None, &mut |_| ControlFlow::Continue(())).unwrap();
        let (backup_uuid, database, on_gap) = (Some(created.uuid), None, OnGap::Heal);
        let on_unreachable = OnUnreachable::Stop;
        BackupLock {
            backend_url: url.clone(),
            backup_uuid,
            database,
            on_gap,
            on_unreachable,
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        }
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
        wakeup.signal(seq(1));
        let before = Instant::now();
        wakeup.pause(PAUSE);
        assert!(before.elapsed() >= PAUSE);
    }
}

//! Proof that what is recorded can be restored: every recorded change is replayed, soon after, by a background thread.
//!
//! It reads the backup as any other reader does and shares nothing with the recording but a bell. A change that does not
//! replay never stops recording, for it is what `lightningd` did; it is shouted about instead.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use std::{io, panic, thread};

use common::{Backup, Follower, History, Reread, Views};

use crate::causes::with_causes;
use crate::status::Status;

/// The pause after each round, so that a busy node costs a few rounds a second and not one for each write.
const PAUSE: Duration = Duration::from_millis(200);

/// Only the newest view is needed, to go on from, and that one is always kept.
const OLDER_VIEWS_BYTES_MAX: u64 = 0;

/// Added to the thread's nice value: it gets what the node leaves over.
const NICENESS: i32 = 10;

/// The thread's handle. Dropped, it tells the thread to stop and does not wait for it.
#[derive(Debug)]
pub struct ReplayCheck {
    bell: Arc<Bell>,
}

impl ReplayCheck {
    /// Starts replaying what the backup holds.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(backup: Arc<Backup>, status: Arc<Status>) -> io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let rung = Arc::clone(&bell);
        thread::Builder::new().name("replay-check".to_owned()).spawn(move || {
            // On Linux this concerns the calling thread alone. Without it everything works, only less politely.
            if let Err(error) = rustix::process::nice(NICENESS) {
                log::debug!("cannot lower the priority of the replay check: {error}");
            }
            let round = panic::AssertUnwindSafe(|| Checker::new(backup, Arc::clone(&status)).run(&rung));
            if panic::catch_unwind(round).is_err() {
                shout(&status, "the replay check broke off (a bug); recorded changes are not being replayed any more");
            }
        })?;
        bell.ring();
        Ok(Self { bell })
    }

    /// Says that there is something new. Cheap: at most one call for each round wakes anybody.
    pub fn wake(&self) {
        self.bell.ring();
    }
}

impl Drop for ReplayCheck {
    fn drop(&mut self) {
        self.bell.stop();
    }
}

struct Checker {
    backup: Arc<Backup>,
    follower: Follower,
    history: RwLock<History>,
    views: Views,
    status: Arc<Status>,
    /// What was shouted last, so that it is shouted once and not after every write.
    shouted: Option<String>,
}

impl Checker {
    fn new(backup: Arc<Backup>, status: Arc<Status>) -> Self {
        let (history, follower) = backup.follow();
        let views = Views::new(Arc::clone(&backup), OLDER_VIEWS_BYTES_MAX);
        Self { backup, follower, history, views, status, shouted: None }
    }

    fn run(&mut self, bell: &Bell) {
        while bell.wait() == Rung::Something {
            match self.replay() {
                Ok(()) => self.shouted = None,
                Err(problem) if self.shouted.as_ref() == Some(&problem) => {}
                Err(problem) => {
                    shout(&self.status, &problem);
                    self.shouted = Some(problem);
                }
            }
            bell.pause();
        }
    }

    /// Replays what is new. The view of the version before is still there, so this costs only the new changes.
    fn replay(&mut self) -> Result<(), String> {
        let backup = self.backup.path().display();
        let polled = self.follower.poll(&self.history).map_err(|error| {
            format!(
                "what is recorded in {backup} cannot be read back: {}; recording goes on, but check the disk, keep a copy of \
                 the backup, and make a new one with `backupfs init`",
                with_causes(&error)
            )
        })?;
        if polled.reread == Reread::Yes {
            self.views.forget();
        }
        let (plan, version) = {
            let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
            let Some(newest) = history.newest() else {
                return Ok(());
            };
            (history.plan(newest), newest.data_version)
        };
        // The error's own text names the newest version, which moves; the reason names the change, which does not.
        self.views.open(&plan).map_err(|error| {
            format!(
                "a change recorded in {backup} does not replay: {}; versions from there on cannot be restored. Recording \
                 goes on, but keep this backup, make a new one with `backupfs init`, and report this",
                with_causes(&*error.reason)
            )
        })?;
        self.status.replays_through(version);
        Ok(())
    }
}

fn shout(status: &Status, problem: &str) {
    log::error!("{problem}");
    status.replay_problem(problem.to_owned());
}

/// Wakes one sleeper, however often it is rung.
#[derive(Debug, Default)]
struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BellState {
    rung: bool,
    stopped: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Rung {
    Something,
    Stop,
}

impl Bell {
    fn ring(&self) {
        let mut state = self.state();
        if !state.rung {
            state.rung = true;
            self.changed.notify_one();
        }
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_one();
    }

    /// Sleeps until it is rung, once for all rings since the last time.
    fn wait(&self) -> Rung {
        let mut state = self
            .changed
            .wait_while(self.state(), |state| !state.rung && !state.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return Rung::Stop;
        }
        state.rung = false;
        Rung::Something
    }

    /// Lets rings pile up for a while; only a stop cuts it short.
    fn pause(&self) {
        drop(self.changed.wait_timeout_while(self.state(), PAUSE, |state| !state.stopped));
    }

    fn state(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn rings_are_coalesced_and_none_is_lost() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert_eq!(bell.wait(), Rung::Something);
        assert!(!bell.state().rung);
        bell.ring();
        assert_eq!(bell.wait(), Rung::Something, "a ring after the wait counts anew");
    }

    #[test]
    fn a_stop_ends_sleep_and_pause_at_once() {
        let bell = Arc::new(Bell::default());
        let sleeper = thread::spawn({
            let bell = Arc::clone(&bell);
            move || bell.wait()
        });
        bell.stop();
        assert_eq!(sleeper.join().unwrap(), Rung::Stop);
        bell.ring();
        assert_eq!(bell.wait(), Rung::Stop, "a stop is final");
        let before = Instant::now();
        bell.pause();
        assert!(before.elapsed() < PAUSE);
    }

    #[test]
    fn a_pause_is_not_cut_short_by_rings() {
        let bell = Bell::default();
        bell.ring();
        let before = Instant::now();
        bell.pause();
        assert!(before.elapsed() >= PAUSE);
    }
}

//! The primitives of the model checker `shuttle`, completed by waits with a time limit; and the runs of a test.
//!
//! `shuttle` knows no time: its waits with a limit never reach it. Here a test says whether they do.

use std::cell::Cell;
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LockResult, PoisonError};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
pub(crate) use shuttle::thread;

/// Schedules of a test by each random scheduler, unless `BACKUPFS_SCHEDULES` says how many.
const SCHEDULES: usize = 1000;

/// Most schedules of a test that runs under all of them.
const ALL_MAX: usize = 200_000;

/// Seed of the random schedulers: the same schedules in each run, and more of them with a larger number.
const SEED: u64 = 1;

/// Depth of the PCT scheduler: a schedule preempts threads at so many places, less one. Most races need one or two.
const DEPTH: usize = 3;

/// Stack of a thread. No test executes SQL.
const STACK_BYTES: usize = 256 << 10;

/// Whether waits with a time limit reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeLimits {
    /// Never: a thread that relies on its limit to go on is a deadlock.
    Unreached,
    /// At moments that the scheduler chooses, or not.
    ReachedAnyTime,
}

thread_local! {
    // All threads of a model run in the thread of their test.
    static LIMITS: Cell<TimeLimits> = const { Cell::new(TimeLimits::Unreached) };
}

/// Runs a test under many schedules: random ones, and ones with few preemptions. Fails with the first schedule in which the test
/// panics or all threads wait.
pub(crate) fn check(limits: TimeLimits, test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let schedules = schedules();
    run(limits, RandomScheduler::new_from_seed(SEED, schedules), &test);
    run(limits, PctScheduler::new_from_seed(SEED, DEPTH, schedules), &test);
}

/// Runs a small test under all its schedules. Time limits are not reached.
pub(crate) fn check_all(test: impl Fn() + Send + Sync + 'static) {
    let run = run(TimeLimits::Unreached, DfsScheduler::new(Some(ALL_MAX), false), &Arc::new(test));
    assert!(run < ALL_MAX, "{run} schedules are not all: the test is too large");
}

/// Returns how many schedules there were.
fn run(
    limits: TimeLimits,
    scheduler: impl Scheduler + 'static,
    test: &Arc<impl Fn() + Send + Sync + 'static>,
) -> usize {
    LIMITS.set(limits);
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    let test = Arc::clone(test);
    Runner::new(scheduler, config).run(move || test())
}

fn schedules() -> usize {
    let set = env::var("BACKUPFS_SCHEDULES").ok();
    set.map_or(SCHEDULES, |set| set.parse().expect("BACKUPFS_SCHEDULES is a number"))
}

/// A condition variable.
#[derive(Debug, Default)]
pub(crate) struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait_while(guard, condition)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _duration: Duration,
    ) -> LockResult<MutexGuard<'a, T>> {
        let _limit = Limit::begin(&self.0);
        self.0.wait(guard)
    }

    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        _duration: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        let mut limit = None;
        while condition(&mut guard) {
            if limit.as_ref().is_some_and(Limit::is_reached) {
                break;
            }
            limit.get_or_insert_with(|| Limit::begin(&self.0));
            guard = self.0.wait(guard).map_err(PoisonError::into_inner).unwrap_or_else(|guard| guard);
        }
        Ok(guard)
    }
}

/// The limit of a wait: a thread that wakes the waiting one, when the scheduler chooses it, until the wait is over.
struct Limit(Arc<Wait>);

#[derive(Debug, Default)]
struct Wait {
    is_limit_reached: AtomicBool,
    is_over: AtomicBool,
}

impl Limit {
    /// Begins the wait of the calling thread for a condition variable.
    fn begin(condvar: &Arc<shuttle::sync::Condvar>) -> Self {
        let wait = Arc::new(Wait::default());
        if LIMITS.get() == TimeLimits::ReachedAnyTime {
            let (wait, condvar) = (Arc::clone(&wait), Arc::clone(condvar));
            thread::spawn(move || {
                // Again and again: the first time may come before the thread waits.
                while !wait.is_over.load(Ordering::Relaxed) {
                    wait.is_limit_reached.store(true, Ordering::Relaxed);
                    condvar.notify_all();
                    thread::yield_now();
                }
            });
        }
        Self(wait)
    }

    fn is_reached(&self) -> bool {
        self.0.is_limit_reached.load(Ordering::Relaxed)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Channels.
pub(crate) mod mpsc {
    use std::fmt;

    use super::{Duration, LIMITS, Rng, TimeLimits, thread, thread_rng};
    use shuttle::sync::mpsc::{self, SendError, SyncSender, TryRecvError};

    pub(crate) use shuttle::sync::mpsc::RecvTimeoutError;

    /// The sending end of an unbounded channel. Its values need not be `Debug`.
    pub(crate) struct Sender<T>(mpsc::Sender<T>);

    impl<T> fmt::Debug for Sender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Sender").finish_non_exhaustive()
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, value: T) -> Result<(), SendError<T>> {
            self.0.send(value)
        }
    }

    pub(crate) fn channel<T>() -> (Sender<T>, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel();
        (Sender(sender), receiver)
    }

    /// The receiving end of a bounded channel. Its waits may reach their limit.
    #[derive(Debug)]
    pub(crate) struct Receiver<T>(mpsc::Receiver<T>);

    pub(crate) fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::sync_channel(bound);
        (sender, Receiver(receiver))
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
            if LIMITS.get() == TimeLimits::Unreached {
                return self.0.recv_timeout(limit);
            }
            loop {
                match self.0.try_recv() {
                    Ok(value) => return Ok(value),
                    Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                    Err(TryRecvError::Empty) if thread_rng().gen_bool(0.1) => return Err(RecvTimeoutError::Timeout),
                    Err(TryRecvError::Empty) => thread::yield_now(),
                }
            }
        }
    }
}

//! Threads that open versions at the same time, under the model checker.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::storage::read_error::ReadError;
use crate::storage::{StorageError, StorageOp};
use crate::sync::model::{TimeLimits, check, check_all};
use crate::sync::thread;

/// Memory of a view without pages.
const ONE_BYTES: u64 = VIEW_OVERHEAD_BYTES;

/// A counter that is no step of the model.
#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Count {
    /// Counts up; returns how many there were before.
    fn up(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A read that fails: it may succeed next time.
fn unreadable() -> BuildError {
    let source = io::ErrorKind::Interrupted.into();
    let error = StorageError { op: StorageOp::Read, path: PathBuf::from("segment"), offset: None, source };
    BuildError { at: Some(Seq::FIRST), reason: ReplayError::Pages(ReadError::Storage(error)) }
}

/// Runs each function in a thread, and waits for all.
fn in_threads(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A version, and its neighbour that may be built from it, are opened by several threads.
fn open_once(threads_of_each: usize) {
    let cache = Arc::new(ViewCache::<Fake>::new(1 << 20));
    let builds = Arc::new([Count::default(), Count::default()]);
    let opened = [5, 6].map(|last| {
        let threads = (0..threads_of_each).map(|_| {
            let (cache, builds) = (Arc::clone(&cache), Arc::clone(&builds));
            thread::spawn(move || {
                let build = |earlier: Option<&Fake>| {
                    assert!(earlier.is_none_or(|view| view.seq() < seq(last)));
                    builds[usize::from(last == 6)].up();
                    thread::yield_now();
                    Ok(Fake(seq(last)))
                };
                cache.open(&plan(last), build).unwrap()
            })
        });
        threads.collect::<Vec<_>>()
    });
    for (threads, last) in opened.into_iter().zip([5, 6]) {
        let views: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(views.iter().all(|view| view.seq() == seq(last) && Arc::ptr_eq(view, &views[0])));
        assert!(cache.has(seq(last)));
    }
    assert_eq!([builds[0].get(), builds[1].get()], [1, 1], "each is built once");
}

#[test]
fn a_version_is_opened_once_however_many_threads_ask() {
    check(TimeLimits::Unreached, || open_once(2));
}

#[test]
fn under_every_schedule_two_threads_open_a_version_once() {
    check_all(|| {
        let cache = Arc::new(ViewCache::<Fake>::new(0));
        let builds = Arc::<Count>::default();
        let open = {
            let (cache, builds) = (Arc::clone(&cache), Arc::clone(&builds));
            move || {
                let build = |_: Option<&Fake>| {
                    builds.up();
                    Ok(Fake(seq(5)))
                };
                cache.open(&plan(5), build).unwrap()
            }
        };
        let other = thread::spawn(open.clone());
        let view = open();
        assert!(Arc::ptr_eq(&view, &other.join().unwrap()));
        assert_eq!(builds.get(), 1);
    });
}

/// Several threads wait for a version whose first opening fails for the moment.
#[test]
fn a_failed_read_is_no_result_and_one_thread_at_a_time_tries_again() {
    check(TimeLimits::Unreached, || {
        let cache = Arc::new(ViewCache::<Fake>::new(1 << 20));
        let (tries, running, built) = (Arc::<Count>::default(), Arc::<Count>::default(), Arc::<Count>::default());
        let threads = (0..3).map(|_| {
            let cache = Arc::clone(&cache);
            let (tries, running, built) = (Arc::clone(&tries), Arc::clone(&running), Arc::clone(&built));
            let thread = move || {
                let build = |_: Option<&Fake>| {
                    assert_eq!(running.up(), 0, "two threads build one version at the same time");
                    thread::yield_now();
                    running.down();
                    if tries.up() == 0 {
                        return Err(unreadable());
                    }
                    built.up();
                    Ok(Fake(seq(5)))
                };
                // Each thread may be the one whose build fails.
                if let Err(reason) = cache.open(&plan(5), build) {
                    assert!(matches!(*reason, ReplayError::Pages(_)));
                }
            };
            Box::new(thread) as Box<dyn FnOnce() + Send>
        });
        in_threads(threads.collect());
        assert_eq!((tries.get(), built.get()), (2, 1), "the one whose read failed, and one for all others");
        cache.open(&plan(5), |_| panic!("it is open")).unwrap();
    });
}

/// A change that does not replay never will: each version behind it fails, and no thread builds it to learn that.
#[test]
fn a_change_that_does_not_replay_is_tried_once_for_each_version() {
    check(TimeLimits::Unreached, || {
        let cache = Arc::new(ViewCache::<Fake>::new(1 << 20));
        let builds = Arc::new([const { Count(AtomicUsize::new(0)) }; 7]);
        let threads = [3, 5, 5, 5, 6].map(|last| {
            let (cache, builds) = (Arc::clone(&cache), Arc::clone(&builds));
            let thread = move || {
                let build = |_: Option<&Fake>| {
                    builds[usize::try_from(last).unwrap()].up();
                    thread::yield_now();
                    if last < 4 { Ok(Fake(seq(last))) } else { Err(fails_at(4)) }
                };
                assert_eq!(cache.open(&plan(last), build).is_ok(), last < 4);
            };
            Box::new(thread) as Box<dyn FnOnce() + Send>
        });
        in_threads(threads.into());
        assert!(builds.iter().all(|builds| builds.get() <= 1), "{builds:?}: it was tried again");
        cache.open(&plan(5), |_| panic!("its failure is known")).unwrap_err();
        cache.open(&plan(3), |_| panic!("it is open")).unwrap();
        assert_eq!(cache.seqs(), [seq(3)], "what failed takes no room");
    });
}

/// A view that knows how many there are.
#[derive(Debug)]
struct Counted {
    seq: Seq,
    alive: Arc<Count>,
}

impl Counted {
    fn new(seq: Seq, alive: &Arc<Count>) -> Self {
        alive.up();
        Self { seq, alive: Arc::clone(alive) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.down();
    }
}

impl Cached for Counted {
    fn seq(&self) -> Seq {
        self.seq
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}

/// Threads open and release versions, of which only one fits.
#[test]
fn every_view_in_use_counts_and_what_is_not_in_use_keeps_to_the_budget() {
    check(TimeLimits::Unreached, || {
        let cache = Arc::new(ViewCache::<Counted>::new(ONE_BYTES));
        let alive = Arc::<Count>::default();
        let all_hold = Arc::new(shuttle::sync::Barrier::new(4));
        let threads = [[5, 6], [6, 5], [5, 7]].map(|versions| {
            let (cache, alive, all_hold) = (Arc::clone(&cache), Arc::clone(&alive), Arc::clone(&all_hold));
            thread::spawn(move || {
                let open = |last| cache.open(&plan(last), |_| Ok(Counted::new(seq(last), &alive))).unwrap();
                drop(open(versions[0]));
                cache.trim();
                let held = open(versions[1]);
                all_hold.wait();
                all_hold.wait();
                drop(held);
                cache.trim();
            })
        });
        all_hold.wait();
        assert!(cache.memory_bytes() >= 3 * ONE_BYTES, "three are in use");
        assert_eq!(cache.memory_bytes(), alive.get() as u64 * ONE_BYTES, "each view that lives is counted, once");
        all_hold.wait();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((alive.get(), cache.memory_bytes()), (1, ONE_BYTES), "the newest stays");
    });
}

/// All views are forgotten while some are being built and others are in use.
#[test]
fn what_was_built_before_all_were_forgotten_is_not_found_afterwards() {
    check(TimeLimits::Unreached, || {
        let cache = Arc::new(ViewCache::<Counted>::new(ONE_BYTES));
        // Views of the two histories are counted apart.
        let histories = [Arc::<Count>::default(), Arc::<Count>::default()];
        let is_new = Arc::<Count>::default();
        let build = {
            let (histories, is_new) = (histories.clone(), Arc::clone(&is_new));
            move |last| {
                let view = Counted::new(seq(last), &histories[is_new.get()]);
                thread::yield_now();
                Ok(view)
            }
        };
        let all_hold = Arc::new(shuttle::sync::Barrier::new(5));
        let openers = [5, 5, 6].map(|last| {
            let (cache, build, all_hold) = (Arc::clone(&cache), build.clone(), Arc::clone(&all_hold));
            thread::spawn(move || {
                let held = cache.open(&plan(last), |_| build(last)).unwrap();
                drop(cache.open_ahead(&plan(last + 1), |_| build(last + 1)).unwrap());
                all_hold.wait();
                all_hold.wait();
                drop(held);
                cache.trim();
            })
        });
        let forgets = {
            let (cache, all_hold, new) = (Arc::clone(&cache), Arc::clone(&all_hold), Arc::clone(&histories[1]));
            thread::spawn(move || {
                is_new.up();
                cache.forget();
                for last in [5, 6] {
                    let view = cache.open(&plan(last), |_| build(last)).unwrap();
                    assert!(Arc::ptr_eq(&view.alive, &new), "a view of the old history was found");
                }
                all_hold.wait();
                all_hold.wait();
            })
        };
        all_hold.wait();
        let alive = histories[0].get() + histories[1].get();
        assert_eq!(cache.memory_bytes(), alive as u64 * ONE_BYTES, "what is forgotten and in use counts");
        all_hold.wait();
        openers.into_iter().chain([forgets]).for_each(|thread| thread.join().unwrap());
        cache.trim();
        assert_eq!(histories[0].get(), 0, "all views of the old history are gone");
        assert!(histories[1].get() <= 1);
        assert_eq!(cache.memory_bytes(), histories[1].get() as u64 * ONE_BYTES);
    });
}

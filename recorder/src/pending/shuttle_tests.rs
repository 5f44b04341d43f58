//! The recording thread and the watchdog, under the model checker.

use std::env;
use std::sync::Arc;

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};
use shuttle::sync::mpsc::channel;
use shuttle::{Runner, thread};

use super::*;

/// Schedules by each random scheduler, unless `BACKUPFS_SCHEDULES` says how many.
const SCHEDULES: usize = 1000;

/// Runs a test under random schedules, and under ones with few preemptions.
fn check(test: fn()) {
    let set = env::var("BACKUPFS_SCHEDULES").ok();
    let schedules = set.map_or(SCHEDULES, |set| set.parse().expect("BACKUPFS_SCHEDULES is a number"));
    Runner::new(RandomScheduler::new_from_seed(1, schedules), Default::default()).run(test);
    Runner::new(PctScheduler::new_from_seed(1, 3, schedules), Default::default()).run(test);
}

const WRITES: [&str; 3] = ["\"a\"", "\"b\"", "\"c\""];

/// `lightningd` sends a write when the one before has its answer, from whichever thread.
#[test]
fn each_write_has_one_answer() {
    check(|| {
        let (pending, written) = (Arc::new(Pending::default()), Arc::<std::sync::Mutex<&str>>::default());
        let (answers, to_lightningd) = channel();
        let watchdog = {
            let (pending, written, answers) = (Arc::clone(&pending), Arc::clone(&written), answers.clone());
            thread::spawn(move || {
                for _ in 0..3 {
                    let Some(id) = pending.take_over(Duration::ZERO) else { continue };
                    answers.send(id.clone()).unwrap();
                    // The process ends if the write is still being recorded.
                    if pending.is_refused() {
                        assert_eq!(*written.lock().unwrap(), id, "another write has begun, and the process ends");
                    }
                }
            })
        };
        for id in WRITES {
            *written.lock().unwrap() = id;
            pending.begin(id);
            if pending.end(Outcome::Done) == Answerer::Recorder {
                answers.send(id.to_owned()).unwrap();
            }
            assert_eq!(to_lightningd.recv().unwrap(), id, "the answer to another write");
            assert!(to_lightningd.try_recv().is_err(), "a second answer");
        }
        watchdog.join().unwrap();
        assert!(to_lightningd.try_recv().is_err(), "an answer that nothing was asked for");
        assert!(!pending.is_refused(), "the last one has ended");
    });
}

#[test]
fn under_every_schedule_a_write_is_answered_by_one_thread() {
    const ALL_MAX: usize = 10_000;
    let test = || {
        let pending = Arc::new(Pending::default());
        pending.begin("\"a\"");
        let watchdog = {
            let pending = Arc::clone(&pending);
            thread::spawn(move || pending.take_over(Duration::ZERO).is_some())
        };
        let is_recorders = pending.end(Outcome::Done) == Answerer::Recorder;
        assert_ne!(is_recorders, watchdog.join().unwrap());
    };
    let run = Runner::new(DfsScheduler::new(Some(ALL_MAX), false), Default::default()).run(test);
    assert!(run < ALL_MAX, "{run} schedules are not all");
}

/// Both threads may ask for the waits that are over.
#[test]
fn each_wait_is_reported_once() {
    check(|| {
        let pending = Arc::new(Pending::default());
        let watchdog = {
            let pending = Arc::clone(&pending);
            thread::spawn(move || {
                let mut reported = Vec::new();
                for _ in 0..3 {
                    pending.take_over(Duration::ZERO);
                    reported.extend(pending.take_stalls());
                }
                reported
            })
        };
        for (cause, outcome) in [("first", Outcome::Done), ("second", Outcome::Refused)] {
            pending.begin("\"a\"");
            pending.note_trouble(cause);
            pending.end(outcome);
        }
        let mut reported = watchdog.join().unwrap();
        reported.extend(pending.take_stalls());
        let causes: Vec<_> = reported.iter().map(|stall| stall.cause.as_deref()).collect();
        assert_eq!(causes, [Some("first"), Some("second")], "in order");
        assert_eq!(reported[1].outcome, Some(Outcome::Refused));
    });
}

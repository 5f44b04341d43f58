//! A writer and the thread that preallocates its logs, under the model checker.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use uuid::Uuid;

use super::*;
use crate::config::log_limits::LogLimits;
use crate::log::{LogCursor, LogWriter, create_first_log_within};
use crate::storage::StorageOp;
use crate::storage::modelled::{Disk, ModelledDirectory, Step, What};
use crate::sync::model::{TimeLimits, check, check_all};
use format::change_flags::{ChangeFlags, RunStart};
use format::units::{DataVersion, Timestamp};
use format::version_rules::Bump;

const UUID: Uuid = Uuid::from_u128(7);

/// Each change begins a log.
const LIMITS: LogLimits = LogLimits { bytes: 4096, statements: 1 };

/// A log that is filled in two steps, with one change in it.
const LONG: LogLimits = LogLimits { bytes: 2 * STEP, statements: 1 };

/// The lock of the backup, which the thread holds until it ends.
#[derive(Debug, Clone, Default)]
struct Held(Arc<AtomicBool>);

impl Held {
    fn is_released(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn wait_until_released(&self) {
        while !self.is_released() {
            thread::yield_now();
        }
    }
}

/// What the thread has of the lock.
struct Share(Held);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// The names of logs that a power cut may leave as `preallocated`.
fn uncertain(disk: &Disk) -> usize {
    disk.names.values().filter(|name| !name.is_durable && name.before.as_deref() == Some(names::PREALLOCATED)).count()
}

/// A directory of the calling thread, which is the writer's. It checks each step, and fails those that `fails` names.
fn directory(
    limits: LogLimits,
    held: &Held,
    fails: impl Fn(&Disk, &Step) -> bool + Send + Sync + 'static,
) -> ModelledDirectory {
    let (writer, held) = (thread::current().id(), held.clone());
    ModelledDirectory::new(move |disk, step| {
        let What::Called(op) = step.what else { return Ok(()) };
        let is_writer = step.thread == writer;
        assert!(is_writer || !held.is_released(), "{step:?} without the lock");
        match op {
            StorageOp::Create => {
                assert_eq!(is_writer, step.name != names::PREALLOCATED, "{step:?}");
                assert_eq!(uncertain(disk), 0, "{step:?} while the name of the newest log is not durable");
            }
            StorageOp::Write if is_writer && step.name == names::PREALLOCATED => {
                let file = disk
                    .durable(names::PREALLOCATED)
                    .expect("a preallocated log is written to only when it is durable");
                assert!(file == vec![0; file.len()] && file.len() as u64 == limits.bytes, "zeros of its length");
            }
            StorageOp::Rename if step.name == names::PREALLOCATED => {
                assert!(is_writer && disk.durable(names::PREALLOCATED).is_some(), "{step:?} is not durable");
                assert_eq!(uncertain(disk), 0, "two logs may have the name `preallocated`");
            }
            StorageOp::Remove if step.name == names::PREALLOCATED && !is_writer => {
                assert!(disk.durable(names::PREALLOCATED).is_none(), "{step:?} when it was made");
            }
            _ => {}
        }
        if fails(disk, step) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    })
}

fn never(_: &Disk, _: &Step) -> bool {
    false
}

/// Creates the first log, and starts the thread.
fn begin(modelled: &ModelledDirectory, limits: LogLimits, held: &Held) -> LogWriter {
    let directory: Arc<dyn Directory> = Arc::new(modelled.clone());
    let writer = create_first_log_within(&directory, UUID, limits).unwrap();
    writer.preallocated().keep_ready(Share(held.clone())).unwrap();
    writer
}

/// Records a change; it is durable then.
fn record(writer: &mut LogWriter, modelled: &ModelledDirectory) -> Result<(), crate::log::AppendError> {
    let (now, seq) = (Timestamp::from_micros(1).unwrap(), writer.next_seq());
    let flags = ChangeFlags::verified(RunStart::Later);
    writer.push_change(DataVersion::new(1), now, flags, Bump::Present, &["UPDATE vars"]).unwrap();
    writer.commit()?;
    let disk = modelled.disk();
    assert!(disk.is_file_durable(&names::log(seq)), "the change is not durable");
    Ok(())
}

/// The changes that a reader finds.
fn recorded(modelled: &ModelledDirectory) -> usize {
    let mut found = 0;
    let mut cursor = LogCursor::new(Arc::new(modelled.clone()), UUID);
    cursor
        .read_new(&mut |_, _| {
            found += 1;
            Ok(())
        })
        .unwrap();
    found
}

/// What the thread leaves when it has ended: a whole preallocated log, or none.
fn check_left(modelled: &ModelledDirectory, limits: LogLimits) {
    let disk = modelled.disk();
    if disk.names.contains_key(names::PREALLOCATED) {
        assert_eq!(
            disk.durable(names::PREALLOCATED).map(<[u8]>::len),
            usize::try_from(limits.bytes).ok(),
            "half a preallocated log is left"
        );
    }
}

fn record_while_logs_are_preallocated(limits: TimeLimits, changes: usize, taken: &AtomicUsize) -> ModelledDirectory {
    let held = Held::default();
    let modelled = directory(LIMITS, &held, never);
    let mut writer = begin(&modelled, LIMITS, &held);
    for _ in 0..changes {
        record(&mut writer, &modelled).unwrap();
    }
    drop(writer);
    if limits == TimeLimits::Unreached {
        assert!(held.is_released(), "the thread has ended");
    }
    held.wait_until_released();
    check_left(&modelled, LIMITS);
    let disk = modelled.disk();
    let renamed = |step: &&Step| step.what == What::Called(StorageOp::Rename) && step.name == names::PREALLOCATED;
    taken.fetch_add(disk.steps.iter().filter(renamed).count(), Ordering::Relaxed);
    drop(disk);
    modelled
}

#[test]
fn the_writer_takes_only_whole_preallocated_logs_and_only_one_name_is_not_durable() {
    for limits in [TimeLimits::Unreached, TimeLimits::ReachedAnyTime] {
        let taken = Arc::<AtomicUsize>::default();
        let (counted, runs) = (Arc::clone(&taken), AtomicUsize::new(0));
        check(limits, move || {
            let modelled = record_while_logs_are_preallocated(limits, 4, &counted);
            // A reader takes longer than all the rest.
            if runs.fetch_add(1, Ordering::Relaxed).is_multiple_of(20) {
                assert_eq!(recorded(&modelled), 4);
            }
        });
        assert!(taken.load(Ordering::Relaxed) > 0, "the writer was always faster than the thread");
    }
}

#[test]
fn under_every_schedule_the_thread_ends_with_its_writer() {
    check_all(|| {
        let held = Held::default();
        let modelled = directory(LIMITS, &held, never);
        drop(begin(&modelled, LIMITS, &held));
        assert!(held.is_released(), "the thread has ended");
        check_left(&modelled, LIMITS);
    });
}

#[test]
fn a_preallocated_log_that_was_taken_is_followed_by_another() {
    check(TimeLimits::Unreached, || {
        let held = Held::default();
        let modelled = directory(LIMITS, &held, never);
        let mut writer = begin(&modelled, LIMITS, &held);
        // The first change is in the first log.
        record(&mut writer, &modelled).unwrap();
        for _ in 0..2 {
            wait_for_a_preallocated_log(&writer);
            record(&mut writer, &modelled).unwrap();
        }
        wait_for_a_preallocated_log(&writer);
    });
}

fn wait_for_a_preallocated_log(writer: &LogWriter) {
    while writer.preallocated().is_pending() {
        thread::yield_now();
    }
}

/// The disk is full for the thread, for some of its calls; its file cannot even be removed.
#[test]
fn the_writer_goes_on_while_the_thread_fails_and_the_thread_tries_again() {
    for limits in [TimeLimits::Unreached, TimeLimits::ReachedAnyTime] {
        check(limits, move || {
            let (held, failed) = (Held::default(), AtomicUsize::new(0));
            let main = thread::current().id();
            let modelled = directory(LIMITS, &held, move |_, step| {
                let is_due = step.thread != main
                    && step.name == names::PREALLOCATED
                    && matches!(step.what, What::Called(StorageOp::Create | StorageOp::Write | StorageOp::Remove))
                    && failed.load(Ordering::Relaxed) < 3;
                failed.fetch_add(usize::from(is_due), Ordering::Relaxed);
                is_due
            });
            let mut writer = begin(&modelled, LIMITS, &held);
            for _ in 0..4 {
                record(&mut writer, &modelled).unwrap();
            }
            if limits == TimeLimits::ReachedAnyTime {
                wait_for_a_preallocated_log(&writer);
                record(&mut writer, &modelled).unwrap();
            }
            drop(writer);
            held.wait_until_released();
            check_left(&modelled, LIMITS);
        });
    }
}

/// The name of a log cannot be made durable, by one of the two threads. No log is preallocated then: it could replace that log. The other
/// thread may have made the name durable before; otherwise the writer begins no other log, either.
#[test]
fn when_the_name_of_the_newest_log_is_not_durable_no_other_log_is_begun() {
    for is_writers in [false, true] {
        check(TimeLimits::Unreached, move || {
            let (held, main) = (Held::default(), thread::current().id());
            let fails = move |disk: &Disk, step: &Step| {
                let is_sync_of_names = step.what == What::Called(StorageOp::Sync) && step.name.is_empty();
                is_sync_of_names && uncertain(disk) > 0 && (step.thread == main) == is_writers
            };
            let modelled = directory(LIMITS, &held, fails);
            let mut writer = begin(&modelled, LIMITS, &held);
            let refused = (0..5).any(|_| record(&mut writer, &modelled).is_err());
            if refused {
                writer.preallocated().make_name_durable().expect_err("it is not durable now");
            }
            drop(writer);
            assert!(held.is_released());
        });
    }
}

#[test]
fn a_thread_that_was_stopped_preallocates_nothing_and_leaves_no_half_log() {
    for limits in [TimeLimits::Unreached, TimeLimits::ReachedAnyTime] {
        check(limits, move || {
            let held = Held::default();
            let modelled = directory(LONG, &held, never);
            let writer = begin(&modelled, LONG, &held);
            let main = thread::current().id();
            writer.preallocated().stop();
            if limits == TimeLimits::Unreached {
                assert!(held.is_released(), "it was waited for");
            }
            let before = modelled.disk().steps.len();
            held.wait_until_released();
            check_left(&modelled, LONG);
            let disk = modelled.disk();
            let is_write = |step: &&Step| step.thread != main && step.what == What::Called(StorageOp::Write);
            let writes = disk.steps[before..].iter().filter(is_write).count();
            assert!(writes as u64 <= STEP / (64 << 10), "{writes} writes after it was stopped: more than a step");
        });
    }
}

#[test]
fn a_preallocated_log_that_is_removed_is_gone() {
    for limits in [TimeLimits::Unreached, TimeLimits::ReachedAnyTime] {
        check(limits, move || {
            let held = Held::default();
            let modelled = directory(LIMITS, &held, never);
            let mut writer = begin(&modelled, LIMITS, &held);
            record(&mut writer, &modelled).unwrap();
            record(&mut writer, &modelled).unwrap();
            writer.preallocated().remove().unwrap();
            if limits == TimeLimits::ReachedAnyTime {
                // It was given up while the thread was in the middle of a step.
                held.wait_until_released();
                writer.preallocated().remove().unwrap();
            }
            assert!(!modelled.disk().names.contains_key(names::PREALLOCATED), "it takes space that nothing uses");
        });
    }
}

#[test]
fn a_disk_that_hangs_holds_up_no_stop_and_the_thread_keeps_the_lock() {
    check(TimeLimits::ReachedAnyTime, || {
        let held = Held::default();
        let modelled = directory(LONG, &held, never);
        let writer = begin(&modelled, LONG, &held);
        modelled.hang(StorageOp::Write);
        drop(writer);
        let hangs = modelled.is_one_hanging();
        assert!(!(hangs && held.is_released()), "its zeros may still arrive");
        modelled.release();
        held.wait_until_released();
        check_left(&modelled, LONG);
    });
}

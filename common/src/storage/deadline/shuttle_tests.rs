//! Calls with a deadline, under the model checker: any call may miss its deadline at any moment.

use std::sync::Mutex;

use super::*;
use crate::storage::modelled::{Disk, ModelledDirectory, Step, What};
use crate::sync::model::{TimeLimits, check, check_all};
use crate::sync::thread::{self, ThreadId};

/// The threads that make calls. They must not be kept waiting by the directory itself.
type Callers = Arc<Mutex<Vec<ThreadId>>>;

fn is_caller(callers: &Callers) {
    callers.lock().unwrap().push(thread::current().id());
}

/// What holds for each step of the directory.
fn rule(callers: &Callers) -> impl Fn(&Disk, &Step) -> io::Result<()> + Send + Sync + 'static {
    let callers = Arc::clone(callers);
    move |disk, step| {
        assert!(!callers.lock().unwrap().contains(&step.thread), "{step:?} may hang, and the calling thread with it");
        assert!(disk.steps.iter().all(|before| before.what != What::Unlocked), "{step:?} without the lock");
        assert!(step.name != "later", "{step:?} was asked for after another call had hung");
        Ok(())
    }
}

/// Creates a file, and writes and reads it.
fn write_and_read(directory: &DeadlineDirectory, name: &str) -> Result<(), StorageError> {
    let file = directory.create(name)?;
    assert!(file.path().ends_with(name), "{}: the answer to another call", file.path().display());
    file.write_at(name.as_bytes(), 0)?;
    file.sync()?;
    let mut bytes = vec![0; name.len()];
    assert_eq!(file.read_at(&mut bytes, 0)?, name.len());
    assert_eq!(bytes, name.as_bytes(), "the answer to another call");
    Ok(())
}

fn calls_of_several_threads(limits: TimeLimits, names: &'static [&'static str]) {
    let callers = Callers::default();
    is_caller(&callers);
    let modelled = ModelledDirectory::new(rule(&callers));
    let directory = DeadlineDirectory::new(Arc::new(modelled), Arc::default()).unwrap();
    let lock = directory.lock("LOCK");
    let threads = names.iter().map(|name| {
        let (directory, callers) = (directory.clone(), Arc::clone(&callers));
        thread::spawn(move || {
            is_caller(&callers);
            if let Err(error) = write_and_read(&directory, name) {
                assert_eq!(error.source.kind(), io::ErrorKind::TimedOut, "{error}");
                assert_eq!(limits, TimeLimits::ReachedAnyTime, "{error}: the answer was lost");
                directory.remove("later").unwrap_err();
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop(lock);
}

#[test]
fn each_call_gets_its_own_answer() {
    check(TimeLimits::Unreached, || calls_of_several_threads(TimeLimits::Unreached, &["a", "bc"]));
}

#[test]
fn under_every_schedule_a_call_gets_its_answer_and_the_thread_ends() {
    check_all(|| {
        let callers = Callers::default();
        is_caller(&callers);
        let modelled = Arc::new(ModelledDirectory::new(rule(&callers)));
        let directory = DeadlineDirectory::new(modelled, Arc::default()).unwrap();
        drop(directory.create("a").unwrap());
    });
}

/// A file that a call returns after its deadline is closed in the thread of the call: closing may hang as well.
#[test]
fn a_call_that_misses_its_deadline_keeps_no_thread_waiting_afterwards() {
    check(TimeLimits::ReachedAnyTime, || calls_of_several_threads(TimeLimits::ReachedAnyTime, &["a", "bc"]));
}

#[test]
fn the_lock_is_held_until_the_call_that_hung_has_returned() {
    check(TimeLimits::ReachedAnyTime, || {
        let modelled = ModelledDirectory::new(|_, _| Ok(()));
        let directory = DeadlineDirectory::new(Arc::new(modelled.clone()), Arc::default()).unwrap();
        let Ok(lock) = directory.lock("LOCK") else { return };
        modelled.hang(StorageOp::Sync);
        assert_eq!(directory.sync().unwrap_err().source.kind(), io::ErrorKind::TimedOut);
        drop((lock, directory));
        modelled.wait_until_one_hangs();
        assert!(modelled.lock("LOCK").is_err(), "an old write may still arrive");
        modelled.release();
        while modelled.lock("LOCK").is_err() {
            thread::yield_now();
        }
    });
}

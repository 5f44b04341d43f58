//! A test that hangs is stopped, and named.
//!
//! Whatever starts a program or makes a home for a node notes the test it runs in. One thread looks whether any of them takes
//! longer than it may; then it says which, ends the programs that were started, and this one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Environment variable: how many minutes a test may take.
const MINUTES: &str = "BACKUPFS_TEST_MINUTES";

/// As many unless told otherwise; the longest test takes one on a machine that does nothing else.
const MINUTES_USUAL: u64 = 10;

/// The tests that run, each with its name and since when.
type Running = BTreeMap<u64, (String, Instant)>;

static RUNNING: Mutex<Running> = Mutex::new(Running::new());

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The note of a test, which is gone when its thread ends.
struct Note(u64);

impl Drop for Note {
    fn drop(&mut self) {
        running().remove(&self.0);
    }
}

thread_local! {
    static NOTE: RefCell<Option<Note>> = const { RefCell::new(None) };
}

/// Notes that the test of this thread runs. Threads that a test starts have no name, and are not asked; nor is the main thread,
/// which is a benchmark's, or runs all tests one after the other.
pub fn note() {
    static WATCHING: Once = Once::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let this = thread::current();
    let Some(name) = this.name().filter(|&name| name != "main") else { return };
    NOTE.with_borrow_mut(|note| {
        if note.is_none() {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            running().insert(number, (name.to_owned(), Instant::now()));
            *note = Some(Note(number));
        }
    });
    WATCHING.call_once(|| drop(thread::spawn(watch)));
}

/// Counts from now: the tests that run have waited for something that no test does.
pub fn restart() {
    running().values_mut().for_each(|(_, since)| *since = Instant::now());
}

fn watch() {
    let minutes = std::env::var(MINUTES).map_or(MINUTES_USUAL, |minutes| minutes.parse().expect("a number of minutes"));
    let most = Duration::from_secs(60 * minutes);
    loop {
        thread::sleep(Duration::from_secs(1));
        let late = late(&running(), most);
        if !late.is_empty() {
            // Past what libtest keeps until a test has ended.
            let told = format!("\nSTOPPED after {minutes} minutes ({MINUTES}): {}\n", late.join(", "));
            let _nobody_reads = std::io::stderr().write_all(told.as_bytes());
            end_children();
            std::process::exit(101);
        }
    }
}

/// Those that take longer than they may.
fn late(running: &Running, most: Duration) -> Vec<String> {
    running.values().filter(|(_, since)| since.elapsed() > most).map(|(name, _)| name.clone()).collect()
}

/// Kills the children. Recorders and mounts that stay would keep the output of this process open, and its reader waiting.
fn end_children() {
    let children = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in children {
        let of_task = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in of_task.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_takes_too_long_is_named_and_one_that_has_ended_is_not() {
        let name = "some::test".to_owned();
        let noted = || running().values().any(|(noted, _)| *noted == name);
        let (begun, end) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        thread::scope(|scope| {
            let test = thread::Builder::new().name(name.clone());
            let test = test.spawn_scoped(scope, || {
                note();
                note();
                begun.wait();
                end.wait();
            });
            begun.wait();
            assert!(noted());
            let now = running().clone();
            assert!(late(&now, Duration::ZERO).contains(&name) && late(&now, Duration::from_secs(600)).is_empty());
            end.wait();
            test.expect("a thread").join().expect("no panic");
        });
        assert!(!noted());
    }
}

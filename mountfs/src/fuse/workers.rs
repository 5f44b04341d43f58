//! [`Workers`]: threads for work that may take long.

use std::hint::black_box;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

/// A unit of work.
pub type Job = Box<dyn FnOnce() + Send>;

/// The most idle threads that are kept: the buffers of a thread for reading pages are worth more than the thread.
const IDLE_MAX: usize = 4;

/// By how much the heap of a new thread grows at once. In the GNU C library each thread has one of its own, which grows by a page or two,
/// with a call of the kernel each time: hundreds of them for the first version that is opened.
const HEAP_BYTES: usize = 4 << 20;

/// A thread for each job that runs; a few idle ones are kept for the next.
#[derive(Debug, Default)]
pub struct Workers {
    idle: Arc<Mutex<Vec<Sender<Job>>>>,
}

impl Workers {
    /// Starts a job at once, and does not wait for it.
    ///
    /// # Errors
    /// When no thread can be started; the job is dropped.
    pub fn start(&self, job: Job) -> io::Result<()> {
        let waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let job = match waiting {
            Some(worker) => match worker.send(job) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(job)) => job,
            },
            None => job,
        };
        let idle = Arc::downgrade(&self.idle);
        let run = move || {
            // Nothing is written to it, so it takes no memory.
            drop(black_box(Vec::<u8>::with_capacity(HEAP_BYTES)));
            work(job, &idle);
        };
        thread::Builder::new().name("view".to_owned()).spawn(run).map(drop)
    }
}

/// Runs one job after the other. Ends when enough other threads are idle, or the [`Workers`] are dropped.
fn work(first: Job, idle: &Weak<Mutex<Vec<Sender<Job>>>>) {
    let mut next = Some(first);
    while let Some(job) = next {
        job();
        let Some(idle) = idle.upgrade() else { return };
        let (sender, jobs) = mpsc::channel();
        {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() >= IDLE_MAX {
                return;
            }
            idle.push(sender);
        }
        // Dropped before the wait: otherwise the list would stay alive, and the wait would never end.
        drop(idle);
        next = jobs.recv().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn jobs_run_at_once_and_threads_are_reused() {
        let workers = Workers::default();
        let (done, finished) = mpsc::channel();
        // More than are kept, all at once: each waits for the last one.
        let barrier = Arc::new(std::sync::Barrier::new(3 * IDLE_MAX));
        let mut first = HashSet::new();
        for _ in 0..3 * IDLE_MAX {
            let (done, barrier) = (done.clone(), Arc::clone(&barrier));
            let job = move || {
                barrier.wait();
                done.send(thread::current().id()).unwrap();
            };
            workers.start(Box::new(job)).unwrap();
        }
        for _ in 0..3 * IDLE_MAX {
            first.insert(finished.recv().unwrap());
        }
        assert_eq!(first.len(), 3 * IDLE_MAX);
        while workers.idle.lock().unwrap().len() < IDLE_MAX {
            thread::yield_now();
        }
        workers.start(Box::new(move || done.send(thread::current().id()).unwrap())).unwrap();
        assert!(first.contains(&finished.recv().unwrap()));
    }

    #[test]
    fn threads_end_with_what_they_wait_for() {
        let workers = Workers::default();
        let alive = Arc::new(());
        let in_job = Arc::clone(&alive);
        workers.start(Box::new(move || drop(in_job))).unwrap();
        while workers.idle.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        let list = Arc::downgrade(&workers.idle);
        drop(workers);
        while list.strong_count() > 0 {
            thread::yield_now();
        }
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}

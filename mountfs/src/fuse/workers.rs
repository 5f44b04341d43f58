//! [`Workers`]: threads for what may take long.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

/// Something to do.
pub type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait for the next job. What a thread keeps for reading pages is worth more than the thread itself.
const IDLE_MAX: usize = 4;

/// As many threads as there are jobs at once; a few of them wait for more.
#[derive(Debug, Default)]
pub struct Workers {
    idle: Arc<Mutex<Vec<Sender<Job>>>>,
}

impl Workers {
    /// Has a job done. Does not wait for it, nor does the job for others.
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
        thread::Builder::new().name("view".to_owned()).spawn(move || work(job, &idle)).map(drop)
    }
}

/// Does one job after the other. Ends when enough others wait for the next, or nobody has any more.
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
        // Not kept while waiting: then the list would never go, and the wait never end.
        drop(idle);
        next = jobs.recv().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn jobs_wait_for_nobody_and_threads_are_used_again() {
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

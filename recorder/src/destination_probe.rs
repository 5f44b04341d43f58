//! The sizes that `backup-status` reads from the destination, with a timeout: its file system may answer late or never, and
//! then the rest of the status matters most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use common::{Backup, BytesByKind};

use common::with_causes;

/// The timeout of a probe.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probed {
    /// Bytes of the files of the backup.
    pub bytes: Option<BytesByKind>,
    /// Free bytes of its file system.
    pub free_bytes: Option<u64>,
    /// The reason why one of them is not known.
    pub problem: Option<String>,
}

/// The probes of one destination. Each runs in its own thread; there is never more than one at a time.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    running: Arc<AtomicBool>,
}

impl Probes {
    /// Reads the sizes of a backup, and waits for at most two seconds.
    pub fn probe(&self, backup: &Arc<Backup>) -> Probed {
        let backup = Arc::clone(backup);
        self.ask(TIMEOUT, move || {
            let (mut found, mut problem) = (Probed::default(), None);
            match backup.read_bytes() {
                Ok(bytes) => found.bytes = Some(bytes),
                Err(error) => problem = Some(with_causes(&error)),
            }
            match backup.read_free_bytes() {
                Ok(bytes) => found.free_bytes = Some(bytes),
                Err(error) => problem = problem.or_else(|| Some(with_causes(&error))),
            }
            Probed { problem, ..found }
        })
    }

    fn ask(&self, timeout: Duration, probe: impl FnOnce() -> Probed + Send + 'static) -> Probed {
        let nothing = |problem: String| Probed { problem: Some(problem), ..Probed::default() };
        let Some(running) = Running::begin(&self.running) else {
            return nothing("the destination has not answered an earlier query yet".to_owned());
        };
        let (sender, found) = channel();
        let started = thread::Builder::new().name("probe".to_owned()).spawn(move || {
            // On a panic `running` is dropped before `sender`: when the receiver sees the end, the next probe may begin.
            let (sender, running) = (sender, running);
            let found = probe();
            drop(running);
            // The receiver is gone after the timeout.
            let _sent_or_too_late = sender.send(found);
        });
        match started.map(|_| found.recv_timeout(timeout)) {
            Ok(Ok(found)) => found,
            Ok(Err(RecvTimeoutError::Timeout)) => {
                nothing(format!("the destination has not answered for {} s", timeout.as_secs_f32()))
            }
            Ok(Err(RecvTimeoutError::Disconnected)) => {
                nothing("the query of the destination broke off (a bug)".to_owned())
            }
            Err(error) => nothing(format!("cannot start a thread ({error})")),
        }
    }
}

/// Marks that a probe is running, until it is dropped.
struct Running(Arc<AtomicBool>);

impl Running {
    fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(flag)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    /// A panic alone can take seconds on a busy machine.
    const LONG: Duration = Duration::from_secs(60);

    fn found(free_bytes: u64) -> Probed {
        Probed { free_bytes: Some(free_bytes), ..Probed::default() }
    }

    #[test]
    fn a_destination_that_does_not_answer_is_asked_once_and_again_when_it_has() {
        let probes = Probes::default();
        let (answer, answers) = channel::<()>();
        let late = probes.ask(SHORT, move || {
            let _hung_up = answers.recv();
            found(1)
        });
        assert!(
            late.problem.as_ref().is_some_and(|problem| problem.contains("has not answered for 0.02 s")),
            "{late:?}"
        );
        let second = probes.ask(LONG, || unreachable!("one is running"));
        assert!(second.problem.as_ref().is_some_and(|problem| problem.contains("earlier query")), "{second:?}");
        drop(answer);
        while probes.running.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(probes.ask(LONG, || found(2)), found(2));
    }

    #[test]
    fn after_a_panic_the_next_probe_may_run() {
        let probes = Probes::default();
        let broken = probes.ask(LONG, || panic!("as the test wants"));
        assert!(broken.problem.is_some_and(|problem| problem.contains("a bug")));
        for free in 0..100 {
            assert_eq!(probes.ask(LONG, move || found(free)), found(free));
        }
    }
}

//! What has to be asked of the destination for `backup-status`: its file system may be late, or never answer at all, and
//! then the rest of the status matters most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use common::{Backup, BytesByKind};

use crate::causes::with_causes;

/// How long whoever asks waits.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What a look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probed {
    /// Bytes of the files of the backup.
    pub bytes: Option<BytesByKind>,
    /// Bytes that its file system has left.
    pub free_bytes: Option<u64>,
    /// Why either is not known.
    pub problem: Option<String>,
}

/// Probes at one destination, each in a thread of its own, of which there is never more than one.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    running: Arc<AtomicBool>,
}

impl Probes {
    /// Probes at a backup, and waits for what is found, but not for ever.
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

    fn ask(&self, timeout: Duration, look: impl FnOnce() -> Probed + Send + 'static) -> Probed {
        let nothing = |problem: String| Probed { problem: Some(problem), ..Probed::default() };
        let Some(running) = Running::begin(&self.running) else {
            return nothing("the destination has not answered an earlier look yet".to_owned());
        };
        let (sender, found) = channel();
        let looking = thread::Builder::new().name("look".to_owned()).spawn(move || {
            // When the look breaks off, the last is dropped first: whoever hears of its end may begin the next at once.
            let (sender, running) = (sender, running);
            let found = look();
            drop(running);
            // Whoever asked may have given up.
            let _told_or_too_late = sender.send(found);
        });
        match looking.map(|_| found.recv_timeout(timeout)) {
            Ok(Ok(found)) => found,
            Ok(Err(RecvTimeoutError::Timeout)) => {
                nothing(format!("the destination has not answered for {} s", timeout.as_secs_f32()))
            }
            Ok(Err(RecvTimeoutError::Disconnected)) => {
                nothing("looking at the destination broke off (a bug)".to_owned())
            }
            Err(error) => nothing(format!("cannot start a thread ({error})")),
        }
    }
}

/// Until it is dropped, there is a look under way.
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
        let second = probes.ask(LONG, || unreachable!("there is one under way"));
        assert!(second.problem.as_ref().is_some_and(|problem| problem.contains("earlier look")), "{second:?}");
        drop(answer);
        while probes.running.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(probes.ask(LONG, || found(2)), found(2));
    }

    #[test]
    fn a_look_that_breaks_off_is_not_running_any_more() {
        let probes = Probes::default();
        let broken = probes.ask(LONG, || panic!("told to"));
        assert!(broken.problem.is_some_and(|problem| problem.contains("a bug")));
        for free in 0..100 {
            assert_eq!(probes.ask(LONG, move || found(free)), found(free));
        }
    }
}

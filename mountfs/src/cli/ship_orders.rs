//! [`Orders`]: the orders that a process that ships gets by a signal or from its recorder.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::ship_words::{ToShip, from_line};

/// The interval of the looks at a flag that a signal sets.
const LOOK_AT_FLAG: Duration = Duration::from_millis(50);

/// What the threads of the process wait for.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Set when the process is to end. A signal handler can do no more.
    stop: Arc<AtomicBool>,
    told: Mutex<Told>,
    changed: Condvar,
}

/// What the recorder has said.
#[derive(Debug, Default)]
struct Told {
    /// Seq of the newest record that a copy should have soon; 0 before any.
    recorded: u64,
    /// Since when answers do not wait for a copy, in microseconds since 1970, by its URL.
    degraded_since: BTreeMap<String, i64>,
}

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// The time is over.
    InTime,
    /// The recorder wants something to be shipped at once.
    Wanted,
    /// The process is to end.
    Stopped,
}

impl Orders {
    /// The flag that ends the process.
    pub(super) fn stop_flag(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// Whether the process is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the process.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Takes the recorder's lines until there are no more.
    pub(super) fn take_lines(&self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            match from_line(&line) {
                Some(words) => self.take(words),
                // The recorder is of another release.
                None => log::debug!("a line of the recorder is not understood: {line}"),
            }
        }
    }

    fn take(&self, words: ToShip) {
        let mut told = self.told();
        match words {
            ToShip::Recorded(seq) => told.recorded = told.recorded.max(seq),
            ToShip::Answers { url, degraded_since: Some(since) } => drop(told.degraded_since.insert(url, since)),
            ToShip::Answers { url, degraded_since: None } => drop(told.degraded_since.remove(&url)),
        }
        drop(told);
        self.changed.notify_all();
    }

    /// Since when answers do not wait for the copy with this URL, although they should.
    pub(super) fn degraded_since(&self, url: &str) -> Option<i64> {
        self.told().degraded_since.get(url).copied()
    }

    /// Waits for a while; ends early when a record from `wanted` on is to be shipped, and when the process is to end.
    pub(super) fn wait(&self, pause: Duration, wanted: Option<u64>) -> Woken {
        let until = Instant::now() + pause;
        let mut told = self.told();
        loop {
            if self.is_stopped() {
                return Woken::Stopped;
            }
            if wanted.is_some_and(|wanted| told.recorded >= wanted) {
                return Woken::Wanted;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::InTime;
            }
            let woken = self.changed.wait_timeout(told, left.min(LOOK_AT_FLAG));
            told = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Each change is complete by itself.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ship_words::to_line;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_wait_ends_when_a_record_is_wanted_and_not_for_another_one() {
        let orders = Orders::default();
        assert_eq!(orders.wait(Duration::ZERO, Some(1)), Woken::InTime);
        orders.take_lines(to_line(&ToShip::Recorded(7)).as_bytes());
        assert_eq!(orders.wait(LONG, Some(7)), Woken::Wanted);
        assert_eq!(orders.wait(Duration::ZERO, Some(8)), Woken::InTime);
        assert_eq!(orders.wait(Duration::ZERO, None), Woken::InTime, "of a copy that nothing waits for");
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                orders.take(ToShip::Recorded(8));
            });
            assert_eq!(orders.wait(LONG, Some(8)), Woken::Wanted);
        });
        assert!(began.elapsed() < LONG / 2);
        orders.stop();
        assert_eq!(orders.wait(LONG, Some(8)), Woken::Stopped);
    }

    #[test]
    fn what_is_not_understood_is_passed_over() {
        let orders = Orders::default();
        let answers = |url: &str, degraded_since| to_line(&ToShip::Answers { url: url.to_owned(), degraded_since });
        let lines = format!("x\n{}{{\"later\":1}}\n{}", answers("/a", Some(3)), answers("/b", Some(4)));
        orders.take_lines(lines.as_bytes());
        assert_eq!((orders.degraded_since("/a"), orders.degraded_since("/b")), (Some(3), Some(4)));
        orders.take_lines(answers("/a", None).as_bytes());
        assert_eq!((orders.degraded_since("/a"), orders.degraded_since("/b")), (None, Some(4)));
    }
}

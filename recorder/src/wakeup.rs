//! [`Wakeup`]: the signals that wake the sealing thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::Seq;

/// Wakes the sealing thread: any number of signals is one event.
#[derive(Debug, Default)]
pub struct Wakeup {
    state: Mutex<WakeupState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WakeupState {
    durable: Option<Seq>,
    stopped: bool,
}

/// The reason why a wait has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything up to this record is durable.
    Durable(Seq),
    /// The timeout passed without a signal.
    Timeout,
    /// The thread is to stop.
    Stop,
}

impl Wakeup {
    /// Signals that everything up to this record is durable.
    pub fn signal(&self, durable: Seq) {
        if self.state().durable.replace(durable).is_none() {
            self.changed.notify_one();
        }
    }

    /// Signals this record, unless a newer one has been signalled already.
    pub fn signal_unless_signalled(&self, durable: Seq) {
        self.state().durable.get_or_insert(durable);
    }

    /// Signals a stop, which is final.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_one();
    }

    /// Waits for a signal or a stop, for at most `timeout`. One event stands for all signals since the last one.
    pub fn wait(&self, timeout: Duration) -> Event {
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.state(), timeout, |state| state.durable.is_none() && !state.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        match state.durable.take() {
            _ if state.stopped => Event::Stop,
            Some(durable) => Event::Durable(durable),
            None => Event::Timeout,
        }
    }

    /// Pauses while signals accumulate; only a stop ends it early.
    pub fn pause(&self, pause: Duration) {
        drop(self.changed.wait_timeout_while(self.state(), pause, |state| !state.stopped));
    }

    fn state(&self) -> MutexGuard<'_, WakeupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    #[test]
    fn rings_are_coalesced_and_none_is_lost() {
        let wakeup = Wakeup::default();
        wakeup.signal(seq(1));
        wakeup.signal(seq(2));
        assert_eq!(wakeup.wait(TIMEOUT), Event::Durable(seq(2)));
        assert!(wakeup.state().durable.is_none());
        wakeup.signal(seq(3));
        assert_eq!(wakeup.wait(TIMEOUT), Event::Durable(seq(3)), "a ring after the wait counts anew");
        assert_eq!(wakeup.wait(Duration::ZERO), Event::Timeout);
    }

    #[test]
    fn a_stop_ends_sleep_and_pause_at_once() {
        let wakeup = Arc::new(Wakeup::default());
        let sleeper = thread::spawn({
            let wakeup = Arc::clone(&wakeup);
            move || wakeup.wait(TIMEOUT)
        });
        wakeup.stop();
        assert_eq!(sleeper.join().unwrap(), Event::Stop);
        wakeup.signal(seq(1));
        assert_eq!(wakeup.wait(TIMEOUT), Event::Stop, "a stop is final");
        let before = Instant::now();
        wakeup.pause(TIMEOUT);
        assert!(before.elapsed() < TIMEOUT / 10);
    }
}

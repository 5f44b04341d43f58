//! [`Pending`]: the `db_write` that is being recorded, and who answers it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The write that `lightningd` waits for, shared with the [watchdog](crate::watchdog). It is answered once: by the thread
/// that records it, or, when a call of that thread does not return, by the watchdog.
#[derive(Debug, Default)]
pub struct Pending {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the request, as received; kept for its memory.
    id: String,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is being recorded.
    #[default]
    Idle,
    /// The thread that records is at it.
    Recording { since: Instant },
    /// The watchdog has refused it, and the thread that records has not come back.
    Refused,
}

/// Whose the answer to a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer {
    /// Whoever asks.
    Recorder,
    /// The watchdog's, who has given it: nobody else may.
    Watchdog,
}

impl Pending {
    /// Recording begins.
    pub fn begin(&self, id: &str) {
        let mut state = self.state();
        state.id.clear();
        state.id.push_str(id);
        state.stage = Stage::Recording { since: Instant::now() };
    }

    /// Recording has ended, one way or the other. From here on the write is the caller's to answer, unless it is answered.
    pub fn end(&self) -> Answerer {
        match std::mem::take(&mut self.state().stage) {
            Stage::Refused => Answerer::Watchdog,
            Stage::Idle | Stage::Recording { .. } => Answerer::Recorder,
        }
    }

    /// Whether the write was refused while it was being recorded.
    pub fn is_refused(&self) -> bool {
        self.state().stage == Stage::Refused
    }

    /// Takes the answer away from the thread that records, if it has been at it for so long; returns the id of the request.
    pub fn take_over(&self, after: Duration) -> Option<String> {
        let mut state = self.state();
        match state.stage {
            Stage::Recording { since } if since.elapsed() >= after => {
                state.stage = Stage::Refused;
                Some(state.id.clone())
            }
            Stage::Idle | Stage::Recording { .. } | Stage::Refused => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_answered_by_one_of_the_two() {
        let pending = Pending::default();
        assert_eq!(pending.take_over(Duration::ZERO), None, "nothing is being recorded");
        pending.begin("\"a\"");
        assert_eq!(pending.take_over(Duration::from_secs(60)), None, "too early");
        assert_eq!(pending.end(), Answerer::Recorder);
        pending.begin("\"b\"");
        assert_eq!(pending.take_over(Duration::ZERO).as_deref(), Some("\"b\""));
        assert_eq!(pending.take_over(Duration::ZERO), None, "once");
        assert!(pending.is_refused());
        assert_eq!(pending.end(), Answerer::Watchdog);
        pending.begin("\"c\"");
        assert_eq!(pending.end(), Answerer::Recorder, "the next is a new one");
    }
}

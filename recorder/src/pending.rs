//! [`Pending`]: what `lightningd` waits for, and who answers it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::stalls::{Awaited, Outcome, STALL, Stall};

/// Stalls that are over and not told yet, at most: the watchdog takes them several times a second.
const UNTOLD_MAX: usize = 64;

/// The request that `lightningd` waits for, shared with the [watchdog](crate::watchdog). A write is answered once: by the
/// thread that records it, or, when a call of that thread does not return, by the watchdog.
#[derive(Debug, Default)]
pub struct Pending {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the request, as received; kept for its memory.
    id: String,
    stage: Stage,
    /// Why the last attempt to record it has failed.
    trouble: Option<String>,
    /// For which `lightningd` has waited, and which nobody has told yet.
    unreported: Vec<Stall>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// `lightningd` waits for nothing.
    #[default]
    Idle,
    /// The backup is being opened.
    Opening { since: Instant },
    /// The thread that records is at it.
    BackupWriter { since: Instant },
    /// The watchdog has refused it, and the thread that records has not come back.
    Refused { since: Instant },
}

impl Stage {
    fn awaited(self) -> Option<(Instant, Awaited)> {
        match self {
            Self::Idle => None,
            Self::Opening { since } => Some((since, Awaited::Opening)),
            Self::BackupWriter { since } | Self::Refused { since } => Some((since, Awaited::Write)),
        }
    }
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
        state.stage = Stage::BackupWriter { since: Instant::now() };
    }

    /// The backup is opened for an `init`, up to [`end`](Self::end).
    pub fn begin_opening(&self) {
        self.state().stage = Stage::Opening { since: Instant::now() };
    }

    /// An attempt has failed, and another one is made.
    pub fn note_trouble(&self, trouble: &str) {
        self.state().trouble = Some(trouble.to_owned());
    }

    /// It has ended, one way or the other. From here on a write is the caller's to answer, unless it is answered.
    pub fn end(&self, outcome: Outcome) -> Answerer {
        let mut state = self.state();
        let (stage, cause) = (std::mem::take(&mut state.stage), state.trouble.take());
        let answerer = match stage {
            Stage::Refused { .. } => Answerer::Watchdog,
            Stage::Idle | Stage::Opening { .. } | Stage::BackupWriter { .. } => Answerer::Recorder,
        };
        if let Some((since, awaited)) = stage.awaited() {
            let took = since.elapsed();
            if (took >= STALL || cause.is_some()) && state.unreported.len() < UNTOLD_MAX {
                let outcome = if answerer == Answerer::Watchdog { Outcome::Refused } else { outcome };
                state.unreported.push(Stall { since, took, outcome: Some(outcome), awaited, cause });
            }
        }
        answerer
    }

    /// Whether the write was refused while it was being recorded.
    pub fn is_refused(&self) -> bool {
        matches!(self.state().stage, Stage::Refused { .. })
    }

    /// Takes the answer away from the thread that records, if it has been at it for so long; returns the id of the request.
    pub fn take_over(&self, after: Duration) -> Option<String> {
        let mut state = self.state();
        match state.stage {
            Stage::BackupWriter { since } if since.elapsed() >= after => {
                state.stage = Stage::Refused { since };
                Some(state.id.clone())
            }
            Stage::Idle | Stage::Opening { .. } | Stage::BackupWriter { .. } | Stage::Refused { .. } => None,
        }
    }

    /// What is to be told of waiting: that which is over, once, and behind it that which lasts.
    pub fn take_stalls(&self) -> Vec<Stall> {
        let mut state = self.state();
        let mut stalls = std::mem::take(&mut state.unreported);
        if let Some((since, awaited)) = state.stage.awaited() {
            let took = since.elapsed();
            if took >= STALL {
                stalls.push(Stall { since, took, outcome: None, awaited, cause: state.trouble.clone() });
            }
        }
        stalls
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
        assert_eq!(pending.end(Outcome::Done), Answerer::Recorder);
        pending.begin("\"b\"");
        assert_eq!(pending.take_over(Duration::ZERO).as_deref(), Some("\"b\""));
        assert_eq!(pending.take_over(Duration::ZERO), None, "once");
        assert!(pending.is_refused());
        assert_eq!(pending.end(Outcome::Done), Answerer::Watchdog);
        pending.begin("\"c\"");
        assert_eq!(pending.end(Outcome::Done), Answerer::Recorder, "the next is a new one");
    }

    #[test]
    fn only_waiting_that_is_long_or_has_a_reason_is_told_and_once() {
        let pending = Pending::default();
        pending.begin("\"quick\"");
        assert_eq!(pending.take_stalls(), []);
        pending.end(Outcome::Done);
        assert_eq!(pending.take_stalls(), []);
        pending.begin("\"after an outage\"");
        pending.note_trouble("no room");
        pending.end(Outcome::Done);
        let [stall] = &pending.take_stalls()[..] else { panic!("an outage is told, however short") };
        assert_eq!((stall.outcome, stall.cause.as_deref()), (Some(Outcome::Done), Some("no room")));
        pending.begin_opening();
        std::thread::sleep(STALL);
        let [stall] = &pending.take_stalls()[..] else { panic!("it lasts") };
        assert!(stall.outcome.is_none() && stall.took >= STALL && stall.awaited == Awaited::Opening, "{stall:?}");
        pending.end(Outcome::Refused);
        let [over] = &pending.take_stalls()[..] else { panic!("it is over") };
        assert_eq!((over.since, over.outcome, &over.cause), (stall.since, Some(Outcome::Refused), &None));
        assert_eq!(pending.take_stalls(), [], "once");
    }
}

//! [`Pending`]: the request that `lightningd` waits for, and which thread answers it.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

#[cfg(all(test, feature = "shuttle"))]
use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, feature = "shuttle")))]
use std::sync::{Mutex, MutexGuard};

use crate::stalls::{Awaited, Outcome, STALL, Stall};

/// The most finished stalls that wait for the watchdog, which takes them several times a second.
const UNREPORTED_MAX: usize = 64;

/// The request that `lightningd` waits for, shared with the [watchdog](crate::watchdog). A write is answered once: by the
/// thread that records it, or, when a call of that thread does not return, by the watchdog.
#[derive(Debug, Default)]
pub struct Pending {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The id of the request, as received. The buffer is reused.
    id: String,
    stage: Stage,
    /// The error of the last failed attempt to record the write.
    trouble: Option<String>,
    /// Why the answer is held.
    held_for: Option<String>,
    /// Stalls that are over and not reported yet.
    unreported: Vec<Stall>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// `lightningd` waits for nothing.
    #[default]
    Idle,
    /// The backup is being opened.
    Opening { since: Instant },
    /// The recording thread records the write.
    Recording { since: Instant },
    /// The write is durable, and its answer is held for an off-site copy. No call hangs: the watchdog has nothing to do.
    Held { since: Instant },
    /// The watchdog has refused the write; the recording thread is still stuck in a call.
    Refused { since: Instant },
}

impl Stage {
    fn awaited(self) -> Option<(Instant, Awaited)> {
        match self {
            Self::Idle => None,
            Self::Opening { since } => Some((since, Awaited::Opening)),
            Self::Recording { since } | Self::Refused { since } => Some((since, Awaited::Write)),
            Self::Held { since } => Some((since, Awaited::Copy)),
        }
    }
}

/// The thread that answers a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer {
    /// The recording thread, which calls [`end`](Pending::end).
    Recorder,
    /// The watchdog: it has answered already, and no second answer may follow.
    Watchdog,
}

impl Pending {
    /// The recording of the write with this request id begins.
    pub fn begin(&self, id: &str) {
        let mut state = self.state();
        state.id.clear();
        state.id.push_str(id);
        state.stage = Stage::Recording { since: Instant::now() };
    }

    /// The backup is opened for an `init`, up to [`end`](Self::end).
    pub fn begin_opening(&self) {
        self.state().stage = Stage::Opening { since: Instant::now() };
    }

    /// Notes why an attempt failed, before the next one.
    pub fn note_trouble(&self, trouble: &str) {
        self.state().trouble = Some(trouble.to_owned());
    }

    /// Notes why the answer is held for so long.
    pub fn note_holding(&self, cause: String) {
        self.state().held_for = Some(cause);
    }

    /// The write is durable, and its answer is held from now on. Returns which thread answers: the watchdog, if it has done so before.
    pub fn begin_holding(&self) -> Answerer {
        let mut state = self.state();
        match state.stage {
            Stage::Refused { .. } => Answerer::Watchdog,
            Stage::Idle | Stage::Opening { .. } => Answerer::Recorder,
            Stage::Recording { since } | Stage::Held { since } => {
                state.stage = Stage::Held { since };
                Answerer::Recorder
            }
        }
    }

    /// Recording, opening or holding has ended. Returns which thread answers the write: the caller, or the watchdog, which has done so.
    pub fn end(&self, outcome: Outcome) -> Answerer {
        let mut state = self.state();
        let (stage, held_for) = (std::mem::take(&mut state.stage), state.held_for.take());
        let trouble = state.trouble.take();
        let answerer = match stage {
            Stage::Refused { .. } => Answerer::Watchdog,
            Stage::Idle | Stage::Opening { .. } | Stage::Recording { .. } | Stage::Held { .. } => Answerer::Recorder,
        };
        if let Some((since, awaited)) = stage.awaited() {
            let took = since.elapsed();
            // A short wait for a copy is what was asked for; one for the backup is an outage.
            let is_stall = took >= STALL || trouble.is_some();
            let cause = held_for.or(trouble);
            if is_stall && state.unreported.len() < UNREPORTED_MAX {
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

    /// Takes the answer over from the recording thread if it has recorded for `after` or longer; returns the id of the request.
    pub fn take_over(&self, after: Duration) -> Option<String> {
        let mut state = self.state();
        match state.stage {
            Stage::Recording { since } if since.elapsed() >= after => {
                state.stage = Stage::Refused { since };
                Some(state.id.clone())
            }
            Stage::Idle
            | Stage::Opening { .. }
            | Stage::Recording { .. }
            | Stage::Held { .. }
            | Stage::Refused { .. } => None,
        }
    }

    /// The stalls to report: those that are over, each returned once, then the one that lasts.
    pub fn take_stalls(&self) -> Vec<Stall> {
        let mut state = self.state();
        let mut stalls = std::mem::take(&mut state.unreported);
        if let Some((since, awaited)) = state.stage.awaited() {
            let took = since.elapsed();
            if took >= STALL {
                stalls.push(Stall {
                    since,
                    took,
                    outcome: None,
                    awaited,
                    cause: state.held_for.clone().or_else(|| state.trouble.clone()),
                });
            }
        }
        stalls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete by itself, so the state is valid after a panic, too.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(feature = "shuttle")]
mod shuttle_tests;

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
    fn an_answer_that_is_held_is_not_taken_for_a_call_that_hangs() {
        let pending = Pending::default();
        pending.begin("\"a\"");
        assert_eq!(pending.begin_holding(), Answerer::Recorder);
        assert_eq!(pending.take_over(Duration::ZERO), None);
        assert_eq!(pending.end(Outcome::Done), Answerer::Recorder);
        pending.begin("\"a\"");
        pending.begin_holding();
        pending.note_holding("the copy is far".to_owned());
        pending.end(Outcome::Done);
        assert_eq!(pending.take_stalls(), [], "a short wait was asked for");
        pending.begin("\"a\"");
        pending.begin_holding();
        pending.note_holding("the copy is far".to_owned());
        std::thread::sleep(STALL);
        let [stall] = &pending.take_stalls()[..] else { panic!("it lasts") };
        assert_eq!((stall.awaited, stall.cause.as_deref()), (Awaited::Copy, Some("the copy is far")));
        pending.end(Outcome::Done);
        assert_eq!(pending.take_stalls().len(), 1);
        pending.begin("\"b\"");
        assert_eq!(pending.take_over(Duration::ZERO).as_deref(), Some("\"b\""));
        assert_eq!(pending.begin_holding(), Answerer::Watchdog, "it is refused already");
        assert_eq!(pending.end(Outcome::Done), Answerer::Watchdog);
    }

    #[test]
    fn a_wait_that_is_long_or_has_a_reason_is_reported_once() {
        let pending = Pending::default();
        pending.begin("\"quick\"");
        assert_eq!(pending.take_stalls(), []);
        pending.end(Outcome::Done);
        assert_eq!(pending.take_stalls(), []);
        pending.begin("\"after an outage\"");
        pending.note_trouble("no room");
        pending.end(Outcome::Done);
        let [stall] = &pending.take_stalls()[..] else { panic!("an outage is reported, however short") };
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

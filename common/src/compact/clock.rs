//! Whether the clock that decides what is dropped can be trusted.
//!
//! A clock that leaps ahead makes everything old at once, and a backup cannot distinguish that from a node that was off. So
//! nothing is dropped after a leap until the clock has continued from there for a day. The times of the versions show how long
//! that is, and so does the running time of this process, which does not depend on the clock.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::history::History;
use crate::storage::read_error::ReadError;
use format::units::{Seq, Timestamp};

/// Largest leap of a clock that is not noticed, and the time for which versions must go on after a leap, in microseconds.
pub(super) const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// The clock has leapt, or the node was off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the newest version was recorded at {newest}, and what was recorded before that ends at {before}: either the node was off \
     in between, or its clock is wrong. By a wrong clock everything would be too old; so nothing is dropped until versions have \
     been recorded for a day since. If the clock is right, ask for it with force=true (backupfs compact --force)"
)]
pub struct ClockInDoubt {
    /// The time of the version before the leap.
    pub before: Timestamp,
    /// The time that decides what is dropped.
    pub newest: Timestamp,
}

/// Whether the operator confirms the clock after a leap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    /// The clock is checked.
    #[default]
    No,
    /// The clock is confirmed.
    Yes,
}

/// Source of trust in the clock.
#[derive(Debug)]
pub enum Clock<'a> {
    /// A process that watches the clock, with its running time.
    Watched(&'a mut ClockWatch, Duration),
    /// The times of the versions are the only evidence.
    Unwatched,
    /// The clock is trusted.
    Trusted,
}

impl Clock<'_> {
    /// Whether history can be dropped at the time `newest`; otherwise the reason.
    pub(super) fn check(self, history: &History, newest: Timestamp) -> Result<Result<(), ClockInDoubt>, ReadError> {
        match self {
            Clock::Watched(watch, ran) => {
                watch.look(Moment { ran: micros(ran), time: newest }, || Leap::find(history, newest))
            }
            Clock::Unwatched => {
                let leap = Leap::find(history, newest)?;
                Ok(leap.map_or(Ok(()), |Leap { before, .. }| Err(ClockInDoubt { before, newest })))
            }
            Clock::Trusted => Ok(Ok(())),
        }
    }
}

/// A leap: a version more than a day later than the previous one, with less than a day of versions since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leap {
    /// Time of the version before the leap.
    pub(super) before: Timestamp,
    /// Time of the version behind it.
    pub(super) after: Timestamp,
}

impl Leap {
    /// Finds the last leap up to the time `newest`.
    fn find(history: &History, newest: Timestamp) -> Result<Option<Self>, ReadError> {
        // After earlier compactions a day may have one version, or none.
        let is_dropped = |before, after| history.is_dropped_between(before, after);
        Self::find_in(newest, |visit| history.visit_times_backwards(visit), is_dropped)
    }

    /// Like [`find`](Self::find), for versions that `visit_backwards` visits from the newest on; `is_dropped` returns whether
    /// versions between two were dropped.
    pub(super) fn find_in(
        newest: Timestamp,
        visit_backwards: impl FnOnce(&mut dyn FnMut(Timestamp, Seq) -> ControlFlow<()>) -> Result<(), ReadError>,
        is_dropped: impl Fn(Seq, Seq) -> bool,
    ) -> Result<Option<Self>, ReadError> {
        let (mut leap, mut after, mut after_seq) = (None, newest, None);
        visit_backwards(&mut |before, seq| {
            // A time from before the clock was corrected.
            if before > newest {
                return ControlFlow::Continue(());
            }
            let was_dropped = after_seq.is_some_and(|after| is_dropped(seq, after));
            if after.as_micros() - before.as_micros() > DAY && !was_dropped {
                leap = Some(Self { before, after });
            }
            (after, after_seq) = (before, Some(seq));
            let has_held = newest.as_micros() - before.as_micros() >= DAY;
            if leap.is_some() || has_held { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(leap)
    }

    /// The moment at which a process now at `now` would have seen the leap.
    fn seen_by(self, now: Moment) -> Moment {
        Moment { ran: now.ran - (now.time.as_micros() - self.after.as_micros()), time: self.after }
    }
}

/// Watches the clock while a process runs: it must not gain more than a day.
#[derive(Debug, Default)]
pub struct ClockWatch {
    /// Last moment at which the clock was trusted.
    trusted: Option<Moment>,
    /// First moment after a leap since then.
    leapt: Option<Moment>,
}

/// A clock time, with the running time of the process in microseconds; negative before the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) ran: i64,
    pub(super) time: Timestamp,
}

impl Moment {
    /// Whether a clock that was right then can show this time now, with a tolerance of a day.
    fn allows(self, now: Self) -> bool {
        now.time.as_micros() <= self.time.as_micros().saturating_add(now.ran - self.ran).saturating_add(DAY)
    }
}

impl ClockWatch {
    /// Whether the clock can be trusted now. `find` searches the recorded versions for a leap: on the first call, and when the
    /// clock has gained more than a day.
    ///
    /// # Errors
    /// Errors of `find`.
    pub(super) fn look(
        &mut self,
        now: Moment,
        find: impl FnOnce() -> Result<Option<Leap>, ReadError>,
    ) -> Result<Result<(), ClockInDoubt>, ReadError> {
        let trusted = match self.trusted {
            Some(trusted) if trusted.allows(now) => None,
            Some(trusted) => Some((trusted, find()?)),
            // The recorded versions decide.
            None => find()?.map(|leap| (Moment { time: leap.before, ..now }, Some(leap))),
        };
        let Some((trusted, leap)) = trusted else {
            *self = Self { trusted: self.trusted.or(Some(now)), leapt: None };
            return Ok(Ok(()));
        };
        self.trusted = Some(trusted);
        let leapt = match (self.leapt, leap.map(|leap| leap.seen_by(now))) {
            // The clock may have been corrected since, and have leapt again.
            (Some(seen), Some(recorded)) if recorded.ran > seen.ran => recorded,
            (Some(seen), _) if seen.allows(now) => seen,
            (None, Some(recorded)) => recorded,
            _ => now,
        };
        if now.ran - leapt.ran >= DAY {
            *self = Self { trusted: Some(now), leapt: None };
            return Ok(Ok(()));
        }
        self.leapt = Some(leapt);
        Ok(Err(ClockInDoubt { before: trusted.time, newest: now.time }))
    }
}

fn micros(ran: Duration) -> i64 {
    i64::try_from(ran.as_micros()).unwrap_or(i64::MAX)
}

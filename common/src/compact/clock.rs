//! Whether the clock can be believed that history is to be dropped by.
//!
//! A clock that leaps ahead makes everything old at once, and nothing in a backup tells it from a node that was off. So nothing
//! is dropped by a clock that has leapt, until it has gone on from there for a day. The times of the versions say how long that
//! is, and so does the time that this process has run, which no clock can change.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::history::History;
use crate::storage::read_error::ReadError;
use format::units::{Seq, Timestamp};

/// How far a clock may be ahead without being noticed, and how long it must have gone on after a leap.
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
    /// The time that history would be dropped by.
    pub newest: Timestamp,
}

/// Whether the operator says that the clock is right although it has leapt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    /// It has to be checked.
    #[default]
    No,
    /// It is right.
    Yes,
}

/// What is known of the clock.
#[derive(Debug)]
pub enum Clock<'a> {
    /// By a process that watches it, and has run so long.
    Watched(&'a mut ClockWatch, Duration),
    /// What the times of the versions tell.
    Unwatched,
    /// It is right.
    Trusted,
}

impl Clock<'_> {
    /// Whether history can be dropped by the time `newest`; when not, why.
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

/// A version that was recorded more than a day later than the one before it, with less than a day of versions since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leap {
    /// The time of the version before it.
    pub(super) before: Timestamp,
    /// The first time behind it.
    pub(super) after: Timestamp,
}

impl Leap {
    /// Looks for the last one up to the time `newest`.
    fn find(history: &History, newest: Timestamp) -> Result<Option<Self>, ReadError> {
        // Where history was dropped before, of a day there may be one version left, or none.
        let is_dropped = |before, after| history.is_dropped_between(before, after);
        Self::find_in(newest, |visit| history.visit_times_backwards(visit), is_dropped)
    }

    /// The same of versions that `visit_backwards` visits from the newest on; `is_dropped` tells whether there were others
    /// between two.
    pub(super) fn find_in(
        newest: Timestamp,
        visit_backwards: impl FnOnce(&mut dyn FnMut(Timestamp, Seq) -> ControlFlow<()>) -> Result<(), ReadError>,
        is_dropped: impl Fn(Seq, Seq) -> bool,
    ) -> Result<Option<Self>, ReadError> {
        let (mut leap, mut after, mut after_seq) = (None, newest, None);
        visit_backwards(&mut |before, seq| {
            // Of a clock that was set right since.
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

    /// When the process that is at `now` would have seen it.
    fn seen_by(self, now: Moment) -> Moment {
        Moment { ran: now.ran - (now.time.as_micros() - self.after.as_micros()), time: self.after }
    }
}

/// Watches the clock for as long as a process runs: it must not gain more than a day on it.
#[derive(Debug, Default)]
pub struct ClockWatch {
    /// When it was right, or held to be.
    trusted: Option<Moment>,
    /// When it was found to have leapt, if it has since.
    leapt: Option<Moment>,
}

/// What the clock showed when the process had run so long, in microseconds; before it began this is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) ran: i64,
    pub(super) time: Timestamp,
}

impl Moment {
    /// Whether a clock that was right then can show this time now, or one that is a day later.
    fn allows(self, now: Self) -> bool {
        now.time.as_micros() <= self.time.as_micros().saturating_add(now.ran - self.ran).saturating_add(DAY)
    }
}

impl ClockWatch {
    /// Whether the clock can be believed now. `find` is called to look for a leap in what was recorded, when the clock has gained
    /// more than a day on the process, and the first time.
    ///
    /// # Errors
    /// Those of `find`.
    pub(super) fn look(
        &mut self,
        now: Moment,
        find: impl FnOnce() -> Result<Option<Leap>, ReadError>,
    ) -> Result<Result<(), ClockInDoubt>, ReadError> {
        let trusted = match self.trusted {
            Some(trusted) if trusted.allows(now) => None,
            Some(trusted) => Some((trusted, find()?)),
            // What was recorded before tells whether the clock has leapt.
            None => find()?.map(|leap| (Moment { time: leap.before, ..now }, Some(leap))),
        };
        let Some((trusted, leap)) = trusted else {
            *self = Self { trusted: self.trusted.or(Some(now)), leapt: None };
            return Ok(Ok(()));
        };
        self.trusted = Some(trusted);
        let leapt = match (self.leapt, leap.map(|leap| leap.seen_by(now))) {
            // It may have been set right since the last look, and have leapt again.
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

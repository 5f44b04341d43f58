//! Whether the clock can be believed that history is to be dropped by.
//!
//! A clock that leaps ahead makes everything old at once, and nothing in a backup tells it from a node that was off. So nothing
//! is dropped by a clock that has leapt, until it has gone on from there for a day. How long that is two things tell: the
//! times of the versions, and for as long as this process runs its own, which no clock can change.

use std::time::Duration;

use crate::{History, ReadError, Timestamp};

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
    /// The latest time before the leap.
    pub before: Timestamp,
    /// The time that history would be dropped by.
    pub newest: Timestamp,
}

/// Whether somebody says that the clock is right although it has leapt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    /// Nobody does.
    #[default]
    No,
    /// It is.
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
            Clock::Watched(watch, ran) => watch.check(history, micros(ran), newest),
            Clock::Unwatched => {
                let leap = Leap::find(history, newest)?;
                Ok(leap.map_or(Ok(()), |Leap { before, .. }| Err(ClockInDoubt { before, newest })))
            }
            Clock::Trusted => Ok(Ok(())),
        }
    }
}

/// More than a day without a version, and less than a day with some since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leap {
    /// The last time before it.
    pub(super) before: Timestamp,
    /// The first time behind it.
    pub(super) after: Timestamp,
}

impl Leap {
    /// Looks for one behind which there is less than a day up to `newest`. Times later than that are those of a clock that was
    /// set right since.
    fn find(history: &History, newest: Timestamp) -> Result<Option<Self>, ReadError> {
        let first_from = |micros| history.first_time_from(micros);
        let Some(Self { before, after }) =
            Self::between(newest, first_from, |micros| history.last_time_before(micros))?
        else {
            return Ok(None);
        };
        // Where history was dropped before, of a day there may be one version left, or none.
        let (beside, read) = history.versions_between(&(before.as_micros()..after.as_micros() + 1));
        read?;
        let is_thinned = match (beside.first(), beside.last()) {
            (Some(&(_, first)), Some(&(_, last))) => history.is_dropped_between(first.min(last), first.max(last)),
            _ => false,
        };
        Ok((!is_thinned).then_some(Self { before, after }))
    }

    /// The same of times of which the first from one on and the last before one can be asked for.
    pub(super) fn between(
        newest: Timestamp,
        first_from: impl Fn(i64) -> Result<Option<Timestamp>, ReadError>,
        last_before: impl Fn(i64) -> Result<Option<Timestamp>, ReadError>,
    ) -> Result<Option<Self>, ReadError> {
        let after = first_from(newest.as_micros() - DAY)?.map_or(newest, |after| after.min(newest));
        let leap = last_before(after.as_micros())?.map(|before| Self { before, after });
        Ok(leap.filter(|leap| leap.after.as_micros() - leap.before.as_micros() > DAY))
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
    fn check(&mut self, history: &History, ran: i64, newest: Timestamp) -> Result<Result<(), ClockInDoubt>, ReadError> {
        if self.trusted.is_none() {
            self.begin(Leap::find(history, newest)?, Moment { ran, time: newest });
        }
        Ok(self.look(Moment { ran, time: newest }))
    }

    /// Begins with what was recorded before.
    pub(super) fn begin(&mut self, leap: Option<Leap>, now: Moment) {
        let trusted = leap.map_or(now.time, |leap| leap.before);
        self.trusted = Some(Moment { time: trusted, ..now });
        let since = |leap: Leap| now.time.as_micros() - leap.after.as_micros();
        self.leapt = leap.map(|leap| Moment { ran: now.ran - since(leap), time: leap.after });
    }

    pub(super) fn look(&mut self, now: Moment) -> Result<(), ClockInDoubt> {
        let trusted = *self.trusted.get_or_insert(now);
        if trusted.allows(now) {
            self.leapt = None;
            return Ok(());
        }
        let leapt = *self.leapt.get_or_insert(now);
        if !leapt.allows(now) {
            self.leapt = Some(now);
        } else if now.ran - leapt.ran >= DAY {
            *self = Self { trusted: Some(now), leapt: None };
            return Ok(());
        }
        Err(ClockInDoubt { before: trusted.time, newest: now.time })
    }
}

fn micros(ran: Duration) -> i64 {
    i64::try_from(ran.as_micros()).unwrap_or(i64::MAX)
}

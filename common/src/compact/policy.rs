//! What is to be kept of a history: pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A span of time, as operators write it: `90d`, `12h`, `1y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeepSpan {
    seconds: u64,
}

/// What is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no span of time; write a number and a unit: 12h, 90d, 8w or 1y (or seconds: 30s)")]
pub struct KeepSpanError {
    /// What was found.
    pub text: String,
}

/// The units, the longest first, and their seconds. A year is 365 days.
const UNITS: [(char, u64); 5] = [('y', 365 * DAY), ('w', 7 * DAY), ('d', DAY), ('h', HOUR), ('s', 1)];

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

const MICROS: u64 = 1_000_000;

impl FromStr for KeepSpan {
    type Err = KeepSpanError;

    fn from_str(text: &str) -> Result<Self, KeepSpanError> {
        let error = || KeepSpanError { text: text.to_owned() };
        let (number, unit) = text.char_indices().last().map(|(at, unit)| (&text[..at], unit)).ok_or_else(error)?;
        let (_, seconds) = UNITS.into_iter().find(|(known, _)| *known == unit).ok_or_else(error)?;
        if !number.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        // Longer than any time that can be recorded, and short enough for sums.
        let seconds = number.checked_mul(seconds).filter(|&seconds| seconds < 1 << 40).ok_or_else(error)?;
        Ok(Self { seconds })
    }
}

impl TryFrom<String> for KeepSpan {
    type Error = KeepSpanError;

    fn try_from(text: String) -> Result<Self, KeepSpanError> {
        text.parse()
    }
}

impl From<KeepSpan> for String {
    fn from(span: KeepSpan) -> Self {
        span.to_string()
    }
}

impl fmt::Display for KeepSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |seconds: u64| self.seconds > 0 && self.seconds.is_multiple_of(seconds);
        let (unit, seconds) = UNITS.into_iter().find(|&(_, seconds)| fits(seconds)).unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.seconds / seconds)
    }
}

/// What is to be kept. Spans count back from the newest version: of a node that has stood still for a year nothing is
/// dropped because of that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepPolicy {
    /// Everything within this span.
    #[serde(rename = "keep_within", default, skip_serializing_if = "Option::is_none")]
    pub within: Option<KeepSpan>,
    /// Within this one, of every hour the newest version, with those in the same segment.
    #[serde(rename = "keep_hourly", default, skip_serializing_if = "Option::is_none")]
    pub hourly: Option<KeepSpan>,
    /// The same of every day.
    #[serde(rename = "keep_daily", default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<KeepSpan>,
    /// The same of every week.
    #[serde(rename = "keep_weekly", default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<KeepSpan>,
}

/// Why a policy is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeepPolicyError {
    /// It keeps nothing.
    #[error(
        "the policy keeps nothing, so everything would be dropped; say what to keep, for example --keep-within 90d (or \
         keep_within in backup.lock, or of backup-compact)"
    )]
    KeepsNothing,
}

/// When the versions of a segment were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) earliest: Timestamp,
    pub(super) latest: Timestamp,
}

impl KeepPolicy {
    /// Whether it keeps anything.
    ///
    /// # Errors
    /// When it does not: nobody means that.
    pub fn check(&self) -> Result<(), KeepPolicyError> {
        let spans = [self.within, self.hourly, self.daily, self.weekly];
        let keeps = spans.into_iter().flatten().any(|span| span.seconds > 0);
        if keeps { Ok(()) } else { Err(KeepPolicyError::KeepsNothing) }
    }

    /// The rules that it has, as `backup.lock` and `backup-compact` name them, with their spans.
    pub fn as_options(&self) -> Vec<String> {
        let rules = [
            ("keep_within", self.within),
            ("keep_hourly", self.hourly),
            ("keep_daily", self.daily),
            ("keep_weekly", self.weekly),
        ];
        rules.into_iter().filter_map(|(name, span)| Some(format!("{name}={}", span?))).collect()
    }

    /// Which segments it keeps, in their order. The last one it keeps whatever its times are. `newest` is when the newest version was recorded.
    ///
    /// A clock that is wrong never makes it drop more: spans count back from the newest version, or from now if that is
    /// earlier, and a segment with a version that claims to be of the future is kept.
    pub(super) fn keeps(&self, now: Timestamp, newest: Timestamp, segments: &[Times]) -> Vec<bool> {
        let reference = now.min(newest).as_micros();
        let is_within = |times: &Times, span: Option<KeepSpan>| {
            let back = |span: KeepSpan| i64::try_from(span.seconds.saturating_mul(MICROS)).unwrap_or(i64::MAX);
            span.is_some_and(|span| times.latest.as_micros() >= reference.saturating_sub(back(span)))
        };
        let rules = [(self.hourly, HOUR), (self.daily, DAY), (self.weekly, WEEK)];
        let keeps = |position: usize, times: &Times| {
            let Some(next) = segments.get(position + 1) else { return true };
            is_within(times, self.within)
                || rules.iter().any(|&(span, seconds)| {
                    let period = |time: Timestamp| time.as_micros().div_euclid((seconds * MICROS).cast_signed());
                    let of_next = period(next.earliest);
                    // The next one has a later version of the only period that this one has versions of.
                    let is_surpassed = [times.earliest, times.latest].iter().all(|&time| period(time) == of_next);
                    is_within(times, span) && !is_surpassed
                })
        };
        segments.iter().enumerate().map(|(position, times)| keeps(position, times)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> Option<KeepSpan> {
        Some(text.parse().unwrap())
    }

    #[expect(clippy::cast_possible_truncation, reason = "a few thousand hours")]
    fn at(hours: f64) -> Timestamp {
        Timestamp::from_micros((hours * 3600e6) as i64).unwrap()
    }

    /// Segments with versions from the one hour to the other.
    fn kept(policy: &KeepPolicy, now: f64, segments: &[(f64, f64)]) -> Vec<usize> {
        let newest = at(segments.last().unwrap().1);
        let times: Vec<_> = segments.iter().map(|&(from, to)| Times { earliest: at(from), latest: at(to) }).collect();
        let keeps = policy.keeps(at(now), newest, &times);
        keeps.iter().enumerate().filter(|(_, keeps)| **keeps).map(|(position, _)| position).collect()
    }

    #[test]
    fn spans_are_read_as_they_are_written() {
        for (text, seconds) in [("90d", 90 * DAY), ("12h", 12 * HOUR), ("1y", 365 * DAY), ("8w", 56 * DAY), ("0s", 0)] {
            let span: KeepSpan = text.parse().unwrap();
            assert_eq!((span.seconds, span.to_string().as_str()), (seconds, text));
        }
        for text in ["", "d", "90", "-1d", "+1d", "1.5d", "1m", "90 d", "99999999999999999999d", "9999999999999y", "1é"]
        {
            assert!(text.parse::<KeepSpan>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_keeps_nothing_is_refused() {
        assert_eq!(KeepPolicy::default().check(), Err(KeepPolicyError::KeepsNothing));
        assert_eq!(
            KeepPolicy { within: span("0d"), daily: span("0s"), ..KeepPolicy::default() }.check(),
            Err(KeepPolicyError::KeepsNothing)
        );
        assert_eq!(KeepPolicy { daily: span("1d"), ..KeepPolicy::default() }.check(), Ok(()));
    }

    #[test]
    fn everything_within_the_span_is_kept_as_counted_from_the_newest_version() {
        let policy = KeepPolicy { within: span("10h"), ..KeepPolicy::default() };
        let segments = [(1000.0, 1004.0), (1004.0, 1009.9), (1009.9, 1010.1), (1011.0, 1020.0)];
        assert_eq!(kept(&policy, 1020.5, &segments), [2, 3]);
        // Months later nothing more is dropped.
        assert_eq!(kept(&policy, 9000.0, &segments), [2, 3]);
        assert_eq!(kept(&KeepPolicy { within: span("1y"), ..policy }, 1020.5, &segments), [0, 1, 2, 3]);
    }

    #[test]
    fn a_clock_that_is_wrong_never_drops_more() {
        let policy = KeepPolicy { within: span("10h"), ..KeepPolicy::default() };
        let segments = [(1000.0, 1004.0), (1004.0, 1009.9), (1009.9, 1010.1), (1011.0, 1020.0)];
        // It is set back now.
        assert_eq!(kept(&policy, 1000.0, &segments), [0, 1, 2, 3]);
        // The newest version was recorded in the far future.
        let ahead = [segments[0], segments[1], segments[2], (1011.0, 99_000.0)];
        assert_eq!(kept(&policy, 1020.0, &ahead), [2, 3]);
        // The newest was recorded long ago, or so it says.
        let back = [segments[0], segments[1], segments[2], (5.0, 5.0)];
        assert_eq!(kept(&policy, 1020.0, &back), [0, 1, 2, 3]);
        // One in the middle was recorded in the far future.
        let future = [(1000.0, 99_000.0), segments[1], segments[2], segments[3]];
        assert_eq!(kept(&policy, 1020.0, &future), [0, 2, 3]);
    }

    #[test]
    fn of_every_period_the_segment_with_its_newest_version_is_kept() {
        let policy = KeepPolicy { within: span("1h"), hourly: span("10h"), ..KeepPolicy::default() };
        let segments = [
            (900.1, 900.9),   // too old
            (1000.1, 1000.3), // surpassed by the next one
            (1000.4, 1000.9),
            (1001.1, 1001.2), // surpassed
            (1001.3, 1003.2), // has the newest of 1001 and 1002
            (1003.3, 1003.4),
            (1008.0, 1008.1), // surpassed, and not within an hour
            (1008.2, 1008.9),
            (1009.4, 1009.5), // within an hour
            (1009.6, 1010.0),
        ];
        assert_eq!(kept(&policy, 1010.5, &segments), [2, 4, 5, 7, 8, 9]);
    }

    #[test]
    fn every_period_that_had_a_version_still_has_one() {
        for (name, policy, hours) in [
            ("hourly", KeepPolicy { hourly: span("1y"), ..KeepPolicy::default() }, 1),
            ("daily", KeepPolicy { daily: span("1y"), ..KeepPolicy::default() }, 24),
            ("weekly", KeepPolicy { weekly: span("1y"), ..KeepPolicy::default() }, 24 * 7),
        ] {
            let mut state = 7_u64;
            let mut now = 5000.0;
            let mut segments = Vec::new();
            for _ in 0..500 {
                let mut next = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    f64::from(u32::try_from(state >> 40).unwrap()) / f64::from(1 << 24)
                };
                let from = now + next().powi(4) * 30.0;
                now = from + next().powi(3) * 5.0;
                segments.push((from, now));
            }
            let keeps = kept(&policy, now, &segments);
            assert!(keeps.len() < 490 && keeps.len() > 10, "{name}: {}", keeps.len());
            // The newest version of every period is in a segment that is kept.
            let period = |time: f64| at(time).as_micros() / (hours * 3_600_000_000);
            let mut newest = std::collections::BTreeMap::new();
            for (position, &(from, to)) in segments.iter().enumerate() {
                newest.insert(period(from), position);
                newest.insert(period(to), position);
            }
            for (of, position) in newest {
                assert!(keeps.contains(&position), "{name}: period {of}, segment {position}");
            }
        }
    }
}

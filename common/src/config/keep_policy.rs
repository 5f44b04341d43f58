//! The keep policy of compaction: pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::storage::read_error::ReadError;
use format::pruned_directory::KeptVersion;
use format::units::Timestamp;

/// A span of time, as operators write it: `90d`, `12h`, `1y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeepSpan {
    seconds: u64,
}

/// A text that is not a span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no span of time; write a number and a unit: 12h, 90d, 8w or 1y (or seconds: 30s)")]
pub struct KeepSpanError {
    /// The text.
    pub text: String,
}

/// The units with their seconds, the longest first. A year is 365 days.
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
        // Longer than any recordable time, and short enough for sums without overflow.
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

impl KeepSpan {
    /// A span of so many seconds.
    pub(crate) const fn of_seconds(seconds: u64) -> Self {
        Self { seconds }
    }

    /// The span as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl fmt::Display for KeepSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |seconds: u64| self.seconds > 0 && self.seconds.is_multiple_of(seconds);
        let (unit, seconds) = UNITS.into_iter().find(|&(_, seconds)| fits(seconds)).unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.seconds / seconds)
    }
}

/// The history that compaction keeps. Spans count back from the newest version, so a node that stood still for a year loses none
/// by that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepPolicy {
    /// Keep all versions within this span.
    #[serde(rename = "keep_within", default, skip_serializing_if = "Option::is_none")]
    pub within: Option<KeepSpan>,
    /// Keep the newest version of every hour within this span.
    #[serde(rename = "keep_hourly", default, skip_serializing_if = "Option::is_none")]
    pub hourly: Option<KeepSpan>,
    /// Span within which the newest version of each day is kept.
    #[serde(rename = "keep_daily", default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<KeepSpan>,
    /// Span within which the newest version of each week is kept.
    #[serde(rename = "keep_weekly", default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<KeepSpan>,
}

/// The reason why a policy is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeepPolicyError {
    /// The policy keeps nothing.
    #[error(
        "the policy keeps nothing, so everything would be dropped; say what to keep, for example --keep-within 90d (or \
         keep_within in backup.lock, or of backup-compact)"
    )]
    KeepsNothing,
}

/// The range of times at which a segment's versions were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) earliest: Timestamp,
    pub(crate) latest: Timestamp,
}

/// The versions of a segment that a policy keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The whole segment.
    Whole,
    /// Some of its versions, at least one.
    Versions(Vec<KeptVersion>),
    /// Nothing.
    Nothing,
}

/// Looks up the versions of the segment at a position, in order.
type VersionsOf<'a> = dyn FnMut(usize) -> Result<Vec<KeptVersion>, ReadError> + 'a;

impl KeepPolicy {
    /// Checks that the policy keeps anything.
    ///
    /// # Errors
    /// When it keeps nothing, which is never intended.
    pub fn check(&self) -> Result<(), KeepPolicyError> {
        let spans = [self.within, self.hourly, self.daily, self.weekly];
        let keeps = spans.into_iter().flatten().any(|span| span.seconds > 0);
        if keeps { Ok(()) } else { Err(KeepPolicyError::KeepsNothing) }
    }

    /// The rules in effect, by their names in `backup.lock` and `backup-compact`, with their spans.
    pub fn options(&self) -> impl Iterator<Item = (&'static str, KeepSpan)> {
        let rules = [
            ("keep_within", self.within),
            ("keep_hourly", self.hourly),
            ("keep_daily", self.daily),
            ("keep_weekly", self.weekly),
        ];
        rules.into_iter().filter_map(|(name, span)| Some((name, span?)))
    }

    /// Versions kept of each segment, in order. The last segment is always kept. `newest` is the time of the newest
    /// version. The versions of few segments are read.
    ///
    /// A wrong clock never causes more to be dropped: spans count back from the newest version, or from now if that is earlier; a
    /// version with a time in the future is kept; and a version counts as no older than any recorded before it. That the newest
    /// version is not from the future is checked before: see `clock`.
    ///
    /// # Errors
    /// When the versions of a segment cannot be read.
    pub(crate) fn keeps(
        &self,
        now: Timestamp,
        newest: Timestamp,
        segments: &[Times],
        versions_of: &mut VersionsOf<'_>,
    ) -> Result<Vec<Keep>, ReadError> {
        let reference = now.min(newest).as_micros();
        let is_within = |micros: i64, span: Option<KeepSpan>| {
            let back = |span: KeepSpan| i64::try_from(span.seconds.saturating_mul(MICROS)).unwrap_or(i64::MAX);
            span.is_some_and(|span| micros >= reference.saturating_sub(back(span)))
        };
        let rules = [(self.hourly, HOUR), (self.daily, DAY), (self.weekly, WEEK)];
        let period = |time: Timestamp, seconds: u64| time.as_micros().div_euclid((seconds * MICROS).cast_signed());
        // The latest time seen so far.
        let mut latest = i64::MIN;
        let mut keep_of = |position: usize, times: &Times| {
            let latest_before = latest;
            latest = latest.max(times.latest.as_micros());
            let Some(next) = segments.get(position + 1) else { return Ok(Keep::Whole) };
            if is_within(latest, self.within) {
                return Ok(Keep::Whole);
            }
            let mut of_rules = rules.iter().filter(|&&(span, seconds)| {
                // The next segment has a later version of the only period of this one.
                let of_next = period(next.earliest, seconds);
                let is_surpassed = [times.earliest, times.latest].iter().all(|&time| period(time, seconds) == of_next);
                is_within(latest, span) && !is_surpassed
            });
            if of_rules.next().is_none() {
                return Ok(Keep::Nothing);
            }
            let all = versions_of(position)?;
            let later = all.iter().skip(1).map(|version| version.recorded_at).chain([next.earliest]);
            let mut latest = latest_before;
            let mut is_kept = |version: &KeptVersion, later: Timestamp| {
                latest = latest.max(version.recorded_at.as_micros());
                rules.iter().any(|&(span, seconds)| {
                    let is_newest = period(version.recorded_at, seconds) != period(later, seconds);
                    is_newest && is_within(latest, span)
                })
            };
            let kept = all.iter().zip(later).filter(|(version, later)| is_kept(version, *later));
            let kept: Vec<KeptVersion> = kept.map(|(version, _)| *version).collect();
            Ok(if kept.is_empty() { Keep::Nothing } else { Keep::Versions(kept) })
        };
        segments.iter().enumerate().map(|(position, times)| keep_of(position, times)).collect()
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

    fn version(seq: usize, time: Timestamp) -> KeptVersion {
        let seq = seq as u64 + 1;
        KeptVersion { seq: format::units::Seq::new(seq).unwrap(), ordinal: seq, recorded_at: time }
    }

    /// The segments kept of those with versions at these hours, by position: all, or the versions at these positions.
    fn kept_of(policy: &KeepPolicy, now: f64, segments: &[Vec<f64>]) -> Vec<(usize, Vec<usize>)> {
        let newest = at(*segments.last().unwrap().last().unwrap());
        let hours = |hours: &Vec<f64>| hours.iter().map(|&hour| at(hour)).collect::<Vec<_>>();
        let times: Vec<_> = segments.iter().map(hours).collect();
        let of = |times: &Vec<Timestamp>| Times {
            earliest: *times.iter().min().unwrap(),
            latest: *times.iter().max().unwrap(),
        };
        let spans: Vec<_> = times.iter().map(of).collect();
        let mut versions_of =
            |position: usize| Ok(times[position].iter().enumerate().map(|(seq, &at)| version(seq, at)).collect());
        let keeps = policy.keeps(at(now), newest, &spans, &mut versions_of).unwrap();
        let positions = keeps.into_iter().enumerate().filter_map(|(position, keep)| match keep {
            Keep::Whole => Some((position, (0..segments[position].len()).collect())),
            Keep::Versions(versions) => {
                Some((position, versions.iter().map(|version| usize::try_from(version.ordinal).unwrap() - 1).collect()))
            }
            Keep::Nothing => None,
        });
        positions.collect()
    }

    /// The positions of the kept segments, whole or not, of segments with versions at two hours each.
    fn kept(policy: &KeepPolicy, now: f64, segments: &[(f64, f64)]) -> Vec<usize> {
        let segments: Vec<_> = segments.iter().map(|&(from, to)| vec![from, to]).collect();
        kept_of(policy, now, &segments).into_iter().map(|(position, _)| position).collect()
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
        // Months later, nothing more is dropped.
        assert_eq!(kept(&policy, 9000.0, &segments), [2, 3]);
        assert_eq!(kept(&KeepPolicy { within: span("1y"), ..policy }, 1020.5, &segments), [0, 1, 2, 3]);
    }

    #[test]
    fn a_clock_that_is_wrong_never_drops_more() {
        let policy = KeepPolicy { within: span("10h"), ..KeepPolicy::default() };
        let segments = [(1000.0, 1004.0), (1004.0, 1009.9), (1009.9, 1010.1), (1011.0, 1020.0)];
        // The clock is set back now.
        assert_eq!(kept(&policy, 1000.0, &segments), [0, 1, 2, 3]);
        // The newest version has a time in the far future.
        let ahead = [segments[0], segments[1], segments[2], (1011.0, 99_000.0)];
        assert_eq!(kept(&policy, 1020.0, &ahead), [2, 3]);
        // The newest version has a time long ago.
        let back = [segments[0], segments[1], segments[2], (5.0, 5.0)];
        assert_eq!(kept(&policy, 1020.0, &back), [0, 1, 2, 3]);
        // A middle version has a time in the far future.
        let future = [(1000.0, 99_000.0), segments[1], segments[2], segments[3]];
        assert_eq!(kept(&policy, 1020.0, &future), [0, 1, 2, 3]);
        // Some middle versions have times long ago.
        let past = [(1000.0, 1019.0), (5.0, 6.0), (6.0, 7.0), (1019.0, 1020.0)];
        assert_eq!(kept(&policy, 1020.0, &past), [0, 1, 2, 3]);
    }

    #[test]
    fn of_every_period_the_newest_version_is_kept() {
        let policy = KeepPolicy { within: span("1h"), hourly: span("10h"), ..KeepPolicy::default() };
        let segments = [
            vec![900.1, 900.9],                   // too old
            vec![1000.1, 1000.3],                 // surpassed by the next one
            vec![1000.4, 1000.8, 1000.9],         // has the newest of its hour
            vec![1001.1, 1001.2],                 // surpassed
            vec![1001.3, 1001.4, 1002.0, 1003.2], // the newest of 1001 and of 1002, and of 1003 one that is surpassed
            vec![1003.3, 1003.4],
            vec![1008.0, 1008.1], // surpassed, and not within an hour
            vec![1008.2, 1008.9, 1009.0],
            vec![1009.4, 1009.5], // within an hour
            vec![1009.6, 1010.0],
        ];
        let expected =
            [(2, vec![2]), (4, vec![1, 2]), (5, vec![1]), (7, vec![0, 1, 2]), (8, vec![0, 1]), (9, vec![0, 1])];
        assert_eq!(kept_of(&policy, 1010.5, &segments), expected);
        // Without the first rule this holds for the newest hours, too.
        let hourly = KeepPolicy { within: None, ..policy };
        let expected = [(2, vec![2]), (4, vec![1, 2]), (5, vec![1]), (7, vec![1]), (9, vec![0, 1])];
        assert_eq!(kept_of(&hourly, 1010.5, &segments), expected);
    }

    #[test]
    fn every_period_that_had_a_version_still_has_its_newest_one_and_no_other() {
        for (name, policy, hours) in [
            ("hourly", KeepPolicy { hourly: span("1y"), ..KeepPolicy::default() }, 1),
            ("daily", KeepPolicy { daily: span("1y"), ..KeepPolicy::default() }, 24),
            ("weekly", KeepPolicy { weekly: span("1y"), ..KeepPolicy::default() }, 24 * 7),
        ] {
            let mut state = 7_u64;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                f64::from(u32::try_from(state >> 40).unwrap()) / f64::from(1 << 24)
            };
            let mut now = 5000.0;
            let mut segments = Vec::new();
            for _ in 0..500 {
                let mut versions = Vec::new();
                let few = |random: f64| (1..7).filter(|&count| f64::from(count) <= random * 6.0 + 1.0).count();
                for _ in 0..few(next()) {
                    now += next().powi(4) * 20.0;
                    versions.push(now);
                }
                segments.push(versions);
            }
            let period = |time: f64| at(time).as_micros() / (hours * 3_600_000_000);
            let mut newest = std::collections::BTreeMap::new();
            for (position, versions) in segments.iter().enumerate() {
                versions.iter().enumerate().for_each(|(which, &at)| {
                    newest.insert(period(at), (position, which));
                });
            }
            let mut expected: Vec<_> = newest.into_values().collect();
            let last = segments.len() - 1;
            expected.retain(|&(position, _)| position != last);
            let kept = kept_of(&policy, now, &segments);
            let found = kept.iter().flat_map(|(position, versions)| versions.iter().map(|&which| (*position, which)));
            let found: Vec<_> = found.filter(|&(position, _)| position != last).collect();
            assert_eq!(found, expected, "{name}");
        }
    }
}

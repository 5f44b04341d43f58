//! [`Timestamp`]: when something was recorded.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in UTC, in microseconds, by the recorder's clock. Clocks can be set back, so [`Seq`](crate::units::Seq) defines the
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Range in microseconds: from 1970 to the end of 9999, the limits of the time library.
    const RANGE: std::ops::RangeInclusive<i64> = 0..=253_402_207_199_999_999;

    /// The system time, limited to the range: a wrong clock must not stop a node.
    pub fn now() -> Self {
        Self::from_system_time(SystemTime::now())
    }

    fn from_system_time(time: SystemTime) -> Self {
        // A time before 1970 is an error here.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX).min(*Self::RANGE.end()))
    }

    /// A moment given in microseconds since 1970-01-01T00:00:00Z; `None` outside the years 1970 to 9999.
    pub fn from_micros(micros: i64) -> Option<Self> {
        Self::RANGE.contains(&micros).then_some(Self(micros))
    }

    /// Microseconds since 1970-01-01T00:00:00Z, never negative.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Year, month, day, hour, minute, second, microsecond in UTC.
    pub fn to_civil(self) -> jiff::civil::DateTime {
        self.to_jiff().to_zoned(jiff::tz::TimeZone::UTC).datetime()
    }

    /// Converts to the type of the time library.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0).expect("BUG: a Timestamp is within the years 1970 to 9999")
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with six digits of the second: `2026-11-22T14:05:07.123456Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.to_jiff())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux accepts a clock up to the year 2232 only, but a virtual machine may have any, and so may files of other systems.
    #[test]
    fn a_clock_that_is_off_the_calendar_says_the_nearest_moment_that_there_is() {
        let at = |seconds: u64| Timestamp::from_system_time(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        let last = Timestamp(*Timestamp::RANGE.end());
        assert_eq!(at(253_402_207_199).as_micros(), 253_402_207_199_000_000);
        for beyond in [253_402_207_200, 253_402_300_800, 1 << 40, (i64::MAX / 1_000_000).unsigned_abs() + 1, 1 << 62] {
            assert_eq!(at(beyond), last, "{beyond}");
        }
        let before = UNIX_EPOCH - std::time::Duration::from_secs(1);
        assert_eq!(Timestamp::from_system_time(before).as_micros(), 0);
        assert!(Timestamp::now() > Timestamp(1_700_000_000_000_000));
    }

    #[test]
    fn displays_rfc_3339_to_the_microsecond() {
        let moment = Timestamp::from_micros(1_795_356_307_123_456).expect("in range");
        assert_eq!(moment.to_string(), "2026-11-22T14:05:07.123456Z");
        assert_eq!(Timestamp::from_micros(0).expect("in range").to_string(), "1970-01-01T00:00:00.000000Z");
        assert!(Timestamp::from_micros(-1).is_none());
        assert!(Timestamp::from_micros(*Timestamp::RANGE.end() + 1).is_none());
        assert_eq!(Timestamp(*Timestamp::RANGE.end()).to_string(), "9999-12-30T21:59:59.999999Z");
    }
}

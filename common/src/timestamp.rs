//! [`Timestamp`]: when something was recorded.

use std::fmt;

/// A moment in UTC, to the microsecond, as the recorder's clock had it. Clocks are set back: order is [`Seq`](crate::Seq)'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Microseconds of the earliest and the latest moment: 1970 to the end of 9999, as far as the time library goes.
    const RANGE: std::ops::RangeInclusive<i64> = 0..=253_402_207_199_999_999;

    /// Now, by the system clock.
    pub fn now() -> Self {
        Self::from_micros_clamped(jiff::Timestamp::now().as_microsecond())
    }

    /// A moment given in microseconds since 1970-01-01T00:00:00Z; `None` outside the years 1970 to 9999.
    pub fn from_micros(micros: i64) -> Option<Self> {
        Self::RANGE.contains(&micros).then_some(Self(micros))
    }

    /// Like [`from_micros`](Self::from_micros); a moment outside the range becomes the nearest inside: a clock gone mad
    /// must not stop a node.
    fn from_micros_clamped(micros: i64) -> Self {
        Self(micros.clamp(*Self::RANGE.start(), *Self::RANGE.end()))
    }

    /// Microseconds since 1970-01-01T00:00:00Z, never negative.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Year, month, day, hour, minute, second, microsecond in UTC.
    pub fn to_civil(self) -> jiff::civil::DateTime {
        self.to_jiff().to_zoned(jiff::tz::TimeZone::UTC).datetime()
    }

    /// As the type of the time library.
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

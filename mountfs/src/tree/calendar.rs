//! [`Period`]: the directories below `by-time`, which are periods of UTC time.

use std::ops::Range;

use common::{DataVersion, Timestamp};
use jiff::civil::{Date, DateTime, date};
use jiff::{Span, ToSpan as _};

/// A period of time that is a directory: all of it (`by-time` itself), a year, a month, a day or an hour.
///
/// A value is always a date that exists: the constructors are [`Period::Ever`], [`child_named`](Self::child_named),
/// [`child_at`](Self::child_at) and [`from_bits`](Self::from_bits), and all of them check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// All time: the directory `by-time`.
    Ever,
    /// `2026`.
    Year(i16),
    /// `2026/11`, given by its first day.
    Month(Date),
    /// `2026/11/22`.
    Day(Date),
    /// `2026/11/22/14h`: a day and an hour from 0 to 23.
    Hour(Date, i8),
}

impl Period {
    /// The finer period that contains this moment; `None` for an hour, whose content is links, and for a moment outside.
    pub fn child_at(self, moment: Timestamp) -> Option<Self> {
        if !self.span().contains(&moment.as_micros()) {
            return None;
        }
        let civil = moment.to_civil();
        match self {
            Self::Ever => Some(Self::Year(civil.year())),
            Self::Year(_) => Some(Self::Month(civil.date().first_of_month())),
            Self::Month(_) => Some(Self::Day(civil.date())),
            Self::Day(_) => Some(Self::Hour(civil.date(), civil.hour())),
            Self::Hour(..) => None,
        }
    }

    /// The directory with this name in this one, if a date can have it. Names have one spelling: `2026`, `07`, `09h`.
    pub fn child_named(self, name: &str) -> Option<Self> {
        let digits = match self {
            Self::Day(_) => name.strip_suffix('h')?,
            Self::Ever | Self::Year(_) | Self::Month(_) | Self::Hour(..) => name,
        };
        let width = if matches!(self, Self::Ever) { 4 } else { 2 };
        if digits.len() != width || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.child_numbered(digits.parse().ok()?)
    }

    /// The directory of this year, month, day or hour in this one; `None` if no date has it.
    pub fn child_numbered(self, number: i16) -> Option<Self> {
        let small = i8::try_from(number);
        match self {
            // Timestamps begin at 1970.
            Self::Ever => (1970..=9999).contains(&number).then_some(Self::Year(number)),
            Self::Year(year) => Date::new(year, small.ok()?, 1).ok().map(Self::Month),
            Self::Month(first) => Date::new(first.year(), first.month(), small.ok()?).ok().map(Self::Day),
            Self::Day(day) => small.ok().filter(|hour| (0..24).contains(hour)).map(|hour| Self::Hour(day, hour)),
            Self::Hour(..) => None,
        }
    }

    /// The parent directory; `None` for `by-time` itself.
    pub fn parent(self) -> Option<Self> {
        match self {
            Self::Ever => None,
            Self::Year(_) => Some(Self::Ever),
            Self::Month(first) => Some(Self::Year(first.year())),
            Self::Day(day) => Some(Self::Month(day.first_of_month())),
            Self::Hour(day, _) => Some(Self::Day(day)),
        }
    }

    /// The name in the parent directory.
    pub fn name(self) -> String {
        match self {
            Self::Ever => "by-time".to_owned(),
            Self::Year(year) => format!("{year:04}"),
            Self::Month(first) => format!("{:02}", first.month()),
            Self::Day(day) => format!("{:02}", day.day()),
            Self::Hour(_, hour) => format!("{hour:02}h"),
        }
    }

    /// The year, month, day or hour, which orders the directories of one parent by time. 0 for `by-time` itself.
    pub fn number(self) -> u16 {
        let number = match self {
            Self::Ever => 0,
            Self::Year(year) => year,
            Self::Month(first) => i16::from(first.month()),
            Self::Day(day) => i16::from(day.day()),
            Self::Hour(_, hour) => i16::from(hour),
        };
        number.unsigned_abs()
    }

    /// The first microsecond, and the first one after the period, since 1970.
    pub fn span(self) -> Range<i64> {
        let step: Span = match self {
            Self::Ever => return 0..i64::MAX,
            Self::Year(_) => 1.year(),
            Self::Month(_) => 1.month(),
            Self::Day(_) => 1.day(),
            Self::Hour(..) => 1.hour(),
        };
        let start = self.start();
        // The last year, month, day and hour of the calendar have no end in it.
        let end = start.checked_add(step).map_or(i64::MAX, micros);
        micros(start)..end
    }

    fn start(self) -> DateTime {
        match self {
            Self::Ever => date(1970, 1, 1).at(0, 0, 0, 0),
            Self::Year(year) => date(year, 1, 1).at(0, 0, 0, 0),
            Self::Month(day) | Self::Day(day) => day.at(0, 0, 0, 0),
            Self::Hour(day, hour) => day.at(hour, 0, 0, 0),
        }
    }

    /// The period as a number below 2^32, for an inode. Fields that the period does not have are 0; the hour is stored plus one.
    pub fn to_bits(self) -> u32 {
        let (year, month, day, hour) = match self {
            Self::Ever => (0, 0, 0, 0),
            Self::Year(year) => (year, 0, 0, 0),
            Self::Month(first) => (first.year(), first.month(), 0, 0),
            Self::Day(day) => (day.year(), day.month(), day.day(), 0),
            Self::Hour(day, hour) => (day.year(), day.month(), day.day(), hour + 1),
        };
        let field = |value: i8| u32::from(value.unsigned_abs());
        u32::from(year.unsigned_abs()) << 16 | field(month) << 12 | field(day) << 6 | field(hour)
    }

    /// The period of which [`to_bits`](Self::to_bits) returns this number; `None` if there is none.
    pub fn from_bits(bits: u32) -> Option<Self> {
        let field = |shift: u32, mask: u32| i16::try_from((bits >> shift) & mask).ok();
        let steps = [field(16, 0xffff)?, field(12, 0xf)?, field(6, 0x3f)?, field(0, 0x3f)? - 1];
        let absent = [0, 0, 0, -1];
        let mut period = Self::Ever;
        for (number, absent) in steps.into_iter().zip(absent) {
            if number == absent {
                break;
            }
            period = period.child_numbered(number)?;
        }
        (period.to_bits() == bits).then_some(period)
    }
}

/// Microseconds since 1970 of a date and time in UTC.
fn micros(moment: DateTime) -> i64 {
    let micros = moment.duration_since(Period::Ever.start()).as_micros();
    i64::try_from(micros).expect("BUG: years 1970 to 9999 fit into 64 bits of microseconds")
}

/// The name of the link to a version in the directory of its hour: `05m07.123456s-v123456`.
pub fn link_name(recorded_at: Timestamp, version: DataVersion) -> String {
    let civil = recorded_at.to_civil();
    let micros = civil.subsec_nanosecond() / 1000;
    format!("{:02}m{:02}.{micros:06}s-v{version}", civil.minute(), civil.second())
}

/// The version in the name of a link. The caller checks the rest of the name against [`link_name`].
pub fn version_in_link_name(name: &str) -> Option<DataVersion> {
    name.rsplit_once("-v")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let jiff: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_micros(jiff.as_microsecond()).unwrap()
    }

    fn walk(moment: Timestamp) -> Vec<Period> {
        std::iter::successors(Some(Period::Ever), |period| period.child_at(moment)).collect()
    }

    #[test]
    fn a_moment_is_in_five_nested_directories() {
        let periods = walk(at("2026-02-09T04:05:07.123456Z"));
        let names: Vec<_> = periods.iter().map(|period| period.name()).collect();
        assert_eq!(names, ["by-time", "2026", "02", "09", "04h"]);
        for pair in periods.windows(2) {
            assert_eq!(pair[1].parent(), Some(pair[0]));
            assert_eq!(pair[0].child_named(&pair[1].name()), Some(pair[1]));
        }
    }

    #[test]
    fn bits_name_one_period_and_no_other_number_does() {
        for moment in ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59.999999Z", "2026-11-22T14:05:07Z"] {
            for period in walk(at(moment)) {
                assert_eq!(Period::from_bits(period.to_bits()), Some(period));
            }
        }
        // Month 13, day without a month, hour 24, 30 February, a year before timestamps begin.
        let year = 2026 << 16;
        for bits in [year | 13 << 12, year | 5 << 6, year | 1 << 12 | 1 << 6 | 25, year | 2 << 12 | 30 << 6, 1969 << 16]
        {
            assert_eq!(Period::from_bits(bits), None, "{bits:#x}");
        }
    }

    #[test]
    fn spans_meet_without_gap_or_overlap() {
        let moment = at("2024-12-31T23:30:00Z");
        for period in walk(moment).into_iter().skip(1) {
            let span = period.span();
            assert!(span.contains(&moment.as_micros()));
            assert_eq!(span.end, at("2025-01-01T00:00:00Z").as_micros(), "{period:?}");
        }
        assert_eq!(Period::Year(9999).span().end, i64::MAX);
    }

    #[test]
    fn names_have_one_spelling() {
        let year = Period::Year(2026);
        for bad in ["", "1", "1 ", "+1", "00", "13", "001", "1h"] {
            assert_eq!(year.child_named(bad), None, "{bad:?}");
        }
        let day = Period::Day(date(2026, 11, 22));
        for bad in ["04", "4h", "24h", "-1h", "004h", "h", "04hh"] {
            assert_eq!(day.child_named(bad), None, "{bad:?}");
        }
        for bad in ["26", "1969", "02026", "+026", "latest"] {
            assert_eq!(Period::Ever.child_named(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_link_is_named_for_the_moment_and_the_version() {
        let version = DataVersion::new(123_456);
        let name = link_name(at("2026-11-22T14:05:07.000009Z"), version);
        assert_eq!(name, "05m07.000009s-v123456");
        assert_eq!(version_in_link_name(&name), Some(version));
        assert_eq!(version_in_link_name("05m07.000009s-v0123456"), None);
        assert_eq!(version_in_link_name("05m07.000009s"), None);
    }
}

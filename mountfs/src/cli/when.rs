//! [`Bound`]: the X of `--since X`, `--until X` and `--at X`.

use common::DataVersion;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// A version or a moment; what is asked for goes from or up to it, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Digits only.
    Version(DataVersion),
    /// Microseconds since 1970, UTC.
    Micros(i64),
}

impl Bound {
    /// The lower end: a day begins with its first microsecond.
    ///
    /// # Errors
    /// When it is neither a version nor a time.
    pub fn since(text: &str) -> Result<Self, String> {
        Self::parse(text).map(|(first, _)| first)
    }

    /// The upper end: a day, a minute, a second end with their last microsecond.
    ///
    /// # Errors
    /// When it is neither a version nor a time.
    pub fn until(text: &str) -> Result<Self, String> {
        Self::parse(text).map(|(_, last)| last)
    }

    /// The last microsecond of a time, and of nothing else.
    ///
    /// # Errors
    /// When it is no time.
    pub fn at(text: &str) -> Result<i64, String> {
        match Self::until(text)? {
            Self::Micros(last) => Ok(last),
            Self::Version(_) => Err("not a time; for a data_version there is --version".to_owned()),
        }
    }

    /// First and last microsecond of what was written.
    fn parse(text: &str) -> Result<(Self, Self), String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let version = text.trim_start_matches('0');
            let version = if version.is_empty() { "0" } else { version };
            return match version.parse() {
                Ok(version) => Ok((Self::Version(version), Self::Version(version))),
                Err(_) => Err("a data_version is at most 4294967295".to_owned()),
            };
        }
        let (start, step) = moment(text).ok_or(
            "neither a data_version nor a time; write 123456, 2026-11-22, '2026-11-22 14:05' or 2026-11-22T14:05:07Z",
        )?;
        Ok((Self::Micros(start), Self::Micros(start + step - 1)))
    }
}

/// The first microsecond of a moment and how many of them its precision covers.
fn moment(text: &str) -> Option<(i64, i64)> {
    const SECOND: i64 = 1_000_000;
    let step = match text.len() {
        10 => 24 * 60 * 60 * SECOND,
        16 => 60 * SECOND,
        _ if text.contains('.') => 1,
        _ => SECOND,
    };
    let utc = |civil: DateTime| civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp().as_microsecond());
    let start = match text.len() {
        10 => utc(text.parse::<Date>().ok()?.at(0, 0, 0, 0)),
        _ => match text.parse::<jiff::Timestamp>() {
            // With `Z` or an offset.
            Ok(timestamp) => Some(timestamp.as_microsecond()),
            Err(_) => utc(text.parse().ok()?),
        },
    };
    Some((start?, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn digits_are_a_version_and_all_else_is_a_time_in_utc() {
        assert_eq!(Bound::since("123456"), Ok(Bound::Version(DataVersion::new(123_456))));
        assert_eq!(Bound::until("007"), Ok(Bound::Version(DataVersion::new(7))));
        for (text, first, last) in [
            ("2026-11-22", "2026-11-22T00:00:00Z", "2026-11-22T23:59:59.999999Z"),
            ("2026-11-22 14:05", "2026-11-22T14:05:00Z", "2026-11-22T14:05:59.999999Z"),
            ("2026-11-22T14:05", "2026-11-22T14:05:00Z", "2026-11-22T14:05:59.999999Z"),
            ("2026-11-22 14:05:07", "2026-11-22T14:05:07Z", "2026-11-22T14:05:07.999999Z"),
            ("2026-11-22T14:05:07Z", "2026-11-22T14:05:07Z", "2026-11-22T14:05:07.999999Z"),
            ("2026-11-22T16:05:07+02:00", "2026-11-22T14:05:07Z", "2026-11-22T14:05:07.999999Z"),
            ("2026-11-22T14:05:07.123456Z", "2026-11-22T14:05:07.123456Z", "2026-11-22T14:05:07.123456Z"),
        ] {
            assert_eq!(Bound::since(text), Ok(Bound::Micros(micros(first))), "{text}");
            assert_eq!(Bound::until(text), Ok(Bound::Micros(micros(last))), "{text}");
        }
        assert_eq!(Bound::at("2026-11-22 14:05"), Ok(micros("2026-11-22T14:05:59.999999Z")));
        assert!(Bound::at("123456").unwrap_err().contains("--version"));
        for bad in ["", "yesterday", "2026-13-01", "2026-11-31", "4294967296", "-1", "14:05", "2026-11"] {
            assert!(Bound::since(bad).is_err(), "{bad:?}");
        }
    }
}

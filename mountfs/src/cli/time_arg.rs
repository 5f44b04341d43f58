//! [`Bound`]: the X of `--since X`, `--until X` and `--at X`.

use common::DataVersion;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A version or a moment, as an inclusive bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// A data_version, written as digits only.
    Version(DataVersion),
    /// A moment, in microseconds since 1970, UTC.
    Micros(i64),
}

impl Bound {
    /// Parses a lower bound: for a day its first microsecond.
    ///
    /// # Errors
    /// When it is neither a version nor a time.
    pub fn since(text: &str) -> Result<Self, String> {
        Self::parse(text).map(|(first, _)| first)
    }

    /// Parses an upper bound: for a day, a minute or a second its last microsecond.
    ///
    /// # Errors
    /// When it is neither a version nor a time.
    pub fn until(text: &str) -> Result<Self, String> {
        Self::parse(text).map(|(_, last)| last)
    }

    /// Parses a time, not a version; returns its last microsecond.
    ///
    /// # Errors
    /// When it is no time.
    pub fn at(text: &str) -> Result<i64, String> {
        match Self::until(text) {
            Ok(Self::Micros(last)) => Ok(last),
            Ok(Self::Version(_)) => Err("not a time; for a data_version there is --version".to_owned()),
            Err(_) => {
                Err("not a time; write 2026-11-22, '2026-11-22 14:05', 2026-11-22T14:05:07Z or …+01:00".to_owned())
            }
        }
    }

    /// The version, or the first and last microsecond of the time.
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

/// The first microsecond of a time, and the number of microseconds that its precision covers.
///
/// Accepts only the spellings in the message above, with or without an offset: in others the library would ignore a part, such
/// as the name of a time zone.
fn moment(text: &str) -> Option<(i64, i64)> {
    const SECOND: i64 = 1_000_000;
    let (date, rest) = text.split_at_checked(10)?;
    if !is_like(date, "0000-00-00") {
        return None;
    }
    if rest.is_empty() {
        let start = date.parse::<Date>().ok()?.at(0, 0, 0, 0).to_zoned(TimeZone::UTC).ok()?;
        return Some((start.timestamp().as_microsecond(), 24 * 60 * 60 * SECOND));
    }
    let clock = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, offset) = clock.split_at(clock.find(['Z', 'z', '+', '-']).unwrap_or(clock.len()));
    let (clock, digits) = clock.split_once('.').map_or((clock, None), |(clock, digits)| (clock, Some(digits)));
    let (seconds, fraction, step) = match digits {
        None if is_like(clock, "00:00") => (":00", "0", 60 * SECOND),
        None if is_like(clock, "00:00:00") => ("", "0", SECOND),
        Some(digits) if is_like(clock, "00:00:00") && is_like(digits, "000000000".get(..digits.len())?) => {
            // A moment, not a tenth of a second: printed times leave out trailing zeros.
            ("", digits, 1)
        }
        _ => return None,
    };
    let offset = match offset {
        "" | "z" => "Z",
        offset => offset,
    };
    let start: jiff::Timestamp = format!("{date}T{clock}{seconds}.{fraction}{offset}").parse().ok()?;
    Some((start.as_microsecond(), step))
}

/// Whether a text has digits where the pattern has zeros, and is equal to it elsewhere.
fn is_like(text: &str, pattern: &str) -> bool {
    let same = |(byte, like): (u8, u8)| if like == b'0' { byte.is_ascii_digit() } else { byte == like };
    !text.is_empty() && text.len() == pattern.len() && text.bytes().zip(pattern.bytes()).all(same)
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
            ("2026-11-22 14:05:07.5", "2026-11-22T14:05:07.5Z", "2026-11-22T14:05:07.5Z"),
            // A minute is one also where an offset follows; on the day when clocks are set back, too.
            ("2026-11-22T14:05Z", "2026-11-22T14:05:00Z", "2026-11-22T14:05:59.999999Z"),
            ("2026-10-25 02:30+02:00", "2026-10-25T00:30:00Z", "2026-10-25T00:30:59.999999Z"),
            ("2026-10-25 02:30+01:00", "2026-10-25T01:30:00Z", "2026-10-25T01:30:59.999999Z"),
            ("2026-10-25 02:30-0330", "2026-10-25T06:00:00Z", "2026-10-25T06:00:59.999999Z"),
        ] {
            assert_eq!(Bound::since(text), Ok(Bound::Micros(micros(first))), "{text}");
            assert_eq!(Bound::until(text), Ok(Bound::Micros(micros(last))), "{text}");
        }
        assert_eq!(Bound::at("2026-11-22 14:05"), Ok(micros("2026-11-22T14:05:59.999999Z")));
        assert!(Bound::at("123456").unwrap_err().contains("--version"));
        assert!(!Bound::at("now").unwrap_err().contains("data_version"));
        for bad in [
            "",
            "yesterday",
            "2026-13-01",
            "2026-11-31",
            "4294967296",
            "-1",
            "14:05",
            "2026-11",
            "2026-11-22 14",
            "2026-11-22 25:00",
            "2026-11-22Z",
            "2026-11-22T14:05:07.",
            "2026-11-22T14:05:07Zulu",
            // The library would ignore the name of the zone.
            "2026-11-22T14:05:07[Europe/Berlin]",
            "2026-11-22T14:05:07 CET",
            "20261122T140507Z",
            "2026-11-2é",
        ] {
            assert!(Bound::since(bad).is_err(), "{bad:?}");
        }
    }
}

//! [`ScrubInterval`]: how often the recorder reads everything back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::keep_policy::KeepSpan;

/// The default: a month.
const DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The word for never.
const OFF: &str = "off";

/// The time in which everything is read back once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrubInterval {
    /// Nothing is read back.
    Off,
    /// So often; not zero.
    Every(KeepSpan),
}

impl Default for ScrubInterval {
    fn default() -> Self {
        Self::Every(KeepSpan::of_seconds(DEFAULT.as_secs()))
    }
}

impl ScrubInterval {
    /// The time; `None` when nothing is read back.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::Every(span) => Some(span.duration()),
        }
    }
}

/// The text is no interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is the time in which everything is read back once, such as \"30d\" or \"12h\", or \"off\"")]
pub struct ParseScrubIntervalError;

impl FromStr for ScrubInterval {
    type Err = ParseScrubIntervalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == OFF {
            return Ok(Self::Off);
        }
        let span: KeepSpan = text.parse().map_err(|_| ParseScrubIntervalError)?;
        if span.duration().is_zero() { Err(ParseScrubIntervalError) } else { Ok(Self::Every(span)) }
    }
}

impl fmt::Display for ScrubInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str(OFF),
            Self::Every(span) => span.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_and_written() {
        for (text, seconds) in [("30d", Some(30 * 86_400)), ("12h", Some(43_200)), ("30s", Some(30)), ("off", None)] {
            let interval: ScrubInterval = text.parse().unwrap();
            assert_eq!(
                (interval.duration(), interval.to_string()),
                (seconds.map(Duration::from_secs), text.to_owned())
            );
        }
        for text in ["", "0d", "30", "d", "-1d", "never", "Off"] {
            assert_eq!(text.parse::<ScrubInterval>(), Err(ParseScrubIntervalError), "{text}");
        }
        assert_eq!(ScrubInterval::default().to_string(), "30d");
    }
}

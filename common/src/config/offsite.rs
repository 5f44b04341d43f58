//! [`OffsiteEntry`]: the key `offsite` of `backup.lock`, which names the off-site copies of a backup.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::keep_policy::KeepSpan;
use crate::config::offsite_wait::OffsiteWait;

/// When new changes are shipped to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Every {
    /// Each time after this span, if there are any.
    Span(Duration),
    /// When they are in a sealed segment.
    Segment,
}

/// Why a text is no [`Every`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no interval: write a number of seconds, minutes or hours (10s, 5m, 1h), or `segment`")]
pub struct EveryError(String);

impl Every {
    /// One day: with more, `segment` is meant.
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);
}

impl Default for Every {
    fn default() -> Self {
        Self::Span(Duration::from_secs(10))
    }
}

impl FromStr for Every {
    type Err = EveryError;

    fn from_str(text: &str) -> Result<Self, EveryError> {
        let error = || EveryError(text.to_owned());
        if text == "segment" {
            return Ok(Self::Segment);
        }
        let digits = text.trim_end_matches(|end: char| end.is_ascii_alphabetic());
        let seconds = match &text[digits.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(error()),
        };
        let number: u64 = digits.parse().map_err(|_| error())?;
        let span = Duration::from_secs(number.checked_mul(seconds).ok_or_else(error)?);
        if span.is_zero() || span > Self::MAX { Err(error()) } else { Ok(Self::Span(span)) }
    }
}

impl TryFrom<String> for Every {
    type Error = EveryError;

    fn try_from(text: String) -> Result<Self, EveryError> {
        text.parse()
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment => f.write_str("segment"),
            Self::Span(span) => match span.as_secs() {
                seconds if seconds % 3600 == 0 => write!(f, "{}h", seconds / 3600),
                seconds if seconds % 60 == 0 => write!(f, "{}m", seconds / 60),
                seconds => write!(f, "{seconds}s"),
            },
        }
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        every.to_string()
    }
}

/// How the objects of a copy are sealed, where that is not the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OffsiteSeal {
    /// Not encrypted.
    None,
}

/// An off-site copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffsiteEntry {
    /// Where it is: `s3://…`, `sftp://…` or `file:///…`.
    pub url: String,
    /// When changes are shipped.
    #[serde(default)]
    pub every: Every,
    /// The file with the credentials of a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// Recipients of age: only their identities open what this node ships.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// `none`: the copy is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<OffsiteSeal>,
    /// The proxy that a bucket is reached through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// How often a restore of the newest version is rehearsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearse: Option<KeepSpan>,
    /// How long answers to `lightningd` wait for the copy; without it, none ever does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<OffsiteWait>,
}

/// Why the keys of an [`OffsiteEntry`] do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffsiteEntryError {
    /// Answers would wait for changes that are shipped when they are sealed, after thousands of others.
    #[error(
        "offsite, {url}: answers cannot `wait` for a copy that gets sealed segments only; write a time for `every`, such as \"10s\", \
         or leave `wait` out"
    )]
    WaitForSegments {
        /// The URL of the copy.
        url: String,
    },
}

impl OffsiteEntry {
    /// Checks that the keys go together.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<(), OffsiteEntryError> {
        match (self.every, self.wait) {
            (Every::Segment, Some(_)) => Err(OffsiteEntryError::WaitForSegments { url: self.url.clone() }),
            (Every::Segment, None) | (Every::Span(_), _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_and_written() {
        let every = |text: &str| text.parse::<Every>();
        assert_eq!(every("10s"), Ok(Every::default()));
        assert_eq!(every("segment"), Ok(Every::Segment));
        for text in ["1s", "90s", "5m", "1h", "24h", "segment"] {
            assert_eq!(every(text).unwrap().to_string(), text);
        }
        for text in ["", "10", "s", "0s", "25h", "1d", "-1s", "99999999999999999999s", "18446744073709551615h", "1.5s"]
        {
            assert!(every(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_entry_needs_a_url_and_knows_its_keys() {
        let entry: OffsiteEntry = serde_json::from_str(r#"{"url": "s3://b/node"}"#).unwrap();
        assert_eq!((entry.every, entry.seal, entry.wait), (Every::default(), None, None));
        assert!(!serde_json::to_string(&entry).unwrap().contains("wait"));
        let with_null: OffsiteEntry = serde_json::from_str(r#"{"url": "s3://b/node", "wait": null}"#).unwrap();
        assert_eq!(with_null, entry, "null is as good as absent");
        let written = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<OffsiteEntry>(&written).unwrap(), entry);
        for bad in
            ["{}", r#"{"url": "x", "evry": "1s"}"#, r#"{"url": "x", "every": 10}"#, r#"{"url": "x", "seal": "no"}"#]
        {
            assert!(serde_json::from_str::<OffsiteEntry>(bad).is_err(), "{bad}");
        }
    }
}

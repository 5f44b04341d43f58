//! [`OnUnreachable`]: what the recorder does while the backup cannot be written to.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// The key `on_unreachable` of `backup.lock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnUnreachable {
    /// Keep `lightningd` waiting in the hook and retry for this long, then refuse.
    Wait(Duration),
    /// Refuse at once.
    Stop,
    /// Retry for a while, then record to a directory on this machine.
    Spool {
        /// The directory; an absolute path.
        directory: PathBuf,
        /// Time for which writes are retried before that.
        wait: Duration,
    },
}

impl Default for OnUnreachable {
    fn default() -> Self {
        Self::Wait(Duration::from_secs(30))
    }
}

impl OnUnreachable {
    /// Default time of retrying before a spool is created.
    const WAIT_BEFORE_SPOOL: Duration = Duration::from_secs(2);

    /// One day: `lightningd` is blocked while it waits, and its channels have deadlines.
    const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// Time for which `lightningd` waits for the backup at most.
    pub fn wait(&self) -> Duration {
        match self {
            Self::Wait(wait) | Self::Spool { wait, .. } => *wait,
            Self::Stop => Duration::ZERO,
        }
    }

    /// Parses the value of the key.
    ///
    /// # Errors
    /// A message that follows the name of the key.
    pub(crate) fn from_json(value: &Value) -> Result<Self, String> {
        const EXPECTED: &str = r#"expected "stop", {"wait_s": N} or {"spool": "/local/dir"}"#;
        let settings = match value {
            Value::String(word) if word == "stop" => return Ok(Self::Stop),
            Value::Object(settings) => settings,
            other => return Err(format!("{other} is not understood; {EXPECTED}")),
        };
        if let Some(unknown) = settings.keys().find(|key| !["wait_s", "spool"].contains(&key.as_str())) {
            return Err(format!("has an unknown key `{unknown}`; {EXPECTED}"));
        }
        let wait = settings.get("wait_s").map(wait_from_json).transpose()?;
        match (settings.get("spool"), wait) {
            (Some(directory), wait) => {
                let directory = directory.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
                let directory = directory.ok_or("has a `spool` that is not an absolute path of a local directory")?;
                Ok(Self::Spool { directory, wait: wait.unwrap_or(Self::WAIT_BEFORE_SPOOL) })
            }
            (None, Some(wait)) => Ok(Self::Wait(wait)),
            (None, None) => Err(format!("says nothing; {EXPECTED}")),
        }
    }

    /// The inverse of [`from_json`](Self::from_json).
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Stop => "stop".into(),
            Self::Wait(wait) => json!({ "wait_s": wait.as_secs() }),
            Self::Spool { directory, wait } => {
                let mut settings = Map::new();
                settings.insert("spool".to_owned(), directory.to_string_lossy().into());
                settings.insert("wait_s".to_owned(), wait.as_secs().into());
                settings.into()
            }
        }
    }
}

fn wait_from_json(value: &Value) -> Result<Duration, String> {
    let wait = value.as_u64().map(Duration::from_secs).filter(|&wait| wait <= OnUnreachable::WAIT_MAX);
    wait.ok_or_else(|| {
        let most = OnUnreachable::WAIT_MAX.as_secs();
        format!("has a `wait_s` of {value}; a whole number of seconds from 0 to {most} was expected")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_reads_back() {
        let directory = PathBuf::from("/var/spool/node");
        for policy in [
            OnUnreachable::default(),
            OnUnreachable::Stop,
            OnUnreachable::Wait(Duration::ZERO),
            OnUnreachable::Spool { directory, wait: Duration::from_secs(7) },
        ] {
            assert_eq!(OnUnreachable::from_json(&policy.to_json()), Ok(policy));
        }
        let short = OnUnreachable::from_json(&json!({"spool": "/s"})).unwrap();
        assert_eq!(short.wait(), OnUnreachable::WAIT_BEFORE_SPOOL);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |value: Value| OnUnreachable::from_json(&value).unwrap_err();
        assert!(message(json!("wait")).contains("\"wait\" is not understood"));
        assert!(message(json!(null)).contains("not understood"));
        assert!(message(json!({})).contains("says nothing"));
        assert!(message(json!({"wait": 3})).contains("`wait`"));
        assert!(message(json!({"wait_s": -3})).contains("-3"));
        assert!(message(json!({"wait_s": 1e9})).contains("0 to 86400"));
        assert!(message(json!({"spool": "here"})).contains("absolute"));
        assert!(message(json!({"spool": 7})).contains("absolute"));
    }
}

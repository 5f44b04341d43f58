//! [`OffsiteWait`]: the key `wait` of an off-site copy in `backup.lock`, by which answers to `lightningd` wait for the copy.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What becomes of a write whose answer has waited for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitThen {
    /// It is answered. No answer waits for the copy any more until the copy has caught up.
    GoOn,
    /// It is refused, so that the node stops.
    Stop,
}

impl WaitThen {
    /// The word in `backup.lock`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GoOn => "go_on",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for WaitThen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WaitThen {
    type Err = OffsiteWaitError;

    fn from_str(text: &str) -> Result<Self, OffsiteWaitError> {
        match text {
            "go_on" => Ok(Self::GoOn),
            "stop" => Ok(Self::Stop),
            other => Err(OffsiteWaitError::Then(format!("\"{other}\""))),
        }
    }
}

/// How far a copy may be behind before answers wait for it, and for how long they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct OffsiteWait {
    /// An answer waits while the copy lacks more records than this, that of the answer among them.
    changes: u64,
    /// The longest wait of an answer, in seconds.
    seconds: u64,
    /// What happens after that.
    then: WaitThen,
}

/// Why a value is no [`OffsiteWait`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffsiteWaitError {
    /// The value is not an object with the three keys and no others.
    #[error(
        "`wait` {0}; write {{\"changes\": 100, \"seconds\": 30, \"then\": \"go_on\"}}, or leave `wait` out, and nothing waits"
    )]
    Shape(String),
    /// The number of changes is none.
    #[error(
        "`wait` has `changes` {0}; write a whole number from 0 (each change is in the copy before it is answered) to {max}",
        max = OffsiteWait::CHANGES_MAX
    )]
    Changes(String),
    /// The number of seconds is none.
    #[error(
        "`wait` has `seconds` {0}; write a whole number from 1 to {max}: the node stands still while it waits, and its channels \
         have deadlines",
        max = OffsiteWait::SECONDS_MAX
    )]
    Seconds(String),
    /// The word is unknown.
    #[error("`wait` has `then` {0}; write \"go_on\" (the node goes on without the copy) or \"stop\" (the node stops)")]
    Then(String),
}

impl OffsiteWait {
    /// With more, nothing would ever wait.
    pub const CHANGES_MAX: u64 = 1_000_000;

    /// Ten minutes: the time of a block. The node stands still for that time.
    pub const SECONDS_MAX: u64 = 600;

    /// The keys of the value.
    const KEYS: [&str; 3] = ["changes", "seconds", "then"];

    /// A wait within the limits.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn new(changes: u64, seconds: u64, then: WaitThen) -> Result<Self, OffsiteWaitError> {
        if changes > Self::CHANGES_MAX {
            return Err(OffsiteWaitError::Changes(changes.to_string()));
        }
        if !(1..=Self::SECONDS_MAX).contains(&seconds) {
            return Err(OffsiteWaitError::Seconds(seconds.to_string()));
        }
        Ok(Self { changes, seconds, then })
    }

    /// The number of records that the copy may lack while answers are given.
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// The longest wait of an answer.
    pub const fn longest(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// What happens to an answer that has waited for so long.
    pub const fn then(&self) -> WaitThen {
        self.then
    }

    /// The number of missing records from which on they are shipped at once. It is half of what is allowed, so that an upload is
    /// under way before an answer has to wait for it.
    pub const fn ships_from(&self) -> u64 {
        self.changes / 2 + 1
    }

    fn from_map(map: &Map<String, Value>) -> Result<Self, OffsiteWaitError> {
        if let Some(unknown) = map.keys().find(|key| !Self::KEYS.contains(&key.as_str())) {
            return Err(OffsiteWaitError::Shape(format!("has an unknown key `{unknown}`")));
        }
        let get = |key| map.get(key).ok_or_else(|| OffsiteWaitError::Shape(format!("has no key `{key}`")));
        let (changes, seconds, then) = (get("changes")?, get("seconds")?, get("then")?);
        let then = then.as_str().ok_or_else(|| OffsiteWaitError::Then(then.to_string()))?.parse()?;
        let changes = changes.as_u64().ok_or_else(|| OffsiteWaitError::Changes(changes.to_string()))?;
        let seconds = seconds.as_u64().ok_or_else(|| OffsiteWaitError::Seconds(seconds.to_string()))?;
        Self::new(changes, seconds, then)
    }
}

impl TryFrom<Value> for OffsiteWait {
    type Error = OffsiteWaitError;

    fn try_from(value: Value) -> Result<Self, OffsiteWaitError> {
        match &value {
            Value::Object(map) => Self::from_map(map),
            other => Err(OffsiteWaitError::Shape(format!("is {other}, and no object"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wait_is_read_and_written() {
        for value in [
            json!({"changes": 100, "seconds": 30, "then": "go_on"}),
            json!({"changes": 0, "seconds": 1, "then": "stop"}),
            json!({"changes": 1_000_000, "seconds": 600, "then": "stop"}),
        ] {
            let wait: OffsiteWait = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(serde_json::to_value(wait).unwrap(), value);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_write_instead() {
        let message = |value: Value| OffsiteWait::try_from(value).unwrap_err().to_string();
        let with = |key: &str, value: Value| {
            let mut wait = json!({"changes": 100, "seconds": 30, "then": "go_on"});
            wait[key] = value;
            message(wait)
        };
        for (bad, needles) in [
            (with("changes", json!(-1)), ["`changes` -1", "from 0"]),
            (with("changes", json!(1.5)), ["`changes` 1.5", "to 1000000"]),
            (with("changes", json!(1_000_001)), ["`changes` 1000001", "to 1000000"]),
            (with("changes", json!("100")), ["`changes` \"100\"", "whole number"]),
            (with("changes", json!(null)), ["`changes` null", "whole number"]),
            (with("seconds", json!(0)), ["`seconds` 0", "from 1 to 600"]),
            (with("seconds", json!(-3)), ["`seconds` -3", "from 1 to 600"]),
            (with("seconds", json!(601)), ["`seconds` 601", "from 1 to 600"]),
            (with("seconds", json!(u64::MAX)), ["`seconds` 18446744073709551615", "from 1 to 600"]),
            (with("then", json!("halt")), ["`then` \"halt\"", "\"stop\""]),
            (with("then", json!(true)), ["`then` true", "\"go_on\""]),
            (with("chanegs", json!(1)), ["unknown key `chanegs`", "\"changes\": 100"]),
            (message(json!({"changes": 1, "seconds": 1})), ["no key `then`", "leave `wait` out"]),
            (message(json!({"seconds": 1, "then": "stop"})), ["no key `changes`", "\"seconds\": 30"]),
            (message(json!({"changes": 1, "then": "stop"})), ["no key `seconds`", "\"seconds\": 30"]),
            (message(json!(30)), ["is 30", "leave `wait` out"]),
            (message(json!([])), ["is []", "leave `wait` out"]),
        ] {
            assert!(needles.iter().all(|needle| bad.contains(needle)), "{needles:?}: {bad}");
        }
    }

    #[test]
    fn an_upload_begins_before_an_answer_has_to_wait() {
        let ships_from = |changes| OffsiteWait::new(changes, 30, WaitThen::GoOn).unwrap().ships_from();
        assert_eq!([0, 1, 2, 100].map(ships_from), [1, 1, 2, 51]);
    }
}

//! [`Stall`]: a time for which `lightningd` stood still because of its backup, as `backup-status` tells it.

use std::time::{Duration, Instant};

use common::Timestamp;
use serde_json::{Value, json};

/// Waiting that is shorter is not worth a word.
pub const STALL: Duration = Duration::from_secs(1);

/// What `lightningd` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The answer to a write.
    Write,
    /// The answer to `init`, before which the backup is opened.
    Opening,
}

impl Awaited {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "its write to be recorded",
            Self::Opening => "the backup to be opened",
        }
    }
}

/// How waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With what was waited for.
    Done,
    /// With a refusal.
    Refused,
}

/// A time for which `lightningd` waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// When that began: no two have the same.
    pub since: Instant,
    /// How long it took, or has taken so far.
    pub took: Duration,
    /// How it ended; `None` while it lasts.
    pub outcome: Option<Outcome>,
    /// What was waited for.
    pub awaited: Awaited,
    /// Why, as far as that is known.
    pub cause: Option<String>,
}

/// Those of this run.
#[derive(Debug, Clone, Default)]
pub struct Stalls {
    count: u64,
    last: Option<(Timestamp, Stall)>,
}

impl Stalls {
    /// One has begun, or what is known of the last one has changed.
    pub fn note(&mut self, stall: Stall) {
        match &mut self.last {
            Some((_, last)) if last.since == stall.since => {
                let cause = stall.cause.clone().or_else(|| last.cause.take());
                *last = Stall { cause, ..stall };
            }
            last => {
                let ago = i64::try_from(stall.since.elapsed().as_micros()).unwrap_or(0);
                let now = Timestamp::now();
                let began = Timestamp::from_micros(now.as_micros() - ago).unwrap_or(now);
                self.count += 1;
                *last = Some((began, stall));
            }
        }
    }

    /// Of the last one; with how long it has been, while it lasts.
    pub fn to_json(&self) -> Value {
        let last = self.last.as_ref().map(|(began, stall)| {
            let took = if stall.outcome.is_some() { stall.took } else { stall.since.elapsed() };
            json!({
                "began": began.to_string(),
                "seconds": took.as_millis() as f64 / 1000.0,
                "over": stall.outcome.is_some(),
                "refused": stall.outcome == Some(Outcome::Refused),
                "cause": stall.cause,
            })
        });
        json!({"count": self.count, "last": last})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_stall_again_is_no_second_one() {
        let since = Instant::now();
        let stall = |took, outcome, cause: Option<&str>| {
            let (took, cause) = (Duration::from_millis(took), cause.map(str::to_owned));
            Stall { since, took, outcome, awaited: Awaited::Write, cause }
        };
        let mut stalls = Stalls::default();
        assert_eq!(stalls.to_json(), json!({"count": 0, "last": null}));
        stalls.note(stall(1200, None, Some("a call hangs")));
        let told = stalls.to_json();
        assert_eq!((&told["count"], &told["last"]["over"]), (&json!(1), &json!(false)));
        assert_eq!(told["last"]["cause"], "a call hangs");
        stalls.note(stall(8100, Some(Outcome::Done), None));
        let told = stalls.to_json();
        assert_eq!((&told["count"], &told["last"]["seconds"]), (&json!(1), &json!(8.1)));
        assert_eq!((&told["last"]["over"], &told["last"]["refused"]), (&json!(true), &json!(false)));
        assert_eq!(told["last"]["cause"], "a call hangs", "what was known stays known");
        stalls.note(Stall { since: since + Duration::from_secs(60), ..stall(1000, Some(Outcome::Refused), None) });
        assert_eq!(stalls.to_json()["count"], 2);
        assert_eq!(stalls.to_json()["last"]["refused"], true);
    }
}

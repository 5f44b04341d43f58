//! [`Stall`]: a time for which `lightningd` waited for its backup, as `backup-status` reports it.

use std::time::{Duration, Instant};

use common::Timestamp;
use serde_json::{Value, json};

/// The shortest wait that is reported.
pub const STALL: Duration = Duration::from_secs(1);

/// The request that `lightningd` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The answer to a write.
    Write,
    /// The answer to `init`, before which the backup is opened.
    Opening,
    /// The answer to a write that is recorded, and that an off-site copy lacks.
    Copy,
}

impl Awaited {
    /// The text for messages: "lightningd has been waiting for …".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "its write to be recorded",
            Self::Opening => "the backup to be opened",
            Self::Copy => "an off-site copy to get its write",
        }
    }
}

/// The end of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The request was answered with success.
    Done,
    /// The request was refused.
    Refused,
}

/// A time for which `lightningd` waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// The start of the wait. It identifies the stall: no two begin at the same instant.
    pub since: Instant,
    /// The duration of the wait, so far if it lasts.
    pub took: Duration,
    /// The end of the wait; `None` while it lasts.
    pub outcome: Option<Outcome>,
    /// The request that `lightningd` waited for.
    pub awaited: Awaited,
    /// The reason, if it is known.
    pub cause: Option<String>,
}

/// The stalls of this run: their number, and the last one.
#[derive(Debug, Clone, Default)]
pub struct Stalls {
    count: u64,
    last: Option<(Timestamp, Stall)>,
}

impl Stalls {
    /// Records a new stall, or an update of the last one (which has the same `since`).
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

    /// The number of stalls and the last one, for `backup-status`. A stall that lasts is reported with its age.
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
    fn an_update_of_a_stall_is_not_counted_as_a_second_one() {
        let since = Instant::now();
        let stall = |took, outcome, cause: Option<&str>| {
            let (took, cause) = (Duration::from_millis(took), cause.map(str::to_owned));
            Stall { since, took, outcome, awaited: Awaited::Write, cause }
        };
        let mut stalls = Stalls::default();
        assert_eq!(stalls.to_json(), json!({"count": 0, "last": null}));
        stalls.note(stall(1200, None, Some("a call hangs")));
        let reported = stalls.to_json();
        assert_eq!((&reported["count"], &reported["last"]["over"]), (&json!(1), &json!(false)));
        assert_eq!(reported["last"]["cause"], "a call hangs");
        stalls.note(stall(8100, Some(Outcome::Done), None));
        let reported = stalls.to_json();
        assert_eq!((&reported["count"], &reported["last"]["seconds"]), (&json!(1), &json!(8.1)));
        assert_eq!((&reported["last"]["over"], &reported["last"]["refused"]), (&json!(true), &json!(false)));
        assert_eq!(reported["last"]["cause"], "a call hangs", "what was known stays known");
        stalls.note(Stall { since: since + Duration::from_secs(60), ..stall(1000, Some(Outcome::Refused), None) });
        assert_eq!(stalls.to_json()["count"], 2);
        assert_eq!(stalls.to_json()["last"]["refused"], true);
    }
}

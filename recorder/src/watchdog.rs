//! The watchdog: it reports long waits of `lightningd`, and refuses a write when a call to the destination does not return.
//!
//! A call to a network file system whose server is gone may never return, and nothing interrupts it. `lightningd` would wait
//! in the hook until its channels' deadlines have passed. So a separate thread checks several times a second, and answers in
//! place of the stuck recording thread, which then sends no answer of its own. Waits are reported by this thread, too, so that
//! the recording thread spends no time on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, process, thread};

use common::{InFlightCalls, OnUnreachable};

use crate::outgoing::Outgoing;
use crate::pending::Pending;
use crate::reply::{self, Code};
use crate::stalls::{Awaited, Outcome, STALL, Stall};
use crate::status::Status;

/// The minimum timeout of a call: a disk that spins up may need as long. A longer `wait_s` counts instead.
pub const HANG_AT_LEAST: Duration = Duration::from_secs(10);

/// The interval of the checks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The time that a stuck call gets after the refusal. Then the process ends, which releases the lock of the backup for the
/// next recorder.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// The timeout of a call to the destination.
fn timeout(policy: &OnUnreachable) -> Duration {
    policy.wait().max(HANG_AT_LEAST)
}

/// The name of what is watched: the backup, or the spool if there is one. With a spool, a hanging call to the backup is left
/// behind, and only a call to the spool can block.
fn destination(policy: &OnUnreachable, backup: &str) -> String {
    match policy {
        OnUnreachable::Wait(_) | OnUnreachable::Stop => backup.to_owned(),
        OnUnreachable::Spool { directory, .. } => format!("the spool {}", directory.display()),
    }
}

/// The state that the recording thread shares with the watchdog.
#[derive(Debug, Default)]
pub struct Watched {
    /// The request that `lightningd` waits for.
    pub pending: Pending,
    /// The calls of the writer that have not returned.
    pub in_flight: Arc<InFlightCalls>,
    /// `None` until a backup is being opened.
    limit: Mutex<Option<Limit>>,
}

/// The limits for the calls that are watched.
#[derive(Debug, Clone)]
struct Limit {
    /// The target of calls that the recording thread has to wait for.
    destination: String,
    /// The target of all other calls, which are left behind when they hang: the URL of the backup.
    backup: String,
    /// The timeout of a call to `destination`.
    timeout: Duration,
}

impl Watched {
    /// Sets the limits that follow from the policy. Called when the backup is opened.
    pub fn set_limit(&self, policy: &OnUnreachable, backup: &str) {
        let limit =
            Limit { destination: destination(policy, backup), backup: backup.to_owned(), timeout: timeout(policy) };
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = Some(limit);
    }

    fn limit(&self) -> Option<Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a write that is stuck in a call: returns its request id and the text of the refusal.
    fn take_over(&self) -> Option<(String, String)> {
        let Limit { destination, timeout, .. } = self.limit()?;
        let stuck = self.in_flight.longest().filter(|&stuck| stuck >= timeout)?;
        let id = self.pending.take_over(timeout)?;
        let text = format!(
            "backup-recorder did not record this write, so lightningd must not commit it: {destination} has not answered for {} \
             s. Make it answer again (the network, the server, the disk) or unmount it, then start lightningd: nothing is \
             lost",
            stuck.as_secs()
        );
        Some((id, text))
    }

    /// The call that `lightningd` waits for, as text, if it has run for half of [`STALL`] or longer.
    fn call_that_hangs(&self) -> Option<String> {
        let limit = self.limit()?;
        let hung = |since: Option<Duration>| since.filter(|&since| since >= STALL / 2);
        let (destination, since) = match (hung(self.in_flight.longest()), hung(self.in_flight.longest_with_deadline()))
        {
            (Some(since), _) => (limit.destination, since),
            (None, Some(since)) => (limit.backup, since),
            (None, None) => return None,
        };
        Some(format!("{destination} has not answered for {:.1} s", since.as_secs_f32()))
    }
}

/// Reports waits in the log and the status: when one has become long, and when it is over.
#[derive(Debug, Default)]
struct StallReporter {
    /// The start of the wait that was reported last.
    reported: Option<Instant>,
}

impl StallReporter {
    fn look(&mut self, watched: &Watched, status: &Status) {
        for mut stall in watched.pending.take_stalls() {
            let waits_for = stall.awaited.name();
            if stall.outcome.is_none() && self.reported != Some(stall.since) {
                self.reported = Some(stall.since);
                // A failed attempt has been logged by the recording thread.
                let is_logged = stall.cause.is_some() && stall.awaited != Awaited::Copy;
                stall.cause = stall.cause.or_else(|| watched.call_that_hangs());
                let cause =
                    stall.cause.as_deref().unwrap_or("the recorder still works on it, or the machine is very busy");
                let text = format!(
                    "lightningd has been waiting for {waits_for} for {:.1} s, and stands still meanwhile: {cause}",
                    stall.took.as_secs_f32()
                );
                if !is_logged {
                    log::warn!("{text}");
                }
                status.problem(text);
            }
            if let Stall { outcome: Some(outcome), took, .. } = &stall {
                // A refusal is reported where it is made.
                if *outcome == Outcome::Done {
                    let why = stall.cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
                    let text = format!(
                        "lightningd goes on: it has waited {:.1} s for {waits_for}{why}. Nothing is lost by that",
                        took.as_secs_f32()
                    );
                    log::warn!("{text}");
                    // Whether the node went on without the copy is said where that is decided.
                    if stall.awaited != Awaited::Copy {
                        status.problem(text);
                    }
                }
            }
            status.stall(stall);
        }
    }
}

/// Starts the watchdog. It ends the process when a call stays stuck after its write was refused: `lightningd` stops then.
///
/// # Errors
/// When no thread can be started.
pub fn spawn(watched: Arc<Watched>, outgoing: Arc<Outgoing>, status: Arc<Status>) -> io::Result<()> {
    thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        let mut reporter = StallReporter::default();
        loop {
            thread::sleep(LOOK_EVERY);
            reporter.look(&watched, &status);
            if let Some((id, text)) = watched.take_over() {
                refuse(&id, text, &outgoing, &status);
                thread::sleep(LAST_CHANCE);
                if watched.pending.is_refused() {
                    process::exit(1);
                }
            }
        }
    })?;
    Ok(())
}

fn refuse(id: &str, text: String, outgoing: &Outgoing, status: &Status) {
    log::error!("{text}");
    let mut reply = Vec::new();
    reply::write_error(&mut reply, Some(id), Code::NotRecorded, &text);
    if outgoing.send(&reply).is_err() {
        log::debug!("lightningd is gone already");
    }
    status.problem(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_is_wait_s_or_the_minimum() {
        assert_eq!(timeout(&OnUnreachable::Stop), HANG_AT_LEAST);
        assert_eq!(timeout(&OnUnreachable::Wait(Duration::from_secs(1))), HANG_AT_LEAST);
        assert_eq!(timeout(&OnUnreachable::Wait(Duration::from_secs(60))), Duration::from_secs(60));
    }

    #[test]
    fn nothing_is_taken_over_between_calls_or_before_a_backup_is_opened() {
        let watched = Watched::default();
        watched.pending.begin("\"a\"");
        assert_eq!(watched.take_over(), None);
        watched.set_limit(&OnUnreachable::Stop, "file:///a");
        assert_eq!(watched.take_over(), None, "no call is running");
    }

    #[test]
    fn a_long_wait_is_reported_when_it_begins_and_when_it_is_over() {
        let (watched, status, mut reporter) = (Watched::default(), Status::default(), StallReporter::default());
        watched.set_limit(&OnUnreachable::Stop, "file:///a");
        watched.pending.begin("\"a\"");
        reporter.look(&watched, &status);
        assert_eq!(status.to_json()["stalls"]["count"], 0, "it has only just begun");
        thread::sleep(STALL);
        reporter.look(&watched, &status);
        reporter.look(&watched, &status);
        let reported = status.to_json();
        assert_eq!(
            (&reported["stalls"]["count"], &reported["stalls"]["last"]["over"]),
            (&1.into(), &false.into()),
            "{reported}"
        );
        let problem =
            |reported: &serde_json::Value| reported["last_problem"]["text"].as_str().unwrap_or_default().to_owned();
        assert!(problem(&reported).contains("has been waiting for its write to be recorded for 1."), "{reported}");
        watched.pending.note_trouble("cannot write: no room");
        watched.pending.end(Outcome::Done);
        reporter.look(&watched, &status);
        let reported = status.to_json();
        assert_eq!(
            (&reported["stalls"]["count"], &reported["stalls"]["last"]["over"]),
            (&1.into(), &true.into()),
            "{reported}"
        );
        assert!(reported["stalls"]["last"]["seconds"].as_f64() >= Some(1.0), "{reported}");
        assert!(
            problem(&reported).contains("goes on: it has waited 1.") && problem(&reported).contains("no room"),
            "{reported}"
        );
    }

    #[test]
    fn a_refusal_stays_the_last_problem() {
        let (watched, status, mut reporter) = (Watched::default(), Status::default(), StallReporter::default());
        watched.pending.begin("\"a\"");
        watched.pending.note_trouble("no room");
        watched.pending.end(Outcome::Refused);
        status.problem("refused".to_owned());
        reporter.look(&watched, &status);
        let reported = status.to_json();
        assert_eq!(
            (&reported["last_problem"]["text"], &reported["stalls"]["last"]["refused"]),
            (&"refused".into(), &true.into())
        );
    }
}

//! The watchdog: tells when `lightningd` waits for long, and refuses a write when a call to the backup's place does not
//! return.
//!
//! A network file system whose server is gone can keep a call for ever, and nothing interrupts it. `lightningd` would wait
//! in the hook until its channels' deadlines have passed. So a thread of its own looks several times a second, and answers
//! in place of the one that is stuck, which finds that out when it comes back and says nothing. What is to be said of
//! waiting is said here, too: the thread that records has no time for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, process, thread};

use common::{InFlightCalls, OnUnreachable};

use crate::outgoing::Outgoing;
use crate::pending::Pending;
use crate::reply::{self, Code};
use crate::stalls::{Outcome, STALL, Stall};
use crate::status::Status;

/// A call that takes this long may be a disk that spins up; with a longer `wait_s` the call gets that long.
pub const HANG_AT_LEAST: Duration = Duration::from_secs(10);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a call that was given up may go on before the process ends, and with it the lock of the backup, so that the
/// next recorder finds it free.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// How long a call to the backup's place may take.
fn timeout(policy: &OnUnreachable) -> Duration {
    policy.wait().max(HANG_AT_LEAST)
}

/// Where calls are watched: the backup's place, unless there is a spool. A call to the backup is left behind then, and only
/// one to the spool can be stuck.
fn place(policy: &OnUnreachable, backup: &str) -> String {
    match policy {
        OnUnreachable::Wait(_) | OnUnreachable::Stop => backup.to_owned(),
        OnUnreachable::Spool { directory, .. } => format!("the spool {}", directory.display()),
    }
}

/// What the watchdog watches.
#[derive(Debug, Default)]
pub struct Watched {
    /// The write that is being recorded.
    pub pending: Pending,
    /// The call that the recording is in.
    pub in_flight: Arc<InFlightCalls>,
    /// `None` until a backup is being opened.
    limit: Mutex<Option<Limit>>,
}

/// What is known of the calls that are watched.
#[derive(Debug, Clone)]
struct Limit {
    /// Where calls are made to that nothing can interrupt.
    place: String,
    /// Where all others are made to: those that are left behind when they hang.
    backup: String,
    /// How long one of the first kind may take.
    timeout: Duration,
}

impl Watched {
    /// From now on this backup is recorded to, in this manner.
    pub fn set_limit(&self, policy: &OnUnreachable, backup: &str) {
        let limit = Limit { place: place(policy, backup), backup: backup.to_owned(), timeout: timeout(policy) };
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = Some(limit);
    }

    fn limit(&self) -> Option<Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over the write whose recording is stuck in a call, if there is one: its id, and the refusal.
    fn take_over(&self) -> Option<(String, String)> {
        let Limit { place, timeout, .. } = self.limit()?;
        let stuck = self.in_flight.longest().filter(|&stuck| stuck >= timeout)?;
        let id = self.pending.take_over(timeout)?;
        let text = format!(
            "backup-recorder did not record this write, so lightningd must not commit it: {place} has not answered for {} \
             s. Make it answer again (the network, the server, the disk) or unmount it, then start lightningd: nothing is \
             lost",
            stuck.as_secs()
        );
        Some((id, text))
    }

    /// Which call `lightningd` waits for, if it is a call that has not returned for some time.
    fn call_that_hangs(&self) -> Option<String> {
        let limit = self.limit()?;
        let hung = |since: Option<Duration>| since.filter(|&since| since >= STALL / 2);
        let (place, since) = match (hung(self.in_flight.longest()), hung(self.in_flight.in_leavable_call_for())) {
            (Some(since), _) => (limit.place, since),
            (None, Some(since)) => (limit.backup, since),
            (None, None) => return None,
        };
        Some(format!("{place} has not answered for {:.1} s", since.as_secs_f32()))
    }
}

/// Tells of waiting: when it has begun, and when it is over.
#[derive(Debug, Default)]
struct Teller {
    /// Since when `lightningd` had been waiting when it was told last that it does.
    told: Option<Instant>,
}

impl Teller {
    fn look(&mut self, watched: &Watched, status: &Status) {
        for mut stall in watched.pending.take_stalls() {
            let waits_for = stall.awaited.name();
            if stall.outcome.is_none() && self.told != Some(stall.since) {
                self.told = Some(stall.since);
                // A failed attempt has been told by whoever made it.
                let is_told = stall.cause.is_some();
                stall.cause = stall.cause.or_else(|| watched.call_that_hangs());
                let cause =
                    stall.cause.as_deref().unwrap_or("the recorder is still at it, or the machine is very busy");
                let text = format!(
                    "lightningd has been waiting for {waits_for} for {:.1} s, and stands still meanwhile: {cause}",
                    stall.took.as_secs_f32()
                );
                if !is_told {
                    log::warn!("{text}");
                }
                status.problem(text);
            }
            if let Stall { outcome: Some(outcome), took, .. } = &stall {
                // A refusal is told by whoever refuses.
                if *outcome == Outcome::Done {
                    let why = stall.cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
                    let text = format!(
                        "lightningd goes on: it has waited {:.1} s for {waits_for}{why}. Nothing is lost by that",
                        took.as_secs_f32()
                    );
                    log::warn!("{text}");
                    status.problem(text);
                }
            }
            status.stall(stall);
        }
    }
}

/// Starts it. It ends the process when a call stays stuck after its write was refused: that write was the last of the run.
///
/// # Errors
/// When no thread can be started.
pub fn spawn(watched: Arc<Watched>, outgoing: Arc<Outgoing>, status: Arc<Status>) -> io::Result<()> {
    thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        let mut teller = Teller::default();
        loop {
            thread::sleep(LOOK_EVERY);
            teller.look(&watched, &status);
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
    fn a_slow_disk_is_given_time_and_a_patient_operator_more() {
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
    fn a_long_wait_is_told_when_it_has_begun_and_when_it_is_over_and_stays() {
        let (watched, status, mut teller) = (Watched::default(), Status::default(), Teller::default());
        watched.set_limit(&OnUnreachable::Stop, "file:///a");
        watched.pending.begin("\"a\"");
        teller.look(&watched, &status);
        assert_eq!(status.to_json()["stalls"]["count"], 0, "it has only just begun");
        thread::sleep(STALL);
        teller.look(&watched, &status);
        teller.look(&watched, &status);
        let told = status.to_json();
        assert_eq!((&told["stalls"]["count"], &told["stalls"]["last"]["over"]), (&1.into(), &false.into()), "{told}");
        let problem = |told: &serde_json::Value| told["last_problem"]["text"].as_str().unwrap_or_default().to_owned();
        assert!(problem(&told).contains("has been waiting for its write to be recorded for 1."), "{told}");
        watched.pending.note_trouble("cannot write: no room");
        watched.pending.end(Outcome::Done);
        teller.look(&watched, &status);
        let told = status.to_json();
        assert_eq!((&told["stalls"]["count"], &told["stalls"]["last"]["over"]), (&1.into(), &true.into()), "{told}");
        assert!(told["stalls"]["last"]["seconds"].as_f64() >= Some(1.0), "{told}");
        assert!(problem(&told).contains("goes on: it has waited 1.") && problem(&told).contains("no room"), "{told}");
    }

    #[test]
    fn a_refusal_is_not_covered_by_how_long_it_took() {
        let (watched, status, mut teller) = (Watched::default(), Status::default(), Teller::default());
        watched.pending.begin("\"a\"");
        watched.pending.note_trouble("no room");
        watched.pending.end(Outcome::Refused);
        status.problem("refused".to_owned());
        teller.look(&watched, &status);
        let told = status.to_json();
        assert_eq!(
            (&told["last_problem"]["text"], &told["stalls"]["last"]["refused"]),
            (&"refused".into(), &true.into())
        );
    }
}

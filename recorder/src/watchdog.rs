//! The watchdog: refuses a write when a call to the backup's place does not return.
//!
//! A network file system whose server is gone can keep a call for ever, and nothing interrupts it. `lightningd` would wait
//! in the hook until its channels' deadlines have passed. So a thread of its own looks once a second, and answers in place
//! of the one that is stuck, which finds that out when it comes back and says nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, process, thread};

use common::{OnUnreachable, Pulse};

use crate::outgoing::Outgoing;
use crate::pending::Pending;
use crate::reply::{self, Code};
use crate::status::Status;

/// A call that takes this long may be a disk that spins up; with a longer `wait_s` the call gets that long.
pub const HANG_AT_LEAST: Duration = Duration::from_secs(10);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a call that was given up may go on before the process ends, and with it the lock of the backup, so that the
/// next recorder finds it free.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// How long a call to the backup's place may take.
pub fn patience(policy: &OnUnreachable) -> Duration {
    policy.wait().max(HANG_AT_LEAST)
}

/// Where calls are watched: the backup's place, unless there is a spool. A call to the backup is left behind then, and only
/// one to the spool can be stuck.
pub fn place(policy: &OnUnreachable, backup: &str) -> String {
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
    pub pulse: Arc<Pulse>,
    /// Where calls are made to, and how long one may take; `None` until a backup is being opened.
    limit: Mutex<Option<(String, Duration)>>,
}

impl Watched {
    /// From now on calls are to `place`, and may take this long.
    pub fn set_limit(&self, place: String, patience: Duration) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = Some((place, patience));
    }

    fn limit(&self) -> Option<(String, Duration)> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over the write whose recording is stuck in a call, if there is one: its id, and the refusal.
    fn take_over(&self) -> Option<(String, String)> {
        let (place, patience) = self.limit()?;
        let stuck = self.pulse.in_call_for().filter(|&stuck| stuck >= patience)?;
        let id = self.pending.take_over(patience)?;
        let text = format!(
            "backup-recorder did not record this write, so lightningd must not commit it: {place} has not answered for {} \
             s. Make it answer again (the network, the server, the disk) or unmount it, then start lightningd: nothing is \
             lost",
            stuck.as_secs()
        );
        Some((id, text))
    }
}

/// Starts it. It ends the process when a call stays stuck after its write was refused: that write was the last of the run.
///
/// # Errors
/// When no thread can be started.
pub fn spawn(watched: Arc<Watched>, outgoing: Arc<Outgoing>, status: Arc<Status>) -> io::Result<()> {
    thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        loop {
            thread::sleep(LOOK_EVERY);
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
        assert_eq!(patience(&OnUnreachable::Stop), HANG_AT_LEAST);
        assert_eq!(patience(&OnUnreachable::Wait(Duration::from_secs(1))), HANG_AT_LEAST);
        assert_eq!(patience(&OnUnreachable::Wait(Duration::from_secs(60))), Duration::from_secs(60));
    }

    #[test]
    fn nothing_is_taken_over_between_calls_or_before_a_backup_is_opened() {
        let watched = Watched::default();
        watched.pending.begin("\"a\"");
        assert_eq!(watched.take_over(), None);
        watched.set_limit("file:///a".to_owned(), Duration::ZERO);
        assert_eq!(watched.take_over(), None, "no call is running");
    }
}

//! [`Waiting`]: the pauses between attempts while the backup is out of reach. `lightningd` waits in the hook meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use crate::answer::Refusal;

/// The first pause between two attempts; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The interval of the log line "waiting for …".
const SAY_EVERY: Duration = Duration::from_secs(1);

/// The interval of that line after this time.
const SAY_LATER_EVERY: Duration = Duration::from_secs(10);

/// The retries of one write, from its first failure on.
#[derive(Debug)]
pub struct Waiting {
    began: Instant,
    timeout: Duration,
    pause: Duration,
    next_line: Duration,
}

impl Waiting {
    /// Begins a wait of at most `timeout`.
    pub fn begin(timeout: Duration) -> Self {
        Self { began: Instant::now(), timeout, pause: FIRST_PAUSE, next_line: Duration::ZERO }
    }

    /// Sleeps until the next attempt. `destination` and `then` are for the log: the URL of the backup, and what happens after the
    /// timeout.
    ///
    /// # Errors
    /// The refusal for `lightningd`, when the timeout has passed.
    pub fn pause(&mut self, destination: &str, trouble: &str, then: &str) -> Result<(), Refusal> {
        let waited = self.began.elapsed();
        let Some(left) = self.timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
            return Err(self.give_up(destination, trouble));
        };
        if waited >= self.next_line {
            self.next_line = waited + if waited < SAY_LATER_EVERY { SAY_EVERY } else { SAY_LATER_EVERY };
            log::warn!("waiting for {destination}, {} s left, then {then}: {trouble}", left.as_secs_f64().ceil());
        }
        thread::sleep(self.pause.min(left));
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        Ok(())
    }

    fn give_up(&self, destination: &str, trouble: &str) -> Refusal {
        let tried = match self.timeout {
            Duration::ZERO => "backup.lock says \"on_unreachable\": \"stop\", so that it is not tried again".to_owned(),
            timeout => format!("It was tried again for {} s (`wait_s` in backup.lock)", timeout.as_secs()),
        };
        Refusal(format!(
            "{trouble}. {tried}. Make {destination} reachable again (mounted, writable, with room on its disk), then start \
             lightningd: nothing is lost"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_zero_refuses_at_once_with_the_reason() {
        let mut waiting = Waiting::begin(Duration::ZERO);
        let Refusal(text) = waiting.pause("file:///a", "cannot write /a/log: No space left", "refusing").unwrap_err();
        assert!(text.starts_with("cannot write /a/log: No space left. "), "{text}");
        assert!(text.contains("\"stop\"") && text.contains("file:///a"), "{text}");
    }

    #[test]
    fn it_waits_for_the_timeout() {
        let timeout = Duration::from_millis(120);
        let mut waiting = Waiting::begin(timeout);
        let mut attempts = 0;
        while waiting.pause("file:///a", "gone", "refusing").is_ok() {
            attempts += 1;
        }
        assert!(waiting.began.elapsed() >= timeout && (2..=3).contains(&attempts), "{attempts} attempts");
    }
}

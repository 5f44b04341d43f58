//! [`Waiting`]: keeping `lightningd` in the hook while the backup's place is out of reach.

use std::thread;
use std::time::{Duration, Instant};

use crate::answer::Refusal;

/// The pauses between attempts begin with this and double up to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often the log says that it is still waiting.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// How often it says so when it has said it for as long.
const SAY_LATER_EVERY: Duration = Duration::from_secs(10);

/// One wait, from the first failure of a write on.
#[derive(Debug)]
pub struct Waiting {
    began: Instant,
    timeout: Duration,
    pause: Duration,
    next_line: Duration,
}

impl Waiting {
    /// Begins to wait for at most so long.
    pub fn begin(timeout: Duration) -> Self {
        Self { began: Instant::now(), timeout, pause: FIRST_PAUSE, next_line: Duration::ZERO }
    }

    /// Sleeps until it is worth another attempt. `place` is what is waited for, `then` what comes if it is in vain.
    ///
    /// # Errors
    /// When the time is up: what `lightningd` is told.
    pub fn pause(&mut self, place: &str, trouble: &str, then: &str) -> Result<(), Refusal> {
        let waited = self.began.elapsed();
        let Some(left) = self.timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
            return Err(self.give_up(place, trouble));
        };
        if waited >= self.next_line {
            self.next_line = waited + if waited < SAY_LATER_EVERY { SAY_EVERY } else { SAY_LATER_EVERY };
            log::warn!("waiting for {place}, {} s left, then {then}: {trouble}", left.as_secs_f64().ceil());
        }
        thread::sleep(self.pause.min(left));
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        Ok(())
    }

    fn give_up(&self, place: &str, trouble: &str) -> Refusal {
        let tried = match self.timeout {
            Duration::ZERO => "backup.lock says \"on_unreachable\": \"stop\", so that it is not tried again".to_owned(),
            timeout => format!("It was tried again for {} s (`wait_s` in backup.lock)", timeout.as_secs()),
        };
        Refusal(format!(
            "{trouble}. {tried}. Make {place} reachable again (mounted, writable, with room on its disk), then start \
             lightningd: nothing is lost"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_patience_is_a_refusal_at_once_that_says_why() {
        let mut waiting = Waiting::begin(Duration::ZERO);
        let Refusal(text) = waiting.pause("file:///a", "cannot write /a/log: No space left", "refusing").unwrap_err();
        assert!(text.starts_with("cannot write /a/log: No space left. "), "{text}");
        assert!(text.contains("\"stop\"") && text.contains("file:///a"), "{text}");
    }

    #[test]
    fn it_waits_for_as_long_as_it_was_told() {
        let timeout = Duration::from_millis(120);
        let mut waiting = Waiting::begin(timeout);
        let mut attempts = 0;
        while waiting.pause("file:///a", "gone", "refusing").is_ok() {
            attempts += 1;
        }
        assert!(waiting.began.elapsed() >= timeout && (2..=3).contains(&attempts), "{attempts} attempts");
    }
}

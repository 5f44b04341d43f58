//! [`Link`]: how fast the answers of a server come, as over a link that all its connections share.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are sent at once: other connections get their turn in between.
pub(super) const PIECE: usize = 16 << 10;

/// How far a body may catch up with the link after its thread was woken late, or its client has read late.
const CATCH_UP: Duration = Duration::from_millis(5);

/// The link: how many bytes it takes in a second, and when it is free again.
pub(super) struct Link {
    state: Mutex<State>,
}

struct State {
    bytes_per_second: Option<u64>,
    free_at: Instant,
}

impl Link {
    /// A link as fast as loopback.
    pub(super) fn unlimited() -> Self {
        Self { state: Mutex::new(State { bytes_per_second: None, free_at: Instant::now() }) }
    }

    pub(super) fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { bytes_per_second, free_at: Instant::now() };
    }

    /// Returns when the link has taken so many bytes of a body that began to be sent at `began`.
    pub(super) fn take(&self, bytes: usize, began: Instant) {
        let until = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(bytes_per_second) = state.bytes_per_second else { return };
            let now = Instant::now();
            let earliest = now.checked_sub(CATCH_UP).map_or(began, |earliest| earliest.max(began));
            state.free_at = state.free_at.max(earliest) + time_of(bytes, bytes_per_second);
            state.free_at
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// How long the link is busy with so many bytes.
fn time_of(bytes: usize, bytes_per_second: u64) -> Duration {
    let nanos = (bytes as u64).saturating_mul(1_000_000_000) / bytes_per_second.max(1);
    Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_share_of_a_second() {
        assert_eq!(time_of(6_250_000, 6_250_000), Duration::from_secs(1));
        assert_eq!(time_of(16 << 10, 6_250_000), Duration::from_nanos(2_621_440));
        assert_eq!(time_of(1, 0), Duration::from_secs(1));
    }

    #[test]
    fn connections_share_the_link() {
        let link = Link::unlimited();
        let began = Instant::now();
        link.take(1 << 30, began);
        link.set_bandwidth(Some(10_000_000));
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..10).for_each(|_| link.take(20_000, began)));
            }
        });
        // 400 kB; what was caught up is never more than has passed.
        assert!(began.elapsed() >= Duration::from_millis(34), "{:?}", began.elapsed());
    }
}

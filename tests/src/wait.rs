//! Waiting for something that another process is about to do.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until `is_so`, but not longer than `timeout`; says whether it came to be.
pub fn until(timeout: Duration, is_so: impl FnMut() -> bool) -> bool {
    until_looking_every(Duration::from_millis(20), timeout, is_so)
}

/// The same, for what does not stay so for long.
pub fn until_soon(timeout: Duration, is_so: impl FnMut() -> bool) -> bool {
    until_looking_every(Duration::from_millis(2), timeout, is_so)
}

fn until_looking_every(pause: Duration, timeout: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(pause);
    }
    true
}

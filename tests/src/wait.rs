//! Waiting for something that another process is about to do.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until `is_so`, but not longer than `patience`; says whether it came to be.
pub fn until(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

//! Room on the disks that are recorded to, and the warning before it is used up.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::FreeSpace;

use crate::status::Status;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How often the same warning is given.
const WARN_EVERY: Duration = Duration::from_secs(60 * 60);

/// Less than this is little on any disk.
const LITTLE_BYTES: u64 = 1 << 30;

/// Whether it is time to make room: less than 10 % or 1 GiB.
fn is_little(free: FreeSpace) -> bool {
    free.bytes < LITTLE_BYTES || free.bytes < free.total_bytes / 10
}

/// Starts a thread that warns before the disk of the backup, or of the spool, is full.
///
/// # Errors
/// When no thread can be started.
pub fn watch(status: Arc<Status>) -> io::Result<()> {
    thread::Builder::new().name("free space".to_owned()).spawn(move || {
        let mut warned: Option<(PathBuf, Instant)> = None;
        loop {
            for place in status.places() {
                let recently = warned.as_ref().is_some_and(|(of, at)| *of == place && at.elapsed() < WARN_EVERY);
                let Ok(free) = FreeSpace::at(&place) else { continue };
                if is_little(free) && !recently {
                    log::warn!(
                        "only {} MiB are free on the disk of {}: when it is full writes are refused, and lightningd stops",
                        free.bytes >> 20,
                        place.display()
                    );
                    warned = Some((place, Instant::now()));
                }
            }
            thread::sleep(if warned.is_none() && status.places().is_empty() { FIRST_LOOKS } else { LOOK_EVERY });
        }
    })?;
    Ok(())
}

/// Until there is a backup.
const FIRST_LOOKS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_a_tenth_or_a_gibibyte() {
        let free = |bytes, total_bytes| FreeSpace { bytes, total_bytes };
        assert!(is_little(free(LITTLE_BYTES - 1, 2 << 30)));
        assert!(!is_little(free(LITTLE_BYTES, 2 << 30)));
        assert!(is_little(free(99 << 30, 1000 << 30)));
        assert!(!is_little(free(100 << 30, 1000 << 30)));
    }
}

//! Warnings about the directories of backup and spool: before the disk is full, and when other users can read them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::FreeSpace;

use crate::status::Status;

/// The interval of the checks.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// The interval at which the same warning is repeated.
const WARN_EVERY: Duration = Duration::from_secs(60 * 60);

/// Free space below this is little on any disk.
const LITTLE_BYTES: u64 = 1 << 30;

/// Whether the free space is little: less than 10 % or 1 GiB.
fn is_little(free: FreeSpace) -> bool {
    free.bytes < LITTLE_BYTES || free.bytes < free.total_bytes / 10
}

/// Whether other users than the owner may read a directory; also true on a file system without owners that shows such modes.
fn is_open_to_others(directory: &Path) -> io::Result<bool> {
    Ok(fs::metadata(directory)?.permissions().mode() & 0o077 != 0)
}

/// Starts a thread that warns before the disk of the backup, or of the spool, is full, and once when other users can read
/// either directory.
///
/// # Errors
/// When no thread can be started.
pub fn watch(status: Arc<Status>) -> io::Result<()> {
    thread::Builder::new().name("disk-warnings".to_owned()).spawn(move || {
        let mut warned: Option<(PathBuf, Instant)> = None;
        let mut seen = BTreeSet::new();
        loop {
            for directory in status.directories() {
                if seen.insert(directory.clone()) && is_open_to_others(&directory).is_ok_and(|open| open) {
                    log::warn!(
                        "{0} is not closed to other users of this machine: they see the names, sizes and times of its files. Run: chmod 700 {0}",
                        directory.display()
                    );
                }
                let recently = warned.as_ref().is_some_and(|(of, at)| *of == directory && at.elapsed() < WARN_EVERY);
                let Ok(free) = FreeSpace::at(&directory) else { continue };
                if is_little(free) && !recently {
                    log::warn!(
                        "only {} MiB are free on the disk of {}: make room. When the disk is full, nothing can be recorded there, and \
                         lightningd stops",
                        free.bytes >> 20,
                        directory.display()
                    );
                    warned = Some((directory, Instant::now()));
                }
            }
            thread::sleep(if warned.is_none() && status.directories().is_empty() { UNTIL_OPEN } else { CHECK_EVERY });
        }
    })?;
    Ok(())
}

/// The interval of the checks until the backup is open.
const UNTIL_OPEN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_to_others_is_any_permission_that_the_owner_does_not_need() {
        let directory = tempfile::tempdir().unwrap();
        for (mode, open) in [(0o700, false), (0o500, false), (0o750, true), (0o701, true), (0o777, true)] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_others(directory.path()).unwrap(), open, "{mode:o}");
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(is_open_to_others(&directory.path().join("none")).is_err());
    }

    #[test]
    fn little_is_a_tenth_or_a_gibibyte() {
        let free = |bytes, total_bytes| FreeSpace { bytes, total_bytes };
        assert!(is_little(free(LITTLE_BYTES - 1, 2 << 30)));
        assert!(!is_little(free(LITTLE_BYTES, 2 << 30)));
        assert!(is_little(free(99 << 30, 1000 << 30)));
        assert!(!is_little(free(100 << 30, 1000 << 30)));
    }
}

//! The read-ahead of the kernel in the mount.

use std::io;
use std::path::Path;

use rustix::fs::{major, minor, stat};

/// The read-ahead: the maximum of one request to a FUSE file system (`fs.fuse.max_pages_limit`). At the mount itself no more
/// than 128 KiB can be requested, which halves the speed of sequential reads.
const READ_AHEAD_KIB: u32 = 1024;

/// Raises the read-ahead of the mount at `mountpoint`. Needs root.
///
/// # Errors
/// When the read-ahead stays as it was: reads are slower, nothing else.
pub fn raise(mountpoint: &Path) -> io::Result<()> {
    let device = stat(mountpoint)?.st_dev;
    let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device));
    let now: u32 = std::fs::read_to_string(&setting)?.trim().parse().map_err(io::Error::other)?;
    if now < READ_AHEAD_KIB {
        std::fs::write(&setting, READ_AHEAD_KIB.to_string())?;
    }
    Ok(())
}

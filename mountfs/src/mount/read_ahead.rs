//! How far the kernel reads ahead in the mount.

use std::io;
use std::path::Path;

use rustix::fs::{major, minor, stat};

/// What it reads ahead: as much as it puts into one request to a FUSE file system (`fs.fuse.max_pages_limit`). It does not
/// let us ask for more than 128 KiB when we mount, which costs a reader from beginning to end half of his speed.
const READ_AHEAD_KIB: u32 = 1024;

/// Raises the read-ahead of what is mounted at `mountpoint`. Only root may.
///
/// # Errors
/// When it stays as it was, which is slower and nothing else.
pub fn raise(mountpoint: &Path) -> io::Result<()> {
    let device = stat(mountpoint)?.st_dev;
    let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device));
    let now: u32 = std::fs::read_to_string(&setting)?.trim().parse().map_err(io::Error::other)?;
    if now < READ_AHEAD_KIB {
        std::fs::write(&setting, READ_AHEAD_KIB.to_string())?;
    }
    Ok(())
}

//! Whether the lock of a backup is held, determined without touching it.
//!
//! Trying the lock, even shared and for an instant, could block a recorder that starts in that instant; and a process that is
//! stopped while it has the lock would keep a node down. The kernel's list of locks has no such effects.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::backup::Backup;
use format::names;

const LOCKS: &str = "/proc/locks";
const MOUNTS: &str = "/proc/self/mountinfo";

/// Status of the lock of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockStatus {
    /// A recorder or a sealer holds the lock.
    Held {
        /// ID of the process, if it is visible from here.
        process: Option<u32>,
    },
    /// No holder is visible: one on another machine, or in another container, is not.
    NotSeen,
}

impl Backup {
    /// Reads the status of the lock.
    ///
    /// # Errors
    /// When the kernel's list of locks cannot be read, or the lock file is missing.
    pub fn look_at_lock(&self) -> io::Result<LockStatus> {
        let path = self.path().join(names::LOCK);
        let flags = StatxFlags::INO | StatxFlags::MNT_ID;
        let file = statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, flags)?;
        let named = device(file.stx_dev_major, file.stx_dev_minor);
        // Some file systems (btrfs) report another device for their files than the kernel's list of locks.
        let mounted = mounted_device(&fs::read_to_string(MOUNTS).unwrap_or_default(), file.stx_mnt_id);
        for line in BufReader::new(File::open(LOCKS)?).lines() {
            let holder = holder_of_flock_on(&line?, file.stx_ino, &[Some(named.as_str()), mounted.as_deref()]);
            if let Some(process) = holder {
                return Ok(LockStatus::Held { process: Some(process).filter(|&process| process > 0) });
            }
        }
        Ok(LockStatus::NotSeen)
    }
}

/// A device as in the kernel's list of locks.
fn device(major: u32, minor: u32) -> String {
    format!("{major:02x}:{minor:02x}")
}

/// The device of the mount with this ID.
fn mounted_device(mountinfo: &str, mount_id: u64) -> Option<String> {
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(mount_id.to_string().as_str()))?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some(device(major.parse().ok()?, minor.parse().ok()?))
}

/// The holder according to a line of the kernel's list, if it is a held lock, not one that is waited for, on the file with this
/// inode on one of these devices: `1: FLOCK  ADVISORY  WRITE 708 08:01:140 0 EOF`. 0 for a holder that is not visible from here.
fn holder_of_flock_on(line: &str, inode: u64, devices: &[Option<&str>]) -> Option<u32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    if words.next() != Some("FLOCK") {
        return None;
    }
    let process = words.nth(2)?.parse().unwrap_or(0);
    let (device, found) = words.next()?.rsplit_once(':')?;
    (found.parse() == Ok(inode) && devices.contains(&Some(device))).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let devices = [Some("fe:00"), None];
        let line = "1: FLOCK  ADVISORY  WRITE 31072 fe:00:12345346 0 EOF";
        assert_eq!(holder_of_flock_on(line, 12_345_346, &devices), Some(31072));
        for other in [
            "1: FLOCK  ADVISORY  WRITE 31072 fe:00:12345347 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 31072 fe:01:12345346 0 EOF",
            "1: POSIX  ADVISORY  WRITE 31072 fe:00:12345346 0 EOF",
            "1: -> FLOCK  ADVISORY  WRITE 31072 fe:00:12345346 0 EOF",
            "1: FLOCK  ADVISORY  WRITE",
            "",
        ] {
            assert_eq!(holder_of_flock_on(other, 12_345_346, &devices), None, "{other}");
        }
        let mounts = "23 28 0:21 / /proc rw - proc proc rw\n28 1 254:16 / / rw - ext4 /dev/vda rw\nbroken\n";
        assert_eq!(mounted_device(mounts, 28).as_deref(), Some("fe:10"));
        assert_eq!(mounted_device(mounts, 2), None);
    }

    #[test]
    fn a_recorder_is_seen_as_long_as_it_holds_the_lock() {
        let node = Node::new("");
        let backup = node.backup();
        assert_eq!(backup.look_at_lock().unwrap(), LockStatus::NotSeen);
        let recording = node.record();
        // Some kernels show no locks at all.
        let shown = fs::read_to_string(LOCKS).is_ok_and(|locks| locks.contains("FLOCK"));
        let held = LockStatus::Held { process: Some(std::process::id()) };
        assert_eq!(backup.look_at_lock().unwrap() == held, shown);
        drop(recording);
        assert_eq!(backup.look_at_lock().unwrap(), LockStatus::NotSeen);
        fs::remove_file(node.backup_path().join(names::LOCK)).unwrap();
        assert!(backup.look_at_lock().is_err());
    }
}

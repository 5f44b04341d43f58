//! [`NoRight`]: why the system does not let a process mount, and how to change that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use rustix::fs::{major, minor};
use rustix::process::geteuid;

/// The device through which the kernel talks to FUSE file systems.
pub const DEV_FUSE: &str = "/dev/fuse";

/// The major and minor number of that device, the same on every Linux.
const DEV_FUSE_NUMBERS: (u32, u32) = (10, 229);

/// The right to mount, as a bit of the capabilities in `/proc/self/status` (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;

/// The part of `fusermount3`'s message when only root may use `allow_other`.
const OTHERS_REFUSED: &str = "user_allow_other";

/// The reason why this process may not mount. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoRight {
    /// The kernel has no FUSE, or hides it.
    #[error(
        "there is no {DEV_FUSE}: load the module with `modprobe fuse`, or start the container with \
         `--device {DEV_FUSE} --cap-add SYS_ADMIN`"
    )]
    NoDevice,
    /// The file of that name is another device, or no device.
    #[error(
        "{DEV_FUSE} is not the device of that name, but something else: start the container with \
         `--device {DEV_FUSE} --cap-add SYS_ADMIN`; on a machine, remove that file and make the device with \
         `mknod -m 666 {DEV_FUSE} c 10 229`"
    )]
    OtherDevice,
    /// Root cannot open the device.
    #[error(
        "root cannot open {DEV_FUSE}: start the container with `--device {DEV_FUSE} --cap-add SYS_ADMIN`, let the service \
         use the device (`DeviceAllow={DEV_FUSE} rw`), or load the module with `modprobe fuse`"
    )]
    DeviceClosed(#[source] io::Error),
    /// The process is root, but without the right to mount.
    #[error(
        "this is root, but without the right to mount (CAP_SYS_ADMIN): start the container with \
         `--device {DEV_FUSE} --cap-add SYS_ADMIN`, or let the service keep the right (`CapabilityBoundingSet=CAP_SYS_ADMIN`)"
    )]
    NoCapability,
    /// The process is root with the right to mount, but something else forbids it.
    #[error(
        "mounting is forbidden, although this is root with the right to mount: a container needs \
         `--device {DEV_FUSE} --cap-add SYS_ADMIN --security-opt apparmor=unconfined`"
    )]
    Forbidden(#[source] io::Error),
    /// A setuid helper cannot gain rights.
    #[error(
        "`fusermount3` cannot mount, because this process can gain no rights (NoNewPrivileges): write \
         `NoNewPrivileges=no` into the unit of the service, start the container without `no-new-privileges`, or run this \
         as root"
    )]
    NoNewPrivileges,
    /// Only root may use `--allow-other`.
    #[error(
        "`--allow-other` is for root only, unless /etc/fuse.conf has the line `user_allow_other`: add that line, or leave \
         the option out"
    )]
    OthersRefused,
    /// The process is not root, and there is no setuid helper.
    #[error(
        "no right to mount: run this as root, or install the package `fuse3` (it brings `fusermount3`) and let this user \
         open {DEV_FUSE}; a container needs `--device {DEV_FUSE} --cap-add SYS_ADMIN`"
    )]
    NoHelper(#[source] io::Error),
}

impl NoRight {
    /// The missing right behind this error of a mount; `None` for another cause.
    pub(crate) fn behind(error: &io::Error) -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let device = File::options().read(true).write(true).open(DEV_FUSE).err();
        Self::of(error, &status, geteuid().is_root(), device)
    }

    /// [`behind`](Self::behind) for a process with this `/proc/…/status`, root or not, and this error on opening the device.
    fn of(error: &io::Error, status: &str, is_root: bool, device: Option<io::Error>) -> Option<Self> {
        let text = error.to_string();
        if text.contains(OTHERS_REFUSED) {
            return Some(Self::OthersRefused);
        }
        // The messages of the helper, which are always in English.
        let is_refused = ["Operation not permitted", "Permission denied"].iter().any(|refusal| text.contains(refusal));
        // `NotFound` is the helper `fusermount3`: the mount point itself has been checked.
        let is_refused =
            is_refused || matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound);
        match device {
            Some(closed) if is_root => return Some(Self::DeviceClosed(closed)),
            Some(closed) => return Some(Self::NoHelper(closed)),
            None if !is_refused => return None,
            None => {}
        }
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let capabilities = field("CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok());
        let source = io::Error::new(error.kind(), text);
        Some(if is_root && capabilities.is_some_and(|bits| bits >> CAP_SYS_ADMIN & 1 == 0) {
            Self::NoCapability
        } else if is_root {
            Self::Forbidden(source)
        } else if field("NoNewPrivs:") == Some("1") {
            Self::NoNewPrivileges
        } else {
            Self::NoHelper(source)
        })
    }
}

/// Whether this process can open further connections to the kernel for its mount.
pub(crate) fn can_open_device() -> bool {
    File::options().read(true).write(true).open(DEV_FUSE).is_ok()
}

/// Checks that the device exists, and is not another file of that name.
///
/// # Errors
/// [`NoRight::NoDevice`] and [`NoRight::OtherDevice`].
pub(crate) fn check_device() -> Result<(), NoRight> {
    let metadata = fs::metadata(DEV_FUSE).map_err(|_| NoRight::NoDevice)?;
    let numbers = (major(metadata.rdev()), minor(metadata.rdev()));
    if metadata.file_type().is_char_device() && numbers == DEV_FUSE_NUMBERS {
        Ok(())
    } else {
        Err(NoRight::OtherDevice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: io::Error, status: &str, is_root: bool, device: Option<io::Error>) -> Option<String> {
        NoRight::of(&error, status, is_root, device).map(|no_right| no_right.to_string())
    }

    #[test]
    fn what_is_missing_is_reported_with_the_remedy() {
        let all = "CapEff:\t000001ffffffffff\nNoNewPrivs:\t0\n";
        let docker = "CapEff:\t00000000a80425fb\nNoNewPrivs:\t0\n";
        let no_new = "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n";
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let helper = || io::Error::other("fusermount3: mount failed: Operation not permitted\n");
        let says = |reported: Option<String>, part: &str| {
            let reported = reported.unwrap();
            assert!(reported.contains(part), "{reported}");
        };
        says(said(refused(), docker, true, None), "CAP_SYS_ADMIN");
        says(said(refused(), docker, true, None), "--device /dev/fuse --cap-add SYS_ADMIN");
        says(said(refused(), all, true, None), "apparmor=unconfined");
        says(said(refused(), docker, true, Some(refused())), "root cannot open /dev/fuse");
        says(said(helper(), no_new, false, None), "NoNewPrivileges=no");
        says(said(helper(), all, false, None), "install the package `fuse3`");
        says(said(io::ErrorKind::NotFound.into(), all, false, None), "install the package `fuse3`");
        says(said(refused(), no_new, false, Some(refused())), "open /dev/fuse");
        let others = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        says(said(io::Error::new(io::ErrorKind::PermissionDenied, others), all, false, None), "--allow-other");
        assert_eq!(said(io::Error::other("fusermount3: too many mounts"), no_new, false, None), None);
        assert_eq!(said(io::ErrorKind::OutOfMemory.into(), docker, true, None), None);
    }
}

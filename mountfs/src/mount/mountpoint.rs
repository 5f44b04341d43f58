//! [`Mountpoint`]: the checks before a mount, and the removal of mounts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::mount::mount_rights::{NoRight, check_device};

/// The most dead mounts removed from one directory: a service that crashes at each start leaves several.
const STALE_MOUNTS_MAX: usize = 16;

/// An empty directory that a backup may be mounted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mountpoint {
    path: PathBuf,
}

/// The reason why a directory cannot be mounted on. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountpointError {
    /// The path does not exist.
    #[error("mount point {path} does not exist; create it with `mkdir -p {path}`", path = .0.display())]
    Missing(PathBuf),
    /// The path is a file.
    #[error("mount point {} is not a directory; name an empty directory", .0.display())]
    NotADirectory(PathBuf),
    /// The directory is not empty.
    #[error(
        "mount point {path} is not empty; name an empty directory, or unmount what is mounted there with `umount {path}`",
        path = .0.display()
    )]
    NotEmpty(PathBuf),
    /// The mount point is in the backup, or the backup in it: reading the backup would wait for the mount itself.
    #[error(
        "mount point {} and backup {} lie within each other, which deadlocks; name a directory outside of the backup",
        .mountpoint.display(), .backup.display()
    )]
    WithinEachOther {
        /// The mount point, with links resolved.
        mountpoint: PathBuf,
        /// The backup, with links resolved.
        backup: PathBuf,
    },
    /// A mount whose process died could not be removed.
    #[error("the dead mount on {path} cannot be removed; do it with `umount -l {path}` as root", path = .path.display())]
    Stale {
        /// The mount point.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The path cannot be examined.
    #[error("cannot use {} as a mount point", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The system does not let this process mount.
    #[error(transparent)]
    NoRight(#[from] NoRight),
}

impl Mountpoint {
    /// Checks that `path` can be mounted on, and removes dead mounts from it.
    ///
    /// # Errors
    /// [`MountpointError`]; nothing has been changed then.
    pub fn prepare(path: &Path, backup: &Path) -> Result<Self, MountpointError> {
        let io_error = |source| MountpointError::Io { path: path.to_owned(), source };
        check_device()?;
        detach_stale_mounts(path)?;
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountpointError::Missing(path.to_owned()),
            _ => io_error(error),
        })?;
        if !metadata.is_dir() {
            return Err(MountpointError::NotADirectory(path.to_owned()));
        }
        let mountpoint = path.canonicalize().map_err(io_error)?;
        match backup.canonicalize() {
            Ok(backup) if mountpoint.starts_with(&backup) || backup.starts_with(&mountpoint) => {
                return Err(MountpointError::WithinEachOther { mountpoint, backup });
            }
            // A copy in a store is no directory of this machine.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => {}
        }
        if fs::read_dir(&mountpoint).map_err(io_error)?.next().is_some() {
            return Err(MountpointError::NotEmpty(path.to_owned()));
        }
        Ok(Self { path: mountpoint })
    }

    /// The path, absolute and without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error for the operator after a failed mount.
    pub fn explain(&self, error: io::Error) -> MountpointError {
        match NoRight::behind(&error) {
            Some(no_right) => no_right.into(),
            None => MountpointError::Io { path: self.path.clone(), source: error },
        }
    }

    /// Detaches the mount even while files in it are open; those stay readable.
    ///
    /// # Errors
    /// When neither the system call nor the setuid helper may do it.
    pub fn detach(&self) -> io::Result<()> {
        detach(&self.path)
    }
}

fn detach_stale_mounts(path: &Path) -> Result<(), MountpointError> {
    for _ in 0..STALE_MOUNTS_MAX {
        // The kernel may know the attributes of a directory although nothing serves it any more. This it always asks for.
        match statfs(path) {
            Err(Errno::NOTCONN) => {
                log::warn!("{}: removing the mount of a process that has died", path.display());
                detach(path).map_err(|source| MountpointError::Stale { path: path.to_owned(), source })?;
            }
            // What else is wrong, the checks that follow find.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
    Ok(())
}

fn detach(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        // Only root may unmount; for others the setuid helper does, if the mount is theirs.
        Err(Errno::PERM) => {
            let status = Command::new("fusermount3")
                .args(["-u", "-q", "-z", "--"])
                .arg(path)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if status.success() { Ok(()) } else { Err(io::Error::other(format!("fusermount3: {status}"))) }
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A missing device comes first, so that these need a machine with FUSE; without it they show just that.
    fn refusal(path: &Path, backup: &Path) -> String {
        Mountpoint::prepare(path, backup).unwrap_err().to_string()
    }

    #[test]
    fn only_an_empty_directory_outside_of_the_backup_is_a_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("a/node.bkp");
        fs::create_dir_all(backup.join("inside")).unwrap();
        let good = dir.path().join("mnt");
        fs::create_dir(&good).unwrap();
        if !Path::new(crate::mount::mount_rights::DEV_FUSE).exists() {
            assert!(refusal(&good, &backup).contains("modprobe fuse"));
            return;
        }
        assert_eq!(Mountpoint::prepare(&good, &backup).unwrap().path(), good.canonicalize().unwrap());

        let missing = dir.path().join("missing");
        assert!(refusal(&missing, &backup).contains("mkdir -p"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refusal(&file, &backup).contains("is not a directory"));
        fs::write(good.join("x"), "").unwrap();
        assert!(refusal(&good, &backup).contains("is not empty"));

        let to_inside = dir.path().join("link");
        symlink(backup.join("inside"), &to_inside).unwrap();
        let around = dir.path().join("a");
        for bad in [&backup, &backup.join("inside"), &to_inside, &around] {
            assert!(refusal(bad, &backup).contains("within each other"), "{}", bad.display());
        }
        let beside = dir.path().join("a/node.bkp2");
        fs::create_dir(&beside).unwrap();
        assert!(Mountpoint::prepare(&beside, &backup).is_ok());
    }
}

//! [`Trouble`]: classes of operating system errors, each with its remedy for the operator.

use std::error::Error;
use std::io::{self, ErrorKind};

use super::{StorageError, StorageOp};

/// The class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The disk is full.
    NoRoom,
    /// The user's quota is exhausted.
    Quota,
    /// The file would be too large.
    TooLarge,
    /// The file system is read-only.
    ReadOnly,
    /// This user lacks permission.
    NoPermission,
    /// The disk, or the connection to it, is broken.
    BadDisk,
    /// The file system is not mounted, or its server does not answer.
    OutOfReach,
    /// The process has too many open files.
    TooManyFiles,
    /// Any other error.
    Other,
}

impl Trouble {
    /// The class of an error.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull => Self::NoRoom,
            ErrorKind::QuotaExceeded => Self::Quota,
            ErrorKind::FileTooLarge => Self::TooLarge,
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            ErrorKind::PermissionDenied => Self::NoPermission,
            ErrorKind::NotFound
            | ErrorKind::NotConnected
            | ErrorKind::StaleNetworkFileHandle
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset => Self::OutOfReach,
            _ => match error.raw_os_error() {
                Some(libc::EIO | libc::EUCLEAN | libc::EREMOTEIO | libc::EBADMSG) => Self::BadDisk,
                Some(libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::EHOSTDOWN) => Self::OutOfReach,
                Some(libc::EMFILE | libc::ENFILE) => Self::TooManyFiles,
                _ => Self::Other,
            },
        }
    }

    /// The class of the operating system error that caused this error; `None` when there is no such cause.
    pub fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |&error| error.source())
            .find_map(|error| error.downcast_ref::<io::Error>())
            .map(Self::of)
    }

    /// Meaning and remedy, as a clause; `None` where the error itself says everything.
    pub const fn remedy(self) -> Option<&'static str> {
        match self {
            Self::NoRoom => Some("the disk is full: make room on it"),
            Self::Quota => Some("this user has no room left there: raise its quota, or make room"),
            Self::TooLarge => Some(
                "a file may not become so large: raise the limit of lightningd (`ulimit -f`, or LimitFSIZE= of systemd), or \
                 use another file system",
            ),
            Self::ReadOnly => Some(
                "the file system is read-only: mount it writable; the kernel does this to a disk that fails, so look at \
                 `dmesg`, too",
            ),
            Self::NoPermission => Some(
                "the user that runs lightningd may not do this: give it the directory and all files in it (`chown -R`)",
            ),
            Self::BadDisk => Some("the disk fails: look at `dmesg`, and copy the backup to another disk"),
            Self::OutOfReach => Some("it is out of reach: mount it, or make its server answer"),
            Self::TooManyFiles => Some("too many files are open: raise the limit of lightningd (`ulimit -n`)"),
            Self::Other => None,
        }
    }
}

impl StorageError {
    /// The class of the error.
    pub fn trouble(&self) -> Trouble {
        Trouble::of(&self.source)
    }

    /// Whether the failed call was to modify something.
    pub fn is_of_a_change(&self) -> bool {
        match self.op {
            StorageOp::Create
            | StorageOp::Write
            | StorageOp::Sync
            | StorageOp::Rename
            | StorageOp::Link
            | StorageOp::Remove => true,
            StorageOp::Open
            | StorageOp::Read
            | StorageOp::Measure
            | StorageOp::List
            | StorageOp::Lock
            | StorageOp::FreeSpace => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::read_error::ReadError;

    #[test]
    fn each_error_of_the_operating_system_has_its_remedy() {
        let cases = [
            (libc::ENOSPC, Trouble::NoRoom, "make room"),
            (libc::EDQUOT, Trouble::Quota, "quota"),
            (libc::EFBIG, Trouble::TooLarge, "ulimit -f"),
            (libc::EROFS, Trouble::ReadOnly, "mount it writable"),
            (libc::EACCES, Trouble::NoPermission, "chown -R"),
            (libc::EPERM, Trouble::NoPermission, "chown -R"),
            (libc::EIO, Trouble::BadDisk, "dmesg"),
            (libc::ENOTCONN, Trouble::OutOfReach, "mount it"),
            (libc::ESTALE, Trouble::OutOfReach, "mount it"),
            (libc::EMFILE, Trouble::TooManyFiles, "ulimit -n"),
        ];
        for (errno, expected, words) in cases {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Trouble::of(&error), expected, "{error}");
            assert!(expected.remedy().is_some_and(|remedy| remedy.contains(words)), "{error}");
        }
        assert_eq!(Trouble::of(&io::Error::other("a bug")).remedy(), None);
    }

    #[test]
    fn it_is_found_behind_other_errors() {
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        let storage = StorageError { op: StorageOp::Write, path: "/a".into(), offset: None, source };
        assert_eq!(Trouble::behind(&ReadError::Storage(storage)), Some(Trouble::NoRoom));
        let damaged = ReadError::damaged("/a".as_ref(), 0, format::Damage::Foreign);
        assert_eq!(Trouble::behind(&damaged), None);
    }
}

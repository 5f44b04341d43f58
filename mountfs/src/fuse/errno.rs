//! The errno of each error.

use fuser::Errno;

use crate::tree::fs_error::FsError;

/// The errno for an error of the file system.
pub fn errno(error: &FsError) -> Errno {
    match error {
        // Upon this the kernel looks the whole path up anew.
        error if error.is_stale() => Errno::ESTALE,
        FsError::Stale => Errno::ESTALE,
        FsError::NoEntry => Errno::ENOENT,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::IsADirectory => Errno::EISDIR,
        // As readlink(2) for a file that is not a link.
        FsError::NotALink => Errno::EINVAL,
        FsError::ReadOnly => Errno::EROFS,
        FsError::NotOpen => Errno::EBADF,
        // ENOENT would read as "no version yet", and the newest intact version is an old state.
        FsError::NewestUnknown { .. } => Errno::EIO,
        // ENOENT would read as "no such version", which is not known.
        FsError::History(_) => Errno::EIO,
        FsError::View { .. } | FsError::Statements { .. } | FsError::Page { .. } => Errno::EIO,
    }
}

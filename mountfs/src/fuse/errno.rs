//! Which errno the kernel gets for which error.

use fuser::Errno;

use crate::tree::fs_error::FsError;

/// The one place where an error of the file system becomes a number.
pub fn errno(error: &FsError) -> Errno {
    match error {
        // Upon this the kernel looks the whole path up anew.
        error if error.is_stale() => Errno::ESTALE,
        FsError::Stale => Errno::ESTALE,
        FsError::NoEntry => Errno::ENOENT,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::IsADirectory => Errno::EISDIR,
        // What readlink(2) says about a file that is not a link.
        FsError::NotALink => Errno::EINVAL,
        FsError::ReadOnly => Errno::EROFS,
        FsError::NotOpen => Errno::EBADF,
        // ENOENT would read as "no version yet", and the newest intact version is an old state.
        FsError::NewestUnknown { .. } => Errno::EIO,
        // Nor "there is no such version", when nobody knows.
        FsError::History(_) => Errno::EIO,
        FsError::View { .. } | FsError::Statements { .. } | FsError::Page { .. } => Errno::EIO,
    }
}

//! Opening files whose names others choose: in a lightning-dir, or as an operator specifies.
//!
//! A FIFO must not be waited for, and a device not be opened: opening some of them has effects.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a file for reading, if it is a regular one or a link to one.
///
/// # Errors
/// When it is missing, cannot be opened, or is [something else](io::ErrorKind::InvalidInput).
pub fn open_regular_file(path: &Path) -> io::Result<File> {
    expect_regular_file(path)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    // The name may have been given to something else meanwhile.
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

/// Checks that a path is a regular file or a link to one, before another library opens it.
///
/// # Errors
/// As [`open_regular_file`].
pub fn expect_regular_file(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() { Ok(()) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_neither_waited_for_nor_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        std::os::unix::fs::symlink("nothing", path("dangling")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _listens = UnixListener::bind(path("socket")).unwrap();
        for name in ["file", "link"] {
            assert!(open_regular_file(&path(name)).is_ok(), "{name}");
        }
        for name in ["directory", "fifo", "socket", "/dev/zero"] {
            let error = open_regular_file(&path(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}: {error}");
        }
        assert_eq!(open_regular_file(&path("dangling")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

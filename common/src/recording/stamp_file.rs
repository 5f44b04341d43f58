//! [`StampFile`]: the first bytes of the node's database, read with one call at every write.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use crate::format::commit_note::{DatabaseStamp, STAMPED_HEADER_LEN};

/// The database file, open for as long as there is a recording.
///
/// It is never closed in between: closing any descriptor of a file drops the POSIX locks that this process holds on it, also those
/// of SQLite (fcntl(2), "Advisory record locking").
#[derive(Debug, Clone)]
pub(super) struct StampFile {
    path: PathBuf,
    file: Option<Arc<File>>,
}

impl StampFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// The stamp that the file has now; `None` when it cannot be read or has none.
    pub(super) fn read(&mut self) -> Option<DatabaseStamp> {
        if self.file.is_none() {
            // A FIFO of that name does not block.
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path);
            self.file = opened.ok().map(Arc::new);
        }
        let mut header = [0; STAMPED_HEADER_LEN];
        let len = self.file.as_ref()?.read_at(&mut header, 0).ok()?;
        DatabaseStamp::of_first_page(&header[..len])
    }
}

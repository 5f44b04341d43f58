//! Size of a backup, and free space.

use serde::Serialize;

use crate::backup::Backup;
use crate::storage::{Access, FreeSpace, StorageError};
use format::names;

/// Length of a backup's files in bytes, as in `ls -l`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct BytesByKind {
    /// Logs, with the preallocated one.
    pub logs: u64,
    /// Segments, with the file `pruned`.
    pub segments: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Parity of the others.
    pub parity: u64,
    /// The manifest and temporary files.
    pub other: u64,
}

impl BytesByKind {
    /// Total length in bytes.
    pub fn total(&self) -> u64 {
        self.logs + self.segments + self.snapshots + self.parity + self.other
    }

    fn of(&mut self, name: &str) -> &mut u64 {
        if names::parse_log(name).is_some() || name == names::PREALLOCATED {
            &mut self.logs
        } else if names::parse_segment(name).is_some() || name == names::PRUNED {
            &mut self.segments
        } else if names::parse_snapshot(name).is_some() {
            &mut self.snapshots
        } else if names::parse_parity(name).is_some() {
            &mut self.parity
        } else {
            &mut self.other
        }
    }
}

impl Backup {
    /// Lengths of the files. Lists the directory, and opens every file.
    ///
    /// # Errors
    /// When the directory or a file cannot be read.
    pub fn read_bytes(&self) -> Result<BytesByKind, StorageError> {
        let mut bytes = BytesByKind::default();
        for name in self.directory().list()? {
            match self.directory().open(&name, Access::Read) {
                Ok(file) => *bytes.of(&name) += file.read_len()?,
                // The recorder may have renamed or removed it meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Free space of the backup's file system for this user, in bytes.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn read_free_bytes(&self) -> Result<u64, StorageError> {
        FreeSpace::at(self.path()).map(|free| free.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;

    #[test]
    fn every_file_counts_as_what_it_is() {
        let node = Node::new("");
        for (name, bytes) in [
            ("log-00000000000000000002", 3),
            ("preallocated", 50),
            ("segment-00000000000000000001", 700),
            ("segment-00000000000000000003.tmp", 11_000),
        ] {
            std::fs::write(node.backup_path().join(name), vec![0; bytes]).unwrap();
        }
        let length = |name: String| std::fs::metadata(node.backup_path().join(name)).unwrap().len();
        let backup = node.backup();
        let bytes = backup.read_bytes().unwrap();
        assert_eq!(bytes.logs, 53 + length(names::log(format::units::Seq::FIRST)));
        assert_eq!(bytes.segments, 700);
        assert_eq!(bytes.snapshots, length(names::snapshot(format::units::Seq::FIRST)));
        assert_eq!(bytes.other, 11_000 + length(names::MANIFEST.to_owned()) + length(names::CHECKED.to_owned()));
        assert_eq!(bytes.total(), bytes.logs + bytes.segments + bytes.snapshots + bytes.parity + bytes.other);
        assert!(bytes.parity > 2 * 4096, "of snapshot and manifest at least");
        assert!(backup.read_free_bytes().unwrap() > 0);
    }
}

//! [`FreeSpace`]: the free space of a file system.

use std::path::Path;

use super::{StorageError, StorageOp};

/// The free space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes available to this user.
    pub bytes: u64,
    /// Size of the file system in bytes.
    pub total_bytes: u64,
}

impl FreeSpace {
    /// Queries the file system of `path`. Like any call to it this may hang.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn at(path: &Path) -> Result<Self, StorageError> {
        let found = rustix::fs::statvfs(path).map_err(|source| StorageError {
            op: StorageOp::FreeSpace,
            path: path.to_path_buf(),
            offset: None,
            source: source.into(),
        })?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self { bytes: bytes(found.f_bavail), total_bytes: bytes(found.f_blocks) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_says_what_it_has() {
        let free = FreeSpace::at(Path::new("/")).unwrap();
        assert!(free.total_bytes > 0 && free.bytes <= free.total_bytes);
        let missing = FreeSpace::at(Path::new("/no/such/place")).unwrap_err();
        assert!(missing.is_not_found() && missing.to_string().contains("free space of /no/such/place"), "{missing}");
    }
}

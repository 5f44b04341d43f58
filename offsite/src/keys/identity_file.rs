//! [`IdentityFile`]: a file with identities of age, as `age-keygen` writes it.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::storage::regular_file::open_regular_file;
use zeroize::Zeroizing;

use super::age::{AgeKeyError, Identity};

/// The longest file that is read, in bytes: hundreds of identities.
pub const IDENTITY_FILE_MAX: u64 = 64 << 10;

/// The permissions of a file that let the group or others at it.
const OPEN_TO_OTHERS: u32 = 0o077;

/// Why there are no identities. Nothing of the file is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityFileError {
    /// The file cannot be read.
    #[error("cannot read {path} ({reason}); check its name and its permissions", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
    /// The file is longer than any.
    #[error("{path} is no file of age identities: it has more than {IDENTITY_FILE_MAX} bytes", path = .0.display())]
    TooLong(PathBuf),
    /// A line is neither a comment nor an identity.
    #[error("line {line} of {path} is no age identity: {source}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        source: AgeKeyError,
    },
    /// The file is encrypted itself.
    #[error("{path} is encrypted: decrypt it with age -d into a file that only you can read, and name that", path = .0.display())]
    Encrypted(PathBuf),
    /// The file has no identity.
    #[error("there is no identity in {path}: a line of it must begin with AGE-SECRET-KEY-1", path = .0.display())]
    Empty(PathBuf),
}

/// Identities of age, and who can read their file.
#[derive(Debug)]
pub struct IdentityFile {
    identities: Vec<Identity>,
    mode: u32,
}

impl IdentityFile {
    /// Reads a file: an identity a line; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// When it cannot be read, or has something else or nothing in it.
    pub fn read(path: &Path) -> Result<Self, IdentityFileError> {
        let fail = |error: io::Error| IdentityFileError::Read { path: path.to_owned(), reason: error.to_string() };
        let file = open_regular_file(path).map_err(fail)?;
        let mode = file.metadata().map_err(fail)?.mode();
        // With room for all of it: a vector that grows leaves its old bytes behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(IDENTITY_FILE_MAX).unwrap_or(0) + 1));
        file.take(IDENTITY_FILE_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > IDENTITY_FILE_MAX {
            return Err(IdentityFileError::TooLong(path.to_owned()));
        }
        if bytes.starts_with(b"age-encryption.org/") || bytes.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") {
            return Err(IdentityFileError::Encrypted(path.to_owned()));
        }
        let mut identities = Vec::new();
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let of_line = |source| IdentityFileError::Line { path: path.to_owned(), line: number + 1, source };
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let text = std::str::from_utf8(line).map_err(|_| of_line(AgeKeyError::AnotherKind))?;
            identities.push(text.parse().map_err(of_line)?);
        }
        if identities.is_empty() {
            return Err(IdentityFileError::Empty(path.to_owned()));
        }
        Ok(Self { identities, mode })
    }

    /// The identities, in the order of the file; at least one.
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// The permissions of the file, if they let the group or others at it.
    pub fn open_to_others(&self) -> Option<u32> {
        Some(self.mode & 0o777).filter(|mode| mode & OPEN_TO_OTHERS != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::age::tests::TEST_IDENTITY;
    use super::*;

    #[test]
    fn a_file_of_age_keygen_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.txt");
        let text = format!(
            "# created: 2026-11-30T00:00:00Z\r\n# public key: age1…\r\n\r\n  {TEST_IDENTITY}\r\n{TEST_IDENTITY}"
        );
        fs::write(&path, text).unwrap();
        for (mode, open) in [(0o600, None), (0o400, None), (0o640, Some(0o640)), (0o644, Some(0o644))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let file = IdentityFile::read(&path).unwrap();
            assert_eq!((file.identities().len(), file.open_to_others()), (2, open));
            assert!(!format!("{file:?}").to_uppercase().contains("SECRET"), "{file:?}");
        }
    }

    #[test]
    fn what_is_no_file_of_identities_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.txt");
        assert!(matches!(IdentityFile::read(&path), Err(IdentityFileError::Read { .. })));
        assert!(matches!(IdentityFile::read(dir.path()), Err(IdentityFileError::Read { .. })));
        assert!(matches!(IdentityFile::read(Path::new("/dev/zero")), Err(IdentityFileError::Read { .. })));
        let error = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            IdentityFile::read(&path).unwrap_err()
        };
        assert_eq!(error(b""), IdentityFileError::Empty(path.clone()));
        assert_eq!(error(b"# nothing\n"), IdentityFileError::Empty(path.clone()));
        assert_eq!(error(&vec![b'\n'; 70_000]), IdentityFileError::TooLong(path.clone()));
        assert_eq!(error(b"age-encryption.org/v1\n"), IdentityFileError::Encrypted(path.clone()));
        let line = |line, source| IdentityFileError::Line { path: path.clone(), line, source };
        assert_eq!(error(b"#\nAGE-PLUGIN-YUBIKEY-1Q\n"), line(2, AgeKeyError::AnotherKind));
        assert_eq!(error(b"\xff\xfe"), line(1, AgeKeyError::AnotherKind));
        let typo = TEST_IDENTITY.replace("FFV2", "FFV3");
        let typo = error(format!("{TEST_IDENTITY}\n{typo}\n").as_bytes());
        assert_eq!(typo, line(2, AgeKeyError::Checksum));
        assert!(!typo.to_string().contains("EGTZV"), "{typo}");
    }
}

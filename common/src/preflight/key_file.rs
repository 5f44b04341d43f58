//! [`KeyFile`] and [`NodeKeys`]: the file `hsm_secret` on disk, and the seed in it.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::storage::regular_file::open_regular_file;
use secrets::derive::{Key, NodeId, make_secret, node_id};
use secrets::hsm_secret::{HSM_SECRET_MAX, HsmSecret, HsmSecretError};
use secrets::passphrase::Passphrase;
use secrets::seed::Seed;
use zeroize::Zeroizing;

/// The permissions of a file that let the group or others at it.
const OPEN_TO_OTHERS: u32 = 0o077;

/// Why there are no keys.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file does not exist.
    #[error("there is no {path}: without it emergency.recover cannot be read; copy it there, or name it with --hsm-secret", path = .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {path} ({reason}); check its permissions", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
    /// The file is longer than any.
    #[error("{path} is no hsm_secret: it has more than {HSM_SECRET_MAX} bytes", path = .0.display())]
    TooLong(PathBuf),
    /// A passphrase is missing.
    #[error("{path} is protected by a passphrase; put that into a file and name it with --passphrase-file, or run this on a terminal, which asks for it", path = .0.display())]
    PassphraseNeeded(PathBuf),
    /// The file has no keys.
    #[error("{path} cannot be used: {source}", path = .path.display())]
    NotUsable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, or with the passphrase.
        source: HsmSecretError,
    },
}

/// The file `hsm_secret`, read.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    secret: HsmSecret,
    mode: u32,
}

impl KeyFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or is no `hsm_secret`.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
            _ => KeyFileError::Read { path: path.to_owned(), reason: error.to_string() },
        };
        let file = open_regular_file(path).map_err(fail)?;
        let mode = file.metadata().map_err(fail)?.mode();
        // With room for all of it: a vector that grows leaves its old bytes behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(HSM_SECRET_MAX).unwrap_or(0) + 1));
        file.take(HSM_SECRET_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > HSM_SECRET_MAX {
            return Err(KeyFileError::TooLong(path.to_owned()));
        }
        let secret =
            HsmSecret::decode(&bytes).map_err(|source| KeyFileError::NotUsable { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), secret, mode })
    }

    /// Whether [`unlock`](Self::unlock) needs a passphrase.
    pub fn needs_passphrase(&self) -> bool {
        self.secret.needs_passphrase()
    }

    /// Takes the seed out. A passphrase that is not needed is not used: the same command must do for every node.
    ///
    /// # Errors
    /// When the passphrase is missing or wrong.
    pub fn unlock(self, passphrase: Option<&Passphrase>) -> Result<NodeKeys, KeyFileError> {
        let passphrase = passphrase.filter(|_| self.needs_passphrase());
        match self.secret.seed(passphrase) {
            Ok(seed) => Ok(NodeKeys { node_id: node_id(&seed), path: self.path, seed, mode: self.mode }),
            Err(HsmSecretError::PassphraseNeeded) => Err(KeyFileError::PassphraseNeeded(self.path)),
            Err(source) => Err(KeyFileError::NotUsable { path: self.path, source }),
        }
    }
}

/// The keys of a node.
#[derive(Debug)]
pub struct NodeKeys {
    path: PathBuf,
    seed: Seed,
    node_id: Option<NodeId>,
    mode: u32,
}

impl NodeKeys {
    /// The file that they are from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id of the node that they are of.
    pub fn node_id(&self) -> Option<NodeId> {
        self.node_id
    }

    /// The permissions of the file, if they let the group or others at it.
    pub fn open_to_others(&self) -> Option<u32> {
        Some(self.mode & 0o777).filter(|mode| mode & OPEN_TO_OTHERS != 0)
    }

    /// What the RPC method `makesecret` of the node answers for the string `name`.
    pub fn make_secret(&self, name: &str) -> Key {
        make_secret(&self.seed, name.as_bytes())
    }

    pub(super) fn seed(&self) -> &Seed {
        &self.seed
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_others_can_read_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hsm_secret");
        fs::write(&path, [7; 32]).unwrap();
        for (mode, open) in [(0o400, None), (0o600, None), (0o440, Some(0o440)), (0o644, Some(0o644))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(KeyFile::read(&path).unwrap().unlock(None).unwrap().open_to_others(), open);
        }
    }

    #[test]
    fn what_is_no_key_file_is_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hsm_secret");
        assert!(matches!(KeyFile::read(&path), Err(KeyFileError::Missing(_))));
        assert!(matches!(KeyFile::read(dir.path()), Err(KeyFileError::Read { .. })));
        fs::write(&path, [7; 5000]).unwrap();
        assert!(matches!(KeyFile::read(&path), Err(KeyFileError::TooLong(_))));
        fs::write(&path, [7; 31]).unwrap();
        assert!(matches!(KeyFile::read(&path), Err(KeyFileError::NotUsable { .. })));
        fs::write(&path, [7; 73]).unwrap();
        let file = KeyFile::read(&path).unwrap();
        assert!(file.needs_passphrase());
        assert!(matches!(file.unlock(None), Err(KeyFileError::PassphraseNeeded(_))));
    }
}

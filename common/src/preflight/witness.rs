//! [`Witness`]: one file `emergency.recover`.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::storage::regular_file::open_regular_file;
use format::units::Timestamp;
use secrets::emergency_recover::{EMERGENCY_RECOVER_MAX, EmergencyRecoverError, read};
use secrets::seed::Seed;
use secrets::static_backup::StaticBackup;

/// A file `emergency.recover`, decrypted.
#[derive(Debug)]
pub struct Witness {
    pub(super) seen: WitnessSeen,
    pub(super) backup: StaticBackup,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessSeen {
    /// The file.
    pub path: PathBuf,
    /// When it was written, by the clock of the node.
    pub written_at: Timestamp,
}

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The file does not exist.
    #[error("there is no {path}: whether a channel was revoked since is not known without it; name a copy with --emergency-recover", path = .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {path}; check its permissions", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file is longer than any.
    #[error("{path} is no emergency.recover: it has more than {EMERGENCY_RECOVER_MAX} bytes", path = .0.display())]
    TooLong(PathBuf),
    /// The bytes are not those of an `emergency.recover` of this node.
    #[error("{path} says nothing: {source}", path = .path.display())]
    NotUsable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: EmergencyRecoverError,
    },
}

impl Witness {
    /// Reads and decrypts the file.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub(super) fn read(path: &Path, seed: &Seed) -> Result<Self, WitnessError> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => WitnessError::Missing(path.to_owned()),
            _ => WitnessError::Read { path: path.to_owned(), source: error },
        };
        let file = open_regular_file(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() > EMERGENCY_RECOVER_MAX {
            return Err(WitnessError::TooLong(path.to_owned()));
        }
        let mut bytes = Vec::new();
        file.take(EMERGENCY_RECOVER_MAX).read_to_end(&mut bytes).map_err(fail)?;
        let backup = read(&bytes, seed).map_err(|source| WitnessError::NotUsable { path: path.to_owned(), source })?;
        let written_at = Timestamp::from_micros(i64::from(backup.timestamp) * 1_000_000);
        // Every u32 of seconds is a time before the year 2107.
        let written_at = written_at.unwrap_or_else(Timestamp::now);
        Ok(Self { seen: WitnessSeen { path: path.to_owned(), written_at }, backup })
    }

    pub(super) fn seen(&self) -> WitnessSeen {
        self.seen.clone()
    }

    pub(super) fn written_at(&self) -> Timestamp {
        self.seen.written_at
    }
}

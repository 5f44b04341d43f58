//! [`ShipState`]: what a run of `backupfs ship` knows of the one before, in a file beside the database.
//!
//! Without this file nothing is lost: the logs that are not sealed are shipped once more from their beginning. It is replaced before
//! each upload, with the name of the object. So after a kill the store says which of the two positions counts. It is not synced: after
//! a power cut it may be missing or older, which costs a repetition.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use common::feed::FeedPosition;
use common::storage::small_file::{make_private_directory, read_small_file, replace_small_file};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::copy_error::CopyError;

/// Maximum length of the file in bytes.
const LEN_MAX: u64 = 64 << 10;

/// How far the logs were shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipState {
    /// The copy.
    pub copy: Uuid,
    /// Everything up to here was durable in the copy before that upload.
    pub shipped: FeedPosition,
    /// Whether the logs are shipped once more from their beginning, and it was not said yet where they end.
    pub begins_anew: bool,
    /// The upload that was begun last. The store may not have answered.
    pub last_upload: Option<Upload>,
}

/// An upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Name of the object.
    pub object: String,
    /// SHA-256 of the object, in hexadecimal digits.
    pub sha256: String,
    /// The position behind the bytes of a log that it has.
    pub end: Option<FeedPosition>,
}

/// The file.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file of a copy, in a directory that is made when it is first written.
    pub fn new(directory: &Path, copy: Uuid) -> Self {
        Self { path: directory.join(format!("{copy}.json")) }
    }

    /// Takes the lock that keeps other processes of this node from shipping to the copy, until the file is dropped.
    ///
    /// # Errors
    /// [`CopyError::InUse`] when another process has it.
    pub fn lock(&self) -> Result<File, CopyError> {
        let path = self.path.with_extension("lock");
        let failed = |source| CopyError::Local { op: "lock", path: path.display().to_string(), source };
        make_private_directory(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
        let file = File::options().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(CopyError::InUse),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The state; `None` when there is none that can be read, which is as good as none.
    pub fn read(&self) -> Option<ShipState> {
        let bytes = read_small_file(&self.path, LEN_MAX).ok()?;
        match serde_json::from_slice(&bytes) {
            Ok(state) => Some(state),
            Err(error) => {
                log::warn!("{} cannot be understood ({error}): the logs are shipped once more", self.path.display());
                None
            }
        }
    }

    /// Replaces the file: after a kill it has the old state or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, state: &ShipState) -> Result<(), CopyError> {
        let failed = |source| CopyError::Local { op: "write", path: self.path.display().to_string(), source };
        let bytes = serde_json::to_vec(state).map_err(|error| failed(error.into()))?;
        replace_small_file(&self.path, &bytes).map_err(failed)
    }
}

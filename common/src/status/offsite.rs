//! [`OffsiteStatus`]: how an off-site copy stands, as `backupfs ship` leaves it in a file beside the database.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::backup_lock::read_small_file;
use crate::config::offsite::OffsiteEntry;

/// Name of the directory in the lightning-dir.
const DIRECTORY: &str = "backupfs.offsite";

/// Suffix of the file's name.
const SUFFIX: &str = "status";

/// Maximum length of the file in bytes.
const LEN_MAX: u64 = 64 << 10;

/// Where `backupfs ship` leaves word, in the lightning-dir.
pub fn offsite_directory(lightning_dir: &Path) -> PathBuf {
    lightning_dir.join(DIRECTORY)
}

/// What a copy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsiteState {
    /// It is shipped to.
    Shipping,
    /// The store cannot be used now; it is tried again.
    Waiting,
    /// Shipping to this copy has ended until an operator does something.
    Refused,
    /// The process that ships has ended.
    Stopped,
}

/// How an off-site copy stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsiteStatus {
    /// The URL of the copy.
    pub url: String,
    /// What it is doing.
    pub state: OffsiteState,
    /// Seq of the last record that the copy has; `None` when that is not known.
    pub shipped_through: Option<u64>,
    /// Number of records that the backup has beyond that.
    pub behind_changes: Option<u64>,
    /// Seconds since the copy last had everything.
    pub behind_seconds: Option<u64>,
    /// Since when the state is not `shipping`, as RFC 3339 writes it.
    pub degraded_since: Option<String>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Number of objects uploaded in this run.
    pub objects: u64,
    /// Number of bytes uploaded in this run.
    pub bytes: u64,
    /// What opens the copy.
    pub key: Option<String>,
    /// When this was written, as RFC 3339 writes it; empty if it never was.
    pub updated: String,
}

impl OffsiteStatus {
    /// The file of the copy with this URL: a checksum of the URL is enough for the few copies of a node.
    pub fn path(lightning_dir: &Path, url: &str) -> PathBuf {
        let sum = crc32c::crc32c(url.as_bytes());
        offsite_directory(lightning_dir).join(format!("{sum:08x}.{SUFFIX}"))
    }

    /// The status of a copy; `None` when nothing has been shipped to it yet, or the file cannot be read.
    pub fn read(lightning_dir: &Path, url: &str) -> Option<Self> {
        let bytes = read_small_file(&Self::path(lightning_dir, url), LEN_MAX).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|status: &Self| status.url == url)
    }

    /// The status of each copy of `backup.lock`; that of one that was not shipped to yet has only a URL.
    pub fn of_all(lightning_dir: &Path, entries: &[OffsiteEntry]) -> Vec<Self> {
        entries
            .iter()
            .map(|entry| Self::read(lightning_dir, &entry.url).unwrap_or_else(|| Self::new(&entry.url)))
            .collect()
    }

    /// The status of a copy that nothing is known of.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            state: OffsiteState::Stopped,
            shipped_through: None,
            behind_changes: None,
            behind_seconds: None,
            degraded_since: None,
            last_error: None,
            objects: 0,
            bytes: 0,
            key: None,
            updated: String::new(),
        }
    }

    /// Removes the file of a copy.
    pub fn remove(lightning_dir: &Path, url: &str) {
        // It may never have been written.
        let _: std::io::Result<()> = fs::remove_file(Self::path(lightning_dir, url));
    }
}

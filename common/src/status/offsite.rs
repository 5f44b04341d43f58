//! [`OffsiteStatus`]: how an off-site copy stands, as `backupfs ship` leaves it in a file beside the database.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::offsite::OffsiteEntry;
use crate::config::offsite_wait::OffsiteWait;
use crate::storage::small_file::{read_small_file, replace_small_file};
use format::units::{DataVersion, Timestamp};

/// Name of the directory in the lightning-dir.
const DIRECTORY: &str = "backupfs.offsite";

/// Suffixes of the names of the files: of the status, and of the last rehearsal, which another process may write.
const STATUS: &str = "status";
const REHEARSAL: &str = "rehearsal";

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
    /// Number of records that the backup has beyond that; `None` when one of them is not known. The file does not say it: it is
    /// counted when the status is read, for the process that ships may hang, or be gone.
    pub behind_changes: Option<u64>,
    /// Seconds since the copy last had everything.
    pub behind_seconds: Option<u64>,
    /// When the copy last had everything; before that, when it was shipped to for the first time.
    #[serde(skip)]
    pub current_at: Option<Timestamp>,
    /// Since when the state is not `shipping`, as RFC 3339 writes it.
    pub degraded_since: Option<String>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Number of objects uploaded by the process that ships.
    pub objects: u64,
    /// Number of bytes uploaded by it.
    pub bytes: u64,
    /// Number of uploads since midnight (UTC), failed ones included, as far as it made them.
    #[serde(default)]
    pub puts_today: u64,
    /// Whether the store refuses to replace an object that must be new: `enforced`, `ignored` or `refused` (it does not know the
    /// condition); `None` while that is not known.
    #[serde(default)]
    pub conditional_put: Option<String>,
    /// What opens the copy.
    pub key: Option<String>,
    /// When this was written, as RFC 3339 writes it; empty if it never was.
    pub updated: String,
    /// When a restore of the newest version was last rehearsed with success, as RFC 3339 writes it.
    #[serde(default)]
    pub last_verified: Option<String>,
    /// That version.
    #[serde(default)]
    pub last_verified_version: Option<u32>,
    /// Why the last rehearsal failed; `None` when it did not, or there was none.
    #[serde(default)]
    pub rehearsal_error: Option<String>,
    /// How answers to `lightningd` wait for the copy; `None` when they never do. The file does not say it.
    #[serde(skip_deserializing)]
    pub wait: Option<WaitStatus>,
    /// Since when answers do not wait for the copy, although they should, in microseconds since 1970.
    #[serde(skip)]
    pub answers_degraded_since: Option<i64>,
}

/// Whether answers to `lightningd` wait for a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitState {
    /// The recorder has only just started: answers wait as soon as the process that ships has said how far the copy is.
    Starting,
    /// They wait.
    Waiting,
    /// They do not, until the copy has caught up.
    Degraded,
}

/// How answers to `lightningd` wait for a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitStatus {
    /// What `backup.lock` says.
    #[serde(flatten)]
    pub rule: OffsiteWait,
    /// Whether they wait; `None` when that is not known.
    pub state: Option<WaitState>,
    /// Since when they do not, as RFC 3339 writes it.
    pub degraded_since: Option<String>,
}

impl WaitStatus {
    /// The status by a rule; the time is in microseconds since 1970.
    pub fn new(rule: OffsiteWait, state: Option<WaitState>, degraded_since: Option<i64>) -> Self {
        let degraded_since = degraded_since.and_then(Timestamp::from_micros).map(|since| since.to_string());
        Self { rule, state, degraded_since }
    }
}

/// The contents of the file.
#[derive(Serialize, Deserialize)]
struct StatusFile {
    #[serde(flatten)]
    status: OffsiteStatus,
    /// In microseconds since 1970.
    current_at: Option<i64>,
    /// In microseconds since 1970.
    #[serde(default)]
    answers_degraded_since: Option<i64>,
}

/// The outcome of the rehearsals of a copy, in a file of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsiteRehearsal {
    /// When the last one began, in microseconds since 1970.
    pub attempted: i64,
    /// When the last one that succeeded began, in microseconds since 1970.
    pub verified: Option<i64>,
    /// The version that it restored.
    pub version: Option<u32>,
    /// Why the last one failed.
    pub error: Option<String>,
}

impl OffsiteRehearsal {
    /// The outcome so far; `None` when there was no rehearsal, or the file cannot be read.
    pub fn read(lightning_dir: &Path, url: &str) -> Option<Self> {
        let bytes = read_small_file(&file(lightning_dir, url, REHEARSAL), LEN_MAX).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Notes a rehearsal that began at `attempted`: the version that it restored, or why it failed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(
        lightning_dir: &Path,
        url: &str,
        attempted: Timestamp,
        outcome: Result<DataVersion, String>,
    ) -> io::Result<()> {
        let before = Self::read(lightning_dir, url).unwrap_or_default();
        let attempted = attempted.as_micros();
        let now = match outcome {
            Ok(version) => Self { attempted, verified: Some(attempted), version: Some(version.get()), error: None },
            Err(error) => Self { attempted, error: Some(error), ..before },
        };
        replace_small_file(&file(lightning_dir, url, REHEARSAL), &serde_json::to_vec(&now)?)
    }
}

/// The file of the copy with this URL: a checksum of the URL is enough for the few copies of a node.
fn file(lightning_dir: &Path, url: &str, suffix: &str) -> PathBuf {
    let sum = crc32c::crc32c(url.as_bytes());
    offsite_directory(lightning_dir).join(format!("{sum:08x}.{suffix}"))
}

impl OffsiteStatus {
    /// The status of a copy; `None` when nothing has been shipped to it yet, or the file cannot be read.
    pub fn read(lightning_dir: &Path, url: &str) -> Option<Self> {
        let bytes = read_small_file(&file(lightning_dir, url, STATUS), LEN_MAX).ok()?;
        let StatusFile { mut status, current_at, answers_degraded_since } = serde_json::from_slice(&bytes).ok()?;
        if status.url != url {
            return None;
        }
        status.current_at = current_at.and_then(Timestamp::from_micros);
        status.answers_degraded_since = answers_degraded_since;
        status.add_rehearsal(lightning_dir);
        Some(status)
    }

    fn add_rehearsal(&mut self, lightning_dir: &Path) {
        let Some(rehearsal) = OffsiteRehearsal::read(lightning_dir, &self.url) else { return };
        self.last_verified = rehearsal.verified.and_then(Timestamp::from_micros).map(|at| at.to_string());
        (self.last_verified_version, self.rehearsal_error) = (rehearsal.version, rehearsal.error);
    }

    /// Replaces the file. It is not synced: nothing depends on it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, lightning_dir: &Path) -> io::Result<()> {
        let status = Self { behind_changes: None, behind_seconds: None, wait: None, ..self.clone() };
        let current_at = self.current_at.map(Timestamp::as_micros);
        let contents = StatusFile { status, current_at, answers_degraded_since: self.answers_degraded_since };
        replace_small_file(&file(lightning_dir, &self.url, STATUS), &serde_json::to_vec(&contents)?)
    }

    /// The status of each copy of `backup.lock`, beside the newest record of the node if that is known; that of one that was not
    /// shipped to yet has only a URL.
    pub fn of_all(lightning_dir: &Path, entries: &[OffsiteEntry], newest: Option<u64>) -> Vec<Self> {
        let of = |entry: &OffsiteEntry| {
            let mut status = Self::read(lightning_dir, &entry.url).unwrap_or_else(|| {
                let mut status = Self::new(&entry.url);
                status.add_rehearsal(lightning_dir);
                status
            });
            status.count_behind(newest, Timestamp::now());
            let since = status.answers_degraded_since;
            status.wait = entry.wait.map(|rule| WaitStatus::new(rule, since.map(|_| WaitState::Degraded), since));
            status
        };
        entries.iter().map(of).collect()
    }

    fn count_behind(&mut self, newest: Option<u64>, now: Timestamp) {
        let behind = newest.zip(self.shipped_through).map(|(newest, shipped)| newest.saturating_sub(shipped));
        let micros = |since: Timestamp| now.as_micros().saturating_sub(since.as_micros());
        self.behind_changes = behind;
        self.behind_seconds = match behind {
            Some(0) => Some(0),
            _ => self.current_at.map(|since| u64::try_from(micros(since) / 1_000_000).unwrap_or(0)),
        };
    }

    /// The status of a copy that nothing is known of.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            state: OffsiteState::Stopped,
            shipped_through: None,
            behind_changes: None,
            behind_seconds: None,
            current_at: None,
            degraded_since: None,
            last_error: None,
            objects: 0,
            bytes: 0,
            puts_today: 0,
            conditional_put: None,
            key: None,
            updated: String::new(),
            last_verified: None,
            last_verified_version: None,
            rehearsal_error: None,
            wait: None,
            answers_degraded_since: None,
        }
    }

    /// Removes what was noted of a copy.
    pub fn remove(lightning_dir: &Path, url: &str) {
        for suffix in [STATUS, REHEARSAL] {
            // It may never have been written.
            let _: io::Result<()> = fs::remove_file(file(lightning_dir, url, suffix));
        }
    }
}

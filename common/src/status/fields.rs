//! The fields that `backup-status` and `backupfs status` share: one name, and one meaning, for each.

use serde::Serialize;

use crate::backup::size::BytesByKind;
use crate::backup::state::UnsealedChanges;
use crate::history::NewestVersion;
use format::checked::CheckedSnapshots;
use format::units::DataVersion;

/// Status of a backup, as JSON. Unknown values are null; fields are only ever added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StatusFields {
    /// The newest version.
    pub data_version: Option<u32>,
    /// Seq of its newest record.
    pub seq: Option<u64>,
    /// Time of that record, in RFC 3339.
    pub recorded_at: Option<String>,
    /// URL of the backup.
    pub destination: Option<String>,
    /// Total length of its files in bytes.
    pub bytes: Option<u64>,
    /// Lengths by kind of file.
    pub bytes_by_kind: Option<BytesByKind>,
    /// Reason why the lengths are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_problem: Option<String>,
    /// Free space of its file system in bytes.
    pub free_bytes: Option<u64>,
    /// Number of unsealed changes.
    pub unsealed_changes: Option<u64>,
    /// The newest sealed version.
    pub sealed_through: Option<u32>,
    /// Seq of the last sealed record.
    pub sealed_through_seq: Option<u64>,
    /// Damage of the node's own database, as found in the newest snapshot.
    pub database_damage: Option<DatabaseDamage>,
    /// Result of replay so far.
    pub replay: ReplayCheck,
    /// Format version that the program writes.
    pub format: u32,
}

/// Damage of the node's own database when a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseDamage {
    /// Version of the snapshot.
    pub data_version: u32,
    /// Message of SQLite.
    pub text: String,
}

impl DatabaseDamage {
    /// Result for the newest checked snapshot; `None` when it is sound, or none was checked.
    pub fn of(checked: &CheckedSnapshots) -> Option<Self> {
        let unsound = checked.newest_unsound()?;
        Some(Self { data_version: unsound.data_version.get(), text: unsound.found.clone() })
    }
}

/// Result of replay so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayCheck {
    /// Every change up to this version was replayed.
    pub through: Option<u32>,
    /// The state as a sentence.
    pub text: String,
    /// Reason why replay does not continue.
    pub problem: Option<String>,
}

impl Default for ReplayCheck {
    fn default() -> Self {
        Self::new(None, None)
    }
}

impl ReplayCheck {
    /// The current result.
    pub fn new(through: Option<DataVersion>, problem: Option<String>) -> Self {
        let text = match through {
            Some(version) => format!("every change up to version {version} has been replayed"),
            None => "no change has been replayed yet".to_owned(),
        };
        Self { through: through.map(DataVersion::get), text, problem }
    }
}

impl StatusFields {
    /// Fields with only the format set.
    pub fn new() -> Self {
        Self { format: format::FORMAT_VERSION.into(), ..Self::default() }
    }

    /// Sets the newest version.
    pub fn set_newest(&mut self, newest: &NewestVersion) {
        self.data_version = Some(newest.data_version.get());
        self.seq = Some(newest.seq.get());
        self.recorded_at = Some(newest.recorded_at.to_string());
    }

    /// Sets what is sealed.
    pub fn set_unsealed(&mut self, unsealed: &UnsealedChanges) {
        let through = unsealed.sealed_through();
        self.unsealed_changes = Some(unsealed.count());
        self.sealed_through = through.and_then(|through| through.data_version).map(DataVersion::get);
        self.sealed_through_seq = through.map(|through| through.seq.get());
    }

    /// Sets the lengths of the files.
    pub fn set_bytes(&mut self, bytes: BytesByKind) {
        self.bytes = Some(bytes.total());
        self.bytes_by_kind = Some(bytes);
    }
}

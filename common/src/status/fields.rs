//! What `backup-status` and `backupfs status` both tell: one name, and one meaning, for each.

use serde::Serialize;

use crate::backup::size::BytesByKind;
use crate::backup::state::UnsealedChanges;
use crate::history::NewestVersion;
use format::checked::CheckedSnapshots;
use format::units::DataVersion;

/// How a backup is doing, as JSON. What is not known is null; fields are only ever added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StatusFields {
    /// The newest version.
    pub data_version: Option<u32>,
    /// Its seq.
    pub seq: Option<u64>,
    /// When it was recorded, in RFC 3339.
    pub recorded_at: Option<String>,
    /// URL of the backup.
    pub destination: Option<String>,
    /// Bytes of its files.
    pub bytes: Option<u64>,
    /// What they are made up of.
    pub bytes_by_kind: Option<BytesByKind>,
    /// Why they are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_problem: Option<String>,
    /// Bytes that its file system has left.
    pub free_bytes: Option<u64>,
    /// Changes that are in no segment yet.
    pub unsealed_changes: Option<u64>,
    /// The newest version that is in a segment.
    pub sealed_through: Option<u32>,
    /// Seq of the last record that is.
    pub sealed_through_seq: Option<u64>,
    /// What is wrong with the node's own database, as the newest snapshot has it.
    pub database_damage: Option<DatabaseDamage>,
    /// What is known to replay.
    pub replay: ReplayCheck,
    /// Version of the format that the program writes.
    pub format: u32,
}

/// The node's own database was damaged when it was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseDamage {
    /// The version of the snapshot.
    pub data_version: u32,
    /// What SQLite says of it.
    pub text: String,
}

impl DatabaseDamage {
    /// What the newest snapshot that was checked tells; `None` when it is sound, or none was checked.
    pub fn of(checked: &CheckedSnapshots) -> Option<Self> {
        let unsound = checked.newest_unsound()?;
        Some(Self { data_version: unsound.data_version.get(), text: unsound.found.clone() })
    }
}

/// What is known to replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayCheck {
    /// Every change up to this version has been replayed.
    pub through: Option<u32>,
    /// The same, in words.
    pub text: String,
    /// Why no more is.
    pub problem: Option<String>,
}

impl Default for ReplayCheck {
    fn default() -> Self {
        Self::new(None, None)
    }
}

impl ReplayCheck {
    /// What is known by now.
    pub fn new(through: Option<DataVersion>, problem: Option<String>) -> Self {
        let text = match through {
            Some(version) => format!("every change up to version {version} has been replayed"),
            None => "no change has been replayed yet".to_owned(),
        };
        Self { through: through.map(DataVersion::get), text, problem }
    }
}

impl StatusFields {
    /// Nothing is known but the format.
    pub fn new() -> Self {
        Self { format: format::FORMAT_VERSION.into(), ..Self::default() }
    }

    /// The newest version.
    pub fn set_newest(&mut self, newest: &NewestVersion) {
        self.data_version = Some(newest.data_version.get());
        self.seq = Some(newest.seq.get());
        self.recorded_at = Some(newest.recorded_at.to_string());
    }

    /// What is sealed.
    pub fn set_unsealed(&mut self, unsealed: &UnsealedChanges) {
        let through = unsealed.sealed_through();
        self.unsealed_changes = Some(unsealed.count());
        self.sealed_through = through.and_then(|through| through.data_version).map(DataVersion::get);
        self.sealed_through_seq = through.map(|through| through.seq.get());
    }

    /// What its files take.
    pub fn set_bytes(&mut self, bytes: BytesByKind) {
        self.bytes = Some(bytes.total());
        self.bytes_by_kind = Some(bytes);
    }
}

//! What a backup takes on disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Serialize;

use super::place::Made;

/// The sizes of the files of a backup.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// Bytes and number of the files by what their names begin with.
    pub kinds: BTreeMap<String, Kind>,
    /// Sum of all files, in bytes.
    pub bytes: u64,
    /// Size of the snapshot before the first change, in bytes.
    pub snapshot: u64,
    /// Bytes that came with the changes, per version.
    pub per_version: f64,
    /// Their SQL, per version.
    pub sql_per_version: f64,
}

/// Files of a kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Kind {
    pub files: u64,
    pub bytes: u64,
}

impl Sizes {
    /// Sizes of a backup with the history `made`.
    pub fn of(backup: &Path, made: &Made) -> anyhow::Result<Self> {
        let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
        for entry in fs::read_dir(backup)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = kinds.entry(name.split('-').next().unwrap_or_default().to_owned()).or_default();
            kind.files += 1;
            kind.bytes += stored(&entry.metadata()?);
        }
        let bytes = kinds.values().map(|kind| kind.bytes).sum();
        let per_version = |bytes: u64| bytes as f64 / made.changes.max(1) as f64;
        Ok(Self {
            kinds,
            bytes,
            snapshot: made.snapshot_bytes,
            per_version: per_version(bytes.saturating_sub(made.snapshot_bytes)),
            sql_per_version: per_version(made.sql_bytes),
        })
    }
}

/// Bytes of the snapshots in a backup.
pub fn snapshot_bytes(backup: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(backup)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"snapshot-") {
            bytes += stored(&entry.metadata()?);
        }
    }
    Ok(bytes)
}

/// Space that a file takes: its length, or less where it has holes.
fn stored(metadata: &fs::Metadata) -> u64 {
    metadata.len().min(metadata.blocks() * 512)
}

//! The findings of a verification: damage with its impact, and notes.

use std::collections::BTreeMap;
use std::path::Path;

use super::VersionRanges;
use crate::replay::ReplayError;
use crate::storage::StorageError;
use crate::storage::read_error::ReadError;
use format::Damage;
use format::units::counted;

/// A finding: something that was changed since it was written, or was never right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the file in the backup directory.
    pub file: String,
    /// Offset of the faulty structure in the file; `None` for the file as a whole.
    pub offset: Option<u64>,
    /// The fault.
    pub wrong: Wrong,
    /// Versions that cannot be opened because of it.
    pub lost: VersionRanges,
    /// Versions that open, but may differ from what the node had.
    pub in_doubt: VersionRanges,
}

/// The fault of a finding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// The bytes are damaged.
    #[error("{0}")]
    Damaged(Damage),
    /// The bytes are damaged, and parity mends them whenever they are read.
    #[error("it is damaged, and parity mends it whenever it is read; `backupfs repair` writes the file anew")]
    Mended,
    /// Parity is damaged, which costs no version.
    #[error("it is damaged. It is parity, so no version is lost; the recorder and `backupfs repair` make it again")]
    DamagedParity,
    /// The file is missing, and others need it.
    #[error("it is not there, and it is needed")]
    Missing,
    /// The operating system cannot read the file.
    #[error("it cannot be read: {reason}")]
    Unreadable {
        /// Error of the operating system.
        reason: String,
    },
    /// The newest version cannot be opened, because it builds on something that does not replay or is missing.
    #[error("{reason}")]
    NewestUnreadable {
        /// The version, and what to do.
        reason: String,
    },
    /// The file has a name of a backup's file, and is not referenced.
    #[error("it is no part of the backup: {why}")]
    Stray {
        /// Reason why it is not part of the backup.
        why: &'static str,
    },
    /// A change does not replay.
    #[error("{reason}")]
    Replay {
        /// SQLite's message.
        reason: String,
    },
    /// Replay differs from the stored state.
    #[error("replay yields something else than what is stored: {what}")]
    Differs {
        /// The difference, and where it is.
        what: String,
    },
    /// SQLite reports damage of the newest version.
    #[error("{check} of version {data_version} says: {found}")]
    Unsound {
        /// The PRAGMA.
        check: &'static str,
        /// The version.
        data_version: format::units::DataVersion,
        /// First message of the check.
        found: String,
    },
    /// The newest version is as damaged as the node's own database.
    #[error(
        "the node's own database is damaged. integrity_check of version {data_version} says: {found}; and so it was when \
         version {snapshot} was copied from it. The backup has what the node had"
    )]
    NodeDatabase {
        /// The version.
        data_version: format::units::DataVersion,
        /// The version that was copied from the node.
        snapshot: format::units::DataVersion,
        /// The first message of the check.
        found: String,
    },
}

impl Wrong {
    /// Name of the kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::Mended => "mended",
            Self::DamagedParity => "damaged_parity",
            Self::NewestUnreadable { .. } => "newest_unreadable",
            Self::Missing => "missing",
            Self::Unreadable { .. } => "unreadable",
            Self::Stray { .. } => "stray",
            Self::Replay { .. } => "replay",
            Self::Differs { .. } => "differs",
            Self::Unsound { .. } => "unsound",
            Self::NodeDatabase { .. } => "node_database",
        }
    }
}

/// A remark without impact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Name of the file in the backup directory.
    pub file: String,
    /// The remark.
    pub about: NoteAbout,
}

/// A remark about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteAbout {
    /// The name is not that of a backup's file.
    #[error("it is none of the files of a backup")]
    Stranger,
    /// The backup was rescued from a damaged file of the Python plugin.
    #[error(
        "this backup ends before the damage in a file of the Python plugin: never run a node on it unless it goes on from there"
    )]
    Rescued,
    /// A crash left the file.
    #[error(
        "it is not needed any more, or was never finished: the next recorder removes it from a backup, and a copy keeps it"
    )]
    Leftover,
    /// A damaged file that a repair has replaced.
    #[error(
        "it is the damaged file that a repair has replaced. It is not needed; `backupfs repair` removes it once nothing is wrong any more"
    )]
    Kept,
    /// An unacknowledged write follows its last record.
    #[error("behind its last record are remains of a write that was never acknowledged ({})", counted(*.bytes, "byte"))]
    TornWrite {
        /// Length in bytes.
        bytes: u64,
    },
    /// Replay stores the same rows on other pages.
    #[error("replay with this release of SQLite puts the same rows on other pages at {keyframes} keyframes")]
    OtherLayout {
        /// Number of keyframes concerned.
        keyframes: u32,
    },
    /// The read sets are not those of a replay.
    #[error(
        "its read sets are not what a replay with this release of SQLite reads: from far away its versions open more slowly. Nothing \
         is lost"
    )]
    OtherReads,
    /// A catalog of an off-site copy is damaged, or contradicts its segments.
    #[error(
        "it is damaged, or says something else than the segments. Readers read the segments themselves, which takes longer; nothing is \
         lost. Once you remove this object from the store, `backupfs ship` makes a new one"
    )]
    WrongCatalog,
}

impl NoteAbout {
    /// Name of the kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Rescued => "rescued",
            Self::Leftover => "leftover",
            Self::Kept => "kept",
            Self::TornWrite { .. } => "torn_write",
            Self::OtherLayout { .. } => "other_layout",
            Self::OtherReads => "other_reads",
            Self::WrongCatalog => "wrong_catalog",
        }
    }
}

/// Identity of a finding: one fault may be found in several ways.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Where {
    file: String,
    offset: Option<u64>,
    kind: &'static str,
}

/// All findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<Where, Finding>);

impl Findings {
    /// Adds a fault, unless it is known already.
    pub(super) fn add(&mut self, file: &str, offset: Option<u64>, wrong: Wrong) -> Where {
        let at = Where { file: file.to_owned(), offset, kind: wrong.kind() };
        self.0.entry(at.clone()).or_insert_with(|| Finding {
            file: file.to_owned(),
            offset,
            wrong,
            lost: VersionRanges::default(),
            in_doubt: VersionRanges::default(),
        });
        at
    }

    /// Adds a read error.
    pub(super) fn add_read(&mut self, error: &ReadError) -> Where {
        let (file, offset, wrong) = fault_of(error);
        self.add(&file, offset, wrong)
    }

    /// Adds a replay error, for this file and the statements at this offset.
    pub(super) fn add_replay(&mut self, file: &str, offset: Option<u64>, error: &ReplayError) -> Where {
        match error {
            ReplayError::Pages(error) => self.add_read(error),
            error => self.add(file, offset, Wrong::Replay { reason: error.to_string() }),
        }
    }

    /// Adds the impact of a finding.
    pub(super) fn cost(&mut self, at: &Where, cost: impl FnOnce(&mut Finding)) {
        if let Some(finding) = self.0.get_mut(at) {
            cost(finding);
        }
    }

    /// All findings, by file and offset.
    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.0.into_values().collect()
    }
}

/// File, offset and fault of a read error.
fn fault_of(error: &ReadError) -> (String, Option<u64>, Wrong) {
    let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    match error {
        ReadError::Damaged { path, offset, damage } => (name(path), Some(*offset), Wrong::Damaged(damage.clone())),
        ReadError::Storage(error) if error.is_not_found() => (name(&error.path), None, Wrong::Missing),
        ReadError::Storage(StorageError { op, path, offset, source }) => {
            (name(path), *offset, Wrong::Unreadable { reason: format!("{op}: {source}") })
        }
        ReadError::NewestUnreadable { path, .. } => {
            (name(path), None, Wrong::NewestUnreadable { reason: error.to_string() })
        }
    }
}

//! What a verification finds: damage, with what it costs, and what is only worth a note.

use std::collections::BTreeMap;
use std::path::Path;

use super::VersionRanges;
use crate::replay::ReplayError;
use crate::storage::StorageError;
use crate::storage::read_error::ReadError;
use format::Damage;
use format::units::counted;

/// Something that is not as it was when it was written, or never was as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the file in the backup directory.
    pub file: String,
    /// Byte of the file at which the structure begins that is wrong; `None` where it is the file as a whole.
    pub offset: Option<u64>,
    /// What is wrong.
    pub wrong: Wrong,
    /// Versions that cannot be opened for it.
    pub lost: VersionRanges,
    /// Versions that open, but may not hold what the node had.
    pub in_doubt: VersionRanges,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// The bytes are not what they should be.
    #[error("{0}")]
    Damaged(Damage),
    /// The file is not there, and others need it.
    #[error("it is not there, and it is needed")]
    Missing,
    /// The operating system does not give it.
    #[error("it cannot be read: {reason}")]
    Unreadable {
        /// What the operating system says.
        reason: String,
    },
    /// It was recorded last, and cannot be opened, for it builds on something that does not replay or is not there.
    #[error("{reason}")]
    NewestUnreadable {
        /// Which version, and what to do.
        reason: String,
    },
    /// It has one of our names, and nothing leads to it.
    #[error("it is no part of the backup: {why}")]
    Stray {
        /// What it is instead.
        why: &'static str,
    },
    /// A change cannot be replayed.
    #[error("{reason}")]
    Replay {
        /// What SQLite says.
        reason: String,
    },
    /// Replay yields something else than what is stored.
    #[error("replay yields something else than what is stored: {what}")]
    Differs {
        /// What differs, and where.
        what: String,
    },
    /// SQLite does not find the newest version sound.
    #[error("{check} of version {data_version} says: {found}")]
    Unsound {
        /// The PRAGMA.
        check: &'static str,
        /// The version.
        data_version: format::units::DataVersion,
        /// Its first words.
        found: String,
    },
    /// The newest version is as damaged as what the node gave.
    #[error(
        "the node's own database is damaged. integrity_check of version {data_version} says: {found}; and so it was when \
         version {snapshot} was copied from it. The backup has what the node had"
    )]
    NodeDatabase {
        /// The version.
        data_version: format::units::DataVersion,
        /// The version that was copied from the node.
        snapshot: format::units::DataVersion,
        /// The first words of the check.
        found: String,
    },
}

impl Wrong {
    /// The word for its kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
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

/// Something that costs nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Name of the file in the backup directory.
    pub file: String,
    /// What is to be said about it.
    pub about: NoteAbout,
}

/// What is to be said about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteAbout {
    /// No file of a backup has such a name.
    #[error("it is none of the files of a backup")]
    Stranger,
    /// The backup was rescued from a damaged file of the Python plugin.
    #[error(
        "this backup ends before the damage in a file of the Python plugin: never run a node on it unless it goes on from there"
    )]
    Rescued,
    /// A crash has left it.
    #[error("it is not needed any more, or was never finished: the next recorder removes it")]
    Leftover,
    /// What follows its last record was never acknowledged.
    #[error("behind its last record are remains of a write that was never acknowledged ({})", counted(*.bytes, "byte"))]
    TornWrite {
        /// How many.
        bytes: u64,
    },
    /// Replay puts the same rows elsewhere.
    #[error("replay with this release of SQLite puts the same rows on other pages at {keyframes} keyframes")]
    OtherLayout {
        /// Of how many keyframes.
        keyframes: u32,
    },
}

impl NoteAbout {
    /// The word for its kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Rescued => "rescued",
            Self::Leftover => "leftover",
            Self::TornWrite { .. } => "torn_write",
            Self::OtherLayout { .. } => "other_layout",
        }
    }
}

/// What was found at one place: the same thing may be come across from many sides.
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
    /// Adds something wrong, unless it is known already.
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

    /// Adds what could not be read.
    pub(super) fn add_read(&mut self, error: &ReadError) -> Where {
        let (file, offset, wrong) = told(error);
        self.add(&file, offset, wrong)
    }

    /// Adds what could not be replayed, in this file, with the statements that begin at this byte.
    pub(super) fn add_replay(&mut self, file: &str, offset: Option<u64>, error: &ReplayError) -> Where {
        match error {
            ReplayError::Pages(error) => self.add_read(error),
            error => self.add(file, offset, Wrong::Replay { reason: error.to_string() }),
        }
    }

    /// Says what a finding costs.
    pub(super) fn cost(&mut self, at: &Where, cost: impl FnOnce(&mut Finding)) {
        if let Some(finding) = self.0.get_mut(at) {
            cost(finding);
        }
    }

    /// All of them, by file and offset.
    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.0.into_values().collect()
    }
}

/// File, offset, and what is wrong there.
fn told(error: &ReadError) -> (String, Option<u64>, Wrong) {
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

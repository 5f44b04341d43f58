//! [`Report`]: what a verification has come to.

use std::time::Duration;

use super::{Finding, Note, Soundness, VersionRanges, Warning, Wrong};

/// What was verified and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Files that were read.
    pub files: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Versions that were verified; those of files that cannot be read are counted as far as they are known.
    pub versions: u64,
    /// What is wrong, by file and byte.
    pub findings: Vec<Finding>,
    /// What is wrong with the node's own database, and no damage of the backup.
    pub warnings: Vec<Warning>,
    /// What is worth a note.
    pub notes: Vec<Note>,
    /// Versions that cannot be opened.
    pub lost: VersionRanges,
    /// How many those are; `None` when not even that is known.
    pub versions_lost: Option<u64>,
    /// Versions that open, but may not hold what the node had.
    pub in_doubt: VersionRanges,
    /// What SQLite says of the newest version; `None` when it was not asked.
    pub newest: Option<Soundness>,
    /// How long it took.
    pub duration: Duration,
}

impl Report {
    /// Whether everything is as it should be.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether all that is wrong is that the node's own database is damaged.
    pub fn is_only_of_the_node(&self) -> bool {
        let of_the_node = |finding: &Finding| matches!(finding.wrong, Wrong::NodeDatabase { .. });
        !self.is_clean() && self.findings.iter().all(of_the_node)
    }

    /// Whether all that is wrong is that the newest version cannot be opened.
    pub fn is_only_of_the_newest(&self) -> bool {
        let of_the_newest = |finding: &Finding| matches!(finding.wrong, Wrong::NewestUnreadable { .. });
        !self.is_clean() && self.findings.iter().all(of_the_newest)
    }
}

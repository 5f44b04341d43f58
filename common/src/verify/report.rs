//! [`Report`]: the results of a verification.

use std::time::Duration;

use super::{Finding, Note, Soundness, VersionRanges, Warning, Wrong};

/// The results of a verification.
#[derive(Debug, Default)]
pub struct Report {
    /// Number of files read.
    pub files: u64,
    /// Number of bytes read.
    pub bytes: u64,
    /// Number of versions verified; those in unreadable files are counted as far as they are known.
    pub versions: u64,
    /// The findings, by file and offset.
    pub findings: Vec<Finding>,
    /// Damage of the node's own database, which is no damage of the backup.
    pub warnings: Vec<Warning>,
    /// Remarks without impact.
    pub notes: Vec<Note>,
    /// Versions that cannot be opened.
    pub lost: VersionRanges,
    /// Number of those versions; `None` when unknown.
    pub versions_lost: Option<u64>,
    /// Versions that open, but may differ from what the node had.
    pub in_doubt: VersionRanges,
    /// SQLite's result for the newest version; `None` when it was not checked.
    pub newest: Option<Soundness>,
    /// Duration of the verification.
    pub duration: Duration,
}

impl Report {
    /// Whether there are no findings.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether all findings are damage of the node's own database.
    pub fn is_only_of_the_node(&self) -> bool {
        let of_the_node = |finding: &Finding| matches!(finding.wrong, Wrong::NodeDatabase { .. });
        !self.is_clean() && self.findings.iter().all(of_the_node)
    }

    /// Whether parity mends all that is wrong, or parity itself is what is wrong: nothing is lost.
    pub fn is_mended(&self) -> bool {
        let mends = |finding: &Finding| matches!(finding.wrong, Wrong::Mended | Wrong::DamagedParity);
        !self.is_clean() && self.findings.iter().all(mends)
    }

    /// Whether a log that is not sealed yet is damaged. It has no parity; the newest state is still in the node's database.
    pub fn is_of_a_log(&self) -> bool {
        let of_a_log = |finding: &Finding| format::names::parse_log(&finding.file).is_some();
        self.findings.iter().any(of_a_log)
    }

    /// Whether the only fault is that the newest version cannot be opened.
    pub fn is_only_of_the_newest(&self) -> bool {
        let of_the_newest = |finding: &Finding| matches!(finding.wrong, Wrong::NewestUnreadable { .. });
        !self.is_clean() && self.findings.iter().all(of_the_newest)
    }
}

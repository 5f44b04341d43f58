//! Verifying a backup: every byte of it, and that all of it is what the node had.
//!
//! | where | what |
//! | --- | --- |
//! | `segment_body`, `record_chain`, `page_map` | one segment against its own index |
//! | `segment_replay` | its replay, by the sealer's machinery, against the pages that it has |
//! | `sealed` | the segments side by side |
//! | `snapshot`, `logs`, `directory`, `spool` | the other files |
//! | `reach` | what versions need of segments that they are not in |
//! | `costs` | which versions cannot be opened |
//! | `soundness`, `warning` | what SQLite says of the newest version; what is wrong with the node's own database |
//! | `picture`, `parts`, `whole` | the moment that is looked at; what threads do at once; one after the other |
//! | `finding`, `version_ranges` | what is told |
//! | `against` | a database beside its version: another question altogether |
//!
//! Nothing is locked, nothing is changed, and damage ends nothing. What a recorder writes or seals meanwhile is left out: the
//! picture is that of the moment at which the history was read, and segments stay as they are.

mod against;
mod baseline;
mod directory;
mod finding;
mod hold;
mod impact;
mod jobs;
mod logs;
mod references;
mod report;
mod run;
mod sealed;
mod snapshot;
mod soundness;
mod spool;
#[cfg(test)]
mod tests;
mod thinned;
mod version_ranges;
mod warning;

pub use against::{Against, AgainstError, compare_with_database};
pub use finding::{Finding, Note, NoteAbout, Wrong};
pub use hold::Hold;
pub use report::Report;
pub use run::verify;
pub use soundness::Soundness;
pub use version_ranges::{VersionRange, VersionRanges};
pub use warning::Warning;

use crate::backup::OpenError;
use format::units::DataVersion;

/// How much is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// Checksums and what is stored.
    Quick,
    /// That what is recorded yields what is stored, too.
    #[default]
    Replay,
}

/// What is to be verified.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// How much.
    pub depth: Depth,
    /// The first version; the oldest unless given.
    pub from: Option<DataVersion>,
    /// The last version; the newest unless given.
    pub to: Option<DataVersion>,
}

/// Why nothing was verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is no backup.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be listed.
    #[error("the backup cannot be listed")]
    List(#[from] crate::storage::StorageError),
    /// A version is not in it.
    #[error("version {version} is not in the backup; `backupfs versions` lists those that are")]
    UnknownVersion {
        /// The version.
        version: DataVersion,
    },
    /// There is nothing from the one version to the other.
    #[error("version {from} comes after version {to}; give the older one with --from")]
    Backwards {
        /// The first version asked for.
        from: DataVersion,
        /// The last.
        to: DataVersion,
    },
}

//! Verification of a backup: every byte of it, and that it equals what the node had.
//!
//! | where | what |
//! | --- | --- |
//! | room `check` | one segment against its own index, and its replay against its pages |
//! | `baseline`, `run`, `jobs` | the state that is verified; the steps in order; the steps that threads take in parallel |
//! | `sealed` | the segments against each other |
//! | `snapshot`, `logs`, `directory`, `spool` | the other files |
//! | `references`, `thinned` | what versions need of other or dropped segments |
//! | `impact` | which versions cannot be opened |
//! | `soundness`, `warning` | SQLite's check of the newest version; damage of the node's own database |
//! | `finding`, `report`, `version_ranges` | the results |
//! | `against`, `hold` | comparison of a database with its version |
//!
//! Nothing is locked or changed, and damage does not end a verification. What is recorded or sealed meanwhile is left out: the
//! state is that at which the history was read, and segments do not change.

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

/// The extent of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// Beginnings and ends of segments and snapshots, whether each segment continues the one before it, and all logs. What lies
    /// between is not read: enough to find out what a copy elsewhere lacks.
    Chain,
    /// Checksums and stored structures.
    Quick,
    /// Checksums, stored structures, and that replay yields the stored pages.
    #[default]
    Replay,
}

/// The part of a backup to verify.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// The depth.
    pub depth: Depth,
    /// The first version; by default the oldest.
    pub from: Option<DataVersion>,
    /// The last version; by default the newest.
    pub to: Option<DataVersion>,
}

/// The reason why a backup could not be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The backup cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory cannot be listed.
    #[error("the backup cannot be listed")]
    List(#[from] crate::storage::StorageError),
    /// A version is not in the backup.
    #[error("version {version} is not in the backup; `backupfs versions` lists those that are")]
    UnknownVersion {
        /// The version.
        version: DataVersion,
    },
    /// The range is empty.
    #[error("version {from} comes after version {to}; give the older one with --from")]
    Backwards {
        /// The first version of the range.
        from: DataVersion,
        /// The last version of the range.
        to: DataVersion,
    },
}

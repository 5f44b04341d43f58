//! [`prune`]: old history removed from a copy, by an operator whose credentials may delete objects. The node's need not.
//!
//! It is the compaction of a backup, on a `PruneDirectory`: what is kept of the dropped segments is written to a file `pruned`, read
//! back, uploaded under a name of its own, and read back from the store; only then are objects removed. Whatever happens in between,
//! a reader finds either the whole old history, or the new one.

mod directory;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::compact::{
    Clock, CompactBackupError, CompactOutcome, CompactProgress, Compaction, compact_copy, plan_compaction,
};
use common::{KeepPolicy, Source};

use crate::copy::CopyDirectory;
use crate::copy::chunks::Chunks;
use crate::copy::contents::UseOfCatalogs;
use crate::copy_error::CopyError;
use crate::keys::key_ring::KeyRing;
use crate::keys::master_key::MasterKey;
use crate::prune::directory::PruneDirectory;
use crate::store::Store;

/// A copy, with the keys that open its objects, and the one that new ones are sealed with; `None` for a copy that is not encrypted.
#[derive(Debug, Clone)]
pub struct CopyToPrune {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The keys.
    pub keys: Option<(KeyRing, MasterKey)>,
}

/// Why a copy is not pruned. What is kept is not affected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The store cannot be used, or an object cannot be read.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// What is to be kept cannot be worked out or written.
    #[error(transparent)]
    Compact(#[from] CompactBackupError),
    /// Older history is not in the copy yet, or was lost.
    #[error(
        "the copy lacks some of the records up to {through}: they were not shipped yet, or were lost. Nothing is removed from it; \
         `backupfs ship --once` on the node ships what it has"
    )]
    NotWhole {
        /// Seq of the last record that is missing.
        through: u64,
    },
    /// There is no place for temporary files.
    #[error("there is no place for what is to be kept: {0}; set TMPDIR to a directory with room")]
    Temporary(#[from] std::io::Error),
}

impl PruneError {
    /// Whether the copy is damaged, rather than temporarily unavailable.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Copy(error) => matches!(error, CopyError::Damaged { .. } | CopyError::Seal(_)),
            Self::Compact(error) => error.is_damage(),
            Self::NotWhole { .. } | Self::Temporary(_) => false,
        }
    }
}

/// The outcome of a pruning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PruneOutcome {
    /// Everything outside of the policy was dropped.
    Done {
        /// What was dropped.
        compaction: Compaction,
        /// The number of objects removed.
        objects: u64,
    },
    /// It was stopped; the next pruning goes on.
    Interrupted,
}

/// Drops what the policy does not keep from a copy, and the logs that are sealed. `watch` is called repeatedly, and can break.
///
/// # Errors
/// When the copy cannot be read as a whole, the clock may be wrong, or the store refuses. What is kept stays readable.
pub fn prune(
    copy: &CopyToPrune,
    policy: &KeepPolicy,
    clock: Clock<'_>,
    watch: &mut dyn FnMut(CompactProgress) -> ControlFlow<()>,
) -> Result<PruneOutcome, PruneError> {
    let opened = open(copy)?;
    let directory = Arc::new(PruneDirectory::new(opened, copy)?);
    let source = Source::new(copy.store.url(), Arc::clone(&directory) as _);
    match compact_copy(&source, policy, clock, watch)? {
        CompactOutcome::Done(compaction) => {
            directory.remove_superseded()?;
            Ok(PruneOutcome::Done { compaction, objects: directory.removed_objects() })
        }
        CompactOutcome::Interrupted => Ok(PruneOutcome::Interrupted),
    }
}

/// What [`prune`] would drop; `None` when `watch` has broken. Nothing is changed.
///
/// # Errors
/// When the copy cannot be read as a whole.
pub fn plan_pruning(
    copy: &CopyToPrune,
    policy: &KeepPolicy,
    watch: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<Compaction>, PruneError> {
    let source = Source::new(copy.store.url(), Arc::new(open(copy)?));
    Ok(plan_compaction(&source, policy, watch)?)
}

fn open(copy: &CopyToPrune) -> Result<CopyDirectory, PruneError> {
    let keys = copy.keys.as_ref().map(|(ring, _)| ring.clone());
    // Nothing that an earlier process has kept decides about what is removed.
    let opened =
        CopyDirectory::open(Arc::new(Chunks::new(Arc::clone(&copy.store), keys, None)), UseOfCatalogs::Ignored)?;
    match opened.missing_through()? {
        0 => Ok(opened),
        through => Err(PruneError::NotWhole { through }),
    }
}

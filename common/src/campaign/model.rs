//! What a backup must hold, as told by the script and not by the code that records.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) seq: u64,
    pub(super) is_snapshot: bool,
    pub(super) statements: Vec<String>,
    /// Whether the node's database was compared with what had been recorded, by then.
    pub(super) is_verified: bool,
    /// Every row of the database; empty when that is not told.
    pub(super) contents: Arc<Vec<String>>,
}

/// What is recorded at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) versions: BTreeMap<u32, Held>,
    /// Whether it was noted that the newest version was committed.
    pub(super) is_noted: bool,
}

/// What may be found when power fails now.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    /// By a reader of the backup, before anybody has recovered it.
    pub(super) backup: Vec<Arc<State>>,
    /// By the next recorder, in the backup and the spool together.
    pub(super) whole: Vec<Arc<State>>,
    pub(super) existence: Existence,
}

/// Whether there must be a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existence {
    /// It is being made: either nothing has its name, or all of it is there.
    Maybe,
    Certain,
}

impl State {
    pub(super) fn newest(&self) -> Option<u32> {
        self.versions.keys().next_back().copied()
    }

    pub(super) fn with(&self, version: u32, held: Held) -> Self {
        let mut versions = self.versions.clone();
        versions.insert(version, held);
        Self { versions, is_noted: false }
    }

    /// What a snapshot leaves: it takes the place of what was not verified.
    pub(super) fn verified(&self) -> Self {
        let mut versions = self.versions.clone();
        while versions.last_entry().is_some_and(|newest| !newest.get().is_verified) {
            versions.pop_last();
        }
        Self { versions, is_noted: false }
    }

    pub(super) fn without(&self, version: u32) -> Self {
        let mut versions = self.versions.clone();
        versions.remove(&version);
        Self { versions, is_noted: false }
    }
}

//! The expected contents of a backup, according to the script and not to the recording code.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) seq: u64,
    pub(super) is_snapshot: bool,
    pub(super) statements: Vec<String>,
    /// Whether the node's database had been compared with the recorded versions by then.
    pub(super) is_verified: bool,
    /// Every row of the database; empty when unknown.
    pub(super) contents: Arc<Vec<String>>,
}

/// The recorded state at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) versions: BTreeMap<u32, Held>,
    /// Whether the commit of the newest version was recorded.
    pub(super) is_noted: bool,
}

/// The states that are allowed after a power cut now.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    /// For a reader of the backup, before recovery.
    pub(super) backup: Vec<Arc<State>>,
    /// For the next recorder, in backup and spool together.
    pub(super) whole: Vec<Arc<State>>,
    pub(super) existence: Existence,
}

/// Whether a backup must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existence {
    /// It is being created: either nothing has its name, or everything exists.
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

    /// The effect of a snapshot: it replaces unverified versions.
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

//! [`Views`]: the views that are open or were lately.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backup::Backup;
use crate::history::ReplayPlan;
use crate::replay::ReplayError;
use crate::view::{BuildError, View, ViewError};
use crate::{DataVersion, Seq};

/// Memory that a view takes beside its pages, roughly.
const VIEW_OVERHEAD_BYTES: u64 = 4096;

/// Opens views, shares them, and keeps the ones used last within a budget of memory.
///
/// Opening a version that is open costs nothing. Opening one goes on from the nearest earlier view that is kept, so that
/// neighbours are cheap. Two who open the same version at once build it once; a slow build delays nobody else.
#[derive(Debug)]
pub struct Views {
    backup: Arc<Backup>,
    budget_bytes: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    slots: BTreeMap<Seq, Slot>,
    /// Changes that fail to replay: every version from one of them to the next snapshot fails like it.
    failed: BTreeMap<Seq, Arc<ReplayError>>,
    clock: u64,
}

/// A version, being built or built.
#[derive(Debug, Default, Clone)]
struct Slot {
    /// Held while the view is being built.
    view: Arc<Mutex<Option<Arc<View>>>>,
    /// The view once built: looked at without waiting for builds.
    built: Option<Arc<View>>,
    used: u64,
}

impl Views {
    /// Keeps views of `backup` up to about `budget_bytes` of memory, and always those in use.
    pub fn new(backup: Arc<Backup>, budget_bytes: u64) -> Self {
        Self { backup, budget_bytes, kept: Mutex::default() }
    }

    /// Opens the version that `plan` was made for.
    ///
    /// # Errors
    /// When a change cannot be replayed, or something that is needed for it cannot be read.
    pub fn open(&self, plan: &ReplayPlan) -> Result<Arc<View>, ViewError> {
        let fail = |reason| ViewError { data_version: plan.data_version, reason };
        let slot = {
            let mut kept = self.kept();
            if let Some(reason) = kept.failure_on_the_way(plan) {
                return Err(fail(reason));
            }
            kept.touch(plan.seq)
        };
        let mut building = slot.view.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = &*building {
            return Ok(Arc::clone(view));
        }
        let earlier = self.kept().nearest_on_the_way(plan);
        match View::build(&self.backup, plan, earlier.as_deref()) {
            Ok(view) => {
                let view = Arc::new(view);
                *building = Some(Arc::clone(&view));
                drop(building);
                self.kept().keep(&view, self.budget_bytes);
                Ok(view)
            }
            Err(BuildError { at, reason }) => {
                drop(building);
                let reason = Arc::new(reason);
                let mut kept = self.kept();
                kept.slots.remove(&plan.seq);
                // A read that failed may succeed next time; a statement that failed will fail again.
                if let Some(at) = at.filter(|_| !matches!(*reason, ReplayError::Pages(_))) {
                    kept.failed.insert(at, Arc::clone(&reason));
                }
                Err(fail(reason))
            }
        }
    }

    /// The first version of those opened so far at which replay fails, if any.
    pub fn first_failure(&self) -> Option<(Seq, DataVersion)> {
        let kept = self.kept();
        let (&seq, reason) = kept.failed.first_key_value()?;
        match **reason {
            ReplayError::Statement { data_version, .. } | ReplayError::BumpMissed { data_version, .. } => {
                Some((seq, data_version))
            }
            ReplayError::SetUp { .. } | ReplayError::Pages(_) => None,
        }
    }

    /// Forgets all views: what their seqs stand for has changed. Those in use live on.
    pub fn forget(&self) {
        *self.kept() = Kept::default();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The slot of a version, made if need be, marked as used now.
    fn touch(&mut self, seq: Seq) -> Slot {
        self.clock += 1;
        let slot = self.slots.entry(seq).or_default();
        slot.used = self.clock;
        slot.clone()
    }

    fn failure_on_the_way(&self, plan: &ReplayPlan) -> Option<Arc<ReplayError>> {
        let first = plan.changes.first()?.seq;
        self.failed
            .range(first..=plan.seq)
            .find(|(seq, _)| is_on_the_way(plan, **seq))
            .map(|(_, reason)| Arc::clone(reason))
    }

    /// The newest view that is built and from which only later changes of the plan are missing.
    fn nearest_on_the_way(&self, plan: &ReplayPlan) -> Option<Arc<View>> {
        let first = plan.changes.first()?.seq;
        self.slots
            .range(first..plan.seq)
            .rev()
            .filter_map(|(_, slot)| slot.built.as_ref())
            .find(|view| is_on_the_way(plan, view.seq()))
            .map(Arc::clone)
    }

    fn keep(&mut self, view: &Arc<View>, budget_bytes: u64) {
        if let Some(slot) = self.slots.get_mut(&view.seq()) {
            slot.built = Some(Arc::clone(view));
        }
        let cost = |slot: &Slot| slot.built.as_ref().map_or(0, |view| view.memory_bytes() + VIEW_OVERHEAD_BYTES);
        let mut bytes: u64 = self.slots.values().map(cost).sum();
        while bytes > budget_bytes {
            // The newest is never dropped: the one who asked for it, and whoever asks for the next version, needs it.
            let oldest = self.slots.iter().filter(|(_, slot)| slot.built.is_some() && slot.used != self.clock);
            let Some(oldest) = oldest.min_by_key(|(_, slot)| slot.used).map(|(&seq, _)| seq) else {
                break;
            };
            bytes -= self.slots.remove(&oldest).map_or(0, |slot| cost(&slot));
        }
    }
}

fn is_on_the_way(plan: &ReplayPlan, seq: Seq) -> bool {
    plan.changes.binary_search_by_key(&seq, |change| change.seq).is_ok()
}

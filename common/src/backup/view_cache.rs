//! [`ViewCache`]: opened versions, shared between threads within a memory budget.
//!
//! The cache decides which thread opens a version, which threads wait for it, and what is evicted. It knows nothing of files: its
//! caller passes in how a version is opened.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};

use crate::backup::view::BuildError;
use crate::history::ReplayPlan;
use crate::replay::ReplayError;
use crate::sync::{Mutex, MutexGuard};
use format::units::Seq;

/// Approximate memory of a view besides its pages.
const VIEW_OVERHEAD_BYTES: u64 = 4096;

/// A view as the cache sees it.
pub(super) trait Cached {
    /// Seq of the version's newest record.
    fn seq(&self) -> Seq;

    /// Memory of its pages in bytes.
    fn memory_bytes(&self) -> u64;
}

/// Shares views, and keeps the most recently used within a memory budget. Views in use count, too, and are never evicted.
///
/// Threads that open one version at the same time open it once; a slow opening delays no other version.
#[derive(Debug)]
pub(super) struct ViewCache<V> {
    budget_bytes: u64,
    kept: Mutex<Kept<V>>,
}

#[derive(Debug)]
struct Kept<V> {
    slots: BTreeMap<Seq, Slot<V>>,
    /// Changes that fail to replay: every version from such a change to the next snapshot fails.
    failed: BTreeMap<Seq, Arc<ReplayError>>,
    /// Views in use that have no slot.
    forgotten: Vec<Weak<V>>,
    /// The view that was opened ahead last, and the clock then.
    ahead: Option<(Seq, u64)>,
    clock: u64,
}

/// A version, being built or built.
#[derive(Debug)]
struct Slot<V> {
    /// Locked during the build.
    view: Arc<Mutex<Option<Arc<V>>>>,
    /// The finished view, readable without waiting for a build.
    built: Option<Arc<V>>,
    used: u64,
}

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), failed: BTreeMap::new(), forgotten: Vec::new(), ahead: None, clock: 0 }
    }
}

impl<V> Default for Slot<V> {
    fn default() -> Self {
        Self { view: Arc::default(), built: None, used: 0 }
    }
}

impl<V> Clone for Slot<V> {
    fn clone(&self) -> Self {
        Self { view: Arc::clone(&self.view), built: self.built.clone(), used: self.used }
    }
}

impl<V: Cached> Slot<V> {
    /// Whether the view is in use, or about to be: the slot itself has two references to it, and a thread in
    /// [`open`](ViewCache::open) has one to the slot.
    fn is_held(&self) -> bool {
        self.is_awaited() || self.built.as_ref().is_some_and(|view| Arc::strong_count(view) > 2)
    }

    /// Whether a thread opens this version.
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.view) > 1
    }

    fn cost_bytes(&self) -> u64 {
        self.built.as_deref().map_or(0, cost_bytes)
    }
}

fn cost_bytes(view: &impl Cached) -> u64 {
    view.memory_bytes() + VIEW_OVERHEAD_BYTES
}

impl<V: Cached> ViewCache<V> {
    /// An empty cache with about `budget_bytes` of memory.
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, kept: Mutex::default() }
    }

    /// Whether a version is cached: then [`open`](Self::open) returns at once, unless it is evicted at this moment.
    pub(super) fn has(&self, seq: Seq) -> bool {
        self.kept().slots.get(&seq).is_some_and(|slot| slot.built.is_some())
    }

    /// The view of the version of `plan`. If no thread has opened it, `build` does, from the nearest earlier cached view.
    ///
    /// # Errors
    /// The reason that `build` gave, here or in the thread that was waited for.
    pub(super) fn open(
        &self,
        plan: &ReplayPlan,
        build: impl FnOnce(Option<&V>) -> Result<V, BuildError>,
    ) -> Result<Arc<V>, Arc<ReplayError>> {
        let slot = {
            let mut kept = self.kept();
            if let Some(reason) = kept.failure_on_the_way(plan) {
                return Err(reason);
            }
            kept.touch(plan.seq)
        };
        let mut building = slot.view.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = &*building {
            return Ok(Arc::clone(view));
        }
        let earlier = {
            let mut kept = self.kept();
            // An earlier build may have failed meanwhile.
            if let Some(reason) = kept.failure_on_the_way(plan) {
                drop(building);
                kept.give_up(plan.seq, slot);
                return Err(reason);
            }
            kept.nearest_on_the_way(plan)
        };
        match build(earlier.as_deref()) {
            Ok(view) => {
                let view = Arc::new(view);
                *building = Some(Arc::clone(&view));
                drop(building);
                self.kept().keep(&slot, &view, self.budget_bytes);
                Ok(view)
            }
            Err(BuildError { at, reason }) => {
                let reason = Arc::new(reason);
                let mut kept = self.kept();
                // A failed read may succeed next time; a failed statement will fail again.
                if let Some(at) = at.filter(|_| !matches!(*reason, ReplayError::Pages(_)))
                    && kept.has(plan.seq, &slot)
                {
                    kept.failed.insert(at, Arc::clone(&reason));
                }
                // Only now: a thread that waited finds the failure, and does not fail once more.
                drop(building);
                kept.give_up(plan.seq, slot);
                Err(reason)
            }
        }
    }

    /// Opens a version that may be needed soon. The previously opened one is evicted unless it was used: so views in use are not
    /// displaced by speculative ones.
    ///
    /// # Errors
    /// The same as [`open`](Self::open).
    pub(super) fn open_ahead(
        &self,
        plan: &ReplayPlan,
        build: impl FnOnce(Option<&V>) -> Result<V, BuildError>,
    ) -> Result<Arc<V>, Arc<ReplayError>> {
        let known = self.kept().slots.contains_key(&plan.seq);
        let view = self.open(plan, build)?;
        let mut kept = self.kept();
        let previous = kept.ahead.take();
        if let Some((seq, used)) = previous.filter(|&(seq, _)| seq != plan.seq)
            && kept.slots.get(&seq).is_some_and(|slot| slot.used == used)
        {
            kept.remove(seq);
        }
        if !known {
            kept.ahead = kept.slots.get(&plan.seq).map(|slot| (plan.seq, slot.used));
        }
        Ok(view)
    }

    /// Removes all views, because their seqs now stand for other records. Views in use stay valid.
    pub(super) fn forget(&self) {
        let mut kept = self.kept();
        let seqs: Vec<Seq> = kept.slots.keys().copied().collect();
        seqs.into_iter().for_each(|seq| kept.remove(seq));
        let forgotten = std::mem::take(&mut kept.forgotten);
        *kept = Kept { forgotten, ..Kept::default() };
    }

    /// Evicts unused views beyond the budget. Call it after a view was released.
    pub(super) fn trim(&self) {
        self.kept().trim(self.budget_bytes);
    }

    /// Memory of all views in bytes, including those in use.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.kept().memory_bytes()
    }

    /// Seqs of the versions that are cached or being built.
    #[cfg(test)]
    pub(super) fn seqs(&self) -> Vec<Seq> {
        self.kept().slots.keys().copied().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept<V>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Cached> Kept<V> {
    /// The slot of a version, created if necessary, marked as used.
    fn touch(&mut self, seq: Seq) -> Slot<V> {
        self.clock += 1;
        let slot = self.slots.entry(seq).or_default();
        slot.used = self.clock;
        slot.clone()
    }

    fn failure_on_the_way(&self, plan: &ReplayPlan) -> Option<Arc<ReplayError>> {
        let first = plan.changes.first()?.seq();
        self.failed
            .range(first..=plan.seq)
            .find(|(seq, _)| is_on_the_way(plan, **seq))
            .map(|(_, reason)| Arc::clone(reason))
    }

    /// The newest finished view from which the plan can continue.
    fn nearest_on_the_way(&self, plan: &ReplayPlan) -> Option<Arc<V>> {
        let first = plan.changes.first()?.seq();
        self.slots
            .range(first..plan.seq)
            .rev()
            .filter_map(|(_, slot)| slot.built.as_ref())
            .find(|view| is_on_the_way(plan, view.seq()))
            .map(Arc::clone)
    }

    /// Whether `slot` is still that of `seq`. After [`ViewCache::forget`] the seq may stand for another record.
    fn has(&self, seq: Seq, slot: &Slot<V>) -> bool {
        self.slots.get(&seq).is_some_and(|kept| Arc::ptr_eq(&kept.view, &slot.view))
    }

    fn keep(&mut self, begun: &Slot<V>, view: &Arc<V>, budget_bytes: u64) {
        match self.slots.get_mut(&view.seq()) {
            Some(slot) if Arc::ptr_eq(&slot.view, &begun.view) => slot.built = Some(Arc::clone(view)),
            // All were forgotten meanwhile.
            _ => self.forgotten.push(Arc::downgrade(view)),
        }
        self.trim(budget_bytes);
    }

    /// Ends an attempt to build a version. Its slot stays for the threads that wait: one of them tries next, and the last one
    /// removes it.
    fn give_up(&mut self, seq: Seq, begun: Slot<V>) {
        if self.has(seq, &begun) && Arc::strong_count(&begun.view) == 2 {
            self.slots.remove(&seq);
        }
        // Under the lock, so that the count is right for the thread that gives up next.
        drop(begun);
    }

    /// Removes the slot of a version. If its view is in use it still counts.
    fn remove(&mut self, seq: Seq) {
        let Some(slot) = self.slots.remove(&seq) else { return };
        if slot.is_held() {
            self.forgotten.extend(slot.built.iter().map(Arc::downgrade));
        }
    }

    fn memory_bytes(&mut self) -> u64 {
        self.forgotten.retain(|view| view.strong_count() > 0);
        let forgotten = self.forgotten.iter().filter_map(Weak::upgrade).map(|view| cost_bytes(&*view));
        self.slots.values().map(Slot::cost_bytes).chain(forgotten).sum()
    }

    fn trim(&mut self, budget_bytes: u64) {
        let mut bytes = self.memory_bytes();
        if bytes <= budget_bytes {
            return;
        }
        // The newest is never evicted: its caller needs it, and so may the next version. Evicting a view in use would free
        // nothing.
        let can_go = self.slots.iter().filter(|(_, slot)| slot.built.is_some() && slot.used != self.clock);
        let mut oldest: Vec<_> =
            can_go.filter(|(_, slot)| !slot.is_held()).map(|(&seq, slot)| (slot.used, seq)).collect();
        oldest.sort_unstable();
        for (_, seq) in oldest {
            bytes -= self.slots.remove(&seq).map_or(0, |slot| slot.cost_bytes());
            if bytes <= budget_bytes {
                break;
            }
        }
    }
}

fn is_on_the_way(plan: &ReplayPlan, seq: Seq) -> bool {
    plan.changes.binary_search_by_key(&seq, |change| change.seq()).is_ok()
}

#[cfg(test)]
mod tests;

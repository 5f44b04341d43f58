//! [`Views`]: a cache of open views.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::backup::Backup;
use crate::backup::view::{BuildError, View, ViewError};
use crate::history::ReplayPlan;
use crate::replay::ReplayError;
use format::units::Seq;

/// Approximate memory of a view besides its pages.
const VIEW_OVERHEAD_BYTES: u64 = 4096;

/// Opens views, shares them, and keeps the most recently used within a memory budget. Views in use count, too, and are never
/// evicted.
///
/// Opening an open version is free. Otherwise the build starts at the nearest earlier cached view, so that neighbours are cheap.
/// Concurrent callers of one version build it once; a slow build delays no other version.
#[derive(Debug)]
pub struct Views {
    backup: Arc<Backup>,
    budget_bytes: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    slots: BTreeMap<Seq, Slot>,
    /// Changes that fail to replay: every version from such a change to the next snapshot fails.
    failed: BTreeMap<Seq, Arc<ReplayError>>,
    /// Views that were removed while in use.
    forgotten: Vec<Weak<View>>,
    /// The view that was opened ahead last, and the clock then.
    ahead: Option<(Seq, u64)>,
    clock: u64,
}

/// A version, being built or built.
#[derive(Debug, Default, Clone)]
struct Slot {
    /// Locked during the build.
    view: Arc<Mutex<Option<Arc<View>>>>,
    /// The finished view, readable without waiting for a build.
    built: Option<Arc<View>>,
    used: u64,
}

impl Slot {
    /// Whether the view is in use; the slot itself has two references.
    fn is_held(&self) -> bool {
        self.built.as_ref().is_some_and(|view| Arc::strong_count(view) > 2)
    }

    fn cost_bytes(&self) -> u64 {
        self.built.as_deref().map_or(0, cost_bytes)
    }
}

fn cost_bytes(view: &View) -> u64 {
    view.memory_bytes() + VIEW_OVERHEAD_BYTES
}

impl Views {
    /// A cache of views of `backup` with about `budget_bytes` of memory.
    pub fn new(backup: Arc<Backup>, budget_bytes: u64) -> Self {
        Self { backup, budget_bytes, kept: Mutex::default() }
    }

    /// Whether a version is cached: then [`open`](Self::open) returns at once, unless it is evicted at this moment.
    pub fn has(&self, seq: Seq) -> bool {
        self.kept().slots.get(&seq).is_some_and(|slot| slot.built.is_some())
    }

    /// Opens the version of `plan`.
    ///
    /// # Errors
    /// When a change cannot be replayed, or a file cannot be read.
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
        let earlier = {
            let mut kept = self.kept();
            // An earlier build may have failed meanwhile.
            if let Some(reason) = kept.failure_on_the_way(plan) {
                if kept.has(plan.seq, &slot) {
                    kept.slots.remove(&plan.seq);
                }
                return Err(fail(reason));
            }
            kept.nearest_on_the_way(plan)
        };
        match View::build(&self.backup, plan, earlier.as_deref()) {
            Ok(view) => {
                let view = Arc::new(view);
                *building = Some(Arc::clone(&view));
                drop(building);
                self.kept().keep(&slot, &view, self.budget_bytes);
                Ok(view)
            }
            Err(BuildError { at, reason }) => {
                drop(building);
                let reason = Arc::new(reason);
                let mut kept = self.kept();
                if !kept.has(plan.seq, &slot) {
                    return Err(fail(reason));
                }
                kept.slots.remove(&plan.seq);
                // A failed read may succeed next time; a failed statement will fail again.
                if let Some(at) = at.filter(|_| !matches!(*reason, ReplayError::Pages(_))) {
                    kept.failed.insert(at, Arc::clone(&reason));
                }
                Err(fail(reason))
            }
        }
    }

    /// Opens a version that may be needed soon. The previously opened one is evicted unless it was used: so views in use are not
    /// displaced by speculative ones.
    ///
    /// # Errors
    /// The same as [`open`](Self::open).
    pub fn open_ahead(&self, plan: &ReplayPlan) -> Result<Arc<View>, ViewError> {
        let known = self.kept().slots.contains_key(&plan.seq);
        let view = self.open(plan)?;
        let mut kept = self.kept();
        let previous = kept.ahead.take();
        if let Some((seq, used)) = previous.filter(|&(seq, _)| seq != plan.seq)
            && kept.slots.get(&seq).is_some_and(|slot| slot.used == used)
        {
            kept.slots.remove(&seq);
        }
        if !known {
            kept.ahead = kept.slots.get(&plan.seq).map(|slot| (plan.seq, slot.used));
        }
        Ok(view)
    }

    /// Removes all views, because their seqs now stand for other records. Views in use stay valid.
    pub fn forget(&self) {
        let mut kept = self.kept();
        let held: Vec<_> = kept.slots.values().filter(|slot| slot.is_held()).cloned().collect();
        let mut forgotten = std::mem::take(&mut kept.forgotten);
        forgotten.extend(held.iter().filter_map(|slot| slot.built.as_ref().map(Arc::downgrade)));
        *kept = Kept { forgotten, ..Kept::default() };
    }

    /// Evicts unused views beyond the budget. Call it after a view was released.
    pub fn trim(&self) {
        self.kept().trim(self.budget_bytes);
    }

    /// Memory of all views in bytes, including those in use.
    pub fn memory_bytes(&self) -> u64 {
        self.kept().memory_bytes()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The slot of a version, created if necessary, marked as used.
    fn touch(&mut self, seq: Seq) -> Slot {
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
    fn nearest_on_the_way(&self, plan: &ReplayPlan) -> Option<Arc<View>> {
        let first = plan.changes.first()?.seq();
        self.slots
            .range(first..plan.seq)
            .rev()
            .filter_map(|(_, slot)| slot.built.as_ref())
            .find(|view| is_on_the_way(plan, view.seq()))
            .map(Arc::clone)
    }

    /// Whether `slot` is still that of `seq`. After [`Views::forget`] the seq may stand for another record.
    fn has(&self, seq: Seq, slot: &Slot) -> bool {
        self.slots.get(&seq).is_some_and(|kept| Arc::ptr_eq(&kept.view, &slot.view))
    }

    fn keep(&mut self, begun: &Slot, view: &Arc<View>, budget_bytes: u64) {
        if self.has(view.seq(), begun)
            && let Some(slot) = self.slots.get_mut(&view.seq())
        {
            slot.built = Some(Arc::clone(view));
        }
        self.trim(budget_bytes);
    }

    fn memory_bytes(&mut self) -> u64 {
        self.forgotten.retain(|view| view.strong_count() > 0);
        let forgotten = self.forgotten.iter().filter_map(Weak::upgrade).map(|view| cost_bytes(&view));
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
mod tests {
    use std::borrow::Cow;
    use std::ops::ControlFlow;

    use super::*;
    use crate::log::DbWrite;
    use crate::testing::{Fate, Node, contents};
    use format::units::{DataVersion, Timestamp};

    fn bytes(view: &View) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
        assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
        bytes
    }

    #[test]
    fn the_same_version_has_the_same_bytes_whichever_way_it_was_built() {
        let mut node = Node::new("");
        let mut recording = node.record();
        for round in 0..60 {
            node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
        }
        let (history, read) = node.backup().read_history();
        read.unwrap();
        // One caches everything and continues from neighbours, the other caches nothing and starts at the snapshot.
        let (roomy, tight) = (Views::new(node.backup(), 1 << 30), Views::new(node.backup(), 0));
        for version in [12, 40, 41, 70, 13, 69, 10, 12] {
            let plan = history.plan(&history.version(DataVersion::new(version)).unwrap().unwrap()).unwrap();
            let view = roomy.open(&plan).unwrap();
            assert!(bytes(&view) == bytes(&tight.open(&plan).unwrap()), "version {version}");
            assert!(Arc::ptr_eq(&view, &roomy.open(&plan).unwrap()), "version {version} was built twice");
        }
        assert!(tight.kept().slots.len() <= 1);
        assert!(
            bytes(&roomy.open(&history.plan(history.newest().unwrap()).unwrap()).unwrap())
                == std::fs::read(node.database()).unwrap()
        );
    }

    /// A regression: 6,000 views in use took 1.16 GB that the budget did not count.
    #[test]
    fn what_is_held_counts_and_what_is_not_makes_room_for_it() {
        let mut node = Node::new("");
        let mut recording = node.record();
        for round in 0..9 {
            node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
        }
        let (history, _) = node.backup().read_history();
        let plan = |version| history.plan(&history.version(DataVersion::new(version)).unwrap().unwrap()).unwrap();
        let one_bytes = {
            let views = Views::new(node.backup(), 1 << 30);
            views.open(&plan(11)).unwrap();
            views.memory_bytes()
        };
        let views = Views::new(node.backup(), 9 * one_bytes / 2);
        let kept = || views.kept().slots.keys().copied().collect::<Vec<_>>();
        let held: Vec<_> = (11..=18).map(|version| views.open(&plan(version)).unwrap()).collect();
        assert_eq!(kept().len(), 8);
        assert!(views.memory_bytes() >= 8 * one_bytes);
        assert!(Arc::ptr_eq(&held[0], &views.open(&plan(11)).unwrap()), "built twice");
        views.open(&plan(19)).unwrap();
        views.forget();
        assert!(views.memory_bytes() >= 8 * one_bytes, "those that are held live on, and count");
        let again: Vec<_> = (11..=18).map(|version| views.open(&plan(version)).unwrap()).collect();
        drop((held, again));
        views.trim();
        assert!(views.memory_bytes() <= 9 * one_bytes / 2, "{} of {one_bytes}", views.memory_bytes());
        assert!(kept().contains(&plan(18).seq), "the newest stays");
    }

    #[test]
    fn whoever_opens_a_version_at_the_same_time_gets_the_same_view() {
        let mut node = Node::new("");
        let mut recording = node.record();
        for round in 0..100 {
            node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
        }
        let (history, _) = node.backup().read_history();
        let plan = history.plan(history.newest().unwrap()).unwrap();
        let views = Views::new(node.backup(), 1 << 30);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| views.open(&plan).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(opened.iter().all(|view| Arc::ptr_eq(view, &opened[0])));
    }

    /// A statement that cannot be replayed is recorded, because `lightningd` executed it. Versions before it and from the next
    /// snapshot on can be opened; those in between return the reason.
    #[test]
    fn a_statement_that_cannot_be_replayed_spoils_the_versions_up_to_the_next_snapshot() {
        let mut node = Node::new("");
        let mut recording = node.record();
        node.write(&mut recording, "good", Fate::Committed).unwrap();
        let good = contents(&node.connection);
        let mut statements = node.statements("bad");
        statements.insert(1, Cow::Borrowed("INSERT INTO nowhere VALUES ('secret')"));
        let write = DbWrite {
            data_version: DataVersion::new(node.version + 1),
            statements: &statements,
            received_at: Timestamp::now(),
        };
        recording.record(&write).unwrap();
        for fate in [Fate::Unseen, Fate::Unseen, Fate::Committed] {
            node.write(&mut recording, "after", fate).unwrap();
        }
        let (history, read) = node.backup().read_history();
        read.unwrap();
        let views = Views::new(node.backup(), 1 << 30);
        let open =
            |version| views.open(&history.plan(&history.version(DataVersion::new(version)).unwrap().unwrap()).unwrap());
        let reason = open(12).unwrap_err().reason.to_string();
        assert!(reason.contains("statement 2 of version 12"), "{reason}");
        assert!(
            reason.contains("no such table") && !reason.contains("nowhere") && !reason.contains("secret"),
            "{reason}"
        );
        assert_eq!(node.contents_of(&history, 11), good);
        open(13).unwrap();
        open(14).unwrap();
        assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)));
    }

    #[test]
    fn what_was_opened_ahead_goes_with_the_next_unless_somebody_uses_it() {
        let mut node = Node::new("");
        let mut recording = node.record();
        for round in 0..4 {
            node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
        }
        let (history, _) = node.backup().read_history();
        let plan = |version| history.plan(&history.version(DataVersion::new(version)).unwrap().unwrap()).unwrap();
        let plans = [plan(11), plan(12), plan(13), plan(14)];
        let views = Views::new(node.backup(), 1 << 30);
        let kept = || views.kept().slots.keys().copied().collect::<Vec<_>>();
        views.open(&plans[0]).unwrap();
        for plan in &plans[..3] {
            views.open_ahead(plan).unwrap();
        }
        assert_eq!(kept(), [plans[0].seq, plans[2].seq]);
        views.open(&plans[2]).unwrap();
        views.open_ahead(&plans[3]).unwrap();
        assert_eq!(kept(), [plans[0].seq, plans[2].seq, plans[3].seq]);
    }

    /// After [`Views::forget`] the seqs stand for other records: a build begun before must not be found after it.
    #[test]
    fn a_view_that_was_being_built_when_all_were_forgotten_is_not_kept() {
        let mut node = Node::new("");
        let mut recording = node.record();
        for round in 0..3 {
            node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
        }
        let (history, _) = node.backup().read_history();
        let plan = history.plan(history.newest().unwrap()).unwrap();
        let views = Views::new(node.backup(), 1 << 30);
        let begun = views.kept().touch(plan.seq);
        let stale = Arc::new(View::build(&views.backup, &plan, None).unwrap());
        views.forget();
        views.kept().touch(plan.seq);
        views.kept().keep(&begun, &stale, views.budget_bytes);
        assert!(views.kept().slots[&plan.seq].built.is_none());
    }

    /// A node that is healed at every second start for a year has hundreds of snapshots.
    #[test]
    fn views_of_many_snapshots_do_not_use_up_the_file_descriptors() {
        let mut node = Node::new("");
        let mut recording = node.record();
        const HEALS: usize = 150;
        for _ in 0..HEALS {
            node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
            node.write(&mut recording, "seen", Fate::Committed).unwrap();
        }
        let (history, _) = node.backup().read_history();
        let views = Views::new(node.backup(), 1 << 30);
        history
            .for_versions_after(None, &mut |version| {
                views.open(&history.plan(version).unwrap()).unwrap();
                ControlFlow::Continue(())
            })
            .unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
            let target = std::fs::read_link(entry.as_ref().unwrap().path());
            target.is_ok_and(|target| target.starts_with(node.backup_path()))
        });
        let open = open.count();
        assert!(open <= 2 * HEALS, "{open} files open for {HEALS} heals");
    }

    /// Several programs may open a directory at once; each waiter would replay a long log again, only to fail.
    #[test]
    fn whoever_waited_for_a_build_that_failed_does_not_build_again() {
        let mut node = Node::new("");
        let mut recording = node.record();
        node.write(&mut recording, "good", Fate::Committed).unwrap();
        let (history, _) = node.backup().read_history();
        let plan = history.plan(history.newest().unwrap()).unwrap();
        let views = Views::new(node.backup(), 1 << 30);
        let slot = views.kept().touch(plan.seq);
        let building = slot.view.lock().unwrap();
        let reason = Arc::new(ReplayError::SetUp { reason: "as the first one found".to_owned() });
        let result = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| views.open(&plan));
            std::thread::sleep(std::time::Duration::from_millis(100));
            views.kept().failed.insert(plan.seq, Arc::clone(&reason));
            drop(building);
            waiting.join().unwrap()
        });
        assert!(Arc::ptr_eq(&result.unwrap_err().reason, &reason));
    }
}

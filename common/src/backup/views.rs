//! [`Views`]: a cache of open views of a backup.

use std::sync::Arc;

use crate::backup::Backup;
use crate::backup::view::{BuildError, View, ViewError};
use crate::backup::view_cache::{Cached, ViewCache};
use crate::history::ReplayPlan;
use format::units::Seq;

/// Opens views, shares them, and keeps the most recently used within a memory budget. Views in use count, too, and are never
/// evicted.
///
/// Opening an open version is free. Otherwise the build starts at the nearest earlier cached view, so that neighbours are cheap.
/// Concurrent callers of one version build it once; a slow build delays no other version.
#[derive(Debug)]
pub struct Views {
    backup: Arc<Backup>,
    cache: ViewCache<View>,
}

impl Cached for View {
    fn seq(&self) -> Seq {
        self.seq()
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes()
    }
}

impl Views {
    /// A cache of views of `backup` with about `budget_bytes` of memory.
    pub fn new(backup: Arc<Backup>, budget_bytes: u64) -> Self {
        Self { backup, cache: ViewCache::new(budget_bytes) }
    }

    /// Whether a version is cached: then [`open`](Self::open) returns at once, unless it is evicted at this moment.
    pub fn has(&self, seq: Seq) -> bool {
        self.cache.has(seq)
    }

    /// Opens the version of `plan`.
    ///
    /// # Errors
    /// When a change cannot be replayed, or a file cannot be read.
    pub fn open(&self, plan: &ReplayPlan) -> Result<Arc<View>, ViewError> {
        let opened = self.cache.open(plan, |earlier| self.build(plan, earlier));
        opened.map_err(|reason| ViewError { data_version: plan.data_version, reason })
    }

    /// Opens a version that may be needed soon. The previously opened one is evicted unless it was used: so views in use are not
    /// displaced by speculative ones.
    ///
    /// # Errors
    /// The same as [`open`](Self::open).
    pub fn open_ahead(&self, plan: &ReplayPlan) -> Result<Arc<View>, ViewError> {
        let opened = self.cache.open_ahead(plan, |earlier| self.build(plan, earlier));
        opened.map_err(|reason| ViewError { data_version: plan.data_version, reason })
    }

    /// Removes all views, because their seqs now stand for other records. Views in use stay valid.
    pub fn forget(&self) {
        self.cache.forget();
    }

    /// Evicts unused views beyond the budget. Call it after a view was released.
    pub fn trim(&self) {
        self.cache.trim();
    }

    /// Memory of all views in bytes, including those in use.
    pub fn memory_bytes(&self) -> u64 {
        self.cache.memory_bytes()
    }

    fn build(&self, plan: &ReplayPlan, earlier: Option<&View>) -> Result<View, BuildError> {
        View::build(&self.backup, plan, earlier)
    }
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
        assert!(tight.cache.seqs().len() <= 1);
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
        let kept = || views.cache.seqs();
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
    fn threads_that_open_a_version_at_the_same_time_get_the_same_view() {
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
        statements.insert(1, Cow::Borrowed("INSERT INTO no_such VALUES ('secret')"));
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
            reason.contains("no such table") && !reason.contains("no_such") && !reason.contains("secret"),
            "{reason}"
        );
        assert_eq!(node.contents_of(&history, 11), good);
        open(13).unwrap();
        open(14).unwrap();
        assert_eq!(node.newest_contents(), (node.version, contents(&node.connection)));
    }

    #[test]
    fn what_was_opened_ahead_goes_with_the_next_unless_it_is_in_use() {
        let mut node = Node::new("");
        let mut recording = node.record();
        for round in 0..4 {
            node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
        }
        let (history, _) = node.backup().read_history();
        let plan = |version| history.plan(&history.version(DataVersion::new(version)).unwrap().unwrap()).unwrap();
        let plans = [plan(11), plan(12), plan(13), plan(14)];
        let views = Views::new(node.backup(), 1 << 30);
        let kept = || views.cache.seqs();
        views.open(&plans[0]).unwrap();
        for plan in &plans[..3] {
            views.open_ahead(plan).unwrap();
        }
        assert_eq!(kept(), [plans[0].seq, plans[2].seq]);
        views.open(&plans[2]).unwrap();
        views.open_ahead(&plans[3]).unwrap();
        assert_eq!(kept(), [plans[0].seq, plans[2].seq, plans[3].seq]);
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
}

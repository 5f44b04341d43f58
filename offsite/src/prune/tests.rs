//! Pruning drops what the policy does not keep, and nothing else, wherever it is cut off.

use std::ops::ControlFlow;
use std::sync::Arc;

use common::compact::{Clock, CompactProgress};
use common::verify::{Depth, Scope, verify};
use common::{KeepPolicy, Source, Timestamp};

use super::{CopyToPrune, PruneError, PruneOutcome, open, plan_pruning, prune};
use crate::connect::{begin, new_key};
use crate::description::SealKind;
use crate::keys::key_ring::KeyRing;
use crate::memory_store::{Cut, MemoryStore};
use crate::objects::{File, Object};
use crate::ship::{Shipper, Step, Target};
use crate::small_backup::SmallBackup;

/// A copy of a backup, with versions of 100 days ago and of now.
struct Fixture {
    backup: SmallBackup,
    store: Arc<MemoryStore>,
    copy: CopyToPrune,
}

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

fn days_ago(days: i64) -> Timestamp {
    Timestamp::from_micros(Timestamp::now().as_micros() - days * DAY).unwrap()
}

fn policy() -> KeepPolicy {
    KeepPolicy { within: Some("30d".parse().unwrap()), ..KeepPolicy::default() }
}

impl Fixture {
    fn new() -> Self {
        let mut backup = SmallBackup::new();
        let store = Arc::new(MemoryStore::default());
        let (key, file) = new_key(&[]).unwrap();
        begin(&*store, backup.uuid(), SealKind::Node, Some(&file)).unwrap();
        let copy = CopyToPrune { store: Arc::clone(&store) as _, keys: Some((KeyRing::from_iter([key.clone()]), key)) };
        backup.record_at(60, days_ago(100));
        backup.seal();
        backup.record(40);
        let fixture = Self { backup, store, copy };
        fixture.ship();
        fixture.backup.seal();
        fixture.ship();
        fixture
    }

    fn ship(&self) {
        let key = self.copy.keys.as_ref().map(|(_, key)| key.clone());
        let target = Target { store: Arc::clone(&self.store) as _, copy: uuid::Uuid::nil(), key };
        let mut shipper = Shipper::begin(self.backup.open(), target, &self.backup.state_directory()).unwrap();
        shipper.ship_logs().unwrap();
        while shipper.ship_file().unwrap() == Step::Stored {}
        assert_eq!(shipper.holds().unwrap(), u64::from(self.backup.version()) + 1);
    }

    fn prune(&self) -> Result<PruneOutcome, PruneError> {
        let mut watch = |_: CompactProgress| ControlFlow::Continue(());
        prune(&self.copy, &policy(), Clock::Trusted, &mut watch)
    }

    fn source(&self) -> Source {
        Source::new("memory://store".to_owned(), Arc::new(open(&self.copy).unwrap()))
    }

    fn expect_whole_from(&self, oldest: u32) {
        self.backup.expect_equal_from(&self.source(), oldest, self.backup.version());
        for depth in [Depth::Chain, Depth::Replay] {
            let report = verify(self.source(), Scope { depth, ..Scope::default() }, &|_, _| {}).unwrap();
            assert!(report.is_clean(), "{:?}", report.findings);
        }
    }
}

#[test]
fn old_versions_go_and_the_rest_stays_as_it_was() {
    let fixture = Fixture::new();
    fixture.expect_whole_from(1);
    let planned = plan_pruning(&fixture.copy, &policy(), &mut || ControlFlow::Continue(())).unwrap().unwrap();
    let before = fixture.store.names("");
    let PruneOutcome::Done { compaction, objects } = fixture.prune().unwrap() else { panic!("it was not stopped") };
    assert_eq!(compaction.dropped_versions, planned.dropped_versions);
    assert!(compaction.dropped_versions > 40 && objects > 0, "{compaction:?}");
    let oldest = compaction.oldest_kept.unwrap().data_version.get();
    fixture.expect_whole_from(oldest);
    let after = fixture.store.names("");
    assert_eq!(after.len() as u64, before.len() as u64 - objects + 1);
    // Of the logs only what is in no segment is left.
    for name in fixture.store.names(Object::TAILS) {
        let Some(Object::Tail(tail)) = Object::parse(&name) else { panic!("{name}") };
        assert!(tail.log > u64::from(oldest), "{name}");
    }
    // And no catalog of segments that are all gone.
    let catalogs = |names: &[String]| {
        names
            .iter()
            .filter_map(|name| match Object::parse(name) {
                Some(Object::Catalog { last, .. }) => Some(last),
                _ => None,
            })
            .min()
    };
    assert!(catalogs(&before).is_some_and(|last| last < u64::from(oldest)), "{before:?}");
    assert!(catalogs(&after).is_none_or(|last| last >= u64::from(oldest)), "{after:?}");
    // The node does not bring back what was pruned, and ships what is new.
    fixture.ship();
    assert_eq!(
        fixture.store.names(File::SEGMENTS),
        after.iter().filter(|name| name.starts_with(File::SEGMENTS)).cloned().collect::<Vec<_>>()
    );
    let mut fixture = fixture;
    fixture.backup.record(30);
    fixture.backup.seal();
    fixture.ship();
    fixture.expect_whole_from(oldest);
}

#[test]
fn what_is_pruned_twice_is_whole_and_old_files_pruned_go() {
    let mut fixture = Fixture::new();
    fixture.prune().unwrap();
    let first = fixture.store.names(File::PRUNED);
    assert_eq!(first.len(), 1);
    fixture.backup.record_at(30, days_ago(60));
    fixture.backup.record(30);
    fixture.backup.seal();
    fixture.ship();
    let PruneOutcome::Done { compaction, .. } = fixture.prune().unwrap() else { panic!("it was not stopped") };
    fixture.expect_whole_from(compaction.oldest_kept.unwrap().data_version.get());
    assert_eq!(fixture.store.names(File::PRUNED).len(), 1);
}

#[test]
fn wherever_it_is_cut_off_all_that_is_kept_stays_readable() {
    let mut cuts = 0;
    for (after, cut) in (0..400).flat_map(|after| [Cut::Before, Cut::After, Cut::Damaged].map(|cut| (after, cut))) {
        let fixture = Fixture::new();
        fixture.store.cut_after(after, cut);
        let pruned = fixture.prune();
        fixture.store.heal();
        if pruned.is_ok() {
            break;
        }
        cuts += 1;
        // Either nothing has happened to old versions, or they are gone; the newest are as they were.
        fixture.backup.expect_equal_from(&fixture.source(), 61, 100);
        fixture.ship();
        let PruneOutcome::Done { compaction, .. } = fixture.prune().unwrap() else { panic!("it was not stopped") };
        let oldest = compaction.oldest_kept.unwrap().data_version.get();
        fixture.expect_whole_from(oldest);
        assert!(oldest > 40, "{oldest}");
        assert_eq!(fixture.store.names(File::PRUNED).len(), 1, "{after} {cut:?}");
    }
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn nothing_is_removed_from_a_copy_that_is_not_whole() {
    let fixture = Fixture::new();
    let segments = fixture.store.names(File::SEGMENTS);
    fixture.store.tamper(|objects| {
        objects.remove(&segments[1]);
    });
    let before = fixture.store.names("");
    let error = fixture.prune().unwrap_err();
    assert!(matches!(error, PruneError::NotWhole { .. }), "{error}");
    assert_eq!(fixture.store.names(""), before);
}

//! What is said to be restorable is restored, whatever is sealed, healed or missing meanwhile.

use std::sync::Arc;

use common::{Backup, DataVersion, View};

use super::{Copy, ship_all};
use crate::description::SealKind;
use crate::objects::File;
use crate::ship::Shipper;
use crate::ship::restorable::Restorable;
use crate::small_backup::SmallBackup;
use crate::store::Store;

/// Numbers that follow from a seed.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The newest version in the copy, after it was opened and found equal to that of the backup.
fn newest_in(copy: &Copy, backup: &SmallBackup) -> u32 {
    let bytes = |backup: &Arc<Backup>, version: DataVersion| {
        let (history, read) = backup.read_history();
        read.unwrap();
        let version = history.version(version).unwrap().unwrap();
        let view = View::open(backup, &history.plan(&version).unwrap()).unwrap();
        let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
        assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
        bytes
    };
    let copied = Arc::new(Backup::open(copy.source()).unwrap());
    let (history, read) = copied.read_history();
    read.unwrap();
    let Some(newest) = history.newest().map(|newest| newest.data_version) else { return 0 };
    assert!(bytes(&copied, newest) == bytes(&backup.open(), newest), "version {newest} is another one");
    newest.get()
}

fn restorable(shipper: &mut Shipper) -> Restorable {
    shipper.restorable().unwrap()
}

#[test]
fn what_is_restorable_is_restored_in_any_order_of_steps() {
    for seed in 1..=12 {
        let mut random = Seeded(seed);
        let mut backup = SmallBackup::new();
        let copy = Copy::of(&backup, SealKind::Node);
        backup.record(3);
        let mut shipper = copy.shipper(&backup).unwrap();
        // Seq behind the last record of each version.
        let mut recorded = vec![(shipper.acknowledged().unwrap(), backup.version())];
        let mut before = 0;
        for _ in 0..60 {
            match random.below(20) {
                0..10 => {
                    backup.record(1 + u32::try_from(random.below(5)).unwrap());
                    recorded.push((shipper.acknowledged().unwrap(), backup.version()));
                }
                10 => {
                    backup.record_after_a_gap();
                    recorded.push((shipper.acknowledged().unwrap(), backup.version()));
                }
                11 | 12 => backup.seal(),
                13 | 14 => drop(shipper.ship_file().unwrap()),
                15 => {
                    drop(shipper);
                    shipper = copy.shipper(&backup).unwrap();
                    before = 0;
                }
                _ => drop(shipper.ship_logs().unwrap()),
            }
            let now = restorable(&mut shipper);
            assert!(now.behind >= before, "seed {seed}: it goes back");
            before = now.behind;
            let expected = recorded.iter().rev().find(|(behind, _)| *behind <= now.behind).map_or(0, |&(_, it)| it);
            if expected > 0 {
                let newest = newest_in(&copy, &backup);
                assert!(newest >= expected, "seed {seed}: version {newest} instead of {expected}; {now:?}");
            }
        }
        ship_all(&mut shipper).unwrap();
        let end = restorable(&mut shipper);
        assert_eq!(end.behind, shipper.acknowledged().unwrap(), "seed {seed}");
        assert!(end.checksum.is_some(), "seed {seed}");
    }
}

#[test]
fn a_snapshot_goes_before_its_record_and_what_is_sealed_since_is_waited_for() {
    let mut backup = SmallBackup::new();
    let copy = Copy::of(&backup, SealKind::None);
    backup.record(5);
    let mut shipper = copy.shipper(&backup).unwrap();
    shipper.ship_logs().unwrap();
    assert_eq!(restorable(&mut shipper).behind, shipper.acknowledged().unwrap());
    backup.record_after_a_gap();
    shipper.ship_logs().unwrap();
    assert_eq!(restorable(&mut shipper).behind, shipper.acknowledged().unwrap());
    assert!(copy.store.list(File::SNAPSHOTS).unwrap().len() == 1, "it was shipped with its record");
    // Its log is sealed, and so are the changes behind it: all that was shipped of them are bytes of logs.
    backup.record(80);
    shipper.ship_logs().unwrap();
    backup.seal();
    assert!(restorable(&mut shipper).behind < shipper.acknowledged().unwrap());
    ship_all(&mut shipper).unwrap();
    assert_eq!(restorable(&mut shipper).behind, shipper.acknowledged().unwrap());
    // What was restorable as bytes of logs stays so when it is sealed, also the records that were not asked about before.
    backup.record(80);
    shipper.ship_logs().unwrap();
    backup.seal();
    assert_eq!(restorable(&mut shipper).behind, shipper.acknowledged().unwrap());
    // The next connection does not know that.
    drop(shipper);
    let mut shipper = copy.shipper(&backup).unwrap();
    assert!(restorable(&mut shipper).behind < shipper.acknowledged().unwrap());
    ship_all(&mut shipper).unwrap();
    assert_eq!(restorable(&mut shipper).behind, shipper.acknowledged().unwrap());
}

//! The cache with views that are only a seq and a size.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::*;
use crate::history::{PlannedChange, Start};
use crate::log::RecordAddress;
use crate::replay::ChangeAbout;
use format::change_flags::RunStart;
use format::units::{DataVersion, PageSize, Timestamp};

#[cfg(feature = "shuttle")]
mod shuttle_tests;

/// A view without pages.
#[derive(Debug)]
struct Fake(Seq);

impl Cached for Fake {
    fn seq(&self) -> Seq {
        self.0
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

/// The plan of the version that record `last` ends, from an empty database on.
fn plan(last: u64) -> ReplayPlan {
    let data_version = DataVersion::new(last.try_into().unwrap());
    let changes = (1..=last).map(|number| {
        let time = Timestamp::from_micros(1).unwrap();
        PlannedChange {
            about: ChangeAbout { data_version, seq: seq(number), time, run_start: RunStart::Later },
            address: RecordAddress::Log { log: Seq::FIRST, seq: seq(number), offset: 0, len: 0, checksum: 0 },
        }
    });
    let start = Start::Nothing(PageSize::new(4096).unwrap());
    ReplayPlan { data_version, seq: seq(last), start, changes: changes.collect() }
}

/// A change that does not replay.
fn fails_at(number: u64) -> BuildError {
    BuildError { at: Some(seq(number)), reason: ReplayError::SetUp { reason: "it does not replay".to_owned() } }
}

/// After [`ViewCache::forget`] the seqs stand for other records: a build begun before must not be found after it.
#[test]
fn a_view_that_was_being_built_when_all_were_forgotten_is_not_kept() {
    let cache = ViewCache::new(1 << 20);
    let ((begun, has_begun), (end, may_end)) = (channel(), channel());
    thread::scope(|scope| {
        let cache = &cache;
        let stale = scope.spawn(move || {
            let build = |_: Option<&Fake>| {
                begun.send(()).unwrap();
                may_end.recv().unwrap();
                Ok(Fake(seq(3)))
            };
            cache.open(&plan(3), build).unwrap()
        });
        has_begun.recv().unwrap();
        cache.forget();
        let new = cache.open(&plan(3), |_| Ok(Fake(seq(3)))).unwrap();
        end.send(()).unwrap();
        let stale = stale.join().unwrap();
        let found = cache.open(&plan(3), |_| panic!("it is open")).unwrap();
        assert!(Arc::ptr_eq(&found, &new) && !Arc::ptr_eq(&found, &stale));
    });
}

/// Several programs may open a directory at once; each waiter would replay a long log again, only to fail.
#[test]
fn a_thread_that_waited_for_a_build_that_failed_does_not_build_again() {
    let cache = ViewCache::<Fake>::new(1 << 20);
    let ((begun, has_begun), (end, may_end)) = (channel(), channel());
    thread::scope(|scope| {
        let cache = &cache;
        let first = scope.spawn(move || {
            let build = |_: Option<&Fake>| {
                begun.send(()).unwrap();
                may_end.recv().unwrap();
                Err(fails_at(2))
            };
            cache.open(&plan(3), build).unwrap_err()
        });
        has_begun.recv().unwrap();
        let second = scope.spawn(|| cache.open(&plan(3), |_| panic!("it is built again")).unwrap_err());
        // So that it waits, most of the time.
        thread::sleep(Duration::from_millis(50));
        end.send(()).unwrap();
        assert!(Arc::ptr_eq(&first.join().unwrap(), &second.join().unwrap()));
    });
}

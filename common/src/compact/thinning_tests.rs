//! Kept versions of dropped segments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;

use super::tests::hourly::{HOUR, Hourly, expect_part_of};
use super::*;
use crate::config::log_limits::LogLimits;
use crate::history::History;
use crate::segment::version::TimelineEntry;
use crate::verify::{Depth, Scope, verify};
use format::pruned_directory::Thinned;
use format::units::DataVersion;

/// A node with several keyframes in each segment, and several changes in an hour.
fn busy() -> Hourly {
    let mut it = Hourly::new();
    (it.apart, it.limits) = (HOUR / 5, LogLimits { bytes: 24 << 10, statements: 100 });
    it
}

fn keep(hourly: Option<&str>, daily: Option<&str>, weekly: Option<&str>) -> KeepPolicy {
    let span = |text: Option<&str>| text.map(|text| text.parse().unwrap());
    KeepPolicy { hourly: span(hourly), daily: span(daily), weekly: span(weekly), ..KeepPolicy::default() }
}

fn versions(it: &Hourly) -> (History, Vec<Version>) {
    let (history, read) = it.node.backup().read_history();
    read.unwrap();
    let mut all = Vec::new();
    let read = history.for_versions_after(None, &mut |version| {
        all.push(version.clone());
        ControlFlow::Continue(())
    });
    read.unwrap();
    (history, all)
}

fn thinned(it: &Hourly) -> Vec<Thinned> {
    let backup = it.node.backup();
    backup.segments().look_what_is_dropped().unwrap();
    backup.segments().pruned().unwrap().thinned().to_vec()
}

/// The numbers of the newest versions of each period of so many hours; the first version has the clock of this machine.
fn newest_of_each(all: &[Version], hours: i64) -> BTreeSet<u32> {
    let mut newest = BTreeMap::new();
    for version in all.iter().skip(1) {
        newest.insert(version.recorded_at.as_micros() / (hours * HOUR), version.data_version.get());
    }
    newest.into_values().collect()
}

#[test]
fn single_versions_are_kept_whole_and_those_beside_them_go() {
    let mut it = busy();
    it.live(400);
    let mut before = it.held();
    let mut kept_alone = 0;
    for (policy, hours) in
        [(keep(Some("1y"), None, None), 1), (keep(None, Some("1y"), None), 24), (keep(None, None, Some("1y")), 24 * 7)]
    {
        let (_, all) = versions(&it);
        let foretold = prepare(&it.node.backup(), &policy, it.now(), Clock::Trusted, &mut || ControlFlow::Continue(()))
            .unwrap()
            .unwrap();
        let bytes = it.bytes();
        let compaction = it.compact(&policy);
        assert_eq!(compaction, foretold.compaction, "{hours} h");
        assert_eq!(bytes - it.bytes(), compaction.freed_bytes, "{hours} h");
        let (history, left) = versions(&it);
        // Of dropped segments exactly the versions to keep are left.
        let numbers: BTreeSet<u32> = thinned(&it)
            .iter()
            .flat_map(|one| one.versions.iter().map(|version| u32::try_from(version.ordinal).unwrap()))
            .collect();
        let oldest_whole = history.sealed().iter().find(|first| it.files().contains(&names::segment(**first))).unwrap();
        let oldest_whole = left.iter().find(|version| version.seq >= *oldest_whole).unwrap().data_version.get();
        let expected = newest_of_each(&all, hours).into_iter().filter(|number| *number < oldest_whole);
        assert_eq!(numbers, expected.collect(), "{hours} h");
        assert!(left.iter().all(|version| all.contains(version)), "they are reported the same");
        kept_alone += numbers.len();
        for number in &numbers {
            let version = history.version(DataVersion::new(*number)).unwrap().unwrap();
            assert_eq!(history.version_by_seq(version.seq).unwrap().as_ref(), Some(&version));
            assert_eq!(history.file_name_of(&version).unwrap().as_deref(), Some(names::PRUNED));
            let at = version.recorded_at.as_micros();
            assert_eq!(history.first_time_from(at).unwrap().map(Timestamp::as_micros), Some(at));
            assert_eq!(history.last_time_before(at + 1).unwrap().map(Timestamp::as_micros), Some(at));
            let times = || left.iter().map(|version| version.recorded_at);
            let later = times().filter(|time| time.as_micros() > at).min();
            assert_eq!(history.first_time_from(at + 1).unwrap(), later);
            let earlier = times().filter(|time| time.as_micros() < at).max();
            assert_eq!(history.last_time_before(at).unwrap(), earlier);
        }
        // The bytes of the databases, and the statements.
        let now = it.held();
        expect_part_of(&now, &before, &format!("{hours} h"));
        assert_eq!(now.len() as u64, compaction.kept_versions);
        let report = it.verify();
        assert!(report.findings.is_empty() && report.notes.is_empty(), "{hours} h: {report:?}");
        assert_eq!(report.versions, now.len() as u64);
        assert_eq!(it.compact(&policy).dropped_versions, 0, "a second time there is nothing to do");
        it.live(150);
        before = it.held();
        expect_part_of(&now, &before, &format!("{hours} h, later"));
    }
    assert!(kept_alone > 60, "{kept_alone}");
}

#[test]
fn the_timeline_tells_of_every_version_once_listed_or_dropped() {
    let mut it = busy();
    it.live(200);
    let (_, all) = versions(&it);
    for policy in [keep(None, Some("1y"), None), keep(None, None, Some("1y"))] {
        it.compact(&policy);
        let (history, left) = versions(&it);
        let (mut reported, mut rest, mut was_dropped) = (Vec::new(), all.iter(), false);
        let read = history.for_timeline(&mut |entry| {
            match entry {
                TimelineEntry::Recorded(version) => {
                    assert_eq!(rest.next().map(|it| it.seq), Some(version.seq));
                    reported.push(version);
                    was_dropped = false;
                }
                TimelineEntry::Dropped { versions, last, before } => {
                    assert!(!was_dropped, "two entries for one run");
                    let dropped: Vec<_> = rest.by_ref().take(usize::try_from(versions).unwrap()).collect();
                    assert_eq!(dropped.last().unwrap().data_version, last);
                    assert!(dropped.last().unwrap().seq < before);
                    was_dropped = true;
                }
                TimelineEntry::Missing { .. }
                | TimelineEntry::Rewound { .. }
                | TimelineEntry::Replaced { .. }
                | TimelineEntry::Unreadable { .. } => {}
            }
            ControlFlow::Continue(())
        });
        read.unwrap();
        assert_eq!((reported, rest.next()), (left, None));
    }
}

/// In how many places something that was kept is damaged: `BACKUPFS_FLIPPED` of them.
fn flipped() -> usize {
    std::env::var("BACKUPFS_FLIPPED").map_or(50, |number| number.parse().expect("a number"))
}

#[test]
fn what_is_damaged_of_a_version_that_was_kept_is_named_with_it() {
    let mut it = busy();
    it.live(200);
    // Of every hour, so that some are replayed from the keyframe before them.
    it.compact(&keep(Some("1y"), None, None));
    let before = it.held();
    crate::testing::remove_parity(it.node.backup_path());
    let path = it.node.backup_path().join(names::PRUNED);
    let good = fs::read(&path).unwrap();
    let alone: BTreeSet<u64> = thinned(&it).iter().flat_map(|one| one.versions.iter().map(|it| it.ordinal)).collect();
    let (flipped, mut costs) = (flipped(), 0);
    for byte in (100..good.len() - 100).step_by((good.len() / flipped).max(1)) {
        let mut bad = good.clone();
        bad[byte] ^= 1 << (byte % 8);
        fs::write(&path, &bad).unwrap();
        let report = it.verify();
        assert!(report.findings.iter().any(|finding| finding.file == names::PRUNED), "byte {byte}: {report:?}");
        let quickly = Scope { depth: Depth::Quick, ..Scope::default() };
        let quick = verify(&it.node.backup_lock.backend_url, quickly, &|_, _| {}).unwrap();
        // Every version that opens is right; every other has a finding.
        let (backup, mut lost) = (it.node.backup(), 0);
        let (history, _) = backup.read_history();
        let views = crate::backup::views::Views::new(Arc::clone(&backup), 0);
        for (&number, (bytes, _)) in &before {
            let open = || {
                let version = history.version(DataVersion::new(number)).ok()??;
                let view = views.open(&history.plan(&version).ok()?).ok()?;
                let mut bytes = vec![0; usize::try_from(view.size_bytes()).ok()?];
                view.read_at(0, &mut bytes).ok()?;
                Some(bytes)
            };
            match open() {
                Some(opened) => assert!(opened == *bytes, "byte {byte}: version {number} is another one"),
                None => {
                    let ordinal = crate::segment::version::VersionOrdinal(number.into());
                    // Without its directory the kept versions are unknown.
                    let is_known = !alone.contains(&ordinal.0) || backup.segments().pruned().is_some();
                    assert!(!is_known || report.lost.contains_ordinal(ordinal), "byte {byte}: {number} of {report:?}");
                    assert!(!is_known || quick.lost.contains_ordinal(ordinal), "byte {byte}: {number} of {quick:?}");
                    lost += usize::from(alone.contains(&ordinal.0) && is_known);
                }
            }
        }
        costs += lost;
    }
    fs::write(&path, &good).unwrap();
    assert!(costs > flipped / 3, "{costs}");
    assert!(it.verify().findings.is_empty());
}

#[test]
fn what_is_kept_alone_is_compared_with_what_is_left_before_it() {
    let mut it = busy();
    it.live(300);
    for within in ["40h", "30h", "20h", "10h"] {
        it.compact(&KeepPolicy { within: Some(within.parse().unwrap()), ..keep(Some("50h"), Some("1y"), None) });
        let (history, left) = versions(&it);
        let backup = it.node.backup();
        for condition in ["amount % 5 = 0", "id > 30", "length(note) > 200"] {
            let turns = crate::find::tests::compare(&backup, &history, &left, "payments", condition);
            assert!(turns > 3, "{condition}: {turns}");
        }
    }
    let (history, left) = versions(&it);
    let backup = it.node.backup();
    let pairs = left.windows(2).filter(|pair| history.is_dropped_between(pair[0].seq, pair[1].seq)).count();
    assert!(pairs > 10, "{pairs}");
    for pair in left.windows(2).chain(left.windows(7)) {
        let (from, to) = (&pair[0], &pair[pair.len() - 1]);
        crate::diff::tests::compare_with_all_rows(&backup, &history, from, to);
        crate::diff::tests::compare_with_all_rows(&backup, &history, to, from);
    }
}

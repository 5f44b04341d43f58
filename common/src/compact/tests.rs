pub(super) mod hourly;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::*;
use crate::backup::views::Views;
use crate::seal::Sealer;
use crate::segment::version::TimelineEntry;
use crate::testing::{Fate, remove_parity};
use crate::verify::NoteAbout;
use format::pruned::{PRUNED_FOOTER_LEN, PRUNED_HEADER_LEN};
use hourly::{AT_ONCE, HOUR, Hourly, LIMITS, expect_part_of, held, policy};

#[test]
fn versions_that_are_kept_are_the_same_byte_for_byte() {
    let mut it = Hourly::new();
    it.live(300);
    let mut before = it.held();
    for (round, (within, daily)) in
        [("200h", "0h"), ("150h", "0h"), ("20h", "300h"), ("20h", "80h"), ("1s", "0h")].into_iter().enumerate()
    {
        let what = format!("round {round}");
        let (bytes, segments) = (it.bytes(), it.files().len());
        let policy = policy(within, daily);
        let foretold = prepare(&it.node.backup(), &policy, it.now(), Clock::Trusted, &mut || ControlFlow::Continue(()))
            .unwrap()
            .unwrap();
        let compaction = it.compact(&policy);
        assert_eq!(compaction, foretold.compaction, "{what}");
        assert!(compaction.dropped_segments > 0 && it.files().len() < segments, "{what}: {compaction:?}");
        let now = it.held();
        expect_part_of(&now, &before, &what);
        assert_eq!(now.len() as u64, compaction.kept_versions, "{what}");
        assert_eq!((before.len() - now.len()) as u64, compaction.dropped_versions, "{what}");
        assert_eq!(now.keys().next_back(), before.keys().next_back(), "{what}: the newest version");
        assert_eq!(
            now.keys().next().copied(),
            compaction.oldest_kept.as_ref().map(|it| it.data_version.get()),
            "{what}"
        );
        assert_eq!(bytes - it.bytes(), compaction.freed_bytes, "{what}");
        let pruned = fs::metadata(it.node.backup_path().join(names::PRUNED)).unwrap().len();
        assert_eq!(pruned, compaction.pruned_bytes, "{what}");
        let report = it.verify();
        assert!(report.findings.is_empty() && report.notes.is_empty(), "{what}: {report:?}");
        assert_eq!(report.versions, now.len() as u64, "{what}");
        // A second time there is nothing to do.
        assert_eq!(it.compact(&policy).dropped_versions, 0, "{what}");
        // Recording goes on, with gaps and rewinds, on what is left.
        it.live(60);
        before = it.held();
        expect_part_of(&now, &before, &what);
        let report = it.verify();
        assert!(report.findings.is_empty() && report.notes.is_empty(), "{what}: {report:?}");
    }
}

#[test]
fn what_the_policy_keeps_is_kept() {
    let mut it = Hourly::new();
    it.live(300);
    let times = |it: &Hourly| {
        let (history, read) = it.node.backup().read_history();
        read.unwrap();
        let mut times = Vec::new();
        let read = history.for_versions_after(None, &mut |version| {
            times.push(version.recorded_at.as_micros());
            ControlFlow::Continue(())
        });
        read.unwrap();
        times
    };
    let before = times(&it);
    it.compact(&policy("30h", "200h"));
    let after = times(&it);
    assert!(after.len() < before.len() / 2, "{} of {}", after.len(), before.len());
    let newest = *before.last().unwrap();
    // The newest of a day counts; that of the snapshot of `init` is the clock of this machine.
    let mut wanted: Vec<i64> = before.iter().copied().filter(|&at| at >= newest - 30 * HOUR && at <= newest).collect();
    let of_days: BTreeMap<i64, i64> =
        before.iter().filter(|&&at| at <= newest).map(|&at| (at / (24 * HOUR), at)).collect();
    wanted.extend(of_days.into_values().filter(|&at| at >= newest - 200 * HOUR));
    assert!(wanted.len() > 35);
    assert!(wanted.iter().all(|at| after.contains(at)), "{after:?} lacks some of {wanted:?}");
}

#[test]
fn a_policy_that_would_drop_everything_is_refused_and_nothing_is_changed() {
    let mut it = Hourly::new();
    it.live(60);
    let before = it.files();
    for nothing in [KeepPolicy::default(), policy("0s", "0d")] {
        let mut watch = |_| ControlFlow::Continue(());
        let refused = it.node.backup().compact(&nothing, it.clock(), AT_ONCE, &it.lock(), &mut watch);
        assert!(matches!(refused, Err(CompactError::Policy(KeepPolicyError::KeepsNothing))), "{refused:?}");
    }
    assert_eq!(it.files(), before);
    // Any other keeps the newest version, however long ago that was.
    let kept = it.compact(&policy("1s", "0d"));
    assert!(kept.kept_versions >= 1 && kept.dropped_versions > 0, "{kept:?}");
    assert_eq!(it.held().keys().next_back(), Some(&it.node.version));
}

#[test]
fn an_interrupted_compaction_leaves_all_or_the_next_removes_the_rest() {
    let mut it = Hourly::new();
    it.live(120);
    let before = it.held();
    let policy = policy("40h", "0h");
    let mut cut = 0;
    loop {
        let mut asked = 0;
        let mut watch = |_| {
            asked += 1;
            if asked > cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let outcome = it.node.backup().compact(&policy, it.clock(), AT_ONCE, &it.lock(), &mut watch).unwrap();
        assert!(!it.files().iter().any(|name| name.ends_with(".tmp")), "cut {cut}");
        let now = it.held();
        expect_part_of(&now, &before, &format!("cut {cut}"));
        let report = it.verify();
        assert!(report.findings.is_empty(), "cut {cut}: {report:?}");
        assert!(report.notes.iter().all(|note| note.about == NoteAbout::Leftover), "cut {cut}: {report:?}");
        if matches!(outcome, CompactOutcome::Done(_)) {
            assert!(now.len() < before.len());
            break;
        }
        cut += 1 + cut / 3;
    }
    assert!(cut > 20, "{cut}: it asks too rarely");
    assert!(it.verify().notes.is_empty());
}

#[test]
fn what_a_compaction_that_was_killed_has_left_is_removed_by_the_next_recorder() {
    let mut it = Hourly::new();
    it.live(120);
    let keep = it.node.dir.path().join("aside");
    fs::create_dir(&keep).unwrap();
    for name in it.files() {
        fs::copy(it.node.backup_path().join(&name), keep.join(&name)).unwrap();
    }
    it.compact(&policy("40h", "0h"));
    let (after, held) = (it.files(), it.held());
    // As it is when nothing that was removed is gone for good.
    let dropped: Vec<_> = fs::read_dir(&keep).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let dropped: Vec<_> = dropped.iter().filter(|name| !after.iter().any(|kept| **kept == ***name)).collect();
    assert!(dropped.len() > 5);
    for name in dropped {
        fs::copy(keep.join(name), it.node.backup_path().join(name)).unwrap();
    }
    assert_eq!(it.held(), held, "what was dropped is not listed");
    let report = it.verify();
    assert!(
        report.findings.is_empty() && report.notes.iter().all(|note| note.about == NoteAbout::Leftover),
        "{report:?}"
    );
    Sealer::new(it.node.backup(), LIMITS).unwrap();
    assert_eq!(it.files(), after);
}

#[test]
fn a_reader_follows_and_what_it_has_open_stays_readable() {
    let mut it = Hourly::new();
    it.live(120);
    let backup = it.node.backup();
    let (history, mut follower) = backup.follow().unwrap();
    follower.poll(&history).unwrap();
    let views = Views::new(Arc::clone(&backup), 1 << 20);
    let (oldest, count) = {
        let history = history.read().unwrap();
        (history.oldest().unwrap().unwrap(), history.version_count())
    };
    let mut third = None;
    let read = history.read().unwrap().for_versions_after(Some(oldest.seq), &mut |version| {
        third = Some(version.clone());
        if version.data_version.get() > 40 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    read.unwrap();
    let third = third.unwrap();
    let plan = history.read().unwrap().plan(&third).unwrap();
    let before = it.held();
    let view = views.open(&plan).unwrap();

    // As a mount does: as soon as dropped segments are reported, while the files still exist.
    let mut looked = false;
    let mut watch = |progress: CompactProgress| {
        if progress.stage == Stage::Removing && !looked {
            looked = true;
            let polled = follower.poll(&history).unwrap();
            assert!(polled.dropped_versions > 30, "{polled:?}");
            backup.hold_dropped(&view);
        }
        ControlFlow::Continue(())
    };
    it.node.backup().compact(&policy("40h", "0h"), it.clock(), AT_ONCE, &it.lock(), &mut watch).unwrap();
    assert!(looked);
    let now = it.held();
    {
        let history = history.read().unwrap();
        assert_eq!(history.version_count(), now.len() as u64);
        assert!(history.version(third.data_version).unwrap().is_none());
        assert!(history.version_by_seq(third.seq).unwrap().is_none());
        assert!(history.version_count() < count);
    }
    let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
    assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
    assert!(bytes == before[&third.data_version.get()].0);
    assert_eq!(held(&backup), now, "the reader that followed finds what a new one does");
    // A reader that still lists a dropped version gets an error.
    let gone = views.open(&plan);
    assert!(gone.is_ok(), "it is kept");
    drop((view, gone));
    views.forget();
    let error = views.open(&plan).unwrap_err();
    assert!(
        matches!(&*error.reason, crate::replay::ReplayError::Pages(ReadError::Storage(error)) if error.is_not_found()),
        "{error:?}"
    );
}

#[test]
fn every_flipped_bit_of_what_is_pruned_is_found() {
    let mut it = Hourly::new();
    it.live(80);
    it.compact(&policy("20h", "0h"));
    let before = it.held();
    remove_parity(it.node.backup_path());
    let path = it.node.backup_path().join(names::PRUNED);
    let good = fs::read(&path).unwrap();
    let edges = (0..PRUNED_HEADER_LEN).chain(good.len() - PRUNED_FOOTER_LEN..good.len());
    let inside = (PRUNED_HEADER_LEN..good.len()).step_by(good.len() / 80);
    for byte in edges.step_by(3).chain(inside) {
        let mut bad = good.clone();
        bad[byte] ^= 1 << (byte % 8);
        fs::write(&path, &bad).unwrap();
        let report = it.verify();
        assert!(report.findings.iter().any(|finding| finding.file == names::PRUNED), "byte {byte}: {report:?}");
    }
    // Nothing is dropped from a backup with an unknown history of compactions.
    let mut bad = good.clone();
    bad[good.len() - PRUNED_FOOTER_LEN - 1] ^= 1;
    fs::write(&path, &bad).unwrap();
    let mut watch = |_| ControlFlow::Continue(());
    let refused = it.node.backup().compact(&policy("1s", "0h"), it.clock(), AT_ONCE, &it.lock(), &mut watch);
    assert!(matches!(refused, Err(CompactError::Read(ReadError::Damaged { .. }))), "{refused:?}");
    // The recorder continues all the same.
    let mut recording = it.node.record_within(LIMITS);
    it.write(&mut recording, "goes on", Fate::Committed);
    drop(recording);
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(!it.verify().findings.is_empty());
    fs::remove_file(&path).unwrap();
    let report = it.verify();
    assert!(
        report.findings.iter().any(|it| it.wrong.kind() == "missing" && it.file.starts_with("segment-")),
        "{report:?}"
    );
    fs::write(&path, &good).unwrap();
    let mut after = it.held();
    after.remove(&it.node.version);
    assert!(after == before);
}

#[test]
fn an_older_copy_of_the_pruned_file_does_not_pass() {
    let mut it = Hourly::new();
    it.live(120);
    it.compact(&policy("80h", "0h"));
    let path = it.node.backup_path().join(names::PRUNED);
    let older = fs::read(&path).unwrap();
    it.compact(&policy("20h", "0h"));
    let newer = fs::read(&path).unwrap();
    fs::write(&path, &older).unwrap();
    let report = it.verify();
    assert!(report.findings.iter().any(|it| it.wrong.kind() == "missing"), "{report:?}");
    let mut watch = |_| ControlFlow::Continue(());
    let refused = it.node.backup().compact(&policy("1s", "0h"), it.clock(), AT_ONCE, &it.lock(), &mut watch);
    assert!(refused.is_err(), "{refused:?}");
    // The file of another backup is refused.
    fs::write(&path, &newer).unwrap();
    let mut other = Hourly::new();
    other.live(120);
    other.compact(&policy("20h", "0h"));
    fs::copy(other.node.backup_path().join(names::PRUNED), &path).unwrap();
    assert!(it.verify().findings.iter().any(|finding| finding.file == names::PRUNED));
}

#[test]
fn nothing_is_dropped_while_a_gap_is_healed() {
    let mut it = Hourly::new();
    it.live(120);
    let lock = it.lock();
    let healing = lock.pretend_to_heal();
    let before = it.files();
    let mut watch = |_| ControlFlow::Continue(());
    let refused = it.node.backup().compact(&policy("20h", "0h"), it.clock(), AT_ONCE, &lock, &mut watch);
    assert!(matches!(refused, Err(CompactError::Healing)), "{refused:?}");
    assert_eq!(it.files(), before);
    drop(healing);
    it.node.backup().compact(&policy("20h", "0h"), it.clock(), AT_ONCE, &lock, &mut watch).unwrap();
    assert_ne!(it.files(), before);
}

#[test]
fn a_full_snapshot_goes_when_nothing_builds_on_it_any_more() {
    let mut it = Hourly::new();
    it.live(60);
    // Pages of another size: a heal cannot take a delta.
    it.node.connection.execute_batch("PRAGMA page_size = 1024; PRAGMA journal_mode = DELETE; VACUUM").unwrap();
    let mut recording = it.node.record_within(LIMITS);
    it.write(&mut recording, "unseen", Fate::Unseen);
    it.write(&mut recording, "seen", Fate::Committed);
    drop(recording);
    it.live(60);
    let snapshots = |it: &Hourly| it.files().iter().filter(|name| names::parse_snapshot(name).is_some()).count();
    assert_eq!(snapshots(&it), 2, "{:?}", it.files());
    let before = it.held();
    it.compact(&policy("70h", "0h"));
    assert_eq!(snapshots(&it), 2, "versions of the old line are left");
    let compaction = it.compact(&policy("30h", "0h"));
    assert_eq!(snapshots(&it), 1, "{:?} {compaction:?}", it.files());
    expect_part_of(&it.held(), &before, "behind a full snapshot");
    assert!(it.verify().findings.is_empty());
}

#[test]
fn what_a_snapshot_builds_on_that_is_not_sealed_yet_stays_readable() {
    let mut it = Hourly::new();
    it.live(60);
    // Logs that are not sealed until a gap has been healed: the snapshot builds on the segment before them.
    let mut recording = it.node.record_within(LIMITS);
    for _ in 0..60 {
        it.write(&mut recording, "long enough for a few logs", Fate::Committed);
    }
    it.write(&mut recording, "unseen", Fate::Unseen);
    it.write(&mut recording, "seen", Fate::Committed);
    let newest = recording.newest().unwrap().seq;
    drop(recording);
    Sealer::new(it.node.backup(), LIMITS).unwrap().advance(newest, &mut |_| ControlFlow::Continue(())).unwrap();
    let base = |it: &Hourly| {
        let (history, _) = it.node.backup().read_history();
        let base = history.unsealed_snapshots().next().unwrap().1.base.unwrap();
        let format::snapshot_ref::DeltaBase::Segment(base) = base else { panic!("{base:?}") };
        base
    };
    let before = it.held();
    it.compact(&policy("10h", "0h"));
    assert!(!it.node.backup_path().join(names::segment(base(&it))).exists(), "it is among those that go");
    expect_part_of(&it.held(), &before, "not sealed");
    assert!(it.verify().findings.is_empty());
    it.live(60);
    expect_part_of(
        &it.held().into_iter().filter(|(version, _)| before.contains_key(version)).collect(),
        &before,
        "sealed",
    );
    assert!(it.verify().findings.is_empty());
}

#[test]
fn what_is_dropped_is_in_the_timeline() {
    let mut it = Hourly::new();
    it.live(120);
    let versions = |it: &Hourly| it.held().len() as u64;
    let before = versions(&it);
    it.compact(&policy("20h", "100h"));
    let (history, _) = it.node.backup().read_history();
    let mut dropped = 0;
    let mut last = None;
    let read = history.for_timeline(&mut |entry| {
        match entry {
            TimelineEntry::Dropped { versions, before, .. } => {
                dropped += versions;
                last = Some(before);
            }
            TimelineEntry::Recorded(version) => {
                assert!(last.is_none_or(|before: Seq| before <= version.seq));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    read.unwrap();
    assert_eq!(dropped, before - versions(&it));
    assert_eq!(it.node.backup().read_dropped().unwrap().unwrap().versions, dropped);
}

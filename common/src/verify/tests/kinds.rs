//! Each kind of finding and note, and that only the requested range is verified.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::check::segment_body::check_body;
use crate::log::RecordAddress;
use crate::segment::version::Origin;
use crate::verify::Wrong;
use format::Damage;
use format::log_header::LOG_HEADER_LEN;

/// The segment, and the versions in it.
fn segments(copy: &Copy) -> Vec<(String, RangeInclusive<u32>)> {
    let backup = Arc::new(Backup::open(&copy.url()).unwrap());
    let (history, read) = backup.read_history();
    read.unwrap();
    let of = |&first: &Seq| {
        let timeline = backup.segments().timeline(first).unwrap();
        let [oldest, newest] = [timeline.versions().first()?, timeline.versions().last()?];
        Some((names::segment(first), oldest.data_version.get()..=newest.data_version.get()))
    };
    history.sealed().iter().filter_map(of).collect()
}

/// The one with the most versions, of those that are not the first.
fn largest(copy: &Copy) -> (String, RangeInclusive<u32>) {
    let later = segments(copy).into_iter().skip(1);
    later.max_by_key(|(_, versions)| versions.end() - versions.start()).unwrap()
}

/// Where the parts of a segment are.
fn blocks(copy: &Copy, name: &str) -> Vec<(&'static str, u64)> {
    let backup = Backup::open(&copy.url()).unwrap();
    let file = backup.segments().open(names::parse_segment(name).unwrap()).unwrap();
    let body = check_body(
        backup.segments(),
        &file,
        file.footer().snapshot.map(|id| backup.full_snapshot(id).unwrap()).as_ref(),
    );
    assert!(body.problems.is_empty(), "{:?}", body.problems);
    vec![
        ("header", 0),
        ("templates", file.footer().templates.offset),
        ("block", body.index.as_ref().unwrap().intervals[1].block.offset),
        ("images", body.images[0].1.offset),
        ("root", file.footer().map.unwrap().location.block.offset),
        ("index", file.footer().index.offset),
        ("footer", file.footer_offset()),
    ]
}

#[test]
fn every_part_of_a_segment_is_named_by_its_byte_by_both_depths() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let (name, versions) = largest(&sound);
    for (part, offset) in blocks(&sound, &name) {
        let copy = Copy::of(node.backup_path());
        copy.flip(&name, usize::try_from(offset).unwrap() + 9);
        for depth in [Depth::Replay, Depth::Quick] {
            let report = copy.verify_within(Scope { depth, ..Scope::default() }).unwrap();
            let found = found(&report, &name);
            assert!(found.iter().any(|finding| finding.offset == Some(offset)), "{part}: {found:?}");
            let is_damage = |finding: &&Finding| matches!(finding.wrong, Wrong::Damaged(_));
            assert!(found.iter().all(is_damage), "{part}: {found:?}");
            let lost = lost(&report);
            assert!(versions.clone().any(|version| lost.contains(&version)), "{part}: {lost:?}");
        }
    }
}

#[test]
fn of_an_interval_whose_statements_are_damaged_the_keyframe_behind_it_opens() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let (name, versions) = largest(&copy);
    let (_, offset) = blocks(&copy, &name)[2];
    copy.flip(&name, usize::try_from(offset).unwrap() + 9);
    let report = copy.verify();
    let lost = lost(&report);
    assert!(!lost.is_empty() && lost.len() < versions.count() && report.findings.len() == 1, "{:?}", report.findings);
    assert_eq!(report.findings[0].lost, report.lost);
}

#[test]
fn what_is_missing_or_belongs_elsewhere_is_reported_as_such() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let segments: Vec<String> = segments(&sound).into_iter().map(|(name, _)| name).collect();
    let snapshot = sound.names("snapshot-").remove(0);
    for (name, kind) in [(&segments[1], "missing"), (&snapshot, "missing"), (&names::LOCK.to_owned(), "missing")] {
        let copy = Copy::of(node.backup_path());
        fs::remove_file(copy.path(name)).unwrap();
        let report = copy.verify();
        assert_eq!(found(&report, name).iter().map(|it| it.wrong.kind()).collect::<Vec<_>>(), [kind], "{name}");
        assert_eq!(report.lost.is_empty(), name == names::LOCK);
    }
    let other = sample();
    for name in [&segments[1], &snapshot, &sound.names("log-").pop().unwrap()] {
        let copy = Copy::of(node.backup_path());
        fs::copy(other.backup_path().join(name), copy.path(name)).unwrap();
        let report = copy.verify();
        let foreign = |finding: &&Finding| finding.wrong == Wrong::Damaged(Damage::Foreign);
        assert!(found(&report, name).iter().any(foreign), "{name}: {:?}", report.findings);
    }
    let copy = Copy::of(node.backup_path());
    fs::copy(sound.path(&segments[1]), copy.path(&segments[2])).unwrap();
    assert!(found(&copy.verify(), &segments[2]).iter().any(|it| it.wrong == Wrong::Damaged(Damage::Foreign)));
    let copy = Copy::of(node.backup_path());
    fs::copy(sound.path(&sound.names("log-")[0]), copy.path(&names::log(Seq::FIRST.next()))).unwrap();
    let report = copy.verify();
    assert_eq!((report.findings[0].wrong.kind(), report.findings.len(), report.lost.is_empty()), ("stray", 1, true));
}

#[test]
fn without_its_manifest_a_backup_opens_no_version() {
    let node = sample();
    for damage in [
        |copy: &Copy| copy.flip(names::MANIFEST, 20),
        |copy: &Copy| {
            fs::remove_file(copy.path(names::MANIFEST)).unwrap();
        },
    ] {
        let copy = Copy::of(node.backup_path());
        let all = copy.versions().len();
        damage(&copy);
        assert_eq!(copy.versions().len(), 0);
        let report = copy.verify();
        assert_eq!((found(&report, names::MANIFEST).len(), report.versions_lost), (1, Some(all as u64)));
    }
}

/// An undetected case: the log has lost its end, and the next one was never renamed from the preallocated file.
#[test]
fn records_that_only_the_preallocated_file_has_are_missed() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let [older, newest] = &copy.names("log-")[..] else { panic!("two logs") };
    fs::rename(copy.path(newest), copy.path(names::PREALLOCATED)).unwrap();
    let report = copy.verify();
    assert!(report.is_clean(), "it is the next log: {:?}", report.findings);
    let mut bytes = fs::read(copy.path(older)).unwrap();
    bytes[last_record_of(&copy, older)..].fill(0);
    fs::write(copy.path(older), bytes).unwrap();
    let expect_missing = |what: &str| {
        let report = copy.verify();
        let missing = |finding: &Finding| matches!(finding.wrong, Wrong::Damaged(Damage::Missing { .. }));
        assert!(report.findings.iter().any(missing), "{what}: {:?}", report.findings);
    };
    expect_missing("all of it");
    let mut preallocated = fs::read(copy.path(names::PREALLOCATED)).unwrap();
    preallocated[..LOG_HEADER_LEN].fill(0);
    fs::write(copy.path(names::PREALLOCATED), &preallocated).unwrap();
    expect_missing("without its header");
    preallocated.truncate(0);
    fs::write(copy.path(names::PREALLOCATED), &preallocated).unwrap();
    assert!(copy.verify().is_clean(), "what is not there cannot be missed");
}

/// Where the last record of a log begins.
fn last_record_of(copy: &Copy, name: &str) -> usize {
    let backup = Arc::new(Backup::open(&copy.url()).unwrap());
    let (history, read) = backup.read_history();
    read.unwrap();
    let starts = history.unsealed_versions().flat_map(|version| history.records_of(version).unwrap());
    let starts = starts.filter_map(|address| match address {
        RecordAddress::Log { log, offset, .. } if names::log(log) == name => Some(offset),
        _ => None,
    });
    usize::try_from(starts.max().unwrap()).unwrap()
}

#[test]
fn behind_the_first_damage_of_the_logs_there_is_more_to_be_reported() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let [older, newest] = &copy.names("log-")[..] else { panic!("two logs") };
    let used = |name: &str| fs::read(copy.path(name)).unwrap().iter().rposition(|&byte| byte != 0).unwrap();
    // Two records of the older one, with some between them, and the first of the newest.
    for (name, at) in [(older, used(older) / 4), (older, used(older) / 2), (newest, 80)] {
        copy.flip(name, at);
    }
    let report = copy.verify();
    assert_eq!((found(&report, older).len(), found(&report, newest).len()), (2, 1), "{:#?}", report.findings);
    assert!(report.findings.iter().all(|finding| finding.lost == report.lost));
    assert!(report.lost.contains(DataVersion::new(node.version)));
    // A successor in name only is reported, too.
    let copy = Copy::of(node.backup_path());
    fs::copy(sample().backup_path().join(newest), copy.path(names::PREALLOCATED)).unwrap();
    let report = copy.verify();
    assert_eq!(found(&report, names::PREALLOCATED).len(), 1, "{:#?}", report.findings);
}

#[test]
fn strangers_and_leftovers_are_noted_and_no_damage() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let snapshot = names::snapshot(Seq::new(9_999).unwrap());
    for name in ["notes.txt", "segment-00000000000000000999.tmp", "log-1", &snapshot] {
        fs::write(copy.path(name), "something").unwrap();
    }
    let report = copy.verify();
    assert!(report.is_clean(), "{:?}", report.findings);
    let noted: Vec<_> = report.notes.iter().map(|note| (note.file.as_str(), note.about.kind())).collect();
    let leftover = "segment-00000000000000000999.tmp";
    assert_eq!(
        noted,
        [("log-1", "stranger"), ("notes.txt", "stranger"), (leftover, "leftover"), (&snapshot, "leftover")]
    );
    // But who would look for the spool must know where.
    fs::write(copy.path(names::SPOOL_NOTE), "{").unwrap();
    assert_eq!(found(&copy.verify(), names::SPOOL_NOTE)[0].wrong.kind(), "unreadable");
    let torn = Copy::of(node.backup_path());
    let log = torn.names("log-").pop().unwrap();
    let mut bytes = fs::read(torn.path(&log)).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    bytes[end + 60..end + 100].fill(7);
    fs::write(torn.path(&log), bytes).unwrap();
    let report = torn.verify();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert!(
        matches!(report.notes[..], [crate::verify::Note { about: NoteAbout::TornWrite { bytes: 100.. }, .. }]),
        "{:?}",
        report.notes
    );
}

#[test]
fn a_change_that_does_not_replay_costs_the_versions_up_to_the_next_snapshot() {
    let mut node = Node::new("");
    let mut recording = node.record_within(LIMITS);
    node.write(&mut recording, "good", Fate::Committed).unwrap();
    node.record_only(&mut recording, "INSERT INTO no_such VALUES ('secret')");
    node.write(&mut recording, "after", Fate::Committed).unwrap();
    node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    node.write(&mut recording, "healed", Fate::Committed).unwrap();
    drop(recording);
    let copy = Copy::of(node.backup_path());
    let report = copy.verify();
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert!(finding.wrong.to_string().contains("statement 1 of version 12"), "{}", finding.wrong);
    assert!(
        !finding.wrong.to_string().contains("secret") && finding.wrong.kind() == "replay" && finding.offset.is_some()
    );
    assert_eq!((finding.lost.to_string(), report.lost.to_string()), ("12-13".to_owned(), "12-13".to_owned()));
    // Nothing is replayed, and nothing is damaged.
    assert!(copy.verify_within(Scope { depth: Depth::Quick, ..Scope::default() }).unwrap().is_clean());
}

#[test]
fn what_was_not_asked_for_is_not_verified_unless_it_is_needed() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let (last_name, last) = largest(&sound);
    let before: Vec<String> = segments(&sound).into_iter().map(|(name, _)| name).filter(|it| *it < last_name).collect();
    let scope =
        |from, to| Scope { from: Some(DataVersion::new(from)), to: Some(DataVersion::new(to)), ..Scope::default() };
    let report = sound.verify_within(scope(*last.start() + 1, *last.end() - 1)).unwrap();
    let found_versions = u64::from(last.end() - last.start() - 1);
    assert!(report.is_clean() && report.newest.is_none(), "{:?}", report.findings);
    assert_eq!((report.versions, report.files), (found_versions, 3), "{report:?}");

    // Statements of an older segment are not needed, pages are.
    let name = &before[0];
    let parts = blocks(&sound, name);
    let copy = Copy::of(node.backup_path());
    copy.flip(name, usize::try_from(parts[2].1).unwrap() + 9);
    assert!(copy.verify_within(scope(*last.start(), *last.end())).unwrap().is_clean());
    assert!(!copy.verify().is_clean());
    let copy = Copy::of(node.backup_path());
    let snapshot = copy.names("snapshot-").remove(0);
    let len = fs::metadata(copy.path(&snapshot)).unwrap().len();
    copy.flip(&snapshot, usize::try_from(len).unwrap() - 5);
    let report = copy.verify_within(scope(*last.start(), *last.end())).unwrap();
    assert_eq!(report.lost.count(), Some(u64::from(last.end() - last.start() + 1)), "{:?}", report.findings);

    // Needed pages of other segments are damaged in turn; the damage is reported when it has an impact.
    let (mut needed, mut not_needed) = (0, 0);
    for name in &before {
        let backup = Backup::open(&sound.url()).unwrap();
        let file = backup.segments().open(names::parse_segment(name).unwrap()).unwrap();
        let snapshot = file.footer().snapshot.map(|id| backup.full_snapshot(id).unwrap());
        let body = check_body(backup.segments(), &file, snapshot.as_ref());
        for (page, block) in body.images {
            let copy = Copy::of(node.backup_path());
            copy.flip(name, usize::try_from(block.offset).unwrap() + 5);
            let report = copy.verify_within(scope(*last.start(), *last.end())).unwrap();
            let now = copy.versions_within(last.clone());
            let gone: BTreeSet<u32> = last.clone().filter(|version| !now.contains_key(version)).collect();
            assert_eq!(lost(&report), gone, "page {page} of {name}, needed by {last_name}: {:?}", report.findings);
            assert!(gone.is_empty() || !report.is_clean());
            *(if gone.is_empty() { &mut not_needed } else { &mut needed }) += 1;
        }
    }
    assert!(needed > 0 && not_needed > 0, "{needed} {not_needed}");
    assert!(matches!(sound.verify_within(scope(5, 9)), Err(VerifyError::UnknownVersion { .. })));
    assert!(matches!(sound.verify_within(scope(30, 29)), Err(VerifyError::Backwards { .. })));
}

#[test]
fn beside_a_recorder_that_writes_and_seals_everything_stays_clean() {
    let mut node = Node::new("");
    let mut recording = node.record_within(LIMITS);
    let url = node.backup_lock.backend_url.clone();
    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    let verifying = std::thread::spawn(move || {
        let mut verified = 0;
        while !ended.load(Ordering::Relaxed) {
            let report = verify(&url, Scope::default(), &|_, _| ()).unwrap();
            assert!(report.is_clean() && report.lost.is_empty(), "{:?}", report.findings);
            assert!(report.notes.is_empty(), "{:?}", report.notes);
            verified += 1;
        }
        verified
    });
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    for _ in 0..300 {
        node.write(&mut recording, "beside", Fate::Committed).unwrap();
        sealer.advance(recording.newest().unwrap().seq, &mut |_| ControlFlow::Continue(())).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    assert!(verifying.join().unwrap() > 5);
    assert!(sealer.progress().logs_sealed > 5);
}

/// The sample has what its words promise.
#[test]
fn the_sample_is_eventful() {
    let node = sample();
    let (history, read) = node.backup().read_history();
    read.unwrap();
    let (mut snapshots, mut rewound, mut missing) = (0, 0, 0);
    history
        .for_timeline(&mut |entry| {
            match entry {
                crate::segment::version::TimelineEntry::Recorded(version) => {
                    snapshots += u32::from(matches!(version.origin, Origin::Snapshot(_)));
                }
                crate::segment::version::TimelineEntry::Rewound { .. } => rewound += 1,
                crate::segment::version::TimelineEntry::Missing { .. } => missing += 1,
                crate::segment::version::TimelineEntry::Dropped { .. }
                | crate::segment::version::TimelineEntry::Replaced { .. }
                | crate::segment::version::TimelineEntry::Unreadable { .. } => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(snapshots >= 4 && rewound >= 3 && history.logs().count() >= 2, "{snapshots} {rewound} {missing}");
    assert!(history.unsealed_snapshots().count() >= 1);
}

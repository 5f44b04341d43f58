//! Sealing what a small node has recorded: the history stays the same, also with writes and faults meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::{Progress, SealError, Sealer};
use crate::backup::Backup;
use crate::backup::view::View;
use crate::backup::views::Views;
use crate::config::log_limits::LogLimits;
use crate::history::History;
use crate::recording::BackupWriter;
use crate::storage::RealDirectory;
use crate::storage::faulty::FaultyDirectory;
use crate::storage::read_error::ReadError;
use crate::testing::{Fate, Node, remove_parity};
use format::names;
use format::units::Seq;

/// Some ten changes a log, and a keyframe every third.
pub(super) const LIMITS: LogLimits = LogLimits { bytes: 1 << 16, statements: 32 };

pub(super) fn record(node: &Node) -> BackupWriter {
    node.record_within(LIMITS)
}

pub(super) fn newest_seq(recording: &BackupWriter) -> Seq {
    recording.newest().unwrap().seq
}

pub(super) fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(super) fn seal(backup: Arc<Backup>, durable: Seq) -> Result<Progress, SealError> {
    let mut sealer = Sealer::new(backup, LIMITS)?;
    sealer.advance(durable, &mut go_on)?;
    Ok(sealer.progress())
}

pub(super) fn history(backup: &Arc<Backup>) -> History {
    let (history, read) = backup.read_history();
    read.unwrap();
    history
}

/// The whole history, except for what only sealing determines.
pub(super) fn timeline(history: &History) -> Vec<String> {
    let mut entries = Vec::new();
    let listed = history.for_timeline(&mut |entry| {
        let text = match entry {
            crate::segment::version::TimelineEntry::Recorded(version) => {
                let (found, by_seq) = (history.version(version.data_version), history.version_by_seq(version.seq));
                assert_eq!(found.unwrap().as_ref(), Some(&version));
                assert_eq!(by_seq.unwrap().as_ref(), Some(&version));
                let crate::segment::version::Version { data_version, seq, recorded_at, origin, commit, .. } = version;
                let sizes = (version.statements, version.statement_bytes);
                format!("{data_version} {seq} {recorded_at} {origin:?} {commit:?} {sizes:?}")
            }
            aside => format!("{aside:?}"),
        };
        entries.push(text);
        ControlFlow::Continue(())
    });
    listed.unwrap();
    entries
}

/// The bytes and the statements of a version.
type Held = (Vec<u8>, Vec<String>);

/// The bytes and the statements of every version.
pub(super) fn versions(backup: &Arc<Backup>) -> BTreeMap<u32, Held> {
    let history = history(backup);
    let mut versions = BTreeMap::new();
    history
        .for_versions_after(None, &mut |version| {
            // No view is kept: each begins with its own keyframe.
            let views = Views::new(Arc::clone(backup), 0);
            let view = views.open(&history.plan(version).unwrap()).unwrap();
            let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
            assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
            assert!(version.page_count.is_none_or(|pages| pages == view.page_count()));
            let statements = backup.statements(&history.records_of(version).unwrap()).unwrap();
            versions.insert(version.data_version.get(), (bytes, statements));
            ControlFlow::Continue(())
        })
        .unwrap();
    versions
}

pub(super) fn files(path: &Path, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// A history with gaps, rewound changes, and snapshots at any place.
pub(super) fn eventful(node: &mut Node) -> BackupWriter {
    let mut recording = record(node);
    for round in 0..25 {
        node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
    }
    for round in 0..12 {
        drop(recording);
        recording = record(node);
        for step in 0..round {
            node.write(&mut recording, &format!("round {round} step {step}"), Fate::Committed).unwrap();
        }
        match round % 3 {
            0 => drop(node.write(&mut recording, "lost", Fate::Lost).unwrap()),
            1 => drop(node.write(&mut recording, "unseen", Fate::Unseen).unwrap()),
            _ => {}
        }
    }
    drop(recording);
    recording = record(node);
    for round in 0..3 {
        node.write(&mut recording, &format!("last {round}"), Fate::Committed).unwrap();
    }
    recording
}

#[test]
fn what_is_sealed_is_what_was_recorded() {
    for pragmas in ["", "PRAGMA page_size = 512", "PRAGMA page_size = 65536", "PRAGMA auto_vacuum = FULL"] {
        let mut node = Node::new(pragmas);
        let recording = eventful(&mut node);
        let (reported, held) = (timeline(&history(&node.backup())), versions(&node.backup()));
        let logs = files(node.backup_path(), "log-").len();
        let progress = seal(node.backup(), newest_seq(&recording)).unwrap();
        assert_eq!(progress.logs_sealed, logs as u64 - 1, "{pragmas}");
        assert_eq!(progress.replayed_through, Some(recording.newest().unwrap().data_version));
        assert_eq!(files(node.backup_path(), "log-").len(), 1);
        assert_eq!(files(node.backup_path(), "snapshot-").len(), 1, "deltas are part of their segments");
        assert_eq!(timeline(&history(&node.backup())), reported, "{pragmas}");
        assert!(versions(&node.backup()) == held, "{pragmas}");
    }
}

/// Rows come and go, so that the database shrinks and grows again.
#[test]
fn pages_that_were_cut_off_do_not_come_back() {
    let mut node = Node::new("PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL");
    let mut recording = record(&node);
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    for round in 0..60_u32 {
        let note = if round % 7 < 4 { "x".repeat(900) } else { "y".to_owned() };
        node.write(&mut recording, &note, Fate::Committed).unwrap();
        if round % 7 == 6 {
            node.execute(&mut recording, "DELETE FROM payments WHERE length(note) > 800");
        }
        sealer.advance(newest_seq(&recording), &mut go_on).unwrap();
    }
    let sizes: Vec<_> = versions(&node.backup()).values().map(|(bytes, _)| bytes.len()).collect();
    assert!(sizes.windows(2).any(|pair| pair[1] < pair[0]), "{sizes:?}");
    let sealed = versions(&node.backup());
    assert!(sealer.progress().logs_sealed > 4);
    assert_eq!(sealed.values().last().unwrap().0, fs::read(node.database()).unwrap());
    for (version, (bytes, _)) in &sealed {
        node.check(bytes, *version);
    }
}

#[test]
fn a_sealer_beside_a_recorder_seals_nothing_that_may_change() {
    let mut node = Node::new("");
    let mut recording = record(&node);
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    let mut held = BTreeMap::new();
    for round in 0..80 {
        let fate = if round % 9 == 5 { Fate::Lost } else { Fate::Committed };
        node.write(&mut recording, &format!("round {round}"), fate).unwrap();
        sealer.advance(newest_seq(&recording), &mut go_on).unwrap();
        assert_eq!(sealer.progress().replayed_through, Some(recording.newest().unwrap().data_version));
        if fate == Fate::Lost {
            drop(recording);
            recording = record(&node);
        } else {
            held.insert(node.version, fs::read(node.database()).unwrap());
        }
    }
    assert!(sealer.progress().logs_sealed >= 6);
    let sealed = versions(&node.backup());
    for (version, bytes) in &held {
        assert!(sealed[version].0 == *bytes, "version {version}");
    }
}

#[test]
fn a_follower_goes_on_while_logs_are_sealed_under_it() {
    let mut node = Node::new("");
    let mut recording = record(&node);
    let (followed, mut follower) = node.backup().follow().unwrap();
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    for round in 0..100 {
        node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
        // Now it lags behind whole logs, now it is in the middle of one.
        if round % 5 == 0 {
            sealer.advance(newest_seq(&recording), &mut go_on).unwrap();
        }
        if round % 17 == 0 {
            follower.poll(&followed).unwrap();
            let history = followed.read().unwrap();
            assert_eq!(history.newest().unwrap().data_version, recording.newest().unwrap().data_version);
            assert_eq!(history.version_count(), u64::from(node.version) - 9);
        }
    }
    follower.poll(&followed).unwrap();
    assert_eq!(timeline(&followed.read().unwrap()), timeline(&history(&node.backup())));
}

/// A plan that was made before its log was sealed is still good.
#[test]
fn a_plan_outlives_the_log_it_was_made_of() {
    let mut node = Node::new("");
    let recording = eventful(&mut node);
    let (before, backup) = (history(&node.backup()), node.backup());
    let mut plans = Vec::new();
    before
        .for_versions_after(None, &mut |version| {
            plans.push((version.clone(), before.plan(version).unwrap(), before.records_of(version).unwrap()));
            ControlFlow::Continue(())
        })
        .unwrap();
    let held = versions(&node.backup());
    seal(node.backup(), newest_seq(&recording)).unwrap();
    for (version, plan, records) in plans {
        let view = View::open(&backup, &plan).unwrap();
        let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
        view.read_at(0, &mut bytes).unwrap();
        let (expected, statements) = &held[&version.data_version.get()];
        assert!(bytes == *expected, "version {}", version.data_version);
        assert_eq!(backup.statements(&records).unwrap(), *statements);
    }
}

#[test]
fn a_log_is_sealed_only_when_what_follows_it_is_durable() {
    let mut node = Node::new("");
    let mut recording = record(&node);
    let mut before_roll = newest_seq(&recording);
    while files(node.backup_path(), "log-").len() == 1 {
        before_roll = newest_seq(&recording);
        node.write(&mut recording, "change", Fate::Committed).unwrap();
    }
    assert_eq!(seal(node.backup(), before_roll).unwrap().logs_sealed, 0);
    let progress = seal(node.backup(), newest_seq(&recording)).unwrap();
    assert_eq!(progress.logs_sealed, 0, "the change behind it may still be rewound, and a snapshot come");
    assert_eq!(
        progress.replayed_through,
        Some(recording.newest().unwrap().data_version),
        "it is replayed all the same"
    );
    assert_eq!(files(node.backup_path(), "segment-").len(), 0);
    node.write(&mut recording, "change", Fate::Committed).unwrap();
    assert_eq!(seal(node.backup(), newest_seq(&recording)).unwrap().logs_sealed, 1);
}

/// Every call of a sealing fails once, and the machine stops right there.
#[test]
fn a_sealing_that_is_cut_short_anywhere_loses_nothing() {
    let mut node = Node::new("");
    let recording = eventful(&mut node);
    let (reported, held) = (timeline(&history(&node.backup())), versions(&node.backup()));
    let original = fs::read_dir(node.backup_path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut cut_short = 0;
    for nth in (0..).step_by(3) {
        let copy = tempfile::tempdir().unwrap();
        for path in &original {
            fs::copy(path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let faulty = Arc::new(FaultyDirectory::new(copy.path()));
        let opened = |directory| Arc::new(Backup::of(directory, node.backup().manifest().clone()));
        faulty.fail_nth(nth);
        let done = seal(opened(Arc::clone(&faulty) as _), newest_seq(&recording)).is_ok();
        assert!(!done || faulty.named_what_is_durable());
        let copied = opened(Arc::new(RealDirectory::new(copy.path())));
        assert_eq!(timeline(&history(&copied)), reported, "call {nth}");
        if nth % 15 == 0 || done {
            assert!(versions(&copied) == held, "call {nth}");
        }
        // The next one completes it.
        seal(Arc::clone(&copied), newest_seq(&recording)).unwrap();
        let copied = opened(Arc::new(RealDirectory::new(copy.path())));
        assert_eq!(files(copy.path(), "log-").len(), 1, "call {nth}");
        assert_eq!(timeline(&history(&copied)), reported, "call {nth}");
        // Of parity that is not written a sealing only says so.
        if faulty.calls() <= nth {
            assert!(done);
            break;
        }
        cut_short += 1;
    }
    assert!(cut_short > 20, "{cut_short}");
}

/// A disk that stores other bytes without an error: the log stays, and remains readable.
#[test]
fn a_segment_that_does_not_read_back_is_not_taken_for_one() {
    let mut node = Node::new("");
    let recording = eventful(&mut node);
    let (newest, held) = (newest_seq(&recording), versions(&node.backup()));
    drop(recording);
    let original = fs::read_dir(node.backup_path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut noticed = 0;
    for nth in 0.. {
        let copy = tempfile::tempdir().unwrap();
        for path in &original {
            fs::copy(path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let lying = Arc::new(FaultyDirectory::new(copy.path()));
        let opened = |directory| Arc::new(Backup::of(directory, node.backup().manifest().clone()));
        lying.flip_in_nth(nth);
        let sealed = seal(opened(Arc::clone(&lying) as _), newest);
        if lying.calls() <= nth {
            sealed.unwrap();
            break;
        }
        if let Err(SealError::Differs { path, what }) = sealed {
            assert!(path.exists() && what.contains("at byte"), "call {nth}: {what}");
            let left = files(copy.path(), "").into_iter().filter(|name| name.ends_with(".tmp")).count();
            assert_eq!(left, 0, "call {nth}: what was written is of no use");
            noticed += 1;
        }
        assert!(versions(&opened(Arc::new(RealDirectory::new(copy.path())))) == held, "call {nth}");
    }
    // One write a segment, as they are small.
    assert!(noticed >= 3, "{noticed}");
}

/// A segment that is missing, cut, or has any flipped bit: the versions that need it fail with an error that names it, all others
/// are unchanged.
#[test]
fn damage_costs_the_versions_that_need_the_segment_and_no_other() {
    let mut node = Node::new("");
    let recording = eventful(&mut node);
    seal(node.backup(), newest_seq(&recording)).unwrap();
    remove_parity(node.backup_path());
    let held = versions(&node.backup());
    let segments = files(node.backup_path(), "segment-");
    let mut flips_that_cost = 0;
    for (position, name) in segments.iter().enumerate() {
        let path = node.backup_path().join(name);
        let good = fs::read(&path).unwrap();
        let mut damages: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new()), Some([&good[..], b"x"].concat())];
        damages.extend((0..good.len()).step_by(good.len() / 5 + 1).map(|cut| Some(good[..cut].to_vec())));
        damages.extend((position..good.len() * 8).step_by(good.len() * 8 / 40 + 1).map(|bit| {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            Some(flipped)
        }));
        let swapped = segments.get(position + 1).or(segments.first()).unwrap();
        damages.push(Some(fs::read(node.backup_path().join(swapped)).unwrap()));
        for damage in damages {
            match &damage {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let lost = lost_versions(&node, &held, name);
            // Images that no version needs cost nothing; a segment that is not whole does.
            let is_whole = damage.is_some_and(|bytes| bytes.len() == good.len());
            assert!(lost > 0 || is_whole, "{name}: costs nothing");
            flips_that_cost += usize::from(is_whole && lost > 0);
        }
        fs::write(&path, &good).unwrap();
    }
    assert!(flips_that_cost > 20 * segments.len(), "{flips_that_cost}");
    assert!(versions(&node.backup()) == held);
}

/// Opens every former version and counts those that cannot be read. All others are unchanged.
fn lost_versions(node: &Node, held: &BTreeMap<u32, Held>, damaged: &str) -> usize {
    let backup = node.backup();
    let (history, _) = backup.read_history();
    let mut lost = 0;
    for (&number, (expected, statements)) in held {
        let version = format::units::DataVersion::new(number);
        let read = || -> Result<Option<Held>, String> {
            let names = |error: ReadError| {
                let text = error.to_string();
                assert!(text.contains(damaged) || text.contains(&damaged.replace("segment", "log")), "{text}");
                text
            };
            let Some(version) = history.version(version).map_err(names)? else { return Ok(None) };
            let plan = history.plan(&version).map_err(names)?;
            let view = View::open(&backup, &plan).map_err(|error| error.reason.to_string())?;
            let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
            view.read_at(0, &mut bytes).map_err(names)?;
            let records = history.records_of(&version).map_err(names)?;
            Ok(Some((bytes, backup.statements(&records).map_err(names)?)))
        };
        match read() {
            Ok(Some((bytes, read))) => assert!(bytes == *expected && read == *statements, "version {number}"),
            Ok(None) | Err(_) => lost += 1,
        }
    }
    lost
}

#[test]
fn a_change_that_does_not_replay_stays_in_its_log_and_is_reported() {
    let mut node = Node::new("");
    let mut recording = record(&node);
    for _ in 0..15 {
        node.write(&mut recording, "good", Fate::Committed).unwrap();
    }
    node.record_only(&mut recording, "INSERT INTO no_such VALUES ('secret')");
    for _ in 0..15 {
        node.write(&mut recording, "after", Fate::Committed).unwrap();
    }
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    for _ in 0..2 {
        let error = sealer.advance(newest_seq(&recording), &mut go_on).unwrap_err();
        let SealError::Replay { path, source, .. } = &error else { panic!("{error:?}") };
        assert!(path.exists() && source.to_string().contains("no such table"), "{source}");
        assert!(!source.to_string().contains("secret") && !source.to_string().contains("no_such"), "{source}");
    }
    assert_eq!(sealer.progress().logs_sealed, 1);
    assert!(files(node.backup_path(), "log-").len() >= 2);
    assert_eq!(history(&node.backup()).newest().unwrap().data_version, recording.newest().unwrap().data_version);
}

#[test]
fn a_temporary_file_that_was_left_is_removed_by_the_next_recorder() {
    let node = Node::new("");
    let left = node.backup_path().join(format!("{}.tmp", names::segment(Seq::FIRST)));
    fs::write(&left, "half a segment").unwrap();
    drop(node.record());
    assert!(!left.exists());
}

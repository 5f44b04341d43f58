//! Every change of a length or a name is reported, except where that is impossible.

use super::*;
use crate::compact::{Clock, CompactOutcome, compact_backup};
use crate::config::keep_policy::KeepPolicy;
use format::snapshot::SNAPSHOT_HEADER_LEN;

/// A change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// So many bytes of it are left.
    Cut(usize),
    /// Zeros behind its end.
    Zeros(usize),
    /// Something behind its end.
    Junk,
    Missing,
    /// It has a name that no file of a backup has.
    Aside,
    /// It has the number of the next, which there is not.
    Renumbered,
    /// There is a copy with another number.
    Doubled,
    /// It is what another file of its kind is, and that is what it was.
    Swapped,
}

use Change::{Aside, Cut, Doubled, Junk, Missing, Renumbered, Swapped, Zeros};

/// A backup with files of every kind, and the version that is the newest.
fn with_every_file() -> Node {
    let node = eventful(Sealing::OnTheWay);
    let policy = KeepPolicy { within: Some("1s".parse().unwrap()), ..KeepPolicy::default() };
    let url = node.backup_lock.backend_url.clone();
    let outcome = compact_backup(&url, &policy, Clock::Trusted, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(matches!(outcome, CompactOutcome::Done(_)));
    let recording = node.record_within(LIMITS);
    recording.preallocate().unwrap();
    drop(recording);
    fs::write(node.backup_path().join(names::PREALLOCATED), vec![0; 1 << 16]).unwrap();
    node
}

fn number(name: &str) -> Option<u64> {
    name.split_once('-')?.1.parse().ok()
}

fn kind(name: &str) -> &str {
    name.split_once("-0").map_or(name, |(kind, _)| kind)
}

/// The reason why a change is not detected, or need not be.
fn why_silent(name: &str, change: Change, is_newest_log: bool) -> Option<&'static str> {
    match (kind(name), change) {
        (names::PREALLOCATED, _) => Some("a crash leaves any of it, and it holds no record"),
        (names::CHECKED, Missing) => Some("the recorder checks its snapshots again"),
        ("log", Missing | Aside) if is_newest_log => Some("nothing before it shows that another log followed"),
        _ => None,
    }
}

fn apply(copy: &Copy, names: &[String], name: &str, change: Change) -> bool {
    let path = copy.path(name);
    let bytes = fs::read(&path).unwrap();
    let renumbered = |by: u64| number(name).map(|number| copy.path(&format!("{}-{:020}", kind(name), number + by)));
    match change {
        Cut(len) if len < bytes.len() => fs::write(&path, &bytes[..len]).unwrap(),
        Zeros(more) => fs::write(&path, [&bytes[..], &vec![0; more]].concat()).unwrap(),
        Junk => fs::write(&path, [&bytes[..], b"BREC junk"].concat()).unwrap(),
        Missing => fs::remove_file(&path).unwrap(),
        Aside => fs::rename(&path, copy.path("aside")).unwrap(),
        Renumbered | Doubled => {
            let Some(other) = renumbered(500_000) else { return false };
            fs::copy(&path, other).unwrap();
            if change == Renumbered {
                fs::remove_file(&path).unwrap();
            }
        }
        Swapped => {
            let is_other = |other: &&String| kind(other) == kind(name) && *other != name;
            let Some(other) = names.iter().find(is_other) else { return false };
            let of_other = fs::read(copy.path(other)).unwrap();
            fs::write(copy.path(other), &bytes).unwrap();
            fs::write(&path, of_other).unwrap();
        }
        Cut(_) => return false,
    }
    true
}

#[test]
fn every_change_of_a_length_or_a_name_is_reported() {
    let node = with_every_file();
    let sound = Copy::of(node.backup_path());
    let report = sound.verify();
    assert!(report.is_clean() && report.notes.is_empty(), "{:?} {:?}", report.findings, report.notes);
    let all = sound.names("");
    for expected in ["manifest", "LOCK", "log", "preallocated", "segment", "snapshot", "pruned"] {
        assert!(all.iter().any(|name| kind(name) == expected), "{expected}: {all:?}");
    }
    let newest_log = sound.names("log-").pop().unwrap();
    assert!(sound.names("log-").len() > 1, "{all:?}");
    let (mut reported, mut silent) = (0, Vec::new());
    let mut wrong = Vec::new();
    let mut kinds = BTreeMap::<&str, usize>::new();
    for name in &all {
        // One file of a kind, and the newest log, have seen everything that can happen to one.
        let seen = kinds.entry(kind(name)).or_default();
        *seen += 1;
        if *seen > 1 && *name != newest_log {
            continue;
        }
        let bytes = fs::read(sound.path(name)).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let cuts = [
            0,
            1,
            64,
            80,
            SNAPSHOT_HEADER_LEN,
            used / 2,
            used.saturating_sub(1),
            used,
            used + 1,
            bytes.len().saturating_sub(1),
        ];
        let changes = cuts.into_iter().collect::<BTreeSet<_>>().into_iter().map(Cut);
        let others = [Zeros(1), Zeros(4096), Junk, Missing, Aside, Renumbered, Doubled, Swapped];
        for change in changes.chain(others) {
            let copy = Copy::of(node.backup_path());
            if !apply(&copy, &all, name, change) {
                continue;
            }
            let report = copy.verify();
            let is_reported = !report.is_clean() || !report.notes.is_empty();
            match (is_reported, why_silent(name, change, *name == newest_log)) {
                (true, _) => reported += 1,
                (false, Some(why)) => silent.push((name.clone(), change, why)),
                (false, None) => wrong.push(format!("{name} {change:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "not reported: {wrong:#?}");
    assert!(reported > 90 && silent.len() < 15, "{reported} {silent:?}");
}

/// The impact of an interrupted copy of the newest log is the missing part, and nothing else can be known.
#[test]
fn a_log_that_was_cut_off_costs_all_that_may_have_been_in_it() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let newest = copy.names("log-").pop().unwrap();
    let bytes = fs::read(copy.path(&newest)).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let before = copy.versions();
    fs::write(copy.path(&newest), &bytes[..used / 2]).unwrap();
    let now = copy.versions();
    assert!(!now.is_empty() && now.len() < before.len());
    let report = copy.verify();
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert!(finding.wrong.to_string().contains("cut off"), "{finding:?}");
    assert!(before.keys().all(|version| report.lost.contains(DataVersion::new(*version)) != now.contains_key(version)));
    assert_eq!(report.versions_lost, None, "how many were in it is unknown");
    // Within the zeros nothing is lost, and the cut is reported.
    fs::write(copy.path(&newest), &bytes[..bytes.len() - 9]).unwrap();
    let report = copy.verify();
    assert_eq!(copy.versions(), before);
    assert_eq!((report.findings.len(), report.versions_lost), (1, Some(0)), "{:?}", report.findings);
    drop(node.record_within(LIMITS));
    // A recorder makes it whole again.
    let lock = crate::config::backup_lock::BackupLock { backend_url: copy.url(), ..node.backup_lock.clone() };
    let directory: Arc<dyn crate::storage::Directory> = Arc::new(crate::storage::RealDirectory::new(copy.dir.path()));
    drop(crate::recording::BackupWriter::open_in(directory, &lock, node.dir.path(), LIMITS).unwrap());
    assert!(copy.verify().is_clean());
    assert_eq!(fs::metadata(copy.path(&newest)).unwrap().len(), bytes.len() as u64);
}

#[test]
fn what_was_dropped_is_not_counted_among_what_is_lost() {
    let node = sample();
    let ever: BTreeSet<u32> = Copy::of(node.backup_path()).versions().into_keys().collect();
    let node = {
        let policy = KeepPolicy { within: Some("1s".parse().unwrap()), ..KeepPolicy::default() };
        let url = node.backup_lock.backend_url.clone();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let mut recording = node.record_within(LIMITS);
        let mut node = node;
        node.write(&mut recording, "later", Fate::Committed).unwrap();
        drop(recording);
        compact_backup(&url, &policy, Clock::Trusted, &mut |_| ControlFlow::Continue(())).unwrap();
        node
    };
    let sound = Copy::of(node.backup_path());
    let held: BTreeSet<u32> = sound.versions().into_keys().collect();
    assert!(held.len() + 20 < ever.len(), "{} of {}", held.len(), ever.len());
    let segments = sound.names("segment-");
    assert!(!segments.is_empty());
    for name in &segments {
        let len = usize::try_from(fs::metadata(sound.path(name)).unwrap().len()).unwrap();
        for gone in [false, true] {
            let copy = Copy::of(node.backup_path());
            if gone {
                fs::remove_file(copy.path(name)).unwrap();
            } else {
                copy.flip(name, len - 20);
            }
            let report = copy.verify();
            assert!(!report.lost.is_empty(), "{name}");
            let of_dropped: Vec<_> =
                ever.difference(&held).filter(|it| report.lost.contains(DataVersion::new(**it))).collect();
            assert!(of_dropped.is_empty(), "{name}: {of_dropped:?} were dropped; {}", report.lost);
            let of_findings = report.findings.iter().flat_map(|finding| finding.lost.iter());
            assert!(
                of_findings
                    .into_iter()
                    .all(|range| !ever.contains(&range.first.get()) || held.contains(&range.first.get()))
            );
        }
    }
}

//! Damage is found and named, and its reported impact is that on opening versions.

mod chain;
mod far;
mod kinds;
mod lengths_and_names;
mod of_the_node;
mod rebuilt;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::{ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::{Depth, Finding, NoteAbout, Report, Scope, VerifyError, verify};
use crate::backup::Backup;
use crate::backup::view::View;
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::seal::Sealer;
use crate::testing::{Fate, Node, remove_parity};
use format::names;
use format::units::{DataVersion, Seq};

/// Some 36 changes a log, unless a snapshot begins another, and a keyframe every second or third.
const LIMITS: LogLimits = LogLimits { bytes: 1 << 16, statements: 108 };

/// Rows of some pages, most of which are never touched again.
const OLD_ROWS: &str = "CREATE TABLE old (i INTEGER PRIMARY KEY, what BLOB);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) INSERT INTO old SELECT i, zeroblob(900) FROM n";

/// Segments and logs with rewound changes, gaps, snapshots based on snapshots and on segments, and truncated pages.
fn sample() -> Node {
    eventful(Sealing::OnTheWay)
}

/// Whether records are sealed on the way.
#[derive(PartialEq)]
enum Sealing {
    OnTheWay,
    No,
}

fn eventful(sealing: Sealing) -> Node {
    let mut node = Node::new("");
    let mut recording = node.record_within(LIMITS);
    node.connection.execute_batch(OLD_ROWS).unwrap();
    for round in 0..25 {
        node.write(&mut recording, &format!("round {round}"), Fate::Committed).unwrap();
    }
    node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    for round in 0..14 {
        drop(recording);
        recording = node.record_within(LIMITS);
        for step in 0..5 {
            node.write(&mut recording, &format!("round {round} step {step}"), Fate::Committed).unwrap();
        }
        match round % 4 {
            0 => drop(node.write(&mut recording, "lost", Fate::Lost).unwrap()),
            1 => drop(node.write(&mut recording, "unseen", Fate::Unseen).unwrap()),
            2 => {
                let id = round * 4 + 1;
                node.execute(&mut recording, &format!("UPDATE old SET what = zeroblob(2000) WHERE i = {id}"));
                node.execute(&mut recording, &format!("DELETE FROM old WHERE i BETWEEN {id} AND {}", id + 3));
            }
            _ => {}
        }
        let newest = recording.newest().unwrap().seq;
        if round < 11 && sealing == Sealing::OnTheWay {
            let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
            sealer.advance(newest, &mut |_| ControlFlow::Continue(())).unwrap();
        }
    }
    node.write(&mut recording, "the last", Fate::Committed).unwrap();
    drop(recording);
    node
}

/// A copy of a backup without its parity, to be damaged.
struct Copy {
    dir: TempDir,
}

impl Copy {
    fn of(backup: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(backup).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        remove_parity(dir.path());
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(&self) -> BackupUrl {
        self.dir.path().to_str().unwrap().parse().unwrap()
    }

    fn verify(&self) -> Report {
        self.verify_within(Scope::default()).unwrap()
    }

    fn verify_within(&self, scope: Scope) -> Result<Report, VerifyError> {
        verify(&self.url(), scope, &|_, _| ())
    }

    fn flip(&self, name: &str, offset: usize) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        bytes[offset] ^= 1 << (offset % 8);
        fs::write(self.path(name), bytes).unwrap();
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let names =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(prefix)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The bytes of every version that can be opened and read to its end, with a view of its own for each.
    fn versions(&self) -> BTreeMap<u32, Vec<u8>> {
        self.versions_within(0..=300)
    }

    fn versions_within(&self, numbers: RangeInclusive<u32>) -> BTreeMap<u32, Vec<u8>> {
        let Ok(backup) = Backup::open(&self.url()).map(Arc::new) else { return BTreeMap::new() };
        let (history, _) = backup.read_history();
        let read = |version: u32| {
            let version = history.version(DataVersion::new(version)).ok()??;
            let view = View::open(&backup, &history.plan(&version).ok()?).ok()?;
            let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
            view.read_at(0, &mut bytes).ok()?;
            Some(bytes)
        };
        numbers.filter_map(|version| Some((version, read(version)?))).collect()
    }
}

fn lost(report: &Report) -> BTreeSet<u32> {
    (0..300).filter(|&version| report.lost.contains(DataVersion::new(version))).collect()
}

fn found<'a>(report: &'a Report, file: &str) -> Vec<&'a Finding> {
    report.findings.iter().filter(|finding| finding.file == file).collect()
}

/// The versions reported as lost are those that cannot be opened, and every other version is unchanged.
#[track_caller]
fn expect_agreement(copy: &Copy, (model, newest_log): (&BTreeMap<u32, Vec<u8>>, Seq), what: &str) -> Report {
    let report = copy.verify();
    let now = copy.versions();
    for (version, bytes) in &now {
        assert!(model.get(version) == Some(bytes), "{what}: version {version} is another one");
    }
    let gone: BTreeSet<u32> = model.keys().filter(|version| !now.contains_key(version)).copied().collect();
    let torn = report.notes.iter().any(|note| matches!(note.about, NoteAbout::TornWrite { .. }));
    if report.is_clean() && (torn || what == format!("{} removed", names::log(newest_log))) {
        // A damaged acknowledged last record looks like a torn write, and without its last log a backup is a shorter one.
        // The node's next data_version reveals both.
        assert!(gone.iter().eq(model.keys().skip(model.len() - gone.len())), "{what}: {gone:?}");
        return report;
    }
    let reported: BTreeSet<u32> = lost(&report).into_iter().filter(|version| model.contains_key(version)).collect();
    assert_eq!(reported, gone, "{what}: reported and gone; {:#?}", report.findings);
    for finding in &report.findings {
        assert!(finding.lost.iter().all(|range| report.lost.contains(range.first)), "{what}: {finding:?}");
    }
    assert!(gone.is_empty() || !report.is_clean(), "{what}");
    report
}

#[test]
fn a_sound_backup_is_clean_and_counted() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let report = copy.verify();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    assert_eq!(report.versions, copy.versions().len() as u64);
    assert_eq!((report.versions_lost, report.lost.is_empty()), (Some(0), true));
    let newest = report.newest.unwrap();
    assert_eq!(
        (newest.data_version.get(), &*newest.integrity_check, &*newest.foreign_key_check),
        (node.version, "ok", "ok")
    );
    assert!(copy.names("segment-").len() >= 4 && copy.names("log-").len() >= 2, "{:?}", copy.names(""));
    let quick = copy.verify_within(Scope { depth: Depth::Quick, ..Scope::default() }).unwrap();
    assert!(quick.is_clean() && quick.newest.is_none());
    assert_eq!((quick.versions, quick.files, quick.bytes), (report.versions, report.files, report.bytes));
}

#[test]
fn what_verify_calls_lost_is_what_cannot_be_opened() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let model = sound.versions();
    let newest_log = sound.names("log-").last().and_then(|name| names::parse_log(name)).unwrap();
    let mut damaged = 0;
    let mut luck = 0x2545_f491_4f6c_dd1d_u64;
    for name in sound.names("") {
        let len = fs::metadata(sound.path(&name)).unwrap().len();
        // Behind its records a log is zeros; the records may end in zeros, too.
        let bytes = fs::read(sound.path(&name)).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        for case in 0..6 {
            let copy = Copy::of(node.backup_path());
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(luck >> 33).unwrap() % used.max(1);
            // With another version in its manifest, a backup is one of a newer release.
            let at = if name == names::MANIFEST && (8..10).contains(&at) { 10 } else { at };
            let what = match case {
                0 => {
                    fs::remove_file(copy.path(&name)).unwrap();
                    format!("{name} removed")
                }
                1 => {
                    fs::write(copy.path(&name), &bytes[..used / 2]).unwrap();
                    format!("{name} cut")
                }
                2 if used > 0 => {
                    copy.flip(&name, 33.min(used - 1));
                    format!("{name} at its beginning")
                }
                3 if used > 0 => {
                    copy.flip(&name, used - 1);
                    format!("{name} at its end")
                }
                _ if used > 0 => {
                    copy.flip(&name, at);
                    format!("{name} at {at} of {len}")
                }
                _ => continue,
            };
            let report = expect_agreement(&copy, (&model, newest_log), &what);
            damaged += usize::from(!report.is_clean());
        }
    }
    assert!(damaged > 60, "{damaged} cases of damage");
}

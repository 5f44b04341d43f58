//! Whatever a disk does to sealed files within the bounds of parity: the right bytes are read, and a repair makes the files whole.

mod regressions;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::{Repaired, remove_kept, repair_backup, repair_in};
use crate::backup::Backup;
use crate::backup::source::Source;
use crate::backup::views::Views;
use crate::compact::{Clock, CompactOutcome, compact_backup};
use crate::config::backup_url::BackupUrl;
use crate::config::keep_policy::KeepPolicy;
use crate::config::log_limits::LogLimits;
use crate::seal::seal_backup;
use crate::storage::faulty::FaultyDirectory;
use crate::storage::{Directory, RealDirectory};
use crate::testing::{Fate, Node, remove_parity};
use crate::verify::{Scope, Wrong, verify};
use format::names;
use format::parity::Protected;

const LIMITS: LogLimits = LogLimits { bytes: 1 << 16, statements: 300 };

/// Number of places of each kind of damage: `BACKUPFS_DAMAGED`.
fn places() -> usize {
    std::env::var("BACKUPFS_DAMAGED").map_or(12, |text| text.parse().expect("BACKUPFS_DAMAGED is a number"))
}

/// A backup with segments, of which some were dropped, and two snapshots.
fn sample() -> Node {
    let (mut node, mut luck) = (Node::new(""), luck());
    let url = node.backup_lock.backend_url.clone();
    let mut run = |node: &mut Node, changes: usize| {
        let mut recording = node.record_within(LIMITS);
        for _ in 0..changes {
            let note: String = (0..50).map(|_| format!("{:016x}", luck())).collect();
            node.write(&mut recording, &note, Fate::Committed).unwrap();
        }
        recording
    };
    let seal = || seal_backup(&url, &mut |_| ControlFlow::Continue(())).unwrap();
    drop(run(&mut node, 300));
    thread::sleep(Duration::from_millis(1100));
    drop(run(&mut node, 100));
    seal();
    let policy = KeepPolicy { within: Some("1s".parse().unwrap()), ..KeepPolicy::default() };
    let outcome = compact_backup(&url, &policy, Clock::Trusted, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(matches!(&outcome, CompactOutcome::Done(done) if done.dropped_segments > 0), "{outcome:?}");
    let mut recording = run(&mut node, 10);
    node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
    drop(recording);
    drop(run(&mut node, 500));
    seal();
    node
}

struct Copy(TempDir);

impl Copy {
    fn of(backup: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(backup).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn url(&self) -> BackupUrl {
        self.0.path().to_str().unwrap().parse().unwrap()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        fs::write(self.path(name), bytes).unwrap();
    }

    fn repair(&self) -> Repaired {
        repair_backup(&self.url(), None, &mut |_, _| ControlFlow::Continue(())).unwrap()
    }

    fn repair_from(&self, other: &Self) -> Repaired {
        repair_backup(&self.url(), Some(&Source::from(&other.url())), &mut |_, _| ControlFlow::Continue(())).unwrap()
    }

    /// The sealed files with their bytes.
    fn sealed(&self) -> BTreeMap<String, Vec<u8>> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| Protected::parse(name).is_some())
            .map(|name| (name.clone(), fs::read(self.path(&name)).unwrap()))
            .collect()
    }

    fn parity(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| names::parse_parity(name).is_some()).collect()
    }
}

/// The bytes of the newest version, and of every 40th.
fn versions(backup: Backup) -> Result<BTreeMap<u32, Vec<u8>>, String> {
    let backup = Arc::new(backup);
    let (history, read) = backup.read_history();
    read.map_err(|error| error.to_string())?;
    let (views, mut held, mut number) = (Views::new(Arc::clone(&backup), 1 << 20), BTreeMap::new(), 0);
    let newest = history.newest().map(|newest| newest.data_version);
    let mut failed = None;
    let all = history.for_versions_after(None, &mut |version| {
        number += 1;
        if number % 40 == 1 || Some(version.data_version) == newest {
            let read = || -> Result<_, String> {
                let plan = history.plan(version).map_err(|error| error.to_string())?;
                let view = views.open(&plan).map_err(|error| error.to_string())?;
                let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
                view.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
                Ok(bytes)
            };
            match read() {
                Ok(bytes) => drop(held.insert(version.data_version.get(), bytes)),
                Err(error) => failed = Some(format!("{}: {error}", version.data_version)),
            }
        }
        ControlFlow::Continue(())
    });
    all.map_err(|error| error.to_string())?;
    failed.map_or(Ok(held), Err)
}

/// What a disk does to a range of a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Bit,
    Zeroed,
    Unreadable,
}

/// Damages at places over all sealed files: every version is read as it was, the damage is named, and a repair makes each file what it
/// was.
#[test]
fn every_place_of_every_sealed_file_is_mended() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let (held, files) = (versions(Backup::open(&sound.url()).unwrap()).unwrap(), sound.sealed());
    assert!(held.len() > 10 && files.contains_key(names::PRUNED), "{:?}", files.keys());
    let report = verify(&sound.url(), Scope::default(), &|_, _| {}).unwrap();
    assert!(report.is_clean() && report.notes.is_empty(), "{report:?}");
    let all: u64 = files.values().map(|bytes| bytes.len() as u64).sum();
    let (mut mended, mut luck) = (0, luck());
    for damage in [Damage::Bit, Damage::Zeroed, Damage::Unreadable] {
        for _ in 0..places() {
            let mut at = luck() % all;
            let (name, bytes) = files
                .iter()
                .find(|(_, bytes)| {
                    let is_here = at < bytes.len() as u64;
                    at -= if is_here { 0 } else { bytes.len() as u64 };
                    is_here
                })
                .unwrap();
            let at = usize::try_from(at).unwrap();
            let copy = Copy::of(node.backup_path());
            let faulty = FaultyDirectory::new(copy.0.path());
            match damage {
                Damage::Bit => copy.change(name, |bytes| bytes[at] ^= 1 << (at % 8)),
                Damage::Zeroed => copy.change(name, |bytes| {
                    let block = at / 4096 * 4096..bytes.len().min(at / 4096 * 4096 + 4096);
                    bytes[block].fill(0);
                }),
                Damage::Unreadable => faulty.make_unreadable(name, at as u64..at as u64 + (64 << 10)),
            }
            let directory: Arc<dyn Directory> = Arc::new(faulty);
            let source = Source::new("the damaged one".to_owned(), Arc::clone(&directory));
            let what = || format!("{damage:?} at byte {at} of {name}");
            let read = versions(Backup::open(&source).unwrap_or_else(|error| panic!("{}: {error}", what())));
            assert!(read.as_ref() == Ok(&held), "{}: {:?}", what(), read.err());
            let report = verify(&source, Scope::default(), &|_, _| {}).unwrap();
            let is_same =
                matches!(damage, Damage::Zeroed | Damage::Bit) && fs::read(copy.path(name)).unwrap() == *bytes;
            let named =
                report.findings.iter().filter(|finding| finding.file == *name && finding.wrong == Wrong::Mended);
            assert!(is_same || named.count() > 0, "{}: {report:?}", what());
            assert!(report.lost.is_empty(), "{}: {report:?}", what());

            let backup = Backup::open(&source).unwrap();
            let repaired = repair_in(&backup, None, &|_| true, &mut |_, _| ControlFlow::Continue(())).unwrap();
            assert!(repaired.unmended.is_empty(), "{}: {repaired:?}", what());
            assert!(is_same || repaired.mended.iter().any(|file| file.name == *name), "{}: {repaired:?}", what());
            assert!(copy.sealed() == files, "{}", what());
            remove_kept(&copy.url()).unwrap();
            let report = verify(&copy.url(), Scope::default(), &|_, _| {}).unwrap();
            assert!(report.is_clean() && report.notes.is_empty(), "{}: {report:?}", what());
            mended += 1;
        }
    }
    assert_eq!(mended, 3 * places());
}

fn luck() -> impl FnMut() -> u64 {
    let mut state = 88_172_645_463_325_252_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Beyond the bound nothing is mended, nothing wrong is read, and the file stays as it is, until another copy has it.
#[test]
fn what_parity_cannot_mend_is_taken_from_another_copy() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let files = sound.sealed();
    let segment = files.keys().rfind(|name| name.starts_with("segment-")).unwrap();
    let (snapshot, pruned) =
        (files.keys().find(|name| name.starts_with("snapshot-")).unwrap(), names::PRUNED.to_owned());
    for name in [segment, snapshot, &pruned] {
        let copy = Copy::of(node.backup_path());
        copy.change(name, |bytes| bytes.fill(7));
        let damaged = fs::read(copy.path(name)).unwrap();
        // Small files have as much parity as data.
        let is_small = damaged.len() <= 17 * 4096;
        let repaired = copy.repair();
        let named = repaired.unmended.iter().any(|file| file.name == *name);
        assert!(named != is_small, "{name} of {} bytes: {repaired:?}", damaged.len());
        if named {
            assert!(fs::read(copy.path(name)).unwrap() == damaged, "{name}");
            let repaired = copy.repair_from(&sound);
            assert!(repaired.unmended.is_empty(), "{repaired:?}");
        }
        assert!(copy.sealed() == files, "{name}");
    }
    // One that is gone, and a copy without parity.
    for name in [segment, snapshot] {
        for has_parity in [true, false] {
            let copy = Copy::of(node.backup_path());
            if !has_parity {
                remove_parity(copy.0.path());
            }
            fs::remove_file(copy.path(name)).unwrap();
            let repaired = copy.repair_from(&sound);
            assert!(copy.sealed() == files, "{name}: {repaired:?}");
            let copy = Copy::of(node.backup_path());
            remove_parity(copy.0.path());
            copy.change(name, |bytes| {
                let at = bytes.len() / 2;
                bytes[at] ^= 1
            });
            let repaired = copy.repair_from(&sound);
            assert!(copy.sealed() == files, "{name}: {repaired:?}");
        }
    }
}

/// Parity of another file, or a hostile one, never changes a file that is sound.
#[test]
fn parity_is_never_trusted_over_checksums_that_are_right() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let (held, files) = (versions(Backup::open(&sound.url()).unwrap()).unwrap(), sound.sealed());
    // Every set of a backup whose files were damaged when the parity was made: as if an attacker had made it.
    let hostile = Copy::of(node.backup_path());
    remove_parity(hostile.0.path());
    for name in files.keys().filter(|name| *name != names::MANIFEST) {
        hostile.change(name, |bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        });
    }
    let uuid = Backup::open(&sound.url()).unwrap().manifest().uuid;
    let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(hostile.0.path()));
    let mut sets = crate::parity::sets::ParitySets::new(directory, uuid);
    sets.set_share(crate::ParityShare::default());
    assert!(sets.complete(&|_| true, &mut || ControlFlow::Continue(())).unwrap().is_continue());
    let copy = Copy::of(node.backup_path());
    assert!(!hostile.parity().is_empty());
    for name in hostile.parity() {
        fs::copy(hostile.path(&name), copy.path(&name)).unwrap();
    }
    assert!(versions(Backup::open(&copy.url()).unwrap()).unwrap() == held);
    let repaired = copy.repair();
    assert!(repaired.mended.is_empty() && repaired.parity > 0, "{repaired:?}");
    assert!(copy.sealed() == files);
    // It is right again.
    let (name, bytes) = files.iter().rfind(|(name, _)| name.starts_with("segment-")).unwrap();
    copy.change(name, |bytes| bytes[100] ^= 1);
    assert_eq!(copy.repair().mended.len(), 1);
    assert!(fs::read(copy.path(name)).unwrap() == *bytes);
    // Damage of the parity itself costs nothing, and is named.
    for name in copy.parity() {
        for at in [0, 60, 90, 5000] {
            let copy = Copy::of(node.backup_path());
            copy.change(&name, |bytes| {
                let at = at.min(bytes.len() - 1);
                bytes[at] ^= 1;
            });
            assert!(versions(Backup::open(&copy.url()).unwrap()).unwrap() == held, "{name} {at}");
            let report = verify(&copy.url(), Scope::default(), &|_, _| {}).unwrap();
            let of_parity =
                report.findings.iter().all(|finding| finding.file == name && finding.wrong == Wrong::DamagedParity);
            assert!(of_parity && report.findings.len() == 1 && report.lost.is_empty(), "{name} {at}: {report:?}");
            assert_eq!(copy.repair().parity, 1, "{name} {at}");
            assert!(verify(&copy.url(), Scope::default(), &|_, _| {}).unwrap().is_clean(), "{name} {at}");
        }
    }
}

/// A file that was lengthened or cut is read as it was, and made whole.
#[test]
fn a_file_with_another_length_is_mended() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let (held, files) = (versions(Backup::open(&sound.url()).unwrap()).unwrap(), sound.sealed());
    for name in files.keys() {
        for change in [(|bytes: &mut Vec<u8>| bytes.push(0)) as fn(&mut Vec<u8>), |bytes| {
            bytes.truncate(bytes.len() - 1);
        }] {
            let copy = Copy::of(node.backup_path());
            copy.change(name, change);
            assert!(versions(Backup::open(&copy.url()).unwrap()).unwrap() == held, "{name}");
            let report = verify(&copy.url(), Scope::default(), &|_, _| {}).unwrap();
            let is_named =
                report.findings.iter().any(|finding| finding.file == *name && finding.wrong == Wrong::Mended);
            assert!(is_named && report.lost.is_empty(), "{name}: {report:?}");
            copy.repair();
            assert!(copy.sealed() == files, "{name}");
        }
    }
}

/// Each call of a repair fails once, and the machine stops right there: what could be read can still be read.
#[test]
fn a_repair_that_is_cut_short_anywhere_loses_nothing() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let (held, files) = (versions(Backup::open(&sound.url()).unwrap()).unwrap(), sound.sealed());
    let segment = files.keys().rfind(|name| name.starts_with("segment-")).unwrap();
    let mut done = false;
    for nth in 0.. {
        let copy = Copy::of(node.backup_path());
        for name in [segment, &names::PRUNED.to_owned(), &names::MANIFEST.to_owned()] {
            copy.change(name, |bytes| bytes[20] ^= 1);
        }
        let faulty = FaultyDirectory::new(copy.0.path());
        faulty.fail_nth(nth);
        let backup = Backup::open(Source::new("it".to_owned(), Arc::new(faulty))).unwrap();
        done = repair_in(&backup, None, &|_| true, &mut |_, _| ControlFlow::Continue(())).is_ok();
        assert!(versions(Backup::open(&copy.url()).unwrap()).unwrap() == held, "call {nth}");
        if nth % 7 == 0 || done {
            copy.repair();
            assert!(copy.sealed() == files, "call {nth}");
        }
        if done {
            break;
        }
    }
    assert!(done);
}

#[test]
fn another_backup_is_no_source() {
    let (node, other) = (sample(), Node::new(""));
    let copy = Copy::of(node.backup_path());
    let other = Source::from(&other.backup_lock.backend_url);
    let refused = repair_backup(&copy.url(), Some(&other), &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(super::RepairError::OtherBackup { .. })), "{refused:?}");
    let lock = RealDirectory::new(copy.0.path()).lock(names::LOCK).unwrap();
    let refused = repair_backup(&copy.url(), None, &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(super::RepairError::Locked { .. })), "{refused:?}");
    drop(lock);
}

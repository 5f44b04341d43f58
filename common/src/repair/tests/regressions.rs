//! What once went wrong with parity and repairs: readers that meet, files that cannot be read, and the wrong source.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use super::super::{Repaired, remove_kept, remove_kept_of_sound, repair_in, write_back_healed};
use super::{Copy, sample};
use crate::backup::Backup;
use crate::backup::source::Source;
use crate::parity::share::ParityShare;
use crate::storage::faulty::FaultyDirectory;
use crate::storage::{Access, StoredFile};
use crate::testing::remove_parity;
use crate::verify::{Scope, Wrong, verify};
use format::names;
use format::units::Seq;

/// The bytes of a sealed file, read through the directory of a backup in pieces, each healed when it is not what it was.
fn read_sealed(file: &dyn StoredFile, right: &[u8]) -> Result<(), String> {
    for (number, right) in right.chunks(10_000).enumerate() {
        let (offset, mut bytes) = (number as u64 * 10_000, vec![0; right.len()]);
        let range = offset..offset + bytes.len() as u64;
        let mut read = || file.read_at(&mut bytes, offset).map(|len| len == right.len()).is_ok_and(|is_whole| is_whole);
        if read() && bytes == right || file.heal(&range) && file.read_at(&mut bytes, offset).is_ok() && bytes == right {
            continue;
        }
        return Err(format!("byte {offset}"));
    }
    Ok(())
}

/// Regressions: a reader that had a damaged file open read nothing more of it once it was written anew; and of two readers of one
/// damaged block one got an error.
#[test]
fn a_file_that_is_open_is_mended_while_others_read_it_and_after_it_was_written_anew() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let files = sound.sealed();
    let snapshot = files.keys().find(|name| name.starts_with("snapshot-")).unwrap();
    let segment = files.keys().rfind(|name| name.starts_with("segment-")).unwrap();
    for name in [snapshot, segment] {
        let copy = Copy::of(node.backup_path());
        copy.change(name, |bytes| {
            for at in [10, bytes.len() / 2, bytes.len() - 10] {
                bytes[at] ^= 1;
            }
        });
        let backup = Backup::open(&copy.url()).unwrap();
        let file = backup.directory().open(name, Access::Read).unwrap();
        let stamp = file.stamp();
        thread::scope(|scope| {
            let readers: Vec<_> = (0..8).map(|_| scope.spawn(|| read_sealed(&*file, &files[name]))).collect();
            for reader in readers {
                assert_eq!(reader.join().unwrap(), Ok(()), "{name}");
            }
        });
        let early = Backup::open(&copy.url()).unwrap();
        let opened_early = early.directory().open(name, Access::Read).unwrap();
        assert_eq!(copy.repair().mended.len(), 1);
        assert!(copy.sealed() == files, "{name}");
        assert_eq!(read_sealed(&*opened_early, &files[name]), Ok(()), "{name}: opened before, read after");
        let again = backup.directory().open(name, Access::Read).unwrap();
        assert_eq!(again.stamp(), stamp, "{name}: to its readers it is the same file");
    }
}

/// Regressions: a table that cannot be read kept all other files from being mended, and from getting parity.
#[test]
fn parity_that_cannot_be_read_is_made_again_and_keeps_nothing_else_from_being_mended() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let files = sound.sealed();
    let copy = Copy::of(node.backup_path());
    let unreadable = copy.parity().into_iter().find(|name| name.contains("snapshot")).unwrap();
    let segment = files.keys().rfind(|name| name.starts_with("segment-")).unwrap();
    copy.change(segment, |bytes| bytes[20] ^= 1);
    let faulty = FaultyDirectory::new(copy.0.path());
    faulty.make_unreadable(&unreadable, 0..100);
    let backup = Backup::open(Source::new("it".to_owned(), Arc::new(faulty))).unwrap();
    let repaired = repair_in(&backup, None, &|_| true, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!((repaired.mended.len(), repaired.parity), (1, 1), "{repaired:?}");
    assert!(copy.sealed() == files);
    remove_kept(&copy.url()).unwrap();
    assert!(verify(&copy.url(), Scope::default(), &|_, _| {}).unwrap().is_clean());
    assert_eq!(copy.parity().len(), sound.parity().len());
}

/// Parity is never made of a file that is damaged, nor removed while it is the only means to mend one.
#[test]
fn damage_is_never_taken_for_what_a_file_should_be() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let files = sound.sealed();
    let segments: Vec<&String> = files.keys().filter(|name| name.starts_with("segment-")).collect();
    let (first, last) = (segments[0], *segments.last().unwrap());
    // All parity is lost, and one segment is damaged.
    let copy = Copy::of(node.backup_path());
    remove_parity(copy.0.path());
    copy.change(last, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    let backup = Backup::open(&copy.url()).unwrap();
    backup.set_parity_share(ParityShare::default());
    let repaired = repair_in(&backup, None, &|_| true, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert!(repaired.mended.is_empty(), "{repaired:?}");
    let protects = |name: &str| copy.parity().contains(&names::parity(name));
    assert!(protects(first) && !protects(last), "{:?}", copy.parity());
    let report = verify(&copy.url(), Scope::default(), &|_, _| {}).unwrap();
    assert!(report.findings.iter().any(|finding| finding.file == *last && matches!(finding.wrong, Wrong::Damaged(_))));
    // A set with more damage than it can mend stays, for another copy to be checked against.
    let copy = Copy::of(node.backup_path());
    copy.change(names::PRUNED, |bytes| bytes.fill(1));
    copy.change(&names::parity(names::PRUNED), |bytes| {
        let len = bytes.len();
        bytes[len - 3 * 4096..].fill(2);
    });
    assert_eq!(copy.repair().unmended.len(), 1);
    assert!(copy.parity().contains(&names::parity(names::PRUNED)));
    assert!(copy.repair_from(&sound).unmended.is_empty());
    assert!(copy.sealed() == files);
}

/// Nothing that was recorded here is hidden by a segment of a copy that went another way.
#[test]
fn a_segment_of_a_copy_that_went_on_differently_is_not_taken() {
    let node = sample();
    let ahead = Copy::of(node.backup_path());
    let segments: Vec<String> = ahead.sealed().into_keys().filter(|name| name.starts_with("segment-")).collect();
    let last = segments.last().unwrap();
    // Here the last segment is a log still, as before it was sealed: the copy has no log of that name.
    let here = Copy::of(node.backup_path());
    fs::remove_file(here.path(last)).unwrap();
    let log = names::log(names::parse_segment(last).unwrap());
    fs::write(here.path(&log), fs::read(here.path(&names::log(newest_log(&here)))).unwrap()).unwrap();
    here.repair_from(&ahead);
    assert!(!here.path(last).exists(), "what a log here has is not hidden");
}

fn newest_log(copy: &Copy) -> Seq {
    let names = fs::read_dir(copy.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| names::parse_log(&name)).max().unwrap()
}

/// A recorder mends by itself what it finds damaged, and gives up what it cannot.
#[test]
fn the_holder_of_the_lock_writes_back_what_it_finds_damaged_once() {
    let node = sample();
    let files = Copy::of(node.backup_path()).sealed();
    let segment = files.keys().rfind(|name| name.starts_with("segment-")).unwrap();
    let copy = Copy::of(node.backup_path());
    copy.change(segment, |bytes| bytes[20] ^= 1);
    let backup = Backup::open(&copy.url()).unwrap();
    let nothing = write_back_healed(&backup, &mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(nothing, Repaired::default());
    let first = names::parse_segment(segment).unwrap();
    drop(backup.segments().open(first).unwrap());
    assert!(!backup.healed().is_empty());
    let stopped = write_back_healed(&backup, &mut || ControlFlow::Break(())).unwrap();
    assert!(stopped.mended.is_empty() && fs::read(copy.path(segment)).unwrap() != files[segment], "{stopped:?}");
    let file = backup.directory().open(segment, Access::Read).unwrap();
    assert_eq!(read_sealed(&*file, &files[segment]), Ok(()));
    let repaired = write_back_healed(&backup, &mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(repaired.mended.len(), 1, "{repaired:?}");
    assert!(copy.sealed() == files && backup.healed().is_empty());
    assert!(copy.path(&names::damaged(segment)).exists());
    // The next run looks at the file, and removes the damaged one.
    assert_eq!(remove_kept_of_sound(&Backup::open(&copy.url()).unwrap()).unwrap(), 1);
    assert!(!copy.path(&names::damaged(segment)).exists());
}

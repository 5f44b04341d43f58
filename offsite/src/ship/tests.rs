//! What was shipped is read back, whatever was cut off, killed, lost or put in between.

mod catalogs;
mod restorable;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::Source;
use common::feed::Feed;

use super::{Shipper, Step, Target};
use crate::connect::{begin, expect_copy, new_key};
use crate::copy::CopyDirectory;
use crate::copy::chunks::Chunks;
use crate::copy::contents::UseOfCatalogs;
use crate::copy_error::CopyError;
use crate::description::SealKind;
use crate::keys::key_ring::KeyRing;
use crate::keys::master_key::MasterKey;
use crate::log_bytes::LogBytes;
use crate::memory_store::{Cut, MemoryStore};
use crate::objects::{File, Object};
use crate::seal::{Opening, open};
use crate::small_backup::SmallBackup;
use crate::store::{Listed, Put, Store, StoreError};

/// A copy in memory.
struct Copy {
    store: Arc<MemoryStore>,
    key: Option<MasterKey>,
}

impl Copy {
    fn of(backup: &SmallBackup, seal: SealKind) -> Self {
        let store = Arc::new(MemoryStore::default());
        let key = (seal != SealKind::None).then(|| new_key(&[]).unwrap());
        begin(&*store, backup.uuid(), seal, key.as_ref().map(|(_, file)| file)).unwrap();
        Self { store, key: key.map(|(key, _)| key) }
    }

    fn target(&self) -> Target {
        let store: Arc<dyn Store> = Arc::clone(&self.store) as _;
        let copy = expect_copy(&*store).unwrap().copy;
        Target { store, copy, key: self.key.clone() }
    }

    fn shipper(&self, backup: &SmallBackup) -> Result<Shipper, CopyError> {
        let copy = Target { store: Arc::clone(&self.store) as _, copy: uuid::Uuid::nil(), key: self.key.clone() };
        // A process that another test starts has the lock for a moment, between its fork and its exec.
        let begin = || Shipper::begin(backup.open(), copy.clone(), &backup.state_directory());
        let is_in_use = |begun: &Result<_, _>| matches!(begun, Err(CopyError::InUse));
        let mut again = (0..100).map(|_| thread::sleep(Duration::from_millis(10))).map(|()| begin());
        begin().or_else(|_| again.find(|begun| !is_in_use(begun)).unwrap_or(Err(CopyError::InUse)))
    }

    /// The copy as a backup is read.
    fn source(&self) -> Source {
        let chunks = Arc::new(Chunks::new(Arc::clone(&self.store) as _, self.keys(), None));
        Source::new("memory://store".to_owned(), Arc::new(CopyDirectory::open(chunks, UseOfCatalogs::Used).unwrap()))
    }

    fn keys(&self) -> Option<KeyRing> {
        self.key.clone().map(|key| [key].into_iter().collect())
    }

    fn opened(&self, name: &str) -> Vec<u8> {
        let keys = self.keys();
        open(keys.as_ref().map_or(Opening::None, Opening::Keys), name, &self.store.get(name, None).unwrap()).unwrap()
    }
}

fn ship_all(shipper: &mut Shipper) -> Result<(), CopyError> {
    shipper.ship_logs()?;
    while shipper.ship_file()? == Step::Stored {}
    Ok(())
}

#[test]
fn what_is_shipped_is_read_back_sealed_or_not() {
    for seal in [SealKind::Node, SealKind::None] {
        let mut backup = SmallBackup::new();
        let copy = Copy::of(&backup, seal);
        assert_eq!(copy.target().copy, expect_copy(&*copy.store).unwrap().copy);
        let mut shipper = copy.shipper(&backup).unwrap();
        for round in 0..6 {
            backup.record(20);
            if round % 2 == 1 {
                backup.seal();
            }
            ship_all(&mut shipper).unwrap();
            backup.expect_equal(&copy.source(), backup.version());
        }
        assert!(backup.segments() > 2);
        assert_eq!(ship_all(&mut shipper).map(|()| shipper.shipped()).unwrap(), u64::from(backup.version()) + 1);
    }
}

#[test]
fn a_copy_begun_later_gets_the_whole_history() {
    let mut backup = SmallBackup::new();
    backup.record(60);
    backup.seal();
    backup.record(5);
    let copy = Copy::of(&backup, SealKind::Node);
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    backup.expect_equal(&copy.source(), 65);
}

#[test]
fn a_reader_follows_what_is_shipped() {
    let mut backup = SmallBackup::new();
    let copy = Copy::of(&backup, SealKind::Node);
    let mut shipper = copy.shipper(&backup).unwrap();
    backup.record(3);
    ship_all(&mut shipper).unwrap();
    let chunks = Chunks::new(Arc::clone(&copy.store) as _, copy.keys(), None);
    let mut contents = crate::copy::contents::Contents::read(&chunks, UseOfCatalogs::Used).unwrap();
    for _ in 0..8 {
        backup.record(7);
        backup.seal();
        ship_all(&mut shipper).unwrap();
        contents.read_new(&chunks).unwrap();
        contents.read_all(&chunks).unwrap();
        let fresh = crate::copy::contents::Contents::read(&chunks, UseOfCatalogs::Used).unwrap();
        assert_eq!(contents.names(), fresh.names());
    }
}

/// Ships all, and says so.
fn ship_all_and_say(shipper: &mut Shipper) -> Result<(), CopyError> {
    ship_all(shipper)?;
    shipper.heartbeat(shipper.acknowledged()?, true)
}

/// All objects of a copy open.
fn expect_whole(copy: &Copy) {
    for name in copy.store.names("") {
        if name != crate::objects::ID && !name.starts_with(Object::KEYS) && !name.starts_with(Object::CLAIMS) {
            let _: Vec<u8> = copy.opened(&name);
        }
    }
}

/// A run that is cut off at every call, the next one goes on: nothing is missing, nothing stays damaged, and nothing is in the copy
/// twice.
#[test]
fn a_cut_at_any_call_costs_nothing_and_repeats_nothing() {
    let cuts: u64 = std::env::var("BACKUPFS_OFFSITE_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let mut backup = SmallBackup::new();
    let copy = Copy::of(&backup, SealKind::Node);
    let mut acknowledged = 0;
    for cut in 0..cuts {
        backup.record(4);
        if cut % 5 == 4 {
            backup.seal();
        }
        copy.store.set_conditional(cut % 4 < 2);
        copy.store.cut_after(cut % 23, [Cut::Before, Cut::After, Cut::Damaged][usize::try_from(cut % 3).unwrap()]);
        let shipped = copy.shipper(&backup).and_then(|mut shipper| {
            ship_all_and_say(&mut shipper)?;
            acknowledged = backup.version();
            Ok(())
        });
        assert!(shipped.is_ok() || matches!(shipped, Err(CopyError::Store(_))), "{shipped:?}");
        copy.store.heal();
        if cut % 10 == 9 {
            // An object that was left damaged is stored again when the next run begins.
            drop(copy.shipper(&backup).unwrap());
            // What was said to be shipped is there, and more may be.
            let backup_in_copy = Arc::new(common::Backup::open(copy.source()).unwrap());
            let (history, read) = backup_in_copy.read_history();
            read.unwrap();
            let newest = history.newest().map_or(0, |newest| newest.data_version.get());
            assert!(newest >= acknowledged, "{newest} of {acknowledged}");
        }
    }
    ship_all_and_say(&mut copy.shipper(&backup).unwrap()).unwrap();
    backup.expect_equal(&copy.source(), backup.version());
    expect_whole(&copy);
    let chunks = Arc::new(Chunks::new(Arc::clone(&copy.store) as _, copy.keys(), None));
    assert!(CopyDirectory::open(chunks, UseOfCatalogs::Used).unwrap().statements().unwrap().is_complete());
    // Each byte of a log once.
    let mut ends = std::collections::BTreeMap::<u64, u64>::new();
    for name in copy.store.names(Object::TAILS) {
        let piece = LogBytes::decode(&name, &copy.opened(&name)).unwrap();
        let end = ends.entry(piece.log).or_default();
        assert_eq!(*end, piece.offset, "{name}");
        *end += piece.bytes.len() as u64;
    }
}

/// Each upload of a run in turn leaves a damaged object, and so does the next run when it stores that again: the one after it has a copy
/// that is whole.
#[test]
fn an_upload_that_left_a_damaged_object_is_done_again() {
    let mut damaged = std::collections::BTreeSet::new();
    for calls in 0..40 {
        let mut backup = SmallBackup::new();
        let copy = Copy::of(&backup, SealKind::Node);
        backup.record(20);
        ship_all_and_say(&mut copy.shipper(&backup).unwrap()).unwrap();
        backup.record(30);
        backup.seal();
        backup.record(3);
        copy.store.set_conditional(calls % 2 == 0);
        copy.store.cut_after(calls, Cut::Damaged);
        let cut = copy.shipper(&backup).and_then(|mut shipper| ship_all_and_say(&mut shipper));
        copy.store.heal();
        let opens = |name: &String| {
            let sealed = copy.store.get(name, None).unwrap();
            open(Opening::Keys(copy.keys().as_ref().unwrap()), name, &sealed).is_ok()
        };
        let names: Vec<String> = copy.store.names("").into_iter().filter(|name| !name.starts_with("k/")).collect();
        let not_whole: Vec<String> = names.into_iter().filter(|name| name != "id" && !opens(name)).collect();
        assert!(not_whole.len() <= usize::from(cut.is_err()), "{not_whole:?}");
        let Some(name) = not_whole.first().filter(|name| !name.starts_with(Object::CLAIMS)) else { continue };
        damaged.insert(name[..2].to_owned());
        // The next runs find it, and are cut off at each call in turn.
        for calls in 0.. {
            copy.store.cut_after(calls, Cut::Damaged);
            let begun = copy.shipper(&backup);
            copy.store.heal();
            if begun.is_ok() {
                break;
            }
        }
        assert!(opens(name), "{name}");
        ship_all_and_say(&mut copy.shipper(&backup).unwrap()).unwrap();
        expect_whole(&copy);
        backup.expect_equal(&copy.source(), 53);
    }
    assert_eq!(damaged.into_iter().collect::<Vec<_>>(), ["c/", "h/", "s/", "t/"]);
}

#[test]
fn a_name_that_is_taken_by_a_damaged_object_is_stored_over() {
    let mut backup = SmallBackup::new();
    backup.record(30);
    backup.seal();
    let copy = Copy::of(&backup, SealKind::Node);
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    let segment = copy.store.names(File::SEGMENTS)[0].clone();
    let mut shipper = {
        let whole = copy.store.get(&segment, None).unwrap();
        copy.store.tamper(|objects| drop(objects.remove(&segment)));
        let shipper = copy.shipper(&backup).unwrap();
        // It comes late, and not whole.
        copy.store.tamper(|objects| drop(objects.insert(segment.clone(), whole[..whole.len() - 1].to_vec())));
        copy.store.set_conditional(true);
        shipper
    };
    ship_all(&mut shipper).unwrap();
    expect_whole(&copy);
    backup.expect_equal(&copy.source(), backup.version());
}

#[test]
fn a_second_writer_is_noticed() {
    let mut backup = SmallBackup::new();
    backup.record(3);
    let copy = Copy::of(&backup, SealKind::Node);
    let first = copy.shipper(&backup).unwrap();
    first.check_claim().unwrap();
    assert!(matches!(copy.shipper(&backup), Err(CopyError::InUse)), "of the same node");
    let elsewhere = tempfile::tempdir().unwrap();
    let target = Target { store: Arc::clone(&copy.store) as _, copy: uuid::Uuid::nil(), key: copy.key.clone() };
    let second = Shipper::begin(backup.open(), target, elsewhere.path()).unwrap();
    assert!(matches!(first.check_claim(), Err(CopyError::AnotherWriter { other }) if other == second.run()));
    second.check_claim().unwrap();
}

#[test]
fn a_backup_that_is_behind_its_copy_or_another_one_is_refused() {
    let mut backup = SmallBackup::new();
    backup.record(20);
    let saved = backup.save();
    backup.record(90);
    backup.seal();
    assert!(backup.segments() > 1);
    let copy = Copy::of(&backup, SealKind::Node);
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    // An older state of the backup is put back, as from a disk image.
    backup.put_back(&saved);
    let refused = copy.shipper(&backup).map(|shipper| shipper.run());
    assert!(matches!(refused, Err(CopyError::Ahead { .. })), "{refused:?}, {:?}", copy.store.names("s/"));
    // It goes on from there: another history.
    backup.record(70);
    backup.seal();
    assert!(matches!(copy.shipper(&backup), Err(CopyError::Fork { .. })));
}

/// After a power cut records that were shipped are gone, and others have their seqs.
#[test]
fn records_that_were_lost_after_they_were_shipped_are_replaced_by_what_followed() {
    let mut backup = SmallBackup::new();
    backup.record(5);
    let saved = backup.save();
    backup.record(40);
    let copy = Copy::of(&backup, SealKind::Node);
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    backup.expect_equal(&copy.source(), 45);
    backup.put_back(&saved);
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    backup.expect_equal(&copy.source(), 5);
    backup.record(2);
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    backup.expect_equal(&copy.source(), 7);
    backup.record(30);
    backup.seal();
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    backup.expect_equal(&copy.source(), 37);
}

/// Without its state a run ships the logs once more. Cut off in the middle, it hides nothing of what was there.
#[test]
fn logs_that_are_shipped_once_more_hide_nothing_that_was_shipped() {
    for calls in 1..30 {
        let mut backup = SmallBackup::new();
        let copy = Copy::of(&backup, SealKind::Node);
        for _ in 0..5 {
            backup.record(9);
            ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
        }
        std::fs::remove_dir_all(backup.state_directory()).unwrap();
        copy.store.cut_after(calls, Cut::Before);
        let _cut: Result<(), CopyError> = copy.shipper(&backup).and_then(|mut shipper| ship_all(&mut shipper));
        copy.store.heal();
        backup.expect_equal(&copy.source(), 45);
    }
}

#[test]
fn a_missing_object_among_others_costs_what_follows_and_the_goodbye() {
    let mut backup = SmallBackup::new();
    let copy = Copy::of(&backup, SealKind::Node);
    let mut shipper = copy.shipper(&backup).unwrap();
    for _ in 0..4 {
        backup.record(1);
        ship_all(&mut shipper).unwrap();
    }
    let tails = copy.store.names(Object::TAILS);
    copy.store.tamper(|objects| drop(objects.remove(&tails[1])));
    shipper.heartbeat(shipper.acknowledged().unwrap(), true).unwrap();
    let chunks = Arc::new(Chunks::new(Arc::clone(&copy.store) as _, copy.keys(), None));
    let statements = CopyDirectory::open(chunks, UseOfCatalogs::Used).unwrap().statements().unwrap();
    assert!(!statements.is_complete() && statements.missing() == 3, "{statements:?}");
    backup.expect_equal(&copy.source(), 1);
}

#[test]
fn a_goodbye_beside_words_that_cannot_be_read_does_not_count() {
    let mut backup = SmallBackup::new();
    let copy = Copy::of(&backup, SealKind::Node);
    for _ in 0..2 {
        backup.record(3);
        ship_all_and_say(&mut copy.shipper(&backup).unwrap()).unwrap();
    }
    let statements = || {
        let chunks = Arc::new(Chunks::new(Arc::clone(&copy.store) as _, copy.keys(), None));
        CopyDirectory::open(chunks, UseOfCatalogs::Used).unwrap().statements().unwrap()
    };
    assert!(statements().is_complete());
    let beats = copy.store.names(Object::HEARTBEATS);
    assert_eq!(beats.len(), 2);
    for beat in &beats {
        copy.store.tamper(|objects| objects.get_mut(beat).unwrap()[70] ^= 1);
        assert!(!statements().is_complete(), "{beat}");
    }
    backup.expect_equal(&copy.source(), 6);
}

/// The first seqs of the segments in a copy.
fn segments(copy: &Copy) -> Vec<u64> {
    let first = |name: String| match Object::parse(&name) {
        Some(Object::Part(File::Segment { first, .. }, _)) => first,
        other => panic!("{name}: {other:?}"),
    };
    copy.store.names(File::SEGMENTS).into_iter().map(first).collect()
}

#[test]
fn a_copy_begun_later_gets_first_what_the_newest_version_needs() {
    let mut backup = SmallBackup::new();
    backup.record(60);
    backup.record_after_a_gap();
    backup.record(60);
    backup.seal();
    let newest = backup.version();
    let needed = Feed::begin(backup.open()).unwrap().newest_needs_from().unwrap().get();
    let copy = Copy::of(&backup, SealKind::Node);
    let mut shipper = copy.shipper(&backup).unwrap();
    shipper.ship_logs().unwrap();
    let mut order = Vec::new();
    while shipper.ship_file().unwrap() == Step::Stored {
        let new: Vec<u64> = segments(&copy).into_iter().filter(|first| !order.contains(first)).collect();
        let begins_with_older = new.iter().any(|&first| first < needed) && order.iter().all(|&first| first >= needed);
        order.extend(new);
        if begins_with_older {
            // The newest version opens although most of the older history is missing, and the copy says so.
            backup.expect_equal_from(&copy.source(), newest, newest);
            let chunks = Arc::new(Chunks::new(Arc::clone(&copy.store) as _, copy.keys(), None));
            let statements = CopyDirectory::open(chunks, UseOfCatalogs::Used).unwrap().statements().unwrap();
            assert!(statements.missing_through > 0 && statements.holds > u64::from(newest), "{statements:?}");
        }
    }
    let (later, older): (Vec<u64>, Vec<u64>) = order.iter().partition(|&&first| first >= needed);
    assert_eq!(order, [later.clone(), older.clone()].concat());
    assert!(later.is_sorted() && later.len() > 3, "{order:?}");
    assert!(older.iter().rev().is_sorted() && older.len() > 3, "{order:?}");
    let chunks = Arc::new(Chunks::new(Arc::clone(&copy.store) as _, copy.keys(), None));
    assert_eq!(CopyDirectory::open(chunks, UseOfCatalogs::Used).unwrap().statements().unwrap().missing_through, 0);
}

#[test]
fn a_log_that_was_sealed_before_all_of_it_was_shipped_leaves_no_hole() {
    let mut backup = SmallBackup::new();
    let copy = Copy::of(&backup, SealKind::Node);
    let mut shipper = copy.shipper(&backup).unwrap();
    for _ in 0..10 {
        backup.record(4);
        shipper.ship_logs().unwrap();
    }
    backup.seal();
    backup.record(40);
    backup.seal();
    backup.record(3);
    // Files have their turn later: what is shipped of the logs must be of use by itself.
    shipper.ship_logs().unwrap();
    backup.expect_equal(&copy.source(), 83);
}

/// A store during whose uploads the node goes on: 30 changes each, which are three logs.
struct DuringUploads {
    store: Arc<MemoryStore>,
    node: Mutex<SmallBackup>,
    uploads: AtomicU32,
}

impl fmt::Debug for DuringUploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Store for DuringUploads {
    fn url(&self) -> String {
        self.store.url()
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.store.list(prefix)
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.store.get(name, range)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        assert!(self.uploads.fetch_add(1, Ordering::Relaxed) < 100, "it goes on for ever");
        self.node.lock().unwrap().record(30);
        self.store.put_new(name, bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.replace(name, bytes)
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.store.remove(name)
    }
}

#[test]
fn a_node_that_is_never_silent_does_not_keep_one_call_going() {
    let mut backup = SmallBackup::new();
    let copy = Copy::of(&backup, SealKind::Node);
    backup.record(30);
    let (opened, state) = (backup.open(), backup.state_directory());
    let store = Arc::new(DuringUploads {
        store: Arc::clone(&copy.store),
        node: Mutex::new(backup),
        uploads: AtomicU32::new(0),
    });
    let target = Target { store: Arc::clone(&store) as _, copy: uuid::Uuid::nil(), key: copy.key.clone() };
    let mut shipper = Shipper::begin(opened, target, &state).unwrap();
    let (before, logs) = {
        let node = store.node.lock().unwrap();
        (u64::from(node.version()), node.logs())
    };
    store.uploads.store(0, Ordering::Relaxed);
    shipper.ship_logs().unwrap();
    assert!(shipper.shipped() > before, "what was there before the call is shipped: {}", shipper.shipped());
    // One more says where the copy ends, for what an earlier run has shipped behind that.
    assert_eq!(usize::try_from(store.uploads.load(Ordering::Relaxed)).unwrap(), logs + 1);
}

//! Catalogs: they save requests, and whatever they say, the copy reads the same.

use common::Backup;

use super::*;
use crate::catalog::SEGMENTS;
use crate::copy::CatalogDepth;
use crate::seal::layout::Padding;
use crate::seal::{Sealing, seal};

/// A copy of some versions in this many segments or more, and the names of its catalogs.
fn catalogued(segments: usize) -> (SmallBackup, Copy, Vec<String>) {
    let mut backup = SmallBackup::new();
    while backup.segments() < segments {
        backup.record(20);
        backup.seal();
    }
    backup.record(3);
    let copy = Copy::of(&backup, SealKind::Node);
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    let names = copy.store.list(Object::CATALOGS).unwrap().into_iter().map(|listed| listed.name).collect();
    (backup, copy, names)
}

impl Copy {
    fn directory(&self, catalogs: UseOfCatalogs) -> Arc<CopyDirectory> {
        let chunks = Arc::new(Chunks::new(Arc::clone(&self.store) as _, self.keys(), None));
        Arc::new(CopyDirectory::open(chunks, catalogs).unwrap())
    }

    fn wrong_catalogs(&self, depth: CatalogDepth) -> Vec<String> {
        let wrong = self.directory(UseOfCatalogs::Ignored).wrong_catalogs(depth).unwrap();
        wrong.iter().map(ToString::to_string).collect()
    }

    /// Puts other bytes in the place of an object, sealed like the object.
    fn reseal(&self, name: &str, plain: &[u8]) {
        let sealing = self.key.as_ref().map_or(Sealing::None, Sealing::Key);
        self.store.replace(name, &seal(sealing, name, plain, Padding::None).unwrap()).unwrap();
    }
}

/// Requests that it takes to find all versions.
fn requests(backup: &SmallBackup, copy: &Copy, catalogs: UseOfCatalogs) -> u64 {
    let before = copy.store.calls();
    let source = Source::new("memory://store".to_owned(), copy.directory(catalogs) as _);
    let opened = Arc::new(Backup::open(&source).unwrap());
    let (history, read) = opened.read_history();
    read.unwrap();
    let mut versions = 0;
    history
        .for_versions_after(None, &mut |_| {
            versions += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(versions, backup.version());
    copy.store.calls() - before
}

#[test]
fn they_save_requests_and_are_made_once() {
    let (mut backup, copy, names) = catalogued(4 * SEGMENTS + 1);
    assert_eq!(names.len(), backup.segments() / SEGMENTS);
    backup.expect_equal(&copy.source(), backup.version());
    assert!(copy.wrong_catalogs(CatalogDepth::All).is_empty());
    let (with, without) =
        (requests(&backup, &copy, UseOfCatalogs::Used), requests(&backup, &copy, UseOfCatalogs::Ignored));
    assert!(with * 3 < without * 2, "{with} requests, and {without} without catalogs");
    // Another run makes those of further segments.
    let shipped = backup.segments();
    while backup.segments() < shipped + SEGMENTS {
        backup.record(20);
        backup.seal();
    }
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    let now = copy.store.list(Object::CATALOGS).unwrap();
    assert_eq!(now.len(), backup.segments() / SEGMENTS);
    assert!(names.iter().zip(&now).all(|(before, now)| *before == now.name));
    backup.expect_equal(&copy.source(), backup.version());
}

#[test]
fn a_reader_takes_up_those_that_come_later() {
    let (mut backup, copy, names) = catalogued(SEGMENTS);
    let directory = copy.directory(UseOfCatalogs::Used);
    let source = Source::new("memory://store".to_owned(), Arc::clone(&directory) as _);
    backup.expect_equal(&source, backup.version());
    while backup.segments() < 2 * SEGMENTS {
        backup.record(20);
        backup.seal();
    }
    ship_all(&mut copy.shipper(&backup).unwrap()).unwrap();
    directory.look_now().unwrap();
    backup.expect_equal(&source, backup.version());
    assert!(copy.store.list(Object::CATALOGS).unwrap().len() > names.len());
}

#[test]
fn whatever_one_says_the_copy_reads_the_same_and_a_check_names_it() {
    let (backup, copy, names) = catalogued(3 * SEGMENTS);
    let sound = copy.opened(&names[1]);
    let others = copy.opened(&names[0]);
    let head = 4 + SEGMENTS * 300;
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        bytes
    };
    let wrong: [(&str, Vec<u8>, CatalogDepth); 8] = [
        ("nothing", Vec::new(), CatalogDepth::Ends),
        ("no catalog", vec![7; 5000], CatalogDepth::Ends),
        ("too short", sound[..sound.len() - 1].to_vec(), CatalogDepth::Ends),
        ("another count", with(&|bytes| bytes[2] += 1), CatalogDepth::Ends),
        ("another length", with(&|bytes| bytes[4] ^= 1), CatalogDepth::Ends),
        ("a flipped bit in a footer", with(&|bytes| bytes[4 + 8 + 64 + 20] ^= 1), CatalogDepth::Ends),
        ("another index", with(&|bytes| bytes[head + 9] ^= 1), CatalogDepth::All),
        // Consistent, and of other segments than its name says.
        ("other segments", others, CatalogDepth::All),
    ];
    for (what, bytes, depth) in wrong {
        copy.reseal(&names[1], &bytes);
        backup.expect_equal(&copy.source(), backup.version());
        let found = copy.wrong_catalogs(depth);
        // What it says of other segments is right.
        assert_eq!(found.len(), usize::from(what != "other segments"), "{what}: {found:?}");
    }
    // One that does not open at all.
    copy.store.tamper(|objects| {
        let object = objects.get_mut(&names[1]).unwrap();
        let last = object.len() - 1;
        object[last] ^= 1;
        object[70] ^= 1;
    });
    backup.expect_equal(&copy.source(), backup.version());
    assert_eq!(copy.wrong_catalogs(CatalogDepth::Ends).len(), 1);
}

#[test]
fn of_segments_that_cannot_be_read_there_is_none_and_shipping_goes_on() {
    let (mut backup, copy, names) = catalogued(SEGMENTS);
    while backup.segments() < 2 * SEGMENTS {
        backup.record(20);
        backup.seal();
    }
    // In the record index of a segment of the next catalog, once it is in the copy.
    let mut shipper = copy.shipper(&backup).unwrap();
    shipper.ship_logs().unwrap();
    while copy.store.list(File::SEGMENTS).unwrap().len() < backup.segments() {
        assert_eq!(shipper.ship_file().unwrap(), Step::Stored);
    }
    let mut segments: Vec<_> = std::fs::read_dir(backup.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("segment-"))
        .collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[SEGMENTS + 1]).unwrap();
    let at = bytes.len() - 164 - 3;
    bytes[at] ^= 1;
    std::fs::write(&segments[SEGMENTS + 1], bytes).unwrap();
    let calls = copy.store.calls();
    for _ in 0..5 {
        assert_eq!(shipper.ship_file().unwrap(), Step::Nothing);
    }
    assert_eq!(copy.store.calls(), calls, "it was tried again");
    assert_eq!(copy.store.list(Object::CATALOGS).unwrap().len(), names.len());
    backup.record(1);
    shipper.ship_logs().unwrap();
}

#[test]
fn a_damaged_segment_is_no_fault_of_its_catalog() {
    let (_, copy, _) = catalogued(2 * SEGMENTS);
    let segment = copy.store.names(File::SEGMENTS)[1].clone();
    copy.store.tamper(|objects| {
        let object = objects.get_mut(&segment).unwrap();
        let last = object.len() - 1;
        object[last] ^= 1;
        object[70] ^= 1;
    });
    for depth in [CatalogDepth::Ends, CatalogDepth::All] {
        assert!(copy.wrong_catalogs(depth).is_empty(), "{depth:?}");
    }
}

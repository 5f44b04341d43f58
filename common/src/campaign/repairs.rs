//! Power fails at every call of a repair: what was readable stays so, and the next repair finishes.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::disk::{Disk, Node as Entry, Tree};
use super::home::BACKUP;
use super::images::{Tearing, Watch};
use super::model::{Existence, Promise};
use super::random::Random;
use crate::backup::Backup;
use crate::backup::source::Source;
use crate::config::log_limits::LogLimits;
use crate::repair::write_back_healed;
use crate::seal::seal_backup;
use crate::storage::Healed;
use crate::testing::{Fate, Node};
use crate::verify::{Depth, Scope, verify};
use format::names;
use format::parity::Protected;

const LIMITS: LogLimits = LogLimits { bytes: 1 << 15, statements: 150 };

type Files = BTreeMap<String, Vec<u8>>;

fn sample() -> Files {
    let mut node = Node::new("");
    let mut recording = node.record_within(LIMITS);
    for change in 0..120 {
        node.write(&mut recording, &format!("{change:0100}"), Fate::Committed).unwrap();
    }
    drop(recording);
    seal_backup(&node.backup_lock.backend_url, &mut |_| ControlFlow::Continue(())).unwrap();
    let names =
        fs::read_dir(node.backup_path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| (name.clone(), fs::read(node.backup_path().join(name)).unwrap())).collect()
}

fn tree_of(files: &Files) -> Tree {
    let root = [(BACKUP.to_owned(), Entry::Directory(1))].into();
    let backup = files.keys().enumerate().map(|(number, name)| (name.clone(), Entry::File(number))).collect();
    let files = files.values().map(|bytes| Arc::new(bytes.clone())).collect();
    Tree { directories: vec![root, backup], files }
}

fn source_of(disk: &Disk) -> Source {
    Source::new("it".to_owned(), disk.directory(BACKUP).unwrap())
}

/// Repairs what a scrub has found: `name`, or the set with the parity file of that name.
fn repair(disk: &Disk, name: &str) {
    let backup = Backup::open(source_of(disk)).unwrap();
    let name = names::parse_parity(name).unwrap_or(name).to_owned();
    backup.directory().note_healed(Healed { name, offset: 0 });
    write_back_healed(&backup, &mut || ControlFlow::Continue(())).unwrap();
}

/// The files of a disk that are neither logs nor damaged ones that were kept.
fn sealed_of(disk: &Disk) -> Files {
    let files =
        disk.tree().paths().into_iter().map(|(path, bytes)| (path.rsplit('/').next().unwrap().to_owned(), bytes));
    let wanted = files.filter(|(name, _)| Protected::parse(name).is_some() || names::parse_parity(name).is_some());
    wanted.map(|(name, bytes)| (name, bytes.to_vec())).collect()
}

#[test]
fn a_power_cut_at_any_call_of_a_repair_loses_nothing() {
    let sound = sample();
    let sealed = sealed_of(&Disk::of(tree_of(&sound), Vec::new()));
    let (mut images, mut random) = (0, Random(18));
    for name in sealed.keys() {
        let mut damaged = sound.clone();
        let bytes = damaged.get_mut(name).unwrap();
        let at = bytes.len() - 7;
        bytes[at] ^= 0x20;
        let tree = tree_of(&damaged);
        let disk = Disk::of(tree.clone(), Vec::new());
        disk.promise(Promise { backup: Vec::new(), whole: Vec::new(), existence: Existence::Certain });
        repair(&disk, name);
        assert!(sealed_of(&disk) == sealed, "{name}");
        let mut watch = Watch::new(&tree);
        for call in disk.journal() {
            watch.see(&call);
            watch.for_images(Tearing::WHOLE, &mut random, &mut |image| {
                images += 1;
                let disk = Disk::of(image.tree, Vec::new());
                let scope = Scope { depth: Depth::Quick, ..Scope::default() };
                let report = verify(source_of(&disk), scope, &|_, _| {}).unwrap();
                assert!(report.lost.is_empty() && report.in_doubt.is_empty(), "{name}, {}: {report:?}", image.cut);
                repair(&disk, name);
                assert!(sealed_of(&disk) == sealed, "{name}, {}", image.cut);
            });
        }
    }
    assert!(images > 10 * sealed.len(), "{images}");
}

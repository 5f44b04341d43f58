//! A mount follows the recorder that writes behind it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::Commit;
use tests::compare;
use tests::mounted::{Mounted, fuse_is_here, soon};
use tests::small_node::{NODE_ID, SmallNode, creation};

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

#[test]
fn a_mount_of_an_empty_backup_shows_every_version_within_a_second() {
    if !fuse_is_here() {
        return;
    }
    let mut node = SmallNode::before_its_first_write();
    let mounted = Mounted::start(&node.home.backup());
    assert_eq!(names(&mounted.join("versions")), Vec::<String>::new());
    // Asking for what is not there yet must not make it absent for long.
    assert!(!mounted.join("versions/1").exists());

    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).unwrap();
    assert!(first.is_continue(), "{first:?}");
    for _ in 0..20 {
        let version = node.data_version();
        soon("the version is in ls", || names(&mounted.join("versions")).contains(&version.to_string()));
        mounted.expect_newest_soon(version);
        compare::same_contents(&node.home.database(), &mounted.join("latest/lightningd.sqlite3"), &[]).unwrap();
        assert!(!mounted.database(version.next()).exists());
        node.commit();
    }
    let listed = names(&mounted.join("versions"));
    let expected: Vec<String> = (1..=20).map(|version: u32| version.to_string()).collect();
    assert_eq!(listed[..20], expected, "numeric order");
}

#[test]
fn a_rewound_version_that_is_recorded_again_is_a_new_file() {
    if !fuse_is_here() {
        return;
    }
    let mut node = SmallNode::created();
    node.commit();
    let mounted = Mounted::start(&node.home.backup());
    let committed = node.data_version();
    assert!(node.write(Commit::CrashBeforeCommit).is_continue());
    let repeated = committed.next();
    let path = mounted.database(repeated);
    soon("the change that is not committed is listed", || path.exists());
    let mut before = File::open(&path).unwrap();
    let inode_before = before.metadata().unwrap().ino();
    let mut content_before = Vec::new();
    before.read_to_end(&mut content_before).unwrap();

    node.start();
    assert_eq!(node.commit(), repeated);
    soon("the version has a new inode", || path.metadata().is_ok_and(|now| now.ino() != inode_before));
    mounted.expect_newest_soon(repeated);
    compare::same_contents(&node.home.database(), &path, &[]).unwrap();
    assert_ne!(fs::read(&path).unwrap(), content_before);

    // Whoever has the old file open goes on reading the old file.
    let mut again = vec![0; content_before.len()];
    before.read_exact_at(&mut again, 0).unwrap();
    assert_eq!(again, content_before);
}

#[test]
fn the_node_never_waits_for_readers_of_the_mount() {
    if !fuse_is_here() {
        return;
    }
    let mut node = SmallNode::created();
    let mounted = Mounted::start(&node.home.backup());
    for _ in 0..50 {
        node.commit();
        let newest = mounted.join("latest/lightningd.sqlite3");
        soon("the newest version is readable", || compare::sound(&newest).is_ok());
    }
    node.stop();
    compare::same_contents(&node.home.database(), &mounted.database(51), &[]).unwrap();
}

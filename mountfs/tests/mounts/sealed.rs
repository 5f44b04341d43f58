//! The tree over a backup that is partly sealed, and over one that is damaged there.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::Node;
use crate::fixture::walk::{attr, find, listing, names, read, rows};
use common::with_causes;
use mountfs::fuse::errno::errno;
use mountfs::mount::follow::Following;
use mountfs::tree::attr::Lasts;
use mountfs::tree::fs::{Cost, Fs};
use mountfs::tree::fs_error::FsError;
use mountfs::tree::shown::Shown;

/// Longest wait for something that must happen.
const TIMEOUT: Duration = Duration::from_secs(30);

const VERSIONS: u32 = 14;

/// A node whose backup has several finished logs and one that is not.
fn node() -> Node {
    let mut node = Node::with_versions(1);
    for version in 2..=VERSIONS {
        node.long_change(version);
    }
    node
}

fn database_cost(fs: &Fs, version: u32) -> Cost {
    let directory = attr(fs, &format!("versions/{version}")).inode;
    fs.lookup_cost(directory, OsStr::new("lightningd.sqlite3"))
}

fn file_name_of(fs: &Fs, version: u32) -> String {
    let info: serde_json::Value = serde_json::from_slice(&read(fs, &format!("versions/{version}/info.json"))).unwrap();
    info["segment"].as_str().unwrap().to_owned()
}

fn numbers(versions: impl IntoIterator<Item = u32>) -> Vec<String> {
    versions.into_iter().map(|version| version.to_string()).collect()
}

/// The versions that a segment or log holds, by the name of its file.
fn versions_in(fs: &Fs, file: &Path) -> Vec<u32> {
    let file = file.file_name().unwrap().to_str().unwrap();
    (1..=VERSIONS).filter(|&version| file_name_of(fs, version) == file).collect()
}

#[test]
fn sealing_changes_nothing_that_is_visible() {
    let node = node();
    let (fs, mut follower) = node.tree();
    let all = |fs: &Fs| -> Vec<_> {
        let of = |version: u32| {
            let path = |name: &str| format!("versions/{version}/{name}");
            let (database, changes) = (path("lightningd.sqlite3"), path("changes.sql"));
            let links = listing(fs, "by-time/2026/11/22/00h", 5).0;
            (attr(fs, &database), read(fs, &database), attr(fs, &changes), read(fs, &changes), links)
        };
        (1..=VERSIONS).map(of).collect()
    };
    let before = all(&fs);
    assert!(file_name_of(&fs, 1).starts_with("log-"));

    node.seal();
    assert!(node.segments().len() >= 2, "{:?}", node.segments());
    follower.poll(fs.history_lock()).unwrap();
    assert!(all(&fs) == before, "a mount sees that logs were sealed");
    let (anew, _) = node.tree();
    assert!(all(&anew) == before, "a new mount sees something else");
    assert_eq!(names(&anew, attr(&anew, "versions").inode), numbers(1..=VERSIONS));
    for version in 1..=VERSIONS {
        assert_eq!(file_name_of(&fs, version), file_name_of(&anew, version));
    }
    assert!(file_name_of(&fs, 1).starts_with("segment-"));
}

#[test]
fn the_size_of_a_sealed_version_needs_no_view() {
    let node = node();
    node.seal();
    let (fs, _) = node.tree();
    let in_log = versions_in(&node.tree().0, &node.segments()[0]).len();
    assert!(in_log > 1);
    assert_eq!((database_cost(&fs, 1), database_cost(&fs, VERSIONS)), (Cost::Small, Cost::View));
    let info = find(&fs, "versions/1/info.json").unwrap().attr;
    assert_eq!(info.lasts, Lasts::Forever, "its segment stays where it is");
    assert_eq!(find(&fs, &format!("versions/{VERSIONS}/info.json")).unwrap().attr.lasts, Lasts::Moment);
    // It was built for its `info.json`.
    assert_eq!(database_cost(&fs, VERSIONS), Cost::Small);
}

#[test]
fn versions_in_a_damaged_segment_answer_eio_and_all_others_work() {
    let node = node();
    node.seal();
    node.remove_parity();
    let (intact, _) = node.tree();
    let segments = node.segments();
    for damaged in &segments {
        let spoilt = versions_in(&intact, damaged);
        let (seen, _) = node.tree();
        let good = fs::read(damaged).unwrap();
        let mut bad = good.clone();
        // Part of the footer: what the segment holds is not known at all.
        let byte = bad.len() - 20;
        bad[byte] ^= 1;
        fs::write(damaged, &bad).unwrap();
        let (fs, _) = node.tree();

        let readable: Vec<u32> = (1..=VERSIONS).filter(|version| !spoilt.contains(version)).collect();
        for &version in &spoilt {
            let error = find(&fs, &format!("versions/{version}")).unwrap_err();
            assert!(matches!(error, FsError::History(_)), "{version}: {error}");
            assert_eq!(errno(&error).code(), libc::EIO);
            let text = with_causes(&error);
            let file = damaged.file_name().unwrap().to_str().unwrap();
            assert!(text.contains(file) && text.contains("at byte"), "{text}");
        }
        assert!(matches!(find(&fs, "versions/99"), Err(FsError::NoEntry)), "it is newer than all segments");
        for &version in readable.iter().filter(|&&version| version < spoilt[0]) {
            let database = read(&fs, &format!("versions/{version}/lightningd.sqlite3"));
            assert_eq!(rows(&database), (1..=version).collect::<Vec<_>>());
        }
        let links = |versions: &[u32]| -> Vec<String> {
            versions.iter().map(|version| format!("{version:02}m00.000001s-v{version}")).collect()
        };
        for room in [1, 3, 100] {
            let (names, end) = listing(&fs, "versions", room);
            assert_eq!(names, numbers(readable.clone()), "{room} names at once");
            assert!(matches!(end, Err(FsError::History(_))), "{end:?}");
            let (names, end) = listing(&fs, "by-time/2026/11/22/00h", room);
            assert_eq!(names, links(&readable), "{room} names at once");
            assert!(matches!(end, Err(FsError::History(_))), "{end:?}");
        }

        std::fs::write(damaged, &good).unwrap();
        for fs in [&fs, &seen] {
            let (names, end) = listing(fs, "versions", 3);
            assert_eq!(names, numbers(1..=VERSIONS), "it was repaired");
            end.unwrap();
        }
    }
}

/// Sealing is what the recorder does while the mount looks on.
#[test]
fn a_tree_that_follows_shows_every_version_while_logs_are_sealed() {
    let mut node = Node::with_versions(1);
    let (fs, mut follower) = node.tree();
    for version in 2..=VERSIONS {
        node.long_change(version);
        if version % 3 == 0 {
            node.seal();
        }
        follower.poll(fs.history_lock()).unwrap();
        assert_eq!(listing(&fs, "versions", 2).0, numbers(1..=version));
        assert_eq!(rows(&read(&fs, "versions/1/lightningd.sqlite3")), [1]);
        let newest = read(&fs, &format!("versions/{version}/lightningd.sqlite3"));
        assert_eq!(rows(&newest), (1..=version).collect::<Vec<_>>());
    }
    assert!(!node.segments().is_empty());
}

#[test]
fn the_newest_version_is_opened_before_the_first_request() {
    let mut node = Node::with_versions(3);
    let (fs, follower) = node.tree();
    let fs = Arc::new(fs);
    let url: common::BackupUrl = node.backup_path().to_str().unwrap().parse().unwrap();
    let _following = Following::start(&(&url).into(), follower, Arc::new(Shown::new(Arc::clone(&fs)))).unwrap();
    let ready = |version: u32| {
        let started = Instant::now();
        // Only an open view tells the size of a version that is not sealed.
        while find(&fs, &format!("versions/{version}")).is_err() || database_cost(&fs, version) == Cost::View {
            assert!(started.elapsed() < TIMEOUT, "version {version} is not opened");
            thread::sleep(Duration::from_millis(5));
        }
    };
    ready(3);
    for version in 4..8 {
        node.change(version);
        ready(version);
    }
    assert_eq!(database_cost(&fs, 2), Cost::View, "it was not requested");
}

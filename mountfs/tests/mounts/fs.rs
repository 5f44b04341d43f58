//! The tree without FUSE: the same calls that the kernel makes, against real backups.

use std::ops::ControlFlow;

use crate::fixture::Node;
use crate::fixture::walk::{ROOT, attr, find, is_absent, names, names_from, read, read_all, rows};
use common::DataVersion;
use common::with_causes;
use mountfs::fuse::errno::errno;
use mountfs::tree::attr::Lasts;
use mountfs::tree::fs::Cost;
use mountfs::tree::fs_error::FsError;
use mountfs::tree::node::Kind;

#[test]
fn an_empty_backup_has_everything_but_versions() {
    let node = Node::new();
    let (fs, _) = node.tree();
    assert_eq!(names(&fs, ROOT), ["README", "versions", "by-time"]);
    assert!(is_absent(&fs, "latest"));
    assert!(names(&fs, attr(&fs, "versions").inode).is_empty());
    assert!(names(&fs, attr(&fs, "by-time").inode).is_empty());
    assert_eq!(read(&fs, "README"), b"read me\n");
}

#[test]
fn the_tree_shows_what_was_recorded_and_follows() {
    let mut node = Node::with_versions(11);
    let (fs, mut follower) = node.tree();
    assert_eq!(names(&fs, ROOT), ["README", "latest", "versions", "by-time"]);
    let versions = attr(&fs, "versions");
    let expected: Vec<String> = (1..=11).map(|version: u32| version.to_string()).collect();
    assert_eq!(names(&fs, versions.inode), expected);
    assert_eq!(versions.links, 1, "directories that may be huge are not counted");
    let latest = find(&fs, "latest").unwrap();
    assert_eq!((latest.attr.kind, latest.name_lasts), (Kind::Link, Lasts::Moment));
    assert_eq!(fs.readlink(latest.attr.inode).unwrap(), "versions/11");

    node.change(12);
    assert!(is_absent(&fs, "versions/12"));
    follower.poll(fs.history_lock()).unwrap();
    assert_eq!(fs.readlink(latest.attr.inode).unwrap(), "versions/12");
    assert_eq!(rows(&read(&fs, "versions/12/lightningd.sqlite3")), (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_version_is_three_files_that_stat_as_they_read() {
    let node = Node::with_versions(5);
    let (fs, _) = node.tree();
    let directory = attr(&fs, "versions/3");
    assert_eq!((directory.kind, directory.permissions, directory.links), (Kind::Directory, 0o500, 2));
    assert_eq!(names(&fs, directory.inode), ["lightningd.sqlite3", "changes.sql", "info.json"]);
    let database = read(&fs, "versions/3/lightningd.sqlite3");
    assert_eq!(rows(&database), [1, 2, 3]);
    let changes = String::from_utf8(read(&fs, "versions/3/changes.sql")).unwrap();
    assert!(changes.starts_with("INSERT INTO rows VALUES (3, '2026-11-22T00:03:00.000001Z');\nUPDATE vars "));
    assert!(changes.ends_with(";\n"));
    let info: serde_json::Value = serde_json::from_slice(&read(&fs, "versions/3/info.json")).unwrap();
    assert_eq!(info["data_version"], 3);
    assert_eq!(info["recorded_at"], "2026-11-22T00:03:00.000001Z");
    assert_eq!(info["origin"], "change");
    assert_eq!(info["size_bytes"], database.len());
    assert_eq!(info["pages"].as_u64().unwrap() * info["page_size"].as_u64().unwrap(), database.len() as u64);
    assert_eq!(info["statements"], 2);
    assert!(info["segment"].as_str().unwrap().starts_with("log-"));
    for name in ["lightningd.sqlite3", "changes.sql", "info.json"] {
        let entry = find(&fs, &format!("versions/3/{name}")).unwrap();
        assert_eq!((entry.attr.permissions, entry.attr.links), (0o400, 1));
        // It names the log, which will be sealed.
        let lasts = if name == "info.json" { Lasts::Moment } else { Lasts::Forever };
        assert_eq!((entry.attr.lasts, entry.name_lasts), (lasts, Lasts::Forever));
        assert_eq!(entry.attr.time.to_string(), "2026-11-22T00:03:00.000001Z");
    }
}

#[test]
fn only_the_name_itself_names_a_version() {
    let node = Node::with_versions(7);
    let (fs, _) = node.tree();
    for absent in [
        "versions/007",
        "versions/+7",
        "versions/8",
        "versions/0",
        "versions/ 7",
        "versions/4294967303",
        "versions/7/lightningd.sqlite3-journal",
        "versions/7/7",
        "nothing",
        "by-time/2025",
        "by-time/2026/11/22/0h",
        "by-time/2026/11/22/01h",
        "by-time/2026/11/22/00h/07m00.000001s-v6",
        "by-time/2026/11/22/00h/7m00.000001s-v7",
    ] {
        assert!(is_absent(&fs, absent), "{absent}");
    }
    assert!(matches!(find(&fs, "README/x"), Err(FsError::NotADirectory)));
    let link = attr(&fs, "by-time/2026/11/22/00h/07m00.000001s-v7");
    assert_eq!(fs.readlink(link.inode).unwrap(), "../../../../../versions/7");
}

#[test]
fn a_rewound_version_is_another_file_when_it_comes_again() {
    let mut node = Node::with_versions(4);
    let (fs, mut follower) = node.tree();
    let before = find(&fs, "versions/4").unwrap();
    assert_eq!(before.name_lasts, Lasts::Moment, "the newest version may be rewound");
    let old = attr(&fs, "versions/4/lightningd.sqlite3").inode;
    let (handle, _) = fs.open(old).unwrap();
    let old_bytes = read_all(&fs, handle);

    node.write(4, &["INSERT INTO rows VALUES (44, '')".to_owned()], "2026-11-22T00:10:00Z");
    follower.poll(fs.history_lock()).unwrap();
    let new = attr(&fs, "versions/4/lightningd.sqlite3").inode;
    assert_ne!(new, old);
    assert!(matches!(fs.getattr(old), Err(FsError::NoEntry)));
    assert_eq!(rows(&read(&fs, "versions/4/lightningd.sqlite3")), [1, 2, 3, 44]);
    assert_eq!(read_all(&fs, handle), old_bytes, "an open file stays what it is");
    assert_eq!(names(&fs, attr(&fs, "by-time/2026/11/22/00h").inode).len(), 4);
    assert!(is_absent(&fs, "by-time/2026/11/22/00h/04m00.000001s-v4"));

    node.change(5);
    node.change(6);
    follower.poll(fs.history_lock()).unwrap();
    assert_eq!(find(&fs, "versions/4").unwrap().name_lasts, Lasts::Forever);
}

#[test]
fn a_rider_belongs_to_its_version_and_makes_it_another_file() {
    let mut node = Node::with_versions(2);
    let (fs, mut follower) = node.tree();
    let before = attr(&fs, "versions/2").inode;
    node.record(2, &["PRAGMA foreign_keys = OFF;".to_owned()], "2026-11-22T00:02:01Z");
    follower.poll(fs.history_lock()).unwrap();
    assert_ne!(attr(&fs, "versions/2").inode, before);
    let changes = String::from_utf8(read(&fs, "versions/2/changes.sql")).unwrap();
    assert!(changes.ends_with("intval = 1;\nPRAGMA foreign_keys = OFF;\n\n"), "{changes}");
    assert_eq!(attr(&fs, "versions/2/changes.sql").size_bytes, changes.len() as u64);
}

#[test]
fn versions_lost_in_a_gap_are_absent_and_the_snapshot_has_no_changes() {
    let mut node = Node::with_versions(3);
    node.run_without_recorder_to(6);
    node.change(7);
    let (fs, _) = node.tree();
    assert_eq!(names(&fs, attr(&fs, "versions").inode), ["1", "2", "3", "6", "7"]);
    assert!(is_absent(&fs, "versions/4") && is_absent(&fs, "versions/5"));
    assert_eq!(read(&fs, "versions/6/changes.sql"), b"");
    let info: serde_json::Value = serde_json::from_slice(&read(&fs, "versions/6/info.json")).unwrap();
    assert_eq!((&info["origin"], &info["statements"]), (&"snapshot".into(), &0.into()));
    assert_eq!(rows(&read(&fs, "versions/7/lightningd.sqlite3")), [1, 2, 7]);
}

#[test]
fn a_version_that_cannot_be_replayed_is_listed_and_answers_eio() {
    let mut node = Node::with_versions(3);
    node.write(4, &["INSERT INTO no_such_table VALUES (1)".to_owned()], "2026-11-22T00:04:00Z");
    let (fs, _) = node.tree();
    assert_eq!(rows(&read(&fs, "versions/3/lightningd.sqlite3")), [1, 2, 3]);
    let broken = attr(&fs, "versions/4/lightningd.sqlite3");
    assert_eq!((broken.size_bytes, broken.lasts), (0, Lasts::Moment));
    let error = fs.open(broken.inode).unwrap_err();
    assert_eq!(errno(&error).code(), libc::EIO);
    let text = with_causes(&error);
    assert!(text.contains("version 4") && text.contains("no such table"), "{text}");
    let info: serde_json::Value = serde_json::from_slice(&read(&fs, "versions/4/info.json")).unwrap();
    assert_eq!(info["pages"], serde_json::Value::Null);
    assert!(info["problem"].as_str().unwrap().contains("no such table"));
    assert!(String::from_utf8(read(&fs, "versions/4/changes.sql")).unwrap().starts_with("INSERT INTO no_such_table"));
}

#[test]
fn a_listing_goes_on_from_every_place_and_misses_nothing_that_is_added() {
    let mut node = Node::with_versions(130);
    let (fs, mut follower) = node.tree();
    for path in ["versions", "versions/5", "by-time", "by-time/2026", "by-time/2026/11/22", "by-time/2026/11/22/01h"] {
        let inode = attr(&fs, path).inode;
        let all = names_from(&fs, inode, 0);
        for (index, (_, cookie)) in all.iter().enumerate() {
            assert_eq!(names_from(&fs, inode, *cookie), all[index + 1..], "{path} from {cookie}");
        }
    }
    let root = names_from(&fs, ROOT, 0);
    assert_eq!(names_from(&fs, ROOT, root[2].1), root[3..]);

    let versions = attr(&fs, "versions").inode;
    let mut taken = Vec::new();
    fs.list(versions, 0, &mut |entry| {
        taken.push((entry.name.to_owned(), entry.cookie));
        if taken.len() == 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    node.change(131);
    follower.poll(fs.history_lock()).unwrap();
    let rest = names_from(&fs, versions, taken.last().unwrap().1);
    let expected: Vec<String> = (1..=131).map(|version: u32| version.to_string()).collect();
    let listed: Vec<String> = taken.into_iter().chain(rest).skip(2).map(|(name, _)| name).collect();
    assert_eq!(listed, expected);
}

/// A listing with attributes tells a size only when it is known; until then it is no small thing to ask for.
#[test]
fn a_listing_with_attributes_tells_what_a_lookup_tells() {
    let node = Node::with_versions(5);
    let (fs, _) = node.tree();
    let directory = attr(&fs, "versions/4").inode;
    let mut inodes = vec![ROOT, attr(&fs, "latest").inode, directory];
    for path in ["README", "by-time", "by-time/2026/11", "by-time/2026/11/22/00h/04m00.000001s-v4"] {
        inodes.push(attr(&fs, path).inode);
    }
    assert!(inodes.iter().all(|&inode| inode == directory || fs.entries_cost(inode) == Cost::Small));
    assert_eq!(fs.entries_cost(directory), Cost::View);
    fs.list(directory, 2, &mut |entry| {
        inodes.push(entry.inode);
        ControlFlow::Continue(())
    })
    .unwrap();
    for inode in inodes {
        assert_eq!(fs.entry(inode).unwrap().attr, fs.getattr(inode).unwrap());
    }
    assert_eq!(fs.entries_cost(directory), Cost::Small);
    let looked_up = find(&fs, "versions/4/lightningd.sqlite3").unwrap();
    assert!(looked_up.attr.size_bytes > 0);
    assert_eq!(fs.entry(looked_up.attr.inode).unwrap(), looked_up);
    assert!(fs.entry(u64::MAX).is_err());
}

#[test]
fn by_time_is_in_order_of_the_clock_even_when_it_was_set_back() {
    let mut node = Node::new();
    let moments =
        ["2026-11-22T14:00:00Z", "2026-11-22T14:30:00Z", "2026-11-22T14:10:00Z", "2025-12-31T23:59:59.999999Z"];
    for (version, at) in (1..).zip(moments) {
        node.change_at(version, at);
    }
    let (fs, _) = node.tree();
    assert_eq!(names(&fs, attr(&fs, "by-time").inode), ["2025", "2026"]);
    let hour = attr(&fs, "by-time/2026/11/22/14h");
    let expected = ["00m00.000000s-v1", "10m00.000000s-v3", "30m00.000000s-v2"];
    assert_eq!(names(&fs, hour.inode), expected);
    assert_eq!((hour.links, attr(&fs, "by-time").links), (1, 1));
    assert_eq!(names(&fs, attr(&fs, "by-time/2025/12/31/23h").inode), ["59m59.999999s-v4"]);
    let latest = attr(&fs, "latest").inode;
    assert_eq!(fs.readlink(latest).unwrap(), mountfs::tree::node::latest_target(DataVersion::new(4)));
}

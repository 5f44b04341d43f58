//! `backupfs verify`: it says what is damaged and which versions that costs, as whoever opens them finds, and whether a
//! database holds what the backup says.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::Commit;
use rusqlite::Connection;
use serde_json::Value;
use tests::cli::{Ran, backupfs};
use tests::home::{Home, everything, remove_parity};
use tests::mounted::{Mounted, fuse_is_here};
use tests::play::play;
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::traces;
use tests::wait::until;

/// The newest version of [`recorded`].
const NEWEST: u32 = 48;

fn verify(backup: &Path, arguments: &[&str]) -> Ran {
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).as_ref()).collect();
    backupfs(&[&["verify".as_ref(), backup.as_os_str()], &arguments[..]].concat())
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn files(backup: &Path, prefix: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(backup).expect("a backup").map(|entry| entry.expect("a file").path());
    let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    paths.filter(is_one).collect::<BTreeSet<_>>().into_iter().collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// Flips a bit of a file, where so many hundredths of what is not zero lie before it.
fn flip(path: &Path, hundredths: usize) {
    let mut bytes = fs::read(path).expect("a file");
    let used = bytes.iter().rposition(|&byte| byte != 0).expect("more than zeros") + 1;
    bytes[(used * hundredths / 100).min(used - 1)] ^= 4;
    fs::write(path, bytes).expect("a file");
}

/// A node with several segments, two snapshots and two logs, which has stopped: some of it ran without the plugin.
fn recorded() -> SmallNode {
    let mut node = SmallNode::before_its_first_write();
    node.lightningd.end_logs_after(30);
    node.start();
    assert!(
        node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write").is_continue()
    );
    while node.commit().get() < 20 {}
    node.stop();
    node.run_without_plugin(3);
    node.start();
    while node.commit().get() < NEWEST {}
    let backup = node.home.backup();
    assert!(until(Duration::from_secs(20), || files(&backup, "log-").len() <= 2), "not all finished logs are sealed");
    node.stop();
    // On a busy machine the recorder was stopped between making a segment and removing its log.
    backupfs(&["seal".as_ref(), backup.as_os_str()]).expect_done("seal");
    node
}

/// A copy of a backup beside it.
fn copy(node: &SmallNode, to: &str) -> PathBuf {
    let copy = node.home.join(to);
    fs::create_dir(&copy).expect("a directory");
    for path in files(&node.home.backup(), "") {
        fs::copy(&path, copy.join(name(&path))).expect("a copy");
    }
    // What damage costs without it.
    remove_parity(&copy);
    copy
}

/// The versions in the ranges that a field of the JSON has.
fn versions(ranges: &Value) -> BTreeSet<u64> {
    let ranges = ranges.as_array().expect("ranges").iter();
    let last = |range: &Value| range["last"].as_u64().unwrap_or(NEWEST.into());
    ranges.flat_map(|range| range["first"].as_u64().expect("a version")..=last(range)).collect()
}

/// Verifies a damaged backup: damage is told, `file` is named, and nothing is changed. Returns what the JSON says.
#[track_caller]
fn expect_damage(backup: &Path, file: &str) -> Value {
    let before = everything(backup);
    let ran = verify(backup, &[]).expect_refused(1, &["damaged"]);
    assert!(ran.stdout.contains(file), "{file} is not named: {ran:?}");
    let ran = verify(backup, &["--json"]).expect_refused(1, &["damaged"]);
    let json = json(&ran);
    assert_eq!(json["clean"], false);
    assert!(everything(backup) == before, "verify has changed something");
    json
}

#[test]
fn a_recorded_trace_is_clean() {
    let home = Home::new();
    play(&traces::shipped(), &home, |_| ());
    let ran = verify(&home.backup(), &[]).expect_done("verify");
    assert!(ran.stdout.contains("nothing is wrong"), "{ran:?}");
    let json = json(&verify(&home.backup(), &["--json"]).expect_done("verify --json"));
    assert_eq!((&json["clean"], &json["quick"], &json["versions_lost"]), (&true.into(), &false.into(), &0.into()));
    assert_eq!((&json["newest"]["data_version"], &json["newest"]["integrity_check"]), (&1498.into(), &"ok".into()));
    assert_eq!((&json["newest"]["foreign_key_check"], &json["versions"]), (&"ok".into(), &1498.into()));
    for field in ["destination", "files", "bytes", "lost", "in_doubt", "findings", "notes", "from", "to", "seconds"] {
        assert!(json.get(field).is_some(), "no {field} in {json}");
    }
    let quick = verify(&home.backup(), &["--quick", "--from", "100", "--to", "1400"]).expect_done("verify --quick");
    assert!(quick.stdout.contains("1301 versions, checksums only"), "{quick:?}");
    let database = home.database();
    let same = verify(&home.backup(), &["--against", database.to_str().unwrap()]).expect_done("verify --against");
    assert!(same.stdout.contains("version 1498 is the same"), "{same:?}");
}

#[test]
fn a_flipped_bit_is_named_in_every_kind_of_file_and_costs_what_a_mount_cannot_show() {
    let node = recorded();
    let kinds = ["manifest", "log-", "segment-", "snapshot-", "LOCK", "preallocated"];
    for (number, kind) in kinds.iter().enumerate() {
        for hundredths in [1, 50, 99] {
            let backup = copy(&node, &format!("flipped-{number}-{hundredths}"));
            let Some(file) = files(&backup, kind).into_iter().next() else { continue };
            if fs::read(&file).unwrap().iter().all(|&byte| byte == 0) {
                continue;
            }
            flip(&file, hundredths);
            if *kind == "log-" && hundredths == 99 {
                // The last record looks like one that was never acknowledged.
                verify(&backup, &[]).expect_done("a shorter history");
                continue;
            }
            let json = expect_damage(&backup, &name(&file));
            let found = json["findings"].as_array().unwrap().iter().find(|found| found["file"] == *name(&file));
            let found = found.unwrap_or_else(|| panic!("{json}"));
            assert!(found["offset"].is_u64() && found["kind"] == "damaged", "{found}");
            let lost = versions(&json["lost"]);
            assert!(versions(&found["lost"]).is_subset(&lost) && !lost.is_empty(), "{json}");
            if *kind != "manifest" && fuse_is_here() {
                assert_eq!(lost, not_shown(&backup), "{kind} at {hundredths} %");
            }
        }
    }
}

/// The versions of [`recorded`] that cannot be read from a mount, or are not there.
fn not_shown(backup: &Path) -> BTreeSet<u64> {
    let mounted = Mounted::start(backup);
    let recorded = (1..=u64::from(NEWEST)).filter(|version| !(21..=22).contains(version));
    recorded.filter(|version| fs::read(mounted.database(version)).is_err()).collect()
}

#[test]
fn files_that_are_removed_swapped_doubled_or_foreign_are_named() {
    let node = recorded();
    let segments = files(&node.home.backup(), "segment-");
    assert!(segments.len() >= 3, "{segments:?}");
    let [first, second] = [name(&segments[0]), name(&segments[1])];

    let removed = copy(&node, "removed");
    fs::remove_file(removed.join(&second)).unwrap();
    let json = expect_damage(&removed, &second);
    assert_eq!(json["findings"][0]["kind"], "missing", "{json}");

    let swapped = copy(&node, "swapped");
    fs::copy(&segments[0], swapped.join(&second)).unwrap();
    fs::copy(&segments[1], swapped.join(&first)).unwrap();
    expect_damage(&swapped, &first);
    expect_damage(&swapped, &second);

    let doubled = copy(&node, "doubled");
    let log = files(&doubled, "log-").remove(0);
    fs::copy(&log, doubled.join("log-00000000000000000003")).unwrap();
    let json = expect_damage(&doubled, "log-00000000000000000003");
    assert_eq!((&json["findings"][0]["kind"], &json["versions_lost"]), (&"stray".into(), &0.into()), "{json}");

    let stranger = copy(&node, "stranger");
    fs::write(stranger.join("notes.txt"), "my own").unwrap();
    fs::write(stranger.join("segment-00000000000000000900.tmp"), "left over").unwrap();
    let ran = verify(&stranger, &[]).expect_done("a stranger is no damage");
    assert!(ran.stdout.contains("notes.txt: note") && ran.stdout.contains("900.tmp: note"), "{ran:?}");

    let other = recorded();
    let foreign = copy(&node, "foreign");
    for file in [&first, &name(&files(&other.home.backup(), "log-")[0])] {
        fs::copy(other.home.backup().join(file), foreign.join(file)).unwrap();
        let json = expect_damage(&foreign, file);
        let found = json["findings"].as_array().unwrap().iter().find(|found| found["file"] == **file).unwrap();
        assert!(found["text"].as_str().unwrap().contains("another backup"), "{found}");
    }
}

#[test]
fn beside_a_recorder_that_writes_and_seals_it_finds_nothing_and_delays_nothing() {
    let mut node = SmallNode::before_its_first_write();
    node.lightningd.end_logs_after(30);
    node.start();
    assert!(
        node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write").is_continue()
    );
    let backup = node.home.backup();
    let verifying = std::thread::spawn(move || {
        for _ in 0..12 {
            let ran = verify(&backup, &[]).expect_done("verify beside a recorder");
            assert!(!ran.stdout.contains("note:"), "{ran:?}");
        }
    });
    while !verifying.is_finished() {
        node.commit();
        std::thread::sleep(Duration::from_millis(10));
    }
    verifying.join().expect("every verification was clean");
    node.stop();
    verify(&node.home.backup(), &[]).expect_done("verify afterwards");
}

fn against(node: &SmallNode, database: &Path, arguments: &[&str]) -> Ran {
    verify(&node.home.backup(), &[&["--against", database.to_str().expect("a path in UTF-8")], arguments].concat())
}

#[test]
fn a_database_of_a_stopped_and_of_a_running_node_is_what_the_backup_says() {
    let mut node = recorded();
    let database = node.home.database();
    let before = fs::read(&database).unwrap();
    let same = against(&node, &database, &[]).expect_done("against a stopped node");
    assert!(same.stdout.contains(&format!("version {NEWEST} is the same")), "{same:?}");
    assert!(fs::read(&database).unwrap() == before, "the database was written to");
    // Other pages, the same rows.
    let moved = node.home.join("moved.sqlite3");
    fs::copy(&database, &moved).unwrap();
    Connection::open(&moved).unwrap().execute_batch("PRAGMA page_size = 512; VACUUM").unwrap();
    let ran = against(&node, &moved, &["--json"]).expect_done("against other pages");
    let told = json(&ran);
    assert_eq!(
        (&told["same"], &told["same_pages"], &told["data_version"]),
        (&true.into(), &false.into(), &NEWEST.into())
    );
    assert!(told["rows"].as_u64().unwrap() > 50 && told["tables"] == Value::Array(vec![]), "{told}");
    // JSON has texts only.
    let unusual = node.home.join(OsStr::from_bytes(b"moved\xff.sqlite3"));
    fs::copy(&moved, &unusual).unwrap();
    let backup = node.home.backup();
    let arguments = ["verify", "--json", "--against"].map(OsStr::new);
    let ran = backupfs(&[&arguments[..], &[unusual.as_os_str(), backup.as_os_str()]].concat());
    assert_eq!(json(&ran.expect_done("against a path that is not UTF-8"))["same"], Value::Bool(true));
    // While the node writes.
    node.start();
    node.commit();
    let comparing = std::thread::spawn(move || {
        for _ in 0..10 {
            verify(&backup, &["--against", database.to_str().unwrap()]).expect_done("against a running node");
        }
    });
    while !comparing.is_finished() {
        node.commit();
        std::thread::sleep(Duration::from_millis(10));
    }
    comparing.join().expect("every comparison found the same");
    node.stop();
}

#[test]
fn a_difference_is_reported_by_table_and_key() {
    let node = recorded();
    let backup = node.home.backup();
    for (number, (change, expected)) in [
        ("UPDATE invoices SET msatoshi = 7 WHERE id = (SELECT max(id) FROM invoices)", "differs in msatoshi"),
        ("INSERT INTO invoices (id, label) VALUES (999, 'secret')", "invoices: rowid = 999: only in the database"),
        ("DELETE FROM htlcs WHERE rowid = (SELECT max(rowid) FROM htlcs)", "only in the backup"),
        ("CREATE INDEX extra ON htlcs (preimage)", "index extra: only in the database"),
        ("UPDATE forwards SET rowid = 5000 WHERE rowid = 101", "forwards: rowid = 5000: only in the database"),
    ]
    .into_iter()
    .enumerate()
    {
        let other = node.home.join(format!("other-{number}.sqlite3"));
        fs::copy(node.home.database(), &other).unwrap();
        Connection::open(&other).unwrap().execute_batch(change).unwrap();
        let ran = against(&node, &other, &[]).expect_refused(1, &["differs from the database"]);
        assert!(ran.stdout.contains(expected), "{change}: {ran:?}");
        assert!(!ran.stdout.contains("secret"), "values may be secrets: {ran:?}");
        let told = json(&against(&node, &other, &["--json"]).expect_refused(1, &[]));
        assert_eq!(told["same"], false, "{told}");
    }
    // A version that the backup does not have, no database, and one that is locked for good.
    let ahead = node.home.join("ahead.sqlite3");
    fs::copy(node.home.database(), &ahead).unwrap();
    let connection = Connection::open(&ahead).unwrap();
    connection.execute("UPDATE vars SET intval = 900 WHERE name = 'data_version'", []).unwrap();
    against(&node, &ahead, &[]).expect_refused(2, &["version 900", &format!("newest is {NEWEST}")]);
    against(&node, &node.home.join("nowhere.sqlite3"), &[]).expect_refused(2, &["no database"]);
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    against(&node, &ahead, &[]).expect_refused(2, &["locked"]);
    // A version that cannot be opened.
    flip(&files(&backup, "log-")[0], 1);
    assert_ne!(against(&node, &node.home.database(), &[]).code, 0);
}

#[test]
fn what_cannot_be_verified_is_reported() {
    let node = recorded();
    let backup = node.home.backup();
    let missing = node.home.join("nowhere.bkp");
    verify(&missing, &[]).expect_refused(2, &["no backup"]);
    verify(&node.home.lightning_dir(), &[]).expect_refused(2, &["not a backup"]);
    verify(Path::new("ssh://there/node.bkp"), &[]).expect_refused(2, &["not supported"]);
    verify(&backup, &["--from", "900"]).expect_refused(2, &["version 900", "not in the backup"]);
    verify(&backup, &["--from", "9", "--to", "8"]).expect_refused(2, &["comes after"]);
    verify(&backup, &["--quick", "--against", "x"]).expect_refused(2, &["cannot be used"]);
    let some = verify(&backup, &["--from", "5", "--to", "8"]).expect_done("some versions");
    assert!(some.stdout.contains("4 versions, all replayed"), "{some:?}");
}

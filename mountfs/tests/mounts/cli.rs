//! The real `backupfs`: what it prints, what it leaves behind, how it ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::Node;
use rusqlite::Connection;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

const TIMEOUT: Duration = Duration::from_secs(20);

fn backupfs(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backupfs")).args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs it, checks the exit code and that stderr says this.
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let output = backupfs(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for part in says {
        assert!(stderr.contains(part), "{args:?} does not say {part:?}: {stderr}");
    }
}

fn done(args: &[&str]) -> (String, String) {
    let output = backupfs(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {stderr}");
    (String::from_utf8(output.stdout).unwrap(), stderr)
}

fn files_in(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A `backupfs mount`; unmounts and ends it however the test ends.
struct Mounted {
    process: Child,
    mountpoint: PathBuf,
    line: String,
}

impl Mounted {
    /// `None` where nothing can be mounted; it says so then.
    fn start(node: &Node) -> Option<Self> {
        let mountpoint = node.mountpoint();
        let mut process = Command::new(env!("CARGO_BIN_EXE_backupfs"))
            .args(["mount", text(&node.backup_path()), text(&mountpoint)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let output = process.wait_with_output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            let no_fuse = stderr.contains("there is no /dev/fuse") || stderr.contains("no right to mount");
            assert!(no_fuse && output.status.code() == Some(2), "mount failed: {stderr}");
            eprintln!("nothing can be mounted here: {stderr}");
            return None;
        }
        Some(Self { process, mountpoint, line })
    }

    fn path(&self, below: &str) -> PathBuf {
        self.mountpoint.join(below)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < TIMEOUT, "backupfs mount does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(text(&self.mountpoint)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Most often it has ended already.
        let _: Result<(), _> = self.process.kill();
        let _: Result<_, _> = self.process.wait();
        let _: Result<(), _> = unmount(&self.mountpoint, UnmountFlags::DETACH);
    }
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    refused(&[], 2, &["Usage"]);
    refused(&["frobnicate"], 2, &["frobnicate"]);
    refused(&["versions", "https://bucket/x"], 2, &["https:", "file:///", "s3://"]);
    refused(&["versions", "s3://bucket/x"], 2, &["endpoint="]);
    refused(&["versions", "--since", "yesterday", "/x"], 2, &["2026-11-22"]);
    for command in ["init", "mount", "restore", "versions", "demo"] {
        let (short, _) = done(&[command, "-h"]);
        let (long, _) = done(&[command, "--help"]);
        // The short one has more spaces: its options are in columns.
        let words = |help: &str| help.split_whitespace().count();
        assert!(short.contains("Example") && words(&long) >= words(&short), "{command}");
    }
    assert!(done(&["--help"]).0.contains("Exit codes"));
    assert!(done(&["--version"]).0.starts_with("backupfs 0."));
}

#[test]
fn init_makes_a_backup_and_connects_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let (node, backup) = (dir.path().join("bitcoin"), dir.path().join("node.bkp"));
    fs::create_dir(&node).unwrap();
    let database = Connection::open(node.join("lightningd.sqlite3")).unwrap();
    let sql =
        "CREATE TABLE vars (name TEXT, val TEXT, intval INTEGER); INSERT INTO vars VALUES ('data_version', NULL, 7)";
    database.execute_batch(sql).unwrap();
    let init = ["init", "--lightning-dir", text(&node), text(&backup)];
    let (stdout, _) = done(&init);
    for part in ["important-plugin=/", "backup-recorder", "hsm_secret", "backup.lock"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let lock: serde_json::Value = serde_json::from_slice(&fs::read(node.join("backup.lock")).unwrap()).unwrap();
    assert_eq!(lock["backend_url"], format!("file://{}", text(&backup)));
    assert!(lock.get("database").is_none());
    assert!(done(&["versions", text(&backup)]).0.lines().nth(1).unwrap().trim_start().starts_with("7 "));
    refused(&init, 2, &["backup.lock exists"]);
}

#[test]
fn init_refuses_bad_input_and_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    fs::create_dir_all(node.join("regtest")).unwrap();
    let backup = dir.path().join("node.bkp");
    let init = |lightning_dir: &Path, url: &Path, says: &[&str]| {
        refused(&["init", "--lightning-dir", text(lightning_dir), text(url)], 2, says);
    };
    init(&dir.path().join("missing"), &backup, &["missing", "lightning-dir"]);
    init(&node, &backup, &["a directory for each network", "regtest"]);
    let node = node.join("regtest");
    init(&node, &dir.path().join("no/where.bkp"), &["no directory", "mkdir"]);
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "").unwrap();
    init(&node, &full, &["full"]);
    let args = ["init", "--lightning-dir", text(&node), "--database", "/no/such/db", text(&backup)];
    refused(&args, 2, &["/no/such/db"]);
    fs::write(node.join("lightningd.sqlite3"), "this is not a database, however long it may be").unwrap();
    init(&node, &backup, &["lightningd.sqlite3"]);
    assert_eq!(files_in(&node), ["lightningd.sqlite3"]);
    assert_eq!(files_in(&full), ["x"]);
    assert_eq!(files_in(dir.path()), ["full", "node"]);
}

#[test]
fn restore_writes_the_newest_version_and_nothing_over_anything() {
    let node = Node::with_versions(5);
    let backup = node.backup_path();
    let target = node.path().join("new");
    fs::create_dir(&target).unwrap();
    let (stdout, stderr) = done(&["restore", text(&backup), text(&target)]);
    let file = target.join("lightningd.sqlite3");
    assert!(stdout.contains("version 5") && stdout.contains(text(&file)));
    assert!(stderr.contains("hsm_secret") && stderr.contains("old node cannot run"));
    assert_eq!(files_in(&target), ["lightningd.sqlite3"]);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let database = Connection::open(&file).unwrap();
    let count: u32 = database.query_row("SELECT count(*) FROM rows", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 5);

    let before = fs::read(&file).unwrap();
    refused(&["restore", text(&backup), text(&target)], 2, &["exists and is not overwritten"]);
    assert_eq!(fs::read(&file).unwrap(), before);
    refused(&["restore", text(&backup), text(&target.join("no/x"))], 2, &["mkdir -p"]);
    refused(&["restore", text(&backup), text(&backup.join("x"))], 2, &["inside the backup"]);
    for suffix in ["-journal", "-wal", "-shm"] {
        let companion = target.join(format!("other.db{suffix}"));
        fs::write(&companion, "").unwrap();
        refused(&["restore", text(&backup), text(&target.join("other.db"))], 2, &[text(&companion), "move it away"]);
        fs::remove_file(&companion).unwrap();
    }
    assert_eq!(files_in(&target), ["lightningd.sqlite3"]);
}

#[test]
fn an_older_version_needs_a_confirmation_that_says_what_it_can_cost() {
    let mut node = Node::with_versions(3);
    node.run_without_recorder_to(6);
    node.change(7);
    node.write(7, &["INSERT INTO rows VALUES (77, '')".to_owned()], "2026-11-22T01:00:00Z");
    let backup = node.backup_path();
    let backup = text(&backup);
    let dest = node.path().join("old.sqlite3");
    let dest = text(&dest);
    refused(
        &["restore", backup, dest, "--version", "2"],
        2,
        &["ALL funds", "--accept-stale-state", "newest, which is 7"],
    );
    let at = |version: &'static str| ["restore", backup, dest, "--accept-stale-state", "--version", version];
    refused(&at("5"), 2, &["never recorded", "3 and 6"]);
    refused(&at("4000"), 2, &["not in the backup", "nearest available: 7"]);
    refused(&at("007"), 2, &["007"]);
    assert!(!Path::new(dest).exists());
    let (_, stderr) = done(&at("2"));
    assert!(stderr.contains("warning") && stderr.contains("never start lightningd on it"));
    assert!(!stderr.contains("Before you start"), "{stderr}");
    let database = Connection::open(dest).unwrap();
    let version: u32 = database.query_row("SELECT intval FROM vars", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 2);
    let newest = node.path().join("newest.sqlite3");
    done(&["restore", backup, text(&newest), "--version", "7"]);
}

#[test]
fn a_version_that_cannot_be_replayed_is_not_restored() {
    let mut node = Node::with_versions(2);
    node.write(3, &["INSERT INTO no_such_table VALUES (1)".to_owned()], "2026-11-22T00:03:00Z");
    let target = node.path().join("new");
    fs::create_dir(&target).unwrap();
    refused(&["restore", text(&node.backup_path()), text(&target)], 1, &["version 3", "no such table"]);
    assert!(files_in(&target).is_empty());
}

#[test]
fn versions_are_listed_with_gaps_and_rewinds() {
    let mut node = Node::with_versions(3);
    node.write(3, &["INSERT INTO rows VALUES (33, '')".to_owned()], "2026-11-22T00:05:00Z");
    node.run_without_recorder_to(6);
    node.change(7);
    let backup = node.backup_path();
    let backup = text(&backup);
    let (table, _) = done(&["versions", backup]);
    let status: Vec<(&str, &str)> = table
        .lines()
        .skip(1)
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[0], words[3])
        })
        .collect();
    let expected = [
        ("1", "recorded"),
        ("2", "recorded"),
        ("3", "rewound"),
        ("3", "recorded"),
        ("4-5", "missing"),
        ("6", "recorded"),
        ("7", "recorded"),
    ];
    assert_eq!(status, expected, "{table}");

    let json = |args: &[&str]| -> Vec<(u64, String, bool)> {
        let mut all = vec!["versions", "--json", backup];
        all.extend(args);
        let (stdout, _) = done(&all);
        let row = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            for field in ["data_version", "seq", "recorded_at", "status", "origin", "statements", "bytes"] {
                assert!(row.get(field).is_some(), "{field}: {line}");
            }
            let known = row["seq"].is_u64() && row["recorded_at"].is_string();
            (row["data_version"].as_u64().unwrap(), row["status"].as_str().unwrap().to_owned(), known)
        };
        stdout.lines().map(row).collect()
    };
    let short = |rows: Vec<(u64, String, bool)>| rows.into_iter().map(|(version, ..)| version).collect::<Vec<_>>();
    let all = json(&[]);
    assert_eq!(short(all.clone()), [1, 2, 3, 3, 4, 5, 6, 7]);
    assert_eq!(all[4], (4, "missing".to_owned(), false));
    assert_eq!(all[2], (3, "rewound".to_owned(), true));
    assert_eq!(short(json(&["--since", "5", "--until", "6"])), [5, 6]);
    assert_eq!(short(json(&["--until", "2026-11-22 00:03"])), [1, 2, 3]);
    assert_eq!(short(json(&["--since", "2026-11-22T00:05:00Z", "--until", "3"])), [3]);
    assert_eq!(short(json(&["--since", "2026-11-23"])), [0_u64; 0]);
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let node = Node::with_versions(200);
    let mut process = Command::new(env!("CARGO_BIN_EXE_backupfs"))
        .args(["versions", "--json", text(&node.backup_path())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(process.stdout.take());
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn work_that_is_done_is_a_success_even_without_output() {
    let node = Node::with_versions(3);
    let deaf = |args: &[&str]| {
        // Every write to it fails.
        let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
        Command::new(env!("CARGO_BIN_EXE_backupfs")).args(args).stdout(full()).stderr(full()).status().unwrap().code()
    };
    let restored = node.path().join("restored.sqlite3");
    assert_eq!(deaf(&["restore", text(&node.backup_path()), text(&restored)]), Some(0));
    assert!(restored.exists());
    let lightning_dir = node.path().join("another");
    fs::create_dir(&lightning_dir).unwrap();
    let other = node.path().join("other.bkp");
    assert_eq!(deaf(&["init", "--lightning-dir", text(&lightning_dir), text(&other)]), Some(0));
    assert!(lightning_dir.join("backup.lock").exists());
    assert_eq!(deaf(&["restore", text(&node.backup_path()), text(&restored)]), Some(2), "a refusal stays one");
    // A list is nothing but its output.
    assert_eq!(deaf(&["versions", text(&node.backup_path())]), Some(2));
}

#[test]
fn a_mount_serves_until_a_signal_ends_it() {
    let mut node = Node::with_versions(3);
    let Some(mut mounted) = Mounted::start(&node) else { return };
    assert!(mounted.line.starts_with("mounted file://"), "{}", mounted.line);
    assert!(mounted.line.contains("newest 3 "), "{}", mounted.line);
    let restored = node.path().join("restored.sqlite3");
    done(&["restore", text(&node.backup_path()), text(&restored)]);
    assert_eq!(fs::read(mounted.path("latest/lightningd.sqlite3")).unwrap(), fs::read(&restored).unwrap());
    for name in ["README", "latest/info.json", "new"] {
        let error = fs::write(mounted.path(name), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{name}");
    }

    node.change(4);
    let started = Instant::now();
    while fs::read_link(mounted.path("latest")).unwrap() != Path::new("versions/4") {
        assert!(started.elapsed() < Duration::from_secs(1), "the mount does not follow within a second");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(files_in(&mounted.path("versions")), ["1", "2", "3", "4"]);

    // An open file does not keep it from ending.
    let open = fs::File::open(mounted.path("README")).unwrap();
    mounted.signal(Signal::TERM);
    assert_eq!(mounted.wait().code(), Some(0));
    assert!(!mounted.is_mounted());
    drop(open);
}

#[test]
fn a_terminal_that_is_closed_leaves_no_dead_mount() {
    let node = Node::with_versions(3);
    let Some(mut mounted) = Mounted::start(&node) else { return };
    mounted.signal(Signal::HUP);
    assert_eq!(mounted.wait().code(), Some(0));
    assert!(!mounted.is_mounted());
}

#[test]
fn an_unmount_from_outside_ends_the_process_well() {
    let node = Node::new();
    let Some(mut mounted) = Mounted::start(&node) else { return };
    assert!(mounted.line.contains("no version recorded yet"), "{}", mounted.line);
    assert_eq!(files_in(&mounted.mountpoint), ["README", "by-time", "versions"]);
    refused(&["mount", text(&node.backup_path()), text(&mounted.mountpoint)], 2, &["is not empty", "umount"]);
    unmount(&mounted.mountpoint, UnmountFlags::empty()).unwrap();
    assert_eq!(mounted.wait().code(), Some(0));
}

#[test]
fn the_mount_of_a_process_that_died_is_replaced() {
    let node = Node::with_versions(1);
    let Some(mut dead) = Mounted::start(&node) else { return };
    dead.signal(Signal::KILL);
    dead.wait();
    assert!(dead.is_mounted());
    assert_eq!(fs::read_dir(&dead.mountpoint).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    let mut again = Mounted::start(&node).unwrap();
    assert_eq!(files_in(&again.path("versions")), ["1"]);
    again.signal(Signal::INT);
    assert_eq!(again.wait().code(), Some(0));
    assert!(!again.is_mounted());
}

#[test]
fn a_mount_point_that_cannot_be_used_is_refused_with_the_remedy() {
    let node = Node::with_versions(1);
    if !Path::new("/dev/fuse").exists() {
        refused(&["mount", text(&node.backup_path()), text(&node.mountpoint())], 2, &["modprobe fuse"]);
        return;
    }
    let backup = node.backup_path();
    let mount = |mountpoint: &Path, says: &[&str]| refused(&["mount", text(&backup), text(mountpoint)], 2, says);
    mount(&node.path().join("missing"), &["does not exist", "mkdir -p"]);
    mount(&backup, &["within each other"]);
    mount(node.path(), &["within each other"]);
    mount(&node.lightning_dir(), &["is not empty"]);
    mount(&backup.join("manifest"), &["is not a directory"]);
    refused(&["mount", "/no/such/backup", text(&node.mountpoint())], 2, &["no backup at", "backupfs init"]);
}

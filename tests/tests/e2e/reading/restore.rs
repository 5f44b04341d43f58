//! `backupfs restore`: the database or nothing.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::Backup;
use mountfs::restore::{Checks, Damaged, Destination, Existing, Progress, Proof, RestoreError};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tests::home::everything;
use tests::skip::skipped;
use tests::small_node::SmallNode;
use tests::tiny_disk::TinyDisk;
use tests::{cli, compare};

fn restore(node: &SmallNode, to: &Path, more: &[&str]) -> cli::Ran {
    let backup = node.home.backup();
    let mut arguments = vec![OsStr::new("restore"), backup.as_os_str(), to.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    cli::backupfs(&arguments)
}

/// A stopped node with five versions, and an empty directory to restore into.
fn node() -> (SmallNode, tempfile::TempDir) {
    let mut node = SmallNode::created();
    for _ in 0..4 {
        node.commit();
    }
    node.stop();
    (node, tempfile::tempdir().expect("a directory"))
}

#[test]
fn the_newest_version_needs_no_option_and_is_private() {
    let (node, to) = node();
    let file = to.path().join("here.sqlite3");
    restore(&node, &file, &[]).expect_done("restore");
    compare::same_contents(&node.home.database(), &file, &[]).unwrap();
    compare::sound(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "it holds channel state");
    assert_eq!(everything(to.path()).len(), 1, "nothing but the database is left");
}

#[test]
fn a_directory_gets_the_name_that_lightningd_expects() {
    let (node, to) = node();
    restore(&node, to.path(), &[]).expect_done("restore");
    compare::same_contents(&node.home.database(), &to.path().join("lightningd.sqlite3"), &[]).unwrap();
    assert_eq!(everything(to.path()).len(), 1);
}

#[test]
fn an_existing_file_is_never_touched() {
    let (node, to) = node();
    let file = to.path().join("lightningd.sqlite3");
    fs::write(&file, "precious").unwrap();
    restore(&node, &file, &[]).expect_refused(2, &["exists", "lightningd.sqlite3"]);
    restore(&node, to.path(), &[]).expect_refused(2, &["exists", "lightningd.sqlite3"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_eq!(everything(to.path()).len(), 1);
}

#[test]
fn a_dangling_link_is_an_existing_file() {
    let (node, to) = node();
    let link = to.path().join("lightningd.sqlite3");
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    restore(&node, &link, &[]).expect_refused(2, &["exists"]);
    assert_eq!(everything(to.path()).len(), 1);
}

#[test]
fn a_journal_beside_the_destination_would_corrupt_it() {
    let (node, to) = node();
    for suffix in ["-journal", "-wal"] {
        let journal = to.path().join(format!("db.sqlite3{suffix}"));
        fs::write(&journal, "left over").unwrap();
        restore(&node, &to.path().join("db.sqlite3"), &[]).expect_refused(2, &[&format!("db.sqlite3{suffix}")]);
        assert_eq!(everything(to.path()).len(), 1);
        fs::remove_file(&journal).unwrap();
    }
}

#[test]
fn an_older_version_needs_both_options() {
    let (node, to) = node();
    let file = to.path().join("db.sqlite3");
    restore(&node, &file, &["--version", "3"]).expect_refused(2, &["accept-stale-state"]);
    restore(&node, &file, &["--accept-stale-state", "--version", "99"]).expect_refused(2, &["99"]);
    restore(&node, &file, &["--accept-stale-state", "--version", "03"]).expect_refused(2, &["03"]);
    assert_eq!(everything(to.path()).len(), 0, "nothing was restored yet");

    let ran = restore(&node, &file, &["--version", "3", "--accept-stale-state"]).expect_done("restore");
    assert!(ran.stderr.contains("revoked") && ran.stderr.contains("funds"), "it says what that can cost: {ran:?}");
    assert_eq!(compare::data_version(&file).unwrap(), 3);
}

#[test]
fn a_time_means_the_newest_version_that_had_been_recorded() {
    let (node, to) = node();
    let listed = cli::backupfs(&["versions".as_ref(), "--json".as_ref(), node.home.backup().as_os_str()]);
    let times: Vec<String> = listed
        .expect_done("versions")
        .json_lines()
        .iter()
        .map(|line| line["recorded_at"].as_str().expect("a time").to_owned())
        .collect();
    let file = to.path().join("db.sqlite3");
    restore(&node, &file, &["--at", &times[2]]).expect_refused(2, &["accept-stale-state", "version 3", "revoked"]);
    restore(&node, &file, &["--at", "2020-02-02", "--accept-stale-state"]).expect_refused(2, &["oldest", &times[0]]);
    restore(&node, &file, &["--at", "3", "--accept-stale-state"]).expect_refused(2, &["--version"]);
    restore(&node, &file, &["--at", &times[2], "--version", "3"]).expect_refused(2, &["cannot be used with"]);
    assert_eq!(everything(to.path()).len(), 0, "nothing was restored yet");

    let before = |time: &str| {
        let micros = time.parse::<jiff::Timestamp>().expect("a time").as_microsecond();
        jiff::Timestamp::from_microsecond(micros - 1).expect("a time").to_string()
    };
    for (at, version) in [(times[2].clone(), 3), (before(&times[3]), 3), (before(&times[2]), 2)] {
        restore(&node, &file, &["--at", &at, "--accept-stale-state"]).expect_done("restore");
        assert_eq!(compare::data_version(&file).unwrap(), version, "{at}");
        fs::remove_file(&file).unwrap();
    }
    // Nothing is newer: no old state.
    restore(&node, &file, &["--at", "2999-12-31 23:59"]).expect_done("restore");
    compare::same_contents(&node.home.database(), &file, &[]).unwrap();
}

#[test]
fn what_is_there_is_renamed_with_its_journal_when_that_was_asked_for() {
    let (node, to) = node();
    let file = to.path().join("lightningd.sqlite3");
    fs::write(&file, "precious").unwrap();
    fs::write(to.path().join("lightningd.sqlite3-journal"), "its journal").unwrap();
    let ran = restore(&node, to.path(), &["--backup-existing"]).expect_done("restore");
    compare::same_contents(&node.home.database(), &file, &[]).unwrap();
    let aside: Vec<_> = everything(to.path()).into_iter().filter(|(path, _)| *path != file).collect();
    let [(database, bytes), (journal, journal_bytes)] = &aside[..] else { panic!("{aside:?}") };
    assert!(
        database.to_str().unwrap().starts_with(&format!("{}.replaced-2", file.display())),
        "{}",
        database.display()
    );
    assert_eq!(journal.to_str().unwrap(), format!("{}-journal", database.display()));
    assert_eq!(
        (bytes.as_deref(), journal_bytes.as_deref()),
        (Some(&b"precious"[..]), Some(&b"its journal"[..])),
        "as they were"
    );
    assert!(ran.stdout.contains(database.to_str().unwrap()), "{ran:?}");
}

#[test]
fn a_disk_that_stores_something_else_is_noticed_before_it_gets_its_name() {
    let (node, to) = node();
    let url: common::BackupUrl = node.home.backup().to_str().unwrap().parse().unwrap();
    let backup = Arc::new(Backup::open(&url).unwrap());
    let (history, read) = backup.read_history();
    read.unwrap();
    let version = history.newest().unwrap();
    let destination = Destination::check(to.path(), backup.path(), Existing::Refuse).unwrap();
    let mut temporary = PathBuf::new();
    let mut tamper = |progress: Progress<'_>| match progress {
        Progress::Started { temporary: path, .. } => temporary = path.to_owned(),
        // Nothing that quick_check could find.
        Progress::Checking => {
            let database = rusqlite::Connection::open(&temporary).unwrap();
            assert_eq!(database.execute("INSERT INTO invoices (id) VALUES (-77)", []).unwrap(), 1);
        }
        Progress::Copied(_) | Progress::ReadBack { .. } | Progress::Placing => {}
    };
    let checks = Checks { proof: Proof::ReadBack, damaged: Damaged::Refuse, inspect: &mut |_| Ok(()) };
    let restored = mountfs::restore::restore(&backup, &history, version, &destination, checks, &mut tamper);
    assert!(matches!(restored, Err(RestoreError::NotAsWritten { .. })), "{restored:?}");
    assert!(everything(to.path()).is_empty(), "no part is left");
    let ran = restore(&node, to.path(), &["--verify"]).expect_done("restore");
    assert!(ran.stdout.contains("read back and compared"), "{ran:?}");
}

#[test]
fn a_database_that_a_process_has_open_is_not_renamed() {
    // A node whose database is not where the rest of it is: it would have gone on writing to what was put aside.
    let (node, to) = node();
    let file = to.path().join("wallet.sqlite3");
    fs::write(&file, "precious").unwrap();
    let open = fs::File::open(&file).unwrap();
    let own = format!("process {}", std::process::id());
    restore(&node, &file, &["--backup-existing"]).expect_refused(2, &[&own, "stop it first", "wallet.sqlite3"]);
    assert_eq!(everything(to.path()).len(), 1, "nothing was renamed");
    drop(open);
    restore(&node, &file, &["--backup-existing"]).expect_done("nobody has it open");
}

#[test]
fn a_warning_about_interruption_comes_before_anything_is_renamed() {
    // A signal in between left the database under another name, nothing in its place, and said that all was well.
    let (node, to) = node();
    let file = to.path().join("lightningd.sqlite3");
    fs::write(&file, "precious").unwrap();
    let url: common::BackupUrl = node.home.backup().to_str().unwrap().parse().unwrap();
    let backup = Arc::new(Backup::open(&url).unwrap());
    let (history, read) = backup.read_history();
    read.unwrap();
    let destination = Destination::check(to.path(), backup.path(), Existing::Replace).unwrap();
    let mut found = None;
    let mut look = |progress: Progress<'_>| match progress {
        Progress::Placing => found = Some((fs::read(&file).unwrap(), everything(to.path()).len())),
        _ => assert!(found.is_none(), "nothing comes after it"),
    };
    let newest = history.newest().unwrap();
    let checks = Checks { proof: Proof::QuickCheck, damaged: Damaged::Refuse, inspect: &mut |_| Ok(()) };
    mountfs::restore::restore(&backup, &history, newest, &destination, checks, &mut look).unwrap();
    assert_eq!(found, Some((b"precious".to_vec(), 2)), "both are complete, and neither was renamed");
    assert_ne!(fs::read(&file).unwrap(), b"precious");
}

/// A process that listens where `lightningd` does, or holds the lock that it holds.
#[test]
fn nothing_is_restored_where_a_node_runs() {
    let (node, to) = node();
    let network = to.path().join("bitcoin");
    fs::create_dir(&network).unwrap();
    let socket = network.join("lightning-rpc");
    let listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    restore(&node, &network, &["--backup-existing"]).expect_refused(2, &["lightningd is running", "lightning-rpc"]);
    drop(listening);
    restore(&node, &network, &[]).expect_done("nobody listens on a socket that was left");
    fs::remove_file(network.join("lightningd.sqlite3")).unwrap();

    if Command::new("sqlite3").arg("-version").output().is_err() {
        skipped("sqlite3 is not installed, a pid file that is locked is not tested");
        return;
    }
    for (pid_file, runs) in [
        (to.path().join("lightningd-bitcoin.pid"), true),
        (network.join("lightningd-bitcoin.pid"), true),
        (to.path().join("lightningd-testnet.pid"), false),
    ] {
        // SQLite locks its files as lightningd locks its own.
        let mut holder = Command::new("sqlite3")
            .arg(&pid_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sqlite3 starts");
        let mut stdin = holder.stdin.take().expect("a pipe");
        stdin.write_all(b"BEGIN EXCLUSIVE;\nSELECT 'locked';\n").unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut said).unwrap();
        let ran = restore(&node, &network, &[]);
        let process = holder.id().to_string();
        drop(stdin);
        holder.wait().unwrap();
        assert_eq!(said, "locked\n");
        if runs {
            ran.expect_refused(2, &["lightningd is running", &process, pid_file.to_str().unwrap()]);
        } else {
            ran.expect_done("the node of another network is not in the way");
        }
        fs::remove_file(&pid_file).unwrap();
    }
}

/// What went wrong: a FIFO was waited for, for ever.
#[test]
fn what_only_looks_like_a_pid_file_is_not_waited_for() {
    let (node, to) = node();
    let network = to.path().join("bitcoin");
    fs::create_dir_all(network.join("lightningd-directory.pid")).unwrap();
    let special = |path: &Path, kind: FileType, device| mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device);
    for directory in [to.path(), &network] {
        special(&directory.join("lightningd-bitcoin.pid"), FileType::Fifo, 0).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(network.join("lightningd-socket.pid")).unwrap();
    if special(&network.join("lightningd-device.pid"), FileType::CharacterDevice, makedev(1, 5)).is_err() {
        skipped("only root makes devices, one as a pid file is not tested");
    }
    for name in ["lightning-rpc", "backup.lock", "backup.spool", "config"] {
        special(&network.join(name), FileType::Fifo, 0).unwrap();
    }
    fs::remove_file(network.join("backup.spool")).unwrap();
    restore(&node, &network, &[]).expect_done("restore");
}

/// What went wrong: the half of a database stayed for good.
#[test]
fn what_a_restore_that_was_killed_has_left_is_removed_by_the_next_one() {
    let (mut node, to) = node();
    node.start();
    // Writing it takes longer than noticing it.
    node.commit_also(&["INSERT INTO htlcs (id, preimage) VALUES (-1, zeroblob(30000000))"]);
    node.stop();
    let file = to.path().join("db.sqlite3");
    let unfinished = || {
        let names = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".restoring-")).collect::<Vec<_>>()
    };
    let mut killed = (0..20).find_map(|_| {
        let mut child = Command::new(tests::binaries::backupfs())
            .args([OsStr::new("restore"), node.home.backup().as_os_str(), file.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while unfinished().is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
        if child.try_wait().unwrap().is_none() && !file.exists() {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(fs::remove_file(&file));
        None
    });
    let child = killed.as_mut().expect("a restore that is stopped half way");
    let left = unfinished();
    let [name] = &left[..] else { panic!("{left:?}") };

    let other = to.path().join("other.sqlite3");
    let ran = restore(&node, &other, &[]).expect_done("another restore");
    assert!(unfinished() == left && !ran.stderr.contains("removed"), "it is still being made: {ran:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let ran = restore(&node, &file, &[]).expect_done("the next restore");
    assert!(ran.stderr.contains("removed") && ran.stderr.contains(name), "{ran:?}");
    assert_eq!(everything(to.path()).len(), 2, "the two databases");
}

/// What went wrong: it went to `~/.lightning/lightningd.sqlite3`, or to a file `~/.lightning/bitcoin`.
#[test]
fn it_goes_where_a_lightningd_looks() {
    let (node, to) = node();
    let (above, network) = (to.path().join("lightning"), to.path().join("lightning/bitcoin"));
    let directory = network.to_str().unwrap();
    let mkdir = format!("mkdir -p {directory}");
    restore(&node, &network, &[]).expect_refused(2, &[&mkdir, "--create", ".sqlite3"]);
    restore(&node, &network, &["--create", "--version", "99"]).expect_refused(2, &["99"]);
    assert!(everything(to.path()).is_empty(), "what was made goes again");
    restore(&node, &network, &["--create"]).expect_done("restore");
    let database = network.join("lightningd.sqlite3");
    compare::same_contents(&node.home.database(), &database, &[]).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&above), mode(&network), mode(&database)), (0o700, 0o700, 0o600));

    for more in [&[][..], &["--create"], &["--backup-existing"]] {
        restore(&node, &above, more).expect_refused(2, &["a directory for each network", directory]);
    }
    fs::write(network.join("hsm_secret"), "").unwrap();
    fs::write(above.join("lightningd.sqlite3"), "by mistake").unwrap();
    restore(&node, &above, &["--backup-existing"]).expect_refused(2, &["a directory for each network", directory]);
    restore(&node, &above.join("look.sqlite3"), &[]).expect_done("only to look at it");
}

#[test]
fn what_to_do_before_the_node_starts_is_said() {
    let (mut node, to) = node();
    let said = restore(&node, to.path(), &[]).expect_done("restore");
    let attach = format!("backupfs attach --lightning-dir {} file://", to.path().display());
    for needle in ["old node cannot run", "newer version than 5", "copy hsm_secret to", &attach] {
        assert!(said.stderr.contains(needle), "{said:?}");
    }
    assert!(!said.stderr.contains("RUNNING NOW"), "{said:?}");
    fs::remove_file(to.path().join("lightningd.sqlite3")).unwrap();
    fs::write(to.path().join("hsm_secret"), "secret").unwrap();
    node.start();
    node.commit();
    let said = restore(&node, to.path(), &[]).expect_done("restore");
    assert!(said.stderr.contains("RUNNING NOW") && said.stderr.contains("hsm_secret is there"), "{said:?}");
}

#[test]
fn a_missing_directory_is_not_made() {
    let (node, to) = node();
    restore(&node, &to.path().join("not/here"), &[]).expect_refused(2, &["not"]);
    assert_eq!(everything(to.path()).len(), 0);
}

#[test]
fn an_empty_backup_has_nothing_to_restore() {
    let node = SmallNode::before_its_first_write();
    let to = tempfile::tempdir().unwrap();
    let ran = restore(&node, to.path(), &[]);
    assert!(ran.code == 1 || ran.code == 2, "{ran:?}");
    assert!(!ran.stderr.is_empty() && !ran.stderr.contains("panicked"), "{ran:?}");
    assert_eq!(everything(to.path()).len(), 0);
}

#[test]
fn a_disk_that_fills_up_half_way_keeps_no_part() {
    let (node, to) = node();
    // The restored database has more than the 16 kB that fit here.
    let size = fs::metadata(node.home.database()).unwrap().len();
    assert!(size > 16 << 10, "{size}");
    let Some(disk) = TinyDisk::mounted(to.path(), c"size=16k") else { return };
    let ran = restore(&node, &disk.path().join("db.sqlite3"), &[]);
    let left = everything(disk.path());
    ran.expect_refused(2, &["space", "db"]);
    assert!(left.is_empty(), "{:?}", left.keys());
}

//! What a disk does to a backup: the mount serves the right bytes, the recorder finds it and mends it, and so does `backupfs repair`.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::DataVersion;
use format_fuzz::seeded::Seeded;
use mountfs::demo::pretend_lightningd::Commit;
use serde_json::{Value, json};
use tests::mounted::{Mounted, fuse_is_here};
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;
use tests::{cli, compare};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Length of a block of parity.
const BLOCK: u64 = 4096;

/// A node with some segments, whose recorder reads everything back in this time.
fn node(scrub: &str, transactions: u32) -> SmallNode {
    let mut node = SmallNode::before_its_first_write();
    node.home.set_in_backup_lock("scrub", json!(scrub));
    node.lightningd.end_logs_after(30);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
    assert!(first.is_continue());
    for _ in 0..transactions {
        node.commit();
    }
    node
}

fn names(backup: &Path, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(backup).expect("a backup").map(|entry| entry.expect("a file").file_name());
    let names = names.map(|name| name.into_string().expect("a name of ours")).filter(|name| name.starts_with(prefix));
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

/// Changes bytes in place, as rot does: a process that has the file open reads the new bytes.
fn rot(path: &Path, offset: u64, len: usize) {
    let file = fs::File::options().read(true).write(true).open(path).expect("a file to damage");
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).expect("its bytes");
    bytes.iter_mut().for_each(|byte| *byte ^= 0x10);
    file.write_all_at(&bytes, offset).expect("damage");
}

fn repair(arguments: &[&str], backup: &Path) -> cli::Ran {
    let arguments = [&["repair"], arguments].concat();
    let mut all: Vec<&std::ffi::OsStr> = arguments.iter().map(std::ffi::OsStr::new).collect();
    all.push(backup.as_os_str());
    cli::backupfs(&all)
}

fn verify(backup: &Path) -> cli::Ran {
    cli::backupfs(&["verify".as_ref(), "--quick".as_ref(), backup.as_os_str()])
}

/// Waits until `backup-status` says so of `scrub`.
#[track_caller]
fn until_scrub(node: &mut SmallNode, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut scrub = Value::Null;
    let is_so = until(TIMEOUT, || {
        scrub = node.backup_status()["scrub"].take();
        is_so(&scrub)
    });
    assert!(is_so, "{scrub}; {}", node.home.recorder_stderr());
    scrub
}

#[test]
fn the_recorder_finds_what_rots_and_writes_it_anew() {
    let mut node = node("8s", 60);
    let backup = node.home.backup();
    assert!(until(TIMEOUT, || names(&backup, "log-").len() <= 2), "not sealed");
    until_scrub(&mut node, |scrub| !scrub["last_complete"].is_null());
    let segment = backup.join(&names(&backup, "segment-")[1]);
    let sound = fs::read(&segment).expect("a segment");
    rot(&segment, sound.len() as u64 / 2, 1);
    let scrub =
        until_scrub(&mut node, |scrub| scrub["healed"].as_u64().max(scrub["pass"]["healed"].as_u64()) == Some(1));
    assert_eq!((&scrub["every"], &scrub["problem"]), (&json!("8s"), &Value::Null));
    assert!(until(TIMEOUT, || fs::read(&segment).is_ok_and(|bytes| bytes == sound)), "it is not written anew");
    let log = node.lightningd.recorder().expect("it runs").log_lines().join("\n");
    assert!(log.contains("parity mends that") && log.contains("is mended; check the disk"), "{log}");
    node.commit();
    node.stop();
    node.expect_all_recorded();
    repair(&[], &backup).expect_done("repair removes what was kept");
    verify(&backup).expect_done("verify");
    assert!(node.home.lightning_dir().join("backupfs.scrub").exists(), "the next run goes on from there");
}

#[test]
fn what_rots_in_the_newest_log_is_put_right_while_the_recorder_runs() {
    let mut node = node("24s", 2);
    for _ in 0..3 {
        node.commit();
    }
    let backup = node.home.backup();
    let log = backup.join(names(&backup, "log-").last().expect("a log"));
    // The recorder has read it.
    assert!(until(TIMEOUT, || node.backup_status()["replay"]["through"].as_u64() >= Some(5)));
    let sound = fs::read(&log).expect("a log");
    rot(&log, 64 + 200, 3);
    let has_said = |node: &mut SmallNode, text: &str| {
        node.lightningd.recorder().expect("it runs").log_lines().iter().any(|line| line.contains(text))
    };
    assert!(until(TIMEOUT, || has_said(&mut node, "was in memory")), "{}", node.home.recorder_stderr());
    assert_eq!(fs::read(&log).expect("a log"), sound);
    node.expect_all_recorded();
    // Its last record, too, which nothing else would miss.
    let end = used(&fs::read(&log).expect("a log")) as u64;
    rot(&log, end - 30, 1);
    assert!(until(TIMEOUT, || fs::read(&log).is_ok_and(|bytes| bytes == sound)), "{}", node.home.recorder_stderr());
    assert!(node.backup_status()["scrub"]["problem"].is_null());
    node.commit();
    node.stop();
    verify(&backup).expect_done("verify");
    node.start();
    node.commit();
    node.stop();
    node.expect_all_recorded();
}

#[test]
fn what_parity_does_not_mend_is_said_with_the_way_out() {
    let mut node = node("8s", 60);
    let backup = node.home.backup();
    assert!(until(TIMEOUT, || names(&backup, "log-").len() <= 2), "not sealed");
    node.stop();
    let other = node.home.join("other");
    cli::run(std::process::Command::new("cp").arg("-a").args([&backup, &other])).expect_done("a copy");
    let segment = names(&backup, "segment-").remove(0);
    rot(&backup.join(&segment), fs::metadata(backup.join(&segment)).expect("a segment").len() / 2, 2);
    // One byte of each of its parity blocks, which end the file.
    let parity = backup.join(format!("parity-{segment}"));
    let len = fs::metadata(&parity).expect("its parity").len();
    (1..=len / BLOCK).for_each(|block| rot(&parity, len - block * BLOCK, 1));
    node.start();
    node.commit();
    let scrub = until_scrub(&mut node, |scrub| !scrub["problem"].is_null());
    assert!(
        scrub["problem"].as_str().unwrap_or_default().contains("stop lightningd and run `backupfs repair --from COPY"),
        "{scrub}"
    );
    repair(&[], &backup).expect_refused(2, &["locked", "stop lightningd"]);
    node.stop();
    repair(&[], &backup).expect_refused(1, &["still damaged", "--from"]);
    let mended = repair(&["--from", other.to_str().expect("a path"), "--json"], &backup).expect_done("repair");
    let mended = mended.json_lines().pop().expect("one object");
    assert_eq!((&mended["clean"], mended["mended"].as_array().map(Vec::len)), (&json!(true), Some(1)), "{mended}");
    node.start();
    node.commit();
    until_scrub(&mut node, |scrub| !scrub["last_complete"].is_null() && scrub["problem"].is_null());
    node.stop();
    node.expect_all_recorded();
    let foreign = SmallNode::created();
    let foreign = foreign.home.backup();
    repair(&["--from", foreign.to_str().expect("a path")], &backup).expect_refused(2, &["another backup"]);
}

/// Where the records of the newest log end, which has no parity.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1)
}

/// One flipped bit anywhere in the sealed files costs no version: a mount serves all of them, and a restore works.
#[test]
fn twenty_flips_cost_nothing() {
    const FLIPS: u64 = 20;
    let mut node = node("off", 200);
    let backup = node.home.backup();
    assert!(until(TIMEOUT, || names(&backup, "log-").len() <= 2), "not sealed");
    node.stop();
    let files: Vec<(PathBuf, u64)> = names(&backup, "")
        .into_iter()
        .map(|name| backup.join(name))
        .map(|path| {
            let bytes = fs::read(&path).expect("a file");
            let is_log = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"log-"));
            let len = if is_log { 0 } else { used(&bytes) };
            (path, len as u64)
        })
        .filter(|(_, len)| *len > 0)
        .collect();
    let total: u64 = files.iter().map(|(_, len)| len).sum();
    let mut random = Seeded::new(20);
    for flip in 0..FLIPS {
        let mut at = random.below(total);
        let (path, _) = files
            .iter()
            .find(|(_, len)| {
                at < *len || {
                    at -= len;
                    false
                }
            })
            .expect("within them");
        rot(path, at, 1);
        node.expect_restorable();
        if fuse_is_here() && flip % 5 == 0 {
            let mounted = Mounted::start(&backup);
            for version in [1, 50, 100, 150] {
                compare::sound(&mounted.database(version)).unwrap_or_else(|error| panic!("{path:?} {at}: {error}"));
            }
        }
        rot(path, at, 1);
    }
}

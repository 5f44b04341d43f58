//! A real `backupfs mount`, as what it appears to the system: who may start it, its type, its log, its memory.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::Node;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, geteuid, kill_process};

const TIMEOUT: Duration = Duration::from_secs(30);

const BACKUPFS: &str = env!("CARGO_BIN_EXE_backupfs");

fn root_with_fuse() -> bool {
    let here = geteuid().is_root() && File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !here {
        eprintln!("SKIPPED: needs root and /dev/fuse");
    }
    here
}

/// A mount whose standard error is a pipe that is not read yet.
struct Mounted {
    process: Child,
    mountpoint: PathBuf,
}

impl Mounted {
    fn start(node: &Node, options: &[&str], log: &str) -> Self {
        let mountpoint = node.mountpoint();
        let mut process = Command::new(BACKUPFS)
            .arg("mount")
            .args(options)
            .args([&node.backup_path(), &mountpoint])
            .env("BACKUPFS_LOG", log)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mounted = Self { process, mountpoint };
        assert!(line.starts_with("mounted"), "{line}");
        mounted
    }

    fn database(&self, version: u32) -> PathBuf {
        self.mountpoint.join(format!("versions/{version}/lightningd.sqlite3"))
    }

    /// Bytes of memory that it takes.
    fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
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

/// Waits for what another thread does; panics when it takes too long.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        // The receiver is gone after the timeout.
        let _: Result<(), _> = done.send(work());
    });
    result.recv_timeout(TIMEOUT).unwrap_or_else(|_| panic!("not in time: {what}"))
}

#[test]
fn a_mount_serves_although_its_log_is_not_read() {
    if !root_with_fuse() {
        return;
    }
    let node = Node::with_versions(3);
    // Every request is logged: a pipe has room for some 500, and what may wait for 10,000.
    let mut mounted = Mounted::start(&node, &[], "debug");
    let (names, file) = (mounted.mountpoint.join("versions"), mounted.database(3));
    let content = in_time("requests are answered", move || {
        for number in 0..15_000 {
            assert!(!names.join(format!("no-{number}")).exists());
        }
        fs::read(file).unwrap()
    });
    assert!(content.starts_with(b"SQLite format 3"));
    let mut stderr = mounted.process.stderr.take().unwrap();
    let log = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    // What is logged once there is room again.
    thread::sleep(Duration::from_millis(500));
    assert!(!mounted.mountpoint.join("versions/the-end").exists());
    kill_process(Pid::from_child(&mounted.process), Signal::TERM).unwrap();
    assert!(mounted.process.wait().unwrap().success());
    let log = in_time("the log ends", move || log.join().unwrap());
    let (before, after) = log.split_once(" messages were dropped, because").expect("the dropped messages are reported");
    let left_out: u64 = before.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(left_out > 1000, "{left_out}");
    assert!(before.contains("no-10") && !before.contains("no-14999") && after.contains("the-end"));
    assert!(after.contains("unmounted"), "{after}");
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// The kernel caches listings. That of a directory that grows is never shown again.
#[test]
fn a_version_is_listed_as_soon_as_latest_leads_to_it() {
    if !root_with_fuse() {
        return;
    }
    let mut node = Node::new();
    let mounted = Mounted::start(&node, &[], "warn");
    let root = mounted.mountpoint.clone();
    assert_eq!(names(&root), names(&root));
    assert!(!names(&root).contains(&"latest".to_owned()));
    for version in 1..=40_u32 {
        let (hour, minute) = (version / 60, version % 60);
        node.change(version);
        let (link, target) = (root.join("latest"), Path::new("versions").join(version.to_string()));
        in_time("latest leads to the version", move || {
            while fs::read_link(&link).ok().as_ref() != Some(&target) {
                thread::yield_now();
            }
        });
        assert!(names(&root).contains(&"latest".to_owned()));
        // Twice: the second one might come from the kernel.
        for _ in 0..2 {
            let listed = names(&root.join("versions"));
            assert!(listed.len() == version as usize && listed.contains(&version.to_string()), "{version}: {listed:?}");
            let listed = names(&root.join(format!("by-time/2026/11/22/{hour:02}h")));
            assert!(listed.contains(&format!("{minute:02}m00.000001s-v{version}")), "{version}: {listed:?}");
        }
    }
}

/// Programs such as `du` look into every directory, some of them again and again.
#[test]
fn the_kernel_lists_a_version_by_itself_once_it_was_listed() {
    if !root_with_fuse() {
        return;
    }
    let node = Node::with_versions(3);
    let mut mounted = Mounted::start(&node, &[], "debug");
    let directory = mounted.mountpoint.join("versions/2");
    for _ in 0..50 {
        assert_eq!(names(&directory), ["changes.sql", "info.json", "lightningd.sqlite3"]);
    }
    kill_process(Pid::from_child(&mounted.process), Signal::TERM).unwrap();
    let mut log = String::new();
    mounted.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let requests = |name: &str| log.lines().filter(|line| line.contains(name)).count();
    assert!(requests("READDIR") > 0, "{log}");
    // The beginning and the end of the first listing; a few of other directories.
    assert!(requests("READDIR") < 10 && requests("OPENDIR") < 3 && requests("RELEASEDIR") < 3, "{log}");
}

#[test]
fn memory_of_versions_that_were_held_open_is_given_back() {
    if !root_with_fuse() {
        return;
    }
    let mut node = Node::with_versions(1);
    let row = "x".repeat(300);
    let rows = format!(
        "INSERT INTO rows SELECT i, '{row}' FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < \
         3000) SELECT i FROM n)"
    );
    node.write(2, &[rows], "2026-11-22T00:02:00Z");
    // Each of them changes all pages: a mebibyte.
    const NEWEST: u32 = 120;
    for version in 3..=NEWEST {
        node.write(version, &["UPDATE rows SET version = version + 1".to_owned()], "2026-11-22T00:03:00Z");
    }
    let mounted = Mounted::start(&node, &["--cache-mb", "4"], "info");
    let read = |version| {
        let mut file = File::open(mounted.database(version)).unwrap();
        file.read_exact(&mut [0; 4096]).unwrap();
        file
    };
    drop(read(NEWEST));
    let before = mounted.resident_bytes();
    let held: Vec<File> = (3..NEWEST).map(read).collect();
    let during = mounted.resident_bytes();
    assert!(during > before + (80 << 20), "{before} {during}");
    drop(held);
    let since = Instant::now();
    while mounted.resident_bytes() > before + (24 << 20) {
        assert!(since.elapsed() < TIMEOUT, "{before} {during} {}", mounted.resident_bytes());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a script in a mount namespace of its own, in which everybody may use `/dev/fuse`, on a backup and a mount point of
/// the user nobody; `None` where that is not possible.
fn in_namespace(script: &str) -> Option<Output> {
    if !root_with_fuse() {
        return None;
    }
    let node = Node::with_versions(3);
    let place = tempfile::Builder::new().prefix("backupfs-nobody-").tempdir_in("/tmp").unwrap();
    let path = |name: &str| place.path().join(name);
    fs::copy(BACKUPFS, path("backupfs")).unwrap();
    for (name, mode) in [("", 0o755), ("backupfs", 0o755)] {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(path("mnt")).unwrap();
    // The other one may be in memory, where no program can be executed.
    fs::create_dir(path("node.bkp")).unwrap();
    for file in fs::read_dir(node.backup_path()).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), path("node.bkp").join(file.file_name())).unwrap();
    }
    let prepare = "set -e; cd $PLACE; chown -R 65534:65534 mnt node.bkp; mknod fuse c 10 229; chmod 666 fuse; \
                   mount --bind fuse /dev/fuse; : >conf; mount --bind conf /etc/fuse.conf; as_nobody='setpriv --reuid=65534 --regid=65534 --clear-groups --'; set +e;";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{prepare} {script}")]).env("PLACE", place.path()).env("LC_ALL", "C");
    match command.output() {
        Ok(output) if Path::new("/usr/bin/fusermount3").exists() => Some(output),
        _ => {
            eprintln!("SKIPPED: no unshare or no fusermount3 here");
            None
        }
    }
}

/// The exit code, and standard error.
fn ended(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[track_caller]
fn expect_reported(script: &str, parts: &[&str]) {
    let Some(output) = in_namespace(script) else { return };
    let (code, stderr) = ended(&output);
    assert!(code == Some(2) && parts.iter().all(|part| stderr.contains(part)), "{code:?}: {stderr}");
}

#[test]
fn the_type_of_the_mount_is_the_same_for_root_and_for_others() {
    let serve = |user: &str| {
        format!(
            "{user} ./backupfs mount node.bkp mnt >line & \
             for i in $(seq 200); do test -s line && break; sleep 0.05; done; \
             findmnt -n -t fuse.backupfs -o FSTYPE,SOURCE,OPTIONS $PLACE/mnt; {user} umount mnt || {user} fusermount3 -u mnt; wait"
        )
    };
    let mut reported = Vec::new();
    for user in ["", "$as_nobody"] {
        let Some(output) = in_namespace(&serve(user)) else { return };
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.len(), 3, "{user}: {text} {:?}", ended(&output));
        assert_eq!(words[0], "fuse.backupfs");
        assert!(words[1].starts_with("file:///tmp/backupfs-nobody-"), "{text}");
        let mut options: Vec<_> = words[2].split(',').map(str::to_owned).collect();
        options.retain(|option| !option.contains("_id="));
        options.sort();
        reported.push(options);
    }
    assert_eq!(reported[0], reported[1]);
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime", "default_permissions"] {
        assert!(reported[0].iter().any(|reported| reported == option), "{option}: {reported:?}");
    }
}

#[test]
fn a_process_that_may_not_mount_learns_what_is_missing() {
    let mount = "./backupfs mount node.bkp mnt";
    let container = "--device /dev/fuse --cap-add SYS_ADMIN";
    expect_reported(
        &format!("exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin -- {mount}"),
        &["CAP_SYS_ADMIN", container],
    );
    expect_reported(
        &format!("umount /dev/fuse; : >e; mount --bind e /dev/fuse; exec {mount}"),
        &["is not the", container],
    );
    expect_reported(
        &format!("exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs -- {mount}"),
        &["NoNewPrivileges=no"],
    );
    expect_reported(
        &format!("exec $as_nobody {mount} --allow-other"),
        &["`--allow-other` is for root only, unless /etc/fuse.conf has the line `user_allow_other`"],
    );
    expect_reported(&format!("chmod 600 /dev/fuse; exec $as_nobody {mount}"), &["no right to mount", "fuse3"]);
}

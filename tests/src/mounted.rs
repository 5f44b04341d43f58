//! A real `backupfs mount`, unmounted again whatever happens to the test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::skip::skipped;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::{NamedTempFile, TempDir};

use crate::binaries;

/// Longest wait for a mount to answer, or to be gone.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How soon a mount must show what was recorded.
const SOON: Duration = Duration::from_secs(1);

/// Waits until `condition` holds; panics when it does not within a second.
#[track_caller]
pub fn soon(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < SOON, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A mounted backup. Dropping it ends the daemon with SIGTERM and detaches what is still mounted.
pub struct Mounted {
    daemon: Child,
    mountpoint: TempDir,
    stderr: NamedTempFile,
    /// What it said when the mount answered.
    pub line: String,
}

/// `None`, with a loud line, where FUSE mounts are not possible at all; everything else that is wrong is for the tests
/// to find.
pub fn fuse_is_here() -> bool {
    let here = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !here {
        skipped("/dev/fuse cannot be opened here, nothing that needs a mount is tested");
    }
    here
}

impl Mounted {
    /// Mounts `backup` at a new temporary directory and waits until it answers.
    pub fn start(backup: &Path) -> Self {
        let mountpoint = tempfile::Builder::new().prefix("backupfs-mount-").tempdir().expect("a mount point");
        Self::start_at(backup, mountpoint)
    }

    /// Mounts `backup` at a directory of the caller's.
    pub fn start_at(backup: &Path, mountpoint: TempDir) -> Self {
        Self::start_within(backup, mountpoint, TIMEOUT)
    }

    /// The same, with a timeout longer than any mount in a test needs.
    pub fn start_within(backup: &Path, mountpoint: TempDir, timeout: Duration) -> Self {
        Self::start_by(&mut Command::new(binaries::backupfs()), backup, mountpoint, timeout)
    }

    /// The same by a command that is `backupfs`, in whatever surroundings.
    pub fn start_by(backupfs: &mut Command, backup: &Path, mountpoint: TempDir, timeout: Duration) -> Self {
        Self::start_command(backupfs.arg("mount"), backup, mountpoint, timeout)
    }

    /// The same by a command that is `backupfs mount`, with options.
    pub fn start_command(mount: &mut Command, backup: &Path, mountpoint: TempDir, timeout: Duration) -> Self {
        let stderr = NamedTempFile::new().expect("a temporary file");
        let mut daemon = mount
            .args([backup, mountpoint.path()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.reopen().expect("a second handle"))
            .spawn()
            .expect("backupfs starts");
        let mut stdout = BufReader::new(daemon.stdout.take().expect("BUG: the pipe was asked for"));
        let (said, heard) = mpsc::channel();
        // Reads to the end, so that the daemon never writes into a closed pipe.
        thread::spawn(move || {
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|length| length > 0) {
                // Nobody listens any more after the first line, which is fine.
                let _ = said.send(std::mem::take(&mut line));
            }
        });
        let line = heard.recv_timeout(timeout);
        let mounted = Self { daemon, mountpoint, stderr, line: line.clone().unwrap_or_default() };
        // An error drops `mounted` first, which cleans up.
        line.expect("backupfs mount says when the mount answers");
        mounted
    }

    /// What it said on standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.stderr.path()).expect("what the daemon said")
    }

    /// The process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// A path below the mount point.
    pub fn join(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path().join(relative)
    }

    /// The database file of a version.
    pub fn database(&self, data_version: impl std::fmt::Display) -> PathBuf {
        self.path().join(format!("versions/{data_version}/lightningd.sqlite3"))
    }

    /// Panics unless `latest` leads to this version within a second.
    #[track_caller]
    pub fn expect_newest_soon(&self, data_version: impl std::fmt::Display) {
        let target = PathBuf::from(format!("versions/{data_version}"));
        soon("latest leads to the newest version", || fs::read_link(self.join("latest")).is_ok_and(|to| to == target));
    }

    /// Asks the daemon to end, with SIGTERM, and waits for it.
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        let pid = Pid::from_child(&self.daemon);
        // It may be gone already.
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.daemon.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Ends the daemon with SIGKILL: the mount is stale then. The caller gets the mount point.
    pub fn kill(&mut self) -> &Path {
        self.daemon.kill().expect("killing the daemon");
        self.daemon.wait().expect("reaping the daemon");
        self.mountpoint.path()
    }

    /// Whether something is mounted there now.
    pub fn is_mounted(&self) -> bool {
        is_mounted(self.path())
    }
}

/// Whether something is mounted exactly at `path`.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the list of mounts");
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path))
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("backupfs mount said: {}", self.stderr());
        }
        if self.terminate().is_none() {
            eprintln!("backupfs mount (process {}) did not end at SIGTERM", self.daemon.id());
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
        // Only a daemon that failed leaves something mounted; the temporary directory must go all the same.
        while self.is_mounted() && unmount(self.mountpoint.path(), UnmountFlags::DETACH).is_ok() {}
    }
}

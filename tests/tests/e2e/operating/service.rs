//! A mount as a service: in the background, started by mount(8) or by systemd, logging to syslog or the journal.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;
use tests::cli::{self, Ran};
use tests::mounted::{fuse_is_here, is_mounted};
use tests::small_node::SmallNode;
use tests::{binaries, compare};

/// Nothing here takes as long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A mount point, unmounted when dropped: that ends the process behind it.
struct MountPoint(TempDir);

impl MountPoint {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("backupfs-mount-").tempdir().expect("a mount point"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        while is_mounted(self.path()) && unmount(self.path(), UnmountFlags::DETACH).is_ok() {}
    }
}

/// A socket that others send to.
struct Socket {
    directory: TempDir,
    socket: UnixDatagram,
}

impl Socket {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(directory.path().join("socket")).expect("a socket");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a time limit");
        Self { directory, socket }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn next(&self) -> String {
        let mut bytes = vec![0; 8192];
        let len = self.socket.recv(&mut bytes).expect("a message in time");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }
}

fn stopped_node() -> SmallNode {
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    node
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < TIMEOUT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Another test that starts a process shares all open files with it for an instant: then the mount is busy.
fn unmounted(mount: &MountPoint) {
    wait_until("nobody uses the mount", || unmount(mount.path(), UnmountFlags::empty()).is_ok());
}

fn run_with_syslog(program: &Path, syslog: &Socket, arguments: &[&OsStr]) -> Ran {
    cli::run(Command::new(program).args(arguments).env("BACKUPFS_SYSLOG", syslog.path()))
}

/// The process that said this to syslog: `<30>Nov 22 14:05:07 backupfs[4711]: mounted …`.
fn process_of(message: &str) -> u32 {
    let process = message.split_once("backupfs[").and_then(|(_, rest)| rest.split_once(']'));
    process.and_then(|(process, _)| process.parse().ok()).unwrap_or_else(|| panic!("no process in {message:?}"))
}

#[track_caller]
fn expect_serves_until_unmounted(node: &SmallNode, mount: &MountPoint, syslog: &Socket) {
    let said = syslog.next();
    assert!(said.contains("mounted") && said.contains(mount.path().to_str().expect("UTF-8")), "{said}");
    let process = PathBuf::from(format!("/proc/{}", process_of(&said)));
    compare::same_contents(&node.home.database(), &mount.path().join("latest/lightningd.sqlite3"), &[])
        .expect("the newest version");
    let stat = fs::read_to_string(process.join("stat")).expect("a process");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    assert_eq!(fields[3], process_of(&said).to_string(), "it leads a session of its own: {stat}");
    assert_eq!(fs::read_link(process.join("cwd")).expect("a link"), Path::new("/"), "it holds no other file system");
    for descriptor in ["0", "1", "2"] {
        assert_eq!(fs::read_link(process.join("fd").join(descriptor)).expect("a link"), Path::new("/dev/null"));
    }
    unmounted(mount);
    wait_until("the process ends", || {
        !process.exists() || fs::read_to_string(process.join("stat")).is_ok_and(|stat| stat.contains(") Z "))
    });
    assert!(syslog.next().contains("unmounted"));
}

#[test]
fn a_mount_in_the_background_serves_and_logs_to_syslog() {
    if !fuse_is_here() {
        return;
    }
    let (node, mount, syslog) = (stopped_node(), MountPoint::new(), Socket::new());
    let backup = node.home.backup();
    let arguments = ["mount", "--daemon"].map(OsStr::new);
    let arguments = [&arguments[..], &[backup.as_os_str(), mount.path().as_os_str()]].concat();
    let ran = run_with_syslog(&binaries::backupfs(), &syslog, &arguments).expect_done("mount --daemon");
    assert!(ran.stdout.starts_with("mounted ") && ran.stdout.lines().count() == 1, "{ran:?}");
    expect_serves_until_unmounted(&node, &mount, &syslog);
}

#[test]
fn what_goes_wrong_before_it_answers_is_said_where_it_was_started() {
    let (node, syslog) = (stopped_node(), Socket::new());
    let (backup, nowhere) = (node.home.backup(), node.home.join("nowhere"));
    let arguments = ["mount".as_ref(), "--daemon".as_ref(), backup.as_os_str(), nowhere.as_os_str()];
    let ran = run_with_syslog(&binaries::backupfs(), &syslog, &arguments);
    ran.expect_refused(2, &["does not exist", "mkdir -p", "nothing is mounted"]);
}

/// As mount(8) does for a line in fstab.
#[test]
fn mount_starts_it_by_another_name() {
    if !fuse_is_here() {
        return;
    }
    let (node, mount, syslog) = (stopped_node(), MountPoint::new(), Socket::new());
    let helper = node.home.join("mount.fuse.backupfs");
    symlink(binaries::backupfs(), &helper).unwrap();
    let url = format!("file://{}", node.home.backup().display());
    let arguments = |options: &'static str| {
        [url.as_ref(), mount.path().as_os_str(), "-n".as_ref(), "-o".as_ref(), options.as_ref()]
    };
    let refused = run_with_syslog(&helper, &syslog, &arguments("rw,secret=x"));
    assert!(refused.code == 1 && refused.stderr.contains("unknown option secret=x"), "{refused:?}");
    assert!(!is_mounted(mount.path()));
    run_with_syslog(&helper, &syslog, &arguments("rw,noauto,_netdev,cache_mb=32")).expect_done("mount.fuse.backupfs");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts.contains(&format!("{url} {} fuse", mount.path().display())), "{mounts}");
    expect_serves_until_unmounted(&node, &mount, &syslog);

    let nothing = node.home.join("nothing.bkp");
    let ran = run_with_syslog(&helper, &syslog, &[nothing.as_os_str(), mount.path().as_os_str()]);
    assert!(ran.code == 32 && ran.stderr.contains("nothing.bkp"), "{ran:?}");
}

#[test]
fn systemd_hears_when_it_is_ready_and_the_journal_how_bad_a_message_is() {
    if !fuse_is_here() {
        return;
    }
    let (node, mount, notify) = (stopped_node(), MountPoint::new(), Socket::new());
    let stderr = node.home.join("journal");
    let journal = File::create(&stderr).unwrap();
    let metadata = journal.metadata().unwrap();
    let mut service = Command::new(binaries::backupfs())
        .arg("mount")
        .args([node.home.backup().as_path(), mount.path()])
        .env("NOTIFY_SOCKET", notify.path())
        .env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()))
        .env_remove("BACKUPFS_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(journal)
        .spawn()
        .unwrap();
    let ready = notify.next();
    assert!(ready.contains("READY=1") && ready.contains("STATUS=2 versions"), "{ready}");
    compare::same_contents(&node.home.database(), &mount.path().join("latest/lightningd.sqlite3"), &[]).unwrap();
    unmounted(&mount);
    assert!(notify.next().contains("STOPPING=1"));
    assert!(service.wait().unwrap().success());
    let said = fs::read_to_string(&stderr).unwrap();
    assert!(said.starts_with("<6>unmounted "), "{said}");
}

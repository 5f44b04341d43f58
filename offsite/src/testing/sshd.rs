//! [`Sshd`]: an OpenSSH server of this user, on loopback, with keys of its own.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

use crate::store::{Limits, SftpStore, SftpUrl, Store, StoreUrl};

/// Where Debian has it; it insists on being started by its whole path.
const PROGRAM: &str = "/usr/sbin/sshd";

/// What the server lets be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// To list and to read.
    ReadOnly,
}

/// A server that is ended with the test, however that ends.
pub struct Sshd {
    directory: TempDir,
    child: Child,
    port: u16,
}

impl fmt::Debug for Sshd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sshd").field(&self.port).finish()
    }
}

/// Says past the test harness, which shows what a test prints only when it fails, that something cannot be tested here.
fn skipped(why: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {why}");
}

impl Sshd {
    /// A server; `None`, with a word about it, where there is none.
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn start(access: Access) -> Option<Self> {
        if !Path::new(PROGRAM).exists() || Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_err() {
            skipped("sshd or ssh is not installed (openssh-server, openssh-client)");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        for key in ["host", "other", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", &path(key)])
                .stdin(Stdio::null())
                .status();
            assert!(made.expect("ssh-keygen").success());
        }
        fs::copy(path("user.pub"), path("authorized")).expect("a key");
        fs::create_dir(path("home")).expect("a directory");
        // As root it wants an empty directory.
        if getuid().is_root() {
            let _ = fs::create_dir_all("/run/sshd");
        }
        // Without it, a user who is not root cannot find out that the account is not locked.
        let pam = if getuid().is_root() { "no" } else { "yes" };
        let options = if access == Access::ReadOnly { " -R" } else { "" };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM {pam}\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\n\
             MaxStartups 100\nSubsystem sftp internal-sftp{options}\n",
            path("host"),
            path("authorized"),
        );
        fs::write(path("sshd_config"), config).expect("a file");
        let log = fs::File::create(path("log")).expect("a file");
        let child = Command::new(PROGRAM)
            .args(["-D", "-e", "-f", &path("sshd_config")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd");
        let sshd = Self { directory, child, port };
        sshd.know_host_key("host");
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", sshd.log());
            thread::sleep(Duration::from_millis(20));
        }
        let is_in = sshd.store("home", Limits::default()).list("").is_ok();
        if !is_in && sshd.log().contains("not allowed because") {
            skipped(&format!("sshd does not let this user in: {}", sshd.log().trim()));
            return None;
        }
        Some(sshd)
    }

    /// Has the client expect this key of the server: `host`, which it has, `other`, or none.
    ///
    /// # Panics
    /// When its files cannot be written.
    pub fn know_host_key(&self, key: &str) {
        let public = fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap_or_default();
        let known = if public.is_empty() { String::new() } else { format!("[127.0.0.1]:{} {public}", self.port) };
        fs::write(self.path("known_hosts"), known).expect("a file");
        self.log_in_with("user");
    }

    /// Has the client log in with this key: `user`, which the server knows, or `other`.
    ///
    /// # Panics
    /// When its files cannot be written.
    pub fn log_in_with(&self, key: &str) {
        let config = format!(
            "Host *\nIdentityFile {}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {}\n\
             GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n",
            self.path(key).display(),
            self.path("known_hosts").display(),
        );
        fs::write(self.path("ssh_config"), config).expect("a file");
    }

    /// A file or directory of the server's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The URL of a directory of the server's.
    ///
    /// # Panics
    /// When the name makes no URL.
    pub fn url(&self, name: &str) -> StoreUrl {
        let config = self.path("ssh_config").display().to_string();
        let text = format!("sftp://127.0.0.1:{}{}?config={config}", self.port, self.path(name).display());
        text.parse().expect("a URL")
    }

    /// The store in a directory of the server's.
    ///
    /// # Panics
    /// When the name makes no URL.
    pub fn store(&self, name: &str, limits: Limits) -> SftpStore {
        let StoreUrl::Sftp(url) = self.url(name) else { panic!("a directory of a server") };
        SftpStore::new(SftpUrl { port: Some(self.port), ..url }, limits)
    }

    /// The processes that serve connections.
    fn sessions(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        let mut above = vec![self.child.id()];
        while let Some(process) = above.pop() {
            let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()) {
                above.push(child);
                found.extend(i32::try_from(child).ok().and_then(Pid::from_raw));
            }
        }
        found
    }

    /// Sends a signal to all that serve connections; says how many those are.
    pub fn signal_sessions(&self, signal: Signal) -> usize {
        let sessions = self.sessions();
        for session in &sessions {
            let _ = kill_process(*session, signal);
        }
        sessions.len()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.signal_sessions(Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! [`Remote`]: a node with a copy in a store that is not a directory, and a drawer with what its operator keeps elsewhere.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use offsite::testing::FaultyServer;
use serde_json::Value;
use tempfile::TempDir;
use tests::binaries;
use tests::cli::{self, Ran};
use tests::compare;
use tests::small_node::SmallNode;

use super::shipped::{TIMEOUT, node_with_keys, write_private};

/// Between two looks at something that a process is started for.
const PAUSE: Duration = Duration::from_millis(100);

/// `backupfs` as on a machine of its own: with another home, and no credentials in its environment.
pub fn backupfs_of(home: &Path) -> Command {
    let mut command = Command::new(binaries::backupfs());
    command.env("HOME", home).env("XDG_CACHE_HOME", home.join("cache"));
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env_remove("AWS_SESSION_TOKEN");
    command
}

/// Writes the words on a sheet to a file.
pub fn write_words(sheet: &Ran, file: &Path) {
    let lines = sheet.stdout.lines().filter(|line| line.starts_with("  ") && line.contains(". "));
    write_private(file, lines.collect::<Vec<_>>().join("\n"));
}

/// Waits until something is so that a process must be started to know.
pub fn until_seen(is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

/// A node that has stopped, and a store for its copy.
pub struct Remote {
    pub node: SmallNode,
    pub url: String,
    /// The credentials of the store, if it has any, and the words: not on the machine of the node.
    drawer: TempDir,
}

impl Remote {
    pub fn new(url: impl ToString) -> Self {
        Self { node: node_with_keys(), url: url.to_string(), drawer: tempfile::tempdir().expect("a directory") }
    }

    /// In a bucket.
    pub fn in_bucket(server: &FaultyServer) -> Self {
        let remote = Self::new(server.url("node"));
        remote.set_credentials(&FaultyServer::credentials_file());
        remote
    }

    pub fn set_credentials(&self, text: &str) {
        write_private(&self.credentials(), text);
    }

    pub fn credentials(&self) -> PathBuf {
        self.drawer("credentials")
    }

    /// A path in the drawer.
    pub fn drawer(&self, name: &str) -> PathBuf {
        self.drawer.path().join(name)
    }

    pub fn dir(&self) -> PathBuf {
        self.node.home.lightning_dir()
    }

    /// `backupfs` with these arguments.
    pub fn run(&self, arguments: &[&dyn AsRef<OsStr>]) -> Ran {
        let arguments = arguments.iter().map(|argument| argument.as_ref());
        cli::run(backupfs_of(self.drawer.path()).args(arguments))
    }

    /// `offsite add`, with these options and the credentials, if there are any.
    pub fn add(&self, options: &[&str]) -> Ran {
        self.add_at(&self.url, options)
    }

    /// The same of another URL.
    pub fn add_at(&self, url: &str, options: &[&str]) -> Ran {
        let mut command = backupfs_of(self.drawer.path());
        command.args(["offsite", "add", "--lightning-dir"]).arg(self.dir()).args(options);
        cli::run(self.with_credentials(&mut command).arg(url))
    }

    /// `command` with the option for the credentials, if there are any.
    fn with_credentials<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        match self.credentials() {
            path if path.exists() => command.arg("--credentials").arg(path),
            _ => command,
        }
    }

    pub fn ship(&self) -> Ran {
        self.run(&[&"ship", &"--lightning-dir", &self.dir(), &"--once"])
    }

    /// Ships what is left after the recorder has ended.
    #[track_caller]
    pub fn expect_shipped(&self) {
        assert!(until_seen(|| self.ship().code == 0), "{:?}", self.ship());
    }

    /// How all copies stand.
    pub fn list(&self) -> Value {
        let ran = self.run(&[&"offsite", &"list", &"--lightning-dir", &self.dir(), &"--json"]);
        serde_json::from_str(&ran.expect_done("offsite list").stdout).expect("JSON")
    }

    /// The file with the words of the copy, written on first use.
    pub fn words(&self) -> PathBuf {
        let words = self.drawer("words");
        if !words.exists() {
            let sheet = self.run(&[&"offsite", &"sheet", &"--lightning-dir", &self.dir(), &self.url]);
            write_words(&sheet.expect_done("offsite sheet"), &words);
        }
        words
    }

    /// A command that reads the copy with what is in the drawer; its name and options come first.
    pub fn reading(&self, command: &[&str]) -> Command {
        let mut reading = backupfs_of(self.drawer.path());
        reading.args(command).arg("--words").arg(self.words());
        self.with_credentials(&mut reading);
        reading
    }

    /// The same, run on the copy.
    pub fn read(&self, command: &[&str]) -> Ran {
        cli::run(self.reading(command).arg(&self.url))
    }

    /// The newest version in the copy.
    pub fn newest(&self) -> Option<u64> {
        let ran = self.read(&["status", "--json"]);
        serde_json::from_str::<Value>(&ran.stdout).ok()?["data_version"].as_u64()
    }

    /// Waits until the copy has the newest version of the node.
    #[track_caller]
    pub fn expect_newest_soon(&self) {
        let newest = Some(u64::from(self.node.data_version().get()));
        assert!(until_seen(|| self.newest() == newest), "{:?} of {newest:?}; {}", self.newest(), self.list());
    }

    /// Restores on a machine that has nothing but the drawer; gives what was said, and the database.
    pub fn restore(&self, options: &[&str]) -> (Ran, PathBuf) {
        let machine = tempfile::tempdir_in(self.drawer.path()).expect("a directory").keep();
        let directory = machine.join("bitcoin");
        let mut restoring = self.reading(&[&["restore", "--create"], options].concat());
        restoring.env("HOME", &machine).env("XDG_CACHE_HOME", machine.join("cache"));
        (cli::run(restoring.arg(&self.url).arg(&directory)), directory.join("lightningd.sqlite3"))
    }

    /// Expects that nothing is missing: the copy has what the node has, and says so.
    #[track_caller]
    pub fn expect_nothing_missing(&self) {
        let (ran, database) = self.restore(&[]);
        let ran = ran.expect_done("restore");
        assert!(ran.stderr.contains("nothing followed"), "{ran:?}");
        compare::same_contents(&self.node.home.database(), &database, &[]).expect("the copy has what the node has");
        fs::remove_file(database).expect("the file system works");
        let deep = self.read(&["verify", "--deep"]).expect_done("verify --deep");
        assert!(deep.stdout.contains("nothing is wrong"), "{deep:?}");
    }
}

//! [`Shipped`]: a node with keys, and its off-site copy.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tests::cli::{Ran, backupfs};
use tests::compare;
use tests::small_node::SmallNode;

/// Longest wait for what is shipped.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `backupfs` with arguments of several kinds.
pub fn run(arguments: &[&dyn AsRef<OsStr>]) -> Ran {
    backupfs(&arguments.iter().map(|argument| argument.as_ref()).collect::<Vec<_>>())
}

/// A node that has stopped, with a backup of some versions, and `hsm_secret`.
pub fn node_with_keys() -> SmallNode {
    let mut node = SmallNode::created();
    for _ in 0..5 {
        node.commit();
    }
    node.stop();
    write_private(&node.home.lightning_dir().join("hsm_secret"), [7; 32]);
    node
}

/// Writes a file that only its owner reads.
pub fn write_private(path: &Path, bytes: impl AsRef<[u8]>) {
    let _none: std::io::Result<()> = fs::remove_file(path);
    fs::write(path, bytes).expect("the file system works");
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).expect("the file system works");
}

/// A node with keys, and a directory for its copy.
pub struct Shipped {
    pub node: SmallNode,
    pub copy: PathBuf,
}

impl Shipped {
    pub fn new(options: &[&str]) -> Self {
        let node = node_with_keys();
        let shipped = Self { copy: node.home.join("node.copy"), node };
        shipped.add(options).expect_done("offsite add");
        shipped
    }

    pub fn dir(&self) -> PathBuf {
        self.node.home.lightning_dir()
    }

    pub fn add(&self, options: &[&str]) -> Ran {
        let dir = self.dir();
        let mut arguments: Vec<&OsStr> =
            vec!["offsite".as_ref(), "add".as_ref(), "--lightning-dir".as_ref(), dir.as_os_str()];
        arguments.extend(options.iter().map(OsStr::new));
        arguments.push(self.copy.as_os_str());
        backupfs(&arguments)
    }

    pub fn ship(&self) -> Ran {
        run(&[&"ship", &"--lightning-dir", &self.dir(), &"--once"])
    }

    pub fn secret(&self) -> PathBuf {
        self.dir().join("hsm_secret")
    }

    pub fn list(&self) -> Value {
        let ran = run(&[&"offsite", &"list", &"--lightning-dir", &self.dir(), &"--json"]).expect_done("offsite list");
        serde_json::from_str::<Value>(&ran.stdout).expect("JSON")[0].clone()
    }

    /// The newest version in the copy.
    pub fn newest(&self) -> Option<u64> {
        let ran = run(&[&"status", &"--json", &"--hsm-secret", &self.secret(), &self.copy]);
        serde_json::from_str::<Value>(&ran.stdout).ok()?["data_version"].as_u64()
    }

    /// Expects the copy to have what the node has.
    pub fn expect_equal(&self, options: &[&dyn AsRef<OsStr>]) {
        let to = tempfile::tempdir().expect("the file system works");
        let file = to.path().join("restored.sqlite3");
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"restore"];
        arguments.extend(options);
        arguments.extend::<[&dyn AsRef<OsStr>; 2]>([&self.copy, &file]);
        run(&arguments).expect_done("restore from the copy");
        compare::same_contents(&self.node.home.database(), &file, &[]).expect("the copy has what the node has");
    }
}

//! A temporary place for one node and its backup.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mountfs::demo::pretend_lightningd::{PretendLightningd, PretendSettings, RecorderStderr};
use tempfile::TempDir;

use crate::{binaries, cli, guard};

/// A lightning-dir, a backup beside it, and room for more. Removed when dropped.
pub struct Home(TempDir);

impl Home {
    /// Empty, but for the lightning-dir.
    pub fn new() -> Self {
        guard::note();
        let home = Self(tempfile::Builder::new().prefix("backupfs-test-").tempdir().expect("a temporary directory"));
        fs::create_dir(home.lightning_dir()).expect("the lightning-dir");
        home
    }

    /// As [`new`](Self::new), on the disk: where the order in which things happen is that of a disk.
    pub fn on_disk() -> Self {
        guard::note();
        let made = tempfile::Builder::new().prefix("backupfs-test-").tempdir_in("/var/tmp");
        let home = Self(made.expect("a temporary directory"));
        fs::create_dir(home.lightning_dir()).expect("the lightning-dir");
        home
    }

    /// As [`new`](Self::new), in memory where the machine has a place for that: for files that are written again and again.
    pub fn in_memory() -> Self {
        guard::note();
        let place = Path::new("/dev/shm");
        let made = tempfile::Builder::new().prefix("backupfs-test-").tempdir_in(place);
        let Ok(home) = made.map(Self) else { return Self::new() };
        fs::create_dir(home.lightning_dir()).expect("the lightning-dir");
        home
    }

    /// A path in here.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// The node's directory.
    pub fn lightning_dir(&self) -> PathBuf {
        self.join("regtest")
    }

    /// The node's database.
    pub fn database(&self) -> PathBuf {
        self.lightning_dir().join("lightningd.sqlite3")
    }

    /// The backup.
    pub fn backup(&self) -> PathBuf {
        self.join("node.bkp")
    }

    /// `backup.lock` of the node.
    pub fn backup_lock(&self) -> PathBuf {
        self.lightning_dir().join("backup.lock")
    }

    /// `backupfs init`, which must succeed.
    pub fn init(&self) -> cli::Ran {
        let [lightning_dir, backup] = [self.lightning_dir(), self.backup()];
        cli::backupfs(&["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()])
            .expect_done("backupfs init")
    }

    /// A node here with the real recorder, whose standard error goes to [`recorder_stderr`](Self::recorder_stderr).
    pub fn lightningd(&self) -> PretendLightningd {
        let mut settings = PretendSettings::new(binaries::backup_recorder(), self.lightning_dir());
        settings.stderr = RecorderStderr::AppendedTo(self.join("recorder.stderr"));
        PretendLightningd::new(settings)
    }

    /// What recorders wrote to standard error so far.
    pub fn recorder_stderr(&self) -> String {
        fs::read_to_string(self.join("recorder.stderr")).unwrap_or_default()
    }

    /// Writes `backup.lock` over.
    pub fn write_backup_lock(&self, text: &str) {
        fs::write(self.backup_lock(), text).expect("writing backup.lock");
    }

    /// Adds a key to `backup.lock`.
    pub fn set_in_backup_lock(&self, key: &str, value: serde_json::Value) {
        let text = fs::read(self.backup_lock()).expect("reading backup.lock");
        let mut lock: serde_json::Value = serde_json::from_slice(&text).expect("backup.lock is JSON");
        lock[key] = value;
        self.write_backup_lock(&lock.to_string());
    }

    /// Sets `on_unreachable` in `backup.lock`; a `spool`, whatever it says, is the directory `spool` in here.
    pub fn set_on_unreachable(&self, mut policy: serde_json::Value) {
        if let Some(spool) = policy.get_mut("spool") {
            *spool = self.join("spool").to_str().expect("a path in UTF-8").into();
        }
        self.set_in_backup_lock("on_unreachable", policy);
    }

    /// Every file and directory in here with its bytes, to see later that nothing was touched.
    pub fn everything(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        everything(self.0.path())
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

/// Removes the parity of a backup, so that damage costs what it would without.
pub fn remove_parity(backup: &Path) {
    for entry in fs::read_dir(backup).expect("a backup") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("parity-")) {
            fs::remove_file(path).expect("it is there");
        }
    }
}

/// Every file (with its bytes), directory and symbolic link below `directory`.
pub fn everything(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        // A recorder that runs there removes files.
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_dir() {
            found.append(&mut everything(&path));
            found.insert(path, None);
        } else if meta.is_symlink() {
            found.insert(path.clone(), fs::read_link(&path).ok().map(|to| to.into_os_string().into_encoded_bytes()));
        } else {
            match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => drop(found.insert(path, Some(read.expect("reading a file")))),
            }
        }
    }
    found
}

//! A node's directory with a backup, as `backupfs init` leaves them, in a temporary place on a file system of choice.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::{BackupLock, BackupUrl, OnGap, OnUnreachable, create_backup};
use tempfile::TempDir;

use crate::sequence::Source;

/// Path of a file system without a disk.
const MEMORY: &str = "/dev/shm";

/// `f_type` of tmpfs in statfs(2).
const TMPFS_MAGIC: i128 = 0x0102_1994;

/// The lightning-dir, the backup, and room for more. Removed when dropped.
pub struct Node {
    dir: TempDir,
    /// URL of the backup.
    pub url: BackupUrl,
}

impl Node {
    /// A node that is about to make the first write of `source`, in a new directory within `place`.
    pub fn create(source: &Source, place: &Path) -> anyhow::Result<Self> {
        let inside = || format!("in {}", place.display());
        let dir =
            place.canonicalize().and_then(|place| tempfile::Builder::new().prefix("backupfs-bench-").tempdir_in(place));
        let dir = dir.with_context(|| format!("cannot make a temporary directory {}", inside()))?;
        let url = dir.path().join("node.bkp");
        let url: BackupUrl = url.to_str().context("the directory has a name that is no text")?.parse()?;
        let node = Self { dir, url };
        fs::create_dir(node.lightning_dir()).with_context(inside)?;
        // The recorder looks at the database when a run begins: at the right one, so that there is nothing to refuse.
        let database = node.lightning_dir().join("lightningd.sqlite3");
        let database = source.start_database(&database).then_some(database);
        let created = create_backup(&node.url, database.as_deref(), &mut |_| ControlFlow::Continue(()))?;
        let lock = BackupLock {
            backend_url: node.url.clone(),
            backup_uuid: Some(created.uuid),
            database: None,
            on_gap: OnGap::Stop,
            on_unreachable: OnUnreachable::Stop,
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        };
        lock.create(&node.lightning_dir())?;
        Ok(node)
    }

    /// The node's directory.
    pub fn lightning_dir(&self) -> PathBuf {
        self.join("regtest")
    }

    /// A path beside the backup, on the same file system.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The file system without a disk, where there is one.
pub fn memory() -> Option<&'static Path> {
    let found = Some(Path::new(MEMORY)).filter(|&path| path.is_dir() && is_tmpfs(path));
    if found.is_none() {
        eprintln!("SKIPPED: {MEMORY} is not a tmpfs here");
    }
    found
}

/// The directory of this program: the target directory, on any disk.
pub fn target_directory() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("where is this program?")?;
    let directory = program.ancestors().nth(2).context("this program does not lie in a target directory")?;
    Ok(directory.to_owned())
}

/// Whether `path` is on a file system without a disk.
pub fn is_tmpfs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|file_system| i128::from(file_system.f_type) == TMPFS_MAGIC)
}

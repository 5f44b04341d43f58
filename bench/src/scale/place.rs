//! Where the histories of a run are, and what is known of one that was made: in a temporary directory, or in one that is
//! kept to be measured again.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use common::{BackupUrl, DataVersion};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Whether anything is left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Everything is removed.
    Remove,
    /// The histories stay.
    Keep,
}

/// The directory of a run.
pub struct Place {
    path: PathBuf,
    /// Directory for the files of the nodes, where they are not beside the backups.
    nodes: Option<PathBuf>,
    /// Remove both.
    _temporary: Vec<TempDir>,
}

impl Place {
    /// A new directory within `dir`.
    pub fn create(dir: &Path, afterwards: Afterwards) -> anyhow::Result<Self> {
        let temporary = new_directory(dir, afterwards)?;
        Ok(Self { path: temporary.path().to_owned(), nodes: None, _temporary: vec![temporary] })
    }

    /// The same, with the files of the nodes in a new directory within `nodes`.
    pub fn create_apart(dir: &Path, nodes: &Path, afterwards: Afterwards) -> anyhow::Result<Self> {
        let mut place = Self::create(dir, afterwards)?;
        let temporary = new_directory(nodes, afterwards)?;
        place.nodes = Some(temporary.path().to_owned());
        place._temporary.push(temporary);
        Ok(place)
    }

    /// The directory of an earlier run.
    pub fn reuse(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.canonicalize().with_context(|| format!("there is no {}", dir.display()))?;
        Ok(Self { path, nodes: None, _temporary: Vec::new() })
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Directory of the history of this name, which need not exist.
    pub fn history(&self, name: &str) -> HistoryDir {
        HistoryDir { path: self.path.join(name), node: self.nodes.as_ref().map(|nodes| nodes.join(name)) }
    }
}

/// A new directory within `dir`.
fn new_directory(dir: &Path, afterwards: Afterwards) -> anyhow::Result<TempDir> {
    let failed = || format!("cannot make a temporary directory in {}", dir.display());
    let within = dir.canonicalize().with_context(failed)?;
    let mut temporary = tempfile::Builder::new().prefix("backupfs-scale-").tempdir_in(within).with_context(failed)?;
    if afterwards == Afterwards::Keep {
        temporary.disable_cleanup(true);
    }
    Ok(temporary)
}

/// A node's directory, its backup, and what is known of them.
#[derive(Debug, Clone)]
pub struct HistoryDir {
    path: PathBuf,
    /// Directory of the node's files, to which a link leads; `None` where they are beside the backup.
    node: Option<PathBuf>,
}

impl HistoryDir {
    /// The node's directory.
    pub fn lightning_dir(&self) -> PathBuf {
        self.path.join("regtest")
    }

    /// The node's database.
    pub fn database(&self) -> PathBuf {
        self.lightning_dir().join("lightningd.sqlite3")
    }

    /// The backup.
    pub fn backup(&self) -> PathBuf {
        self.path.join("node.bkp")
    }

    /// The same, as `common` names it.
    pub fn url(&self) -> anyhow::Result<BackupUrl> {
        Ok(self.backup().to_str().context("the directory has a name that is no text")?.parse()?)
    }

    /// A directory for what a measure needs, removed with what is returned.
    pub fn scratch(&self) -> anyhow::Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("scratch-").tempdir_in(&self.path)?)
    }

    /// Makes the directories.
    pub fn create(&self) -> anyhow::Result<()> {
        let failed = || format!("cannot make {}", self.path.display());
        match &self.node {
            None => fs::create_dir_all(self.lightning_dir()).with_context(failed),
            Some(node) => {
                fs::create_dir_all(&self.path).with_context(failed)?;
                fs::create_dir_all(node).with_context(failed)?;
                symlink(node, self.lightning_dir()).with_context(failed)
            }
        }
    }

    /// Description of the history; `None` when nothing was made here.
    pub fn made(&self) -> anyhow::Result<Option<Made>> {
        let path = self.note();
        if !path.exists() {
            return Ok(None);
        }
        let made: Made = serde_json::from_reader(File::open(&path)?).with_context(|| path.display().to_string())?;
        ensure!(self.backup().is_dir(), "{} is gone", self.backup().display());
        Ok(Some(made))
    }

    /// Notes what was made.
    pub fn set_made(&self, made: &Made) -> anyhow::Result<()> {
        Ok(fs::write(self.note(), serde_json::to_vec_pretty(made)?)?)
    }

    fn note(&self) -> PathBuf {
        self.path.join("made.json")
    }
}

/// The description of a history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    /// The trace whose laps were played.
    pub trace: String,
    /// Laps whose rows were there before the first version.
    pub laps_before: u64,
    /// The version of the snapshot.
    pub first_version: u32,
    /// Changes recorded, each a version.
    pub changes: u64,
    /// Time of the first of them, in microseconds since 1970.
    pub first_micros: i64,
    /// The database before them.
    pub database_bytes_before: u64,
    /// The database after them.
    pub database_bytes: u64,
    /// Their SQL.
    pub sql_bytes: u64,
    /// Their statements.
    pub statements: u64,
    /// The snapshot before them.
    pub snapshot_bytes: u64,
    /// Cost of making it.
    pub cost: Cost,
}

/// The cost of making a history.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Number of changes made: more may have been recorded since.
    pub changes: u64,
    /// Time to fill the database before the first version, in seconds.
    pub padding_s: f64,
    /// Time to record, with the node's own work, in seconds.
    pub recording_s: f64,
    /// Processor time of that in the thread that plays the node and records.
    pub recording_cpu_s: f64,
    /// Processor time in all other threads of the process meanwhile: those that seal.
    pub other_threads_cpu_s: f64,
    /// Time after the last change until everything was sealed, in seconds.
    pub waited_for_sealing_s: f64,
}

impl Made {
    /// The newest version.
    pub fn newest_version(&self) -> DataVersion {
        // As many changes as there are numbers of versions would wrap around.
        DataVersion::new(
            u32::try_from(self.changes).map_or(self.first_version, |changes| self.first_version.wrapping_add(changes)),
        )
    }

    /// Versions there are: that of the snapshot, and one for each change.
    pub fn versions(&self) -> u64 {
        self.changes + 1
    }

    /// Where the next change is among all that the laps have.
    pub fn position(&self, lap: u64) -> u64 {
        self.laps_before * lap + self.changes
    }
}

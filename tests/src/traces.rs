//! The recorded traces that lie beside the workspace, where they are there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::skip::skipped;
use common::DataVersion;
use mountfs::demo::trace::Trace;
use serde::Deserialize;

use crate::binaries::workspace;

/// Environment variable that says where the traces are.
const WHERE: &str = "BACKUPFS_TRACES";

/// Environment variable that has tests play every write of a trace.
const WHOLE: &str = "BACKUPFS_TRACES_WHOLE";

/// Whether traces are played whole.
pub fn are_whole() -> bool {
    std::env::var_os(WHOLE).is_some()
}

/// The folder of one trace.
#[derive(Debug, Clone)]
pub struct TraceFolder(PathBuf);

/// One crash of the trace `crash`.
#[derive(Debug, Clone, Deserialize)]
pub struct Crash {
    /// The version of the last write that reached the plugin.
    pub last_traced: u32,
    /// The version of the database afterwards.
    pub db_after_crash: u32,
    /// Whether the last write was not committed.
    pub lost_last: bool,
}

/// The trace of this name, such as `migrations/pubkey_regen`; `None`, with a loud line, where the traces are not here.
pub fn folder(name: &str) -> Option<TraceFolder> {
    let root = std::env::var_os(WHERE).map_or_else(|| workspace().join("../shared/traces"), PathBuf::from);
    let folder = root.join(name);
    if !folder.is_dir() {
        skipped(format_args!("no trace {}; set {WHERE} to the folder with the traces", folder.display()));
        return None;
    }
    Some(TraceFolder(folder))
}

/// The trace that is shipped with the sources.
pub fn shipped() -> TraceFolder {
    TraceFolder(workspace().join("mountfs/demo"))
}

impl TraceFolder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its events, from the first.
    pub fn events(&self) -> Trace<'static> {
        Trace::open(&self.0.join("db_write.jsonl.zst")).expect("a trace folder has a trace")
    }

    /// Writes the database before the first event to `to`; `false` when the node was new.
    pub fn start_database(&self, to: &Path) -> bool {
        self.unpack("start.sqlite3.zst", to)
    }

    /// Writes the database after the last event to `to`; `false` when it is not known.
    pub fn end_database(&self, to: &Path) -> bool {
        self.unpack("end.sqlite3.zst", to)
    }

    /// What is known of the crashes in it, if it is about crashes.
    pub fn crashes(&self) -> Vec<Crash> {
        let Ok(text) = fs::read_to_string(self.0.join("crashes.jsonl")) else { return Vec::new() };
        text.lines().map(|line| serde_json::from_str(line).expect("a crash")).collect()
    }

    /// Writes what is in the compressed file `name` to `to`; `false` where there is no such file.
    pub fn unpack(&self, name: &str, to: &Path) -> bool {
        let Ok(compressed) = File::open(self.0.join(name)) else { return false };
        let to = File::create(to).expect("a file for the database");
        zstd::stream::copy_decode(compressed, to).expect("an intact database in the trace");
        true
    }
}

impl Crash {
    /// The version of the database afterwards.
    pub fn after(&self) -> DataVersion {
        DataVersion::new(self.db_after_crash)
    }
}

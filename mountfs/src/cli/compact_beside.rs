//! `backupfs compact` of a backup that a node records to: it asks the node's recorder to compact, and waits.
//!
//! The kernel tells which process has the backup locked. A plugin of `lightningd` runs in the lightning-dir, where the node's
//! socket is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use common::KeepPolicy;
use common::compact::{CompactionFields, Force, Stage};
use common::{Backup, BackupLock, BackupUrl, LockStatus};
use serde_json::{Map, Value};

use super::Failure;
use super::compact::Bars;
use crate::restore::lightning_rpc::{LightningRpc, RpcError};

/// The interval of the queries for progress.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The timeout of such a query.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The directory of the node that records to a backup; `None` when it is not visible from here.
pub(super) fn recording_node(backup: &Path) -> Option<PathBuf> {
    let url: BackupUrl = backup.to_str()?.parse().ok()?;
    let Ok(LockStatus::Held { process: Some(process) }) = Backup::open(&url).ok()?.look_at_lock() else { return None };
    let lightning_dir = fs::read_link(format!("/proc/{process}/cwd")).ok()?;
    // The lock may belong to another program, which cannot be asked.
    let lock = BackupLock::read(&lightning_dir).ok()?;
    let is_same = fs::canonicalize(lock.backend_url.path()).ok()? == fs::canonicalize(backup).ok()?;
    (is_same && LightningRpc::connect(&lightning_dir).is_ok()).then_some(lightning_dir)
}

/// Has the recorder of the node in `lightning_dir` compact the backup.
///
/// # Errors
/// Its error, or that it does not answer. After an interrupt the recorder continues.
pub(super) fn compact_beside(
    lightning_dir: &Path,
    policy: &KeepPolicy,
    force: Force,
    interrupted: &AtomicBool,
    bars: &mut Bars,
) -> Result<CompactionFields, Failure> {
    let asked = |error: RpcError| {
        let context = format!("the recorder of the node in {} has not compacted the backup", lightning_dir.display());
        Failure::Failed(anyhow::Error::new(error).context(context))
    };
    let options = policy.options().map(|(name, span)| (name.to_owned(), Value::from(span.to_string())));
    let options = options.chain((force == Force::Yes).then(|| ("force".to_owned(), Value::from(true))));
    let params = Value::Object(options.collect::<Map<_, _>>());
    let rpc = LightningRpc::connect(lightning_dir).map_err(|error| asked(error.into()))?;
    let method = BackupLock::compact_method(lightning_dir);
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || answer.send(rpc.call(method, &params, None)));
    let result = loop {
        match answered.recv_timeout(LOOK_EVERY) {
            Ok(result) => break result.map_err(asked)?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Failed(anyhow::anyhow!("BUG: the thread with the answer has ended")));
            }
            Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::Relaxed) => {
                return Err(Failure::Failed(anyhow::anyhow!(
                    "interrupted; the recorder continues. `lightning-cli backup-status` shows how far it is"
                )));
            }
            Err(RecvTimeoutError::Timeout) => show_progress(lightning_dir, bars),
        }
    };
    serde_json::from_value(result).map_err(|error| asked(RpcError::NoAnswer(error.to_string())))
}

/// Shows the progress of the recorder; nothing without an answer.
fn show_progress(lightning_dir: &Path, bars: &mut Bars) {
    let status = LightningRpc::connect(lightning_dir)
        .map_err(RpcError::from)
        .and_then(|rpc| rpc.call("backup-status", &Value::Object(Map::new()), Some(TIMEOUT)));
    let under_way = status.map(|mut status| status["compaction"]["under_way"].take());
    if let Ok(under_way) = under_way
        && let Some(stage) = under_way["stage"].as_str().and_then(Stage::named)
    {
        let bytes = |name: &str| under_way[name].as_u64().unwrap_or(0);
        bars.show(stage, bytes("done_bytes"), bytes("total_bytes"));
    }
}

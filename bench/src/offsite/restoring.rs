//! The newest version, restored over a link of a known speed by a machine that has read nothing of the copy before.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tests::binaries;

use super::copied_node::{CopiedNode, PREFIX};
use crate::scale::measured::{settle, within};
use crate::watched::{self, Watched};

/// Requests for names of no kind.
const ALL: char = '*';

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// The link.
    pub link_mbit: u32,
    pub restores: Vec<Restore>,
    /// The same from the backup, on the same disk.
    pub from_backup: Watched,
}

/// One restore.
#[derive(Debug, Clone, Serialize)]
pub struct Restore {
    pub command: Watched,
    /// Requests to the server, by the first letter of what was asked for: `x` for snapshots, `s` for segments, `t` for logs.
    pub requests: BTreeMap<char, u64>,
    /// Bytes in the bodies of its answers.
    pub sent_bytes: u64,
    /// How long the link takes for them.
    pub link_s: f64,
}

impl Restore {
    /// The time of the restore beside that of the link.
    pub fn ratio(&self) -> f64 {
        self.command.seconds / self.link_s
    }
}

/// Restores so often.
pub fn measure(node: &CopiedNode<'_>, link_mbit: u32, times: u8) -> anyhow::Result<RestoreReport> {
    eprintln!("restoring at {link_mbit} Mbit/s");
    let bytes_per_second = u64::from(link_mbit) * 1_000_000 / 8;
    node.server.set_bandwidth(Some(bytes_per_second));
    let restores = (0..times).map(|_| restore(node, bytes_per_second)).collect::<anyhow::Result<Vec<_>>>();
    node.server.set_bandwidth(None);
    let scratch = node.history().scratch()?;
    let mut command = Command::new(binaries::backupfs());
    command.arg("restore").arg(node.history().backup()).arg(within(&scratch, "restored.sqlite3"));
    Ok(RestoreReport { link_mbit, restores: restores?, from_backup: watched::run(&mut command)? })
}

fn restore(node: &CopiedNode<'_>, bytes_per_second: u64) -> anyhow::Result<Restore> {
    let scratch = node.history().scratch()?;
    settle(scratch.path())?;
    let before = node.server.counts();
    let requests = Arc::new(Mutex::new(BTreeMap::new()));
    let counted = Arc::clone(&requests);
    node.server.plan(move |seen| {
        let kind = seen.name.strip_prefix(PREFIX).and_then(|name| name.chars().next());
        *counted.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.unwrap_or(ALL)).or_default() += 1;
        None
    });
    let mut command = node.reader("restore", &within(&scratch, "cache"));
    command.arg(within(&scratch, "restored.sqlite3"));
    let command = watched::run(&mut command);
    node.server.no_trouble();
    let sent_bytes = node.server.counts().bytes_out - before.bytes_out;
    let link_s = sent_bytes as f64 / bytes_per_second as f64;
    let requests = requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Restore { command: command?, requests, sent_bytes, link_s })
}

//! Whether a node's database may be started: the evidence that can be found, and what each piece of it is worth.
//!
//! | evidence | what it is worth |
//! | --- | --- |
//! | revocations | `emergency.recover` counts the revocations that each peer has sent. `lightningd` rewrites it after it has committed one, so it is never ahead of a database that is current: a database with fewer is an old state, for certain. Equal or more says less: the file can be one or two behind, and it is not rewritten for a commitment on which the node has no output to punish with |
//! | the backup | it has every commitment of both sides, so it also knows of the node's own. But only up to its own end |
//! | deadlines | HTLCs that have run out go to chain at once. A warning, not a reason |
//! | the keys | an `hsm_secret` of another node makes all other evidence worthless |
//!
//! What none of it knows: whether a `lightningd` with these keys runs on another machine.
//!
//! Everything is read, and nothing is written: a transaction that a crash left is rolled back in a copy.

mod against_backup;
pub mod backup_evidence;
pub mod channel_state;
pub mod deadlines;
pub mod finding;
pub mod key_file;
mod node_state;
mod readable;
pub mod report;
pub mod revocations;
pub mod witness;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::Backup;
use crate::preflight::against_backup::compare_with_backup;
use crate::preflight::deadlines::{AsOf, deadlines};
use crate::preflight::finding::Finding;
use crate::preflight::key_file::{KeyFileError, NodeKeys};
use crate::preflight::readable::ReadableDatabase;
use crate::preflight::report::{Fit, Report};
use crate::preflight::revocations::compare_revocations;
use crate::preflight::witness::Witness;
use crate::storage::causes::with_causes;
use format::units::Timestamp;

/// A question: the database, and where evidence is.
#[derive(Debug)]
pub struct Question<'a> {
    /// The database.
    pub database: &'a Path,
    /// The keys of the node, or why there are none.
    pub keys: Result<&'a NodeKeys, KeyFileError>,
    /// Files `emergency.recover`.
    pub witnesses: &'a [PathBuf],
    /// The backup.
    pub backup: BackupQuestion<'a>,
    /// A `lightningd` that uses this database, in words, if one was found.
    pub running: Option<String>,
    /// The time.
    pub now: Timestamp,
}

/// The backup that a database is compared with.
#[derive(Debug)]
pub enum BackupQuestion<'a> {
    /// None was named.
    None,
    /// One was named, and cannot be opened.
    Unopened {
        /// Its path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// One was opened.
    Opened {
        /// The backup.
        backup: &'a Arc<Backup>,
        /// The lightning-dir, where a marker may name a spool.
        lightning_dir: &'a Path,
        /// Whether the contents are compared.
        contents: Contents,
    },
}

/// How the contents of a database relate to those in the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// They are compared.
    Compare,
    /// The database was written from the backup a moment ago.
    JustWritten,
}

/// Answers the question. `watch` gets the number of pages compared, and their total.
///
/// What cannot be read or found out is a finding in the report, never an error.
pub fn preflight(question: &Question<'_>, watch: &mut dyn FnMut(u64, u64)) -> Report {
    let mut report = Report::new(question.database);
    if let Some(node) = &question.running {
        report.add(Finding::NodeRuns { node: node.clone() });
    }
    let keys = match &question.keys {
        Ok(keys) => Some(*keys),
        Err(error) => {
            report.add(Finding::NoKeys { reason: with_causes(error) });
            None
        }
    };
    let read = match ReadableDatabase::open(question.database).and_then(|database| {
        let read = database.read()?;
        Ok((database, read))
    }) {
        Ok(read) => Some(read),
        Err(error) => {
            report.add(Finding::DatabaseUnreadable { reason: with_causes(&error) });
            None
        }
    };
    let witnesses = keys.map(|keys| read_witnesses(question.witnesses, keys, &mut report)).unwrap_or_default();
    report.witnesses = witnesses.iter().map(Witness::seen).collect();
    let Some((database, read)) = read else { return report };
    report.data_version = Some(read.data_version);
    report.node_id = read.node_id;
    if database.is_rolled_back() {
        report.add(Finding::RolledBack);
    }
    // A witness of another node, such as a peer, may have the same channels, with the revocations of the other side.
    let is_other_node = keys.is_some_and(|keys| report.add_keys(keys) == Fit::OtherNode);
    let state = match &read.state {
        Ok(state) => Some(state),
        Err(error) => {
            report.add(Finding::DatabaseNotUnderstood { reason: with_causes(error) });
            None
        }
    };
    if let (Some(state), false) = (state, witnesses.is_empty() || is_other_node) {
        report.add_revocations(compare_revocations(state, &witnesses), &witnesses);
    }
    let mut as_of = AsOf::of_file(question.database);
    match &question.backup {
        BackupQuestion::None => {}
        BackupQuestion::Unopened { path, reason } => {
            report.add(Finding::BackupUnreadable { path: path.clone(), reason: reason.clone() });
        }
        BackupQuestion::Opened { backup, lightning_dir, contents } => {
            let recorded_at =
                compare_with_backup(backup, lightning_dir, *contents, &database, &read, &mut report, watch);
            as_of = recorded_at.map_or(as_of, |at| Some(AsOf::Recorded(at)));
        }
    }
    if let Some(state) = state {
        report.add_deadlines(deadlines(state, as_of, question.now), as_of, state.last_block);
    }
    report
}

/// Reads the files; those that cannot be read are findings.
fn read_witnesses(paths: &[PathBuf], keys: &NodeKeys, report: &mut Report) -> Vec<Witness> {
    if paths.is_empty() {
        report.add(Finding::NoWitness);
    }
    let mut witnesses = Vec::new();
    for path in paths {
        match Witness::read(path, keys.seed()) {
            Ok(witness) => witnesses.push(witness),
            Err(error) => report.add(Finding::WitnessUnreadable { reason: with_causes(&error) }),
        }
    }
    witnesses
}

#[cfg(test)]
mod tests;

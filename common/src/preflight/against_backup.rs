//! Comparison with the backup: which version is newer, whether the contents agree, and what was revoked in between.

use std::path::Path;
use std::sync::Arc;

use crate::backup::Backup;
use crate::backup::view::View;
use crate::history::History;
use crate::pages::{MountedOverlay, OverlayPages, PagesInRuns};
use crate::preflight::Contents;
use crate::preflight::backup_evidence::{BackupEvidence, Between, Position, RevokedBetween};
use crate::preflight::finding::Finding;
use crate::preflight::node_state::NodeState;
use crate::preflight::readable::{Read, ReadableDatabase};
use crate::preflight::report::Report;
use crate::segment::version::Version;
use crate::storage::causes::with_causes;
use crate::storage::read_error::ReadError;
use crate::verify::{Hold, compare_with_database};
use format::units::{DataVersion, Timestamp};
use format::version_rules::Commit;
use secrets::shachain::Revocations;

/// Adds the evidence of the backup to the report. Returns when the backup recorded the version of the database, if it did.
pub(super) fn compare_with_backup(
    backup: &Arc<Backup>,
    lightning_dir: &Path,
    contents: Contents,
    database: &ReadableDatabase,
    read: &Read,
    report: &mut Report,
    watch: &mut dyn FnMut(u64, u64),
) -> Option<Timestamp> {
    if let (Some(theirs), Some(ours)) = (backup.manifest().node_id, read.node_id)
        && theirs != ours
    {
        report.add(Finding::BackupOfOtherNode { path: backup.path().to_owned(), theirs, ours });
        return None;
    }
    let last_run = database.last_run();
    report.add_spool(&backup.spool_sight_beside(lightning_dir), read.data_version, last_run);
    let unreadable = |reason| Finding::BackupUnreadable { path: backup.path().to_owned(), reason };
    let (history, problem) = backup.read_history();
    if let Err(problem) = &problem {
        report.add(unreadable(with_causes(problem)));
    }
    let Some(newest) = history.newest_recorded() else {
        if problem.is_ok() {
            report.add(unreadable("it has no version yet".to_owned()));
        }
        return None;
    };
    let position = match newest.data_version.distance_from(read.data_version) {
        0 => Position::Newest,
        // lightningd died before it committed that, or is about to. It never ran on what was just restored.
        1 if newest.commit == Commit::Unknown && contents == Contents::Compare => Position::BeforeUncommitted(last_run),
        distance if distance > 0 => Position::Behind(distance.unsigned_abs()),
        distance => Position::Ahead(distance.unsigned_abs()),
    };
    let there = find(&history, read.data_version, report, &unreadable);
    let same = match (&there, contents) {
        (Some(_), Contents::JustWritten) => Some(true),
        (Some(_), Contents::Compare) => compare(backup, database, report, watch),
        (None, _) => None,
    };
    let mut evidence = BackupEvidence {
        path: backup.path().to_owned(),
        newest: newest.data_version,
        recorded_at: newest.recorded_at,
        position,
        same,
        between: None,
    };
    if let (Position::Behind(_) | Position::BeforeUncommitted(_), Ok(state)) = (position, &read.state) {
        // The newest that opens may be older.
        let version = history.newest().filter(|version| version.seq == newest.seq);
        let newest = version.ok_or_else(|| format!("version {} cannot be opened", newest.data_version));
        match newest.and_then(|version| state_of(backup, &history, version)) {
            Ok(newest) => evidence.between = Some(between(state, &newest)),
            Err(reason) => report.add(Finding::BetweenUnknown { reason }),
        }
    }
    report.add_backup(evidence);
    there.map(|version| version.recorded_at)
}

fn find(
    history: &History,
    version: DataVersion,
    report: &mut Report,
    unreadable: &dyn Fn(String) -> Finding,
) -> Option<Version> {
    history.version(version).unwrap_or_else(|error: ReadError| {
        report.add(unreadable(with_causes(&error)));
        None
    })
}

/// Whether the contents agree, as `verify --against` compares them.
fn compare(
    backup: &Arc<Backup>,
    database: &ReadableDatabase,
    report: &mut Report,
    watch: &mut dyn FnMut(u64, u64),
) -> Option<bool> {
    match compare_with_database(backup, database.path(), Hold::BESIDE_A_NODE, watch) {
        Ok(against) => {
            let mut tables: Vec<String> = against.differences.tables.iter().map(|it| it.table.clone()).collect();
            tables.extend(against.differences.schema.iter().map(|it| it.name.clone()));
            if !against.is_same() {
                report.add(Finding::Differs { version: against.data_version, tables });
            }
            Some(against.is_same())
        }
        Err(error) => {
            report.add(Finding::NotCompared { reason: with_causes(&error) });
            None
        }
    }
}

/// The channels of a version of the backup.
fn state_of(backup: &Arc<Backup>, history: &History, version: &Version) -> Result<NodeState, String> {
    let plan = history.plan(version).map_err(|error| with_causes(&error))?;
    let view = View::build(backup, &plan, None).map_err(|error| with_causes(&error.reason))?;
    let pages = PagesInRuns::new(Arc::new(view.pages().clone()), Arc::default());
    let mounted = MountedOverlay::new(OverlayPages::new(Arc::new(pages)));
    let read = mounted.connect().map_err(|error| with_causes(&error));
    let read = read.and_then(|connection| NodeState::read(&connection).map_err(|error| with_causes(&error)));
    match mounted.take_problem() {
        Some(problem) => Err(with_causes(&problem)),
        None => read,
    }
}

/// What was revoked from an older state to a newer one.
pub(super) fn between(older: &NodeState, newer: &NodeState) -> Between {
    let mut between = Between::default();
    for channel in &newer.channels {
        let Some(before) = older.channels.iter().find(|it| it.channel_id == channel.channel_id) else {
            between.opened += 1;
            continue;
        };
        if !channel.fundings.is_subset(&before.fundings) && !before.fundings.is_empty() {
            between.funded += 1;
        }
        let own = channel.next_own.saturating_sub(before.next_own);
        // A channel that was closed has no count in either, or none any more.
        let [theirs, theirs_before] = [channel, before].map(|it| it.theirs.map_or(0, Revocations::get));
        let theirs = theirs.saturating_sub(theirs_before);
        if own > 0 || theirs > 0 {
            between.revoked.push(RevokedBetween { channel_id: channel.channel_id, own, theirs });
        }
    }
    between
}

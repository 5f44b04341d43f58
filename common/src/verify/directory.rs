//! The names in a backup directory: their meaning, and those that do not belong there.

use std::collections::BTreeSet;

use super::finding::{Findings, Note, NoteAbout, Wrong};
use crate::backup::Backup;
use crate::backup::lock_status::LockStatus;
use crate::parity::mending::first_member;
use crate::spool::{SpoolNote, SpoolNoteError};
use crate::storage::{Access, Directory, TEMPORARY_ENDING, read_exact_at};
use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::parity::Protected;
use format::pruned_directory::PrunedRange;
use format::units::Seq;
use format::{Damage, names};

/// The files that the backup consists of.
#[derive(Debug, Default)]
pub(super) struct InUse {
    pub(super) segments: BTreeSet<Seq>,
    pub(super) logs: BTreeSet<Seq>,
    pub(super) snapshots: BTreeSet<Seq>,
    /// Segments that were dropped.
    pub(super) dropped: Vec<PrunedRange>,
}

/// Classifies the names: unused ones become notes or findings.
pub(super) fn check_names(
    backup: &Backup,
    names: &[String],
    in_use: &InUse,
    findings: &mut Findings,
    notes: &mut Vec<Note>,
) {
    let directory = &**backup.directory();
    let at_work = backup.look_at_lock().is_ok_and(|look| look != LockStatus::NotSeen);
    for name in names {
        let unused = match () {
            () if [
                names::MANIFEST,
                names::LOCK,
                names::PREALLOCATED,
                names::SPOOL_NOTE,
                names::PRUNED,
                names::CHECKED,
            ]
            .contains(&&**name) =>
            {
                None
            }
            () if names::parse_damaged(name).and_then(Protected::parse).is_some() => Some(Ok(NoteAbout::Kept)),
            // Those that are damaged are in the findings.
            () if first_member(name).is_some() => None,
            () if name == names::RESCUED => Some(Ok(NoteAbout::Rescued)),
            () if name.ends_with(TEMPORARY_ENDING) => Some(Ok(NoteAbout::Leftover)),
            () => match (names::parse_segment(name), names::parse_log(name), names::parse_snapshot(name)) {
                (Some(first), ..) if in_use.dropped.iter().any(|range| range.has(first)) => {
                    Some(Ok(NoteAbout::Leftover))
                }
                (Some(first), ..) => {
                    (!in_use.segments.contains(&first)).then_some(Err("readers take a log instead of it"))
                }
                (_, Some(first), _) => (!in_use.logs.contains(&first)).then(|| unused_log(backup, first, in_use)),
                // A snapshot in progress has no record yet.
                (.., Some(seq)) => (!in_use.snapshots.contains(&seq)).then_some(Ok(NoteAbout::Leftover)),
                (None, None, None) => Some(Ok(NoteAbout::Stranger)),
            },
        };
        // It may have been renamed or removed meanwhile, or be about to be if a recorder is running.
        let stays = || directory.open(name, Access::Read).map_or_else(|error| !error.is_not_found(), |_| true);
        match unused {
            Some(Ok(NoteAbout::Leftover)) if at_work => {}
            Some(_) if !stays() => {}
            Some(Ok(about)) => notes.push(Note { file: name.clone(), about }),
            Some(Err(why)) => drop(findings.add(name, None, Wrong::Stray { why })),
            None => {}
        }
    }
    check_lock(directory, findings);
    check_spool_note(directory, findings);
    if let Err(error) = backup.read_checked() {
        findings.add_read(&error);
    }
}

/// The kind of a log without readable records.
fn unused_log(backup: &Backup, first: Seq, in_use: &InUse) -> Result<NoteAbout, &'static str> {
    let mut bytes = [0; LOG_HEADER_LEN];
    let file = backup.directory().open(&names::log(first), Access::Read);
    let header =
        file.and_then(|file| read_exact_at(&*file, &mut bytes, 0)).ok().and_then(|_| LogHeader::decode(&bytes).ok());
    match header {
        Some(header) if header.uuid != backup.manifest().uuid => Err("it belongs to another backup"),
        Some(header) if header.first_seq != first => Err("it is a copy of another log"),
        Some(_) if in_use.segments.contains(&first) => Ok(NoteAbout::Leftover),
        Some(_) => Err("no log and no segment leads to it"),
        None => Err("it does not begin as a log"),
    }
}

/// Reports a missing lock file, without which no recorder can start.
fn check_lock(directory: &dyn Directory, findings: &mut Findings) {
    match directory.open(names::LOCK, Access::Read).and_then(|file| file.read_len()) {
        Ok(0) => {}
        Ok(_) => drop(findings.add(names::LOCK, Some(0), Wrong::Damaged(Damage::Contradiction("it should be empty")))),
        Err(error) => drop(findings.add_read(&error.into())),
    }
}

fn check_spool_note(directory: &dyn Directory, findings: &mut Findings) {
    match SpoolNote::read(directory) {
        Ok(_) => {}
        Err(SpoolNoteError::Storage(error)) => drop(findings.add_read(&error.into())),
        Err(SpoolNoteError::NotUnderstood { source, .. }) => {
            let reason = format!("it does not say where the spool is: {source}");
            findings.add(names::SPOOL_NOTE, None, Wrong::Unreadable { reason });
        }
    }
}

//! Removing the files of dropped segments.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::backup::Backup;
use crate::parity::sets::not_written;
use crate::segment::PrunedFile;
use crate::storage::read_error::ReadError;
use crate::storage::remove_if_present;
use format::names;
use format::parity::Protected;
use format::units::Seq;

/// The files to remove: dropped segments, and snapshots that are no longer needed, the oldest first.
pub(crate) fn removable(backup: &Backup, kept: &[Seq], pruned: &PrunedFile) -> Result<Vec<String>, ReadError> {
    let mut segments = BTreeSet::new();
    let mut snapshots = BTreeSet::new();
    for name in backup.directory().list()? {
        segments.extend(names::parse_segment(&name).filter(|first| pruned.range_of(*first).is_some()));
        let is_dropped = |seq: &Seq| pruned.ranges().iter().any(|range| range.seqs().contains(seq));
        snapshots.extend(names::parse_snapshot(&name).filter(is_dropped));
    }
    // The newest first, which most likely refers to it.
    for &first in kept.iter().rev() {
        if snapshots.is_empty() {
            break;
        }
        if let Some(id) = backup.segments().footer(first)?.snapshot {
            snapshots.remove(&id.seq);
        }
    }
    if !snapshots.is_empty() {
        for segment in pruned.pruned_segments() {
            if let Some(id) = backup.segments().footer(segment)?.snapshot {
                snapshots.remove(&id.seq);
            }
        }
    }
    Ok(segments.into_iter().map(names::segment).chain(snapshots.into_iter().map(names::snapshot)).collect())
}

/// Removes the files of dropped segments, which an interrupted compaction may have left. The caller has the lock; `kept` are the
/// segments that were not dropped. `watch` is called before each file and can stop it.
///
/// # Errors
/// When something cannot be read or removed. The next call removes the rest.
pub(crate) fn remove_dropped(
    backup: &Backup,
    kept: &[Seq],
    watch: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ReadError> {
    let Some(pruned) = backup.segments().pruned() else { return Ok(ControlFlow::Continue(())) };
    let names = removable(backup, kept, &pruned)?;
    if names.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    // The rename of `pruned` may not be durable yet.
    backup.directory().sync()?;
    let leaving: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let is_leaving = |file: Protected| leaving.contains(file.name().as_str());
    let released = backup.parity().release(&is_leaving, watch);
    match released {
        Ok(ControlFlow::Continue(())) => {}
        Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
        Err(error) => log::warn!("{}", not_written(&error)),
    }
    for name in names {
        if watch().is_break() {
            return Ok(ControlFlow::Break(()));
        }
        remove_if_present(&**backup.directory(), &name)?;
        remove_if_present(&**backup.directory(), &names::damaged(&name))?;
    }
    Ok(ControlFlow::Continue(()))
}

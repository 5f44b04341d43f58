//! The check of a new segment before it is renamed: the whole file is read back, as `verify` reads it, and compared with the
//! replay. Only then is the log removed.

use std::path::PathBuf;

use super::SealError;
use crate::backup::Backup;
use crate::check::log_replay::ReplayedLog;
use crate::check::segment_body::check_body;
use crate::check::segment_replay::compare_with_replay;
use crate::segment::SegmentFile;
use crate::storage::read_error::ReadError;
use format::read_sets::ReadSets;
use format::units::Keyframe;

/// Reads the file back: every checksum, the chain over all records, the page map against that of the previous segment, and every
/// image of every page against the replay, and the read sets.
///
/// # Errors
/// The first difference.
pub(super) fn expect_whole(
    backup: &Backup,
    file: &SegmentFile,
    log: &ReplayedLog,
    read_sets: &ReadSets,
    path_of_log: impl Fn() -> PathBuf,
) -> Result<(), SealError> {
    let differs = |what| Err(SealError::Differs { path: path_of_log(), what });
    let snapshot = file.footer().snapshot.map(|id| backup.full_snapshot(id)).transpose()?;
    let mut body = check_body(backup.segments(), file, snapshot.as_ref());
    match std::mem::take(&mut body.problems).into_iter().next() {
        Some(ReadError::Damaged { offset, damage, .. }) => return differs(format!("at byte {offset}: {damage}")),
        Some(error @ ReadError::Storage(_)) => return Err(error.into()),
        Some(error @ ReadError::NewestUnreadable { .. }) => return differs(error.to_string()),
        None => {}
    }
    if body.read_sets.as_ref() != Some(read_sets) {
        return differs("read sets".to_owned());
    }
    let keyframes = u32::try_from(log.intervals.len()).unwrap_or(u32::MAX);
    let compared = compare_with_replay(backup, file, &body, log, Keyframe(0)..Keyframe(keyframes))?;
    match compared.differences.into_iter().next() {
        Some(difference) => differs(difference.what),
        // The pages come from this very replay, so their layout must be equal.
        None if compared.other_layout > 0 => differs("pages of a keyframe".to_owned()),
        None => Ok(()),
    }
}

//! Whether a file is sound by its own checksums, whatever its parity says.

use std::sync::Arc;

use crate::check::segment_body::check_body;
use crate::pages::{ExpectedSnapshot, SnapshotFile};
use crate::segment::{PrunedFile, SegmentFile, Segments};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StorageError, StoredFile, read_on};
use format::checked::{CHECKED_LEN_MAX, CheckedSnapshots};
use format::manifest::{MANIFEST_LEN, Manifest};
use format::parity::Protected;
use format::snapshot::SNAPSHOT_FOOTER_LEN;
use format::units::Seq;
use uuid::Uuid;

/// Reads the file with this name, which may be temporary, as the file that it is or is going to be, and checks each of its checksums. A
/// snapshot must end with the checksum by which it is named, where that is known.
///
/// # Errors
/// When the directory does not answer. A file that cannot be read is not sound.
pub(crate) fn is_sound(
    directory: &Arc<dyn Directory>,
    uuid: Uuid,
    file: Protected,
    name: &str,
    named: Option<u32>,
) -> Result<bool, StorageError> {
    let checked = match file {
        Protected::Manifest => small(&**directory, name, MANIFEST_LEN + 1)
            .map(|bytes| Manifest::decode(&bytes).is_ok_and(|manifest| manifest.uuid == uuid)),
        Protected::Checked => {
            small(&**directory, name, CHECKED_LEN_MAX).map(|bytes| CheckedSnapshots::decode(&bytes, uuid).is_ok())
        }
        Protected::Pruned => pruned(directory, uuid, name),
        Protected::Snapshot(seq) => snapshot(&**directory, (uuid, seq), name, named),
        Protected::Segment(first) => segment(directory, uuid, first, name),
    };
    match checked {
        Ok(is_sound) => Ok(is_sound),
        Err(ReadError::Storage(error)) if error.is_not_found() => Err(error),
        Err(_) => Ok(false),
    }
}

fn small(directory: &dyn Directory, name: &str, len_max: usize) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    read_on(&*directory.open(name, Access::Read)?, &mut bytes, 0, len_max)?;
    Ok(bytes)
}

fn pruned(directory: &Arc<dyn Directory>, uuid: Uuid, name: &str) -> Result<bool, ReadError> {
    let (file, mut is_sound) = (PrunedFile::open_named(directory, uuid, name)?, true);
    file.check(&mut |_, _| is_sound = false);
    Ok(is_sound)
}

/// The log names the checksum at the end of a snapshot; here it is taken from there.
fn snapshot(
    directory: &dyn Directory,
    (uuid, seq): (Uuid, Seq),
    name: &str,
    named: Option<u32>,
) -> Result<bool, ReadError> {
    let file = directory.open(name, Access::Read)?;
    let Some(footer_checksum) = last_four(&*file)? else { return Ok(false) };
    if named.is_some_and(|named| named != footer_checksum) {
        return Ok(false);
    }
    let file = SnapshotFile::open_named(directory, name, ExpectedSnapshot { uuid, seq, footer_checksum })?;
    let mut pages = Vec::new();
    (0..file.groups()).try_for_each(|group| file.read_group(group, &mut pages))?;
    Ok(true)
}

/// The last four bytes of a snapshot; `None` for a file that is too short.
pub(super) fn last_four(file: &dyn StoredFile) -> Result<Option<u32>, StorageError> {
    let len = file.read_len()?;
    let mut last = [0; 4];
    if len < SNAPSHOT_FOOTER_LEN as u64 || file.read_at(&mut last, len - 4)? < last.len() {
        return Ok(None);
    }
    Ok(Some(u32::from_le_bytes(last)))
}

fn segment(directory: &Arc<dyn Directory>, uuid: Uuid, first: Seq, name: &str) -> Result<bool, ReadError> {
    let file = SegmentFile::open_named(&**directory, name, uuid, first)?;
    let body = check_body(&Segments::new(Arc::clone(directory), uuid), &file, None);
    // What is wrong with segments that it builds on is not its own fault.
    let is_own = |error: &ReadError| match error {
        ReadError::Damaged { path, .. } => path == file.path(),
        ReadError::Storage(error) => error.path == file.path(),
        ReadError::NewestUnreadable { .. } => false,
    };
    Ok(!body.problems.iter().any(is_own))
}

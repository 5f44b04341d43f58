//! A mended file written in place of the damaged one.

use std::io;

use super::{Repair, RepairError};
use crate::parity::code::Block;
use crate::parity::writing::Watch;
use crate::storage::{
    Access, Directory, FreeSpace, StorageError, StorageOp, TEMPORARY_ENDING, read_exact_at, remove_if_present,
};
use format::names;
use format::parity::{PARITY_BLOCK_LEN, Protected};

/// Bytes between syncs: a single sync of many could keep a slow disk busy for longer than the deadline of a call.
const SYNC_BYTES: u64 = 8 << 20;

/// Room that a repair leaves on the disk: a recorder needs it for the next logs.
const ROOM_LEFT: u64 = 64 << 20;

/// Number of blocks between two looks at whether to stop.
const BLOCKS_BETWEEN: u64 = 256;

/// The outcome.
pub(super) enum Written {
    /// The file is whole. The damaged one has this name; `None` where it could not be kept, or was missing.
    Whole { kept_as: Option<String> },
    /// A block is missing, or what was written is not sound: nothing was changed.
    NotSound,
    /// It was stopped: nothing was changed.
    Stopped,
}

/// Writes a file of this length anew from its blocks, by number: under a temporary name, synced, read back, checked by its own checksums,
/// and renamed. Before that the damaged one gets a second name.
pub(super) fn write_back(
    repair: &Repair<'_>,
    (file, len): (Protected, u64),
    block: &mut dyn FnMut(u64) -> Option<Box<Block>>,
    watch: Watch<'_>,
) -> Result<Written, RepairError> {
    let directory = &**repair.directory;
    let name = file.name();
    let temporary = format!("{name}{TEMPORARY_ENDING}");
    remove_if_present(directory, &temporary)?;
    expect_room(directory, &name, len)?;
    match write(repair, (file, len), &temporary, block, watch) {
        Ok(Written::Whole { .. }) => {}
        other => {
            // Frees the space.
            remove_if_present(directory, &temporary)?;
            return Ok(other?);
        }
    }
    let kept_as = keep(directory, &name);
    directory.rename(&temporary, &name)?;
    directory.sync()?;
    Ok(Written::Whole { kept_as })
}

/// Checks that the disk has room for a file of this length.
pub(super) fn expect_room(directory: &dyn Directory, name: &str, len: u64) -> Result<(), StorageError> {
    match FreeSpace::at(directory.path()) {
        Ok(free) if free.bytes < len.saturating_add(ROOM_LEFT) => {
            let (op, path) = (StorageOp::Write, directory.path().join(name));
            Err(StorageError { op, path, offset: None, source: io::ErrorKind::StorageFull.into() })
        }
        // Where that is not known, a write says so.
        _ => Ok(()),
    }
}

/// Gives the damaged file its second name, in place of one that an earlier repair has kept: that was mended since, and was read.
fn keep(directory: &dyn Directory, name: &str) -> Option<String> {
    let kept_as = names::damaged(name);
    let linked = match directory.link(name, &kept_as) {
        Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {
            directory.remove(&kept_as).and_then(|()| directory.link(name, &kept_as))
        }
        linked => linked,
    };
    match linked {
        Ok(()) => Some(kept_as),
        Err(error) if error.is_not_found() => None,
        Err(error) => {
            log::warn!("the damaged file is not kept: {error}: {}", error.source);
            None
        }
    }
}

fn write(
    repair: &Repair<'_>,
    (of, len): (Protected, u64),
    temporary: &str,
    block: &mut dyn FnMut(u64) -> Option<Box<Block>>,
    watch: Watch<'_>,
) -> Result<Written, StorageError> {
    let directory = &**repair.directory;
    let file = directory.create(temporary)?;
    let mut checksum = 0;
    for number in 0..len.div_ceil(PARITY_BLOCK_LEN as u64) {
        if number.is_multiple_of(BLOCKS_BETWEEN) && watch().is_break() {
            return Ok(Written::Stopped);
        }
        let Some(bytes) = block(number) else { return Ok(Written::NotSound) };
        let offset = number * PARITY_BLOCK_LEN as u64;
        let bytes = &bytes[..usize::try_from(len - offset).unwrap_or(PARITY_BLOCK_LEN).min(PARITY_BLOCK_LEN)];
        file.write_at(bytes, offset)?;
        checksum = format::checksum_on(checksum, bytes);
        if offset > 0 && offset.is_multiple_of(SYNC_BYTES) {
            file.sync()?;
        }
    }
    file.sync()?;
    // To a reader that has it open it is the same file. Where that cannot be set, the reader opens the backup anew.
    if let Ok(damaged) = directory.open(&of.name(), Access::Read)
        && let Some(stamp) = damaged.stamp()
        && let Err(error) = file.set_modified(stamp.modified)
    {
        log::debug!("{error}: {}", error.source);
    }
    let written = directory.open(temporary, Access::Read)?;
    let mut read_back = 0;
    let mut bytes = [0; PARITY_BLOCK_LEN];
    for offset in (0..len).step_by(PARITY_BLOCK_LEN) {
        let len = usize::try_from(len - offset).unwrap_or(PARITY_BLOCK_LEN).min(PARITY_BLOCK_LEN);
        if !read_exact_at(&*written, &mut bytes[..len], offset)? {
            return Ok(Written::NotSound);
        }
        read_back = format::checksum_on(read_back, &bytes[..len]);
    }
    let is_whole = read_back == checksum && repair.is_sound(of, temporary)?;
    Ok(if is_whole { Written::Whole { kept_as: None } } else { Written::NotSound })
}

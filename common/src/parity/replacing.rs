//! A small file that has parity, replaced.

use std::ops::ControlFlow;

use crate::parity::share::ParityShare;
use crate::parity::writing::write_set;
use crate::storage::{Access, Directory, StorageError, remove_if_present, replace_file};
use format::names;
use format::parity::{Member, Protected};
use uuid::Uuid;

/// Replaces a file durably. If it has parity, that is removed before, durably too: it would mend the new file into the old one. Then it is
/// made again; if that fails, the sealer does it.
///
/// # Errors
/// When a file system call fails. The file is the old one or the new one then.
pub(crate) fn replace_protected(
    directory: &dyn Directory,
    uuid: Uuid,
    file: Protected,
    bytes: &[u8],
) -> Result<(), StorageError> {
    let parity = names::parity(&file.name());
    let has_parity = !directory.open(&parity, Access::Read).is_err_and(|error| error.is_not_found());
    if has_parity {
        remove_if_present(directory, &parity)?;
        directory.sync()?;
    }
    replace_file(directory, &file.name(), bytes)?;
    if has_parity {
        // Of a file of one block there is one block of parity, whatever the share is.
        let (members, share) = (vec![Member { file, len: bytes.len() as u64 }], ParityShare::default());
        if let Err(error) = write_set(directory, uuid, members, share, None, &mut || ControlFlow::Continue(())) {
            log::debug!("{parity} is made later: {error:?}");
        }
    }
    Ok(())
}

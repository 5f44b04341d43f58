//! A small file that has parity, replaced.

use crate::storage::{Access, Directory, StorageError, remove_if_present, replace_file};
use format::names;
use format::parity::Protected;

/// Replaces a file durably. If it has parity, that is removed before, durably too: it would mend the new file into the old one. The sealer
/// makes it again.
///
/// # Errors
/// When a file system call fails. The file is the old one or the new one then.
pub(crate) fn replace_protected(directory: &dyn Directory, file: Protected, bytes: &[u8]) -> Result<(), StorageError> {
    let parity = names::parity(&file.name());
    if !directory.open(&parity, Access::Read).is_err_and(|error| error.is_not_found()) {
        remove_if_present(directory, &parity)?;
        directory.sync()?;
    }
    replace_file(directory, &file.name(), bytes)
}

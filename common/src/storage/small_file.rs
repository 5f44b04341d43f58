//! Small files beside the database, which are read and replaced as a whole.

use std::fs::DirBuilder;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

use super::owner::Owner;
use super::regular_file::open_regular_file;

/// Reads a small regular file, without waiting on a FIFO.
///
/// # Errors
/// When it cannot be read, is no regular file, or is longer than `len_max`.
pub fn read_small_file(path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
    let file = open_regular_file(path)?;
    if file.metadata()?.len() > len_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    let mut bytes = Vec::new();
    file.take(len_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a file that nothing depends on, in a directory that is made for its owner alone. After a kill the file is the old one or
/// the new one. Nothing is synced: after a power cut the file may be missing, older, or empty.
///
/// # Errors
/// When it cannot be written.
pub fn replace_small_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    make_private_directory(directory)?;
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    // Root may run what belongs to the node of another user.
    if let Some(owner) = Owner::other_than_root([directory]) {
        owner.take(file.as_file(), path);
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Makes a directory that only its owner may enter, unless it is there.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

//! An unused name beside a path.

use std::io;
use std::path::{Path, PathBuf};

use format::units::Timestamp;

/// Marker in the name of a replaced file.
pub(crate) const REPLACED: &str = ".replaced-";

/// An unused name beside `path` with the time of replacement: `node.bkp.replaced-20261122T140507Z`.
///
/// # Errors
/// When the directory cannot be read.
pub fn unused_name(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.to_civil().strftime("%Y%m%dT%H%M%SZ");
    for attempt in 1.. {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!("{REPLACED}{stamp}"));
        if attempt > 1 {
            name.push(format!("-{attempt}"));
        }
        let candidate = path.with_file_name(name);
        match candidate.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(candidate),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

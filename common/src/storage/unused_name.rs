//! A name beside a path that nothing has.

use std::io;
use std::path::{Path, PathBuf};

use format::units::Timestamp;

/// What a name goes on with when something was put aside.
pub(crate) const REPLACED: &str = ".replaced-";

/// A name beside `path` that says when it was replaced and is not taken: `node.bkp.replaced-20261122T140507Z`.
///
/// # Errors
/// When it cannot be looked there.
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

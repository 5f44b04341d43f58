//! [`MadeDirectories`]: creates the directory that a database is restored to, with its parents.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use common::Owner;

use super::RestoreError;

/// The directories made for a restore: closed to other users, with the owner of their parent. Dropping this removes those that
/// are empty.
#[derive(Debug)]
pub struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    /// Makes the directories that `destination` needs: itself, unless it is the name of a file, and its parents.
    ///
    /// # Errors
    /// When the operating system refuses; nothing was made then. A path in the `backup` is refused later, as are other
    /// invalid destinations: nothing is made for it.
    pub fn make_for(destination: &Path, backup: &Path) -> Result<Self, RestoreError> {
        let names_a_directory = destination.as_os_str().as_encoded_bytes().ends_with(b"/");
        let is_file = destination.extension().is_some() && !names_a_directory;
        let directory = if is_file { destination.parent().unwrap_or(destination) } else { destination };
        let is_absent = |path: &&Path| {
            !path.as_os_str().is_empty()
                && path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let mut missing: Vec<&Path> = directory.ancestors().take_while(is_absent).collect();
        let above = missing.last().and_then(|last| last.parent()).filter(|above| !above.as_os_str().is_empty());
        let above = above.unwrap_or(Path::new("."));
        let is_inside = match (above.canonicalize(), backup.canonicalize()) {
            (Ok(above), Ok(backup)) => above.starts_with(backup),
            _ => false,
        };
        let mut made = Self(Vec::new());
        let owner = Owner::other_than_root([above]);
        while let Some(directory) = missing.pop().filter(|_| !is_inside) {
            let make = || -> io::Result<()> {
                DirBuilder::new().mode(0o700).create(directory)?;
                owner.map_or(Ok(()), |owner| owner.take_directory(directory))
            };
            make().map_err(|source| RestoreError::Write { path: directory.to_owned(), source })?;
            made.0.push(directory.to_owned());
        }
        Ok(made)
    }
}

impl Drop for MadeDirectories {
    fn drop(&mut self) {
        // Fails, as it should, for those that contain the database or files of others.
        self.0.iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_missing_is_made_and_goes_again_when_nothing_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("node.bkp");
        fs::create_dir(&backup).unwrap();
        let made = |path: &str| MadeDirectories::make_for(&dir.path().join(path), &backup).unwrap();
        for (path, directory) in
            [("a/bitcoin", "a/bitcoin"), ("a/b/", "a/b"), ("a/v1.2/", "a/v1.2"), ("a/db.sqlite3", "a")]
        {
            let it = made(path);
            let mode = fs::metadata(dir.path().join(directory)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{path}");
            drop(it);
            assert!(!dir.path().join("a").exists(), "{path}");
        }
        let _nothing = made("node.bkp/inside");
        assert!(!backup.join("inside").exists());
        let it = made("a/b");
        fs::write(dir.path().join("a/b/lightningd.sqlite3"), "").unwrap();
        drop((it, made("a/b"), made("a")));
        assert!(dir.path().join("a/b").is_dir());
    }
}

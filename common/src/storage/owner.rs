//! [`Owner`]: the user that receives what root creates for the node of that user.
//!
//! `lightningd` runs as a user of its own, an operator often as root. What root creates belongs to root and is closed to others,
//! so the node could neither open its database nor record to its backup. Therefore root gives each new file to the owner of its
//! directory. That is done through the descriptor, before the file has its final name: the owner of the directory can exchange a
//! name, but not a descriptor.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    const ROOT: u32 = 0;

    /// The owner of a file or directory, following links.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::in_metadata(&metadata))
    }

    fn in_metadata(metadata: &fs::Metadata) -> Self {
        Self { user: metadata.uid(), group: metadata.gid() }
    }

    /// The first of these owners that is not root, to whom root gives new files. `None` when this process does not run as root,
    /// or everything belongs to root.
    pub fn other_than_root<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let owners = paths.into_iter().filter_map(|path| Self::of(path).ok());
        owners.into_iter().find(|owner| owner.user != Self::ROOT)
    }

    /// Whether this user cannot read what is private to `owner`.
    pub fn is_shut_out_by(self, owner: Self) -> bool {
        ![Self::ROOT, owner.user].contains(&self.user)
    }

    /// The argument for `chown`.
    pub fn for_chown(self) -> String {
        format!("{}:{}", self.user, self.group)
    }

    /// The owner that root has given a path to; `None` when it was not given away.
    pub fn given(path: &Path) -> Option<Self> {
        Self::other_than_root([path])
    }

    /// Gives away a file or directory that this process has just created. If that fails, a warning is logged and the file stays:
    /// a wrong owner can be corrected with one command.
    pub(crate) fn take(self, file: &File, path: &Path) {
        let give = || match Self::in_metadata(&file.metadata()?) {
            // Some file systems give everything to one user, and allow no change.
            owner if owner == self => Ok(()),
            // Never a file that another user has put in its place.
            owner if owner.user != Self::ROOT => Err(io::Error::other(format!("it belongs to {owner}"))),
            _ => fchown(file, Some(self.user), Some(self.group)),
        };
        if let Err(error) = give() {
            let by_hand = self.for_chown();
            log::warn!("{} cannot be given to {self} ({error}): give it by hand, `chown {by_hand}`", path.display());
        }
    }

    /// Gives away an empty directory that this process has just created.
    ///
    /// # Errors
    /// When it was removed or exchanged.
    pub fn take_directory(self, path: &Path) -> io::Result<()> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        self.take(&OpenOptions::new().read(true).custom_flags(flags).open(path)?, path);
        Ok(())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}, group {}", self.user, self.group)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// A user other than root, who need not exist.
    const ANOTHER_USER: u32 = 12_345;

    #[test]
    fn only_root_gives_and_only_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let made = File::create(&file).unwrap();
        assert_eq!(Owner::given(&file), None, "it is ours");
        if chown(dir.path(), Some(ANOTHER_USER), Some(7)).is_err() {
            eprintln!("SKIPPED: giving files away needs root");
            return;
        }
        let another = Owner::other_than_root([&file, dir.path()].map(AsRef::as_ref)).unwrap();
        assert_eq!(another.to_string(), format!("user {ANOTHER_USER}, group 7"));
        another.take(&made, &file);
        assert_eq!(Owner::given(&file), Some(another));
        assert_eq!(Owner::other_than_root([dir.path().join("none").as_path()]), None);
    }

    #[test]
    fn a_directory_that_was_exchanged_is_not_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        let before = Owner::of(&real).unwrap();
        let another = Owner { user: ANOTHER_USER, group: ANOTHER_USER };
        assert!(another.take_directory(&link).is_err());
        assert_eq!(Owner::of(&real).unwrap(), before);
        if chown(&real, Some(ANOTHER_USER + 1), None).is_ok() {
            let before = Owner::of(&real).unwrap();
            another.take_directory(&real).unwrap();
            assert_eq!(Owner::of(&real).unwrap(), before, "the owner changed, it is not ours");
        }
    }
}

//! [`Owner`]: to whom root gives what it makes for the node of another user.
//!
//! `lightningd` runs as a user of its own, and an operator often as root. What root makes there belongs to root and is closed to
//! everybody else, so the node could neither open its database nor record to its backup. So what is made belongs to the owner of
//! the directory that it is made in. It is given away through its descriptor, before it has its final name: a name can be
//! exchanged by whoever owns the directory, a descriptor cannot.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

/// A user and a group, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    const ROOT: u32 = 0;

    /// Whose it is, behind any links.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::in_metadata(&metadata))
    }

    fn in_metadata(metadata: &fs::Metadata) -> Self {
        Self { user: metadata.uid(), group: metadata.gid() }
    }

    /// The first owner of these that is not root, to whom root gives what it makes. `None` where there is nothing to give: this
    /// process is not root's, or everything is.
    pub fn other_than_root<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let owners = paths.into_iter().filter_map(|path| Self::of(path).ok());
        owners.into_iter().find(|owner| owner.user != Self::ROOT)
    }

    /// Whether what that owner has, closed to others, is closed to this one.
    pub fn is_shut_out_by(self, owner: Self) -> bool {
        ![Self::ROOT, owner.user].contains(&self.user)
    }

    /// As `chown` takes it.
    pub fn for_chown(self) -> String {
        format!("{}:{}", self.user, self.group)
    }

    /// Whom root has given it to; `None` where it was not given away.
    pub fn given(path: &Path) -> Option<Self> {
        Self::other_than_root([path])
    }

    /// Gives away a file that this process has just made, or a directory. What cannot be given away stays as it is, and a
    /// warning says so: what only has the wrong owner is put right with one command.
    pub(crate) fn take(self, file: &File, path: &Path) {
        let give = || match Self::in_metadata(&file.metadata()?) {
            // Some file systems give everything to one user, and let nobody change it.
            owner if owner == self => Ok(()),
            // Not even then what somebody else has put in its place.
            owner if owner.user != Self::ROOT => Err(io::Error::other(format!("it belongs to {owner}"))),
            _ => fchown(file, Some(self.user), Some(self.group)),
        };
        if let Err(error) = give() {
            let by_hand = self.for_chown();
            log::warn!("{} cannot be given to {self} ({error}): give it by hand, `chown {by_hand}`", path.display());
        }
    }

    /// Gives away a directory that this process has just made, and in which there is nothing yet.
    ///
    /// # Errors
    /// When it is not there any more, but something else.
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

    /// Another user than root, who need not exist.
    const SOMEBODY: u32 = 12_345;

    #[test]
    fn only_root_gives_and_only_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let made = File::create(&file).unwrap();
        assert_eq!(Owner::given(&file), None, "it is ours");
        if chown(dir.path(), Some(SOMEBODY), Some(7)).is_err() {
            eprintln!("SKIPPED: giving files away needs root");
            return;
        }
        let somebody = Owner::other_than_root([&file, dir.path()].map(AsRef::as_ref)).unwrap();
        assert_eq!(somebody.to_string(), format!("user {SOMEBODY}, group 7"));
        somebody.take(&made, &file);
        assert_eq!(Owner::given(&file), Some(somebody));
        assert_eq!(Owner::other_than_root([dir.path().join("none").as_path()]), None);
    }

    #[test]
    fn a_directory_that_was_exchanged_is_not_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        let before = Owner::of(&real).unwrap();
        let somebody = Owner { user: SOMEBODY, group: SOMEBODY };
        assert!(somebody.take_directory(&link).is_err());
        assert_eq!(Owner::of(&real).unwrap(), before);
        if chown(&real, Some(SOMEBODY + 1), None).is_ok() {
            let before = Owner::of(&real).unwrap();
            somebody.take_directory(&real).unwrap();
            assert_eq!(Owner::of(&real).unwrap(), before, "somebody else's");
        }
    }
}

//! Temporary files of commands, and the removal of those that a killed command left.
//!
//! While a command creates a file, it holds a shared lock on the directory. Before it begins, it tries to take the lock
//! exclusively for an instant: if that succeeds, no other command is at work there, and all temporary names are leftovers. A
//! backup in the making is a directory with a `LOCK` of its own, which a network file system also shows to other machines.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempDir};

use crate::storage::owner::Owner;
use crate::storage::{Directory as _, RealDirectory};
use format::names;

/// A kind of unfinished file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// A database that is being restored.
    Restored,
    /// A file for the Python plugin.
    Exported,
    /// A `backup.lock`.
    BackupLock,
}

impl Unfinished {
    /// Prefix of the temporary name.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Restored => ".restoring-",
            Self::Exported => ".exporting-",
            Self::BackupLock => ".backup.lock.",
        }
    }

    const SUFFIX: &str = ".tmp";

    fn is_name(self, name: &str) -> bool {
        name.starts_with(self.prefix()) && name.ends_with(Self::SUFFIX)
    }
}

/// Time to wait for another command's exclusive lock, which is held for an instant.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A directory in which a file is being created, without the leftovers of earlier commands.
#[derive(Debug)]
pub struct Workplace {
    directory: PathBuf,
    what: Unfinished,
    owner: Option<Owner>,
    /// The shared lock. Without it another command may remove the file as a leftover, and then the command that creates it fails
    /// with an error.
    _at_work: Option<File>,
}

impl Workplace {
    /// Removes leftovers of this kind from `directory`, with a log message, and protects new files there from removal.
    pub fn enter(directory: &Path, what: Unfinished) -> Self {
        let lock = File::open(directory).ok();
        let is_alone = lock.as_ref().is_some_and(|lock| lock.try_lock().is_ok());
        if is_alone {
            remove_left(directory, what);
        }
        let owner = Owner::other_than_root([directory]);
        Self { directory: directory.to_owned(), what, owner, _at_work: lock.filter(is_shared_soon) }
    }

    /// Makes root give the new file to the owner of `path`, if the directory belongs to root and `path` does not.
    pub(crate) fn or_owner_of(mut self, path: &Path) -> Self {
        self.owner = self.owner.or_else(|| Owner::other_than_root([path]));
        self
    }

    /// Creates a file that only the owner of the directory can read.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn new_file(&self) -> io::Result<NamedTempFile> {
        let file = tempfile::Builder::new()
            .prefix(self.what.prefix())
            .suffix(Unfinished::SUFFIX)
            .tempfile_in(&self.directory)?;
        if let Some(owner) = self.owner {
            owner.take(file.as_file(), file.path());
        }
        Ok(file)
    }
}

/// Converts an exclusive lock, or none, into a shared one.
fn is_shared_soon(lock: &File) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match lock.try_lock_shared() {
            Ok(()) => return true,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Err(_) => return false,
        }
    }
}

fn remove_left(directory: &Path, what: Unfinished) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !entry.file_name().to_str().is_some_and(|name| what.is_name(name)) {
            continue;
        }
        let (path, bytes) = (entry.path(), entry.metadata().map_or(0, |metadata| metadata.len()));
        match fs::remove_file(&path) {
            Ok(()) => {
                log::warn!("removed {} ({bytes} bytes), which a command that was killed had left", path.display())
            }
            Err(error) => log::warn!("{} was left by a command that was killed; remove it ({error})", path.display()),
        }
    }
}

/// Prefix of the directory in which a backup is created, beside its future path.
const BUILDING_PREFIX: &str = ".backupfs-init.";

/// Creates a private directory in `parent` to create a backup in, and removes leftovers. It is removed with its contents unless
/// it is renamed.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn new_building(parent: &Path, owner: Option<Owner>) -> io::Result<TempDir> {
    remove_left_buildings(parent);
    let building = tempfile::Builder::new()
        .prefix(BUILDING_PREFIX)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)?;
    if let Some(owner) = owner {
        owner.take_directory(building.path())?;
    }
    Ok(building)
}

fn remove_left_buildings(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_directory || !entry.file_name().as_encoded_bytes().starts_with(BUILDING_PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let removed = match RealDirectory::new(&path).lock(names::LOCK) {
            Ok(_unused_lock) => fs::remove_dir_all(&path),
            Err(error) if error.source.kind() == io::ErrorKind::WouldBlock => continue,
            // The lock is created first, so the directory is otherwise empty.
            Err(error) if error.is_not_found() => fs::remove_dir(&path),
            Err(error) => Err(error.source),
        };
        match removed {
            Ok(()) => log::warn!("removed {}, which an init or import that was killed had left", path.display()),
            Err(error) => {
                log::warn!("{} was left by an init or import that was killed; remove it ({error})", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_left_goes_and_what_is_being_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let left = || fs::write(dir.path().join(".restoring-LEFT.tmp"), "half a database").unwrap();
        left();
        for name in [".restoring-mine", "x.restoring-1.tmp", ".exporting-other.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join(".restoring-directory.tmp")).unwrap();
        let others = names_in(dir.path());
        let first = Workplace::enter(dir.path(), Unfinished::Restored);
        let others: Vec<_> = others.into_iter().filter(|name| name != ".restoring-LEFT.tmp").collect();
        assert_eq!(names_in(dir.path()), others);

        let file = first.new_file().unwrap();
        assert_eq!(file.as_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        left();
        let second = Workplace::enter(dir.path(), Unfinished::Restored);
        drop(second);
        assert!(file.path().exists(), "the first one is making it");
        assert_eq!(names_in(dir.path()).len(), others.len() + 2, "a left file looks like one that is being made");
        drop((file, first));
        Workplace::enter(dir.path(), Unfinished::Restored);
        assert_eq!(names_in(dir.path()), others);
    }

    #[test]
    fn a_backup_that_is_being_made_stays_and_one_that_was_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let building = new_building(dir.path(), None).unwrap();
        assert_eq!(building.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let directory = RealDirectory::new(building.path());
        directory.create(names::LOCK).unwrap();
        let lock = directory.lock(names::LOCK).unwrap();
        let empty = new_building(dir.path(), None).unwrap();
        assert!(building.path().exists());
        drop(lock);
        fs::write(building.path().join("log-1"), "").unwrap();
        let another = new_building(dir.path(), None).unwrap();
        assert_eq!(names_in(dir.path()), [another.path().file_name().unwrap().to_str().unwrap()]);
        drop((building, empty));
    }
}

//! [`FileStore`]: a directory of this machine, such as another disk.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::names::{
    PARTS_MAX, check_len, check_name, clip, is_name, is_temporary, leads_to, seconds_before_now, temporary_name,
    too_large,
};
use super::url::StoreUrl;
use super::{Failure, LISTED_MAX, Listed, OBJECT_BYTES_MAX, Put, Store, StoreError};

/// How directories are opened below the base: links are not followed.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// A directory of this machine. An object is a file in it or in a directory below, which has its name only once it is
/// whole and durable.
///
/// The directory itself is never made by an upload: a disk that is not mounted must not get files below its mount point.
/// Calls have no time limit, for the kernel has none: a network file system that hangs keeps the caller waiting.
#[derive(Debug, Clone)]
pub struct FileStore {
    base: PathBuf,
}

/// Whether a file may take the place of another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

/// A step that failed, before there is a sentence about it.
type Step<T> = Result<T, Errno>;

impl FileStore {
    /// The store in the directory `base`, which need not be there yet.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    fn make_base(&self) -> Step<()> {
        let above = self.base.parent().unwrap_or(Path::new("/"));
        match rustix::fs::mkdir(&self.base, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => drop(self.open_base()?),
            Err(errno) => return Err(errno),
        }
        sync_directory(&rustix::fs::open(above, DIRECTORY & !OFlags::NOFOLLOW, Mode::empty())?)
    }

    /// The base itself may be a link: the operator has named it.
    fn open_base(&self) -> Step<OwnedFd> {
        rustix::fs::openat(CWD, &self.base, DIRECTORY & !OFlags::NOFOLLOW, Mode::empty())
    }

    /// The directory of an object, and its name there.
    fn open_parent<'n>(&self, name: &'n str) -> Step<(OwnedFd, &'n str)> {
        let mut directory = self.open_base()?;
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return Ok((directory, part));
            }
            directory = rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty())?;
        }
        Err(Errno::INVAL)
    }

    /// As [`Self::open_parent`], and makes the directories below the base.
    fn make_parent<'n>(&self, name: &'n str) -> Step<(OwnedFd, &'n str)> {
        match self.open_parent(name) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let mut directory = self.open_base()?;
        let directories = name.rsplit_once('/').map_or("", |(directories, _)| directories);
        for part in directories.split('/').filter(|part| !part.is_empty()) {
            match rustix::fs::mkdirat(&directory, part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            // Also where another thread has made it, and has not synced it yet.
            sync_directory(&directory)?;
            directory = rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty())?;
        }
        self.open_parent(name)
    }

    fn write(&self, name: &str, bytes: &[u8], existing: Existing) -> Step<Put> {
        let (directory, file_name) = self.make_parent(name)?;
        if existing == Existing::Keep && exists(&directory, file_name)? {
            // It may be from a call that was cut off before it was durable.
            sync_directory(&directory)?;
            return Ok(Put::Exists);
        }
        let temporary = temporary_name();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let put = write_and_name(&directory, File::from(file), &temporary, file_name, bytes, existing);
        if !matches!(put, Ok(Put::Stored)) {
            let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        }
        let put = put?;
        sync_directory(&directory)?;
        Ok(put)
    }

    fn read(&self, name: &str, range: Option<&Range<u64>>) -> Step<Result<Vec<u8>, StoreError>> {
        let (directory, file_name) = self.open_parent(name)?;
        // A pipe with the name of an object would keep the opening waiting.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&directory, file_name, flags, Mode::empty())?);
        let metadata = file.metadata().map_err(errno_of)?;
        if !metadata.is_file() {
            return Err(Errno::NOENT);
        }
        let range = clip(range, metadata.len());
        let len = match usize::try_from(range.end - range.start) {
            Ok(len) if len <= OBJECT_BYTES_MAX => len,
            _ => return Ok(Err(too_large(name, &self.url()))),
        };
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, range.start).map_err(errno_of)?;
        Ok(Ok(bytes))
    }

    fn walk(&self, directory: &OwnedFd, path: &str, prefix: &str, found: &mut Vec<Listed>) -> Step<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let Some(name) = object_name(path, entry.file_name()) else { continue };
            let stat = match rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Removed in between.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile if name.starts_with(prefix) => {
                    if found.len() >= LISTED_MAX {
                        return Err(Errno::OVERFLOW);
                    }
                    found.push(Listed { name, len: u64::try_from(stat.st_size).unwrap_or_default() });
                }
                FileType::Directory if leads_to(&name, prefix) && name.split('/').count() < PARTS_MAX => {
                    match rustix::fs::openat(directory, entry.file_name(), DIRECTORY, Mode::empty()) {
                        Ok(below) => self.walk(&below, &name, prefix, found)?,
                        Err(Errno::NOENT) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes files with temporary names that are as old as `until`, here and below; says how many.
    fn remove_temporary(&self, directory: &OwnedFd, depth: usize, until: i64) -> Step<usize> {
        let mut removed = 0;
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Ok(text) = name.to_str() else { continue };
            let is_below = depth < PARTS_MAX && is_name(text);
            if !is_below && !is_temporary(text) {
                continue;
            }
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
            // What is gone in between needs no removing.
            let Ok(stat) = stat else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if is_below => {
                    if let Ok(below) = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty()) {
                        removed += self.remove_temporary(&below, depth + 1, until)?;
                    }
                }
                FileType::RegularFile if !is_below && stat.st_mtime <= until => {
                    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                        Ok(()) => removed += 1,
                        Err(Errno::NOENT) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                _ => {}
            }
        }
        Ok(removed)
    }

    fn error(&self, doing: &str, what: &str, errno: Errno) -> StoreError {
        let (failure, way_out) = match errno {
            Errno::NOENT | Errno::NOTDIR if self.open_base().is_err() => {
                (Failure::NotFound, "the directory is not there: mount the disk, or run `backupfs offsite add` again")
            }
            Errno::NOENT => (Failure::NotFound, "the object is not there"),
            Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                (Failure::Refused, "let the user of the node write there, and mount it for writing")
            }
            Errno::LOOP | Errno::NOTDIR | Errno::ISDIR => (
                Failure::Refused,
                "a link or something else has the name of a directory or object of the copy: remove it",
            ),
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::MLINK => {
                (Failure::Full, "make room there, or raise the limit")
            }
            Errno::OVERFLOW => (Failure::Protocol, "there are more files than a copy can have: look what writes there"),
            _ => (Failure::Unreachable, "look after the disk and its connection"),
        };
        StoreError::new(
            failure,
            format!(
                "cannot {doing} {what} in {url}: {error}: {way_out}",
                url = self.url(),
                error = io::Error::from(errno)
            ),
        )
    }
}

/// Writes a file under its temporary name, and gives it its own.
fn write_and_name(
    directory: &OwnedFd,
    mut file: File,
    temporary: &str,
    name: &str,
    bytes: &[u8],
    existing: Existing,
) -> Step<Put> {
    file.write_all(bytes).map_err(errno_of)?;
    rustix::fs::fsync(&file)?;
    if existing == Existing::Replace {
        rustix::fs::renameat(directory, temporary, directory, name)?;
        return Ok(Put::Stored);
    }
    match rustix::fs::renameat_with(directory, temporary, directory, name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(Put::Stored),
        Err(Errno::EXIST) => return Ok(Put::Exists),
        // The file system does not know this call.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(errno) => return Err(errno),
    }
    match rustix::fs::linkat(directory, temporary, directory, name, AtFlags::empty()) {
        Ok(()) => {
            rustix::fs::unlinkat(directory, temporary, AtFlags::empty())?;
            Ok(Put::Stored)
        }
        Err(Errno::EXIST) => Ok(Put::Exists),
        // Neither links: the file systems of memory cards. Two writers at the same moment are told apart by their claims.
        Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP) if !exists(directory, name)? => {
            rustix::fs::renameat(directory, temporary, directory, name)?;
            Ok(Put::Stored)
        }
        Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP) => Ok(Put::Exists),
        Err(errno) => Err(errno),
    }
}

fn exists(directory: &OwnedFd, name: &str) -> Step<bool> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Makes the names in a directory durable, where the file system can.
fn sync_directory(directory: &OwnedFd) -> Step<()> {
    match rustix::fs::fsync(directory) {
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
        done => done,
    }
}

fn object_name(path: &str, file_name: &CStr) -> Option<String> {
    let file_name = file_name.to_str().ok()?;
    let name = if path.is_empty() { file_name.to_owned() } else { format!("{path}/{file_name}") };
    is_name(&name).then_some(name)
}

fn errno_of(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Store for FileStore {
    fn url(&self) -> String {
        StoreUrl::File(self.base.clone()).to_string()
    }

    fn create_base(&self) -> Result<(), StoreError> {
        self.make_base().map_err(|errno| self.error("make", "the directory", errno))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let mut found = Vec::new();
        let walked = self.open_base().and_then(|base| self.walk(&base, "", prefix, &mut found));
        walked.map_err(|errno| self.error("list", "the objects", errno))?;
        found.sort_unstable();
        Ok(found)
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        check_name(name)?;
        self.read(name, range.as_ref()).map_err(|errno| self.error("read", name, errno))?
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        check_name(name)?;
        check_len(name, bytes)?;
        self.write(name, bytes, Existing::Keep).map_err(|errno| self.error("store", name, errno))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        check_name(name)?;
        check_len(name, bytes)?;
        let replaced = self.write(name, bytes, Existing::Replace);
        replaced.map(|_| ()).map_err(|errno| self.error("replace", name, errno))
    }

    fn remove_leftovers(&self, age: Duration) -> Result<usize, StoreError> {
        let Some(until) = seconds_before_now(age) else { return Ok(0) };
        let removed = self.open_base().and_then(|base| self.remove_temporary(&base, 1, until));
        removed.map_err(|errno| self.error("remove", "what uploads left", errno))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        let removed = self.open_parent(name).and_then(|(directory, file_name)| {
            rustix::fs::unlinkat(&directory, file_name, AtFlags::empty())?;
            sync_directory(&directory)
        });
        match removed {
            // Of the object, not of the whole store.
            Err(Errno::NOENT) if self.open_base().is_ok() => Ok(()),
            removed => removed.map_err(|errno| self.error("remove", name, errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::conformance_tests::conforms;
    use super::*;

    fn store() -> (tempfile::TempDir, FileStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::new(directory.path().join("a b/copy"));
        fs::create_dir(directory.path().join("a b")).unwrap();
        store.create_base().unwrap();
        (directory, store)
    }

    #[test]
    fn a_directory_conforms() {
        let (_directory, store) = store();
        conforms(&store);
        store.create_base().unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_gets_no_files() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("disk/copy");
        let store = FileStore::new(&base);
        for failed in [
            store.list("").unwrap_err(),
            store.put_new("s/1", b"x").unwrap_err(),
            store.replace("s/1", b"x").unwrap_err(),
            store.get("s/1", None).unwrap_err(),
            store.remove("s/1").unwrap_err(),
            store.create_base().unwrap_err(),
        ] {
            assert_eq!(failed.failure, Failure::NotFound, "{failed}");
            assert!(failed.message.contains("mount the disk"), "{failed}");
        }
        assert!(!base.exists());
    }

    #[test]
    fn only_the_owner_reads_what_is_stored() {
        let (directory, store) = store();
        store.put_new("s/t/1", b"x").unwrap();
        let base = directory.path().join("a b/copy");
        for (path, mode) in [("", 0o700), ("s", 0o700), ("s/t", 0o700), ("s/t/1", 0o600)] {
            assert_eq!(fs::metadata(base.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
        }
    }

    #[test]
    fn links_and_foreign_files_are_neither_listed_nor_followed() {
        let (directory, store) = store();
        let base = directory.path().join("a b/copy");
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("1"), b"secret").unwrap();
        symlink(&outside, base.join("s")).unwrap();
        symlink(outside.join("1"), base.join("id")).unwrap();
        fs::write(base.join(temporary_name()), b"left over").unwrap();
        fs::write(base.join("Thumbs_db"), b"foreign").unwrap();
        fs::create_dir(base.join("d")).unwrap();
        rustix::fs::mknodat(CWD, base.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(store.list("").unwrap(), []);
        for name in ["s/1", "id"] {
            assert_eq!(store.get(name, None).unwrap_err().failure, Failure::Refused, "{name}");
        }
        assert_eq!(store.get("d", None).unwrap_err().failure, Failure::NotFound);
        assert_eq!(store.get("pipe", None).unwrap_err().failure, Failure::NotFound);
        assert_eq!(store.put_new("s/2", b"x").unwrap_err().failure, Failure::Refused);
        assert!(!outside.join("2").exists());
        // A link is in the way of a new object, and is itself replaced.
        assert_eq!(store.put_new("id", b"x").unwrap(), Put::Exists);
        store.replace("id", b"x").unwrap();
        assert_eq!(fs::read(outside.join("1")).unwrap(), b"secret");
        assert_eq!(store.get("id", None).unwrap(), b"x");
    }

    #[test]
    fn leftovers_of_uploads_are_removed_when_they_are_old() {
        let (directory, store) = store();
        let base = directory.path().join("a b/copy");
        store.put_new("s/t/1", b"x").unwrap();
        let left = [
            base.join(temporary_name()),
            base.join("s").join(temporary_name()),
            base.join("s/t").join(temporary_name()),
        ];
        left.iter().for_each(|path| fs::write(path, b"left over").unwrap());
        symlink(base.join("s/t/1"), base.join(temporary_name())).unwrap();
        assert_eq!(store.remove_leftovers(Duration::from_secs(3600)).unwrap(), 0);
        assert!(left.iter().all(|path| path.exists()));
        assert_eq!(store.remove_leftovers(Duration::ZERO).unwrap(), 3);
        assert!(!left.iter().any(|path| path.exists()));
        assert_eq!(store.get("s/t/1", None).unwrap(), b"x");
        assert_eq!(store.remove_leftovers(Duration::MAX).unwrap(), 0);
    }

    #[test]
    fn a_full_disk_is_told() {
        let store = FileStore::new("/copy");
        let error = store.error("store", "s/1", Errno::NOSPC);
        assert_eq!(error.failure, Failure::Full);
        assert!(error.message.starts_with("cannot store s/1 in file:///copy: No space left"), "{error}");
    }

    #[test]
    fn a_file_larger_than_an_object_is_refused_without_reading_it() {
        let (directory, store) = store();
        let file = File::create(directory.path().join("a b/copy/large")).unwrap();
        file.set_len(1 << 50).unwrap_or_else(|_| file.set_len(1 << 40).unwrap());
        assert_eq!(store.get("large", None).unwrap_err().failure, Failure::Protocol);
        assert_eq!(store.get("large", Some(0..u64::MAX)).unwrap_err().failure, Failure::Protocol);
        assert_eq!(store.get("large", Some(0..3)).unwrap(), [0; 3]);
    }
}

//! [`Destination`]: the path of a restored database.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use common::{BackupLock, Timestamp, Unfinished, Workplace, unused_name};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::NamedTempFile;

use super::RestoreError;
use crate::restore::lightning_dir::{DATABASE_NAME, expect_one_network};
use crate::restore::running_node::RunningNode;

/// Files that SQLite would take for a part of the restored database.
const COMPANIONS: [&str; 3] = ["-journal", "-wal", "-shm"];

/// The handling of a database that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The database stays, and nothing is restored.
    Refuse,
    /// The database is renamed, with its journal, when the restored one is complete.
    Replace,
}

/// The path for a restored database, checked before anything is read.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    directory: PathBuf,
    existing: Existing,
    workplace: Workplace,
}

impl Destination {
    /// Checks `path`; a directory means a file of the usual name in it. Removes the temporary file of an earlier restore that was
    /// killed.
    ///
    /// # Errors
    /// The [`RestoreError`] why nothing may be written there.
    pub fn check(path: &Path, backup: &Path, existing: Existing) -> Result<Self, RestoreError> {
        let path = if path.is_dir() { path.join(DATABASE_NAME) } else { path.to_owned() };
        // The slash means a directory, which does not exist.
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(RestoreError::NoDirectory(path));
        }
        let is_absent = path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let Some(name) = path.file_name() else { return Err(RestoreError::NoFileName(path)) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // It means the directory of a network, which does not exist yet: no lightningd uses a file of that name.
        let is_no_file = is_absent && path.extension().is_none();
        if !parent.is_dir() {
            let missing = if is_no_file {
                RestoreError::NoDirectoryOrFile(path)
            } else {
                RestoreError::NoDirectory(parent.to_owned())
            };
            return Err(missing);
        }
        let resolve = |directory: &Path| {
            directory.canonicalize().map_err(|source| RestoreError::Write { path: path.clone(), source })
        };
        let directory = resolve(parent)?;
        // A copy in a store is no directory of this machine.
        if backup.exists() && directory.starts_with(resolve(backup)?) {
            return Err(RestoreError::InsideBackup(path));
        }
        if is_no_file {
            return Err(RestoreError::NoDirectoryOrFile(path));
        }
        let path = parent.join(name);
        if name == DATABASE_NAME {
            expect_looked_for(&directory)?;
        }
        expect_free(&path, &directory, existing)?;
        let workplace = Workplace::enter(&directory, Unfinished::Restored);
        Ok(Self { path, directory, existing, workplace })
    }

    /// A new temporary file in the directory of the destination.
    pub(super) fn new_file(&self) -> io::Result<NamedTempFile> {
        self.workplace.new_file()
    }

    /// Gives the complete file its name, durably, and an existing file another name, which is returned.
    ///
    /// The database goes first, then its journal: without it a journal does no harm, and without its journal a database may be
    /// half a transaction. If power fails in between there is no database.
    pub(super) fn take(&self, temporary: NamedTempFile) -> Result<Option<PathBuf>, RestoreError> {
        expect_free(&self.path, &self.directory, self.existing)?;
        let error = |source| RestoreError::Write { path: self.path.clone(), source };
        let aside = unused_name(&self.path, Timestamp::now()).map_err(error)?;
        let mut renamed = Vec::new();
        let placed = self.rename_existing(&aside, &mut renamed).and_then(|()| {
            temporary.persist_noclobber(&self.path).map_err(|error| error.error)?;
            // The name may not survive a power cut; better none than one that is trusted. The error that counts is the first.
            File::open(&self.directory)
                .and_then(|directory| directory.sync_all())
                .inspect_err(|_| drop(fs::remove_file(&self.path)))
        });
        match placed {
            Ok(()) => Ok(renamed.into_iter().next().map(|(_, aside)| aside)),
            Err(source) => {
                let back = renamed.iter().rev().try_for_each(|(name, aside)| rename(aside, name));
                Err(match source.kind() {
                    _ if back.is_err() => RestoreError::LeftAside { path: self.path.clone(), aside, source },
                    io::ErrorKind::AlreadyExists => RestoreError::Exists(self.path.clone()),
                    _ => error(source),
                })
            }
        }
    }

    /// Renames the existing files, and adds their old and new names to `renamed`.
    fn rename_existing(&self, aside: &Path, renamed: &mut Vec<(PathBuf, PathBuf)>) -> io::Result<()> {
        if self.existing == Existing::Refuse {
            return Ok(());
        }
        let database = self.path.symlink_metadata().is_ok().then(|| (self.path.clone(), ""));
        for (path, suffix) in database.into_iter().chain(companions(&self.path)) {
            let aside = with_suffix(aside, suffix);
            rename(&path, &aside)?;
            renamed.push((path, aside));
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the file.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Checks that a node uses a database of the usual name in this directory.
fn expect_looked_for(directory: &Path) -> Result<(), RestoreError> {
    expect_one_network(directory)?;
    let database = BackupLock::read(directory).ok().and_then(|lock| lock.database);
    // `directory` has no links in it; the path in `backup.lock` may have some.
    let without_links = |path: PathBuf| match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path,
    };
    match database.map(|database| without_links(directory.join(database))) {
        Some(database) if database != directory.join(DATABASE_NAME) => {
            Err(RestoreError::Elsewhere { lock: BackupLock::path(directory), database })
        }
        _ => Ok(()),
    }
}

/// Checks that no node uses the path, and that no file is there unless it may be renamed.
fn expect_free(path: &Path, directory: &Path, existing: Existing) -> Result<(), RestoreError> {
    let error = |source| RestoreError::Write { path: path.to_owned(), source };
    if let Some(node) = RunningNode::find(directory).map_err(error)? {
        return Err(RestoreError::NodeRuns { node });
    }
    if existing == Existing::Replace {
        // A node with the usual socket and pid file was found above. This finds one that is configured differently.
        return RunningNode::with_open(path).map_or(Ok(()), |node| Err(RestoreError::NodeRuns { node }));
    }
    // Not `exists()`: a link without a target exists, too.
    if path.symlink_metadata().is_ok() {
        return Err(RestoreError::Exists(path.to_owned()));
    }
    match companions(path).next() {
        Some((companion, _)) => Err(RestoreError::Companion(companion)),
        None => Ok(()),
    }
}

/// The files beside the database that SQLite takes for a part of it, with their suffixes.
fn companions(path: &Path) -> impl Iterator<Item = (PathBuf, &'static str)> {
    let companions = COMPANIONS.into_iter().map(|suffix| (with_suffix(path, suffix), suffix));
    companions.filter(|(companion, _)| companion.symlink_metadata().is_ok())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(path);
    path.push(suffix);
    path.into()
}

/// Renames a file; fails if the new name exists.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refusal(path: &Path, backup: &Path) -> RestoreError {
        Destination::check(path, backup, Existing::Refuse).unwrap_err()
    }

    #[test]
    fn only_a_free_name_in_an_existing_directory_is_a_destination() {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("node.bkp");
        fs::create_dir(&backup).unwrap();
        let free = dir.path().join("free.sqlite3");
        assert_eq!(Destination::check(&free, &backup, Existing::Refuse).unwrap().path, free);
        let node = dir.path().join("node");
        fs::create_dir(&node).unwrap();
        assert_eq!(Destination::check(&node, &backup, Existing::Refuse).unwrap().path, node.join(DATABASE_NAME));

        let taken = dir.path().join("taken");
        fs::write(&taken, "").unwrap();
        assert!(matches!(refusal(&taken, &backup), RestoreError::Exists(_)));
        let dangling = dir.path().join("dangling");
        symlink("/no/such/target", &dangling).unwrap();
        assert!(matches!(refusal(&dangling, &backup), RestoreError::Exists(_)));
        fs::write(node.join(DATABASE_NAME), "").unwrap();
        assert!(matches!(refusal(&node, &backup), RestoreError::Exists(_)));
        assert!(matches!(refusal(&dir.path().join("no/where.sqlite3"), &backup), RestoreError::NoDirectory(_)));
        assert!(matches!(refusal(&dir.path().join("new/"), &backup), RestoreError::NoDirectory(_)));
        assert!(matches!(refusal(&backup.join("x"), &backup), RestoreError::InsideBackup(_)));
        for suffix in COMPANIONS {
            let name = dir.path().join(format!("with.db{suffix}"));
            fs::write(&name, "").unwrap();
            assert!(matches!(refusal(&dir.path().join("with.db"), &backup), RestoreError::Companion(_)), "{suffix}");
            fs::remove_file(name).unwrap();
        }
    }

    /// What went wrong: a file `bitcoin` was made where no lightningd looks for it.
    #[test]
    fn a_name_without_an_extension_is_a_directory_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("node.bkp");
        fs::create_dir(&backup).unwrap();
        for name in ["bitcoin", "lightning/bitcoin"] {
            let path = dir.path().join(name);
            let refused = refusal(&path, &backup);
            assert!(matches!(refused, RestoreError::NoDirectoryOrFile(_)), "{refused}");
            assert!(refused.to_string().contains(&format!("`mkdir -p {}`", path.display())), "{refused}");
        }
        assert!(matches!(refusal(&dir.path().join("no/db.sqlite3"), &backup), RestoreError::NoDirectory(_)));
        fs::write(dir.path().join("bitcoin"), "").unwrap();
        assert!(matches!(refusal(&dir.path().join("bitcoin"), &backup), RestoreError::Exists(_)));
    }

    #[test]
    fn a_database_goes_where_its_node_looks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (backup, above) = (dir.path().join("node.bkp"), dir.path().join("lightning"));
        let network = above.join("bitcoin");
        fs::create_dir_all(&network).unwrap();
        fs::create_dir(&backup).unwrap();
        for path in [above.clone(), above.join(DATABASE_NAME)] {
            let refused = refusal(&path, &backup).to_string();
            assert!(refused.contains(network.to_str().unwrap()), "{refused}");
        }
        assert!(
            Destination::check(&above.join("look.sqlite3"), &backup, Existing::Refuse).is_ok(),
            "only to look at it"
        );
        assert!(Destination::check(&network, &backup, Existing::Refuse).is_ok());
        fs::write(network.join("backup.lock"), r#"{"backend_url": "file:///b", "database": "/data/wallet.sqlite3"}"#)
            .unwrap();
        let refused = refusal(&network, &backup).to_string();
        assert!(refused.contains("/data/wallet.sqlite3: restore to that"), "{refused}");
    }
}

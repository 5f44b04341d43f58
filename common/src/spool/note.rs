//! The note in a backup with the location of its spool; and whether the backup is behind the spool.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::contents::{ends, read_header};
use super::{SpoolContents, SpoolMarker};
use crate::backup::Backup;
use crate::storage::{Access, Directory, RealDirectory, StorageError, remove_if_present, replace_file};
use format::names;
use format::units::DataVersion;
use format::version_rules::Commit;

/// Maximum length; a note has a few hundred bytes.
const LEN_MAX: usize = 8 << 10;

/// Location of a backup's spool: JSON in the file [`names::SPOOL_NOTE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolNote {
    /// Host name of the machine.
    pub host: String,
    /// Directory on that machine.
    pub path: PathBuf,
}

/// The reason why the note cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolNoteError {
    /// A call failed.
    #[error("{0}: {source}", source = .0.source)]
    Storage(StorageError),
    /// The note is not valid.
    #[error("{path} is not understood: {source}", path = .path.display())]
    NotUnderstood { path: PathBuf, source: serde_json::Error },
}

impl SpoolNote {
    /// Parses the contents of the file.
    ///
    /// # Errors
    /// When they are not valid.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Encodes the file; empty for a path that is not UTF-8, as JSON requires.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the note; `None` when there is none.
    pub(crate) fn read(directory: &dyn Directory) -> Result<Option<Self>, SpoolNoteError> {
        let file = match directory.open(names::SPOOL_NOTE, Access::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(SpoolNoteError::Storage(error)),
        };
        let mut bytes = vec![0; LEN_MAX];
        let len = file.read_at(&mut bytes, 0).map_err(SpoolNoteError::Storage)?;
        Self::decode(&bytes[..len])
            .map(Some)
            .map_err(|source| SpoolNoteError::NotUnderstood { path: file.path().to_path_buf(), source })
    }

    /// Whether the spool is on this machine: by host name, or because it can be read here. A machine may have been renamed, and
    /// containers may share a disk.
    pub(crate) fn is_here(&self, uuid: Uuid) -> bool {
        let is_there = || {
            let header = read_header(&RealDirectory::new(&self.path));
            header.is_ok_and(|header| header.is_some_and(|header| header.manifest.uuid == uuid))
        };
        self.host == this_host() || is_there()
    }

    /// Replaces or removes the note, durably.
    pub(crate) fn replace(note: Option<&Self>, directory: &dyn Directory) -> Result<(), StorageError> {
        match (note, Self::read(directory)) {
            (_, Ok(there)) if there.as_ref() == note => Ok(()),
            (Some(note), _) => replace_file(directory, names::SPOOL_NOTE, &note.encode()),
            (None, _) => {
                remove_if_present(directory, names::SPOOL_NOTE)?;
                directory.sync()
            }
        }
    }
}

/// The name of this machine.
pub(crate) fn this_host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The state of the spool of a backup, as far as this machine can see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolStatus {
    /// The backup is complete: there is no spool, or it is empty.
    Complete,
    /// The spool has changes that the backup lacks.
    Behind(BehindSpool),
    /// The spool is on another machine, or not accessible to this user.
    OutOfSight {
        /// Host name of the machine.
        host: String,
        /// Directory on that machine.
        path: PathBuf,
    },
    /// The spool is here and cannot be read, or its location cannot be read.
    Unreadable {
        /// Path of the spool, or of the file with its location.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The changes that a backup lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BehindSpool {
    /// Path of the spool.
    pub path: PathBuf,
    /// Number of changes.
    pub changes: u64,
    /// Version of the first change.
    pub from_version: Option<DataVersion>,
    /// Version of the last change.
    pub to_version: Option<DataVersion>,
    /// Whether `lightningd` is known to have committed that.
    pub commit: Commit,
}

impl Backup {
    /// Checks whether the backup is behind a spool of its node.
    pub fn spool_sight(&self) -> SpoolStatus {
        let note = match SpoolNote::read(&**self.directory()) {
            Ok(Some(note)) => note,
            Ok(None) => return SpoolStatus::Complete,
            Err(error) => {
                let path = self.path().join(names::SPOOL_NOTE);
                return SpoolStatus::Unreadable { path, reason: error.to_string() };
            }
        };
        let path = note.path.clone();
        let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(&path));
        if !note.is_here(self.manifest().uuid) || directory.list().is_err() {
            let SpoolNote { host, path } = note;
            return SpoolStatus::OutOfSight { host, path };
        }
        self.sight_of(path, &directory)
    }

    /// Like [`spool_sight`](Self::spool_sight), for a spool that is accessible.
    fn sight_of(&self, path: PathBuf, directory: &Arc<dyn Directory>) -> SpoolStatus {
        let contents = match SpoolContents::read(directory) {
            Ok(Some(contents)) if contents.header.manifest.uuid == self.manifest().uuid => contents,
            Ok(_) => return SpoolStatus::Complete,
            Err(error) => return SpoolStatus::Unreadable { path, reason: error.to_string() },
        };
        match self.missing_of(directory, contents) {
            Some(missing) if missing.changes == 0 => SpoolStatus::Complete,
            Some(missing) => SpoolStatus::Behind(missing),
            None => SpoolStatus::Unreadable { path, reason: "the end of the backup cannot be read".to_owned() },
        }
    }

    /// Like [`spool_sight`](Self::spool_sight), with the lightning-dir of the node, whose marker also covers a spool that is not
    /// accessible.
    pub fn spool_sight_beside(&self, lightning_dir: &Path) -> SpoolStatus {
        let sight = self.spool_sight();
        let lightning_dir = RealDirectory::new(lightning_dir);
        match SpoolMarker::read(&lightning_dir, Some(self.manifest().uuid)) {
            Ok(None) => sight,
            Ok(Some(marker)) => match (&sight, read_header(&RealDirectory::new(&marker.path))) {
                (SpoolStatus::Behind(_) | SpoolStatus::Unreadable { .. }, _) => sight,
                // An older copy of the backup may have no note.
                (_, Ok(Some(header))) if marker.is_of(&header) => {
                    let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(&marker.path));
                    match self.sight_of(marker.path, &directory) {
                        SpoolStatus::Complete => sight,
                        seen => seen,
                    }
                }
                _ => {
                    let file = lightning_dir.path().join(SpoolMarker::FILE_NAME);
                    let reason = format!("{} says that it holds changes, and it is not there", file.display());
                    SpoolStatus::Unreadable { path: marker.path, reason }
                }
            },
            Err(error) => {
                let path = lightning_dir.path().join(SpoolMarker::FILE_NAME);
                SpoolStatus::Unreadable { path, reason: error.to_string() }
            }
        }
    }

    /// The changes of the spool behind the last record of the backup.
    fn missing_of(&self, directory: &Arc<dyn Directory>, contents: SpoolContents) -> Option<BehindSpool> {
        let (_, mut cursor) = self.sealed_history().ok()?;
        // A backup that cannot be read to its end is certainly behind.
        let read = cursor.read_new(&mut |_, _| Ok(()));
        let (from, attempted) = ends(&contents.header);
        let end = cursor.end();
        let has = if read.is_err() || attempted.contains(&end) { from.next_seq } else { end.next_seq };
        let mut left = SpoolContents::new(contents.header.clone());
        let mut spool = super::contents::first_record(directory, &contents.header).ok()??;
        let counted = spool.read_new(&mut |record, _| {
            if record.header.seq >= has { left.apply(record) } else { Ok(()) }
        });
        counted.ok()?;
        Some(BehindSpool {
            path: directory.path().to_path_buf(),
            changes: left.spooled.changes,
            from_version: left.spooled.from_version,
            to_version: left.spooled.to_version,
            commit: left.commit,
        })
    }
}

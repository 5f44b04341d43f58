//! [`Backup`]: a backup directory open for reading. Takes no lock and changes nothing.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use crate::format::manifest::{MANIFEST_LEN, Manifest};
use crate::format::record::{Body, Parsed, Record, parse};
use crate::format::{Damage, names};
use crate::history::History;
use crate::log::{LogCursor, RecordPlace};
use crate::pages::{ExpectedSnapshot, SharedSnapshots, SnapshotChain};
use crate::storage::{Access, Directory, RealDirectory, StorageError, read_exact_at};
use crate::{BackupUrl, ReadError};

/// Why a backup cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing.
    #[error("there is no backup at {url}; check the path, mount the disk it is on, or make one with `backupfs init`")]
    Missing {
        /// Where it was looked for.
        url: BackupUrl,
    },
    /// It is not a directory with a manifest.
    #[error("{url} is not a backup ({reason}); check the path")]
    NotABackup {
        /// Where it was looked for.
        url: BackupUrl,
        /// What is wrong.
        reason: Damage,
    },
    /// It was written by a later release.
    #[error("{url} cannot be read: {reason}")]
    NewerFormat {
        /// Where it is.
        url: BackupUrl,
        /// Which format it has.
        reason: Damage,
    },
    /// It belongs to somebody else.
    #[error("{url} is closed to this user; use the account that lightningd runs as, which owns the backup")]
    NoPermission {
        /// Where it is.
        url: BackupUrl,
        /// The call that failed.
        source: StorageError,
    },
    /// There is something that is not a directory.
    #[error("{url} is not a directory, so it is not a backup; check the path")]
    NotADirectory {
        /// Where it was looked for.
        url: BackupUrl,
    },
    /// A directory without a manifest.
    #[error("{url} has no file `{}`, so it is not a backup; check the path", names::MANIFEST)]
    NoManifest {
        /// Where it was looked for.
        url: BackupUrl,
    },
    /// It cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A backup directory.
#[derive(Debug)]
pub struct Backup {
    directory: Arc<dyn Directory>,
    manifest: Manifest,
    snapshots: SharedSnapshots,
}

impl Backup {
    /// Opens the backup at `url`: reads its manifest, nothing else.
    ///
    /// # Errors
    /// When there is none, or it is of a newer format.
    pub fn open(url: &BackupUrl) -> Result<Self, OpenError> {
        let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(url.path()));
        Self::open_in(directory, url)
    }

    pub(crate) fn open_in(directory: Arc<dyn Directory>, url: &BackupUrl) -> Result<Self, OpenError> {
        let manifest = read_manifest(&*directory, url)?;
        Ok(Self { directory, manifest, snapshots: SharedSnapshots::default() })
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Bytes of all its files, as they count in `ls -l`. Lists the directory.
    ///
    /// # Errors
    /// When the directory or a file cannot be read.
    pub fn read_bytes(&self) -> Result<u64, StorageError> {
        let mut bytes = 0;
        for name in self.directory.list()? {
            match self.directory.open(&name, Access::Read) {
                Ok(file) => bytes += file.read_len()?,
                // The recorder may have renamed or removed it meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// An empty history and the follower that fills it.
    pub fn follow(&self) -> (RwLock<History>, Follower) {
        let cursor = LogCursor::new(Arc::clone(&self.directory), self.manifest.uuid);
        let follower = Follower { backup: self.same(), cursor, damaged_at: None };
        (RwLock::new(self.empty_history()), follower)
    }

    /// Reads the whole history.
    ///
    /// # Errors
    /// When the log is damaged: what comes before the damage is in the history.
    pub fn read_history(&self) -> (History, Result<(), ReadError>) {
        let (history, mut follower) = self.follow();
        let result = follower.poll(&history).map(|_| ());
        (history.into_inner().unwrap_or_else(PoisonError::into_inner), result)
    }

    fn same(&self) -> Self {
        Self {
            directory: Arc::clone(&self.directory),
            manifest: self.manifest.clone(),
            snapshots: SharedSnapshots::default(),
        }
    }

    fn empty_history(&self) -> History {
        History::new(self.manifest.uuid, self.manifest.page_size)
    }

    /// The statements of some changes, as received.
    ///
    /// # Errors
    /// When a record cannot be read or is damaged.
    pub fn statements(&self, places: &[RecordPlace]) -> Result<Vec<String>, ReadError> {
        let mut all = Vec::new();
        let mut records = RecordReader::new(self);
        for &place in places {
            records.read(place, |record| {
                if let Body::Change { statements, .. } = &record.body {
                    all.extend(statements.iter().map(|statement| statement.clone().into_owned()));
                }
            })?;
        }
        Ok(all)
    }

    pub(crate) fn open_snapshots(&self, expected: &[ExpectedSnapshot]) -> Result<SnapshotChain, ReadError> {
        SnapshotChain::open(&*self.directory, &self.snapshots, expected)
    }
}

/// Reads the manifest of the backup in `directory`.
pub(crate) fn read_manifest(directory: &dyn Directory, url: &BackupUrl) -> Result<Manifest, OpenError> {
    let file = match directory.open(names::MANIFEST, Access::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => {
            return Err(if directory.list().is_err() {
                OpenError::Missing { url: url.clone() }
            } else {
                OpenError::NoManifest { url: url.clone() }
            });
        }
        Err(error) if error.source.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(OpenError::NotADirectory { url: url.clone() });
        }
        Err(source) if source.source.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(OpenError::NoPermission { url: url.clone(), source });
        }
        Err(error) => return Err(error.into()),
    };
    // One byte more than a manifest has, to notice a file that is longer.
    let mut bytes = vec![0; MANIFEST_LEN + 1];
    let len = file.read_at(&mut bytes, 0)?;
    bytes.truncate(len);
    Manifest::decode(&bytes).map_err(|reason| match reason {
        Damage::TooNew { .. } => OpenError::NewerFormat { url: url.clone(), reason },
        _ => OpenError::NotABackup { url: url.clone(), reason },
    })
}

/// What a look at the log found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polled {
    /// Records that were not there before.
    pub new_records: u64,
    /// Whether the history was read anew from the beginning, because what had been read was no longer there.
    pub reread: Reread,
}

/// Whether the history was read anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// No: only what is new was read.
    No,
    /// Yes. Seqs may stand for other records than before, so everything derived from them is void.
    Yes,
}

/// Follows a log that a recorder may be writing.
#[derive(Debug)]
pub struct Follower {
    backup: Backup,
    cursor: LogCursor,
    /// Where damage was found that reading anew did not explain.
    damaged_at: Option<crate::Seq>,
}

impl Follower {
    /// Adds to `history` what has been recorded since the last call. Cheap when that is nothing: one read, one open.
    ///
    /// The history is locked only for moments.
    ///
    /// # Errors
    /// When the log is damaged. The history then holds what comes before the damage, and later calls return the error
    /// again.
    pub fn poll(&mut self, history: &RwLock<History>) -> Result<Polled, ReadError> {
        let before = self.cursor.next_seq();
        let result = read_into(&mut self.cursor, history);
        let polled =
            |cursor: &LogCursor, reread| Polled { new_records: cursor.next_seq().get() - before.get(), reread };
        let error = match result {
            Ok(()) => return Ok(polled(&self.cursor, Reread::No)),
            Err(error @ ReadError::Storage(_)) => return Err(error),
            Err(error) if self.damaged_at == Some(self.cursor.next_seq()) || before == crate::Seq::FIRST => {
                return Err(error);
            }
            Err(error) => error,
        };
        // Records that were read before they were durable can be gone after a crash of the machine that recorded them,
        // and others have their seqs now. Seen from here that looks like damage: reading anew tells.
        log::info!("{error}; reading the history anew");
        let mut cursor = LogCursor::new(Arc::clone(&self.backup.directory), self.backup.manifest.uuid);
        let anew = RwLock::new(self.backup.empty_history());
        if let Err(error) = read_into(&mut cursor, &anew) {
            self.damaged_at = Some(self.cursor.next_seq());
            return Err(error);
        }
        *history.write().unwrap_or_else(PoisonError::into_inner) =
            anew.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.cursor = cursor;
        self.damaged_at = None;
        Ok(Polled { new_records: self.cursor.next_seq().get().saturating_sub(before.get()), reread: Reread::Yes })
    }
}

fn read_into(cursor: &mut LogCursor, history: &RwLock<History>) -> Result<(), ReadError> {
    cursor.read_new(&mut |record, place| history.write().unwrap_or_else(PoisonError::into_inner).apply(record, place))
}

/// Reads records at known places; consecutive ones of a log are read together.
pub(crate) struct RecordReader<'a> {
    backup: &'a Backup,
    file: Option<(crate::Seq, Box<dyn crate::storage::StoredFile>)>,
    /// Bytes of the file from `buffer_offset` on.
    buffer: Vec<u8>,
    buffer_offset: u64,
}

/// Bytes read ahead of the record asked for: the next ones are usually asked for next.
const READ_AHEAD: usize = 256 << 10;

impl<'a> RecordReader<'a> {
    pub(crate) fn new(backup: &'a Backup) -> Self {
        Self { backup, file: None, buffer: Vec::new(), buffer_offset: 0 }
    }

    /// Reads the record at `place`, whole and checked, and hands it to `take`.
    pub(crate) fn read<T>(&mut self, place: RecordPlace, take: impl FnOnce(&Record<'_>) -> T) -> Result<T, ReadError> {
        let file = match &mut self.file {
            Some((log, file)) if *log == place.log => file,
            slot => {
                let file = self.backup.directory.open(&place.file_name(), Access::Read)?;
                self.buffer.clear();
                &mut slot.insert((place.log, file)).1
            }
        };
        let start = place
            .offset
            .checked_sub(self.buffer_offset)
            .and_then(|start| usize::try_from(start).ok())
            .filter(|start| start.checked_add(place.len).is_some_and(|end| end <= self.buffer.len()));
        let start = match start {
            Some(start) => start,
            None => {
                self.buffer.resize(place.len.max(READ_AHEAD), 0);
                if !read_exact_at(&**file, &mut self.buffer, place.offset)? {
                    // Fewer bytes follow than are read ahead: the record itself decides whether they are enough.
                    self.buffer.resize(place.len, 0);
                    read_exact_at(&**file, &mut self.buffer, place.offset)?;
                }
                self.buffer_offset = place.offset;
                0
            }
        };
        let damaged = |damage| ReadError::damaged(file.path(), place.offset, damage);
        match parse(self.backup.manifest.uuid, &self.buffer[start..start + place.len]) {
            Ok(Parsed::Record { record, .. }) => Ok(take(&record)),
            Ok(Parsed::Short { wanted }) => Err(damaged(Damage::Short { have: place.len, want: wanted })),
            Ok(Parsed::Unused) => Err(damaged(Damage::Magic { expected: "record" })),
            Ok(Parsed::NotUnderstood(damage)) | Err(damage) => Err(damaged(damage)),
        }
    }
}

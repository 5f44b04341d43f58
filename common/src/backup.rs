//! [`Backup`]: a backup directory open for reading. Takes no lock and changes nothing.

pub(crate) mod attach;
pub(crate) mod attach_error;
pub(crate) mod lock_status;
mod reads_at_once;
pub(crate) mod recorded_changes;
pub(crate) mod removal;
pub(crate) mod shared_lock;
pub(crate) mod size;
pub(crate) mod snapshot_check;
pub(crate) mod source;
pub(crate) mod state;
mod tail_reads;
pub(crate) mod view;
mod view_cache;
pub(crate) mod views;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::backup::recorded_changes::RecordedChanges;
use crate::backup::source::Source;
use crate::backup::view::View;
use crate::history::unsealed::Unsealed;
use crate::history::{History, Start};
use crate::log::{LogCursor, RecordAddress};
use crate::pages::{ExpectedSnapshot, NoPages, PageSource, SharedSnapshots, SnapshotFile, SnapshotPages};
use crate::parity::healing::HealingDirectory;
use crate::parity::sets::ParitySets;
use crate::parity::share::ParityShare;
use crate::replay::IdleReplays;
use crate::segment::version::Readable;
use crate::segment::{Dropped, SealedPages, SealedState, Segments};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, Healed, StorageError, WHOLE_FILE};
use format::manifest::{MANIFEST_LEN, Manifest};
use format::record_index::ForeignKeys;
use format::segment::SnapshotId;
use format::snapshot_ref::{DeltaBase, SnapshotRef};
use format::units::Keyframe;
use format::units::Seq;
use format::{Damage, names};

/// The reason why a backup cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path does not exist.
    #[error(
        "there is no backup at {url}; check the path, or mount the disk it is on. If it was moved, `backupfs attach` connects the \
         node to its new place; `backupfs init` makes a new one"
    )]
    Missing {
        /// The URL of the backup.
        url: String,
    },
    /// The directory has no valid manifest.
    #[error("{url} is not a backup ({reason}); check the path")]
    NotABackup {
        /// The URL of the backup.
        url: String,
        /// The damage of the manifest.
        reason: Damage,
    },
    /// The backup was written by a later release.
    #[error("{url} cannot be read: {reason}")]
    NewerFormat {
        /// The URL of the backup.
        url: String,
        /// The format version found.
        reason: Damage,
    },
    /// The user has no permission.
    #[error("{url} is closed to this user; use the account that lightningd runs as, which owns the backup")]
    NoPermission {
        /// The URL of the backup.
        url: String,
        /// The call that failed.
        source: StorageError,
    },
    /// The path is not a directory.
    #[error(
        "{url} is not a directory, so it is not a backup; check the path (of a file of the Python plugin `backup`, \
         `backupfs import` makes one)"
    )]
    NotADirectory {
        /// The URL of the backup.
        url: String,
    },
    /// The directory is empty: perhaps a mount point without its mount.
    #[error("{url} is empty, so it is not a backup; check the path, or mount the disk that belongs there")]
    Empty {
        /// The URL of the backup.
        url: String,
    },
    /// A directory with other files, and without a manifest.
    #[error(
        "{url} has no file `{}`, so it is not a backup; check the path: the directory that `backupfs init` was given is meant, \
         not the one above it",
        names::MANIFEST
    )]
    NoManifest {
        /// The URL of the backup.
        url: String,
    },
    /// The directory cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A backup directory.
#[derive(Debug)]
pub struct Backup {
    directory: Arc<dyn Directory>,
    manifest: Manifest,
    snapshots: SharedSnapshots,
    segments: Arc<Segments>,
    idle_replays: IdleReplays,
    parity: Mutex<ParitySets>,
}

impl Backup {
    /// Whether each read has a long way, as of an off-site copy.
    pub fn is_far(&self) -> bool {
        self.directory.is_far()
    }

    /// Opens the backup at `source`, such as a [`BackupUrl`](crate::BackupUrl); reads only its manifest.
    ///
    /// # Errors
    /// When there is none, or its format is newer.
    pub fn open(source: impl Into<Source>) -> Result<Self, OpenError> {
        let source = source.into();
        let directory: Arc<dyn Directory> = Arc::new(HealingDirectory::new(Arc::clone(source.directory())));
        let manifest = read_manifest(&*directory, &source)?;
        Ok(Self::in_directory(directory, manifest))
    }

    /// The backup in a directory that has this manifest.
    pub(crate) fn of(directory: Arc<dyn Directory>, manifest: Manifest) -> Self {
        Self::in_directory(Arc::new(HealingDirectory::new(directory)), manifest)
    }

    /// The same, for a reader that would rather do without damaged files than wait until they are mended.
    pub(crate) fn unhealed(directory: Arc<dyn Directory>, manifest: Manifest) -> Self {
        Self::in_directory(directory, manifest)
    }

    fn in_directory(directory: Arc<dyn Directory>, manifest: Manifest) -> Self {
        let segments = Arc::new(Segments::new(Arc::clone(&directory), manifest.uuid));
        let (snapshots, idle_replays) = (SharedSnapshots::default(), IdleReplays::default());
        let parity = Mutex::new(ParitySets::new(Arc::clone(&directory), manifest.uuid));
        Self { directory, manifest, snapshots, segments, idle_replays, parity }
    }

    /// Directory of the backup.
    pub(crate) fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    /// The same backup, with nothing read yet.
    pub(crate) fn again(&self) -> Self {
        Self::in_directory(Arc::clone(&self.directory), self.manifest.clone())
    }

    /// Damaged blocks of its files that parity has mended in memory so far, in order. They are still damaged on the disk.
    pub fn healed(&self) -> Vec<Healed> {
        self.directory.healed()
    }

    /// Sets how much parity is made from now on. Without this, parity is made only where there is some already.
    pub fn set_parity_share(&self, share: ParityShare) {
        self.parity().set_share(share);
    }

    /// The parity of its files. Only the holder of the lock changes it.
    pub(crate) fn parity(&self) -> MutexGuard<'_, ParitySets> {
        // A call that was broken off is repeated by the next one, so the value is consistent even after a panic.
        self.parity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Idle connections for replay onto sealed versions.
    pub(crate) fn idle_replays(&self) -> &IdleReplays {
        &self.idle_replays
    }

    /// Segments of the backup.
    pub(crate) fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Manifest of the backup.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Path of the backup.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The history of the sealed part, with a follower that adds the rest. Reads the names of the files and the newest segment.
    ///
    /// # Errors
    /// When the directory cannot be listed, or the newest segment is damaged and nothing follows it.
    pub fn follow(self: &Arc<Self>) -> Result<(RwLock<History>, Follower), ReadError> {
        let (history, cursor) = self.sealed_history()?;
        Ok((RwLock::new(history), Follower { backup: Arc::clone(self), cursor }))
    }

    /// The history of the sealed part, with a cursor behind it.
    pub(crate) fn sealed_history(&self) -> Result<(History, LogCursor), ReadError> {
        let Unsealed { sealed, cursor } = Unsealed::find(&self.directory, self.manifest.uuid, &self.segments)?;
        Ok((History::new(self.manifest.page_size, Arc::clone(&self.segments), sealed), cursor))
    }

    /// Records the identities of all segments, so that a file put in place of one later is not read.
    ///
    /// # Errors
    /// When that has already happened, or two segments do not belong together.
    pub fn recognise_segments(&self) -> Result<(), ReadError> {
        self.segments.recognise_all()
    }

    /// Reads the whole history.
    ///
    /// # Errors
    /// When the log is damaged: the history ends before the damage. When the newest version cannot be opened: the history is
    /// complete.
    pub fn read_history(self: &Arc<Self>) -> (History, Result<(), ReadError>) {
        let (history, read) = self.read_records();
        let newest = history.newest_recorded().filter(|newest| newest.readable == Readable::No);
        let unreadable = newest.map(|newest| {
            let (path, version) = (self.path().to_path_buf(), newest.data_version);
            ReadError::NewestUnreadable { path, version }
        });
        (history, read.and(unreadable.map_or(Ok(()), Err)))
    }

    /// Like [`read_history`](Self::read_history), but a newest version that cannot be opened is no error.
    pub(crate) fn read_records(self: &Arc<Self>) -> (History, Result<(), ReadError>) {
        match self.follow() {
            Ok((history, mut follower)) => {
                let result = follower.poll(&history).map(|_| ());
                (history.into_inner().unwrap_or_else(PoisonError::into_inner), result)
            }
            Err(error) => (History::new(self.manifest.page_size, Arc::clone(&self.segments), Vec::new()), Err(error)),
        }
    }

    /// The statements of changes, as received.
    ///
    /// # Errors
    /// When a record cannot be read or is damaged.
    pub fn statements(&self, addresses: &[RecordAddress]) -> Result<Vec<String>, ReadError> {
        let mut all = Vec::new();
        for run in addresses.chunk_by(|a, b| a.file_name() == b.file_name()) {
            let mut changes = RecordedChanges::open(self, &run[0])?;
            for address in run {
                changes.texts(address, &mut all)?;
            }
        }
        Ok(all)
    }

    /// Keeps a view readable after segments that it reads were dropped: opens their files, which still exist for a moment. Call
    /// it when [`Follower::poll`] reports dropped versions.
    pub fn hold_dropped(&self, view: &View) {
        view.hold_dropped(self);
    }

    /// The start pages of a replay, and whether foreign keys are enforced there.
    pub(crate) fn start_pages(&self, start: &Start) -> Result<(Arc<dyn PageSource>, ForeignKeys), ReadError> {
        match *start {
            Start::Nothing(page_size) => Ok((Arc::new(NoPages(page_size)), ForeignKeys::On)),
            Start::Segment(first_seq, state) => {
                let foreign_keys = match state {
                    SealedState::At { foreign_keys, .. } => foreign_keys,
                    SealedState::End => self.segments.footer(first_seq)?.foreign_keys,
                };
                Ok((self.sealed_pages(first_seq, state)?, foreign_keys))
            }
            Start::Snapshot(seq, snapshot) => match self.snapshot_pages(seq, &snapshot) {
                // Once the log is sealed, its delta is part of the segment.
                Err(ReadError::Storage(error)) if error.is_not_found() && self.segments.open(seq).is_ok() => {
                    let (page_count, foreign_keys) = (snapshot.page_count, ForeignKeys::On);
                    let state = SealedState::At { keyframe: Keyframe(0), page_count, foreign_keys };
                    Ok((self.sealed_pages(seq, state)?, foreign_keys))
                }
                pages => Ok((pages?, ForeignKeys::On)),
            },
        }
    }

    fn sealed_pages(&self, first_seq: Seq, state: SealedState) -> Result<Arc<dyn PageSource>, ReadError> {
        let segment = self.segments.open(first_seq)?;
        let snapshot = segment.footer().snapshot.map(|id| self.full_snapshot(id)).transpose()?;
        if snapshot.as_ref().is_some_and(|snapshot| snapshot.page_size() != segment.header().page_size) {
            return Err(segment.damaged(0, Damage::Contradiction("its pages have another size than its snapshot's")));
        }
        Ok(Arc::new(SealedPages::new(Arc::clone(&self.segments), segment, state, snapshot)))
    }

    /// The database of a full snapshot.
    pub(crate) fn full_snapshot(&self, id: SnapshotId) -> Result<Arc<dyn PageSource>, ReadError> {
        Ok(Arc::new(SnapshotPages::new(self.open_snapshot(id)?, None)?))
    }

    /// Opens a snapshot file and checks its identity.
    pub(crate) fn open_snapshot(&self, id: SnapshotId) -> Result<Arc<SnapshotFile>, ReadError> {
        let (uuid, SnapshotId { seq, footer_checksum }) = (self.manifest.uuid, id);
        self.snapshots.open(&*self.directory, ExpectedSnapshot { uuid, seq, footer_checksum })
    }

    /// The database of the snapshot of a record.
    pub(crate) fn snapshot_pages(&self, seq: Seq, snapshot: &SnapshotRef) -> Result<Arc<dyn PageSource>, ReadError> {
        let file = self.open_snapshot(SnapshotId { seq, footer_checksum: snapshot.footer_checksum })?;
        let below = snapshot.base.map(|base| Ok::<_, ReadError>((base, self.stored_pages(base)?))).transpose()?;
        Ok(Arc::new(SnapshotPages::new(file, below)?))
    }

    /// The database of a delta's base.
    pub(crate) fn stored_pages(&self, base: DeltaBase) -> Result<Arc<dyn PageSource>, ReadError> {
        match base {
            DeltaBase::Snapshot(id) => self.full_snapshot(id),
            DeltaBase::Segment(first) => self.sealed_pages(first, SealedState::End),
        }
    }
}

/// Reads the manifest of the backup at `source`.
pub(crate) fn read_manifest(directory: &dyn Directory, source: &Source) -> Result<Manifest, OpenError> {
    let url = || source.to_string();
    let file = match directory.open(names::MANIFEST, Access::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => {
            let url = url();
            return Err(match directory.list() {
                Err(_) => OpenError::Missing { url },
                Ok(names) if names.is_empty() => OpenError::Empty { url },
                Ok(_) => OpenError::NoManifest { url },
            });
        }
        Err(error) if error.source.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(OpenError::NotADirectory { url: url() });
        }
        Err(source) if source.source.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(OpenError::NoPermission { url: url(), source });
        }
        Err(error) => return Err(error.into()),
    };
    let read = || -> Result<_, StorageError> {
        // One byte more than a manifest, to notice a longer file.
        let mut bytes = vec![0; MANIFEST_LEN + 1];
        let len = file.read_at(&mut bytes, 0)?;
        bytes.truncate(len);
        Ok(Manifest::decode(&bytes))
    };
    let manifest = match read()? {
        // One of a newer release may have replaced that of which there is parity.
        Err(damage) if !damage.is_too_new() && file.heal(&WHOLE_FILE) => read()?,
        manifest => manifest,
    };
    manifest.map_err(|reason| match reason {
        Damage::TooNew { .. } => OpenError::NewerFormat { url: url(), reason },
        _ => OpenError::NotABackup { url: url(), reason },
    })
}

/// Result of polling a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polled {
    /// Number of new records.
    pub new_records: u64,
    /// Number of versions removed from the history, because a compaction has dropped them.
    pub dropped_versions: u64,
}

/// Follows a backup while it may be recorded to.
#[derive(Debug)]
pub struct Follower {
    backup: Arc<Backup>,
    cursor: LogCursor,
}

impl Follower {
    /// Seq of the next record.
    pub(crate) fn next_seq(&self) -> Seq {
        self.cursor.next_seq()
    }

    /// First seq of the current log, and the offset behind its last record.
    pub(crate) fn position(&self) -> Option<(Seq, u64)> {
        self.cursor.position()
    }

    /// Adds new records to `history`. Without any it is cheap: three reads, five opens.
    ///
    /// The history is locked only briefly.
    ///
    /// # Errors
    /// When the log is damaged: the history ends before the damage, and later calls return the error again. Two other cases look
    /// the same from here: records that were read before they were durable were lost in a crash of the recording machine, and
    /// their seqs reused; or another copy was put in place of the backup. Opening the backup again distinguishes them.
    pub fn poll(&mut self, history: &RwLock<History>) -> Result<Polled, ReadError> {
        let before = self.cursor.next_seq();
        let dropped_versions = self.forget_dropped(history)?;
        self.cursor.check_last()?;
        self.read_and_adopt(history)?;
        let new_records = self.cursor.next_seq().get().saturating_sub(before.get());
        Ok(Polled { new_records, dropped_versions })
    }

    /// Removes versions that a compaction has dropped from the history; returns their number.
    fn forget_dropped(&self, history: &RwLock<History>) -> Result<u64, ReadError> {
        match self.backup.segments.look_what_is_dropped() {
            Ok(Dropped::Same) => Ok(0),
            Ok(Dropped::Changed) => Ok(history.write().unwrap_or_else(PoisonError::into_inner).forget_dropped()),
            // Reported once. All recorded versions can still be read.
            Err(error @ ReadError::Damaged { .. }) => {
                log::error!("{error}");
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    fn read_and_adopt(&mut self, history: &RwLock<History>) -> Result<(), ReadError> {
        self.adopt_sealed(history)?;
        let mut result = read_into(&mut self.cursor, history);
        // Logs may have been sealed, and removed, during the read.
        while result.is_err() && self.adopt_sealed(history)? == Adopted::Some {
            result = read_into(&mut self.cursor, history);
        }
        result
    }

    /// Replaces logs by their segments if they were sealed since the last call.
    ///
    /// # Errors
    /// Also when a segment lacks records of its log.
    fn adopt_sealed(&mut self, history: &RwLock<History>) -> Result<Adopted, ReadError> {
        let mut adopted = Adopted::None;
        loop {
            let oldest = history.read().unwrap_or_else(PoisonError::into_inner).oldest_log();
            let oldest = oldest.unwrap_or(self.cursor.next_seq());
            let Some(footer) = self.backup.segments.footer_of_new(oldest)? else { return Ok(adopted) };
            history.write().unwrap_or_else(PoisonError::into_inner).adopt(oldest)?;
            // Unread records of the log are in the segment.
            if self.cursor.next_seq() <= footer.last_seq {
                let (directory, uuid) = (Arc::clone(&self.backup.directory), self.backup.manifest.uuid);
                self.cursor = LogCursor::at(directory, uuid, footer.last_seq.next(), footer.last_checksum);
            }
            adopted = Adopted::Some;
        }
    }
}

/// Whether logs were replaced by segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adopted {
    None,
    Some,
}

fn read_into(cursor: &mut LogCursor, history: &RwLock<History>) -> Result<(), ReadError> {
    cursor
        .read_new(&mut |record, address| history.write().unwrap_or_else(PoisonError::into_inner).apply(record, address))
}

//! A [`BackupWriter`] that writes to a spool, and the switch to it and back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::interrupted::Interrupted;
use super::{BackupWriter, Comparison, Goes, Identity, Known};
use crate::backup::attach_error::OpenRecordingError;
use crate::backup::shared_lock::SharedLock;
use crate::config::backup_lock::BackupLock;
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::config::on_unreachable::OnUnreachable;
use crate::history::NewestVersion;
use crate::log::LogEnd;
use crate::spool::{
    Drain, DrainPlan, HeldSpool, SpoolContents, SpoolError, SpoolMarker, SpoolNote, SpoolNoteError, SpooledChanges,
    clear_spool, spool_directory, spool_logs, spool_path, this_host,
};
use crate::storage::boot::current_boot;
use crate::storage::{DeadlineDirectory, Directory, InFlightCalls, RealDirectory, WatchedDirectory};
use format::change_flags::RunStart;
use format::spool::{ATTEMPTED_MAX, SpoolHeader, SpoolNewest};
use format::units::{Timestamp, counted};

/// Minimum deadline of a call before a spool is used: a disk may have to spin up.
const CALL_TAKES_AT_MOST: Duration = Duration::from_secs(5);

/// The state of a recording that writes to a spool.
#[derive(Debug)]
pub(super) struct Spooling {
    header: SpoolHeader,
    pub(super) spooled: SpooledChanges,
}

/// The directory that is recorded to. If there is a spool to switch to, its calls have a deadline.
pub(super) fn destination(
    url: &BackupUrl,
    policy: &OnUnreachable,
    in_flight: &Arc<InFlightCalls>,
) -> Result<Arc<dyn Directory>, OpenRecordingError> {
    let real = RealDirectory::new(url.path());
    if !matches!(policy, OnUnreachable::Spool { .. }) {
        return Ok(Arc::new(WatchedDirectory::new(real, Arc::clone(in_flight))));
    }
    let with_deadline =
        DeadlineDirectory::new(Arc::new(real), Arc::clone(in_flight)).map_err(OpenRecordingError::Thread)?;
    with_deadline.set_timeout(call_timeout(policy));
    Ok(Arc::new(with_deadline))
}

/// Deadline of a call before changes are spooled.
fn call_timeout(policy: &OnUnreachable) -> Duration {
    policy.wait().max(CALL_TAKES_AT_MOST)
}

impl BackupWriter {
    /// Continues in the spool that an earlier run has left; `None` when `backup.lock` names no spool, or it is empty. Does not
    /// access the backup.
    ///
    /// # Errors
    /// When the spool is not usable, or a spool with changes is missing or not named in `backup.lock`.
    pub fn open_spool(
        backup_lock: &BackupLock,
        lightning_dir: &std::path::Path,
        limits: LogLimits,
        in_flight: &Arc<InFlightCalls>,
    ) -> Result<Option<Self>, SpoolError> {
        let beside_lock: Arc<dyn Directory> = Arc::new(RealDirectory::new(lightning_dir));
        let spool = |path: PathBuf| -> Arc<dyn Directory> {
            Arc::new(WatchedDirectory::new(RealDirectory::new(path), Arc::clone(in_flight)))
        };
        let named = match (&backup_lock.on_unreachable, backup_lock.backup_uuid) {
            (OnUnreachable::Spool { directory: root, .. }, Some(uuid)) => Some((spool_path(root, uuid), uuid)),
            _ => None,
        };
        if let Some(marker) = SpoolMarker::read(&*beside_lock, backup_lock.backup_uuid)?
            && named.as_ref().is_none_or(|(path, _)| *path != marker.path)
            && let Some(held) = HeldSpool::take(spool(marker.path.clone()), &*beside_lock, marker.uuid, limits)?
        {
            return Err(SpoolError::Forgotten { path: marker.path, changes: held.contents.spooled.changes });
        }
        let Some((path, uuid)) = named else { return Ok(None) };
        let database = backup_lock.database_path(lightning_dir);
        let spooling = Self::open_spool_in(spool(path), beside_lock, uuid, backup_lock, database, limits)?;
        Ok(spooling.inspect(Self::preallocate_logs))
    }

    pub(crate) fn open_spool_in(
        directory: Arc<dyn Directory>,
        lightning_dir: Arc<dyn Directory>,
        uuid: Uuid,
        backup_lock: &BackupLock,
        database: PathBuf,
        limits: LogLimits,
    ) -> Result<Option<Self>, SpoolError> {
        let Some(held) = HeldSpool::take(directory, &*lightning_dir, uuid, limits)? else { return Ok(None) };
        let (contents, database_of_run) = (&held.contents, database.clone());
        let known = Known {
            url: backup_lock.backend_url.clone(),
            lightning_dir,
            database,
            on_gap: backup_lock.on_gap,
            on_unreachable: backup_lock.on_unreachable.clone(),
            parity: backup_lock.parity.unwrap_or_default(),
            limits,
            manifest: contents.header.manifest.clone(),
            newest: contents.newest,
            commit: contents.commit,
            run_start: RunStart::First,
            comparison: Comparison::of_new_run(database_of_run, contents.note),
            note: contents.note,
            boot: current_boot(),
            newest_snapshot: None,
            history_before_run: None,
            identity: Identity::default(),
        };
        log::warn!(
            "the backup {} is behind by {}; what it does not have is in the spool {}, and goes into it as soon as it can be \
             reached",
            known.url,
            counted(contents.spooled.changes, "change"),
            held.directory.path().display()
        );
        Ok(Some(Self::spooling_to(held, known)))
    }

    fn spooling_to(held: HeldSpool, known: Known) -> Self {
        let HeldSpool { directory, lock, log, contents: SpoolContents { header, spooled, .. } } = held;
        let goes = Goes::ToSpool(Spooling { header, spooled });
        Self { known, directory, log, lock: SharedLock::of(lock), goes }
    }

    /// Path and contents of the spool; `None` while recording goes to the backup.
    pub fn spooled(&self) -> Option<(PathBuf, SpooledChanges)> {
        match &self.goes {
            Goes::ToBackup => None,
            Goes::ToSpool(spooling) => Some((self.directory.path().to_path_buf(), spooling.spooled)),
        }
    }

    /// The plan for draining the spool; `None` while recording goes to the backup.
    pub fn drain_plan(&self) -> Option<DrainPlan> {
        self.drain_plan_of(Arc::new(RealDirectory::new(self.directory.path())))
    }

    pub(crate) fn drain_plan_of(&self, spool: Arc<dyn Directory>) -> Option<DrainPlan> {
        let Goes::ToSpool(Spooling { header, .. }) = &self.goes else { return None };
        let (url, limits, recorded) = (self.known.url.clone(), self.known.limits, self.log.end());
        Some(DrainPlan { url, limits, header: header.clone(), spool, recorded })
    }

    /// End of the last acknowledged record.
    pub fn end(&self) -> LogEnd {
        self.log.end()
    }

    /// Switches to the backup that `drain` has brought fully up to date; the spool is emptied first.
    ///
    /// # Errors
    /// When the spool cannot be emptied: recording continues there, as long as it has a log, and `drain` must be dropped.
    pub fn return_to_backup(&mut self, drain: Drain) -> Result<(), SpoolError> {
        self.go_on_in_backup(drain)?;
        self.preallocate_logs();
        Ok(())
    }

    pub(crate) fn go_on_in_backup(&mut self, drain: Drain) -> Result<(), SpoolError> {
        // A write to the spool that failed meanwhile was refused, and is dropped with the spool.
        assert!(drain.end() == self.log.end(), "BUG: a spool was given up that the backup does not have all of");
        // First the spool, then the first record that is not in it: see docs/durability.md.
        self.log.preallocated().remove()?;
        if let Err(error) = clear_spool(&*self.directory, &*self.known.lightning_dir) {
            // Without a log the spool cannot be written to. The backup has everything, but first the removal of the logs must be
            // durable: a log that came back would diverge from the backup.
            let has_log = spool_logs(&*self.directory).map_or(true, |logs| !logs.is_empty());
            if has_log || self.directory.sync().is_err() {
                return Err(error);
            }
            log::warn!(
                "the spool {} is empty, and cannot be tidied up: {error}. Nothing is lost by that",
                self.directory.path().display()
            );
        }
        drain.set_timeout(call_timeout(&self.known.on_unreachable));
        let Drain { directory, lock, manifest, log, .. } = drain;
        let node_id = manifest.node_id.or(self.known.manifest.node_id);
        self.known.manifest = format::manifest::Manifest { node_id, ..manifest };
        (self.directory, self.lock, self.log) = (directory, lock, log);
        self.goes = Goes::ToBackup;
        Ok(())
    }

    /// Writes the location of the spool into the backup, or removes it. Refuses a backup that is behind a spool which
    /// `backup.lock` does not name: its changes would be lost.
    pub(super) fn note_spool(&self) -> Result<(), OpenRecordingError> {
        let note = match &self.known.on_unreachable {
            OnUnreachable::Spool { directory, .. } => {
                // Better reported now than when it is needed.
                if let Err(error) = spool_directory(directory, self.known.manifest.uuid) {
                    log::error!(
                        "{error}: {}. Mend that now: without a spool lightningd stops when the backup is out of reach",
                        reason(&error)
                    );
                }
                let root = directory.canonicalize().unwrap_or_else(|_| directory.clone());
                Some(SpoolNote { host: this_host(), path: spool_path(&root, self.known.manifest.uuid) })
            }
            OnUnreachable::Wait(_) | OnUnreachable::Stop => None,
        };
        match SpoolNote::read(&*self.directory) {
            Ok(Some(old)) if Some(&old) != note.as_ref() => self.check_forgotten_spool(&old)?,
            Ok(_) => {}
            Err(SpoolNoteError::Storage(error)) => return Err(error.into()),
            Err(error @ SpoolNoteError::NotUnderstood { .. }) => {
                log::warn!("{error}. If an earlier recorder had another spool, look whether changes are left there");
            }
        }
        Ok(SpoolNote::replace(note.as_ref(), &*self.directory)?)
    }

    fn check_forgotten_spool(&self, old: &SpoolNote) -> Result<(), OpenRecordingError> {
        if !old.is_here(self.known.manifest.uuid) {
            log::warn!(
                "an earlier recorder of {} had a spool at {} on {}: if changes are left there they are lost to this node",
                self.known.url,
                old.path.display(),
                old.host
            );
            return Ok(());
        }
        let directory: Arc<dyn Directory> = Arc::new(RealDirectory::new(&old.path));
        let left = SpoolContents::read(&directory).map_err(|error| match error {
            crate::storage::read_error::ReadError::Storage(error) => OpenRecordingError::Storage(error),
            error => OpenRecordingError::Recover(error.into()),
        })?;
        match left {
            Some(left) if left.header.manifest.uuid == self.known.manifest.uuid => {
                Err(OpenRecordingError::ForgottenSpool {
                    url: self.known.url.clone(),
                    path: old.path.clone(),
                    changes: left.spooled.changes,
                })
            }
            _ => Ok(()),
        }
    }
}

fn reason(error: &SpoolError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

impl Interrupted {
    /// Continues in the spool of `backup.lock`, which must be empty; `None` when there is none.
    ///
    /// # Errors
    /// When the spool is not usable.
    pub fn spool(&self, in_flight: &Arc<InFlightCalls>) -> Result<Option<BackupWriter>, SpoolError> {
        let OnUnreachable::Spool { directory: root, .. } = &self.known.on_unreachable else { return Ok(None) };
        let directory = spool_directory(root, self.known.manifest.uuid)?;
        let recording = self.spool_in(Arc::new(WatchedDirectory::new(directory, Arc::clone(in_flight))))?;
        recording.preallocate_logs();
        Ok(Some(recording))
    }

    pub(crate) fn spool_in(&self, directory: Arc<dyn Directory>) -> Result<BackupWriter, SpoolError> {
        let known = &self.known;
        let end = |end: &LogEnd| (end.next_seq, end.previous_checksum);
        let newest = known.newest.map(|NewestVersion { data_version, seq, recorded_at }| SpoolNewest {
            data_version,
            seq,
            recorded_at,
            commit: known.commit,
        });
        let header = SpoolHeader {
            from: end(&self.acknowledged),
            attempted: self.attempted.iter().take(ATTEMPTED_MAX).map(end).collect(),
            newest,
            begun: Timestamp::now(),
            manifest: known.manifest.clone(),
        };
        let held = HeldSpool::begin(directory, &*known.lightning_dir, header, known.limits)?;
        log::error!(
            "{} is out of reach: from {} on changes go to the spool {}. Until they are drained the newest changes \
             exist on this machine only",
            known.url,
            match known.newest {
                Some(newest) => format!("version {}", newest.data_version.next()),
                None => "the first version".to_owned(),
            },
            held.directory.path().display()
        );
        Ok(BackupWriter::spooling_to(held, known.without_history()))
    }
}

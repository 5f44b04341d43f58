//! Checks of the snapshots that the sealer reads, as they are stored.
//!
//! The recorder took them while `lightningd` waited, so it only compared and copied pages. All later versions build on them: they
//! are checked as a whole soon after, in the background. The result is stored in the backup, and a snapshot without a result is
//! checked by the next run, whether it has been sealed meanwhile or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backup::Backup;
use crate::backup::snapshot_check::{StoredSnapshot, write_checked};
use crate::history::History;
use crate::storage::read_error::ReadError;
use format::checked::CheckedSnapshots;
use format::record::{Body, Record};
use format::units::{DataVersion, Seq};

/// The reason why a snapshot is not good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotCheckError {
    /// The snapshot cannot be read back.
    #[error(
        "the snapshot of version {data_version} cannot be read back, so that version and those after it cannot be restored; \
         check the disk, and make a new backup: stop the node, and run `backupfs init --replace`"
    )]
    Read {
        /// Version of the snapshot.
        data_version: DataVersion,
        /// The reason.
        source: ReadError,
    },
    /// The snapshot is not a sound database of its version.
    #[error(
        "the snapshot of version {data_version} is not sound ({found}): the node's own database is damaged. Check that with \
         `sqlite3 lightningd.sqlite3 'pragma integrity_check'` while lightningd is stopped. `backupfs restore` needs \
         --accept-damaged for that version and those after it"
    )]
    Unsound {
        /// Version of the snapshot.
        data_version: DataVersion,
        /// Description of the damage.
        found: String,
    },
}

/// The snapshots that a sealer has read, with their check results.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotChecks {
    unchecked: Vec<StoredSnapshot>,
    /// The newest snapshot seen: one that is read again is not checked again.
    newest: Option<Seq>,
    /// The results stored in the backup.
    noted: Option<CheckedSnapshots>,
}

impl SnapshotChecks {
    /// Continues from the results stored in the backup; includes the snapshot below the newest version of `sealed` if it was not
    /// checked: its log may have been sealed before the check.
    pub(super) fn of(backup: &Backup, sealed: &History) -> Self {
        let noted = backup.read_checked().unwrap_or_else(|error| {
            log::warn!("{error}; the snapshots are checked again");
            None
        });
        let mut checks = Self { unchecked: Vec::new(), newest: noted.as_ref().map(|noted| noted.newest), noted };
        match StoredSnapshot::newest(backup, sealed) {
            Ok(newest) => newest.into_iter().for_each(|snapshot| checks.add(snapshot)),
            // An old segment does not matter: later logs are sealed all the same.
            Err(error) => log::error!("whether the newest snapshot is sound is not known: {error}"),
        }
        checks
    }

    /// Adds the record if it is a snapshot.
    pub(super) fn note(&mut self, record: &Record<'_>) {
        let (seq, data_version) = (record.header.seq, record.header.data_version);
        if let Body::Snapshot(snapshot) = record.body {
            self.add(StoredSnapshot { seq, data_version, snapshot });
        }
    }

    fn add(&mut self, snapshot: StoredSnapshot) {
        if self.newest < Some(snapshot.seq) {
            self.newest = Some(snapshot.seq);
            self.unchecked.push(snapshot);
        }
    }

    /// The current results.
    pub(super) fn known(&self) -> Option<&CheckedSnapshots> {
        self.noted.as_ref()
    }

    /// Checks the unchecked snapshots until `stop` is set: then the rest stays unchecked.
    ///
    /// # Errors
    /// When a snapshot is not good. It counts as checked; one that cannot be read gets no stored result, so that the next run
    /// checks it again.
    pub(super) fn check(&mut self, backup: &Backup, stop: &Arc<AtomicBool>) -> Result<(), SnapshotCheckError> {
        while let Some(&snapshot) = self.unchecked.first() {
            let checked = snapshot.check(backup, stop);
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.unchecked.remove(0);
            let StoredSnapshot { seq, data_version, .. } = snapshot;
            let found = checked.map_err(|source| SnapshotCheckError::Read { data_version, source })?;
            let noted = CheckedSnapshots::add(self.noted.take(), seq, data_version, found.as_deref());
            if let Err(error) = write_checked(&**backup.directory(), backup.manifest().uuid, &noted) {
                log::warn!(
                    "what SQLite says of a snapshot cannot be noted, so the next start checks it again: {error}"
                );
            }
            self.noted = Some(noted);
            match found {
                Some(found) => return Err(SnapshotCheckError::Unsound { data_version, found }),
                None => log::info!("the snapshot of version {data_version} is sound"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt as _;

    use super::super::tests::{LIMITS, go_on, newest_seq, record};
    use super::super::{SealError, Sealer};
    use super::*;
    use crate::recording::BackupWriter;
    use crate::testing::{Fate, Node};
    use format::names;

    /// Rows on some pages that later changes do not touch.
    const OLD_ROWS: &str = "CREATE TABLE old (i INTEGER PRIMARY KEY, what BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
        INSERT INTO old SELECT i, randomblob(300) FROM n";

    /// A node that ran without the recorder for some changes, with many new pages, and was healed.
    fn healed() -> (Node, BackupWriter) {
        let mut node = Node::new("");
        let mut recording = record(&node);
        node.write(&mut recording, "before", Fate::Committed).unwrap();
        node.connection.execute_batch(OLD_ROWS).unwrap();
        node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
        (node, recording)
    }

    fn sealer(node: &Node, recording: &BackupWriter) -> (Sealer, Result<(), SealError>) {
        let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
        let advanced = sealer.advance(newest_seq(recording), &mut go_on);
        (sealer, advanced)
    }

    fn snapshot_of(recording: &BackupWriter, node: &Node) -> std::path::PathBuf {
        // The change that was recorded with it follows directly.
        let seq = Seq::new(newest_seq(recording).get() - 1).unwrap();
        node.backup_path().join(names::snapshot(seq))
    }

    #[test]
    fn a_sound_heal_is_checked_once() {
        let (mut node, mut recording) = healed();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let (mut sealer, advanced) = sealer(&node, &recording);
        advanced.unwrap();
        assert_eq!(sealer.snapshots.unchecked.len(), 1);
        let go = Arc::default();
        sealer.check_snapshots(&go).unwrap();
        // Another check would now fail.
        fs::write(snapshot_of(&recording, &node), "damaged").unwrap();
        sealer.check_snapshots(&go).unwrap();
        assert!(sealer.snapshots.unchecked.is_empty());
    }

    #[test]
    fn a_check_that_is_stopped_is_made_later() {
        let (mut node, mut recording) = healed();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let (mut sealer, advanced) = sealer(&node, &recording);
        advanced.unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        sealer.check_snapshots(&stop).unwrap();
        assert_eq!(sealer.snapshots.unchecked.len(), 1);
        stop.store(false, Ordering::Relaxed);
        sealer.check_snapshots(&stop).unwrap();
        assert!(sealer.snapshots.unchecked.is_empty());
    }

    #[test]
    fn one_that_cannot_be_read_back_is_reported_once() {
        let (mut node, mut recording) = healed();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let snapshot = snapshot_of(&recording, &node);
        let mut bytes = fs::read(&snapshot).unwrap();
        // In the middle of the stored pages; replay of later changes does not need them.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&snapshot, bytes).unwrap();
        let (mut sealer, _) = sealer(&node, &recording);
        let error = sealer.check_snapshots(&Arc::default()).unwrap_err();
        assert!(matches!(error, SnapshotCheckError::Read { .. }), "{error}");
        sealer.check_snapshots(&Arc::default()).unwrap();
    }

    #[test]
    fn a_stop_in_the_middle_is_no_problem_of_the_backup() {
        let (mut node, mut recording) = healed();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let (sealer, _) = sealer(&node, &recording);
        let snapshot = sealer.snapshots.unchecked[0];
        let stop = Arc::new(AtomicBool::new(true));
        // The error that `SnapshotChecks::check` gets and does not report as damage.
        let error = snapshot.check(&node.backup(), &stop).unwrap_err();
        assert!(matches!(error, ReadError::Storage(_)), "{error}");
    }

    #[test]
    fn a_database_that_was_damaged_before_it_was_copied_is_reported() {
        let (mut node, mut recording) = healed();
        // The last page of old rows, which later transactions do not touch.
        let bytes = fs::read(node.database()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(node.database()).unwrap();
        file.write_all_at(&[0xee; 200], bytes.len() as u64 - 4096).unwrap();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let (mut sealer, _) = sealer(&node, &recording);
        let error = sealer.check_snapshots(&Arc::default()).unwrap_err();
        assert!(matches!(error, SnapshotCheckError::Unsound { .. }), "{error}");
        assert!(error.to_string().contains("version 12 ") && error.to_string().contains("integrity_check"), "{error}");
        sealer.check_snapshots(&Arc::default()).unwrap();
    }

    /// A snapshot that was not checked before its log was sealed is checked by the next run, and a checked one is not checked
    /// again.
    #[test]
    fn what_is_owed_is_paid_by_the_next_run_and_only_once() {
        let (mut node, mut recording) = healed();
        for _ in 0..60 {
            node.write(&mut recording, "seen", Fate::Committed).unwrap();
        }
        let (before, advanced) = sealer(&node, &recording);
        advanced.unwrap();
        assert!(before.progress().logs_sealed > 2);
        drop(before);
        // As if power had failed: no result of the heal is stored.
        let mut next = Sealer::new(node.backup(), LIMITS).unwrap();
        assert_eq!(next.snapshots.unchecked.len(), 1);
        next.check_snapshots(&Arc::default()).unwrap();
        let third = Sealer::new(node.backup(), LIMITS).unwrap();
        assert!(third.snapshots.unchecked.is_empty());
        assert_eq!(third.checked_snapshots(), next.checked_snapshots());
    }
}

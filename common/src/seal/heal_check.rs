//! Whether a snapshot that healed a gap is a sound database, read back as it was stored.
//!
//! The recorder took it while `lightningd` waited, so it only compared and copied pages then. Everything that follows
//! stands on them: they are looked at as a whole soon after, in the background, and again if that did not come to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::format::record::{Body, Record, SnapshotReason, SnapshotRef};
use crate::history::Start;
use crate::live_database::version_of_database;
use crate::pages::{MountedOverlay, OverlayPages, PagesInRuns};
use crate::replay::reason;
use crate::{Backup, DataVersion, ReadError, Seq};

/// A snapshot that healed a gap is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealCheckError {
    /// It cannot be read back.
    #[error(
        "the snapshot that version {data_version} was healed with cannot be read back, so that version and those after it \
         cannot be restored; check the disk, keep this backup, and make a new one with `backupfs init`"
    )]
    Read {
        /// Its version.
        data_version: DataVersion,
        /// Why.
        source: ReadError,
    },
    /// It is no sound database of that version.
    #[error(
        "the snapshot that version {data_version} was healed with is not sound ({found}): the node's own database may be \
         damaged; check that with `sqlite3 lightningd.sqlite3 'pragma integrity_check'` while lightningd is stopped"
    )]
    Unsound {
        /// Its version.
        data_version: DataVersion,
        /// What is wrong.
        found: String,
    },
}

/// What is known of a snapshot that healed a gap.
#[derive(Debug, Clone, Copy)]
struct Heal {
    seq: Seq,
    data_version: DataVersion,
    snapshot: SnapshotRef,
}

/// The heals that a sealer has come across.
#[derive(Debug, Clone, Default)]
pub(super) struct Heals {
    unchecked: Vec<Heal>,
    /// The newest that was ever noted: one that is read again need not be looked at again.
    newest: Option<Seq>,
    /// Up to here they are checked as ever, and no word is lost about those that are sound: another run has said it.
    told_through: Option<Seq>,
}

impl Heals {
    /// Of those up to here no word is lost when they are sound.
    pub(super) fn set_told_through(&mut self, seq: Option<Seq>) {
        self.told_through = seq;
    }

    /// Notes the record if it is of a heal.
    pub(super) fn note(&mut self, record: &Record<'_>) {
        let (seq, data_version) = (record.header.seq, record.header.data_version);
        if let Body::Snapshot(snapshot) = record.body
            && snapshot.reason == SnapshotReason::Heal
            && self.newest < Some(seq)
        {
            self.newest = Some(seq);
            self.unchecked.push(Heal { seq, data_version, snapshot });
        }
    }

    /// Checks what was not checked yet, until `stop` says so: then the rest stays unchecked.
    ///
    /// # Errors
    /// When one is not as it should be. It counts as checked.
    pub(super) fn check(&mut self, backup: &Backup, stop: &Arc<AtomicBool>) -> Result<(), HealCheckError> {
        while let Some(&heal) = self.unchecked.first() {
            let checked = heal.check(backup, stop);
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.unchecked.remove(0);
            checked?;
            let level = if Some(heal.seq) > self.told_through { log::Level::Info } else { log::Level::Debug };
            log::log!(level, "the snapshot of version {}, which was taken after a gap, is sound", heal.data_version);
        }
        Ok(())
    }
}

impl Heal {
    fn check(&self, backup: &Backup, stop: &Arc<AtomicBool>) -> Result<(), HealCheckError> {
        let data_version = self.data_version;
        let read = |source| HealCheckError::Read { data_version, source };
        let (pages, _) = backup.start_pages(&Start::Snapshot(self.seq, self.snapshot)).map_err(read)?;
        let in_runs = PagesInRuns::new(pages, Arc::clone(stop));
        let mounted = MountedOverlay::new(OverlayPages::new(Arc::new(in_runs)));
        let found = self.look(&mounted);
        if let Some(error) = mounted.take_problem() {
            return Err(read(error));
        }
        match found {
            Ok(None) => Ok(()),
            Ok(Some(found)) => Err(HealCheckError::Unsound { data_version, found }),
            Err(error) => Err(HealCheckError::Unsound { data_version, found: reason(&error) }),
        }
    }

    /// What is wrong with it, if anything is.
    fn look(&self, mounted: &MountedOverlay) -> rusqlite::Result<Option<String>> {
        let connection = mounted.connect()?;
        let data_version = version_of_database(&connection)?;
        if data_version != self.data_version {
            return Ok(Some(format!("it is at version {data_version}")));
        }
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        if pages != i64::from(self.snapshot.page_count) {
            return Ok(Some(format!("it has {pages} pages instead of {}", self.snapshot.page_count)));
        }
        // The first problem will do.
        let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((said != "ok").then_some(said))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt as _;

    use super::super::tests::{LIMITS, go_on, newest_seq, record};
    use super::super::{SealError, Sealer};
    use super::*;
    use crate::Recording;
    use crate::format::names;
    use crate::testing::{Fate, Node};

    /// Rows of some pages, none of them touched again.
    const OLD_ROWS: &str = "CREATE TABLE old (i INTEGER PRIMARY KEY, what BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
        INSERT INTO old SELECT i, randomblob(300) FROM n";

    /// A node that ran without the recorder for some changes, among them one that made many pages, and was healed.
    fn healed() -> (Node, Recording) {
        let mut node = Node::new("");
        let mut recording = record(&node);
        node.write(&mut recording, "before", Fate::Committed).unwrap();
        node.connection.execute_batch(OLD_ROWS).unwrap();
        node.write(&mut recording, "unseen", Fate::Unseen).unwrap();
        (node, recording)
    }

    fn sealer(node: &Node, recording: &Recording) -> (Sealer, Result<(), SealError>) {
        let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
        let advanced = sealer.advance(newest_seq(recording), &mut go_on);
        (sealer, advanced)
    }

    fn snapshot_of(recording: &Recording, node: &Node) -> std::path::PathBuf {
        // The change that was recorded with it comes right behind.
        let seq = Seq::new(newest_seq(recording).get() - 1).unwrap();
        node.backup_path().join(names::snapshot(seq))
    }

    #[test]
    fn a_sound_heal_is_checked_once() {
        let (mut node, mut recording) = healed();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let (mut sealer, advanced) = sealer(&node, &recording);
        advanced.unwrap();
        assert_eq!(sealer.heals.unchecked.len(), 1);
        let go = Arc::default();
        sealer.check_heals(&go).unwrap();
        // It would fail now.
        fs::write(snapshot_of(&recording, &node), "damaged").unwrap();
        sealer.check_heals(&go).unwrap();
        assert!(sealer.heals.unchecked.is_empty());
    }

    #[test]
    fn a_check_that_is_stopped_is_made_later() {
        let (mut node, mut recording) = healed();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let (mut sealer, advanced) = sealer(&node, &recording);
        advanced.unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        sealer.check_heals(&stop).unwrap();
        assert_eq!(sealer.heals.unchecked.len(), 1);
        stop.store(false, Ordering::Relaxed);
        sealer.check_heals(&stop).unwrap();
        assert!(sealer.heals.unchecked.is_empty());
    }

    #[test]
    fn one_that_cannot_be_read_back_is_told_once() {
        let (mut node, mut recording) = healed();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let snapshot = snapshot_of(&recording, &node);
        let mut bytes = fs::read(&snapshot).unwrap();
        // In the middle of the pages that are stored; replay of what comes later needs none of them.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&snapshot, bytes).unwrap();
        let (mut sealer, _) = sealer(&node, &recording);
        let error = sealer.check_heals(&Arc::default()).unwrap_err();
        assert!(matches!(error, HealCheckError::Read { .. }), "{error}");
        sealer.check_heals(&Arc::default()).unwrap();
    }

    #[test]
    fn a_stop_in_the_middle_is_no_problem_of_the_backup() {
        let (mut node, mut recording) = healed();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let (sealer, _) = sealer(&node, &recording);
        let heal = sealer.heals.unchecked[0];
        let stop = Arc::new(AtomicBool::new(true));
        // What `Heals::check` sees and does not take for damage.
        let error = heal.check(&node.backup(), &stop).unwrap_err();
        assert!(matches!(error, HealCheckError::Read { source: ReadError::Storage(_), .. }), "{error}");
    }

    #[test]
    fn a_database_that_was_damaged_before_it_was_copied_is_told() {
        let (mut node, mut recording) = healed();
        // The last page of old rows, far from what later transactions touch.
        let bytes = fs::read(node.database()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(node.database()).unwrap();
        file.write_all_at(&[0xee; 200], bytes.len() as u64 - 4096).unwrap();
        node.write(&mut recording, "seen", Fate::Committed).unwrap();
        let (mut sealer, _) = sealer(&node, &recording);
        let error = sealer.check_heals(&Arc::default()).unwrap_err();
        assert!(matches!(error, HealCheckError::Unsound { .. }), "{error}");
        assert!(error.to_string().contains("version 12 ") && error.to_string().contains("integrity_check"), "{error}");
        sealer.check_heals(&Arc::default()).unwrap();
    }
}

//! The spool of a backup, if it is accessible here: an intact backup may lack its changes.

use std::thread;

use super::finding::{Findings, Wrong};
use super::logs;
use crate::backup::Backup;
use crate::log::{SECOND_LOOK_AFTER, SECOND_LOOKS};
use crate::spool::{SpoolNote, SpoolStatus, spool_logs};
use crate::storage::RealDirectory;

/// Checks that the spool can be read to its end. It may be written to meanwhile.
pub(super) fn check(backup: &Backup, findings: &mut Findings) {
    let Ok(Some(note)) = SpoolNote::read(&**backup.directory()) else { return };
    let mut looks = 0;
    let sight = loop {
        match backup.spool_sight() {
            SpoolStatus::Unreadable { .. } if looks < SECOND_LOOKS => looks += 1,
            sight => break sight,
        }
        thread::sleep(SECOND_LOOK_AFTER);
    };
    match sight {
        SpoolStatus::Unreadable { path, reason } => {
            findings.add(&path.display().to_string(), None, Wrong::Unreadable { reason });
        }
        SpoolStatus::OutOfSight { .. } => {}
        SpoolStatus::Complete | SpoolStatus::Behind(_) => {
            let directory = RealDirectory::new(&note.path);
            let file = |name: String| note.path.join(name).display().to_string();
            logs::check_lengths(
                &directory,
                backup.manifest().uuid,
                spool_logs(&directory).unwrap_or_default(),
                file,
                findings,
            );
        }
    }
}

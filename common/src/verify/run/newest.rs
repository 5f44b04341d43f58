//! The newest version: whether it can be opened, and SQLite's checks of it.

use std::sync::Arc;

use super::OPEN;
use super::Verification;
use crate::backup::snapshot_check::StoredSnapshot;
use crate::backup::view::View;
use crate::replay::ReplayError;
use crate::segment::version::{NewestRecorded, Readable, Version};
use crate::storage::read_error::ReadError;
use crate::verify::soundness::{Judgement, Looked, Soundness, judge};
use crate::verify::{Depth, Warning, Wrong};
use format::checked::UnsoundSnapshot;

impl Verification {
    /// Adds a finding if the newest version cannot be opened: then only an old state can be restored.
    fn note_unreadable_newest(&mut self) {
        let newest = self.baseline.history.newest_recorded().filter(|newest| newest.readable == Readable::No);
        if let Some(NewestRecorded { data_version: version, .. }) = newest.filter(|_| self.ordinals.1 == OPEN) {
            let path = self.backup.path().to_path_buf();
            self.found.findings.add_read(&ReadError::NewestUnreadable { path, version });
        }
    }

    /// Checks the newest version with SQLite, if it is in the range and can be opened.
    pub(super) fn check_newest(&mut self) -> (Option<Soundness>, Vec<Warning>) {
        self.note_unreadable_newest();
        let newest = self.baseline.history.newest().filter(|newest| self.has(newest) && self.depth == Depth::Replay);
        let Some(newest) = newest.filter(|newest| !self.lost.contains_ordinal(newest.ordinal)) else {
            return (None, Vec::new());
        };
        let Ok(Some(file)) = self.baseline.history.file_name_of(newest) else { return (None, Vec::new()) };
        let checked =
            self.look_at(newest).and_then(|looked| Ok(judge(&looked, || self.given_by_node().ok().flatten())?));
        match checked {
            Ok(Judgement { soundness, wrong, warnings }) => {
                for wrong in wrong {
                    let is_in_doubt = !matches!(wrong, Wrong::NodeDatabase { .. });
                    let at = self.found.findings.add(&file, None, wrong);
                    if is_in_doubt {
                        self.found.findings.cost(&at, |finding| finding.in_doubt.add_ordinal(newest.ordinal));
                    }
                }
                (Some(soundness), warnings)
            }
            Err(error) => {
                let at = self.found.findings.add_replay(&file, None, &error);
                self.found.findings.cost(&at, |finding| finding.lost.add_ordinal(newest.ordinal));
                self.lost.add_ordinal(newest.ordinal);
                (None, Vec::new())
            }
        }
    }

    fn look_at(&self, version: &Version) -> Result<Looked, ReplayError> {
        let plan = self.baseline.history.plan(version)?;
        let view = View::build(&self.backup, &plan, None).map_err(|error| error.reason)?;
        Ok(Looked { data_version: version.data_version, pages: Arc::new(view.pages().clone()) })
    }

    /// The snapshot from the node that the newest version was replayed onto; if that was dropped, the oldest version that is
    /// left. `None` when everything was replayed from nothing. Read errors are reported elsewhere.
    fn given_by_node(&self) -> Result<Option<Looked>, ReadError> {
        let (backup, history) = (&self.backup, &self.baseline.history);
        if let Some(snapshot) = StoredSnapshot::newest(backup, history)? {
            let pages = snapshot.pages(backup)?;
            return Ok(Some(Looked { data_version: snapshot.data_version, pages }));
        }
        let newest_segment = history.sealed().last().map(|&last| backup.segments().footer(last)).transpose()?;
        let was_given = newest_segment.is_some_and(|footer| footer.newest_snapshot.is_some());
        let oldest = history.oldest()?.filter(|_| was_given);
        // Its damage is reported elsewhere.
        Ok(oldest.and_then(|oldest| self.look_at(&oldest).ok()))
    }

    /// Snapshots for which damage of the node's database was noted.
    pub(super) fn damaged_snapshots(&self) -> Vec<Warning> {
        let noted = self.backup.read_checked().ok().flatten();
        let unsound = noted.map_or_else(Vec::new, |noted| noted.unsound);
        let warning = |it: UnsoundSnapshot| Warning::NodeDatabase { data_version: it.data_version, found: it.found };
        unsound.into_iter().map(warning).collect()
    }
}

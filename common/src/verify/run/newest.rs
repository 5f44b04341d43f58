//! The newest version, as SQLite sees it.

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
    /// That the newest version cannot be opened is a finding: what can be restored is an old state.
    fn note_unreadable_newest(&mut self) {
        let newest = self.picture.history.newest_recorded().filter(|newest| newest.readable == Readable::No);
        if let Some(NewestRecorded { data_version: version, .. }) = newest.filter(|_| self.places.1 == OPEN) {
            let path = self.backup.path().to_path_buf();
            self.found.findings.add_read(&ReadError::NewestUnreadable { path, version });
        }
    }

    /// Has SQLite check the newest version, if it was asked for and can be opened.
    pub(super) fn check_newest(&mut self) -> (Option<Soundness>, Vec<Warning>) {
        self.note_unreadable_newest();
        let newest = self.picture.history.newest().filter(|newest| self.has(newest) && self.depth == Depth::Replay);
        let Some(newest) = newest.filter(|newest| !self.lost.contains_place(newest.place)) else {
            return (None, Vec::new());
        };
        let Ok(Some(file)) = self.picture.history.file_name_of(newest) else { return (None, Vec::new()) };
        let checked =
            self.look_at(newest).and_then(|looked| Ok(judge(&looked, || self.given_by_node().ok().flatten())?));
        match checked {
            Ok(Judgement { soundness, wrong, warnings }) => {
                for wrong in wrong {
                    let is_in_doubt = !matches!(wrong, Wrong::NodeDatabase { .. });
                    let at = self.found.findings.add(&file, None, wrong);
                    if is_in_doubt {
                        self.found.findings.cost(&at, |finding| finding.in_doubt.add_place(newest.place));
                    }
                }
                (Some(soundness), warnings)
            }
            Err(error) => {
                let at = self.found.findings.add_replay(&file, None, &error);
                self.found.findings.cost(&at, |finding| finding.lost.add_place(newest.place));
                self.lost.add_place(newest.place);
                (None, Vec::new())
            }
        }
    }

    fn look_at(&self, version: &Version) -> Result<Looked, ReplayError> {
        let plan = self.picture.history.plan(version)?;
        let view = View::build(&self.backup, &plan, None).map_err(|error| error.reason)?;
        Ok(Looked { data_version: version.data_version, pages: Arc::new(view.pages().clone()) })
    }

    /// The pages that the newest version was replayed onto as the node gave them; when those were dropped, the oldest version
    /// that is left. `None` when everything was replayed from nothing. What cannot be read of it is told elsewhere.
    fn given_by_node(&self) -> Result<Option<Looked>, ReadError> {
        let (backup, history) = (&self.backup, &self.picture.history);
        if let Some(snapshot) = StoredSnapshot::newest(backup, history)? {
            let pages = snapshot.pages(backup)?;
            return Ok(Some(Looked { data_version: snapshot.data_version, pages }));
        }
        let newest_segment = history.sealed().last().map(|&last| backup.segments().footer(last)).transpose()?;
        let was_given = newest_segment.is_some_and(|footer| footer.newest_snapshot.is_some());
        let oldest = history.oldest()?.filter(|_| was_given);
        // What damage it has is told elsewhere.
        Ok(oldest.and_then(|oldest| self.look_at(&oldest).ok()))
    }

    /// Snapshots of which it was noted that the node's database was damaged when they were taken.
    pub(super) fn damaged_snapshots(&self) -> Vec<Warning> {
        let noted = self.backup.read_checked().ok().flatten();
        let unsound = noted.map_or_else(Vec::new, |noted| noted.unsound);
        let warning = |it: UnsoundSnapshot| Warning::NodeDatabase { data_version: it.data_version, found: it.found };
        unsound.into_iter().map(warning).collect()
    }
}

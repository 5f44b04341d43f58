//! State of a backup, from its files alone; and its unsealed changes, kept up to date beside a recording.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::backup::Backup;
use crate::history::SealedThrough;
use crate::history::{History, Recorded};
use crate::segment::live_record::LiveKind;
use crate::segment::version::Version;
use crate::storage::read_error::ReadError;
use format::units::Seq;

/// State of a backup, from its files. Values that are unknown because of damage are `None`.
#[derive(Debug)]
pub struct BackupState {
    /// The newest version.
    pub newest: Option<Version>,
    /// The oldest version that can be opened.
    pub oldest: Option<Version>,
    /// Number of versions.
    pub versions: Option<u64>,
    /// End of the sealed history, and the unsealed changes.
    pub unsealed: Option<UnsealedChanges>,
}

impl Backup {
    /// Reads the state. Takes no lock: the backup may be recorded to meanwhile.
    ///
    /// # Errors
    /// The second value is the error; the first is the state as far as it can be read.
    pub fn read_state(self: &Arc<Self>) -> (BackupState, Result<(), ReadError>) {
        let (history, read) = self.read_history();
        let newest = history.newest().cloned();
        // An empty history that was not read to its end may be incomplete.
        let is_known = newest.is_some() || read.is_ok();
        let (unsealed, sealed) = split(UnsealedChanges::of(&history));
        let (oldest, first) = split(history.oldest());
        let state = BackupState {
            newest,
            oldest: oldest.flatten(),
            versions: is_known.then(|| history.version_count()),
            unsealed: unsealed.filter(|_| is_known),
        };
        (state, read.and(sealed).and(first))
    }
}

/// Splits a result into its value and its error.
fn split<T>(read: Result<T, ReadError>) -> (Option<T>, Result<(), ReadError>) {
    match read {
        Ok(value) => (Some(value), Ok(())),
        Err(error) => (None, Err(error)),
    }
}

/// The unsealed changes, and how far the backup is sealed.
///
/// Stored as ranges of seqs between the other records: snapshots, rewinds with the changes that they void, commits. Those are
/// rare, so counting another change costs an addition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnsealedChanges {
    sealed_through: Option<SealedThrough>,
    /// Ascending; none is empty.
    ranges: VecDeque<RangeInclusive<u64>>,
}

impl UnsealedChanges {
    /// The unsealed changes of a history.
    ///
    /// # Errors
    /// When the newest segment cannot be read.
    pub(crate) fn of(history: &History) -> Result<Self, ReadError> {
        let mut unsealed = Self { sealed_through: history.sealed_through()?, ranges: VecDeque::new() };
        for record in history.unsealed_records().filter(|record| record.kind == LiveKind::Change) {
            unsealed.push(record.about.seq);
        }
        Ok(unsealed)
    }

    /// Adds the newest change.
    pub fn recorded(&mut self, seq: Seq, recorded: Recorded) {
        match recorded {
            Recorded::Appended
            | Recorded::Healed { .. }
            | Recorded::Gap { .. }
            | Recorded::Replaced { rewound: None, .. } => {}
            Recorded::Rewound { .. } | Recorded::Replaced { rewound: Some(_), .. } => self.pop(),
        }
        self.push(seq);
    }

    /// Updates how far the backup is sealed.
    pub fn sealed(&mut self, through: SealedThrough) {
        self.sealed_through = Some(through);
        let sealed = through.seq.get();
        self.ranges.retain(|range| *range.end() > sealed);
    }

    /// Newest sealed version and record; `None` when nothing is sealed.
    pub fn sealed_through(&self) -> Option<SealedThrough> {
        self.sealed_through
    }

    /// Number of unsealed changes.
    pub fn count(&self) -> u64 {
        let sealed = self.sealed_through.map_or(0, |through| through.seq.get());
        let behind = |range: &RangeInclusive<u64>| range.end() - (range.start() - 1).max(sealed);
        self.ranges.iter().map(behind).sum()
    }

    fn push(&mut self, seq: Seq) {
        let seq = seq.get();
        match self.ranges.back_mut() {
            // It was already found when the backup was opened.
            Some(last) if *last.end() >= seq => {}
            Some(last) if *last.end() == seq - 1 => *last = *last.start()..=seq,
            _ => self.ranges.push_back(seq..=seq),
        }
    }

    /// Removes the newest change, which is void.
    fn pop(&mut self) {
        match self.ranges.back_mut() {
            Some(last) if last.start() < last.end() => *last = *last.start()..=last.end() - 1,
            Some(_) => drop(self.ranges.pop_back()),
            // Sealed changes are never rewound.
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::config::log_limits::LogLimits;
    use crate::recording::BackupWriter;
    use crate::seal::Sealer;
    use crate::testing::{Fate, Node};
    use format::units::DataVersion;

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    fn through(number: u64) -> SealedThrough {
        SealedThrough { seq: seq(number), data_version: None }
    }

    #[test]
    fn only_changes_that_are_in_no_segment_count() {
        let mut unsealed = UnsealedChanges::default();
        assert_eq!(unsealed.count(), 0);
        // Behind a snapshot, and behind a commit.
        (2..=11).chain(13..=20).for_each(|at| unsealed.recorded(seq(at), Recorded::Appended));
        assert_eq!(unsealed.count(), 18);
        unsealed.sealed(through(5));
        assert_eq!(unsealed.count(), 6 + 8);
        unsealed.sealed(through(11));
        assert_eq!((unsealed.count(), unsealed.ranges.len()), (8, 1));
        // The change 20 is void because of 21; 22 is the new change.
        let rewound = Recorded::Rewound { data_version: DataVersion::new(9) };
        unsealed.recorded(seq(22), rewound);
        assert_eq!(unsealed.count(), 8);
        unsealed.recorded(seq(24), rewound);
        assert_eq!(unsealed.count(), 8);
        unsealed.sealed(through(24));
        assert_eq!((unsealed.count(), unsealed.sealed_through()), (0, Some(through(24))));
    }

    /// The counts of a recorder equal those from the files, after every kind of event.
    #[test]
    fn the_files_tell_what_was_added_up() {
        let limits = LogLimits { bytes: 1 << 16, statements: 24 };
        let mut node = Node::new("");
        let mut expected: Option<UnsealedChanges> = None;
        for run in 0..6 {
            let mut recording: BackupWriter = node.record_within(limits);
            let found = recording.unsealed().unwrap();
            if let Some(expected) = &expected {
                assert_eq!(found.count(), expected.count(), "run {run}");
            }
            let mut unsealed = found;
            let mut write = |node: &mut Node, recording: &mut BackupWriter, fate| {
                let recorded = node.write(recording, "n", fate).unwrap();
                recorded.inspect(|&recorded| unsealed.recorded(recording.newest().unwrap().seq, recorded));
            };
            for _ in 0..run * 4 + 3 {
                write(&mut node, &mut recording, Fate::Committed);
            }
            recording.note_commit().unwrap();
            if run % 3 == 1 {
                write(&mut node, &mut recording, Fate::Lost);
            }
            if run % 3 == 2 {
                write(&mut node, &mut recording, Fate::Unseen);
            }
            let mut sealer = Sealer::new(node.backup(), limits).unwrap();
            sealer.advance(recording.newest().unwrap().seq, &mut |_| ControlFlow::Continue(())).unwrap();
            if let Some(through) = sealer.progress().sealed_through {
                unsealed.sealed(through);
            }
            let (state, read) = node.backup().read_state();
            read.unwrap();
            let found = state.unsealed.unwrap();
            assert_eq!(found.count(), unsealed.count(), "run {run}");
            assert_eq!(found.sealed_through(), unsealed.sealed_through(), "run {run}");
            assert_eq!(state.newest.unwrap().seq, recording.newest().unwrap().seq);
            assert_eq!(state.oldest.unwrap().data_version, DataVersion::new(10));
            expected = Some(unsealed);
        }
        let unsealed = expected.unwrap();
        assert!(unsealed.count() > 0 && unsealed.sealed_through().unwrap().data_version.is_some());
    }

    #[test]
    fn of_a_backup_whose_end_is_damaged_the_rest_is_reported() {
        let mut node = Node::new("");
        let mut recording = node.record();
        for _ in 0..5 {
            node.write(&mut recording, "n", Fate::Committed).unwrap();
        }
        let log = node.backup_path().join(format::names::log(Seq::FIRST));
        let mut bytes = std::fs::read(&log).unwrap();
        let (history, _) = node.backup().read_history();
        let addresses: Vec<_> = history.unsealed_records().map(|record| record.address).collect();
        let crate::log::RecordAddress::Log { offset, .. } = addresses[3] else { panic!("not in a log") };
        bytes[usize::try_from(offset).unwrap() + 30] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        let (state, read) = node.backup().read_state();
        assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
        assert_eq!(state.newest.unwrap().data_version, DataVersion::new(12));
        assert_eq!((state.versions, state.unsealed.unwrap().count()), (Some(3), 2));
        // Of a log whose header is damaged nothing is known.
        std::fs::write(&log, [7; 500]).unwrap();
        let (state, read) = node.backup().read_state();
        assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
        assert!(state.newest.is_none() && state.versions.is_none() && state.unsealed.is_none(), "{state:?}");
    }
}

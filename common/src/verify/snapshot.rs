//! Check of a snapshot against its own index, and against its record.

use std::ops::RangeInclusive;

use super::Depth;
use crate::backup::Backup;
use crate::storage::read_error::ReadError;
use format::Damage;
use format::segment::SnapshotId;
use format::units::DataVersion;

/// Result of checking a snapshot.
#[derive(Debug, Default)]
pub(super) struct SnapshotCheck {
    pub(super) problems: Vec<ReadError>,
    /// The unreadable pages.
    pub(super) unreadable: Vec<RangeInclusive<u32>>,
}

/// Reads every page of the snapshot, or with [`Depth::Chain`] its beginning and end. `data_version` is that of its record, if known.
pub(super) fn check_snapshot(
    backup: &Backup,
    id: SnapshotId,
    data_version: Option<DataVersion>,
    depth: Depth,
) -> SnapshotCheck {
    let mut check = SnapshotCheck::default();
    let file = match backup.open_snapshot(id) {
        Ok(file) => file,
        Err(error) => {
            check.problems.push(error);
            check.unreadable.push(1..=u32::MAX);
            return check;
        }
    };
    if data_version.is_some_and(|recorded| recorded != file.header().data_version) {
        let damage = Damage::Contradiction("it is of another version than its record says");
        check.problems.push(ReadError::damaged(file.path(), 0, damage));
    }
    if depth == Depth::Chain {
        return check;
    }
    let mut pages = Vec::new();
    for group in 0..file.groups() {
        if let Err(error) = file.read_group(group, &mut pages) {
            check.problems.push(error);
            check.unreadable.extend(file.pages_of_group(group));
        }
    }
    check
}

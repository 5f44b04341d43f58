//! Kept versions of dropped segments.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::impact::Costs;
use super::{Depth, VersionRanges};
use crate::backup::Backup;
use crate::history::{NeededBy, Start};
use crate::segment::{PrunedFile, SealedState};
use crate::storage::read_error::ReadError;
use format::pruned_directory::{KeptVersion, Thinned};
use format::units::Seq;

/// The thinned segments with versions in this range of ordinals.
pub(super) fn asked_for(pruned: &Option<Arc<PrunedFile>>, (first, last): (u64, u64)) -> Vec<Thinned> {
    let all = pruned.as_ref().map_or(&[][..], |pruned| pruned.thinned());
    let asked = all.iter().map(|thinned| {
        let is_asked = |version: &&KeptVersion| (first..=last).contains(&version.ordinal);
        Thinned { versions: thinned.versions.iter().filter(is_asked).copied().collect(), ..*thinned }
    });
    asked.filter(|thinned| !thinned.versions.is_empty()).collect()
}

/// The parts of the segment that its kept versions need.
pub(super) fn needed(thinned: &Thinned, backup: &Backup) -> Result<NeededBy, ReadError> {
    Ok(backup.segments().timeline(thinned.segment)?.needed_by(&thinned.versions))
}

/// Opens every kept version, or without replay those that damage may affect; returns those that cannot be opened.
pub(super) fn open(
    backup: &Backup,
    thinned: &Thinned,
    depth: Depth,
    damaged: &BTreeSet<Seq>,
    costs: &mut Costs<'_>,
) -> VersionRanges {
    let first = thinned.segment;
    let timeline = match backup.segments().timeline(first) {
        Ok(timeline) => timeline,
        Err(error) => {
            let mut lost = VersionRanges::default();
            for KeptVersion { ordinal, .. } in &thinned.versions {
                lost.extend(&costs.whole(&error, (*ordinal, *ordinal), (*ordinal, *ordinal)));
            }
            return lost;
        }
    };
    if depth == Depth::Quick && !damaged.contains(&first) && !costs.reaches(&Start::Segment(first, SealedState::End)) {
        return VersionRanges::default();
    }
    let is_asked = |seq| thinned.versions.iter().any(|kept| kept.seq == seq);
    let versions: Vec<_> = timeline.versions().iter().filter(|version| is_asked(version.seq)).cloned().collect();
    costs.open(&versions)
}

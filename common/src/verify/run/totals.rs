//! The totals of a report: files, bytes and versions.

use super::Verification;
use super::{Job, Sealed, VersionRanges};
use crate::segment::version::VersionOrdinal;
use crate::verify::Depth;
use format::names;

impl Verification {
    /// Number and total length of the files that were read.
    pub(super) fn sizes(&self, parts: &[(Job, u64)]) -> (u64, u64) {
        let logs = self.baseline.history.logs().filter(|_| self.has_logs()).map(names::log);
        let others = logs.chain([names::MANIFEST.to_owned()]).map(|name| self.len_of(&name));
        parts.iter().map(|(_, bytes)| *bytes).chain(others).fold((0, 0), |(files, all), bytes| (files + 1, all + bytes))
    }

    /// The versions that compactions have dropped, as far as known.
    pub(super) fn dropped(&self) -> VersionRanges {
        let (mut dropped, mut kept) = (VersionRanges::default(), VersionRanges::default());
        let Some(pruned) = self.backup.segments().pruned() else { return dropped };
        for range in pruned.ranges() {
            if let Ok(footer) = self.backup.segments().footer(range.last_segment) {
                dropped.add(if range.versions_before == 0 { 0 } else { range.ordinal_before + 1 }, footer.ordinal);
            }
        }
        let alone = pruned.thinned().iter().flat_map(|thinned| &thinned.versions);
        alone.for_each(|version| kept.add_ordinal(VersionOrdinal(version.ordinal)));
        dropped.without(&kept)
    }

    /// All known versions.
    pub(super) fn all_versions(&self) -> VersionRanges {
        let mut all = VersionRanges::default();
        self.sealed.iter().for_each(|one| all.add(one.ordinals.0, one.ordinals.1));
        self.thinned
            .iter()
            .flat_map(|one| &one.versions)
            .for_each(|version| all.add_ordinal(VersionOrdinal(version.ordinal)));
        self.baseline.history.unsealed_versions().for_each(|version| all.add_ordinal(version.ordinal));
        all.within(self.ordinals.0, self.ordinals.1)
    }

    /// Number of requested versions, as far as known.
    pub(super) fn count_versions(&self) -> u64 {
        let ((first, last), dropped) = (self.ordinals, self.dropped());
        let of_one = |one: &Sealed| {
            let inside = first <= one.ordinals.0 && one.ordinals.1 <= last;
            let mut ordinals = VersionRanges::default();
            ordinals.add(one.ordinals.0.max(first), one.ordinals.1.min(last));
            let ordinals = ordinals.without(&dropped);
            let timeline = match self.depth {
                // The ends say how many there are.
                Depth::Chain => None,
                Depth::Quick | Depth::Replay => self.backup.segments().timeline(one.first).ok(),
            };
            let counted = match timeline {
                Some(timeline) if one.file.is_some() => {
                    Some(timeline.versions().iter().filter(|version| self.has(version)).count() as u64)
                }
                _ => one.versions.filter(|_| inside).or(ordinals.count()),
            };
            counted.unwrap_or(0)
        };
        let sealed: u64 = self.sealed.iter().filter(|one| one.is_within(first, last)).map(of_one).sum();
        let thinned: u64 = self.thinned.iter().map(|one| one.versions.len() as u64).sum();
        sealed + thinned + self.baseline.history.unsealed_versions().filter(|version| self.has(version)).count() as u64
    }
}

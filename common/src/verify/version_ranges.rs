//! [`VersionRanges`]: a set of versions as ranges.

use std::fmt;

use crate::segment::version::VersionOrdinal;
use format::units::DataVersion;

/// A set of versions of a backup, as ranges.
///
/// Adjacent versions form one range. A number that was not recorded is in no range, unless the files that show it are damaged,
/// too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionRanges {
    /// Ranges of ordinals, first and last, ascending and not adjacent.
    ranges: Vec<(u64, u64)>,
}

/// A range of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The first version.
    pub first: DataVersion,
    /// The last version; `None` when unknown: all from the first on.
    pub last: Option<DataVersion>,
}

/// The last ordinal of a range with an unknown end.
pub(crate) const OPEN: u64 = u64::MAX;

impl VersionRanges {
    /// Adds the ordinals from `first` to `last`; nothing when the range is empty.
    pub(crate) fn add(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let from = self.ranges.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let to = self.ranges.partition_point(|&(begin, _)| begin <= last.saturating_add(1));
        let merged = self.ranges.get(from..to).unwrap_or_default().iter();
        let merged = merged.fold((first, last), |all, range| (all.0.min(range.0), all.1.max(range.1)));
        self.ranges.splice(from..to, [merged]);
    }

    /// Adds a version.
    pub(crate) fn add_ordinal(&mut self, ordinal: VersionOrdinal) {
        self.add(ordinal.0, ordinal.0);
    }

    /// Adds all ranges of `other`.
    pub(crate) fn extend(&mut self, other: &Self) {
        other.ranges.iter().for_each(|&(first, last)| self.add(first, last));
    }

    /// The part within these ordinals.
    #[must_use]
    pub(crate) fn within(&self, first: u64, last: u64) -> Self {
        let mut within = Self::default();
        self.ranges.iter().for_each(|&(begin, end)| within.add(begin.max(first), end.min(last)));
        within
    }

    /// The part that is not in `other`.
    #[must_use]
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut without = Self::default();
        for &(begin, end) in &self.ranges {
            let mut next = Some(begin);
            for &(first, last) in other.ranges.iter().filter(|&&(first, last)| first <= end && last >= begin) {
                if let Some(begin) = next.filter(|&begin| begin < first) {
                    without.add(begin, first - 1);
                }
                next = last.checked_add(1);
            }
            if let Some(begin) = next {
                without.add(begin, end);
            }
        }
        without
    }

    /// Whether the version with this ordinal is in the set.
    pub(crate) fn contains_ordinal(&self, ordinal: VersionOrdinal) -> bool {
        self.ranges.iter().any(|&(first, last)| (first..=last).contains(&ordinal.0))
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether a version is in the set.
    pub fn contains(&self, version: DataVersion) -> bool {
        self.iter().any(|range| {
            let behind = |last: DataVersion| last.get().wrapping_sub(range.first.get());
            range.last.is_none_or(|last| version.get().wrapping_sub(range.first.get()) <= behind(last))
                && (range.last.is_some() || version >= range.first)
        })
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = VersionRange> + '_ {
        self.ranges.iter().map(|&(first, last)| VersionRange {
            first: VersionOrdinal(first).data_version(),
            last: (last != OPEN).then(|| VersionOrdinal(last).data_version()),
        })
    }

    /// Number of ordinals in the set; `None` when an end is unknown.
    pub fn count(&self) -> Option<u64> {
        self.ranges.iter().map(|&(first, last)| (last != OPEN).then(|| last - first + 1)).sum()
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(last) if last == self.first => write!(f, "{}", self.first),
            Some(last) => write!(f, "{}-{last}", self.first),
            None => write!(f, "{} and all after it", self.first),
        }
    }
}

impl fmt::Display for VersionRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (index, range) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(added: &[(u64, u64)]) -> VersionRanges {
        let mut ranges = VersionRanges::default();
        added.iter().for_each(|&(first, last)| ranges.add(first, last));
        ranges
    }

    #[test]
    fn neighbours_are_one_range_however_they_come() {
        assert_eq!(ranges(&[]).to_string(), "none");
        assert_eq!(ranges(&[(5, 4)]).to_string(), "none");
        assert_eq!(ranges(&[(5, 6), (8, 8), (20, 30)]).to_string(), "5-6, 8, 20-30");
        assert_eq!(ranges(&[(20, 30), (8, 8), (5, 6), (7, 7)]).to_string(), "5-8, 20-30");
        assert_eq!(ranges(&[(5, 6), (8, 8), (20, 30), (6, 25)]).to_string(), "5-30");
        assert_eq!(ranges(&[(5, 6), (8, OPEN)]).to_string(), "5-6, 8 and all after it");
        let wrapped = ranges(&[((1 << 32) - 1, 1 << 32)]);
        assert_eq!(wrapped.to_string(), "4294967295-0");
        assert!(wrapped.contains(DataVersion::new(0)) && !wrapped.contains(DataVersion::new(1)));
    }

    #[test]
    fn they_are_counted_and_cut() {
        let some = ranges(&[(5, 6), (8, 8)]);
        assert_eq!((some.count(), ranges(&[(3, OPEN)]).count()), (Some(3), None));
        assert!(some.contains(DataVersion::new(6)) && !some.contains(DataVersion::new(7)));
        assert_eq!(some.within(6, 7).to_string(), "6");
        assert_eq!(ranges(&[(3, OPEN)]).within(1, 9).to_string(), "3-9");
        let without = |from: &[(u64, u64)], other: &[(u64, u64)]| ranges(from).without(&ranges(other)).to_string();
        assert_eq!(
            without(&[(5, 6), (8, 20), (30, OPEN)], &[(1, 5), (10, 12), (15, 15), (20, 33)]),
            "6, 8-9, 13-14, 16-19, 34 and all after it"
        );
        assert_eq!(without(&[(5, 6)], &[(1, 9)]), "none");
        assert_eq!(without(&[(5, 6)], &[(7, OPEN)]), "5-6");
        assert_eq!(without(&[(5, OPEN)], &[(7, OPEN)]), "5-6");
        let mut both = ranges(&[(7, 7)]);
        both.extend(&some);
        assert_eq!(both.to_string(), "5-8");
    }
}

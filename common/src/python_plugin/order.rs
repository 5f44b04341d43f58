//! The order of a file's records: the version rules, applied to recorded changes.

use format::units::DataVersion;
use format::version_rules::{Bump, Commit, Decision, Newest, decide};

/// Position of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// The record follows the newest change.
    Newest,
    /// The record replaces the newest change: `lightningd` died before the COMMIT of that one.
    InPlaceOfNewest,
}

/// The reason why the version of a record does not fit its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// Versions are missing.
    #[error("version {version} follows {newest}: what is between them is missing")]
    Gap {
        /// The newest version before the record.
        newest: DataVersion,
        /// Version of the record.
        version: DataVersion,
    },
    /// The first record is a change of a node that is not new.
    #[error("version {0} is the first one, and there is no snapshot before it: the beginning is missing")]
    NoBeginning(DataVersion),
    /// The record is older than the one before.
    #[error("version {version} follows {newest}: it goes backwards")]
    Backwards {
        /// The newest version before the record.
        newest: DataVersion,
        /// Version of the record.
        version: DataVersion,
    },
}

/// The newest version of the records so far.
#[derive(Debug, Default)]
pub(crate) struct Order {
    newest: Option<Newest>,
}

impl Order {
    /// The newest version.
    pub(crate) fn newest(&self) -> Option<DataVersion> {
        self.newest.map(|newest| newest.data_version)
    }

    /// Adds the next change.
    pub(crate) fn change(&mut self, version: DataVersion, bump: Bump) -> Result<Follows, OutOfOrder> {
        let follows = match (decide(self.newest, version, bump), self.newest) {
            (Decision::Append, _) => Follows::Newest,
            (Decision::Rewind, _) => Follows::InPlaceOfNewest,
            (Decision::Heal { .. }, None) => return Err(OutOfOrder::NoBeginning(version)),
            (Decision::Heal { .. }, Some(newest)) => {
                return Err(OutOfOrder::Gap { newest: newest.data_version, version });
            }
            (Decision::Refuse { newest, .. }, _) => return Err(OutOfOrder::Backwards { newest, version }),
        };
        self.newest = Some(Newest { data_version: version, commit: Commit::after(bump) });
        Ok(follows)
    }

    /// Adds a snapshot.
    pub(crate) fn snapshot(&mut self, version: DataVersion) -> Result<(), OutOfOrder> {
        if let Some(newest) = self.newest()
            && version.distance_from(newest) <= 0
        {
            return Err(OutOfOrder::Backwards { newest, version });
        }
        self.newest = Some(Newest { data_version: version, commit: Commit::Certain });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Bump::{Absent as Rider, Present as Change};

    fn take(records: &[(u32, Bump)]) -> Result<Vec<Follows>, OutOfOrder> {
        let mut order = Order::default();
        records.iter().map(|&(version, bump)| order.change(DataVersion::new(version), bump)).collect()
    }

    #[test]
    fn only_a_change_with_a_bump_takes_the_place_of_another() {
        use Follows::{InPlaceOfNewest as Instead, Newest as Next};
        // The sequence of a migration: riders have the version of the change before them.
        let migration = [(1, Change), (1, Rider), (2, Change), (2, Rider), (3, Change)];
        assert_eq!(take(&migration), Ok(vec![Next; 5]));
        // Died before COMMIT twice in a row, then continued.
        let crashes = [(1, Change), (2, Change), (2, Change), (2, Change), (3, Change)];
        assert_eq!(take(&crashes), Ok(vec![Next, Next, Instead, Instead, Next]));
        // The same for the very first change.
        assert_eq!(take(&[(1, Change), (1, Change), (1, Rider)]), Ok(vec![Next, Instead, Next]));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let v = DataVersion::new;
        assert_eq!(take(&[(5, Change)]), Err(OutOfOrder::NoBeginning(v(5))));
        assert_eq!(
            take(&[(1, Change), (3, Change)]),
            Err(OutOfOrder::Gap { newest: v(1), version: v(3) }),
            "the plugin never goes on behind a gap"
        );
        let back = |newest, version| Err(OutOfOrder::Backwards { newest: v(newest), version: v(version) });
        assert_eq!(take(&[(1, Change), (2, Change), (1, Change)]), back(2, 1));
        // The rider shows that version 1 was committed.
        assert_eq!(take(&[(1, Change), (1, Rider), (1, Change)]), back(1, 1));
        let mut order = Order::default();
        order.snapshot(v(7)).unwrap();
        assert_eq!(order.snapshot(v(7)), Err(OutOfOrder::Backwards { newest: v(7), version: v(7) }));
        assert_eq!(order.change(v(7), Change), Err(OutOfOrder::Backwards { newest: v(7), version: v(7) }));
        assert_eq!(order.change(v(8), Change), Ok(Follows::Newest));
        assert_eq!(order.change(v(8), Change), Ok(Follows::InPlaceOfNewest));
        assert_eq!(order.snapshot(v(20)), Ok(()));
        assert_eq!(order.newest(), Some(v(20)));
    }
}

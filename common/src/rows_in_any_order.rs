//! Rows compared whatever their order: two tables hold the same when the sums of their rows' fingerprints are the same.
//!
//! A sum needs no memory, however many rows there are, and says nothing of the rows. Fingerprints have 128 bits and another key
//! each time, so that nobody can prepare rows of which two sets have the same sum.

use std::hash::{BuildHasher as _, Hasher, RandomState};

use rusqlite::types::ValueRef;

/// Makes fingerprints that can be compared with each other.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints([RandomState; 2]);

/// What stands for all values of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u128);

/// The sum of some rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RowSum {
    /// How many there are.
    pub(crate) rows: u64,
    sum: u128,
}

impl Fingerprints {
    /// The fingerprint of a row: equal for rows that are equal bit by bit.
    pub(crate) fn of<'v>(&self, row: impl Iterator<Item = ValueRef<'v>>) -> Fingerprint {
        let mut hashers = self.0.each_ref().map(RandomState::build_hasher);
        for value in row {
            hashers.iter_mut().for_each(|hasher| hash(value, hasher));
        }
        let [high, low] = hashers.map(|hasher| u128::from(hasher.finish()));
        Fingerprint(high << 64 | low)
    }
}

fn hash(value: ValueRef<'_>, hasher: &mut impl Hasher) {
    let mut bytes = |class: u8, bytes: &[u8]| {
        hasher.write_u8(class);
        hasher.write_usize(bytes.len());
        hasher.write(bytes);
    };
    match value {
        ValueRef::Null => bytes(0, &[]),
        ValueRef::Integer(number) => bytes(1, &number.to_le_bytes()),
        ValueRef::Real(number) => bytes(2, &number.to_bits().to_le_bytes()),
        ValueRef::Text(text) => bytes(3, text),
        ValueRef::Blob(blob) => bytes(4, blob),
    }
}

impl RowSum {
    /// Adds a row.
    pub(crate) fn add(&mut self, row: Fingerprint) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = rusqlite::types::Value> {
        use rusqlite::types::Value;
        prop_oneof![
            Just(Value::Null),
            (-1..2_i64).prop_map(Value::Integer),
            prop::sample::select(vec![0.0, -0.0, 1.0]).prop_map(Value::Real),
            prop::sample::select(vec!["", "1", "ab"]).prop_map(|text| Value::Text(text.to_owned())),
            prop::sample::select(vec!["", "1", "ab"]).prop_map(|text| Value::Blob(text.as_bytes().to_vec())),
        ]
    }

    proptest! {
        /// Few values, so that rows that are the same and rows that are nearly the same are frequent.
        #[test]
        fn sums_are_the_same_if_and_only_if_the_rows_are(
            ours in prop::collection::vec((value(), value()), 0..5),
            theirs in prop::collection::vec((value(), value()), 0..5),
            moved: prop::sample::Index,
        ) {
            let prints = Fingerprints::default();
            let sum = |rows: &[(_, _)]| {
                let mut sum = RowSum::default();
                rows.iter().for_each(|(a, b)| sum.add(prints.of([a, b].into_iter().map(ValueRef::from))));
                sum
            };
            let sorted = |rows: &[_]| {
                let mut rows: Vec<_> = rows.iter().map(|row| format!("{row:?}")).collect();
                rows.sort_unstable();
                rows
            };
            prop_assert_eq!(sum(&ours) == sum(&theirs), sorted(&ours) == sorted(&theirs));
            let mut turned = ours.clone();
            turned.rotate_left(moved.index(ours.len() + 1));
            prop_assert_eq!(sum(&ours), sum(&turned));
        }
    }
}

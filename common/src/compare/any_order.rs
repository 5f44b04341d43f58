//! Comparison of rows in any order: two tables are equal when the sums of their rows' fingerprints are equal.
//!
//! A sum takes constant memory, and reveals nothing of the rows. Fingerprints have 128 bits and a random key each time, so that
//! two sets of rows with equal sums cannot be prepared.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher, RandomState};
use std::ops::ControlFlow;

use rusqlite::types::ValueRef;

use super::rows::{RowSource, TakeRows, for_other_rows};
use super::table::KeyOrder;
use super::value::Value;

/// Number of partial sums of a table's rows, so that differing rows can be searched in one part at a time.
const PARTS: usize = 4096;

/// Maximum number of fingerprints in memory while differing rows are searched.
const ROWS_AT_ONCE: u64 = 1 << 20;

/// Computes fingerprints; only those of one instance are comparable.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints([RandomState; 2]);

/// The fingerprint of a row's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u128);

/// The sum of the fingerprints of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RowSum {
    /// Number of rows.
    pub(crate) rows: u64,
    sum: u128,
}

impl Fingerprints {
    /// The fingerprint of a row: equal for rows with equal bits.
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

impl Fingerprint {
    fn part(self) -> usize {
        (self.0 % PARTS as u128) as usize
    }
}

/// Like [`for_other_rows`], for rows without a key: equal rows match wherever they are. The first columns, by which the rows are
/// sorted, only give the position of a row.
///
/// The rows of equal tables are read once. Others are read at least twice more, and as often as needed to have only some of their
/// fingerprints in memory at a time.
pub(crate) fn for_other_rows_in_any_order(
    sources: (RowSource<'_>, RowSource<'_>),
    key_order: &[KeyOrder],
    take: TakeRows<'_>,
) -> rusqlite::Result<u64> {
    let prints = Fingerprints::default();
    let print = |row: &[Value]| prints.of(row.iter().skip(key_order.len()).map(Value::as_ref));
    let mut sums = vec![[RowSum::default(); 2]; PARTS];
    let rows = for_other_rows(sources, key_order, &mut |our, their| {
        for (side, row) in [our, their].into_iter().enumerate() {
            if let Some(row) = row.map(print) {
                sums[row.part()][side].add(row);
            }
        }
        ControlFlow::Continue(())
    })?;
    let mut differing = (0..PARTS).filter(|&part| sums[part][0] != sums[part][1]).peekable();
    while differing.peek().is_some() {
        let (mut parts, mut at_once) = (vec![false; PARTS], 0);
        while let Some(part) = differing.next_if(|&part| {
            at_once += sums[part][0].rows + sums[part][1].rows;
            at_once <= ROWS_AT_ONCE || !parts.contains(&true)
        }) {
            parts[part] = true;
        }
        if for_other_rows_of(sources, key_order, &print, &parts, take)?.is_break() {
            break;
        }
    }
    Ok(rows)
}

/// Passes on the rows of some parts that one side has more often than the other.
fn for_other_rows_of(
    sources: (RowSource<'_>, RowSource<'_>),
    key_order: &[KeyOrder],
    print: &dyn Fn(&[Value]) -> Fingerprint,
    parts: &[bool],
    take: TakeRows<'_>,
) -> rusqlite::Result<ControlFlow<()>> {
    // How many more times our side has a row than theirs.
    let mut more: HashMap<Fingerprint, i64> = HashMap::new();
    let of_parts = |row: Option<&[Value]>| row.map(print).filter(|row| parts.get(row.part()) == Some(&true));
    for_other_rows(sources, key_order, &mut |our, their| {
        for (row, by) in [(our, 1), (their, -1)] {
            if let Some(row) = of_parts(row) {
                *more.entry(row).or_default() += by;
            }
        }
        ControlFlow::Continue(())
    })?;
    let mut flow = ControlFlow::Continue(());
    for_other_rows(sources, key_order, &mut |our, their| {
        let mut is_left = |row: Option<&[Value]>, by: i64| {
            let left = of_parts(row).and_then(|row| more.get_mut(&row)).filter(|left| left.signum() == by);
            left.map(|left| *left -= by).is_some()
        };
        let our = our.filter(|_| is_left(our, 1));
        let their = their.filter(|_| is_left(their, -1));
        flow = match (our, their) {
            (None, None) => ControlFlow::Continue(()),
            // Only rows in the same position can be the same row, changed.
            (Some(_), Some(_)) if key_order.is_empty() => match take(our, None) {
                ControlFlow::Continue(()) => take(None, their),
                ended => ended,
            },
            _ => take(our, their),
        };
        flow
    })?;
    Ok(flow)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (-1..2_i64).prop_map(Value::Integer),
            prop::sample::select(vec![0.0, -0.0, 1.0]).prop_map(Value::Real),
            prop::sample::select(vec!["", "1", "ab"]).prop_map(|text| Value::Text(text.into())),
            prop::sample::select(vec!["", "1", "ab"]).prop_map(|text| Value::Blob(text.into())),
        ]
    }

    proptest! {
        /// Few values, so that equal and nearly equal rows are frequent.
        #[test]
        fn sums_are_the_same_if_and_only_if_the_rows_are(
            ours in prop::collection::vec((value(), value()), 0..5),
            theirs in prop::collection::vec((value(), value()), 0..5),
            moved: prop::sample::Index,
        ) {
            let prints = Fingerprints::default();
            let sum = |rows: &[(_, _)]| {
                let mut sum = RowSum::default();
                rows.iter().for_each(|(a, b)| sum.add(prints.of([a, b].into_iter().map(Value::as_ref))));
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

        /// The rows passed on are those left when equal rows are removed in pairs.
        #[test]
        fn rows_of_which_one_has_more_are_handed_out_so_many_times(
            ours in prop::collection::vec((value(), value()), 0..8),
            theirs in prop::collection::vec((value(), value()), 0..8),
            by_rowid: bool,
        ) {
            let table = |rows: &[(Value, Value)]| {
                let connection = Connection::open_in_memory().unwrap();
                connection.execute_batch("CREATE TABLE t (x, y)").unwrap();
                for (x, y) in rows {
                    connection.execute("INSERT INTO t VALUES (?1, ?2)", [x, y]).unwrap();
                }
                connection
            };
            let [our_table, their_table] = [table(&ours), table(&theirs)];
            let (sql, key_order) = if by_rowid {
                ("SELECT rowid, x, y FROM t ORDER BY rowid", &[KeyOrder::ROWID][..])
            } else {
                ("SELECT x, y FROM t NOT INDEXED", &[][..])
            };
            let mut found = [Vec::new(), Vec::new()];
            let sources = (Some((&our_table, sql)), Some((&their_table, sql)));
            let read = for_other_rows_in_any_order(sources, key_order, &mut |our, their| {
                for (found, row) in found.iter_mut().zip([our, their]) {
                    found.extend(row.map(|row| (row[key_order.len()].clone(), row[key_order.len() + 1].clone())));
                }
                ControlFlow::Continue(())
            });
            prop_assert_eq!(read.unwrap(), ours.len() as u64);
            let left = |own: &[(Value, Value)], other: &[(Value, Value)]| {
                let mut left = own.to_vec();
                for row in other {
                    if let Some(at) = left.iter().position(|own| own == row) {
                        left.swap_remove(at);
                    }
                }
                left.sort();
                left
            };
            found.iter_mut().for_each(|rows| rows.sort());
            prop_assert_eq!(found, [left(&ours, &theirs), left(&theirs, &ours)]);
        }
    }
}

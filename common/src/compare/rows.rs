//! The rows of two tables side by side, in storage order, without keeping them.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use rusqlite::{Connection, Row, Rows, Statement, ffi};

use super::table::{KeyOrder, compare_keys};
use super::value::Value;

/// A connection and a query for rows; `None` for no rows.
pub(crate) type RowSource<'a> = Option<(&'a Connection, &'a str)>;

/// Callback for a row of each side; whether to continue.
pub(crate) type TakeRows<'t> = &'t mut dyn FnMut(Option<&[Value]>, Option<&[Value]>) -> ControlFlow<()>;

/// Reads the rows of two queries in the same order, whose first columns are the key, and passes those to `take` that only one
/// side has, or that differ, until it breaks. Without a key rows are matched by position. Returns the number of rows of the first
/// query.
///
/// # Errors
/// Also when the rows are not in this order: then the comparison would be meaningless.
pub(crate) fn for_other_rows(
    (ours, theirs): (RowSource<'_>, RowSource<'_>),
    key: &[KeyOrder],
    take: TakeRows<'_>,
) -> rusqlite::Result<u64> {
    let mut ours = ours.map(|(connection, sql)| connection.prepare(sql)).transpose()?;
    let mut theirs = theirs.map(|(connection, sql)| connection.prepare(sql)).transpose()?;
    let [mut ours, mut theirs] =
        [&mut ours, &mut theirs].map(|statement| statement.as_mut().map(|statement| InOrder::new(statement, key)));
    let [mut ours, mut theirs] = [ours.take().transpose()?, theirs.take().transpose()?];
    let next = |rows: &mut Option<InOrder<'_>>| rows.as_mut().map_or(Ok(None), InOrder::next);
    let (mut our, mut their) = (next(&mut ours)?, next(&mut theirs)?);
    let mut rows = 0;
    loop {
        let order = match (&our, &their) {
            (None, None) => return Ok(rows),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(our), Some(their)) => compare_keys(key, our, their),
        };
        let taken = match (order, &our, &their) {
            (Ordering::Less, our, _) => take(our.as_deref(), None),
            (Ordering::Greater, _, their) => take(None, their.as_deref()),
            (_, Some(our), Some(their)) if our != their => take(Some(our), Some(their)),
            _ => ControlFlow::Continue(()),
        };
        if taken.is_break() {
            return Ok(rows);
        }
        if order.is_le() {
            rows += 1;
            our = next(&mut ours)?;
        }
        if order.is_ge() {
            their = next(&mut theirs)?;
        }
    }
}

/// Rows in the order of their keys, which is checked.
struct InOrder<'q> {
    rows: Rows<'q>,
    columns: usize,
    key: &'q [KeyOrder],
    last_key: Vec<Value>,
}

impl<'q> InOrder<'q> {
    fn new(statement: &'q mut Statement<'_>, key: &'q [KeyOrder]) -> rusqlite::Result<Self> {
        let columns = statement.column_count();
        Ok(Self { rows: statement.query([])?, columns, key, last_key: Vec::new() })
    }

    fn next(&mut self) -> rusqlite::Result<Option<Vec<Value>>> {
        let row = values(self.rows.next()?, self.columns)?;
        if let Some(row) = &row {
            let of_key = row.get(..self.key.len()).unwrap_or_default();
            if !self.last_key.is_empty() && compare_keys(self.key, &self.last_key, of_key).is_ge() {
                let what = "the rows of a table are not in the order of its key: the database is damaged, or its texts \
                    are not UTF-8";
                return Err(rusqlite::Error::SqliteFailure(
                    ffi::Error::new(ffi::SQLITE_CORRUPT),
                    Some(what.to_owned()),
                ));
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(of_key);
        }
        Ok(row)
    }
}

/// The values of a row.
pub(crate) fn values(row: Option<&Row<'_>>, count: usize) -> rusqlite::Result<Option<Vec<Value>>> {
    let read = |row: &Row<'_>| (0..count).map(|column| Ok(row.get_ref(column)?.into())).collect();
    row.map(read).transpose()
}

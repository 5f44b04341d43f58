//! Columns of text.

use std::fmt;

/// Rows under a header: the first column to the left, all others to the right.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// No rows yet.
    pub fn new<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Self {
        Self(vec![header.map(str::to_owned).to_vec()])
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let width = |column| self.0.iter().map(|row| cell_width(row, column)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.0 {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "  {cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["", "p50 µs"]);
        table.row(["all".into(), "1234567.0".into()]);
        table.row(["24 kB".into(), "1".into()]);
        assert_eq!(table.to_string(), "            p50 µs\n  all    1234567.0\n  24 kB          1\n");
    }
}

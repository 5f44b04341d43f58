//! Decoding of SQLite's table b-tree pages (SQLite, "Database File Format" §1.6), as far as the comparison needs it. Any bytes
//! are a page or [`Malformed`].

use std::ops::Range;

use format::units::{PageNo, PageSize};

/// The error for an invalid page. SQLite itself reports more about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// First byte of an interior table page.
const INTERIOR: u8 = 5;
/// First byte of a leaf table page.
const LEAF: u8 = 13;

/// Length of the database header, in front of the page header of page 1.
const DATABASE_HEADER: usize = 100;

/// Offset in page 1 of the number of reserved bytes at the end of each page.
const RESERVED_AT: usize = 20;

/// A page of a table b-tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TablePage {
    /// The child pages, in row order.
    Interior(Vec<PageNo>),
    /// The rows, in order.
    Leaf(Vec<Cell>),
}

/// A row on a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) rowid: i64,
    /// Total length of the row in bytes.
    pub(super) payload_len: u64,
    /// The part that is on the leaf.
    pub(super) local: Range<usize>,
    /// First overflow page.
    pub(super) overflow: Option<PageNo>,
}

/// Usable bytes of each page.
pub(super) fn usable_bytes(first_page: &[u8], page_size: PageSize) -> Result<usize, Malformed> {
    let reserved = *first_page.get(RESERVED_AT).ok_or(Malformed)?;
    // SQLite refuses less.
    page_size.bytes().checked_sub(reserved.into()).filter(|&usable| usable >= 480).ok_or(Malformed)
}

/// Offset of the page header.
fn header_at(page: PageNo) -> usize {
    if page == PageNo::FIRST { DATABASE_HEADER } else { 0 }
}

/// Decodes a page of a table.
pub(super) fn table_page(page: PageNo, bytes: &[u8], usable: usize) -> Result<TablePage, Malformed> {
    let bytes = bytes.get(..usable).ok_or(Malformed)?;
    let header = header_at(page);
    let kind = *bytes.get(header).ok_or(Malformed)?;
    let header_len = match kind {
        INTERIOR => 12,
        LEAF => 8,
        _ => return Err(Malformed),
    };
    let count = usize::from(u16_at(bytes, header + 3)?);
    let pointers = header + header_len;
    let cells_from = pointers + 2 * count;
    let cells = (0..count).map(|index| {
        let at = usize::from(u16_at(bytes, pointers + 2 * index)?);
        if at < cells_from { Err(Malformed) } else { Ok(at) }
    });
    if kind == INTERIOR {
        let mut below: Vec<PageNo> = cells.map(|at| page_no_at(bytes, at?)).collect::<Result<_, _>>()?;
        below.push(page_no_at(bytes, header + 8)?);
        return Ok(TablePage::Interior(below));
    }
    Ok(TablePage::Leaf(cells.map(|at| leaf_cell(bytes, at?)).collect::<Result<_, _>>()?))
}

fn leaf_cell(bytes: &[u8], at: usize) -> Result<Cell, Malformed> {
    let (payload_len, len) = varint(bytes, at)?;
    let (rowid, rowid_len) = varint(bytes, at + len)?;
    let start = at + len + rowid_len;
    let local_len = local_bytes(payload_len, bytes.len());
    let local = start..start.checked_add(local_len).ok_or(Malformed)?;
    if local.end > bytes.len() {
        return Err(Malformed);
    }
    let overflow = if local_len as u64 == payload_len { None } else { Some(page_no_at(bytes, local.end)?) };
    Ok(Cell { rowid: rowid.cast_signed(), payload_len, local, overflow })
}

/// Length of the part of a row that is on its leaf (§1.6, "the amount of payload that spills").
#[expect(clippy::cast_possible_truncation, reason = "less than a page")]
fn local_bytes(payload_len: u64, usable: usize) -> usize {
    let largest = usable - 35;
    if payload_len <= largest as u64 {
        return payload_len as usize;
    }
    let least = (usable - 12) * 32 / 255 - 23;
    let fitting = least + ((payload_len - least as u64) % (usable as u64 - 4)) as usize;
    if fitting <= largest { fitting } else { least }
}

/// The next overflow page; `None` behind the last one.
pub(super) fn next_overflow(bytes: &[u8]) -> Result<Option<PageNo>, Malformed> {
    let next = bytes.first_chunk().ok_or(Malformed)?;
    Ok(PageNo::new(u32_of(*next)))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let two = bytes.get(at..).and_then(<[u8]>::first_chunk::<2>).ok_or(Malformed)?;
    Ok(u16::from(two[0]) << 8 | u16::from(two[1]))
}

fn page_no_at(bytes: &[u8], at: usize) -> Result<PageNo, Malformed> {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>).ok_or(Malformed)?;
    PageNo::new(u32_of(*four)).ok_or(Malformed)
}

/// SQLite's numbers are big-endian.
fn u32_of(bytes: [u8; 4]) -> u32 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// A varint and its length (§1.6): seven bits per byte, the highest first; eight in a ninth byte.
fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Malformed> {
    let mut value = 0;
    for len in 1..=8 {
        let byte = *bytes.get(at + len - 1).ok_or(Malformed)?;
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((value, len));
        }
    }
    let last = *bytes.get(at + 8).ok_or(Malformed)?;
    Ok((value << 8 | u64::from(last), 9))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn page(number: u32) -> PageNo {
        PageNo::new(number).unwrap()
    }

    #[test]
    fn varints_of_all_lengths() {
        assert_eq!(varint(&[0x7f], 0), Ok((127, 1)));
        assert_eq!(varint(&[9, 0x81, 0], 1), Ok((128, 2)));
        assert_eq!(varint(&[0xff; 9], 0), Ok((u64::MAX, 9)));
        assert_eq!(varint(&[0xff; 8], 0), Err(Malformed));
    }

    /// Rows of all lengths around the limits at which SQLite moves parts of them to overflow pages.
    #[test]
    fn rows_of_a_real_database_are_found_with_all_their_bytes() {
        for page_bytes in [512_u32, 4096, 65_536] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("d");
            let database = Connection::open(&path).unwrap();
            database.execute_batch(&format!("PRAGMA page_size = {page_bytes}; CREATE TABLE t (x BLOB)")).unwrap();
            let size = PageSize::new(page_bytes).unwrap();
            let usable = page_bytes as usize;
            let lens: Vec<usize> = [0, 1, usable / 2, usable - 60, usable - 40]
                .into_iter()
                .chain(usable - 39..usable - 30)
                .chain(2 * usable - 46..2 * usable - 34)
                .chain([usable, usable + 1, 3 * usable + 77])
                .collect();
            for (at, len) in lens.iter().enumerate() {
                let sql = "INSERT INTO t (rowid, x) VALUES (?1, randomblob(?2))";
                database.execute(sql, [(at as i64 - 3) * 1_000_000_007, *len as i64]).unwrap();
            }
            drop(database);
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(usable_bytes(&bytes, size), Ok(usable));
            let at = |number: PageNo| &bytes[(number.get() as usize - 1) * size.bytes()..][..size.bytes()];
            let database = Connection::open(&path).unwrap();
            let mut rows = Vec::new();
            let mut below = vec![page(2)];
            while let Some(number) = below.pop() {
                match table_page(number, at(number), usable).unwrap() {
                    TablePage::Interior(pages) => below.extend(pages.into_iter().rev()),
                    TablePage::Leaf(cells) => {
                        for cell in cells {
                            let mut row = at(number)[cell.local].to_vec();
                            let mut next = cell.overflow;
                            while let Some(overflow) = next {
                                let len = usize::try_from(cell.payload_len).unwrap();
                                let wanted = (len - row.len()).min(usable - 4);
                                row.extend_from_slice(&at(overflow)[4..4 + wanted]);
                                next = next_overflow(at(overflow)).unwrap();
                            }
                            assert_eq!(row.len() as u64, cell.payload_len);
                            let blob: Vec<u8> = database
                                .query_row("SELECT x FROM t WHERE rowid = ?1", [cell.rowid], |row| row.get(0))
                                .unwrap();
                            assert!(row.ends_with(&blob), "row {} of pages of {page_bytes}", cell.rowid);
                            rows.push(cell.rowid);
                        }
                    }
                }
            }
            assert!(rows.is_sorted() && rows.len() == lens.len(), "{rows:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_page_or_malformed(kind in prop::sample::select(vec![INTERIOR, LEAF]), bytes: Vec<u8>, first: bool) {
            let mut bytes = [&[kind][..], &bytes].concat();
            bytes.resize(512, 0x85);
            let number = if first { 1 } else { 2 };
            let _ = table_page(page(number), &bytes, 480);
            let _ = table_page(page(number), &bytes, 512);
            let _ = table_page(page(number), &bytes[..100], 512);
        }
    }
}

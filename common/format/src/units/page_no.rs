//! [`PageNo`] and [`PageSize`]: how SQLite counts and measures pages.

use std::fmt;

/// Number of a database page; the first page is 1 (SQLite file format §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(u32);

impl PageNo {
    /// Page 1, which carries the database header.
    pub const FIRST: Self = Self(1);

    /// The page with this number; `None` for 0, which is no page.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number, from 1.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The page after this one; `None` past the 2^32 pages a database can have.
    pub fn next(self) -> Option<Self> {
        self.plus(1)
    }

    /// The page this many pages later; `None` past the 2^32 pages a database can have.
    pub fn plus(self, pages: usize) -> Option<Self> {
        self.0.checked_add(u32::try_from(pages).ok()?).map(Self)
    }

    /// The page that contains this byte of a database file; `None` past the 2^32 pages a database can have.
    pub fn at_offset(offset: u64, page_size: PageSize) -> Option<Self> {
        let index = offset / u64::from(page_size.get());
        u32::try_from(index).ok()?.checked_add(1).map(Self)
    }
}

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes in a database page: a power of two from 512 to 65,536 (SQLite file format §1.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// The page size that SQLite, and so CLN, gives a new database.
    pub const DEFAULT: Self = Self(4096);

    /// A page size; `None` unless SQLite allows it.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65_536 { Some(Self(bytes)) } else { None }
    }

    /// Bytes in a page.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Bytes in a page, for slices.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

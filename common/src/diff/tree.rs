//! The leaves of a table in one of two databases, found by following the b-tree.

use std::collections::HashSet;

use super::btree::{Cell, Malformed, TablePage, next_overflow, table_page, usable_bytes};
use crate::pages::{OverlayPages, PageSource};
use crate::storage::read_error::ReadError;
use format::units::PageNo;

/// Maximum depth, greater than that of SQLite (`BTCURSOR_MAX_DEPTH`).
const DEPTH_MAX: usize = 20;

/// The reason why a tree cannot be followed.
#[derive(Debug)]
pub(super) enum TreeError {
    /// A page is invalid.
    Malformed,
    /// A page cannot be read.
    Read(ReadError),
}

impl From<Malformed> for TreeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<ReadError> for TreeError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// The pages of a database, with their usable length.
#[derive(Debug)]
pub(super) struct Trees {
    pages: OverlayPages,
    usable: usize,
}

impl Trees {
    pub(super) fn new(pages: OverlayPages) -> Result<Self, TreeError> {
        let mut first = vec![0; pages.page_size().bytes()];
        pages.read_page(PageNo::FIRST, &mut first)?;
        let usable = usable_bytes(&first, pages.page_size())?;
        Ok(Self { pages, usable })
    }

    pub(super) fn pages(&self) -> &OverlayPages {
        &self.pages
    }

    /// Reads a page within the database.
    pub(super) fn read(&self, page: PageNo, out: &mut Vec<u8>) -> Result<(), TreeError> {
        if page.get() > self.pages.page_count() {
            return Err(TreeError::Malformed);
        }
        out.resize(self.pages.page_size().bytes(), 0);
        Ok(self.pages.read_page(page, out)?)
    }

    fn decode(&self, page: PageNo, bytes: &mut Vec<u8>) -> Result<TablePage, TreeError> {
        self.read(page, bytes)?;
        Ok(table_page(page, bytes, self.usable)?)
    }

    /// The leaves of the tree that begins at `root` among the `touched` pages, in row order; only touched pages are followed.
    pub(super) fn touched_leaves(&self, root: PageNo, touched: &HashSet<PageNo>) -> Result<Vec<PageNo>, TreeError> {
        let mut walk = Walk::new(self, root);
        let mut leaves = Vec::new();
        while let Some((page, depth)) = walk.next()? {
            if !touched.contains(&page) {
                continue;
            }
            match self.decode(page, &mut walk.bytes)? {
                TablePage::Leaf(_) => leaves.push(page),
                TablePage::Interior(below) => walk.descend(below, depth)?,
            }
        }
        Ok(leaves)
    }

    /// All leaves of the tree that begins at `root`, in row order. Reads only the first leaf.
    pub(super) fn leaves(&self, root: PageNo, interior: &mut HashSet<PageNo>) -> Result<Vec<PageNo>, TreeError> {
        let mut walk = Walk::new(self, root);
        let mut leaves = Vec::new();
        // All leaves of a tree have the same depth, that of the first.
        let mut leaf_depth = None;
        while let Some((page, depth)) = walk.next()? {
            if leaf_depth == Some(depth) {
                leaves.push(page);
                continue;
            }
            match self.decode(page, &mut walk.bytes)? {
                TablePage::Interior(below) => {
                    interior.insert(page);
                    walk.descend(below, depth)?;
                }
                TablePage::Leaf(_) if leaf_depth.is_some() => return Err(TreeError::Malformed),
                TablePage::Leaf(_) => {
                    leaf_depth = Some(depth);
                    leaves.push(page);
                }
            }
        }
        Ok(leaves)
    }

    /// The rows of leaves, in order.
    pub(super) fn rows<'t>(&'t self, leaves: &'t [PageNo]) -> Rows<'t> {
        Rows { trees: self, leaves: leaves.iter(), bytes: Vec::new(), cells: Vec::new().into_iter(), last: None }
    }

    /// Passes the overflow pages of a row to `take`, each with the bytes that belong to the row.
    pub(super) fn for_overflow(&self, cell: &Cell, take: &mut dyn FnMut(PageNo, &[u8])) -> Result<(), TreeError> {
        let mut rest = cell.payload_len - cell.local.len() as u64;
        let mut next = cell.overflow;
        let mut bytes = Vec::new();
        let mut pages = 0;
        while rest > 0 {
            let page = next.ok_or(TreeError::Malformed)?;
            pages += 1;
            if pages > self.pages.page_count() {
                return Err(TreeError::Malformed);
            }
            self.read(page, &mut bytes)?;
            next = next_overflow(&bytes)?;
            let here = rest.min(self.usable as u64 - 4);
            let here = usize::try_from(here).unwrap_or(usize::MAX);
            take(page, bytes.get(4..4 + here).ok_or(TreeError::Malformed)?);
            rest -= here as u64;
        }
        Ok(())
    }

    fn overflow_bytes(&self, cell: &Cell) -> Result<Vec<u8>, TreeError> {
        // No database has this many bytes; nothing is allocated for an invalid length.
        let all = u64::from(self.pages.page_count()) * self.usable as u64;
        if cell.payload_len > all {
            return Err(TreeError::Malformed);
        }
        let mut whole = Vec::new();
        self.for_overflow(cell, &mut |_, bytes| whole.extend_from_slice(bytes))?;
        Ok(whole)
    }
}

/// Pages of a tree that are still to be visited.
struct Walk<'t> {
    trees: &'t Trees,
    /// The next page last, each with its depth.
    waiting: Vec<(PageNo, usize)>,
    seen: HashSet<PageNo>,
    bytes: Vec<u8>,
}

impl<'t> Walk<'t> {
    fn new(trees: &'t Trees, root: PageNo) -> Self {
        Self { trees, waiting: vec![(root, 0)], seen: HashSet::new(), bytes: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<(PageNo, usize)>, TreeError> {
        let Some((page, depth)) = self.waiting.pop() else { return Ok(None) };
        // No page is in a tree twice, so this ends for any input.
        if page.get() > self.trees.pages.page_count() || !self.seen.insert(page) {
            return Err(TreeError::Malformed);
        }
        Ok(Some((page, depth)))
    }

    fn descend(&mut self, below: Vec<PageNo>, depth: usize) -> Result<(), TreeError> {
        if depth + 1 > DEPTH_MAX {
            return Err(TreeError::Malformed);
        }
        self.waiting.extend(below.into_iter().rev().map(|page| (page, depth + 1)));
        Ok(())
    }
}

/// Rows of leaves, in order.
pub(super) struct Rows<'t> {
    trees: &'t Trees,
    leaves: std::slice::Iter<'t, PageNo>,
    /// The leaf of the cells.
    bytes: Vec<u8>,
    cells: std::vec::IntoIter<Cell>,
    last: Option<i64>,
}

impl Rows<'_> {
    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<Cell>, TreeError> {
        loop {
            if let Some(cell) = self.cells.next() {
                if self.last.is_some_and(|last| last >= cell.rowid) {
                    return Err(TreeError::Malformed);
                }
                self.last = Some(cell.rowid);
                return Ok(Some(cell));
            }
            let Some(&leaf) = self.leaves.next() else { return Ok(None) };
            match self.trees.decode(leaf, &mut self.bytes)? {
                TablePage::Leaf(cells) => self.cells = cells.into_iter(),
                TablePage::Interior(_) => return Err(TreeError::Malformed),
            }
        }
    }

    /// Whether the rows last returned by both have equal bytes.
    pub(super) fn is_same(&self, own: &Cell, others: &Self, other: &Cell) -> Result<bool, TreeError> {
        let (own_local, other_local) = (self.bytes.get(own.local.clone()), others.bytes.get(other.local.clone()));
        if own.payload_len != other.payload_len || own_local != other_local {
            return Ok(false);
        }
        if own.overflow.is_none() && other.overflow.is_none() {
            return Ok(true);
        }
        Ok(self.trees.overflow_bytes(own)? == others.trees.overflow_bytes(other)?)
    }
}

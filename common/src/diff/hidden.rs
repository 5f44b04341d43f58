//! Changes that no leaf shows: when only the overflow part of a row changes, SQLite overwrites it in place
//! (`btreeOverwriteContent`). Then the leaf is equal in both databases although the row differs.

use std::collections::HashSet;

use super::leaves::Leaves;
use super::tree::{TreeError, Trees};
use crate::pages::PageSource;
use format::units::PageNo;

/// Offset in page 1 of the number of the first freelist page.
const FREELIST_AT: usize = 32;

/// Number of pages from which on a page number can begin with the first byte of a b-tree page, which is never 0 or 1.
const PAGES_AMBIGUOUS: u32 = 0x0200_0000;

/// Differing pages that may be overflow pages of rows on equal leaves.
pub(super) struct HiddenPages(HashSet<PageNo>);

impl HiddenPages {
    /// The differing pages that both databases have and that are, in neither, free or b-tree pages.
    pub(super) fn find(
        trees: [&Trees; 2],
        differing: &HashSet<PageNo>,
        known: &HashSet<PageNo>,
    ) -> Result<Self, TreeError> {
        let page_count = trees[0].pages().page_count().min(trees[1].pages().page_count());
        let mut hidden: HashSet<PageNo> = differing
            .iter()
            .copied()
            .filter(|page| page.get() <= page_count && *page != PageNo::FIRST && !known.contains(page))
            .collect();
        let mut bytes = Vec::new();
        for tree in trees {
            if hidden.is_empty() {
                break;
            }
            for free in free_pages(tree)? {
                hidden.remove(&free);
            }
            // An overflow page begins with the number of the next one.
            if tree.pages().page_count() < PAGES_AMBIGUOUS {
                let mut of_trees = Vec::new();
                for &page in &hidden {
                    tree.read(page, &mut bytes)?;
                    of_trees.extend(bytes.first().filter(|&&first| first > 1).map(|_| page));
                }
                for page in of_trees {
                    hidden.remove(&page);
                }
            }
        }
        Ok(Self(hidden))
    }

    /// Removes the overflow pages of rows on leaves that are compared anyway: no other row has them.
    pub(super) fn leave_out(&mut self, trees: [&Trees; 2], leaves: &Leaves) -> Result<(), TreeError> {
        for (tree, leaves) in trees.into_iter().zip(&leaves.candidates) {
            let mut rows = tree.rows(leaves);
            while !self.0.is_empty() {
                let Some(cell) = rows.next()? else { break };
                if cell.overflow.is_some() {
                    tree.for_overflow(&cell, &mut |page, _| {
                        self.0.remove(&page);
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The shared leaves whose rows have these overflow pages. Reads leaves until every page is found.
    pub(super) fn owners(&mut self, tree: &Trees, leaves: &Leaves) -> Result<HashSet<PageNo>, TreeError> {
        let mut owners = HashSet::new();
        let mut in_order: Vec<PageNo> = leaves.shared.iter().copied().collect();
        in_order.sort_unstable();
        for leaf in in_order {
            if self.0.is_empty() {
                break;
            }
            let one = [leaf];
            let mut rows = tree.rows(&one);
            while let Some(cell) = rows.next()? {
                if cell.overflow.is_some() {
                    tree.for_overflow(&cell, &mut |page, _| {
                        if self.0.remove(&page) {
                            owners.insert(leaf);
                        }
                    })?;
                }
            }
        }
        Ok(owners)
    }
}

/// The pages of the freelist (§1.5).
fn free_pages(tree: &Trees) -> Result<HashSet<PageNo>, TreeError> {
    let mut bytes = Vec::new();
    tree.read(PageNo::FIRST, &mut bytes)?;
    let number = |bytes: &[u8], at: usize| {
        let four = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>)?;
        PageNo::new(four.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    };
    let mut free = HashSet::new();
    let mut trunk = number(&bytes, FREELIST_AT);
    while let Some(page) = trunk {
        // No page is free twice, so this ends for any input.
        if !free.insert(page) {
            return Err(TreeError::Malformed);
        }
        tree.read(page, &mut bytes)?;
        let count = number(&bytes, 4).map_or(0, |count| count.get() as usize);
        let leaves = (0..count.min(bytes.len() / 4)).map_while(|index| number(&bytes, 8 + 4 * index));
        free.extend(leaves.collect::<Vec<_>>());
        trunk = number(&bytes, 0);
    }
    Ok(free)
}

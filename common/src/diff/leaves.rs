//! The leaves of a table that can have differing rows.

use std::collections::HashSet;

use super::tree::{TreeError, Trees};
use crate::pages::{OverlayPages, PageIdentity, PageSource};
use crate::storage::read_error::ReadError;
use format::units::PageNo;

/// Number of page identities determined at once.
const ASKED_AT_ONCE: u32 = 4096;

/// The pages on which rows can differ.
#[derive(Debug)]
pub(super) enum Scope {
    /// These pages, which were read or written by the changes between the databases. In either database they include a
    /// differing row's leaf and the path to it.
    Touched(HashSet<PageNo>),
    /// All other pages are equal in both databases. A row can be on an equal page that is in the tree of one database only, or
    /// have overflow pages that differ.
    Differing(HashSet<PageNo>),
    /// Everywhere.
    Everywhere,
}

/// The leaves of a table in both databases.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    /// The leaves of each that can have differing rows.
    pub(super) candidates: [Vec<PageNo>; 2],
    /// The leaves that both share, of which only overflow pages can differ.
    pub(super) shared: HashSet<PageNo>,
}

impl Scope {
    /// The scope according to the page maps of two databases of a backup.
    pub(super) fn of_identities(ours: &OverlayPages, theirs: &OverlayPages) -> Result<Self, ReadError> {
        if ours.page_size() != theirs.page_size() {
            return Ok(Self::Everywhere);
        }
        let mut differing = HashSet::new();
        let count = ours.page_count().max(theirs.page_count());
        let mut identities = [(); 2].map(|()| vec![PageIdentity::Unknown; ASKED_AT_ONCE as usize]);
        for first in (1..=count).step_by(ASKED_AT_ONCE as usize) {
            let Some(page) = PageNo::new(first) else { continue };
            let len = (count - first + 1).min(ASKED_AT_ONCE) as usize;
            let [of_ours, of_theirs] = &mut identities;
            ours.identities(page, &mut of_ours[..len])?;
            theirs.identities(page, &mut of_theirs[..len])?;
            let pairs = of_ours[..len].iter().zip(&of_theirs[..len]).enumerate();
            let others = pairs.filter(|(_, (our, their))| !our.is_same(**their));
            differing.extend(others.filter_map(|(index, _)| page.plus(index)));
        }
        Ok(Self::Differing(differing))
    }

    /// Whether a tree with these roots cannot differ.
    pub(super) fn excludes(&self, roots: [PageNo; 2]) -> bool {
        match self {
            Self::Touched(touched) => roots[0] == roots[1] && !touched.contains(&roots[0]),
            Self::Differing(_) | Self::Everywhere => false,
        }
    }

    /// The leaves of a table whose tree begins at `roots`.
    pub(super) fn leaves(
        &self,
        trees: [&Trees; 2],
        roots: [PageNo; 2],
        interior: &mut HashSet<PageNo>,
    ) -> Result<Leaves, TreeError> {
        match self {
            // Two tables that exchanged names need not have a touched page.
            Self::Touched(touched) if roots[0] == roots[1] => {
                let candidates =
                    [trees[0].touched_leaves(roots[0], touched)?, trees[1].touched_leaves(roots[1], touched)?];
                Ok(Leaves { candidates, shared: HashSet::new() })
            }
            Self::Differing(differing) => {
                let all = [trees[0].leaves(roots[0], interior)?, trees[1].leaves(roots[1], interior)?];
                let [ours, theirs] = all.each_ref().map(|leaves| leaves.iter().copied().collect::<HashSet<_>>());
                let shared: HashSet<PageNo> =
                    ours.intersection(&theirs).copied().filter(|page| !differing.contains(page)).collect();
                let candidates = all.map(|leaves| leaves.into_iter().filter(|page| !shared.contains(page)).collect());
                Ok(Leaves { candidates, shared })
            }
            Self::Touched(_) | Self::Everywhere => {
                let candidates = [trees[0].leaves(roots[0], interior)?, trees[1].leaves(roots[1], interior)?];
                Ok(Leaves { candidates, shared: HashSet::new() })
            }
        }
    }
}

impl Leaves {
    /// Adds shared leaves to the candidates, in row order.
    pub(super) fn add(
        &mut self,
        trees: [&Trees; 2],
        roots: [PageNo; 2],
        found: &HashSet<PageNo>,
    ) -> Result<(), TreeError> {
        if found.is_empty() {
            return Ok(());
        }
        for (index, tree) in trees.into_iter().enumerate() {
            let before: HashSet<PageNo> = self.candidates[index].iter().copied().collect();
            let all = tree.leaves(roots[index], &mut HashSet::new())?;
            self.candidates[index] =
                all.into_iter().filter(|page| before.contains(page) || found.contains(page)).collect();
        }
        Ok(())
    }
}

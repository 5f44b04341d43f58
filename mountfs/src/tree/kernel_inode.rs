//! [`Tag`]: which inodes the kernel is given for those of a tree.
//!
//! A tree numbers its inodes by the seqs of its backup. When another backup, or another copy, is put in its place, the same
//! seqs stand for other versions; the kernel, which keeps what it has read under the number of the inode for a day, must not
//! take one for the other. So all inodes of the next tree are others. Whoever still asks for one of the earlier tree is told
//! that it is stale (ESTALE), upon which the kernel looks the path up anew.
//!
//! The directory of the versions is besides another one after every compaction: with it the kernel lets go of all the names
//! that it has kept in there, those of directories that somebody stands in included.
//!
//! ```text
//! bit 63     the directory is below by-time; the other bits are as below
//! 47 to 62   which tree
//! bit 46     it is the directory of the versions, and bits 0 to 45 count the compactions
//! 0 to 46    else as in the tree; one with more bits than that, of which there is none, has no place here
//! ```

use crate::tree::node::Node;

const ROOT: u64 = 1;
const TREE_SHIFT: u32 = 47;
const TREE_BITS: u64 = 0xffff << TREE_SHIFT;
const VERSIONS_BIT: u64 = 1 << 46;

/// What is added to the inodes of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// How many trees there were before it.
    pub tree: u64,
    /// How often versions were dropped from it.
    pub compactions: u64,
}

impl Tag {
    /// The inode that the kernel gets.
    pub fn outward(self, inode: u64) -> u64 {
        if inode == ROOT {
            return ROOT;
        }
        let inode =
            if inode == Node::Versions.inode() { (self.compactions % VERSIONS_BIT) | VERSIONS_BIT } else { inode };
        inode | (self.tree << TREE_SHIFT & TREE_BITS)
    }

    /// What an inode that the kernel was given is in the tree; `None` when it is of another one.
    pub fn inward(self, inode: u64) -> Option<u64> {
        if inode == ROOT {
            return Some(ROOT);
        }
        if inode & TREE_BITS != self.tree << TREE_SHIFT & TREE_BITS {
            return None;
        }
        let inode = inode & !TREE_BITS;
        // Below by-time this bit is never set.
        Some(if inode & VERSIONS_BIT == 0 { inode } else { Node::Versions.inode() })
    }
}

#[cfg(test)]
mod tests {
    use common::{Seq, Timestamp};

    use super::*;
    use crate::tree::calendar::Period;
    use crate::tree::node::{Part, SEQ_MAX};

    #[test]
    fn an_inode_comes_back_to_its_tree_and_to_no_other() {
        let hour = std::iter::successors(Some(Period::Ever), |period| {
            period.child_at(Timestamp::from_micros(253_000_000_000_000_000).unwrap())
        });
        let nodes = [Node::Readme, Node::Latest, Node::Versions, Node::OfVersion(Seq::FIRST, Part::Directory)];
        let newest = Node::OfVersion(Seq::new(SEQ_MAX).unwrap(), Part::TimeLink);
        for node in nodes.into_iter().chain([newest]).chain(hour.map(Node::ByTime)) {
            let mut given = std::collections::HashSet::new();
            for tree in [0, 1, 2, 0xffff] {
                let tag = Tag { tree, compactions: 7 };
                let inode = tag.outward(node.inode());
                assert!(given.insert(inode), "{node:?}");
                assert_eq!(tag.inward(inode), Some(node.inode()), "{node:?}");
                assert_eq!(Tag { tree: tree + 1, ..tag }.inward(inode), None, "{node:?}");
                // A directory that was opened before a compaction is still listed.
                assert_eq!(Tag { compactions: 8, ..tag }.inward(inode), Some(node.inode()), "{node:?}");
            }
        }
        let root = Node::Root.inode();
        assert_eq!(Tag { tree: 3, compactions: 0 }.outward(root), root);
        assert_eq!(Tag { tree: 4, compactions: 0 }.inward(root), Some(root));
    }

    #[test]
    fn the_directory_of_the_versions_is_another_one_after_each_compaction() {
        let inode = |compactions| Tag { tree: 1, compactions }.outward(Node::Versions.inode());
        assert!(inode(0) != inode(1) && inode(1) != inode(2));
        assert_ne!(
            inode(1),
            Tag { tree: 1, compactions: 0 }.outward(Node::OfVersion(Seq::FIRST, Part::Database).inode())
        );
    }
}

//! [`Tag`]: maps the inodes of a tree to those that the kernel gets.
//!
//! A tree numbers its inodes by the seqs of its backup. When another backup, or another copy, is put in its place, the same
//! seqs mean other versions; the kernel, which caches data under the inode number for a day, must not confuse them. So each
//! tree has its own inodes. A request for an inode of an earlier tree is answered with ESTALE, upon which the kernel looks
//! the path up anew.
//!
//! The directory of the versions also gets another inode after each compaction: with the old one the kernel drops all cached
//! names in there, also those of directories in which a process has its working directory.
//!
//! ```text
//! bit 63     the directory is below by-time; the other bits are as below
//! 47 to 62   the number of the tree
//! bit 46     it is the directory of the versions, and bits 0 to 45 count the compactions
//! 0 to 46    otherwise the inode of the tree, which never has more bits
//! ```

use crate::tree::node::Node;

const ROOT: u64 = 1;
const TREE_SHIFT: u32 = 47;
const TREE_BITS: u64 = 0xffff << TREE_SHIFT;
const VERSIONS_BIT: u64 = 1 << 46;

/// The bits that are added to the inodes of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The number of trees before this one.
    pub tree: u64,
    /// The number of compactions of this tree.
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

    /// The inode in the tree for one of the kernel; `None` when it belongs to another tree.
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

//! [`Attr`]: the attributes that `stat` returns, and how long the kernel may cache them.

use common::Timestamp;

use crate::tree::node::{Kind, Node};

/// The attributes that `stat` returns, without the owner, which is the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode.
    pub inode: u64,
    /// Directory, file or link.
    pub kind: Kind,
    /// Bytes of a file or of the target of a link; 0 for a directory.
    pub size_bytes: u64,
    /// The number of links: for a directory two plus its subdirectories, or 1 when those are not counted.
    pub links: u32,
    /// Permission bits.
    pub permissions: u16,
    /// The time at which it was recorded.
    pub time: Timestamp,
    /// Whether these attributes can change.
    pub lasts: Lasts,
}

/// The time for which the kernel may cache an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lasts {
    /// The answer may be different the next time: it is not cached.
    Moment,
    /// The times may be older than the newest version, for a tenth of a second; the rest never changes. So it is for directories: the
    /// kernel needs their permissions for each path that goes through them.
    Briefly,
    /// The answer never changes.
    Forever,
}

/// The answer to a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The attributes of the node that has the name.
    pub attr: Attr,
    /// Whether the name can come to mean another node.
    pub name_lasts: Lasts,
}

/// The number of subdirectories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subdirectories {
    /// This many.
    Known(u32),
    /// Counting them would cost too much. The link count is 1 then, as on other file systems that do not count; programs
    /// conclude nothing from it.
    NotCounted,
}

/// Attributes of a directory.
pub fn directory_attr(node: Node, subdirectories: Subdirectories, time: Timestamp, lasts: Lasts) -> Attr {
    let links = match subdirectories {
        Subdirectories::Known(count) => count + 2,
        Subdirectories::NotCounted => 1,
    };
    Attr { inode: node.inode(), kind: Kind::Directory, size_bytes: 0, links, permissions: 0o500, time, lasts }
}

/// Attributes of a file.
pub fn file_attr(node: Node, size_bytes: u64, time: Timestamp, lasts: Lasts) -> Attr {
    Attr { inode: node.inode(), kind: Kind::File, size_bytes, links: 1, permissions: 0o400, time, lasts }
}

/// Attributes of a link to `target`.
pub fn link_attr(node: Node, target: &str, time: Timestamp, lasts: Lasts) -> Attr {
    let size_bytes = target.len() as u64;
    Attr { inode: node.inode(), kind: Kind::Link, size_bytes, links: 1, permissions: 0o777, time, lasts }
}

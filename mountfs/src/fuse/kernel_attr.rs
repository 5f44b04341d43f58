//! What the attributes of a tree become in the kernel: who owns everything, how long it may be cached, and in which fields it is.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};

use crate::tree::attr::{Attr, Lasts};
use crate::tree::kernel_inode::Tag;
use crate::tree::node::{Kind, Node};

/// The cache timeout for answers that never change.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the kernel may cache what [`Lasts::Briefly`].
const BRIEFLY: Duration = Duration::from_millis(100);

/// Bytes of a block in `stat` and `statfs`; `st_blocks` always counts blocks of 512 bytes.
pub const BLOCK_BYTES: u32 = 4096;

/// The users who may enter the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only the user who mounts: a node's database holds its secrets.
    Owner,
    /// All users.
    Others,
}

/// The owner of everything in the mount, and which other users may read it.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The users who may enter.
    pub access: Access,
}

impl Owner {
    /// The permission bits of a file, from those of its owner.
    fn permissions(self, own: u16) -> u16 {
        match self.access {
            Access::Owner => own,
            Access::Others => own | own >> 3 | own >> 6,
        }
    }
}

/// What the attributes of a tree become outside.
#[derive(Debug, Clone, Copy)]
pub struct Outside {
    /// The tree.
    pub tag: Tag,
    /// The owner of everything.
    pub owner: Owner,
    /// See [`Shown::nanoseconds`](crate::tree::shown::Shown::nanoseconds).
    pub nanoseconds: u32,
}

/// The attributes as the kernel gets them.
pub fn file_attr(attr: &Attr, Outside { tag, owner, nanoseconds }: Outside) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(attr.time.as_micros().unsigned_abs());
    let grows = Node::from_inode(attr.inode).is_some_and(Node::grows);
    let below_a_microsecond = if grows { Duration::from_nanos(nanoseconds.into()) } else { Duration::ZERO };
    FileAttr {
        ino: INodeNo(tag.outward(attr.inode)),
        size: attr.size_bytes,
        blocks: attr.size_bytes.div_ceil(512),
        atime: time,
        mtime: time + below_a_microsecond,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: owner.permissions(attr.permissions),
        nlink: attr.links,
        uid: owner.uid,
        gid: owner.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The type of a file, as the kernel has it.
pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

/// How long an answer may be cached.
pub fn ttl(lasts: Lasts) -> Duration {
    match lasts {
        Lasts::Forever => FOREVER,
        Lasts::Briefly => BRIEFLY,
        Lasts::Moment => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_read_only_where_they_were_let_in() {
        let owner = |access| Owner { uid: 0, gid: 0, access };
        assert_eq!(owner(Access::Owner).permissions(0o400), 0o400);
        assert_eq!(owner(Access::Others).permissions(0o400), 0o444);
        assert_eq!(owner(Access::Others).permissions(0o500), 0o555);
        assert_eq!(owner(Access::Others).permissions(0o777), 0o777);
    }
}

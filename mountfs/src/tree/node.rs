//! [`Node`]: the nodes of the mounted tree, their names and inodes. Pure: it needs no backup.
//!
//! ```text
//! /README
//! /latest -> versions/123456
//! /versions/123456/{lightningd.sqlite3,changes.sql,info.json}
//! /by-time/2026/11/22/14h/05m07.123456s-v123456 -> ../../../../../versions/123456
//! ```
//!
//! An inode contains all there is to know of its node, so that no state is kept between two requests:
//! 1 to 5 are the fixed names, `seq << 3 | part` belongs to a version, bit 63 marks a directory below `by-time`. As it
//! follows `seq` and not `data_version`, a version that was rewound and recorded again is a new file.

use common::{DataVersion, Seq};

use crate::tree::calendar::Period;

const ROOT: u64 = 1;
const README: u64 = 2;
const LATEST: u64 = 3;
const VERSIONS: u64 = 4;
const BY_TIME: u64 = 5;
const PERIOD_BIT: u64 = 1 << 63;
const PART_BITS: u32 = 3;

/// The highest seq that fits into an inode, beside the bits that [`kernel_inode`](crate::tree::kernel_inode) adds.
///
/// At a thousand records a second
/// it lasts for 278 years; a higher one in a backup is not plausible, and such versions do not appear in the mount.
pub const SEQ_MAX: u64 = (1 << 43) - 1;

/// A directory, file or link of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    /// The mount point.
    Root,
    /// `/README`.
    Readme,
    /// `/latest`.
    Latest,
    /// `/versions`.
    Versions,
    /// `/by-time` and the directories below it.
    ByTime(Period),
    /// A node of one version, which is identified by the seq of its last record.
    OfVersion(Seq, Part),
}

/// The nodes that each version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// `/versions/N`.
    Directory,
    /// `/versions/N/lightningd.sqlite3`.
    Database,
    /// `/versions/N/changes.sql`.
    Changes,
    /// `/versions/N/info.json`.
    Info,
    /// The link below `/by-time`.
    TimeLink,
}

impl Part {
    /// The files of a version, in the order in which its directory lists them.
    pub const FILES: [Self; 3] = [Self::Database, Self::Changes, Self::Info];

    /// The name in the directory of the version; `None` for nodes that are not in there.
    pub const fn file_name(self) -> Option<&'static str> {
        match self {
            Self::Database => Some("lightningd.sqlite3"),
            Self::Changes => Some("changes.sql"),
            Self::Info => Some("info.json"),
            Self::Directory | Self::TimeLink => None,
        }
    }

    /// The file with this name in the directory of a version.
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::FILES.into_iter().find(|part| part.file_name() == Some(name))
    }
}

/// The type of a file, as in `stat` and `readdir`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

impl Node {
    /// The names in the root, in the order in which it lists them. `latest` is there once there is a version.
    pub const IN_ROOT: [(&'static str, Self); 4] = [
        ("README", Self::Readme),
        ("latest", Self::Latest),
        ("versions", Self::Versions),
        ("by-time", Self::ByTime(Period::Ever)),
    ];

    /// The inode. Two nodes never share one, as long as no seq is above [`SEQ_MAX`].
    pub fn inode(self) -> u64 {
        match self {
            Self::Root => ROOT,
            Self::Readme => README,
            Self::Latest => LATEST,
            Self::Versions => VERSIONS,
            Self::ByTime(Period::Ever) => BY_TIME,
            Self::ByTime(period) => PERIOD_BIT | u64::from(period.to_bits()),
            Self::OfVersion(seq, part) => {
                let part = match part {
                    Part::Directory => 0,
                    Part::Database => 1,
                    Part::Changes => 2,
                    Part::Info => 3,
                    Part::TimeLink => 4,
                };
                seq.get() << PART_BITS | part
            }
        }
    }

    /// The node of an inode; `None` if no node has it.
    pub fn from_inode(inode: u64) -> Option<Self> {
        if inode & PERIOD_BIT != 0 {
            let bits = u32::try_from(inode & !PERIOD_BIT).ok()?;
            return Period::from_bits(bits).filter(|period| *period != Period::Ever).map(Self::ByTime);
        }
        match inode {
            ROOT => Some(Self::Root),
            README => Some(Self::Readme),
            LATEST => Some(Self::Latest),
            VERSIONS => Some(Self::Versions),
            BY_TIME => Some(Self::ByTime(Period::Ever)),
            _ => {
                let seq = Seq::new(inode >> PART_BITS)?;
                let part = match inode & ((1 << PART_BITS) - 1) {
                    0 => Part::Directory,
                    1 => Part::Database,
                    2 => Part::Changes,
                    3 => Part::Info,
                    4 => Part::TimeLink,
                    _ => return None,
                };
                Some(Self::OfVersion(seq, part))
            }
        }
    }

    /// Whether it is a directory to which names are added.
    pub const fn grows(self) -> bool {
        matches!(self, Self::Root | Self::Versions | Self::ByTime(_))
    }

    /// Directory, file or link.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Root | Self::Versions | Self::ByTime(_) | Self::OfVersion(_, Part::Directory) => Kind::Directory,
            Self::Readme | Self::OfVersion(_, Part::Database | Part::Changes | Part::Info) => Kind::File,
            Self::Latest | Self::OfVersion(_, Part::TimeLink) => Kind::Link,
        }
    }
}

/// The target of `/latest`.
pub fn latest_target(version: DataVersion) -> String {
    format!("versions/{version}")
}

/// The target of a link below `/by-time`: up out of hour, day, month, year and `by-time`.
pub fn time_link_target(version: DataVersion) -> String {
    format!("../../../../../versions/{version}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use common::Timestamp;

    use super::*;

    fn every_kind_of_node() -> Vec<Node> {
        let mut nodes = vec![Node::Root, Node::Readme, Node::Latest, Node::Versions];
        for micros in [0, 1_795_356_307_123_456, 253_000_000_000_000_000] {
            let moment = Timestamp::from_micros(micros).unwrap();
            let periods = std::iter::successors(Some(Period::Ever), |period| period.child_at(moment));
            nodes.extend(periods.map(Node::ByTime));
        }
        for seq in [1, 2, 3, 1_000_000, SEQ_MAX] {
            let seq = Seq::new(seq).unwrap();
            for part in [Part::Directory, Part::Database, Part::Changes, Part::Info, Part::TimeLink] {
                nodes.push(Node::OfVersion(seq, part));
            }
        }
        let known: HashSet<Node> = nodes.drain(..).collect();
        known.into_iter().collect()
    }

    #[test]
    fn every_inode_stands_for_its_node_and_no_other() {
        let nodes = every_kind_of_node();
        let inodes: HashSet<u64> = nodes.iter().map(|node| node.inode()).collect();
        assert_eq!(inodes.len(), nodes.len());
        for node in nodes {
            assert_eq!(Node::from_inode(node.inode()), Some(node), "{:#x}", node.inode());
        }
    }

    #[test]
    fn unknown_inodes_have_no_node() {
        for inode in [0, 6, 7, 8 | 5, 8 | 7, PERIOD_BIT, PERIOD_BIT | 1, PERIOD_BIT | 1 << 40, u64::MAX] {
            assert_eq!(Node::from_inode(inode), None, "{inode:#x}");
        }
    }

    #[test]
    fn a_version_recorded_again_is_another_file() {
        let first = Node::OfVersion(Seq::FIRST, Part::Database);
        let again = Node::OfVersion(Seq::FIRST.next(), Part::Database);
        assert_ne!(first.inode(), again.inode());
    }

    #[test]
    fn files_are_found_by_their_names() {
        for part in Part::FILES {
            assert_eq!(Part::from_file_name(part.file_name().unwrap()), Some(part));
        }
        assert_eq!(Part::from_file_name("lightningd.sqlite3-journal"), None);
    }
}

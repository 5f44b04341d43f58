//! Lookup of names: the node that a name in a directory means, and how long the kernel may cache that.

use std::ffi::OsStr;

use crate::tree::attr::{Entry, Lasts};
use crate::tree::calendar;
use crate::tree::calendar::Period;
use crate::tree::fs::{Cost, Fs};
use crate::tree::fs_error::FsError;
use crate::tree::node::{Kind, Node, Part};

/// The number of newest versions that may still change: the newest can be rewound or get a rider, and after that the one
/// before it, too.
const UNSETTLED_VERSIONS: u64 = 2;

impl Fs {
    /// The entry `name` in the directory `parent`.
    ///
    /// # Errors
    /// [`FsError::NoEntry`] when there is no such entry, [`FsError::NotADirectory`] when `parent` is none.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry, FsError> {
        self.touch();
        let node = self.child(parent, name)?;
        Ok(Entry { attr: self.attr(node)?, name_lasts: self.name_lasts(node) })
    }

    /// The cost of a [`lookup`](Self::lookup).
    pub fn lookup_cost(&self, parent: u64, name: &OsStr) -> Cost {
        self.child(parent, name).map_or(Cost::Small, |node| self.attr_cost(node))
    }

    /// The entry of this inode: what a lookup of its name returns.
    ///
    /// # Errors
    /// As [`getattr`](Self::getattr).
    pub fn entry(&self, inode: u64) -> Result<Entry, FsError> {
        let node = Node::from_inode(inode).ok_or(FsError::NoEntry)?;
        Ok(Entry { attr: self.attr(node)?, name_lasts: self.name_lasts(node) })
    }

    /// The cost of listing a directory with the attributes of all its entries.
    pub fn entries_cost(&self, inode: u64) -> Cost {
        match Node::from_inode(inode) {
            Some(Node::OfVersion(seq, Part::Directory)) => self.attr_cost(Node::OfVersion(seq, Part::Database)),
            _ => Cost::Small,
        }
    }

    fn child(&self, parent: u64, name: &OsStr) -> Result<Node, FsError> {
        let parent = Node::from_inode(parent).ok_or(FsError::NoEntry)?;
        if parent.kind() != Kind::Directory {
            return Err(FsError::NotADirectory);
        }
        let name = name.to_str().ok_or(FsError::NoEntry)?;
        self.child_named(parent, name)?.ok_or(FsError::NoEntry)
    }

    fn child_named(&self, parent: Node, name: &str) -> Result<Option<Node>, FsError> {
        Ok(match parent {
            Node::Root => {
                let known = Node::IN_ROOT.into_iter().find(|(known, _)| *known == name);
                let node = known.map(|(_, node)| node);
                node.filter(|node| *node != Node::Latest || self.history().newest().is_some())
            }
            Node::Versions => {
                let version = name.parse().map_or(Ok(None), |version| self.version_numbered(version))?;
                version.map(|version| Node::OfVersion(version.seq, Part::Directory))
            }
            Node::ByTime(hour @ Period::Hour(..)) => {
                let version = calendar::version_in_link_name(name);
                let version = version.map_or(Ok(None), |version| self.version_numbered(version))?;
                let version = version.filter(|version| {
                    let here = hour.span().contains(&version.recorded_at.as_micros());
                    here && calendar::link_name(version.recorded_at, version.data_version) == name
                });
                version.map(|version| Node::OfVersion(version.seq, Part::TimeLink))
            }
            Node::ByTime(period) => match period.child_named(name) {
                Some(child) => {
                    let there = self.history().has_versions_between(&child.span());
                    there.map_err(|error| self.history_error(error))?.then_some(Node::ByTime(child))
                }
                None => None,
            },
            Node::OfVersion(seq, Part::Directory) => {
                self.version(seq)?;
                Part::from_file_name(name).map(|part| Node::OfVersion(seq, part))
            }
            Node::Readme | Node::Latest | Node::OfVersion(..) => None,
        })
    }

    fn name_lasts(&self, node: Node) -> Lasts {
        match node {
            Node::Readme | Node::Versions | Node::ByTime(Period::Ever) => Lasts::Forever,
            // The versions of an hour may all be rewound, and then the hour is gone.
            Node::Root | Node::Latest | Node::ByTime(_) => Lasts::Moment,
            Node::OfVersion(_, Part::Database | Part::Changes | Part::Info) => Lasts::Forever,
            Node::OfVersion(seq, Part::Directory | Part::TimeLink) => {
                let newer = self.history().newer_versions(seq);
                if newer >= UNSETTLED_VERSIONS { Lasts::Forever } else { Lasts::Moment }
            }
        }
    }
}

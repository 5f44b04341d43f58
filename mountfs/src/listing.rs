//! What the directories list, in which order, and where a listing that was interrupted goes on.
//!
//! A cookie is the place behind an entry and stays the same while the directory grows: the seq of a version, the number
//! of a month, never "the hundredth entry".

use std::ops::ControlFlow;

use common::Seq;

use crate::calendar;
use crate::fs::Fs;
use crate::fs_error::FsError;
use crate::tree::{Kind, Node, Part, SEQ_MAX};

/// Cookies behind `.` and `..`; those of the other entries are higher.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// The name.
    pub name: &'a str,
    /// The inode it stands for.
    pub inode: u64,
    /// Directory, file or link.
    pub kind: Kind,
    /// Given back to go on behind this entry.
    pub cookie: u64,
}

impl Fs {
    /// Lists a directory from behind `cookie` (0: from the beginning) until `emit` breaks.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], or [`FsError::NoEntry`] for an inode that is not in use.
    pub fn list(
        &self,
        inode: u64,
        cookie: u64,
        emit: &mut dyn FnMut(Name<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let node = Node::from_inode(inode).ok_or(FsError::NoEntry)?;
        if node.kind() != Kind::Directory {
            return Err(FsError::NotADirectory);
        }
        let mut send =
            |name: &str, node: Node, cookie: u64| emit(Name { name, inode: node.inode(), kind: node.kind(), cookie });
        // Breaking off is the ordinary end of a request: the buffer is full.
        let _: ControlFlow<()> = self.list_node(node, cookie, &mut send);
        Ok(())
    }

    fn list_node(
        &self,
        directory: Node,
        cookie: u64,
        send: &mut dyn FnMut(&str, Node, u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if cookie < DOT {
            send(".", directory, DOT)?;
        }
        if cookie < DOT_DOT {
            send("..", parent_of(directory), DOT_DOT)?;
        }
        // Counted from the first entry behind `..`.
        let place = cookie.max(DOT_DOT) - DOT_DOT;
        match directory {
            Node::Root => {
                let has_versions = self.history().newest().is_some();
                for (own, (name, node)) in (1..).zip(Node::IN_ROOT) {
                    if own > place && (node != Node::Latest || has_versions) {
                        send(name, node, DOT_DOT + own)?;
                    }
                }
            }
            Node::Versions => {
                let history = self.history();
                for version in history.versions_after(Seq::new(place)) {
                    let seq = version.seq;
                    if seq.get() > SEQ_MAX {
                        break;
                    }
                    let name = version.data_version.to_string();
                    send(&name, Node::OfVersion(seq, Part::Directory), DOT_DOT + seq.get())?;
                }
            }
            Node::ByTime(hour @ calendar::Period::Hour(..)) => {
                let history = self.history();
                let by_time = self.by_time(&history);
                for (own, seq) in by_time.links_after(hour, cookie) {
                    let Some(version) = history.version_by_seq(seq) else { continue };
                    let name = calendar::link_name(version.recorded_at, version.data_version);
                    send(&name, Node::OfVersion(seq, Part::TimeLink), own.get())?;
                }
            }
            Node::ByTime(period) => {
                let history = self.history();
                let by_time = self.by_time(&history);
                for child in by_time.children_from(period, place) {
                    // One more than the number, as the first hour has number 0.
                    let own = u64::from(child.number()) + 1;
                    send(&child.name(), Node::ByTime(child), DOT_DOT + own)?;
                }
            }
            Node::OfVersion(seq, Part::Directory) => {
                for (own, part) in (1..).zip(Part::FILES) {
                    if let Some(name) = part.file_name().filter(|_| own > place) {
                        send(name, Node::OfVersion(seq, part), DOT_DOT + own)?;
                    }
                }
            }
            Node::Readme | Node::Latest | Node::OfVersion(..) => {}
        }
        ControlFlow::Continue(())
    }
}

fn parent_of(node: Node) -> Node {
    match node {
        Node::Root | Node::Readme | Node::Latest | Node::Versions => Node::Root,
        Node::ByTime(period) => period.parent().map_or(Node::Root, Node::ByTime),
        Node::OfVersion(_, Part::Directory | Part::TimeLink) => Node::Versions,
        Node::OfVersion(seq, Part::Database | Part::Changes | Part::Info) => Node::OfVersion(seq, Part::Directory),
    }
}

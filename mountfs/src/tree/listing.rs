//! The listing of directories: their order, and where an interrupted listing continues.
//!
//! A cookie is the position after an entry. It is stable while the directory grows: the seq of a version, the number of a
//! month, never "the hundredth entry".

use std::fmt::{self, Write as _};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use common::{History, ReadError, Seq};

use crate::tree::by_time;
use crate::tree::calendar;
use crate::tree::fs::Fs;
use crate::tree::fs_error::FsError;
use crate::tree::node::{Kind, Node, Part, SEQ_MAX};

/// The cookie after `.`.
const DOT: u64 = 1;

/// The cookie after `..`; those of the other entries are higher.
const DOT_DOT: u64 = 2;

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// The name.
    pub name: &'a str,
    /// The inode of the entry.
    pub inode: u64,
    /// Directory, file or link.
    pub kind: Kind,
    /// The cookie to continue after this entry.
    pub cookie: u64,
}

impl Fs {
    /// Lists a directory from the entry after `cookie` (0: from the beginning) until `emit` breaks.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], or [`FsError::NoEntry`] for an inode that is not in use. [`FsError::History`] when names
    /// are missing because they cannot be read; it comes in place of the end of the directory, after all other names.
    pub fn list(
        &self,
        inode: u64,
        cookie: u64,
        emit: &mut dyn FnMut(Name<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        self.touch();
        let node = Node::from_inode(inode).ok_or(FsError::NoEntry)?;
        if node.kind() != Kind::Directory {
            return Err(FsError::NotADirectory);
        }
        let mut emitted = false;
        let mut send = |name: &str, node: Node, cookie: u64| {
            emitted = true;
            emit(Name { name, inode: node.inode(), kind: node.kind(), cookie })
        };
        match self.list_node(node, cookie, &mut send) {
            ControlFlow::Continue(Err(error)) if !emitted => Err(error),
            // Breaking off is the ordinary end of a request: the buffer is full.
            ControlFlow::Continue(_) | ControlFlow::Break(()) => Ok(()),
        }
    }

    fn list_node(&self, directory: Node, cookie: u64, send: &mut Send<'_>) -> Listed {
        if cookie < DOT {
            send(".", directory, DOT)?;
        }
        if cookie < DOT_DOT {
            send("..", parent_of(directory), DOT_DOT)?;
        }
        // Counted from the first entry behind `..`.
        let position = cookie.max(DOT_DOT) - DOT_DOT;
        match directory {
            Node::Root => {
                let has_versions = self.history().newest().is_some();
                for (own, (name, node)) in (1..).zip(Node::IN_ROOT) {
                    if own > position && (node != Node::Latest || has_versions) {
                        send(name, node, DOT_DOT + own)?;
                    }
                }
            }
            Node::Versions => return self.list_versions(position, send),
            Node::ByTime(hour @ calendar::Period::Hour(..)) => return self.list_hour(hour, cookie, send),
            Node::ByTime(period) => {
                let history = self.history();
                for child in by_time::children_from(&history, period, position) {
                    let child = match child {
                        Ok(child) => child,
                        Err(error) => return ControlFlow::Continue(Err(self.history_error(error))),
                    };
                    // One more than the number, as the first hour has number 0.
                    let own = u64::from(child.number()) + 1;
                    send(&child.name(), Node::ByTime(child), DOT_DOT + own)?;
                }
            }
            Node::OfVersion(seq, Part::Directory) => {
                for (own, part) in (1..).zip(Part::FILES) {
                    if let Some(name) = part.file_name().filter(|_| own > position) {
                        send(name, Node::OfVersion(seq, part), DOT_DOT + own)?;
                    }
                }
            }
            Node::Readme | Node::Latest | Node::OfVersion(..) => {}
        }
        ControlFlow::Continue(Ok(()))
    }

    /// The versions with a seq above `position`.
    fn list_versions(&self, position: u64, send: &mut Send<'_>) -> Listed {
        let history = self.history();
        let mut name = String::new();
        let mut newest_sent = None;
        let mut flow = ControlFlow::Continue(());
        let read = history.for_versions_after(Seq::new(position), &mut |version| {
            let seq = version.seq;
            if seq.get() > SEQ_MAX {
                return ControlFlow::Break(());
            }
            name.clear();
            // Writing to a `String` cannot fail.
            let _: fmt::Result = write!(name, "{}", version.data_version);
            newest_sent = Some(seq);
            flow = send(&name, Node::OfVersion(seq, Part::Directory), DOT_DOT + seq.get());
            flow
        });
        let result = match (read, newest_sent) {
            (Err(error), Some(upto)) => {
                self.unlisted().remember(Seq::new(position), upto);
                Err(error)
            }
            (Ok(()), None) => self.unlisted().check(&history),
            (read, _) => read,
        };
        let result = result.map_err(|error| self.history_error(error));
        flow?;
        ControlFlow::Continue(result)
    }

    /// The links of an hour behind that with this cookie.
    fn list_hour(&self, hour: calendar::Period, cookie: u64, send: &mut Send<'_>) -> Listed {
        let history = self.history();
        let (versions, read) = self.last_hour().read(&history, hour);
        let mut result = read.map_err(|error| self.history_error(error));
        for (own, seq) in versions.links_after(cookie) {
            match history.version_by_seq(seq) {
                Ok(Some(version)) => {
                    let name = calendar::link_name(version.recorded_at, version.data_version);
                    send(&name, Node::OfVersion(seq, Part::TimeLink), own.get())?;
                }
                Ok(None) => {}
                Err(error) => result = Err(self.history_error(error)),
            }
        }
        ControlFlow::Continue(result)
    }
}

/// Receives a name, its node and the cookie after it; breaks when the buffer is full.
type Send<'a> = dyn FnMut(&str, Node, u64) -> ControlFlow<()> + 'a;

/// The end of a listing: the buffer is full, or the last name was listed, with the error if some may be missing.
type Listed = ControlFlow<(), Result<(), FsError>>;

/// The place where names are missing from the listing of `versions`. A listing takes many requests, and the last one, which
/// reports the error, does not read that place again.
#[derive(Debug, Default)]
pub struct Unlisted(Mutex<Option<(Option<Seq>, Seq)>>);

impl Unlisted {
    /// Notes that versions between these two could not be read.
    fn remember(&self, after: Option<Seq>, before: Seq) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((after, before));
    }

    /// Reads that place again; an error if it still cannot be read.
    fn check(&self, history: &History) -> Result<(), ReadError> {
        let mut unlisted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((after, before)) = *unlisted {
            history.for_versions_after(after, &mut |version| {
                if version.seq < before { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        *unlisted = None;
        Ok(())
    }

    /// Clears the note: the history is another one now.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

//! [`FsError`]: why a request to the tree is refused.

use std::sync::Arc;

use common::{DataVersion, ReadError, ReplayError, Seq};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Nothing has this name or inode: it never did, was lost in a gap or rewound.
    #[error("there is no such file")]
    NoEntry,
    /// The inode is of a backup, or of a copy, that is not there any more.
    #[error("the backup was replaced by another one, and this is of the earlier one; look it up anew")]
    Stale,
    /// A directory was needed.
    #[error("this is not a directory")]
    NotADirectory,
    /// A file was needed.
    #[error("this is a directory")]
    IsADirectory,
    /// A link was needed.
    #[error("this is not a link")]
    NotALink,
    /// Everything that would change something.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The handle belongs to no open file.
    #[error("this file is not open")]
    NotOpen,
    /// Which version is the newest cannot be known.
    #[error("the end of the backup cannot be read, so its newest version is not known: {problem}")]
    NewestUnknown {
        /// What is wrong with it.
        problem: String,
    },
    /// What the backup says about a version or a stretch of time cannot be read.
    #[error("a part of the history cannot be read")]
    History(#[source] Arc<ReadError>),
    /// The version cannot be rebuilt.
    #[error("version {version} (seq {seq}) cannot be read")]
    View {
        /// The version.
        version: DataVersion,
        /// Its last record.
        seq: Seq,
        /// Why.
        #[source]
        source: Arc<ReplayError>,
    },
    /// The statements of the version cannot be read.
    #[error("the changes of version {version} (seq {seq}) cannot be read")]
    Statements {
        /// The version.
        version: DataVersion,
        /// Its last record.
        seq: Seq,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// A page of an open database cannot be read.
    #[error("inode {inode} cannot be read at byte {offset}")]
    Page {
        /// The open file.
        inode: u64,
        /// Where in it.
        offset: u64,
        /// Why.
        #[source]
        source: ReadError,
    },
}

impl FsError {
    /// Whether it is about something that is not there any more, because something else is in its place.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Stale => true,
            Self::History(error) => error.is_replaced(),
            Self::Statements { source, .. } | Self::Page { source, .. } => source.is_replaced(),
            Self::View { source, .. } => matches!(&**source, ReplayError::Pages(error) if error.is_replaced()),
            _ => false,
        }
    }
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

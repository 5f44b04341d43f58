//! [`FsError`]: why a request to the tree is refused.

use std::sync::Arc;

use common::{DataVersion, ReadError, ReplayError, Seq};

/// The reason why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No node has this name or inode: it never existed, or its version was lost in a gap or rewound.
    #[error("there is no such file")]
    NoEntry,
    /// The inode belongs to a backup, or a copy of it, that was replaced.
    #[error("the backup was replaced by another one, and this file is of the earlier one; open it again by its path")]
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
    /// The request would change something.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The handle belongs to no open file.
    #[error("this file is not open")]
    NotOpen,
    /// The newest version is not known.
    #[error("the end of the backup cannot be read, so its newest version is not known: {problem}")]
    NewestUnknown {
        /// The reason.
        problem: String,
    },
    /// A part of the history, about a version or a period of time, cannot be read.
    #[error("a part of the history cannot be read")]
    History(#[source] Arc<ReadError>),
    /// The version cannot be rebuilt.
    #[error("version {version} (seq {seq}) cannot be read")]
    View {
        /// The version.
        version: DataVersion,
        /// The seq of its last record.
        seq: Seq,
        /// The cause.
        #[source]
        source: Arc<ReplayError>,
    },
    /// The statements of the version cannot be read.
    #[error("the changes of version {version} (seq {seq}) cannot be read")]
    Statements {
        /// The version.
        version: DataVersion,
        /// The seq of its last record.
        seq: Seq,
        /// The cause.
        #[source]
        source: ReadError,
    },
    /// A page of an open database cannot be read.
    #[error("inode {inode} cannot be read at byte {offset}")]
    Page {
        /// The open file.
        inode: u64,
        /// The offset in the file.
        offset: u64,
        /// The cause.
        #[source]
        source: ReadError,
    },
}

impl FsError {
    /// Whether the error is about a backup, or a file of it, that was replaced.
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

//! [`CopyError`]: why a copy cannot be read or added to.

use std::io;

use crate::objects::Run;
use crate::seal::error::SealError;
use crate::store::StoreError;

/// Why a copy cannot be read or added to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A call to the store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object does not open with the keys at hand, or was changed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Something that is needed to reach the store is missing or wrong.
    #[error("{url}: {reason}")]
    Unusable {
        /// The URL of the store.
        url: String,
        /// What is missing or wrong, and what to do.
        reason: String,
    },
    /// No key could be made.
    #[error("cannot make a key for the copy: {reason}")]
    NoKey {
        /// Why not.
        reason: String,
    },
    /// There is no copy.
    #[error(
        "there is no copy of a backup at {url}; check the URL. `backupfs offsite add` begins one, and `backupfs offsite list` shows \
         those of a node"
    )]
    NoCopy {
        /// The URL of the store.
        url: String,
    },
    /// Something else is there.
    #[error(
        "{url} has no object `id`, but other objects: it is not a copy of a backup. Give an empty prefix or directory"
    )]
    NotACopy {
        /// The URL of the store.
        url: String,
    },
    /// It is the copy of another backup.
    #[error(
        "{url} is the copy of another backup ({found}, not {expected}); give each backup a prefix of its own: \
         `backupfs offsite add` with another URL"
    )]
    OtherBackup {
        /// The URL of the store.
        url: String,
        /// UUID of the backup that the copy is of.
        found: String,
        /// UUID of the backup at hand.
        expected: String,
    },
    /// An object is damaged.
    #[error("the object {name} of the copy is damaged: {reason}. `backupfs verify URL` lists all damage")]
    Damaged {
        /// Name of the object.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// An object is of a later release.
    #[error("the object {name} of the copy has format {version}; a newer backupfs wrote it: install that")]
    NewerFormat {
        /// Name of the object.
        name: String,
        /// Its format.
        version: u16,
    },
    /// Another process ships to the copy.
    #[error(
        "another process ships to this copy (run {other}); two nodes must not have the same copy. Stop the other one, or give \
         this node another URL; then start the node, or `backupfs ship`, again"
    )]
    AnotherWriter {
        /// The run that it claimed.
        other: Run,
    },
    /// The copy has records that the backup does not have.
    #[error(
        "the copy goes on to record {copy}, and the backup only to {backup}: the backup is an older state, or another node \
         shipped to this copy. `backupfs versions` of both shows which is newer. Give this backup another URL, and keep the copy"
    )]
    Ahead {
        /// Seq of the last record of the copy's segments.
        copy: u64,
        /// Seq of the last record of the backup.
        backup: u64,
    },
    /// The copy has another file under the same name.
    #[error(
        "the object {name} of the copy is another file than that of the backup: the two have different histories. Give this \
         backup another URL, and keep the copy"
    )]
    Fork {
        /// Name of the object.
        name: String,
    },
    /// A backup that cannot be read.
    #[error(transparent)]
    Backup(#[from] common::ReadError),
    /// A file of the backup that became shorter.
    #[error("{name} of the backup became shorter while it was read; it is tried again")]
    Changing {
        /// Name of the file.
        name: String,
    },
    /// Another process of this node ships to the copy.
    #[error("another process on this machine ships to this copy already: the recorder does, while the node runs")]
    InUse,
    /// A local file.
    #[error("cannot {op} {path}")]
    Local {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: String,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Text of an object that is not what it should be.
    #[error("the object {name} of the copy cannot be understood ({reason}); `backupfs verify URL` lists all damage")]
    NotUnderstood {
        /// Name of the object.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

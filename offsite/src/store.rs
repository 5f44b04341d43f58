//! [`Store`]: where the objects of copies are.
//!
//! [`StoreUrl`] says which store, [`open`] opens it: a [`FileStore`], an [`SftpStore`] or an [`S3Store`]. They behave the
//! same; what cannot be the same is asked of a store once, by [`probe_conditional_put`].

#[cfg(test)]
mod conformance_tests;
mod credentials;
mod file_store;
mod names;
mod open;
mod probe;
#[cfg(test)]
mod probe_tests;
mod proxy;
mod s3;
mod sftp;
mod url;
#[cfg(test)]
mod url_tests;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

pub use credentials::{Credentials, CredentialsError};
pub use file_store::FileStore;
pub use open::{OpenError, open};
pub use probe::{ConditionalPut, probe_conditional_put};
pub use proxy::{Proxy, ProxyError};
pub use s3::S3Store;
pub use sftp::SftpStore;
pub use url::{BucketUrl, SftpUrl, StoreUrl, Style, Transport, UrlError};

/// The maximum length of an object: one upload, without parts.
pub const OBJECT_BYTES_MAX: usize = 16 << 20;

/// The maximum number of objects that a store is believed to have: some ten years of uploads each ten seconds at most.
pub const LISTED_MAX: usize = 4_000_000;

/// How long the calls of a remote store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until there is a connection.
    pub connect: Duration,
    /// Until the store takes or gives the next bytes.
    pub stall: Duration,
    /// All of a call.
    pub call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // 16 MiB within the time of a call need 28 kB/s.
        Self { connect: Duration::from_secs(15), stall: Duration::from_secs(45), call: Duration::from_secs(600) }
    }
}

/// Name and length of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Name of the object below the prefix of the copy: ASCII letters, digits, `.`, `-` and `/`.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

/// What became of an upload under a name that must be new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is durable in the store.
    Stored,
    /// The store says that the name is taken. The object there may be this one, from an earlier attempt.
    Exists,
}

/// Kinds of failure, which differ in what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The object, bucket or directory does not exist.
    NotFound,
    /// The store answers, and refuses this user or these credentials.
    Refused,
    /// The store has no room.
    Full,
    /// The store cannot be reached, does not answer in time, or asks to come back later: try again.
    Unreachable,
    /// The clock of this machine differs too much from the store's.
    Clock,
    /// The store's identity is not the expected one: certificate or host key.
    Identity,
    /// An answer that the protocol does not allow.
    Protocol,
}

/// A failed call to a store.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// The kind of failure.
    pub failure: Failure,
    /// A sentence: the call, the object or store, the reason, and what to do. It holds no credentials.
    pub message: String,
}

impl StoreError {
    fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into() }
    }
}

/// A place with objects. All calls are whole: no object is ever visible in part. A call may take until its time limit, and
/// may be made from several threads at once.
pub trait Store: fmt::Debug + Send + Sync {
    /// Description for messages: the URL without credentials.
    fn url(&self) -> String;

    /// Makes the directory for a new copy, unless it is there; the one above must be there. No other call makes it, for a
    /// disk that is not mounted must not get files. A bucket must be there already.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create_base(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Names and lengths of all objects whose name begins with `prefix`, ascending by name (byte order). What cannot be an
    /// object of a copy is left out: other characters in its name, links, and what interrupted uploads left.
    ///
    /// # Errors
    /// When the store cannot be listed. A copy without objects is an empty list; a missing bucket or directory is
    /// [`Failure::NotFound`].
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;

    /// Bytes of an object; `None` for all. Fewer than asked for only at the end of the object, and none behind it.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when there is no such object.
    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError>;

    /// Stores a new object, durably. Where the store can, it refuses a name that exists; the caller must not rely on that.
    ///
    /// # Errors
    /// When it is not known to be durable: the object may be there nevertheless.
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError>;

    /// Stores an object, durably, in place of any with this name.
    ///
    /// # Errors
    /// When it is not known to be durable: the name has the old object or the new one.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Removes an object; a missing one is no error. Only pruning does this.
    ///
    /// # Errors
    /// When the store refuses.
    fn remove(&self, name: &str) -> Result<(), StoreError>;

    /// Removes what interrupted uploads have left in directories, if it is older than `age`, so that no upload still writes
    /// it; says how many files that were. A bucket has none.
    ///
    /// # Errors
    /// When the store cannot be listed, or refuses.
    fn remove_leftovers(&self, age: Duration) -> Result<usize, StoreError> {
        let _ = age;
        Ok(0)
    }

    /// Whether the store has refused an upload for its condition, so that [`Self::put_new`] goes without one since.
    fn refuses_conditions(&self) -> bool {
        false
    }
}

//! [`Store`]: where the objects of copies are.

use std::fmt;
use std::ops::Range;

/// The maximum length of an object: one upload, without parts.
pub const OBJECT_BYTES_MAX: usize = 16 << 20;

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
    /// A sentence: the call, the object or store, the reason, and what to do.
    pub message: String,
}

/// A place with objects. All calls are whole: no object is ever visible in part. A call may take until its time limit, and
/// may be made from several threads at once.
pub trait Store: fmt::Debug + Send + Sync {
    /// Description for messages: the URL without credentials.
    fn url(&self) -> String;

    /// Names and lengths of all objects whose name begins with `prefix`, ascending by name (byte order).
    ///
    /// # Errors
    /// When the store cannot be listed. A copy without objects is an empty list; a missing bucket or directory is
    /// [`Failure::NotFound`].
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;

    /// Bytes of an object; `None` for all. Fewer than asked for only at the end of the object.
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
}

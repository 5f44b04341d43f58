//! [`SealError`]: why an object cannot be opened.

use crate::crypto::NoRandomness;
use crate::keys::master_key::KeyId;

/// Why an object cannot be sealed or opened. None of them is repaired by reading with another option: what was sent is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The first bytes are others.
    #[error("{name} is not an object of a copy: it begins with other bytes; see what else writes to this place")]
    NotAnObject {
        /// Name of the object.
        name: String,
    },
    /// A later version of the format.
    #[error("{name} has version {version} of the format, and this backupfs reads version 1: use a newer backupfs")]
    NewerVersion {
        /// Name of the object.
        name: String,
        /// The version.
        version: u16,
    },
    /// The key is not among those that were unlocked.
    #[error(
        "{name} is encrypted with the key {key}, which was not unlocked: unlock all keys of this copy, or see whether the object belongs to another one"
    )]
    OtherKey {
        /// Name of the object.
        name: String,
        /// The key that it needs.
        key: KeyId,
    },
    /// An object that is not encrypted, in a copy that is.
    #[error(
        "{name} is not encrypted, but this copy is: it does not come from its node; see who can write to this place"
    )]
    NotEncrypted {
        /// Name of the object.
        name: String,
    },
    /// An encrypted object, in a copy that is not.
    #[error(
        "{name} is encrypted with the key {key}, but this copy is not encrypted: see whether the object belongs to another one"
    )]
    Encrypted {
        /// Name of the object.
        name: String,
        /// The key that it needs.
        key: KeyId,
    },
    /// The length is not what the header says.
    #[error(
        "{name} has {len} bytes, which does not fit its header: it was cut off or added to; read it again, or take it from another copy"
    )]
    Length {
        /// Name of the object.
        name: String,
        /// Its length, in bytes.
        len: u64,
    },
    /// A tag does not fit.
    #[error(
        "{name} was changed, cut off, damaged or exchanged for another object: what is at byte {offset} does not authenticate; read it again, or take it from another copy"
    )]
    NotAuthentic {
        /// Name of the object.
        name: String,
        /// Where the header or chunk is in the object, in bytes.
        offset: u64,
    },
    /// There are no random bytes for a salt.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

//! [`MasterKey`] and [`KeyId`]: the random key that the objects of a copy are encrypted with, and its name.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::crypto::{KEY_LEN, Key, NoRandomness, random};
use crate::hex;

/// What a key is hashed with to make its id.
const ID_DOMAIN: &[u8] = b"backupfs offsite v1 key id";

/// The name of a master key: the first 8 bytes of a hash of it. It says nothing else about the key. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; Self::LEN]);

impl KeyId {
    /// The length in bytes.
    pub const LEN: usize = 8;

    /// The id with these bytes.
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub const fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A text is no key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id has 16 lower-case hexadecimal digits")]
pub struct NoKeyId;

impl FromStr for KeyId {
    type Err = NoKeyId;

    fn from_str(text: &str) -> Result<Self, NoKeyId> {
        hex::decode(text).map(Self).ok_or(NoKeyId)
    }
}

/// The key that the objects of a copy are encrypted with, 32 random bytes. Wiped when it is dropped.
#[derive(Clone)]
pub struct MasterKey {
    key: Key,
    id: KeyId,
}

impl MasterKey {
    /// A new key, from the operating system's random bytes.
    ///
    /// # Errors
    /// When there are none.
    pub fn generate() -> Result<Self, NoRandomness> {
        random().map(Self::from_key)
    }

    /// The key with these bytes.
    pub fn from_key(key: Key) -> Self {
        let hash: [u8; 32] = Sha256::new().chain_update(ID_DOMAIN).chain_update(key.as_slice()).finalize().into();
        let id = KeyId::new(std::array::from_fn(|at| hash[at]));
        Self { key, id }
    }

    /// The name of the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The bytes of the key.
    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.key
    }
}

impl fmt::Debug for MasterKey {
    /// The id only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_its_id_only() {
        let key = MasterKey::from_key(Key::new([7; 32]));
        // sha256("backupfs offsite v1 key id" || 32 times 07), with another program.
        assert_eq!(format!("{key:?} {:?} {}", key.id(), key.id()), "MasterKey(ID) KeyId(ID) ID".replace("ID", ID_OF_7));
        assert_eq!(ID_OF_7.parse(), Ok(key.id()));
        assert_eq!("0".parse::<KeyId>(), Err(NoKeyId));
        assert_ne!(MasterKey::generate().unwrap().id(), MasterKey::generate().unwrap().id());
    }

    const ID_OF_7: &str = "1f96bd6599809786";
}

//! [`Protection`]: how header and chunks of one object are encrypted, or checked where nothing is encrypted.

use super::header::{CLEAR_LEN, HEADER_LEN, SALT_LEN};
use crate::crypto::{Checker, Cipher, KEY_LEN, NotAuthentic, TAG_LEN, derive};
use crate::keys::master_key::MasterKey;

/// What the keys of an object are derived with, in front of its header and its name.
const HEADER_DOMAIN: &[u8] = b"backupfs offsite v1 header";
const CHUNKS_DOMAIN: &[u8] = b"backupfs offsite v1 chunks";

/// Stands in for the master key where nothing is encrypted, so that damage and exchanged objects are noticed all the same.
const NO_KEY: [u8; KEY_LEN] = [0; KEY_LEN];

/// Encrypts or checks messages with one key.
pub(super) enum Protection {
    Encrypted(Cipher),
    Checked(Checker),
}

impl Protection {
    /// For the length in a header that begins with these bytes.
    pub(super) fn of_header(
        key: Option<&MasterKey>,
        salt: &[u8; SALT_LEN],
        name: &str,
        clear: &[u8; CLEAR_LEN],
    ) -> Self {
        Self::derived(key, salt, &[HEADER_DOMAIN, clear, name.as_bytes()])
    }

    /// For the chunks behind a header.
    pub(super) fn of_chunks(
        key: Option<&MasterKey>,
        salt: &[u8; SALT_LEN],
        name: &str,
        header: &[u8; HEADER_LEN],
    ) -> Self {
        Self::derived(key, salt, &[CHUNKS_DOMAIN, header, name.as_bytes()])
    }

    fn derived(key: Option<&MasterKey>, salt: &[u8; SALT_LEN], info: &[&[u8]]) -> Self {
        match key {
            Some(key) => Self::Encrypted(Cipher::new(&derive(key.bytes(), salt, info))),
            None => Self::Checked(Checker::new(&derive(&NO_KEY, salt, info))),
        }
    }

    /// Encrypts a message in place, if it is encrypted; its tag.
    pub(super) fn seal(&self, nonce: [u8; 12], aad: &[u8], message: &mut [u8]) -> [u8; TAG_LEN] {
        match self {
            Self::Encrypted(cipher) => cipher.seal(nonce, aad, message),
            Self::Checked(checker) => checker.tag(nonce, aad, message),
        }
    }

    /// Decrypts a message in place, which its tag follows.
    ///
    /// # Errors
    /// When the tag does not fit.
    pub(super) fn open(&self, nonce: [u8; 12], aad: &[u8], message_and_tag: &mut [u8]) -> Result<(), NotAuthentic> {
        match self {
            Self::Encrypted(cipher) => cipher.open(nonce, aad, message_and_tag),
            Self::Checked(checker) => checker.check(nonce, aad, message_and_tag),
        }
    }
}

/// Whether a chunk is the last one of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Position {
    Inner,
    Last,
}

/// The nonce of a chunk, as in the payload of age (its STREAM): an 11-byte counter, big-endian, and whether it is the last one.
pub(super) fn chunk_nonce(chunk: u64, position: Position) -> [u8; 12] {
    #[expect(clippy::big_endian_bytes, reason = "so it is in age")]
    let counter = chunk.to_be_bytes();
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&counter);
    nonce[11] = match position {
        Position::Inner => 0,
        Position::Last => 1,
    };
    nonce
}

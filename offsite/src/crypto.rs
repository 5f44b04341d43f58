//! The cryptography that seals and keys share: HKDF-SHA256, ChaCha20-Poly1305, and random bytes.
//!
//! Master keys and what wraps them pass through `hkdf` and `sha2`, which wipe what they held. `ring` gets the derived keys only.

use std::hint::black_box;

use hkdf::Hkdf;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key of 32 bytes, wiped when it is dropped.
pub type Key = Zeroizing<[u8; KEY_LEN]>;

/// The length of every key, in bytes.
pub const KEY_LEN: usize = 32;

/// The length of a tag, in bytes: of Poly1305, and of an HMAC that stands in for it.
pub const TAG_LEN: usize = 16;

/// The nonce of a key that encrypts one message only.
pub const ONLY_NONCE: [u8; 12] = [0; 12];

/// The operating system has no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes, so nothing can be encrypted; check that /dev/urandom is there")]
pub struct NoRandomness;

/// The tag does not fit: the key is another one, or a bit of the message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAuthentic;

/// Random bytes of the operating system.
///
/// # Errors
/// When it has none.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(bytes.as_mut_slice()).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// HKDF-SHA256 (RFC 5869), 32 bytes of output. `info` is the concatenation of its parts.
pub fn derive(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Key {
    let mut key = Key::default();
    // Fails for more than 255 hashes of output only; this is one.
    if Hkdf::<Sha256>::new(Some(salt), secret).expand_multi_info(info, key.as_mut_slice()).is_err() {
        unreachable!("HKDF-SHA256 gives 32 bytes");
    }
    key
}

/// ChaCha20-Poly1305 (RFC 8439) with a key. The nonce must be another one for each message.
///
/// Its key lies at one place in memory until it is wiped.
pub struct Cipher(Box<LessSafeKey>);

impl Cipher {
    /// The cipher with this key.
    pub fn new(key: &Key) -> Self {
        Self(Box::new(ring_key(key)))
    }

    /// Encrypts a message in place; its tag.
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], message: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), message);
        let tag = sealed.ok().and_then(|tag| tag.as_ref().try_into().ok());
        // Fails for 256 GiB and more.
        tag.unwrap_or_else(|| unreachable!("a message that fits into memory is encrypted"))
    }

    /// Decrypts a message in place, which its tag follows.
    ///
    /// # Errors
    /// When the tag does not fit. The bytes are then undefined.
    pub fn open(&self, nonce: [u8; 12], aad: &[u8], message_and_tag: &mut [u8]) -> Result<(), NotAuthentic> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(aad), message_and_tag).map(|_| ()).map_err(|_| NotAuthentic)
    }
}

impl Drop for Cipher {
    /// `ring` does not wipe its keys. What overwrites this one must not be optimised out.
    fn drop(&mut self) {
        *self.0 = ring_key(&Key::default());
        black_box(&self.0);
    }
}

fn ring_key(key: &Key) -> LessSafeKey {
    match UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()) {
        Ok(key) => LessSafeKey::new(key),
        Err(_) => unreachable!("a key of ChaCha20-Poly1305 has 32 bytes"),
    }
}

/// HMAC-SHA256, the first 16 bytes, where nothing is encrypted: of the nonce, the associated data and the message.
pub struct Checker(hmac::Key);

impl Checker {
    /// The checker with this key, which is no secret.
    pub fn new(key: &Key) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()))
    }

    /// The tag of a message.
    pub fn tag(&self, nonce: [u8; 12], aad: &[u8], message: &[u8]) -> [u8; TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [&nonce, aad, message] {
            context.update(part);
        }
        let mut tag = [0; TAG_LEN];
        tag.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        tag
    }

    /// Compares the tag that follows a message with its own.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn check(&self, nonce: [u8; 12], aad: &[u8], message_and_tag: &[u8]) -> Result<(), NotAuthentic> {
        let (message, tag) = message_and_tag.split_last_chunk::<TAG_LEN>().ok_or(NotAuthentic)?;
        if self.tag(nonce, aad, message) == *tag { Ok(()) } else { Err(NotAuthentic) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    /// RFC 5869, test case 1, the first 32 bytes.
    #[test]
    fn hkdf_is_that_of_the_rfc() {
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let key = derive(&[0x0b; 22], &(0..=0x0c).collect::<Vec<u8>>(), &[&info[..3], &info[3..]]);
        assert_eq!(hex::encode(&*key), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
    }

    /// RFC 8439, section 2.8.2.
    #[test]
    fn the_cipher_is_that_of_the_rfc() {
        let key = Key::new(std::array::from_fn(|at| 0x80 + u8::try_from(at).unwrap()));
        let nonce = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let mut message = plain.to_vec();
        let tag = Cipher::new(&key).seal(nonce, &aad, &mut message);
        assert_eq!(hex::encode(&tag), "1ae10b594f09e26a7e902ecbd0600691");
        message.extend(tag);
        Cipher::new(&key).open(nonce, &aad, &mut message).unwrap();
        assert_eq!(&message[..plain.len()], plain);
        assert_eq!(Cipher::new(&key).open(nonce, b"", &mut message), Err(NotAuthentic));
        assert_eq!(Cipher::new(&key).open(nonce, b"", &mut [0; 3]), Err(NotAuthentic));
    }

    /// RFC 4231, test case 2, cut to 16 bytes.
    #[test]
    fn the_checker_is_hmac() {
        // Its key is 4 bytes; HMAC fills keys with zeros.
        let mut key = Key::default();
        key[..4].copy_from_slice(b"Jefe");
        let tag = Checker::new(&key).tag(*b"what do ya w", b"ant for ", b"nothing?");
        assert_eq!(hex::encode(&tag), "5bdcc146bf60754e6a042426089575c7");
    }
}

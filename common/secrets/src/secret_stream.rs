//! One message of libsodium's `crypto_secretstream_xchacha20poly1305`, the cipher of both an encrypted `hsm_secret` and of
//! `emergency.recover`: 24 bytes of header, then the tag, the message and the authenticator, 17 bytes longer than the message.

use std::hint::black_box;

use crypto_secretstream::{Header, Key as StreamKey, PullStream};
use zeroize::Zeroizing;

use crate::derive::Key;

// The cipher within `crypto_secretstream` wipes its state only with the feature that this crate turns on.
use chacha20 as _;

/// The length of the header, in bytes: `crypto_secretstream_xchacha20poly1305_HEADERBYTES`.
pub const HEADER_LEN: usize = Header::BYTES;

/// Difference of lengths of the encrypted and the plain message, in bytes: `crypto_secretstream_xchacha20poly1305_ABYTES`.
pub const EXTRA_LEN: usize = 17;

/// The authenticator does not fit: the key is another one, or a bit of the message or its length is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be decrypted")]
pub struct NotAuthentic;

/// Decrypts the only message of a stream. It has no associated data.
///
/// # Errors
/// [`NotAuthentic`], also for fewer bytes than an empty message has.
pub fn open(bytes: &[u8], key: &Key) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
    let (header, message) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(NotAuthentic)?;
    let mut message = Zeroizing::new(message.to_vec());
    let mut stream_key = StreamKey::from(**key);
    let mut stream = PullStream::init((*header).into(), &stream_key);
    let opened = stream.pull(&mut *message, &[]);
    // These types do not wipe themselves. What overwrites them must not be optimised out.
    stream_key = StreamKey::from([0; StreamKey::BYTES]);
    stream = PullStream::init([0; HEADER_LEN].into(), &stream_key);
    black_box((&stream_key, &stream));
    opened.map(|_tag| message).map_err(|_| NotAuthentic)
}

#[cfg(test)]
mod tests {
    use crypto_secretstream::{PushStream, Tag};
    use rand_core::OsRng;

    use super::*;

    fn seal(message: &[u8], key: &Key) -> Vec<u8> {
        let (header, mut stream) = PushStream::init(OsRng, &StreamKey::from(**key));
        let mut sealed = message.to_vec();
        stream.push(&mut sealed, &[], Tag::Message).unwrap();
        [header.as_ref().as_slice(), &sealed].concat()
    }

    #[test]
    fn a_message_is_opened_with_its_key_only_and_as_it_is_only() {
        let key = Key::new([7; 32]);
        for len in [0, 1, 16, 63, 64, 65, 1000] {
            let message = vec![5; len];
            let sealed = seal(&message, &key);
            assert_eq!(sealed.len(), HEADER_LEN + EXTRA_LEN + len);
            assert_eq!(*open(&sealed, &key).unwrap(), message);
            assert_eq!(open(&sealed, &Key::new([8; 32])), Err(NotAuthentic));
            assert_eq!(open(&sealed[..sealed.len() - 1], &key), Err(NotAuthentic));
            assert_eq!(open(&[sealed.as_slice(), &[0]].concat(), &key), Err(NotAuthentic));
        }
        let sealed = seal(b"a message", &key);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&flipped, &key), Err(NotAuthentic), "bit {bit}");
        }
        for len in 0..HEADER_LEN + EXTRA_LEN {
            assert_eq!(open(&sealed[..len], &key), Err(NotAuthentic), "{len} bytes");
        }
    }
}

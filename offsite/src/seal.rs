//! The framing of every object of a copy: a header, then chunks of 16 KiB, each encrypted and authenticated for itself.
//!
//! * [`seal`](seal()) makes an object of plain bytes, [`SealedObject`] opens all of it or some chunks;
//! * [`layout`]: where which chunk is, from nothing but the length of the object;
//! * [`header`]: the first 64 bytes.
//!
//! Each upload has a random salt, and with it, its name and its header its own keys. So no key and nonce are ever used twice, and an
//! object that was changed, cut off, extended, renamed or put together from others is not opened. docs/offsite-format.md has every
//! byte.

pub mod error;
pub mod header;
pub mod layout;
mod protection;

use std::ops::Range;

use crate::crypto::{ONLY_NONCE, TAG_LEN, random};
use crate::keys::key_ring::KeyRing;
use crate::keys::master_key::MasterKey;

use self::error::SealError;
use self::header::{CLEAR_LEN, HEADER_LEN, Header, SALT_LEN};
use self::layout::{CHUNK_LEN, Layout, Padding};
use self::protection::{Position, Protection, chunk_nonce};

/// With what an object is sealed.
#[derive(Debug, Clone, Copy)]
pub enum Sealing<'a> {
    /// Encrypted with this key.
    Key(&'a MasterKey),
    /// Not encrypted. Its tags show damage, and objects that were exchanged by mistake; a hostile store can make them, too.
    None,
}

/// What is expected of an object that is opened. An object that is not encrypted is never taken for one that is.
#[derive(Debug, Clone, Copy)]
pub enum Opening<'a> {
    /// Encrypted with one of these keys.
    Keys(&'a KeyRing),
    /// Not encrypted.
    None,
}

/// Makes an object of plain bytes, under a new salt. The same bytes are another object each time.
///
/// # Errors
/// When there are no random bytes for the salt.
pub fn seal(sealing: Sealing<'_>, name: &str, plain: &[u8], padding: Padding) -> Result<Vec<u8>, SealError> {
    Ok(seal_with(sealing, name, plain, padding, *random()?))
}

fn seal_with(sealing: Sealing<'_>, name: &str, plain: &[u8], padding: Padding, salt: [u8; SALT_LEN]) -> Vec<u8> {
    let key = match sealing {
        Sealing::Key(key) => Some(key),
        Sealing::None => None,
    };
    let plain_len = plain.len() as u64;
    let header = header(key, name, plain_len, padding, salt);
    let padded_len = padding.padded_len(plain_len).and_then(|len| usize::try_from(len).ok()).unwrap_or(plain.len());

    let protection = Protection::of_chunks(key, &salt, name, &header);
    let object_len = layout::sealed_len(padded_len as u64);
    let mut object = Vec::with_capacity(usize::try_from(object_len).unwrap_or(plain.len()));
    object.extend_from_slice(&header);
    let (mut chunk, mut at) = (0, 0);
    loop {
        let end = padded_len.min(at + CHUNK_BYTES);
        let position = if end == padded_len { Position::Last } else { Position::Inner };
        let start_in_object = object.len();
        object.extend_from_slice(&plain[at.min(plain.len())..end.min(plain.len())]);
        object.resize(start_in_object + (end - at), 0);
        let tag = protection.seal(chunk_nonce(chunk, position), &[], &mut object[start_in_object..]);
        object.extend_from_slice(&tag);
        if position == Position::Last {
            return object;
        }
        (chunk, at) = (chunk + 1, end);
    }
}

/// Plain bytes in each chunk but the last, as a length in memory.
const CHUNK_BYTES: usize = 16 << 10;
const _: () = assert!(CHUNK_BYTES as u64 == CHUNK_LEN);

/// The header of an object, with the length encrypted.
fn header(
    key: Option<&MasterKey>,
    name: &str,
    plain_len: u64,
    padding: Padding,
    salt: [u8; SALT_LEN],
) -> [u8; HEADER_LEN] {
    let clear = Header { key: key.map(MasterKey::id), padding, salt }.encode();
    let mut len = plain_len.to_le_bytes();
    let tag = Protection::of_header(key, &salt, name, &clear).seal(ONLY_NONCE, &clear, &mut len);
    let mut header = [0; HEADER_LEN];
    header.iter_mut().zip(clear.iter().chain(&len).chain(&tag)).for_each(|(to, from)| *to = *from);
    header
}

/// An object whose header has been read: it opens chunks in any order.
pub struct SealedObject {
    name: String,
    layout: Layout,
    plain_len: u64,
    protection: Protection,
}

impl SealedObject {
    /// Reads the header of an object.
    ///
    /// `start` are the first bytes of the object, at least [`HEADER_LEN`] of them if it has so many. `object_len` is the length of
    /// all of it: a store that lies about it is noticed here, or when a chunk is opened.
    ///
    /// # Errors
    /// When it is no object, cannot be opened with these keys, has another length than its header says, or was changed.
    pub fn new(opening: Opening<'_>, name: &str, start: &[u8], object_len: u64) -> Result<Self, SealError> {
        let length = || SealError::Length { name: name.to_owned(), len: object_len };
        let header = start.first_chunk::<HEADER_LEN>();
        // What is no object at all is called so, however short it is.
        let header = header.ok_or_else(|| match start.starts_with(b"BKPFSOBJ") {
            true => length(),
            false => SealError::NotAnObject { name: name.to_owned() },
        })?;
        let decoded = Header::decode(name, header)?;
        let key = match (opening, decoded.key) {
            (Opening::Keys(keys), Some(key)) => {
                Some(keys.get(key).ok_or_else(|| SealError::OtherKey { name: name.to_owned(), key })?)
            }
            (Opening::None, None) => None,
            (Opening::Keys(_), None) => return Err(SealError::NotEncrypted { name: name.to_owned() }),
            (Opening::None, Some(key)) => return Err(SealError::Encrypted { name: name.to_owned(), key }),
        };
        let mut len_and_tag = [0; HEADER_LEN - CLEAR_LEN];
        len_and_tag.copy_from_slice(&header[CLEAR_LEN..]);
        let clear = decoded.encode();
        Protection::of_header(key, &decoded.salt, name, &clear)
            .open(ONLY_NONCE, &clear, &mut len_and_tag)
            .map_err(|_| SealError::NotAuthentic { name: name.to_owned(), offset: 0 })?;
        let plain_len = len_and_tag.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
        let layout = Layout::of(object_len)
            .filter(|layout| decoded.padding.padded_len(plain_len) == Some(layout.padded_len()))
            .ok_or_else(length)?;
        let protection = Protection::of_chunks(key, &decoded.salt, name, header);
        Ok(Self { name: name.to_owned(), layout, plain_len, protection })
    }

    /// Plain bytes, without padding.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// Where the chunks are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Opens chunks that follow each other. `sealed` are the bytes of the object that [`Layout::bytes_of`] names for them, all of
    /// them. What is returned begins with the first plain byte of the first chunk, and has no padding.
    ///
    /// # Errors
    /// When a chunk is missing, was changed, or is another one.
    pub fn open_chunks(&self, chunks: Range<u64>, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut plain = Vec::with_capacity(sealed.len());
        let mut rest = sealed;
        for chunk in chunks.clone() {
            let damaged = || SealError::NotAuthentic {
                name: self.name.clone(),
                offset: self.layout.bytes_of(chunk..chunk).start,
            };
            let len = usize::try_from(self.layout.sealed_chunk_len(chunk)).ok().filter(|&len| len > 0);
            let (bytes, behind) = len.and_then(|len| rest.split_at_checked(len)).ok_or_else(damaged)?;
            let position = if chunk + 1 == self.layout.chunk_count() { Position::Last } else { Position::Inner };
            let start = plain.len();
            plain.extend_from_slice(bytes);
            self.protection.open(chunk_nonce(chunk, position), &[], &mut plain[start..]).map_err(|_| damaged())?;
            plain.truncate(plain.len() - TAG_LEN);
            rest = behind;
        }
        if !rest.is_empty() {
            let offset = self.layout.bytes_of(chunks.end..chunks.end).start;
            return Err(SealError::NotAuthentic { name: self.name.clone(), offset });
        }
        let behind_padding = self.plain_len.saturating_sub(chunks.start.saturating_mul(CHUNK_LEN));
        plain.truncate(usize::try_from(behind_padding).unwrap_or(usize::MAX));
        Ok(plain)
    }
}

impl std::fmt::Debug for SealedObject {
    /// Name and length.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedObject")
            .field("name", &self.name)
            .field("plain_len", &self.plain_len)
            .finish_non_exhaustive()
    }
}

/// Opens a whole object.
///
/// # Errors
/// As [`SealedObject::new`] and [`SealedObject::open_chunks`].
pub fn open(opening: Opening<'_>, name: &str, object: &[u8]) -> Result<Vec<u8>, SealError> {
    let sealed = SealedObject::new(opening, name, object, object.len() as u64)?;
    sealed.open_chunks(0..sealed.layout.chunk_count(), object.get(HEADER_LEN..).unwrap_or_default())
}

#[cfg(test)]
mod tests;

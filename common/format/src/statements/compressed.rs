//! A table or a block compressed.

use super::{Encoded, STATEMENT_BYTES_MAX, varint};
use crate::Damage;
use crate::fields::Reader;
use crate::frames;

/// Maximum expansion of a zstd frame, as a factor: a block has at least four bytes and expands to about 128 KiB at most.
const EXPANSION_MAX: usize = 32 << 10;

impl Encoded {
    /// Compresses it: the lengths of both parts, the length of the first part's zstd frame, and the two
    /// frames, of which one of an empty part is empty.
    ///
    /// # Errors
    /// When memory is short, or the level does not exist.
    pub fn compress(&self, level: i32) -> std::io::Result<Vec<u8>> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        let mut pack = |part: &[u8]| if part.is_empty() { Ok(Vec::new()) } else { compressor.compress(part) };
        let frames = [pack(&self.head)?, pack(&self.blobs)?];
        let mut out = Vec::new();
        for len in [self.head.len(), self.blobs.len(), frames[0].len()] {
            varint::put_len(&mut out, len);
        }
        out.reserve_exact(frames[0].len() + frames[1].len());
        for frame in frames {
            out.extend_from_slice(&frame);
        }
        Ok(out)
    }

    /// The opposite of [`compress`](Self::compress). Allocates what the lengths say, at most [`STATEMENT_BYTES_MAX`]
    /// and what so many compressed bytes can stand for.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn decompress(bytes: &[u8]) -> Result<Self, Damage> {
        let mut from = Reader::new(bytes);
        let most = STATEMENT_BYTES_MAX.min(bytes.len().saturating_mul(EXPANSION_MAX));
        let head = varint::take_len(&mut from, most, "head length")?;
        let blobs = varint::take_len(&mut from, most - head, "blobs length")?;
        let head_frame = varint::take_len(&mut from, bytes.len(), "compressed head length")?;
        let head = unpack(from.bytes(head_frame)?, head)?;
        Ok(Self { head, blobs: unpack(from.rest(), blobs)? })
    }
}

fn unpack(frame: &[u8], len: usize) -> Result<Vec<u8>, Damage> {
    if len == 0 && frame.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; len];
    frames::decompress(frame, &mut bytes)?;
    Ok(bytes)
}

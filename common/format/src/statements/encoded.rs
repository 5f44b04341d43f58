//! The bytes of a table or a block, compressed or not.

use super::{STATEMENT_BYTES_MAX, varint};
use crate::Damage;
use crate::fields::Reader;
use crate::frames;

/// Maximum expansion of a zstd frame: about 128 KiB per zstd block, the shortest of which has four bytes.
const EXPANSION_MAX: usize = 32 << 10;

/// A table or a block, not compressed. Blobs are separate because they compress differently: most of a node's blobs are keys,
/// hashes and onions, which no compression shortens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Structure, numbers and texts.
    pub head: Vec<u8>,
    /// The bytes of the blobs.
    pub blobs: Vec<u8>,
}

impl Encoded {
    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "the head is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.blobs.len()
    }

    pub(super) fn check_len(&self) -> Result<(), Damage> {
        if self.len() > STATEMENT_BYTES_MAX {
            return Err(Damage::Field { field: "statement bytes", value: self.len() as u64 });
        }
        Ok(())
    }

    /// Compresses both pieces: their lengths, the length of the first's zstd frame, and both frames; the frame of an empty piece
    /// is empty.
    ///
    /// # Errors
    /// When memory is short, or the level does not exist.
    pub fn compress(&self, level: i32) -> std::io::Result<Vec<u8>> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        let mut pack = |piece: &[u8]| if piece.is_empty() { Ok(Vec::new()) } else { compressor.compress(piece) };
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

    /// The inverse of [`compress`](Self::compress). Allocates what the lengths say, at most [`STATEMENT_BYTES_MAX`] and at most
    /// what the compressed bytes can expand to.
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

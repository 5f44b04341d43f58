//! [`Layout`] and [`Padding`]: where the chunks of an object are. Pure arithmetic: the length of an object says it all.

use std::ops::Range;

use super::header::HEADER_LEN;
use crate::crypto::TAG_LEN;

/// Plain bytes in each chunk but the last.
pub const CHUNK_LEN: u64 = 16 << 10;

/// The length of a header, as a position in an object.
const BODY_AT: u64 = HEADER_LEN as u64;

/// The length of a tag, as a length in an object.
const TAG: u64 = TAG_LEN as u64;

/// The length of a whole chunk in an object.
const SEALED_CHUNK_LEN: u64 = CHUNK_LEN + TAG;

/// The shortest object that is padded, without header and tag, in bytes.
pub const PADDED_LEN_MIN: u64 = 2 << 10;

/// How the length of what is sealed is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Not at all.
    None,
    /// Zeros up to the next power of two, from 2 KiB.
    PowerOfTwo,
}

impl Padding {
    /// Plain bytes with padding; `None` when there is no such length.
    pub fn padded_len(self, plain_len: u64) -> Option<u64> {
        match self {
            Self::None => Some(plain_len),
            Self::PowerOfTwo => plain_len.max(PADDED_LEN_MIN).checked_next_power_of_two(),
        }
    }
}

/// The length of an object that has so many plain bytes, padding included. No object has more than 2^62 bytes; for more this is
/// `u64::MAX`.
pub fn sealed_len(plain_len: u64) -> u64 {
    let chunks = plain_len.div_ceil(CHUNK_LEN).max(1);
    plain_len.saturating_add(chunks.saturating_mul(TAG)).saturating_add(BODY_AT)
}

/// How many plain bytes an object of this length has, padding included; `None` for lengths that no object has.
pub fn plain_len(sealed_len: u64) -> Option<u64> {
    Layout::of(sealed_len).map(|layout| layout.padded_len)
}

/// Where the chunks of an object are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    padded_len: u64,
    chunk_count: u64,
}

impl Layout {
    /// The layout of an object of this length; `None` for lengths that no object has.
    pub fn of(object_len: u64) -> Option<Self> {
        let body = object_len.checked_sub(BODY_AT)?;
        let chunk_count = body.div_ceil(SEALED_CHUNK_LEN);
        // At least a tag in each chunk; and only an object without a byte has an empty one.
        let last = body.checked_sub(chunk_count.checked_sub(1)? * SEALED_CHUNK_LEN)?.checked_sub(TAG)?;
        let is_exact = object_len <= 1 << 62 && (last > 0 || chunk_count == 1);
        is_exact.then(|| Self { padded_len: body - chunk_count * TAG, chunk_count })
    }

    /// Plain bytes, padding included.
    pub fn padded_len(&self) -> u64 {
        self.padded_len
    }

    /// The number of chunks, at least 1.
    pub fn chunk_count(&self) -> u64 {
        self.chunk_count
    }

    /// The length of the object.
    pub fn object_len(&self) -> u64 {
        BODY_AT + self.padded_len + self.chunk_count * TAG
    }

    /// The chunks that hold these plain bytes, as far as there are any.
    pub fn chunks_of(&self, plain: Range<u64>) -> Range<u64> {
        let (start, end) = (plain.start.min(self.padded_len), plain.end.min(self.padded_len));
        if start >= end {
            return 0..0;
        }
        start / CHUNK_LEN..end.div_ceil(CHUNK_LEN)
    }

    /// The bytes of the object where these chunks are, as far as there are any.
    pub fn bytes_of(&self, chunks: Range<u64>) -> Range<u64> {
        let at = |chunk: u64| match chunk {
            chunk if chunk >= self.chunk_count => self.object_len(),
            chunk => BODY_AT + chunk * SEALED_CHUNK_LEN,
        };
        at(chunks.start)..at(chunks.end.max(chunks.start))
    }

    /// The length of a chunk with its tag; 0 for a chunk that does not exist.
    pub(super) fn sealed_chunk_len(&self, chunk: u64) -> u64 {
        let bytes = self.bytes_of(chunk..chunk.saturating_add(1));
        bytes.end - bytes.start
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lengths_at_the_edges() {
        for (plain, sealed) in
            [(0, 80), (1, 81), (16384, 16464), (16385, 16481), (32768, 32864), (8 << 20, 64 + (8 << 20) + 512 * 16)]
        {
            assert_eq!((sealed_len(plain), plain_len(sealed)), (sealed, Some(plain)));
        }
        // Less than a tag behind a whole chunk, or an empty chunk.
        for none in (0..80).chain(16465..=16480).chain([(1 << 62) + 1, u64::MAX]) {
            assert_eq!(plain_len(none), None, "{none}");
        }
        assert_eq!(sealed_len(u64::MAX), u64::MAX);
    }

    #[test]
    fn padding_hides_lengths_up_to_a_power_of_two() {
        let padded = |len| Padding::PowerOfTwo.padded_len(len);
        for (len, expected) in [(0, 2048), (1, 2048), (2048, 2048), (2049, 4096), (16384, 16384), (16385, 32768)] {
            assert_eq!((padded(len), Padding::None.padded_len(len)), (Some(expected), Some(len)));
        }
        assert_eq!((padded(1 << 63), padded((1 << 63) + 1)), (Some(1 << 63), None));
    }

    proptest! {
        #[test]
        fn lengths_go_there_and_back(plain in prop_oneof![0u64..200_000, 0u64..1 << 61]) {
            let sealed = sealed_len(plain);
            prop_assert_eq!(plain_len(sealed), Some(plain));
            prop_assert_eq!(Layout::of(sealed).unwrap().object_len(), sealed);
        }

        #[test]
        fn a_length_of_no_plain_bytes_is_refused(sealed: u64) {
            match plain_len(sealed) {
                Some(plain) => prop_assert_eq!(sealed_len(plain), sealed),
                None => prop_assert!(Layout::of(sealed).is_none()),
            }
        }

        /// The chunks of a range hold it, and none of them could be left out.
        #[test]
        fn the_chunks_of_a_range_are_those_that_hold_it(plain in 0u64..200_000, start: u32, len in 0u64..100_000) {
            let layout = Layout::of(sealed_len(plain)).unwrap();
            let range = u64::from(start) % 220_000..u64::from(start) % 220_000 + len;
            let chunks = layout.chunks_of(range.clone());
            let wanted = range.start.min(plain)..range.end.min(plain);
            if wanted.is_empty() {
                prop_assert!(chunks.is_empty());
            } else {
                prop_assert_eq!(chunks.start, wanted.start / CHUNK_LEN);
                prop_assert_eq!(chunks.end - 1, (wanted.end - 1) / CHUNK_LEN);
                prop_assert!(chunks.end <= layout.chunk_count());
            }
            let bytes = layout.bytes_of(chunks.clone());
            prop_assert!(bytes.start >= 64 && bytes.end <= layout.object_len());
            let sum: u64 = chunks.map(|chunk| layout.sealed_chunk_len(chunk)).sum();
            prop_assert_eq!(bytes.end - bytes.start, sum);
        }

        #[test]
        fn no_range_overflows(object: u64, start: u64, end: u64) {
            if let Some(layout) = Layout::of(object) {
                let bytes = layout.bytes_of(layout.chunks_of(start..end));
                prop_assert!(bytes.start <= bytes.end && bytes.end <= object);
                let bytes = layout.bytes_of(start..end);
                prop_assert!(bytes.start <= bytes.end && bytes.end <= object);
            }
        }
    }
}

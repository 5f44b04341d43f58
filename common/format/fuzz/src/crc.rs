//! CRC-32C, bit by bit as docs/format.md describes it: independent of the code under test.

/// The checksum of some bytes.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !parts.iter().flat_map(|part| part.iter()).fold(!0, step)
}

/// Puts the checksum of all but the last four bytes there.
pub fn seal(bytes: &mut [u8]) {
    if let Some((covered, sum)) = bytes.split_last_chunk_mut::<4>() {
        *sum = crc32c(&[covered]).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_one_of_the_format() {
        assert_eq!(super::crc32c(&[b"12345", b"6789"]), 0xe306_9283);
    }
}

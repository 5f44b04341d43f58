//! [`LogBytes`]: what an object with bytes of a log holds.
//!
//! Integers are little-endian. The bytes of the log follow the header as one zstd frame.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 2 | version, 1 |
//! | 2 | 2 | zero |
//! | 4 | 4 | previous_checksum: of the last whole record up to the end of these bytes |
//! | 8 | 8 | time of shipping, microseconds since 1970 |
//! | 16 | 8 | log: first seq |
//! | 24 | 8 | offset of the first byte in the log |
//! | 32 | 8 | len: number of bytes, at most 7 MiB |
//! | 40 | 8 | next_seq: seq behind the last whole record |

use crate::copy_error::CopyError;

/// The maximum number of bytes of a log in one object.
/// Padded to a power of two, an object of what zstd cannot compress stays below the maximum of a store.
pub const LOG_BYTES_MAX: usize = 7 << 20;

/// Length of the header in bytes.
const HEADER_LEN: usize = 48;

/// Version of this layout.
const VERSION: u16 = 1;

/// The zstd level: its speed is far above that of any link.
const LEVEL: i32 = 3;

/// Consecutive bytes of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBytes {
    /// When they were shipped, in microseconds since 1970.
    pub time: i64,
    /// First seq of the log.
    pub log: u64,
    /// Offset of the first byte in the log.
    pub offset: u64,
    /// Seq behind the last whole record.
    pub next_seq: u64,
    /// Checksum of that record.
    pub previous_checksum: u32,
    /// The bytes, at most [`LOG_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

impl LogBytes {
    /// Encodes the object.
    ///
    /// # Errors
    /// When zstd fails, which it does for lack of memory only.
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.bytes.len() / 4);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.previous_checksum.to_le_bytes());
        out.extend_from_slice(&self.time.to_le_bytes());
        for number in [self.log, self.offset, self.bytes.len() as u64, self.next_seq] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&zstd::bulk::compress(&self.bytes, LEVEL)?);
        Ok(out)
    }

    /// Decodes an object. Allocates at most [`LOG_BYTES_MAX`].
    ///
    /// # Errors
    /// When it is damaged, or of a newer version.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, CopyError> {
        let damaged = || CopyError::Damaged { name: name.to_owned(), reason: "its contents are not bytes of a log" };
        let (header, frame) = bytes.split_first_chunk::<HEADER_LEN>().ok_or_else(damaged)?;
        let number = |at: usize| {
            header.get(at..at + 8).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let version = u16::from_le_bytes([header[0], header[1]]);
        if version > VERSION {
            return Err(CopyError::NewerFormat { name: name.to_owned(), version });
        }
        let len = usize::try_from(number(32)).ok().filter(|&len| len <= LOG_BYTES_MAX).ok_or_else(damaged)?;
        if version != VERSION || header[2..4] != [0; 2] {
            return Err(damaged());
        }
        let contents = zstd::bulk::decompress(frame, len).map_err(|_| damaged())?;
        if contents.len() != len {
            return Err(damaged());
        }
        let previous_checksum = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let time = number(8).cast_signed();
        Ok(Self { time, log: number(16), offset: number(24), next_seq: number(40), previous_checksum, bytes: contents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LogBytes {
        let bytes = b"abc".repeat(1000);
        LogBytes { time: -5, log: 7, offset: 64, next_seq: 9, previous_checksum: 0xdead_beef, bytes }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let encoded = sample().encode().unwrap();
        assert!(encoded.len() < 200, "{}", encoded.len());
        assert_eq!(LogBytes::decode("t", &encoded).unwrap(), sample());
        let empty = LogBytes { bytes: vec![], ..sample() };
        assert_eq!(LogBytes::decode("t", &empty.encode().unwrap()).unwrap(), empty);
    }

    #[test]
    fn what_is_cut_or_claims_too_much_is_refused() {
        let encoded = sample().encode().unwrap();
        for len in 0..encoded.len() {
            assert!(LogBytes::decode("t", &encoded[..len]).is_err(), "{len}");
        }
        for (at, value) in [(0, 2), (2, 1), (35, 1), (39, 0x7f)] {
            let mut changed = encoded.clone();
            changed[at] = value;
            assert!(LogBytes::decode("t", &changed).is_err(), "byte {at}");
        }
    }
}

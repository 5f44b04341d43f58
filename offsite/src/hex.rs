//! Bytes as lower-case hexadecimal digits.

use std::fmt::Write as _;

/// The digits of these bytes.
pub fn encode(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _: std::fmt::Result = write!(digits, "{byte:02x}");
    }
    digits
}

/// The bytes of so many lower-case digits; `None` for anything else.
pub fn decode<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let is_exact = digits.len() == 2 * N && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..digits.len()).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2).filter(|_| is_exact)?, 16).ok()?;
    }
    is_exact.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written_and_no_others() {
        assert_eq!(encode(&[0, 0x1f, 0xff]), "001fff");
        assert_eq!(decode("001fff"), Some([0, 0x1f, 0xff]));
        assert_eq!(decode("001fff"), None::<[u8; 2]>);
        for wrong in ["", "00", "001ff", "001fff0", "001FFF", "+01fff", "00 1ff", "é01ff", "00é1f"] {
            assert_eq!(decode(wrong), None::<[u8; 3]>, "{wrong}");
        }
    }
}

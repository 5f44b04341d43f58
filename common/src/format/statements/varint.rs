//! Whole numbers in as many bytes as they need: LEB128, and zigzag for those with a sign.

use super::super::Damage;
use super::super::fields::Reader;

/// Appends a number: 7 bits a byte, the lowest first, the top bit set in all but the last.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Appends a length.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    put(out, len as u64);
}

/// Bytes that a number takes.
pub(super) fn len(number: u64) -> u32 {
    (64 - number.leading_zeros()).div_ceil(7).max(1)
}

/// Takes a number.
pub(super) fn take(from: &mut Reader<'_>) -> Result<u64, Damage> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.u8()?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(Damage::Field { field: "varint", value: bits });
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damage::Field { field: "varint", value: number })
}

/// Takes a length or a count of at most `most`.
pub(super) fn take_len(from: &mut Reader<'_>, most: usize, field: &'static str) -> Result<usize, Damage> {
    let value = take(from)?;
    usize::try_from(value).ok().filter(|&len| len <= most).ok_or(Damage::Field { field, value })
}

/// 0, −1, 1, −2, … as 0, 1, 2, 3, …
pub(super) fn zigzag(number: i64) -> u64 {
    (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned()
}

/// The number that [`zigzag`] was made of.
pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, -1, 63, -64, 64, 300, -7_000_000, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put(&mut out, zigzag(number));
            assert_eq!(out.len(), len(zigzag(number)) as usize);
            let mut from = Reader::new(&out);
            assert_eq!(unzigzag(take(&mut from).unwrap()), number);
            assert!(from.rest().is_empty());
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for bytes in
            [&[][..], &[0x80], &[0xff; 10], &[0x80; 20], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert!(take(&mut Reader::new(bytes)).is_err(), "{bytes:02x?}");
        }
    }
}

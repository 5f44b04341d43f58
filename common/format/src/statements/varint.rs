//! Varints for lengths and counts.

use crate::Damage;
use crate::fields::{Reader, put_varint};

/// Appends a length.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_varint(len as u64, out);
}

/// Length of an encoded number in bytes.
pub(super) fn len(number: u64) -> u32 {
    (64 - number.leading_zeros()).div_ceil(7).max(1)
}

/// Reads a length or a count of at most `most`.
pub(super) fn take_len(from: &mut Reader<'_>, most: usize, field: &'static str) -> Result<usize, Damage> {
    let value = from.varint()?;
    usize::try_from(value).ok().filter(|&len| len <= most).ok_or(Damage::Field { field, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_takes_as_many_bytes_as_it_says() {
        for number in (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            let mut out = Vec::new();
            put_varint(number, &mut out);
            assert_eq!(out.len(), len(number) as usize, "{number}");
        }
    }
}

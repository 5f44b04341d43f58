//! Reading and writing of fixed-width little-endian fields and varints.

use super::Damage;

/// Reads fields from the front of a slice; never reads past its end.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Damage::Short`] when fewer bytes are left; then nothing is consumed. The same holds for all other methods.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(Damage::Short { have: self.rest.len(), want: len })?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(Damage::Short { have: self.rest.len(), want: N })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, Damage> {
        self.array().map(u8::from_le_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Damage> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }

    /// Eight bytes, two's complement.
    pub fn i64(&mut self) -> Result<i64, Damage> {
        self.array().map(i64::from_le_bytes)
    }

    /// Reserved bytes, which must be zero; otherwise the error names `field`.
    pub fn zeros(&mut self, len: usize, field: &'static str) -> Result<(), Damage> {
        match self.bytes(len)?.iter().find(|&&byte| byte != 0) {
            Some(&byte) => Err(Damage::Field { field, value: byte.into() }),
            None => Ok(()),
        }
    }

    /// An unsigned LEB128 number: 7 bits per byte, lowest first, bit 7 set in every byte but the last.
    ///
    /// # Errors
    /// Also when the number is longer than 64 bits.
    pub fn varint(&mut self) -> Result<u64, Damage> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damage::Field { field: "varint", value })
    }

    /// A varint of at most 32 bits.
    pub fn varint_u32(&mut self, field: &'static str) -> Result<u32, Damage> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| Damage::Field { field, value })
    }

    /// A signed varint, zigzag encoded: 0, -1, 1, -2, 2 … are stored as 0, 1, 2, 3, 4 …
    pub fn signed(&mut self) -> Result<i64, Damage> {
        self.varint().map(unzigzag)
    }

    /// The bytes that were not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Appends a number as [`Reader::varint`] reads it.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a number as [`Reader::signed`] reads it.
pub fn put_signed(value: i64, out: &mut Vec<u8>) {
    put_varint(zigzag(value), out);
}

/// Zigzag encoding: 0, −1, 1, −2, … become 0, 1, 2, 3, …
pub fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read_back() {
        let mut numbers: Vec<u64> = (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit]).collect();
        numbers.push(u64::MAX);
        for number in numbers {
            let mut bytes = Vec::new();
            put_varint(number, &mut bytes);
            put_signed(number.cast_signed(), &mut bytes);
            let mut fields = Reader::new(&bytes);
            assert_eq!((fields.varint(), fields.signed()), (Ok(number), Ok(number.cast_signed())));
            assert!(fields.rest().is_empty());
        }
    }

    #[test]
    fn a_number_that_is_cut_or_too_long_is_an_error() {
        assert!(Reader::new(&[0x80; 3]).varint().is_err());
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint().is_err());
        assert!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x10]).varint_u32("x").is_err());
    }
}

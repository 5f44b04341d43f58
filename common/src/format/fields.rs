//! Reading and writing fixed-width little-endian fields.

use super::Damage;

/// Takes fields from the front of a slice; never reads past its end.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Damage::Short`] when fewer are left; nothing is consumed then. The same for all other methods.
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

    /// Bytes that the format reserves: anything but zero is an error naming `field`.
    pub fn zeros(&mut self, len: usize, field: &'static str) -> Result<(), Damage> {
        match self.bytes(len)?.iter().find(|&&byte| byte != 0) {
            Some(&byte) => Err(Damage::Field { field, value: byte.into() }),
            None => Ok(()),
        }
    }

    /// What has not been taken yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

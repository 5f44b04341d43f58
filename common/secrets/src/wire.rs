//! [`Reader`]: fields as Core Lightning's wire has them, which is big-endian (`wire/fromwire.c`).

/// The bytes end within a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// Reads fields from the front of a slice; never reads past its end.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the first byte.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether all bytes are read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A byte.
    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes.
    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_be_bytes)
    }

    /// A BigSize of BOLT #1: one byte, or a marker and two, four or eight bytes.
    pub(crate) fn big_size(&mut self) -> Result<u64, Short> {
        match self.u8()? {
            0xfd => self.u16().map(u64::from),
            0xfe => self.u32().map(u64::from),
            0xff => self.u64(),
            small => Ok(small.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_big_endian_and_never_read_past_the_end() {
        let mut reader = Reader::new(&[1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!((reader.u8(), reader.u16(), reader.u32(), reader.u64()), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert!(reader.is_at_end());
        assert_eq!((reader.u8(), reader.bytes(1), reader.bytes(0)), (Err(Short), Err(Short), Ok([].as_slice())));
        assert_eq!(Reader::new(&[1]).u16(), Err(Short));
    }

    /// Vectors of BOLT #1, Appendix A.
    #[test]
    fn a_big_size_is_that_of_the_bolt() {
        let read = |bytes: &[u8]| Reader::new(bytes).big_size();
        assert_eq!(read(&[0xfc]), Ok(252));
        assert_eq!(read(&[0xfd, 0x00, 0xfd]), Ok(253));
        assert_eq!(read(&[0xfe, 0x00, 0x01, 0x00, 0x00]), Ok(65536));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Ok(u64::MAX));
        assert_eq!(read(&[0xfe, 0xff, 0xff]), Err(Short));
        assert_eq!(read(&[]), Err(Short));
    }
}

//! Header and records: pure encoding and decoding.
#![expect(clippy::big_endian_bytes, reason = "the Python plugin writes big-endian numbers")]

use format::units::DataVersion;

/// Length of the header in bytes; the first record follows.
pub const HEADER_LEN: usize = 512;

/// Length of a record without its payload.
pub const RECORD_HEADER_LEN: usize = 9;

/// The only file version.
const FILE_VERSION: u32 = 1;

/// Length of the header's fields; zeros follow.
const FIELDS_LEN: usize = 36;

/// The byte between two statements.
const SEPARATOR: u8 = 0;

/// The reason why 512 bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAHeader {
    /// The bytes begin with another magic, or have impossible values.
    #[error("its header is not one of the Python plugin")]
    Another,
    /// The header has another file version.
    #[error("its header says file version {0}, and the Python plugin has only ever had version 1")]
    FileVersion(u32),
}

/// The header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version of the newest record; 0 if there is none.
    pub version: DataVersion,
    /// Offset behind the newest record, as the plugin counts.
    pub end: u64,
    /// Version of the record before the newest.
    pub previous_version: DataVersion,
    /// Offset of the newest record, as the plugin counts.
    pub newest: u64,
    /// Number of records written so far; 0 in old files, which have no count.
    pub version_count: u64,
}

impl Header {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut fields = Vec::with_capacity(FIELDS_LEN);
        fields.extend_from_slice(&FILE_VERSION.to_be_bytes());
        fields.extend_from_slice(&self.version.get().to_be_bytes());
        fields.extend_from_slice(&self.end.to_be_bytes());
        fields.extend_from_slice(&self.previous_version.get().to_be_bytes());
        fields.extend_from_slice(&self.newest.to_be_bytes());
        fields.extend_from_slice(&self.version_count.to_be_bytes());
        let mut out = [0; HEADER_LEN];
        out[..FIELDS_LEN].copy_from_slice(&fields);
        out
    }

    /// Decodes the first bytes of a file.
    ///
    /// # Errors
    /// When they are not a header.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, NotAHeader> {
        let (fields, zeros) = bytes.split_at(FIELDS_LEN);
        let u32_at = |at: usize| fields[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let u64_at = |at: usize| fields[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let header = Self {
            version: DataVersion::new(u32_at(4)),
            end: u64_at(8),
            previous_version: DataVersion::new(u32_at(16)),
            newest: u64_at(20),
            version_count: u64_at(28),
        };
        if zeros.iter().any(|&byte| byte != 0) || header.end < HEADER_LEN as u64 || header.newest >= header.end {
            return Err(NotAHeader::Another);
        }
        match u32_at(0) {
            FILE_VERSION => Ok(header),
            other => Err(NotAHeader::FileVersion(other)),
        }
    }
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The statements of a `db_write`.
    Change,
    /// A whole database.
    Snapshot,
}

/// A record without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the payload in bytes.
    pub len: u32,
    /// The version after the record.
    pub data_version: DataVersion,
    /// Kind of the record.
    pub kind: Kind,
}

/// The error for a type that the plugin does not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownType(pub u8);

impl RecordHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; RECORD_HEADER_LEN] {
        let kind = match self.kind {
            Kind::Change => 1,
            Kind::Snapshot => 2,
        };
        let mut out = [kind; RECORD_HEADER_LEN];
        out[..4].copy_from_slice(&self.len.to_be_bytes());
        out[4..8].copy_from_slice(&self.data_version.get().to_be_bytes());
        out
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// When the type is unknown.
    pub fn decode(bytes: [u8; RECORD_HEADER_LEN]) -> Result<Self, UnknownType> {
        let [a, b, c, d, e, f, g, h, kind] = bytes;
        let kind = match kind {
            1 => Kind::Change,
            2 => Kind::Snapshot,
            other => return Err(UnknownType(other)),
        };
        let data_version = DataVersion::new(u32::from_be_bytes([e, f, g, h]));
        Ok(Self { len: u32::from_be_bytes([a, b, c, d]), data_version, kind })
    }
}

/// Splits the payload of a change into statements, at least one.
///
/// # Errors
/// When a statement is not UTF-8.
pub fn split_statements(payload: &[u8]) -> Result<Vec<&str>, std::str::Utf8Error> {
    payload.split(|&byte| byte == SEPARATOR).map(str::from_utf8).collect()
}

/// The error for a statement that would be read as two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldsZero {
    /// Position of the statement, from 1.
    pub statement: usize,
}

/// Appends the payload of a change to `out`.
///
/// # Errors
/// When a statement has a zero byte.
pub fn join_statements<S: AsRef<str>>(statements: &[S], out: &mut Vec<u8>) -> Result<(), HoldsZero> {
    for (index, statement) in statements.iter().map(|statement| statement.as_ref().as_bytes()).enumerate() {
        if statement.contains(&SEPARATOR) {
            return Err(HoldsZero { statement: index + 1 });
        }
        if index > 0 {
            out.push(SEPARATOR);
        }
        out.extend_from_slice(statement);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/python-file.md");

    /// The bytes of the hex dumps in the document.
    fn dumps() -> Vec<Vec<u8>> {
        let dumps = DOCUMENT.split("```hex\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let bytes_of = |line: &str| -> Vec<u8> {
            let hex = line.split_once("  ").unwrap().1.split("  ").next().unwrap();
            hex.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
        };
        dumps.map(|dump| dump.lines().flat_map(bytes_of).collect()).collect()
    }

    #[test]
    fn the_example_in_the_document_is_what_is_written() {
        let mut payload = Vec::new();
        join_statements(&["CREATE TABLE t (x)", "DROP TABLE t;"], &mut payload).unwrap();
        let (len, data_version) = (u32::try_from(payload.len()).unwrap(), DataVersion::new(1));
        let mut record = RecordHeader { len, data_version, kind: Kind::Change }.encode().to_vec();
        record.extend_from_slice(&payload);
        let end = (HEADER_LEN + record.len()) as u64;
        let previous_version = DataVersion::new(0);
        let header = Header { version: data_version, end, previous_version, newest: 512, version_count: 1 };
        assert_eq!(dumps(), [header.encode()[..64].to_vec(), record]);
    }

    #[test]
    fn what_is_no_header_is_distinguished() {
        let header = Header {
            version: DataVersion::new(7),
            end: 1000,
            previous_version: DataVersion::new(6),
            newest: 900,
            version_count: 7,
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        let spoilt = |at: usize, byte: u8| {
            let mut bytes = header.encode();
            bytes[at] = byte;
            Header::decode(&bytes)
        };
        assert_eq!(spoilt(3, 2), Err(NotAHeader::FileVersion(2)));
        assert_eq!(spoilt(36, 1), Err(NotAHeader::Another), "what must be zero");
        assert_eq!(spoilt(511, 1), Err(NotAHeader::Another), "what must be zero");
        assert_eq!(spoilt(14, 1), Err(NotAHeader::Another), "the records end in the header");
        assert_eq!(spoilt(20, 1), Err(NotAHeader::Another), "the newest begins behind its end");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            len: u32, version: u32, is_change: bool,
            statements in proptest::collection::vec("[^\0]*", 1..6),
        ) {
            let kind = if is_change { Kind::Change } else { Kind::Snapshot };
            let record = RecordHeader { len, data_version: DataVersion::new(version), kind };
            prop_assert_eq!(RecordHeader::decode(record.encode()), Ok(record));
            let mut payload = Vec::new();
            join_statements(&statements, &mut payload).unwrap();
            prop_assert_eq!(split_statements(&payload).unwrap(), statements);
        }
    }

    #[test]
    fn a_statement_with_a_zero_in_it_cannot_be_written() {
        assert_eq!(join_statements(&["a", "b\0c"], &mut Vec::new()), Err(HoldsZero { statement: 2 }));
    }
}

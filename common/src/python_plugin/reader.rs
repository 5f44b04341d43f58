//! [`PythonFile`]: a file of the plugin, read from its beginning to its end, once.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::bytes::{HEADER_LEN, Header, Kind, RECORD_HEADER_LEN, RecordHeader, split_statements};
use super::import_error::{ImportError, RecordDamage};
use crate::storage::regular_file::open_regular_file;
use format::record::{PAYLOAD_LEN_MAX, PayloadTooLong};
use format::units::{DataVersion, Timestamp};

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;

/// A file that the plugin may be writing to: what has been in it when it was opened.
#[derive(Debug)]
pub struct PythonFile {
    path: PathBuf,
    file: BufReader<File>,
    header: Header,
    len: u64,
    /// From here on it is zeros.
    zeros_from: u64,
    modified: Timestamp,
    /// Where the next record begins.
    offset: u64,
    payload: Vec<u8>,
}

/// The next record.
#[derive(Debug)]
pub struct NextRecord<'f> {
    /// Where it begins.
    pub offset: u64,
    /// The version after it.
    pub data_version: DataVersion,
    /// What is in it.
    pub payload: Payload<'f>,
}

/// What is in a record.
#[derive(Debug)]
pub enum Payload<'f> {
    /// The statements of a change.
    Statements(Vec<&'f str>),
    /// A database of so many bytes; all of them have to be read before the next record is.
    Snapshot {
        /// Its bytes.
        bytes: SnapshotBytes<'f>,
        /// How many.
        len: u32,
    },
}

/// The bytes of a snapshot.
pub type SnapshotBytes<'f> = io::Take<&'f mut BufReader<File>>;

/// What comes next.
#[derive(Debug)]
pub enum Next<'f> {
    /// A record.
    Record(NextRecord<'f>),
    /// The rest of the file, which is no whole record.
    Torn {
        /// Where it begins.
        offset: u64,
        /// How many bytes it has.
        left: u64,
        /// What is wrong with it.
        by: TornBy,
    },
    /// Nothing: the file ends where the record before does.
    End,
}

/// How a file ends that does not end with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TornBy {
    /// The record should have more bytes.
    Short {
        /// So many, as far as that can be said.
        claimed: u64,
    },
    /// The end of the record is zeros, and so is all behind it, as a power cut leaves what was never written to the disk. What
    /// the plugin writes ends with a statement.
    Zeros,
}

impl PythonFile {
    /// Opens a file and reads its header. It may be shorter than that says.
    ///
    /// # Errors
    /// When it cannot be read, or is none of the plugin.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let io = |source| ImportError::Io { path: path.to_path_buf(), source };
        let file = open_regular_file(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => ImportError::NotAFile { path: path.to_path_buf() },
            _ => io(error),
        })?;
        let metadata = file.metadata().map_err(io)?;
        let mut file = BufReader::with_capacity(READ_BYTES, file);
        let not_ours = |reason| ImportError::NotAPythonBackup { path: path.to_path_buf(), reason };
        let mut bytes = [0; HEADER_LEN];
        match file.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(not_ours(super::bytes::NotAHeader::Another));
            }
            read => read.map_err(io)?,
        }
        let header = Header::decode(&bytes).map_err(not_ours)?;
        // The header is written after the record: what it says is in the file by now.
        let len = file.get_ref().metadata().map_err(io)?.len();
        let zeros_from = zeros_from(file.get_ref(), len).map_err(io)?;
        let modified = metadata.mtime().checked_mul(1_000_000).and_then(Timestamp::from_micros);
        let (modified, offset) = (modified.unwrap_or_else(Timestamp::now), HEADER_LEN as u64);
        Ok(Self { path: path.to_path_buf(), file, header, len, zeros_from, modified, offset, payload: Vec::new() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its bytes.
    #[expect(clippy::len_without_is_empty, reason = "it has a header at least")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where the next record begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// When it was last written to: every record in it was received by then.
    pub fn modified(&self) -> Timestamp {
        self.modified
    }

    /// Reads the next record. Of a change all is in memory, which is never more than a record of a backup can hold; of a
    /// snapshot nothing.
    ///
    /// # Errors
    /// When the file cannot be read, or it is none.
    pub fn next_record(&mut self) -> Result<Next<'_>, ImportError> {
        let offset = self.offset;
        let left = self.len - offset;
        if left == 0 {
            return Ok(Next::End);
        }
        let torn = |by| Ok(Next::Torn { offset, left, by });
        if self.zeros_from <= offset {
            return torn(TornBy::Zeros);
        }
        if left < RECORD_HEADER_LEN as u64 {
            return torn(TornBy::Short { claimed: RECORD_HEADER_LEN as u64 });
        }
        let path = &self.path;
        let io = |source| ImportError::Io { path: path.clone(), source };
        let damaged = |damage| ImportError::Damaged { path: path.clone(), offset, damage, before: None };
        let mut bytes = [0; RECORD_HEADER_LEN];
        self.file.read_exact(&mut bytes).map_err(io)?;
        if self.zeros_from < offset + RECORD_HEADER_LEN as u64 {
            return torn(TornBy::Zeros);
        }
        let header = RecordHeader::decode(bytes).map_err(|unknown| damaged(RecordDamage::UnknownType(unknown.0)))?;
        let claimed = RECORD_HEADER_LEN as u64 + u64::from(header.len);
        if claimed > left {
            return torn(TornBy::Short { claimed });
        }
        // A database may end with zeros.
        if header.kind == Kind::Change && self.zeros_from < offset + claimed {
            return torn(TornBy::Zeros);
        }
        self.offset += claimed;
        let payload = match header.kind {
            Kind::Snapshot => {
                let bytes = (&mut self.file).take(header.len.into());
                Payload::Snapshot { bytes, len: header.len }
            }
            Kind::Change => {
                let bytes = header.len as usize;
                if bytes > PAYLOAD_LEN_MAX {
                    return Err(damaged(PayloadTooLong { bytes }.into()));
                }
                self.payload.resize(bytes, 0);
                self.file.read_exact(&mut self.payload).map_err(io)?;
                let statements = split_statements(&self.payload).map_err(|_| damaged(RecordDamage::NotText))?;
                Payload::Statements(statements)
            }
        };
        Ok(Next::Record(NextRecord { offset, data_version: header.data_version, payload }))
    }
}

/// Where the zeros begin that a file of `len` bytes ends with. Usually its last byte is none.
fn zeros_from(file: &File, len: u64) -> io::Result<u64> {
    let mut bytes = vec![0; READ_BYTES];
    let mut end = len;
    while end > 0 {
        let from = end.saturating_sub(READ_BYTES as u64);
        #[expect(clippy::cast_possible_truncation, reason = "no more than are read at once")]
        let part = &mut bytes[..(end - from) as usize];
        file.read_exact_at(part, from)?;
        if let Some(last) = part.iter().rposition(|&byte| byte != 0) {
            return Ok(from + last as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

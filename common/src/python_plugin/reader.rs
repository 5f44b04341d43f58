//! [`PythonFile`]: a file of the plugin, read once from beginning to end.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::bytes::{HEADER_LEN, Header, Kind, RECORD_HEADER_LEN, RecordHeader, split_statements};
use super::import_error::{ImportError, RecordDamage};
use crate::storage::regular_file::open_regular_file;
use format::record::{PAYLOAD_LEN_MAX, PayloadTooLong};
use format::units::{DataVersion, Timestamp};

/// Bytes per read.
const READ_BYTES: usize = 256 << 10;

/// A file of the plugin, with its length when it was opened: it may be written to meanwhile.
#[derive(Debug)]
pub struct PythonFile {
    path: PathBuf,
    file: BufReader<File>,
    header: Header,
    len: u64,
    /// Offset of the zeros at its end.
    zeros_from: u64,
    modified: Timestamp,
    /// Offset of the next record.
    offset: u64,
    payload: Vec<u8>,
}

/// A record of the file.
#[derive(Debug)]
pub struct NextRecord<'f> {
    /// Offset of the record.
    pub offset: u64,
    /// The version after the record.
    pub data_version: DataVersion,
    /// Payload of the record.
    pub payload: Payload<'f>,
}

/// The payload of a record.
#[derive(Debug)]
pub enum Payload<'f> {
    /// The statements of a change.
    Statements(Vec<&'f str>),
    /// A database, whose bytes must all be read before the next record.
    Snapshot {
        /// Reader of its bytes.
        bytes: SnapshotBytes<'f>,
        /// Length in bytes.
        len: u32,
    },
}

/// The bytes of a snapshot.
pub type SnapshotBytes<'f> = io::Take<&'f mut BufReader<File>>;

/// The next part of the file.
#[derive(Debug)]
pub enum Next<'f> {
    /// A record.
    Record(NextRecord<'f>),
    /// The rest of the file, which is not a whole record.
    Torn {
        /// Offset of the rest.
        offset: u64,
        /// Length in bytes.
        left: u64,
        /// The kind of damage.
        by: TornBy,
    },
    /// None: the file ends behind the previous record.
    End,
}

/// The kind of damage of an incomplete last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TornBy {
    /// The record is too short.
    Short {
        /// The length that it should have, as far as known.
        claimed: u64,
    },
    /// The record ends with zeros, like all bytes behind it: a power cut leaves zeros where nothing was written. The plugin's
    /// records end with a statement.
    Zeros,
}

impl PythonFile {
    /// Opens a file and reads its header. The file may be shorter than the header says.
    ///
    /// # Errors
    /// When it cannot be read, or is not a file of the plugin.
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
        // The header is written after the record, so the records of the header are in the file now.
        let len = file.get_ref().metadata().map_err(io)?.len();
        let zeros_from = zeros_from(file.get_ref(), len).map_err(io)?;
        let modified = metadata.mtime().checked_mul(1_000_000).and_then(Timestamp::from_micros);
        let (modified, offset) = (modified.unwrap_or_else(Timestamp::now), HEADER_LEN as u64);
        Ok(Self { path: path.to_path_buf(), file, header, len, zeros_from, modified, offset, payload: Vec::new() })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Header of the file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Length of the file in bytes.
    #[expect(clippy::len_without_is_empty, reason = "it has a header at least")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Offset of the next record.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Modification time: every record was received before.
    pub fn modified(&self) -> Timestamp {
        self.modified
    }

    /// Reads the next record. A change is read into memory, limited to the size of a record of a backup; a snapshot is not.
    ///
    /// # Errors
    /// When the file cannot be read, or the record is not valid.
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

/// Offset of the zeros at the end of a file of `len` bytes. Usually its last byte is not zero.
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

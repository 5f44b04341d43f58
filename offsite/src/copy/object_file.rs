//! [`ObjectFile`]: a file of a backup in objects of a copy.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::storage::{Stamp, StorageError, StorageOp, StoredFile};

use crate::copy::chunks::Chunks;
use crate::copy::storage_error;
use crate::copy_error::CopyError;
use crate::objects::{File, Object, Part};
use crate::seal::layout::plain_len;

/// A part, with what is known of it without reading it.
#[derive(Debug)]
struct PartObject {
    name: String,
    object_len: u64,
    /// Offset of its first byte in the file.
    start: u64,
    len: u64,
}

/// A file that the copy has all parts of.
#[derive(Debug)]
pub struct ObjectFile {
    file: File,
    parts: Vec<PartObject>,
    len: u64,
}

impl ObjectFile {
    /// The file of these parts, with the lengths of their objects.
    ///
    /// # Errors
    /// When an object has a length that no part has.
    pub fn new(file: File, listed: &[(Part, u64)]) -> Result<Self, CopyError> {
        let (mut parts, mut start) = (Vec::new(), 0_u64);
        for &(part, object_len) in listed {
            let name = Object::Part(file, part).to_string();
            let damaged =
                || CopyError::Damaged { name: name.clone(), reason: "it was cut off, or is no object of a copy" };
            let len = plain_len(object_len).ok_or_else(damaged)?;
            let behind = start.checked_add(len).ok_or_else(damaged)?;
            parts.push(PartObject { name, object_len, start, len });
            start = behind;
        }
        Ok(Self { file, parts, len: start })
    }

    /// Whether it is this file.
    pub fn is(&self, file: File) -> bool {
        self.file == file
    }

    /// Opens it under this path.
    pub fn opened(self: &Arc<Self>, path: PathBuf, chunks: Arc<Chunks>) -> OpenedFile {
        OpenedFile { file: Arc::clone(self), path, chunks }
    }

    fn read_at(&self, chunks: &Arc<Chunks>, buf: &mut [u8], offset: u64) -> Result<usize, CopyError> {
        let mut filled = 0;
        let first = self.parts.partition_point(|part| part.start + part.len <= offset);
        for part in &self.parts[first..] {
            let at = offset + filled as u64;
            if filled == buf.len() {
                break;
            }
            let within = at - part.start;
            let wanted = usize::try_from(part.len - within).unwrap_or(usize::MAX).min(buf.len() - filled);
            chunks.read(&part.name, part.object_len, within, &mut buf[filled..filled + wanted])?;
            filled += wanted;
        }
        Ok(filled)
    }
}

/// An [`ObjectFile`], opened.
#[derive(Debug)]
pub struct OpenedFile {
    file: Arc<ObjectFile>,
    path: PathBuf,
    chunks: Arc<Chunks>,
}

impl StoredFile for OpenedFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        Ok(self.file.len)
    }

    fn stamp(&self) -> Option<Stamp> {
        None
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let read = self.file.read_at(&self.chunks, buf, offset);
        read.map_err(|error| storage_error(StorageOp::Read, self.path.clone(), Some(offset), error))
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> Result<(), StorageError> {
        Err(read_only(StorageOp::Write, &self.path))
    }

    fn sync(&self) -> Result<(), StorageError> {
        Err(read_only(StorageOp::Sync, &self.path))
    }
}

/// The error of a call that would change a copy.
pub(super) fn read_only(op: StorageOp, path: &Path) -> StorageError {
    let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a copy of a backup is only read");
    StorageError { op, path: path.to_owned(), offset: None, source }
}

//! [`ObjectFile`]: a file of a backup in objects of a copy.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::storage::{Stamp, StorageError, StorageOp, StoredFile};

use crate::copy::catalogs::{Beside, Catalogs, Source};
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
    /// What a catalog says of it.
    beside: Option<Arc<Beside>>,
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
        Ok(Self { file, parts, len: start, beside: None })
    }

    /// The same with what the catalogs say of it.
    #[must_use]
    pub(super) fn beside(self, catalogs: &Catalogs) -> Self {
        Self { beside: catalogs.of(self.file, self.len), ..self }
    }

    /// Whether it is this file, in objects of these lengths, and the catalogs say the same of it.
    pub(super) fn is(&self, file: File, listed: &[(Part, u64)], catalogs: &Catalogs) -> bool {
        let lens = self.parts.iter().map(|part| part.object_len);
        let same = match (&self.beside, catalogs.of(file, self.len)) {
            (Some(known), Some(now)) => known.is(&now),
            (known, now) => known.is_none() && now.is_none(),
        };
        self.file == file && same && lens.eq(listed.iter().map(|&(_, len)| len))
    }

    /// The ranges of objects that these bytes are read from.
    pub(super) fn sources(&self, range: &Range<u64>) -> Vec<Fetch> {
        match self.beside.as_ref().map_or(Source::Segment, |beside| beside.source(range)) {
            Source::Memory => Vec::new(),
            Source::Catalog(name, object_len, range) => vec![Fetch { name: name.to_owned(), object_len, range }],
            Source::Segment => {
                let reached =
                    self.parts.iter().filter(|part| part.start < range.end && range.start < part.start + part.len);
                let within =
                    |part: &PartObject| range.start.saturating_sub(part.start)..part.len.min(range.end - part.start);
                reached
                    .map(|part| Fetch { name: part.name.clone(), object_len: part.object_len, range: within(part) })
                    .collect()
            }
        }
    }

    /// Opens it under this path.
    pub fn opened(self: &Arc<Self>, path: PathBuf, chunks: Arc<Chunks>) -> OpenedFile {
        if let (Some(beside), [only]) = (&self.beside, self.parts.as_slice()) {
            chunks.offer_header(&only.name, only.object_len, &beside.segment().object);
        }
        OpenedFile { file: Arc::clone(self), path, chunks }
    }

    fn read_at(&self, chunks: &Arc<Chunks>, buf: &mut [u8], offset: u64) -> Result<usize, CopyError> {
        if self.beside.as_ref().is_some_and(|beside| beside.read(chunks, buf, offset)) {
            return Ok(buf.len());
        }
        let end = self.len.min(offset.saturating_add(buf.len() as u64));
        if let Some(first) = self.parts.first().filter(|_| offset < end) {
            self.fetch_ahead(chunks, &chunks.ahead(&first.name, offset..end, self.len));
        }
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

    fn fetch_ahead(&self, chunks: &Arc<Chunks>, ahead: &Range<u64>) {
        let first = self.parts.partition_point(|part| part.start + part.len <= ahead.start);
        for part in self.parts[first..].iter().take_while(|part| part.start < ahead.end) {
            let within = ahead.start.saturating_sub(part.start)..part.len.min(ahead.end - part.start);
            chunks.fetch_ahead(&part.name, part.object_len, &within);
        }
    }
}

/// Bytes of an object that are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) name: String,
    pub(super) object_len: u64,
    /// The range of plain bytes.
    pub(super) range: Range<u64>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_store::{Cut, MemoryStore};
    use crate::seal::layout::{CHUNK_LEN, Padding};
    use crate::seal::{Sealing, seal};
    use crate::store::Store as _;

    const CHUNKS: u64 = 300;

    /// A file of 300 chunks, each of which is different, in three parts, and its bytes.
    fn long_file() -> (Arc<MemoryStore>, ObjectFile, Vec<u8>) {
        let plain: Vec<u8> = (0..CHUNKS * CHUNK_LEN).map(|at| u8::try_from((at / CHUNK_LEN) % 251).unwrap()).collect();
        let store = MemoryStore::default();
        let file = File::Snapshot { seq: 1 };
        let mut listed = Vec::new();
        for (number, part_bytes) in (1..).zip(plain.chunks(usize::try_from(CHUNKS * CHUNK_LEN / 3).unwrap())) {
            let part = Part { number, of: 3 };
            let name = Object::Part(file, part).to_string();
            let object = seal(Sealing::None, &name, part_bytes, Padding::None).unwrap();
            store.put_new(&name, &object).unwrap();
            listed.push((part, object.len() as u64));
        }
        (Arc::new(store), ObjectFile::new(file, &listed).unwrap(), plain)
    }

    fn chunks(store: &Arc<MemoryStore>) -> Arc<Chunks> {
        Arc::new(Chunks::new(Arc::clone(store) as _, None, None))
    }

    #[test]
    fn what_is_read_in_order_is_fetched_ahead_with_few_requests() {
        let (store, file, plain) = long_file();
        let (chunks, before) = (chunks(&store), store.calls());
        let mut bytes = [0; 4096];
        for (at, expected) in (0..).step_by(bytes.len()).zip(plain.chunks(bytes.len())) {
            assert_eq!(file.read_at(&chunks, &mut bytes, at).unwrap(), bytes.len());
            assert_eq!(bytes, expected, "at {at}");
        }
        let requests = store.calls() - before;
        // Windows of 4, 8, 16, ... chunks; what a request has already is not asked for again. Two threads may both fetch a header.
        assert!(requests <= 40, "{requests} requests");
    }

    #[test]
    fn chunks_here_and_there_are_fetched_alone() {
        let (store, file, _) = long_file();
        let chunks = chunks(&store);
        // Header and chunk of a part come together only at its start.
        let before = store.calls();
        for chunk in [250, 0, 120, 70, 180] {
            file.read_at(&chunks, &mut [0; 4096], chunk * CHUNK_LEN).unwrap();
        }
        assert_eq!(store.calls() - before, 5 + 2);
    }

    #[test]
    fn a_reader_fetches_what_could_not_be_fetched_ahead() {
        for calls in 0..12 {
            let (store, file, plain) = long_file();
            let chunks = chunks(&store);
            store.cut_after(calls, Cut::Before);
            let mut bytes = vec![0; plain.len()];
            for (at, piece) in (0..).step_by(5000).zip(bytes.chunks_mut(5000)) {
                if file.read_at(&chunks, piece, at).is_err() {
                    store.heal();
                    file.read_at(&chunks, piece, at).unwrap();
                }
            }
            assert!(bytes == plain, "cut after {calls} calls");
        }
    }
}

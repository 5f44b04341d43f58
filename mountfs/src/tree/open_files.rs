//! [`OpenFiles`]: the files that are open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use common::{ReadError, View};

use crate::tree::attr::Attr;
use crate::tree::prefill::Reading;

/// An open file: its bytes stay the same for as long as it is open, even when its version is rewound meanwhile.
pub struct OpenFile {
    /// The attributes at the time of opening.
    pub attr: Attr,
    /// The source of its bytes.
    pub content: Content,
    /// The access pattern.
    pub reading: Reading,
}

/// The source of the bytes of an open file.
pub enum Content {
    /// A database, read page by page.
    View(Arc<View>),
    /// A short text, made at the time of opening.
    Text(Arc<[u8]>),
}

impl Content {
    /// The size of the file in bytes.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::View(view) => view.size_bytes(),
            Self::Text(text) => text.len() as u64,
        }
    }

    /// Fills `out` with the bytes from `offset` on, and returns their number; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`ReadError`] when a page of the database cannot be read.
    pub fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<usize, ReadError> {
        match self {
            Self::View(view) => view.read_at(offset, out),
            Self::Text(text) => {
                let rest = usize::try_from(offset).ok().and_then(|start| text.get(start..)).unwrap_or_default();
                let read = rest.len().min(out.len());
                out[..read].copy_from_slice(&rest[..read]);
                Ok(read)
            }
        }
    }

    /// The number of bytes, up to `size`, that the file has from `offset` on.
    pub fn available(&self, offset: u64, size: u32) -> usize {
        let rest = self.size_bytes().saturating_sub(offset);
        usize::try_from(rest.min(u64::from(size))).unwrap_or(0)
    }
}

/// The open files by their handles. Reads of many files go on side by side.
#[derive(Default)]
pub struct OpenFiles {
    newest_handle: AtomicU64,
    files: RwLock<HashMap<u64, Arc<OpenFile>>>,
}

impl OpenFiles {
    /// Keeps the file until [`close`](Self::close) and returns its handle, which is never used again.
    pub fn insert(&self, file: OpenFile) -> u64 {
        let handle = self.newest_handle.fetch_add(1, Ordering::Relaxed) + 1;
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(handle, Arc::new(file));
        handle
    }

    /// The databases that are open.
    pub fn views(&self) -> Vec<Arc<View>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let view = |file: &Arc<OpenFile>| match &file.content {
            Content::View(view) => Some(Arc::clone(view)),
            Content::Text(_) => None,
        };
        files.values().filter_map(view).collect()
    }

    /// The inodes of the open files.
    pub fn inodes(&self) -> Vec<u64> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.values().map(|file| file.attr.inode).collect()
    }

    /// The file with this handle; `None` when it is not open.
    pub fn get(&self, handle: u64) -> Option<Arc<OpenFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    /// Closes a file. Reads that are under way still finish.
    pub fn close(&self, handle: u64) {
        let closed = self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        if let Some(file) = closed {
            file.reading.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_to_its_end_and_not_beyond() {
        let content = Content::Text(Arc::from(b"0123456789".as_slice()));
        assert_eq!(content.size_bytes(), 10);
        let read = |offset, size| {
            let mut bytes = vec![0; size];
            let read = content.read_into(offset, &mut bytes).unwrap();
            assert_eq!(read, content.available(offset, u32::try_from(size).unwrap()));
            bytes.truncate(read);
            bytes
        };
        assert_eq!(read(0, 4), b"0123");
        assert_eq!(read(8, 4), b"89");
        for offset in [10, 11, u64::MAX] {
            assert_eq!(read(offset, 1000), b"", "{offset}");
        }
    }
}

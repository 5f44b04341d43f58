//! [`OpenFiles`]: what has been opened and not yet closed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use common::{ReadError, View};

use crate::attr::Attr;

/// An open file: its bytes stay the same for as long as it is open, even when its version is rewound meanwhile.
pub struct OpenFile {
    /// The attributes it had when it was opened.
    pub attr: Attr,
    /// Where its bytes come from.
    pub content: Content,
}

/// Where the bytes of an open file come from.
pub enum Content {
    /// A database, read page by page.
    View(Arc<View>),
    /// A short text, made when it was opened.
    Text(Arc<[u8]>),
}

impl Content {
    /// Bytes of the file.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::View(view) => view.size_bytes(),
            Self::Text(text) => text.len() as u64,
        }
    }

    /// Up to `size` bytes from `offset` on; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`ReadError`] when a page of the database cannot be read.
    pub fn read(&self, offset: u64, size: u32) -> Result<Vec<u8>, ReadError> {
        let rest = self.size_bytes().saturating_sub(offset);
        let size = usize::try_from(rest.min(u64::from(size))).unwrap_or(0);
        match self {
            Self::View(view) => {
                let mut bytes = vec![0; size];
                let read = view.read_at(offset, &mut bytes)?;
                bytes.truncate(read);
                Ok(bytes)
            }
            Self::Text(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                Ok(text[start..start + size].to_vec())
            }
        }
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

    /// The file with this handle; `None` when it is not open.
    pub fn get(&self, handle: u64) -> Option<Arc<OpenFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    /// Forgets a file. What is being read from it still finishes.
    pub fn close(&self, handle: u64) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_to_its_end_and_not_beyond() {
        let content = Content::Text(Arc::from(b"0123456789".as_slice()));
        assert_eq!(content.size_bytes(), 10);
        assert_eq!(content.read(0, 4).unwrap(), b"0123");
        assert_eq!(content.read(8, 4).unwrap(), b"89");
        for offset in [10, 11, u64::MAX] {
            assert_eq!(content.read(offset, u32::MAX).unwrap(), b"", "{offset}");
        }
    }
}

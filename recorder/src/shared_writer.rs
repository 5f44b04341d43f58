//! [`SharedWriter`]: the backup writer that two threads use, one at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use common::BackupWriter;

/// The [`BackupWriter`] of the thread that answers hooks, which the thread that drains the spool locks for a moment.
#[derive(Debug, Clone)]
pub struct SharedWriter(Arc<Mutex<BackupWriter>>);

/// A [`SharedWriter`] that does not keep the writer open.
#[derive(Debug)]
pub struct WeakWriter(Weak<Mutex<BackupWriter>>);

impl SharedWriter {
    /// Shares a writer.
    pub fn new(writer: BackupWriter) -> Self {
        Self(Arc::new(Mutex::new(writer)))
    }

    /// Locks the writer.
    pub fn lock(&self) -> MutexGuard<'_, BackupWriter> {
        // A panic in the other thread ends the process or leaves a writer that refuses.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle that does not keep the writer open.
    pub fn downgrade(&self) -> WeakWriter {
        WeakWriter(Arc::downgrade(&self.0))
    }

    /// The writer itself, if no other thread has it just now.
    ///
    /// # Errors
    /// This handle, while another thread uses the writer.
    pub fn into_inner(self) -> Result<BackupWriter, Self> {
        let writer = Arc::try_unwrap(self.0).map_err(Self)?;
        Ok(writer.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WeakWriter {
    /// The writer, unless its owner has closed it.
    pub fn upgrade(&self) -> Option<SharedWriter> {
        self.0.upgrade().map(SharedWriter)
    }
}

//! [`Uploads`]: objects sealed and stored, and counted.

use std::sync::Arc;

use crate::copy_error::CopyError;
use crate::keys::master_key::MasterKey;
use crate::seal::layout::Padding;
use crate::seal::{Sealing, seal};
use crate::store::{Failure, Store};

/// Seals objects and stores them.
#[derive(Debug)]
pub struct Uploads {
    store: Arc<dyn Store>,
    key: Option<MasterKey>,
    objects: u64,
    bytes: u64,
}

impl Uploads {
    /// Uploads to this store, encrypted with this key, or not.
    pub fn new(store: Arc<dyn Store>, key: Option<MasterKey>) -> Self {
        Self { store, key, objects: 0, bytes: 0 }
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The number of uploads so far.
    pub fn objects(&self) -> u64 {
        self.objects
    }

    /// The number of bytes uploaded so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Seals an object.
    ///
    /// # Errors
    /// When there are no random bytes.
    pub fn seal(&self, name: &str, plain: &[u8], padding: Padding) -> Result<Vec<u8>, CopyError> {
        let sealing = self.key.as_ref().map_or(Sealing::None, Sealing::Key);
        Ok(seal(sealing, name, plain, padding)?)
    }

    /// Seals an object and stores it; returns its length. An object with this name that exists already counts as this one: a name
    /// says what the contents are.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn put(&mut self, name: &str, plain: &[u8], padding: Padding) -> Result<u64, CopyError> {
        let object = self.seal(name, plain, padding)?;
        self.put_sealed(name, &object)?;
        Ok(object.len() as u64)
    }

    /// Stores a sealed object.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn put_sealed(&mut self, name: &str, object: &[u8]) -> Result<(), CopyError> {
        self.count(object);
        self.store.put_new(name, object)?;
        Ok(())
    }

    /// Seals an object and stores it in place of any with this name.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn replace(&mut self, name: &str, plain: &[u8]) -> Result<(), CopyError> {
        let object = self.seal(name, plain, Padding::PowerOfTwo)?;
        self.count(&object);
        self.store.replace(name, &object)?;
        Ok(())
    }

    /// Whether an object exists.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn exists(&self, name: &str) -> Result<bool, CopyError> {
        match self.store.get(name, Some(0..1)) {
            Ok(_) => Ok(true),
            Err(error) if error.failure == Failure::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn count(&mut self, object: &[u8]) {
        self.objects += 1;
        self.bytes += object.len() as u64;
    }
}

//! [`Uploads`]: objects sealed and stored, and counted.

use std::sync::Arc;

use common::Timestamp;

use crate::copy_error::CopyError;
use crate::keys::key_ring::KeyRing;
use crate::keys::master_key::MasterKey;
use crate::seal::layout::Padding;
use crate::seal::{Opening, Sealing, open, seal};
use crate::store::{ConditionalPut, Put, Store, probe_conditional_put};

/// Microseconds of a day.
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Seals objects and stores them.
#[derive(Debug)]
pub struct Uploads {
    store: Arc<dyn Store>,
    key: Option<MasterKey>,
    objects: u64,
    bytes: u64,
    /// The day since 1970 of the newest uploads, and their number.
    today: (i64, u64),
}

impl Uploads {
    /// Uploads to this store, encrypted with this key, or not.
    pub fn new(store: Arc<dyn Store>, key: Option<MasterKey>) -> Self {
        Self { store, key, objects: 0, bytes: 0, today: (0, 0) }
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

    /// The day since 1970, and the number of uploads on it (UTC), failed ones included.
    pub fn today(&self) -> (i64, u64) {
        let (day, count) = self.today;
        let today = day_of(Timestamp::now());
        (today, if day == today { count } else { 0 })
    }

    /// Seals an object.
    ///
    /// # Errors
    /// When there are no random bytes.
    pub fn seal(&self, name: &str, plain: &[u8], padding: Padding) -> Result<Vec<u8>, CopyError> {
        let sealing = self.key.as_ref().map_or(Sealing::None, Sealing::Key);
        Ok(seal(sealing, name, plain, padding)?)
    }

    /// Stores a sealed object under a new name. A name that is taken has what this object has, from an attempt that was cut off or came
    /// late: a name says what the contents are. Only what does not open is replaced.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn put_new(&mut self, name: &str, object: &[u8]) -> Result<(), CopyError> {
        self.count(object);
        if self.store.put_new(name, object)? == Put::Exists && !self.opens(name, &self.store.get(name, None)?) {
            self.replace(name, object)?;
        }
        Ok(())
    }

    fn opens(&self, name: &str, object: &[u8]) -> bool {
        let keys = self.key.clone().map(|key| KeyRing::from_iter([key]));
        open(keys.as_ref().map_or(Opening::None, Opening::Keys), name, object).is_ok()
    }

    /// Stores a sealed object in place of any with this name.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn replace(&mut self, name: &str, object: &[u8]) -> Result<(), CopyError> {
        self.count(object);
        self.store.replace(name, object)?;
        Ok(())
    }

    /// Seals an object and stores it twice, which shows what the store does with a name that is taken.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn put_and_probe(&mut self, name: &str, plain: &[u8]) -> Result<ConditionalPut, CopyError> {
        let object = self.seal(name, plain, Padding::PowerOfTwo)?;
        self.count(&object);
        self.count(&object);
        Ok(probe_conditional_put(&*self.store, name, &object)?)
    }

    fn count(&mut self, object: &[u8]) {
        let day = day_of(Timestamp::now());
        self.today = if self.today.0 == day { (day, self.today.1 + 1) } else { (day, 1) };
        self.objects += 1;
        self.bytes += object.len() as u64;
    }
}

fn day_of(time: Timestamp) -> i64 {
    time.as_micros().div_euclid(DAY_MICROS)
}

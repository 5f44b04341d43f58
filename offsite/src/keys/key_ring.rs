//! [`KeyRing`]: the master keys of a copy that were unlocked.

use std::collections::BTreeMap;
use std::fmt;

use super::master_key::{KeyId, MasterKey};

/// Master keys by their id. A copy has several when its key was changed, or when its node keeps no key that reads what it shipped.
#[derive(Clone, Default)]
pub struct KeyRing(BTreeMap<KeyId, MasterKey>);

impl KeyRing {
    /// The key of this id.
    pub fn get(&self, id: KeyId) -> Option<&MasterKey> {
        self.0.get(&id)
    }

    /// Adds a key.
    pub fn insert(&mut self, key: MasterKey) {
        self.0.insert(key.id(), key);
    }

    /// The ids of all keys, ascending.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.keys().copied()
    }

    /// Whether it has no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<MasterKey> for KeyRing {
    fn from_iter<T: IntoIterator<Item = MasterKey>>(keys: T) -> Self {
        Self(keys.into_iter().map(|key| (key.id(), key)).collect())
    }
}

impl fmt::Debug for KeyRing {
    /// The ids only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

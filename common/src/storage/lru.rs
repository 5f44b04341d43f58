//! A bounded LRU cache.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::FixedState;

/// A bounded LRU cache. Its hash has no secret: a hostile backup could choose seqs and offsets that collide, and make the cache slow,
/// but its size bounds by how much.
#[derive(Debug)]
pub struct RecentlyUsed<K, V> {
    entries: HashMap<K, Entry<V>, FixedState>,
    most: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    used: u64,
}

impl<K: Eq + Hash, V: Clone> RecentlyUsed<K, V> {
    /// An empty cache for at most `most` entries.
    pub fn new(most: usize) -> Self {
        Self { entries: HashMap::default(), most, clock: 0 }
    }

    /// The value of a key, which counts as used now.
    pub fn get(&mut self, key: K) -> Option<V> {
        self.clock += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.clock;
        Some(entry.value.clone())
    }

    /// Inserts a value. When the cache is full, a quarter of it is evicted at once: finding the oldest entry each time would cost
    /// more than the cache saves.
    pub fn insert(&mut self, key: K, value: V) {
        self.clock += 1;
        self.entries.insert(key, Entry { value, used: self.clock });
        if self.entries.len() > self.most {
            let mut used: Vec<u64> = self.entries.values().map(|entry| entry.used).collect();
            let (_, &mut oldest_kept, _) = used.select_nth_unstable(self.most / 4);
            self.entries.retain(|_, entry| entry.used > oldest_kept);
        }
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays() {
        let mut cache = RecentlyUsed::new(8);
        for key in 0..8 {
            cache.insert(key, key * 10);
        }
        assert_eq!(cache.get(0), Some(0));
        for key in 8..100 {
            cache.insert(key, key * 10);
            assert_eq!(cache.get(0), Some(0));
            assert_eq!(cache.get(key), Some(key * 10));
            assert!(cache.entries.len() <= 8);
        }
        assert_eq!(cache.get(1), None);
        cache.clear();
        assert_eq!(cache.get(0), None);
    }

    #[test]
    fn a_cache_for_one_keeps_the_newest() {
        let mut cache = RecentlyUsed::new(1);
        cache.insert(1, 1);
        cache.insert(2, 2);
        assert_eq!((cache.get(1), cache.get(2)), (None, Some(2)));
    }
}

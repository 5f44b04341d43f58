//! [`MemoryStore`]: a store in memory that can be cut off at any call, for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use crate::store::{Failure, Listed, Put, Store, StoreError};

/// Where a call is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing was stored.
    Before,
    /// It was stored, and the answer was lost.
    After,
    /// An object of its length was stored whose end is zeros, and there was no answer.
    Damaged,
}

#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    calls: u64,
    /// Whether it refuses a name that is taken. Some stores ignore the condition.
    conditional: bool,
    /// From this call on nothing works.
    cut: Option<(u64, Cut)>,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From the call after `calls` more on, nothing works.
    pub fn cut_after(&self, calls: u64, cut: Cut) {
        let mut state = self.state();
        state.cut = Some((state.calls + calls, cut));
    }

    /// From now on it refuses, or takes, a name that is taken.
    pub fn set_conditional(&self, conditional: bool) {
        self.state().conditional = conditional;
    }

    pub fn heal(&self) {
        self.state().cut = None;
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.state().objects.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Changes the objects behind the back of shipper and readers.
    pub fn tamper(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        change(&mut self.state().objects);
    }

    fn call(&self) -> (MutexGuard<'_, State>, Option<Cut>) {
        let mut state = self.state();
        state.calls += 1;
        let cut = state.cut.filter(|&(from, _)| state.calls > from);
        // Only the first cut call may have had an effect.
        let cut = cut.map(|(from, cut)| if state.calls == from + 1 { cut } else { Cut::Before });
        (state, cut)
    }
}

fn unreachable() -> StoreError {
    StoreError { failure: Failure::Unreachable, message: "the store was cut off".to_owned() }
}

fn not_found(name: &str) -> StoreError {
    StoreError { failure: Failure::NotFound, message: format!("there is no {name}") }
}

impl Store for MemoryStore {
    fn url(&self) -> String {
        "memory://store".to_owned()
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let (state, cut) = self.call();
        if cut.is_some() {
            return Err(unreachable());
        }
        let all = state.objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(all.map(|(name, bytes)| Listed { name: name.clone(), len: bytes.len() as u64 }).collect())
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let (state, cut) = self.call();
        if cut.is_some() {
            return Err(unreachable());
        }
        let bytes = state.objects.get(name).ok_or_else(|| not_found(name))?;
        let range = range.unwrap_or(0..bytes.len() as u64);
        let at = |offset: u64| usize::try_from(offset).unwrap().min(bytes.len());
        Ok(bytes[at(range.start)..at(range.end)].to_vec())
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        let is_taken = {
            let state = self.state();
            state.conditional && state.objects.contains_key(name)
        };
        if is_taken {
            let cut = self.call().1;
            return if cut.is_some() { Err(unreachable()) } else { Ok(Put::Exists) };
        }
        self.replace(name, bytes).map(|()| Put::Stored)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (mut state, cut) = self.call();
        let mut stored = bytes.to_vec();
        match cut {
            Some(Cut::Before) => return Err(unreachable()),
            Some(Cut::Damaged) => stored[bytes.len() / 2..].fill(0),
            Some(Cut::After) | None => {}
        }
        state.objects.insert(name.to_owned(), stored);
        if cut.is_some() { Err(unreachable()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.state().objects.remove(name);
        Ok(())
    }
}

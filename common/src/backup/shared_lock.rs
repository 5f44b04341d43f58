//! [`SharedLock`]: the lock of a backup, and what those agree on who change it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use format::units::Seq;

/// The lock of a backup, held until the last clone is dropped: whoever changes the backup has one.
#[derive(Debug, Clone)]
pub struct SharedLock {
    _held: Arc<dyn fmt::Debug + Send + Sync>,
    healing: Arc<Mutex<Healing>>,
    /// Seq of the first change that does not replay, and that no snapshot is behind; 0 when none is known.
    unreplayable: Arc<AtomicU64>,
}

/// Whether a snapshot is being taken of which there is no record yet: then nobody else can know what it builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Healing {
    No,
    Yes,
}

/// A snapshot is being taken until this is dropped.
#[derive(Debug)]
pub(crate) struct HealUnderWay(SharedLock);

impl SharedLock {
    /// That which is held by `lock`.
    pub(crate) fn of(lock: impl Into<Arc<dyn fmt::Debug + Send + Sync>>) -> Self {
        let (healing, unreplayable) = (Arc::new(Mutex::new(Healing::No)), Arc::default());
        Self { _held: lock.into(), healing, unreplayable }
    }

    /// Asks for a snapshot with the next write: the change with this seq does not replay.
    pub fn ask_for_snapshot(&self, unreplayable: Seq) {
        self.unreplayable.store(unreplayable.get(), Ordering::Release);
    }

    pub(crate) fn unreplayable(&self) -> Option<Seq> {
        Seq::new(self.unreplayable.load(Ordering::Acquire))
    }

    /// There is a snapshot behind what did not replay.
    pub(crate) fn forget_unreplayable(&self, seq: Seq) {
        // What was found meanwhile stays.
        let _newer = self.unreplayable.compare_exchange(seq.get(), 0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Does what changes what a snapshot may build on, unless one is being taken. One that begins meanwhile waits for it.
    pub(crate) fn unless_healing<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let healing = self.healing.lock().unwrap_or_else(PoisonError::into_inner);
        (*healing == Healing::No).then(change)
    }

    /// As a recorder does that takes a snapshot, until what is returned is dropped.
    #[cfg(test)]
    pub(crate) fn pretend_to_heal(&self) -> impl Drop + use<> {
        self.begin_to_heal()
    }

    pub(crate) fn begin_to_heal(&self) -> HealUnderWay {
        *self.healing.lock().unwrap_or_else(PoisonError::into_inner) = Healing::Yes;
        HealUnderWay(self.clone())
    }
}

impl Drop for HealUnderWay {
    fn drop(&mut self) {
        *self.0.healing.lock().unwrap_or_else(PoisonError::into_inner) = Healing::No;
    }
}

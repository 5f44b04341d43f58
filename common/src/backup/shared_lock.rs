//! [`SharedLock`]: the lock of a backup, with state shared by all that modify it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use format::units::Seq;

/// The lock of a backup, released when the last clone is dropped: every component that modifies the backup has one.
#[derive(Debug, Clone)]
pub struct SharedLock {
    _held: Arc<dyn fmt::Debug + Send + Sync>,
    healing: Arc<Mutex<Healing>>,
    /// Seq of the first change that does not replay, without a snapshot behind it; 0 when none is known.
    unreplayable: Arc<AtomicU64>,
}

/// Whether a snapshot is being taken that has no record yet: until then its base is not known to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Healing {
    No,
    Yes,
}

/// Marks a snapshot in progress until it is dropped.
#[derive(Debug)]
pub(crate) struct HealUnderWay(SharedLock);

impl SharedLock {
    /// Wraps a lock.
    pub(crate) fn of(lock: impl Into<Arc<dyn fmt::Debug + Send + Sync>>) -> Self {
        let (healing, unreplayable) = (Arc::new(Mutex::new(Healing::No)), Arc::default());
        Self { _held: lock.into(), healing, unreplayable }
    }

    /// Requests a snapshot with the next write, because the change with this seq does not replay.
    pub fn ask_for_snapshot(&self, unreplayable: Seq) {
        self.unreplayable.store(unreplayable.get(), Ordering::Release);
    }

    pub(crate) fn unreplayable(&self) -> Option<Seq> {
        Seq::new(self.unreplayable.load(Ordering::Acquire))
    }

    /// Withdraws the request after the snapshot.
    pub(crate) fn forget_unreplayable(&self, seq: Seq) {
        // A change found meanwhile stays.
        let _newer = self.unreplayable.compare_exchange(seq.get(), 0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Runs `change`, which modifies what a snapshot may build on, unless a snapshot is in progress. One that begins meanwhile
    /// waits.
    pub(crate) fn unless_healing<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let healing = self.healing.lock().unwrap_or_else(PoisonError::into_inner);
        (*healing == Healing::No).then(change)
    }

    /// Marks a snapshot in progress, as a recorder does, until the result is dropped.
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

//! Mutexes, condition variables, channels and threads, for the modules that are tested under a model checker.
//!
//! They are those of `std`. Only in a test build with the feature `shuttle` they are those of the model checker of that name. It
//! runs a test many times, each time with the steps of its threads in another order, and so finds races, deadlocks and lost
//! wake-ups that a test with a clock hardly ever hits. Tests of that kind are in modules named `shuttle_tests`.

#[cfg(test)]
#[cfg(feature = "shuttle")]
pub(crate) mod model;

#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic, mpsc};
#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use std::thread;

#[cfg(all(test, feature = "shuttle"))]
pub(crate) use model::{Condvar, Mutex, MutexGuard, atomic, mpsc, thread};

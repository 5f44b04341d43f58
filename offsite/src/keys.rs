//! The keys of a copy: the master key, what it is wrapped by, and how it is unlocked again.
//!
//! * [`master_key`]: the random key that everything is encrypted with, and [`key_ring`]: several of them.

pub mod key_ring;
pub mod master_key;

//! A simulated `lightningd`, and recorded traces that `backupfs demo` and the tests play on it.

pub mod pretend_lightningd;
pub mod trace;

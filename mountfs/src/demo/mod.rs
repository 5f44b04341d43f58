//! A pretended `lightningd` and recorded traces for it: what `backupfs demo` and the tests play.

pub mod pretend_lightningd;
pub mod trace;

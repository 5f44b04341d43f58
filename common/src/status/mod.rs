//! What recorder and command line both tell of a backup.

pub(crate) mod fields;

//! Parity of sealed files: damage that a disk does to them is mended from blocks stored beside them.
//!
//! Every file that is never changed ([`Protected`](format::parity::Protected)) belongs to a *parity set*: one file with checksums of
//! all blocks of its members, and with parity blocks (Reed–Solomon). A snapshot is a set of its own; segments share one, so that a
//! run of bad sectors that is long for one of them is short for the set.
//!
//! * [`code`]: Reed–Solomon over one stripe; [`share`]: how many parity blocks there are.
//! * [`set_file`]: a parity file; [`mending`]: blocks of its members made again.
//! * [`healing`]: a directory whose files mend themselves in memory when a reader finds damage.
//! * [`sets`]: which sets there are and which are missing; [`writing`]: a set written; [`replacing`]: a small file replaced.

pub(crate) mod code;
pub(crate) mod healing;
pub(crate) mod mending;
pub(crate) mod replacing;
pub(crate) mod set_file;
pub(crate) mod sets;
pub mod share;
pub(crate) mod writing;

//! [`ChangeFlags`]: the flags of a change.

const FLAG_FIRST_OF_RUN: u8 = 1;
const FLAG_UNVERIFIED: u8 = 2;

/// Whether a change is the first one that a run of `lightningd` sent.
///
/// A new run has a new database connection, so PRAGMAs that riders of the previous run set are no longer in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStart {
    /// First change of a run.
    First,
    /// Any later change.
    Later,
}

/// Whether the node's database is known to have been at the previous version before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessor {
    /// The database was at that version, as far as a recorder can tell.
    Verified,
    /// The comparison is pending. If it finds a difference, a snapshot is taken and records that, and the versions of all
    /// unverified changes before it cannot be opened: they may build on another database.
    Unverified,
}

/// The flags of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeFlags {
    /// Whether the change begins a run.
    pub run_start: RunStart,
    /// Whether the previous version is verified.
    pub predecessor: Predecessor,
}

impl ChangeFlags {
    /// The bits that have a meaning.
    pub(crate) const ALL_BITS: u8 = FLAG_FIRST_OF_RUN | FLAG_UNVERIFIED;

    /// Flags of a change whose predecessor is verified.
    pub const fn verified(run_start: RunStart) -> Self {
        Self { run_start, predecessor: Predecessor::Verified }
    }

    pub(crate) const fn encode(self) -> u8 {
        let first = if matches!(self.run_start, RunStart::First) { FLAG_FIRST_OF_RUN } else { 0 };
        let unverified = if matches!(self.predecessor, Predecessor::Unverified) { FLAG_UNVERIFIED } else { 0 };
        first | unverified
    }

    pub(crate) const fn decode(flags: u8) -> Self {
        Self {
            run_start: if flags & FLAG_FIRST_OF_RUN == 0 { RunStart::Later } else { RunStart::First },
            predecessor: if flags & FLAG_UNVERIFIED == 0 { Predecessor::Verified } else { Predecessor::Unverified },
        }
    }
}

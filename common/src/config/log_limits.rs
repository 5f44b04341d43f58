//! [`LogLimits`]: when a log ends, and how far apart the keyframes of its segment are.

/// Minimum number of keyframes of a full log: opening a sealed version replays at most this fraction of the log.
const KEYFRAMES: u64 = 18;

/// Average steps of SQLite's virtual machine per statement of `lightningd`.
const STEPS_PER_STATEMENT: u64 = 100;

/// Capacity of a log. A single record may be larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Length in bytes, zero-filled at creation. Writes within it change no metadata, so their fdatasync is one write to the
    /// disk.
    pub bytes: u64,
    /// Maximum number of statements: until the log is sealed, opening its newest version replays all of them, at about 3 µs each.
    pub statements: usize,
}

impl Default for LogLimits {
    /// 4 MiB, which is about 900 changes of a busy node, or 12,000 statements.
    fn default() -> Self {
        Self { bytes: 4 << 20, statements: 12_000 }
    }
}

impl LogLimits {
    /// Environment variable with the number of statements, so that tests can seal a log after a few changes.
    pub const STATEMENTS_VARIABLE: &str = "BACKUPFS_LOG_STATEMENTS";

    /// The default limits, with the environment variable applied.
    pub fn from_env() -> Self {
        let statements = std::env::var(Self::STATEMENTS_VARIABLE).ok().and_then(|text| text.parse().ok());
        let usual = Self::default();
        Self { statements: statements.unwrap_or(usual.statements), ..usual }
    }

    /// Statements between keyframes; docs/format.md gives the cost of fewer.
    pub(crate) fn keyframe_statements(self) -> usize {
        self.statements.div_ceil(usize::try_from(KEYFRAMES).unwrap_or(usize::MAX))
    }

    /// Virtual machine steps between keyframes: twice those of as many ordinary statements. One statement may delete thousands of
    /// rows, or scan a table; versions behind the keyframe need not repeat that.
    pub(crate) fn keyframe_steps(self) -> u64 {
        STEPS_PER_STATEMENT * 2 * self.keyframe_statements() as u64
    }

    /// Bytes of statements between keyframes, however few the statements are.
    pub(crate) fn keyframe_bytes(self) -> u64 {
        self.bytes / 8
    }
}

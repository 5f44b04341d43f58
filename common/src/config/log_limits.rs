//! [`LogLimits`]: when a log ends, and how far apart the keyframes of its segment are.

/// Keyframes of a full log, at least: what opening a sealed version replays at most is the log divided by this.
const KEYFRAMES: u64 = 18;

/// Steps of SQLite's virtual machine that a statement of `lightningd` takes on average.
const STEPS_PER_STATEMENT: u64 = 100;

/// What a log holds before the next begins. A single record may be larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes; so many are zero-filled when the log is made. A write within them changes no metadata, so its fdatasync is
    /// one write to the disk.
    pub bytes: u64,
    /// Statements, even if there is room: until the log is sealed, whoever opens its newest version replays all of them, at
    /// about 3 µs each.
    pub statements: usize,
}

impl Default for LogLimits {
    /// 4 MiB, which is about 900 changes of a busy node, or 12,000 statements.
    fn default() -> Self {
        Self { bytes: 4 << 20, statements: 12_000 }
    }
}

impl LogLimits {
    /// The environment variable that sets the number of statements, so that a test need not record thousands of changes to
    /// see a log sealed.
    pub const STATEMENTS_VARIABLE: &str = "BACKUPFS_LOG_STATEMENTS";

    /// The usual limits, unless the environment says otherwise.
    pub fn from_env() -> Self {
        let statements = std::env::var(Self::STATEMENTS_VARIABLE).ok().and_then(|text| text.parse().ok());
        let usual = Self::default();
        Self { statements: statements.unwrap_or(usual.statements), ..usual }
    }

    /// Statements after which a keyframe is taken: docs/format.md has the price of fewer.
    pub(crate) fn keyframe_statements(self) -> usize {
        self.statements.div_ceil(usize::try_from(KEYFRAMES).unwrap_or(usize::MAX))
    }

    /// Steps of SQLite's virtual machine after which a keyframe is taken: twice what as many ordinary statements take. One
    /// statement may delete thousands of rows, or look at all rows of a table; what comes after it need not do so again.
    pub(crate) fn keyframe_steps(self) -> u64 {
        STEPS_PER_STATEMENT * 2 * self.keyframe_statements() as u64
    }

    /// Bytes of statements after which a keyframe is taken, however few they are.
    pub(crate) fn keyframe_bytes(self) -> u64 {
        self.bytes / 8
    }
}

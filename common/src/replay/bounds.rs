//! Bounds of replay: what a recorded statement may do, and the time and memory it may take.
//!
//! A backup may be on rented space, and its checksums are no signatures: an attacker with write access could insert any
//! statement. So every statement must end, within the memory of the machine, and modify only the overlay. The bounds are far
//! above what `lightningd` needs: the largest change of the recorded traces, which creates a new node's tables, takes 60,000
//! steps; migrations take up to 42,000.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ffi};

/// Limits for the replay of a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Steps of SQLite's virtual machine, for a database of any size.
    pub(crate) steps: u64,
    /// Additional steps per page: some changes scan every row.
    pub(crate) steps_per_page: u64,
    /// Growth of the process in bytes; also the limit of written pages.
    pub(crate) memory_bytes: u64,
    /// Time: a function can take long for a large value, in a single step.
    pub(crate) time: Duration,
}

/// Maximum number of pages that count for the steps: the database size in a backup need not be true.
const PAGES_COUNTED_MAX: u32 = 100_000;

/// Steps between calls of the progress handler; in between, memory use can exceed the limit only by a little.
const STEPS_BETWEEN_LOOKS: u16 = 256;

/// Minimum time between measurements of the process: most changes end before the first.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(5);

/// Maximum length of a string, a blob or a row, unless the statements of the change are longer.
const VALUE_BYTES_MAX: c_int = 64 << 20;

/// SQLite's default limit, and so that of `lightningd`.
const VALUE_BYTES_OF_SQLITE: c_int = 1_000_000_000;

/// Memory allowed per byte of a change's statements, where that exceeds the share of the machine's memory. Rows take no more
/// space than their text, and an index of all columns no more than the rows.
const MEMORY_PER_BYTE: u64 = 4;

/// Maximum length of a pattern: matching takes as many steps as the product of both lengths.
const PATTERN_BYTES_MAX: c_int = 1000;

impl Default for Bounds {
    /// Some seconds for a small database, a quarter of an hour for a large one.
    fn default() -> Self {
        let memory_bytes = *MEMORY_SHARE;
        let time = Duration::from_secs(2 * 60 * 60);
        Self { steps: 200_000_000, steps_per_page: 1_000_000, memory_bytes, time }
    }
}

impl Bounds {
    /// The bounds for a change with this many bytes of statements.
    pub(super) fn of_change(self, statement_bytes: u64) -> Self {
        Self { memory_bytes: self.memory_bytes.max(statement_bytes.saturating_mul(MEMORY_PER_BYTE)), ..self }
    }
}

/// Value limit for a change with this many bytes of statements; `None` for the default.
fn value_limit(statement_bytes: u64) -> Option<c_int> {
    let bytes = c_int::try_from(statement_bytes).unwrap_or(c_int::MAX);
    (bytes > VALUE_BYTES_MAX).then_some(bytes.min(VALUE_BYTES_OF_SQLITE))
}

/// Raises the value limit for a change to the length of its statements.
pub(super) fn with_values_of<T>(
    connection: &Connection,
    statement_bytes: u64,
    work: impl FnOnce() -> T,
) -> rusqlite::Result<T> {
    let Some(limit) = value_limit(statement_bytes) else { return Ok(work()) };
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, limit)?;
    let done = work();
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    Ok(done)
}

/// A quarter of the machine's memory.
static MEMORY_SHARE: LazyLock<u64> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let kib = total.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(4 << 20);
    (kib * 1024 / 4).max(256 << 20)
});

/// The reason why a statement was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfBounds {
    /// The statement exceeds this number of steps.
    Steps(u64),
    /// The statement exceeds this many bytes of memory.
    Memory(u64),
    /// The change exceeds this time.
    Time(Duration),
    /// The statement uses something that affects the process rather than the database.
    Forbidden(Forbidden),
}

/// The features of SQL that no recorded statement may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// A PRAGMA that is not known to concern only the database.
    Pragma,
    /// A module of a virtual table.
    VirtualTable,
    /// A function that loads code.
    Function,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "takes more than {steps} steps of SQLite's machine"),
            Self::Memory(bytes) => write!(f, "needs more than {} MiB of memory", bytes >> 20),
            Self::Time(time) => write!(f, "takes longer than {} s", time.as_secs()),
            Self::Forbidden(Forbidden::Pragma) => f.write_str("uses a PRAGMA that may act on more than the database"),
            Self::Forbidden(Forbidden::VirtualTable) => f.write_str("makes a virtual table"),
            Self::Forbidden(Forbidden::Function) => f.write_str("calls a function that loads code"),
        }
    }
}

/// PRAGMAs about storage and caching: they have no effect on an overlay.
const IGNORED_PRAGMAS: &[&CStr] = &[
    c"automatic_index",
    c"busy_timeout",
    c"cache_size",
    c"cache_spill",
    c"checkpoint_fullfsync",
    c"fullfsync",
    c"hard_heap_limit",
    c"journal_mode",
    c"journal_size_limit",
    c"locking_mode",
    c"max_page_count",
    c"mmap_size",
    c"read_uncommitted",
    c"soft_heap_limit",
    c"synchronous",
    c"temp_store",
    c"threads",
    c"wal_autocheckpoint",
    c"wal_checkpoint",
];

/// PRAGMAs about the contents of a database, or the effect of statements.
const PRAGMAS: &[&CStr] = &[
    c"analysis_limit",
    c"application_id",
    c"auto_vacuum",
    c"case_sensitive_like",
    c"cell_size_check",
    c"collation_list",
    c"database_list",
    c"defer_foreign_keys",
    c"encoding",
    c"foreign_key_check",
    c"foreign_key_list",
    c"foreign_keys",
    c"freelist_count",
    c"ignore_check_constraints",
    c"incremental_vacuum",
    c"index_info",
    c"index_list",
    c"index_xinfo",
    c"integrity_check",
    c"legacy_alter_table",
    c"optimize",
    c"page_count",
    c"page_size",
    c"quick_check",
    c"recursive_triggers",
    c"reverse_unordered_selects",
    c"secure_delete",
    // Executed between two replays on one connection.
    c"shrink_memory",
    c"table_info",
    c"table_list",
    c"table_xinfo",
    c"user_version",
];

/// Functions that load code, if SQLite was built with them.
const FORBIDDEN_FUNCTIONS: &[&CStr] = &[c"load_extension", c"fts3_tokenizer"];

fn is_one_of(name: &CStr, names: &[&CStr]) -> bool {
    names.iter().any(|known| known.to_bytes().eq_ignore_ascii_case(name.to_bytes()))
}

/// Use of the bounds by the change that is being replayed in this thread.
#[derive(Debug, Clone, Copy)]
struct Watched {
    bounds: Bounds,
    steps_max: u64,
    steps: u64,
    started: Instant,
    /// Time of the last measurement, and the size of the process at the first.
    looked: Option<(Instant, u64)>,
    out_of_bounds: Option<OutOfBounds>,
}

thread_local! {
    static WATCHED: Cell<Option<Watched>> = const { Cell::new(None) };
}

/// Executes a change of a database of this size within `bounds`; also returns the bound that stopped it.
pub(super) fn within<T>(bounds: &Bounds, page_count: u32, work: impl FnOnce() -> T) -> (T, Option<OutOfBounds>) {
    let per_page = bounds.steps_per_page.saturating_mul(page_count.min(PAGES_COUNTED_MAX).into());
    WATCHED.set(Some(Watched {
        bounds: *bounds,
        steps_max: bounds.steps.saturating_add(per_page),
        steps: 0,
        started: Instant::now(),
        looked: None,
        out_of_bounds: None,
    }));
    let done = work();
    (done, WATCHED.take().and_then(|watched| watched.out_of_bounds))
}

/// Applies the bounds to a new connection.
pub(super) fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    // No ATTACH, and no VACUUM, which attaches: with them a statement could write to any file of the user who opens the backup.
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES_MAX)?;
    // Schema and pages are written only through tables.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // SAFETY: the connection is open; both functions use only statics and data of this thread.
    unsafe {
        ffi::sqlite3_progress_handler(
            connection.handle(),
            STEPS_BETWEEN_LOOKS.into(),
            Some(is_out_of_bounds),
            std::ptr::null_mut(),
        );
        ffi::sqlite3_set_authorizer(connection.handle(), Some(authorize), std::ptr::null_mut());
    }
    Ok(())
}

impl Watched {
    /// The bound that was exceeded, if any.
    fn look(&mut self) -> Option<OutOfBounds> {
        let Bounds { memory_bytes, time, .. } = self.bounds;
        if self.steps > self.steps_max {
            return Some(OutOfBounds::Steps(self.steps_max));
        }
        let now = Instant::now();
        if now.duration_since(self.started) > time {
            return Some(OutOfBounds::Time(time));
        }
        let (before, size) = self.looked.unwrap_or((self.started, u64::MAX));
        if now.duration_since(before) < LOOKED_AT_EVERY {
            return None;
        }
        let size_now = process_bytes();
        self.looked = Some((now, size.min(size_now)));
        (size_now.saturating_sub(size) > memory_bytes).then_some(OutOfBounds::Memory(memory_bytes))
    }
}

/// Memory of this process in bytes: SQLite is built without its own statistics.
fn process_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    resident.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Progress handler, called while SQLite executes and prepares. Does not panic.
unsafe extern "C" fn is_out_of_bounds(_: *mut c_void) -> c_int {
    let Some(mut watched) = WATCHED.get() else { return 0 };
    watched.steps = watched.steps.saturating_add(STEPS_BETWEEN_LOOKS.into());
    watched.out_of_bounds = watched.out_of_bounds.or_else(|| watched.look());
    WATCHED.set(Some(watched));
    watched.out_of_bounds.is_some().into()
}

/// Authorizer, called while SQLite prepares a statement. Does not panic.
unsafe extern "C" fn authorize(
    _: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _: *const c_char,
    _: *const c_char,
) -> c_int {
    let name = match action {
        ffi::SQLITE_PRAGMA => first,
        ffi::SQLITE_FUNCTION => second,
        ffi::SQLITE_CREATE_VTABLE => return forbid(Forbidden::VirtualTable),
        _ => return ffi::SQLITE_OK,
    };
    // SAFETY: SQLite passes null or a NUL-terminated string that lives during the call.
    let name = if name.is_null() { c"" } else { unsafe { CStr::from_ptr(name) } };
    if action == ffi::SQLITE_FUNCTION {
        if is_one_of(name, FORBIDDEN_FUNCTIONS) { forbid(Forbidden::Function) } else { ffi::SQLITE_OK }
    } else if is_one_of(name, PRAGMAS) {
        ffi::SQLITE_OK
    } else if is_one_of(name, IGNORED_PRAGMAS) {
        ffi::SQLITE_IGNORE
    } else {
        forbid(Forbidden::Pragma)
    }
}

fn forbid(what: Forbidden) -> c_int {
    if let Some(mut watched) = WATCHED.get() {
        watched.out_of_bounds.get_or_insert(OutOfBounds::Forbidden(what));
        WATCHED.set(Some(watched));
    }
    ffi::SQLITE_DENY
}

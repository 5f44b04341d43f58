//! The overlay as a SQLite VFS: a database file whose writes stay in memory. No journal, no locks, no temporary files.
//!
//! A connection opens an overlay by a name that a table of this module resolves. The methods follow SQLite's "OS Interface"
//! documentation (`sqlite3_vfs`, `sqlite3_io_methods` version 1).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use rusqlite::{Connection, OpenFlags, ffi};

use super::{Overlay, OverlayPages, PageSource as _};
use crate::storage::read_error::ReadError;
use format::units::{PageNo, Timestamp};

const VFS_NAME: &CStr = c"backupfs-overlay";

/// The mounted overlays, by the number that is their file name.
static MOUNTED: LazyLock<Mutex<HashMap<u64, Arc<Mutex<Overlay>>>>> = LazyLock::new(Mutex::default);

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The time that `strftime('%s', 'now')` and similar functions return in this thread.
    static REPLAY_CLOCK: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// Runs `work` with SQLite's clock at `now`, for connections of this thread to overlays.
///
/// CLN's migrations query the time in SQL; replay must give what `lightningd` got.
pub(crate) fn with_replay_clock<T>(now: Timestamp, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Timestamp>);
    impl Drop for Restore {
        fn drop(&mut self) {
            REPLAY_CLOCK.set(self.0);
        }
    }
    let _restore = Restore(REPLAY_CLOCK.replace(Some(now)));
    work()
}

/// An overlay that SQLite can open. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct MountedOverlay {
    number: u64,
    overlay: Arc<Mutex<Overlay>>,
}

impl MountedOverlay {
    /// An overlay without a limit.
    pub(crate) fn new(pages: OverlayPages) -> Self {
        Self::with_room(pages, u64::MAX)
    }

    /// An overlay whose writes fail beyond this many bytes of pages.
    pub(crate) fn with_room(pages: OverlayPages, written_bytes_max: u64) -> Self {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let overlay = Arc::new(Mutex::new(Overlay::with_room(pages, written_bytes_max)));
        lock(&MOUNTED).insert(number, Arc::clone(&overlay));
        Self { number, overlay }
    }

    /// Opens a connection; one at a time, because there are no locks.
    pub(crate) fn connect(&self) -> rusqlite::Result<Connection> {
        register()?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags_and_vfs(self.number.to_string(), flags, VFS_NAME)
    }

    /// Replaces the pages below a connection; returns the previous ones. Between two transactions the connection may stay open:
    /// to SQLite another process has written to the file. SQLite's page cache must have been dropped, or it may not notice.
    pub(crate) fn replace(&self, pages: OverlayPages) -> OverlayPages {
        lock(&self.overlay).replace(pages)
    }

    /// Raises the limit, if there is one, to at least this many bytes of pages in addition to those written so far.
    pub(crate) fn make_room(&self, bytes: u64) {
        lock(&self.overlay).make_room(bytes);
    }

    /// Whether a write was refused because of the limit.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.overlay).is_full()
    }

    /// Starts to record which pages are read; pages in SQLite's cache are not read.
    pub(crate) fn note_reads(&self) {
        lock(&self.overlay).note_reads();
    }

    /// The pages read since [`note_reads`](Self::note_reads).
    pub(crate) fn take_reads(&self) -> HashSet<PageNo> {
        lock(&self.overlay).take_reads()
    }

    /// The pages as they are now. Clones share them, so this is cheap.
    pub(crate) fn pages(&self) -> OverlayPages {
        lock(&self.overlay).pages().clone()
    }

    /// Pages of the database as it is now.
    pub(crate) fn page_count(&self) -> u32 {
        lock(&self.overlay).pages().page_count()
    }

    /// The first page that could not be read, if any.
    pub(crate) fn take_problem(&self) -> Option<ReadError> {
        lock(&self.overlay).take_problem()
    }
}

impl Drop for MountedOverlay {
    fn drop(&mut self) {
        lock(&MOUNTED).remove(&self.number);
    }
}

/// A panic while the lock is held is reported to SQLite as an I/O error; the pages inside are still valid.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The registered VFS. SQLite keeps the pointer for the life of the process and never changes what is behind it apart
/// from `pNext`, which it guards with its own mutex.
struct Registered(
    #[expect(dead_code, reason = "SQLite holds the pointer; this keeps it from being dropped")] *mut ffi::sqlite3_vfs,
);

// SAFETY: the pointer is never read through this type.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

fn register() -> rusqlite::Result<()> {
    static REGISTERED: OnceLock<Result<Registered, c_int>> = OnceLock::new();
    let registered = REGISTERED.get_or_init(|| {
        let vfs = Box::into_raw(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: OVERLAY_FILE_LEN,
            mxPathname: 64,
            pNext: ptr::null_mut(),
            zName: VFS_NAME.as_ptr(),
            pAppData: ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: Some(current_time_int64),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: `vfs` is valid, fully initialised for its iVersion, and lives until the process ends.
        match unsafe { ffi::sqlite3_vfs_register(vfs, 0) } {
            ffi::SQLITE_OK => Ok(Registered(vfs)),
            code => Err(code),
        }
    });
    registered.as_ref().map(|_| ()).map_err(|&code| {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("cannot register the overlay VFS".to_owned()))
    })
}

/// Our `sqlite3_file`: SQLite allocates `szOsFile` bytes for it and passes their address to every method.
#[repr(C)]
struct OverlayFile {
    base: ffi::sqlite3_file,
    /// The overlay, from `Arc::into_raw`; given back in `close`.
    overlay: *const Mutex<Overlay>,
}

#[expect(clippy::cast_possible_truncation, reason = "two pointers")]
const OVERLAY_FILE_LEN: c_int = size_of::<OverlayFile>() as c_int;

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock_nothing),
    xUnlock: Some(lock_nothing),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Runs a method on the overlay of a file; a panic becomes an I/O error instead of unwinding into C.
///
/// # Safety
/// `file` is one that `open` succeeded on and `close` has not been called on.
unsafe fn with_overlay(file: *mut ffi::sqlite3_file, work: impl FnOnce(&mut Overlay) -> c_int) -> c_int {
    // SAFETY: by the contract `file` is an OverlayFile whose `overlay` came from Arc::into_raw and is still counted.
    let overlay = unsafe { &*(*file.cast::<OverlayFile>()).overlay };
    catch_unwind(AssertUnwindSafe(|| work(&mut lock(overlay)))).unwrap_or(ffi::SQLITE_IOERR)
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes szOsFile bytes; a null pMethods tells it not to call close when this fails.
    unsafe { (*file).pMethods = ptr::null() };
    // Only the main database exists: journals and temporary files are switched off, so a request for one is a bug here.
    if name.is_null() || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: not null, and SQLite passes a NUL-terminated string that lives during the call.
    let name = unsafe { CStr::from_ptr(name) };
    let number = name.to_str().ok().and_then(|name| name.parse::<u64>().ok());
    let Some(overlay) = number.and_then(|number| lock(&MOUNTED).get(&number).cloned()) else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: SQLite passes szOsFile bytes, aligned for any structure, that nothing else refers to yet.
    unsafe {
        file.cast::<OverlayFile>().write(OverlayFile {
            base: ffi::sqlite3_file { pMethods: &raw const METHODS },
            overlay: Arc::into_raw(overlay),
        });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: called once per successful `open`, whose Arc::into_raw this undoes.
    drop(unsafe { Arc::from_raw((*file.cast::<OverlayFile>()).overlay) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    out: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(len), Ok(offset)) = (usize::try_from(len), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: SQLite passes a buffer of `len` bytes; they are zeroed before a reference to them is made.
    let out = unsafe {
        ptr::write_bytes(out.cast::<u8>(), 0, len);
        std::slice::from_raw_parts_mut(out.cast::<u8>(), len)
    };
    // SAFETY: SQLite calls this only between open and close.
    unsafe {
        with_overlay(file, |overlay| match overlay.read(out, offset) {
            Ok(read) if read == len => ffi::SQLITE_OK,
            Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
            Err(_) => ffi::SQLITE_IOERR_READ,
        })
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(len), Ok(offset)) = (usize::try_from(len), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: SQLite passes `len` initialised bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
    // SAFETY: SQLite calls this only between open and close.
    unsafe {
        with_overlay(file, |overlay| match overlay.write(bytes, offset) {
            Ok(()) => ffi::SQLITE_OK,
            Err(_) if overlay.is_full() => ffi::SQLITE_FULL,
            Err(_) => ffi::SQLITE_IOERR_WRITE,
        })
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    let Ok(size) = u64::try_from(size) else {
        return ffi::SQLITE_IOERR_TRUNCATE;
    };
    // SAFETY: SQLite calls this only between open and close.
    unsafe {
        with_overlay(file, |overlay| {
            overlay.truncate(size);
            ffi::SQLITE_OK
        })
    }
}

unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this only between open and close, with a valid place for the answer.
    unsafe {
        with_overlay(file, |overlay| match i64::try_from(overlay.size_bytes()) {
            Ok(size) => {
                *out = size;
                ffi::SQLITE_OK
            }
            Err(_) => ffi::SQLITE_IOERR_FSTAT,
        })
    }
}

unsafe extern "C" fn lock_nothing(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a valid place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

/// A sector no larger than any page: SQLite then writes the pages that changed and no neighbours.
unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    512
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

/// No journal and no WAL ever exists beside an overlay.
unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a valid place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a NUL-terminated string.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if usize::try_from(len).is_ok_and(|len| name.len() <= len) {
        // SAFETY: `out` has room for `len` bytes, at least as many as are copied, and is no part of `name`.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len()) };
        ffi::SQLITE_OK
    } else {
        ffi::SQLITE_CANTOPEN
    }
}

/// Zeros: nothing replayed may depend on chance.
unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite passes a buffer of `len` bytes.
    unsafe { ptr::write_bytes(out, 0, usize::try_from(len).unwrap_or(0)) };
    len
}

unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, _: c_int) -> c_int {
    0
}

/// Milliseconds from the beginning of the Julian calendar to 1970.
const UNIX_EPOCH_JULIAN_MS: i64 = 210_866_760_000_000;

fn replay_clock_julian_ms() -> i64 {
    let now = REPLAY_CLOCK.get().unwrap_or_else(Timestamp::now);
    UNIX_EPOCH_JULIAN_MS + now.as_micros() / 1000
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    #[expect(clippy::cast_precision_loss, reason = "the interface wants days as a double")]
    let days = replay_clock_julian_ms() as f64 / 86_400_000.0;
    // SAFETY: SQLite passes a valid place for the answer.
    unsafe { *out = days };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_int64(_: *mut ffi::sqlite3_vfs, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes a valid place for the answer.
    unsafe { *out = replay_clock_julian_ms() };
    ffi::SQLITE_OK
}

//! Settings of the operating system and the C library, made once before a mount serves or a command begins.

use std::hint::black_box;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A mount runs for long: it keeps about twice as much freed memory as this and gives the rest back.
const KEPT_BY_A_MOUNT: usize = 2 << 20;

/// A command ends soon: it keeps more. glibc ignores blocks over 32 MiB.
const KEPT_BY_A_COMMAND: usize = 24 << 20;

/// Prepares the process for opening versions one after the other.
pub fn prepare_to_serve() {
    allow_open_files();
    keep_freed_memory(KEPT_BY_A_MOUNT);
}

/// Prepares the process for replaying as much as it can: an import takes a tenth less time.
pub fn prepare_to_run() {
    keep_freed_memory(KEPT_BY_A_COMMAND);
}

/// Raises the limit of open files to the maximum allowed: the pages of a version lie in many segments. The default is 1,024
/// for the sake of programs that use `select`.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::debug!("the number of open files stays at {:?}: {error}", limit.current);
    }
}

/// The minimum of freed memory that is worth a call of `malloc_trim`.
const GIVEN_BACK_MIN: u64 = 16 << 20;

/// Gives freed memory of versions back to the system.
#[derive(Debug, Default)]
pub struct FreedMemory {
    /// The most bytes that the versions used since memory was last given back.
    most: u64,
}

impl FreedMemory {
    /// Called now and then with the bytes that versions use. glibc keeps freed memory that lies between blocks in use; a call of
    /// `malloc_trim(3)` gives back whole pages from there, too.
    pub fn give_back(&mut self, now: u64) {
        self.most = self.most.max(now);
        if self.most - now >= GIVEN_BACK_MIN {
            self.most = now;
            trim_heap();
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "there is no other way to the C library's heap")]
fn trim_heap() {
    // SAFETY: it takes the locks of the heap itself, and touches nothing that is in use.
    let _given_back = unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_heap() {}

/// Keeps freed blocks of up to this size.
///
/// Every view that is built allocates and frees a few megabytes. By default glibc gives each of them back to the kernel
/// and asks for it again a page or two at a time. It stops that once it has seen a large block come and go: from then on
/// blocks of that size and twice as much at the end of the heap are kept (mallopt(3), `M_MMAP_THRESHOLD`). Another C
/// library is none the worse for it. Nothing is written to the block, so it takes no memory.
fn keep_freed_memory(bytes: usize) {
    drop(black_box(Vec::<u8>::with_capacity(bytes)));
}

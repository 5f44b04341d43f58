//! What the operating system and the C library are told once, before a mount serves or a command begins.

use std::hint::black_box;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A mount, which is there for long, keeps about twice as much freed memory as this instead of giving it back.
const KEPT_BY_A_MOUNT: usize = 2 << 20;

/// A command, which will soon be gone, keeps more. glibc does not heed blocks over 32 MiB.
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

/// Raises the number of files that may be open to what the system lets us have: the pages of a version lie in many
/// segments. Programs are started with 1,024 for the sake of those that use `select`.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::debug!("the number of open files stays at {:?}: {error}", limit.current);
    }
}

/// Every view that is built allocates and frees a few megabytes. By default glibc gives each of them back to the kernel
/// and asks for it again a page or two at a time. It stops that once it has seen a large block come and go: from then on
/// blocks of that size and twice as much at the end of the heap are kept (mallopt(3), `M_MMAP_THRESHOLD`). Another C
/// library is none the worse for it. Nothing is written to the block, so it takes no memory.
fn keep_freed_memory(bytes: usize) {
    drop(black_box(Vec::<u8>::with_capacity(bytes)));
}

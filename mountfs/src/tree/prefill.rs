//! [`Prefill`]: files put into the kernel's page cache in the background, for readers with random access.
//!
//! A program that reads a database page by page asks the mount for each page that the kernel does not have: some 60 µs a
//! page, and a group of pages is decompressed for it. Read from beginning to end, the same pages take a twentieth of that.
//! So once a reader has asked for a few dozen pages here and there, the whole file is read in order and handed to the
//! kernel, which then answers by itself. A reader that needs only a few pages, or reads in order anyway, never starts it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tree::open_files::OpenFile;

/// The bytes stored at once: a multiple of every kernel's page size, because the kernel takes a page that is filled in part
/// for a complete one.
const CHUNK_BYTES: usize = 1 << 20;

/// The most files filled at once. The others are read page by page until then.
const FILLS_MAX: usize = 2;

/// The maximum size of a small read, which is for a page or two; read-ahead asks for more.
const SMALL_READ_BYTES: u32 = 64 << 10;

/// The number of small reads after which the whole file is put into the page cache.
const SMALL_READS: u32 = 32;

/// The kernel's page cache.
pub trait PageCache: Send + Sync {
    /// Puts bytes of a file into it, from a multiple of `CHUNK_BYTES` on; that the kernel does not know the inode (any
    /// more) is fine.
    ///
    /// # Errors
    /// When the kernel refuses: the mount is gone, or the kernel is too old.
    fn store(&self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// The access pattern of an open file, and whether it was closed.
#[derive(Debug, Default)]
pub struct Reading {
    small_reads: AtomicU32,
    closed: AtomicBool,
}

impl Reading {
    /// Counts a request; `true` for the small read that reaches [`SMALL_READS`].
    fn notice(&self, size: u32) -> bool {
        size <= SMALL_READ_BYTES && self.small_reads.fetch_add(1, Ordering::Relaxed) + 1 == SMALL_READS
    }

    /// Marks the file as closed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Puts files into the page cache, in threads of its own.
#[derive(Default)]
pub struct Prefill(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The page cache; `None` before the mount is there and after its end.
    cache: Option<Arc<dyn PageCache>>,
    /// The inodes of the files that are being filled.
    filling: Vec<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prefill {
    /// Begins: files are put into this cache from now on.
    pub fn begin(&self, cache: Arc<dyn PageCache>) {
        self.0.state().cache = Some(cache);
    }

    /// Ends filling; does not wait for a call that is under way.
    pub fn end(&self) {
        self.0.state().cache = None;
    }

    /// Counts a request for `size` bytes, and starts to fill the file after enough small ones.
    pub fn notice(&self, file: &Arc<OpenFile>, size: u32) {
        if !file.reading.notice(size) {
            return;
        }
        let inode = file.attr.inode;
        {
            let mut state = self.0.state();
            if state.cache.is_none() {
                return;
            }
            if state.filling.len() >= FILLS_MAX || state.filling.contains(&inode) {
                // Tried again after as many reads.
                file.reading.small_reads.store(0, Ordering::Relaxed);
                return;
            }
            state.filling.push(inode);
        }
        let fill = Fill { shared: Arc::clone(&self.0), file: Arc::clone(file) };
        if let Err(error) = std::thread::Builder::new().name("prefill".to_owned()).spawn(move || fill.run()) {
            log::debug!("cannot start a thread to fill the page cache: {error}");
        }
    }
}

/// A file that is being filled, until this is dropped.
struct Fill {
    shared: Arc<Shared>,
    file: Arc<OpenFile>,
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.shared.state().filling.retain(|inode| *inode != self.file.attr.inode);
    }
}

impl Fill {
    fn run(&self) {
        let inode = self.file.attr.inode;
        if !has_room(self.file.attr.size_bytes) {
            log::debug!("inode {inode} is too big for the memory that is free");
            return;
        }
        match self.fill() {
            Ok(bytes) => log::debug!("inode {inode}: {bytes} bytes put into the page cache"),
            Err(error) => log::debug!("inode {inode} cannot be put into the page cache: {error}"),
        }
    }

    /// Stores the file from its beginning to its end; stops early when it is closed or the mount ends.
    fn fill(&self) -> io::Result<u64> {
        let OpenFile { attr, content, reading } = &*self.file;
        let length = usize::try_from(attr.size_bytes).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut chunk = vec![0; length];
        let mut offset = 0;
        while offset < attr.size_bytes && !reading.is_closed() {
            let Some(cache) = self.shared.state().cache.clone() else { break };
            let read = content.read_into(offset, &mut chunk).map_err(io::Error::other)?;
            // Less than a chunk only at the end of the file, where the kernel fills the page with zeros.
            let bytes = &chunk[..read];
            cache.store(attr.inode, offset, bytes)?;
            offset += read as u64;
            if read == 0 {
                break;
            }
        }
        Ok(offset)
    }
}

/// Whether this many bytes fit into half of the available memory. More would displace pages that the node itself needs, and
/// in the end the first pages of the file.
fn has_room(bytes: u64) -> bool {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    available_bytes(&info).is_some_and(|available| bytes <= available / 2)
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_reads_are_noticed_once_and_large_ones_never() {
        let reading = Reading::default();
        for _ in 0..1000 {
            assert!(!reading.notice(128 << 10));
        }
        let noticed: Vec<u32> = (1..1000).filter(|_| reading.notice(4096)).collect();
        assert_eq!(noticed, [SMALL_READS]);
    }

    #[test]
    fn the_memory_available_is_found() {
        let info = "MemTotal:       24684380 kB\nMemFree:        100 kB\nMemAvailable:   22626000 kB\n";
        assert_eq!(available_bytes(info), Some(22_626_000 * 1024));
        for unknown in ["", "MemFree: 100 kB", "MemAvailable: many kB", "MemAvailable: 18446744073709551615 kB"] {
            assert_eq!(available_bytes(unknown), None, "{unknown}");
        }
    }
}

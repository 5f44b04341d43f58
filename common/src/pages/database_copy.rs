//! [`DatabaseCopy`]: a file that a database is copied to piece by piece, while SQLite checks it.
//!
//! Both take about as long, so they are done at the same time. SQLite goes from tree to tree: it waits for the piece that it
//! comes to, and that piece is copied next.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::{MountedOverlay, OverlayPages, PageSource};
use crate::storage::read_error::ReadError;
use crate::storage::{StorageError, StorageOp};
use format::units::{PageNo, PageSize};

/// The order in which pieces are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyOrder {
    /// The piece that the check waits for comes first, then those before it: SQLite checks the pages of a tree from the last to the
    /// first.
    AsChecked,
    /// From the first to the last: faster where what comes next is read ahead.
    Ascending,
}

/// A piece of a database: the bytes of the file from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    number: usize,
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes: [`DatabaseCopy::PIECE_BYTES`], or less at the end of the database.
    pub len: usize,
}

/// A file that a database is copied to. Any number of threads copy, and one checks.
#[derive(Debug)]
pub struct DatabaseCopy {
    file: File,
    path: PathBuf,
    page_size: PageSize,
    page_count: u32,
    order: CopyOrder,
    state: Mutex<State>,
    /// Notified when a piece was copied, or the copying was given up.
    copied: Condvar,
}

#[derive(Debug)]
struct State {
    pieces: Vec<PieceState>,
    /// The piece to begin next, or those that follow it in the order of copying.
    next: usize,
    /// The number of pieces that are not begun.
    missing: usize,
    /// The piece that the check waits for.
    wanted: Option<usize>,
    is_given_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PieceState {
    Missing,
    Begun,
    Copied,
}

impl DatabaseCopy {
    /// The length of a piece in bytes: whole pages of every page size.
    pub const PIECE_BYTES: usize = 1 << 20;

    /// A copy of a database of this size to `file`, which no other process changes. The path is for messages.
    pub fn new(file: File, path: PathBuf, page_size: PageSize, page_count: u32, order: CopyOrder) -> Self {
        let bytes = u64::from(page_count) * u64::from(page_size.get());
        let count = usize::try_from(bytes.div_ceil(Self::PIECE_BYTES as u64)).unwrap_or(usize::MAX);
        let pieces = vec![PieceState::Missing; count];
        let state = Mutex::new(State { pieces, next: 0, missing: count, wanted: None, is_given_up: false });
        Self { file, path, page_size, page_count, order, state, copied: Condvar::new() }
    }

    /// The length of the database in bytes.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.page_count) * u64::from(self.page_size.get())
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A piece to copy; `None` when all are begun, or the copying was given up.
    pub fn begin_piece(&self) -> Option<Piece> {
        let mut state = self.state();
        if state.is_given_up || state.missing == 0 {
            return None;
        }
        let count = state.pieces.len();
        let mut number = match (self.order, state.wanted) {
            (CopyOrder::AsChecked, Some(wanted)) => wanted,
            (CopyOrder::AsChecked, None) | (CopyOrder::Ascending, _) => state.next,
        };
        let behind = |number: usize| match self.order {
            CopyOrder::AsChecked => number.checked_sub(1).unwrap_or(count - 1),
            CopyOrder::Ascending => (number + 1) % count,
        };
        while state.pieces.get(number).is_some_and(|piece| *piece != PieceState::Missing) {
            number = behind(number);
        }
        (state.next, state.missing) = (behind(number), state.missing - 1);
        *state.pieces.get_mut(number)? = PieceState::Begun;
        let offset = number as u64 * Self::PIECE_BYTES as u64;
        let left = usize::try_from(self.size_bytes() - offset).unwrap_or(usize::MAX);
        Some(Piece { number, offset, len: left.min(Self::PIECE_BYTES) })
    }

    /// Says that a piece is in the file.
    pub fn finish_piece(&self, piece: Piece) {
        if let Some(state) = self.state().pieces.get_mut(piece.number) {
            *state = PieceState::Copied;
        }
        self.copied.notify_all();
    }

    /// Says that no further piece will be copied. The check ends with an error.
    pub fn give_up(&self) {
        self.state().is_given_up = true;
        self.copied.notify_all();
    }

    /// Opens the copy for a check. Reading waits until the page is copied.
    ///
    /// # Errors
    /// When SQLite cannot be set up.
    pub fn connect(self: &Arc<Self>) -> rusqlite::Result<CopyConnection> {
        let pages: Arc<dyn PageSource> = Arc::<Self>::clone(self);
        let mounted = MountedOverlay::new(OverlayPages::new(pages));
        Ok(CopyConnection { connection: mounted.connect()?, mounted })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the piece with the byte at `offset` is copied.
    fn wait_for(&self, offset: u64) -> Result<(), ReadError> {
        let number = usize::try_from(offset / Self::PIECE_BYTES as u64).unwrap_or(usize::MAX);
        let mut state = self.state();
        loop {
            match state.pieces.get(number) {
                None | Some(PieceState::Copied) => {
                    state.wanted = None;
                    return Ok(());
                }
                Some(PieceState::Missing | PieceState::Begun) if state.is_given_up => {
                    return Err(self.read_failed(offset, io::ErrorKind::Interrupted.into()));
                }
                Some(PieceState::Missing | PieceState::Begun) => {
                    state.wanted = Some(number);
                    state = self.copied.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn read_failed(&self, offset: u64, source: io::Error) -> ReadError {
        StorageError { op: StorageOp::Read, path: self.path.clone(), offset: Some(offset), source }.into()
    }
}

/// Each page is there once it was copied.
impl PageSource for DatabaseCopy {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        if page.get() > self.page_count {
            out.fill(0);
            return Ok(());
        }
        let offset = (u64::from(page.get()) - 1) * u64::from(self.page_size.get());
        self.wait_for(offset)?;
        self.file.read_exact_at(out, offset).map_err(|source| self.read_failed(offset, source))
    }
}

/// SQLite's connection to a copy.
#[derive(Debug)]
pub struct CopyConnection {
    // Dropped before the overlay that it uses.
    connection: Connection,
    mounted: MountedOverlay,
}

impl CopyConnection {
    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The first page that could not be read, if any: SQLite says only that there was one.
    pub fn take_problem(&self) -> Option<ReadError> {
        self.mounted.take_problem()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const PAGE_BYTES: usize = 4096;

    /// The bytes of a database of this many pages, each page another one, and a copy of it to a new file.
    fn copy(pages: u32, order: CopyOrder) -> (Vec<u8>, Arc<DatabaseCopy>) {
        let bytes: Vec<u8> = (0..pages * 8).flat_map(|n| n.to_le_bytes().repeat(PAGE_BYTES / 32)).collect();
        let page_size = PageSize::new(4096).unwrap();
        let copy = DatabaseCopy::new(tempfile::tempfile().unwrap(), "copy".into(), page_size, pages, order);
        (bytes, Arc::new(copy))
    }

    fn copy_piece(bytes: &[u8], copy: &DatabaseCopy, piece: Piece) {
        let start = usize::try_from(piece.offset).unwrap();
        copy.file().write_all_at(&bytes[start..start + piece.len], piece.offset).unwrap();
        copy.finish_piece(piece);
    }

    fn page(copied: &DatabaseCopy, number: u32) -> Result<Vec<u8>, ReadError> {
        let mut out = vec![0; PAGE_BYTES];
        copied.read_page(PageNo::new(number).unwrap(), &mut out).map(|()| out)
    }

    /// Copies all pieces while a page of the last one is waited for; returns their numbers in order.
    fn order_of_copying(order: CopyOrder) -> Vec<usize> {
        let (bytes, copy) = copy(1000, order);
        thread::scope(|scope| {
            let reader = scope.spawn(|| page(&copy, 1000).unwrap());
            let deadline = Instant::now() + Duration::from_secs(20);
            while copy.state().wanted.is_none() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            let mut numbers = Vec::new();
            while let Some(piece) = copy.begin_piece() {
                numbers.push(piece.number);
                copy_piece(&bytes, &copy, piece);
                // The reader takes the page before the next piece is begun.
                while copy.state().wanted == Some(piece.number) && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            assert!(reader.join().unwrap() == bytes[bytes.len() - PAGE_BYTES..]);
            numbers
        })
    }

    #[test]
    fn the_piece_that_the_check_waits_for_is_copied_next() {
        assert_eq!(order_of_copying(CopyOrder::AsChecked), [3, 2, 1, 0]);
        assert_eq!(order_of_copying(CopyOrder::Ascending), [0, 1, 2, 3]);
    }

    #[test]
    fn pages_have_their_bytes_in_whatever_order_they_are_read() {
        const PAGES: u32 = 600;
        let (bytes, copy) = copy(PAGES, CopyOrder::AsChecked);
        while let Some(piece) = copy.begin_piece() {
            copy_piece(&bytes, &copy, piece);
        }
        let expect = |number: u32| {
            let start = (number as usize - 1) * PAGE_BYTES;
            assert!(page(&copy, number).unwrap() == bytes[start..start + PAGE_BYTES], "page {number}");
        };
        (1..=PAGES).for_each(expect);
        (0..PAGES).map(|step| 1 + step * 7919 % PAGES).for_each(expect);
        assert!(page(&copy, PAGES + 1).unwrap().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_check_ends_when_no_further_piece_will_be_copied() {
        let (bytes, copy) = copy(600, CopyOrder::AsChecked);
        let first = copy.begin_piece().unwrap();
        copy_piece(&bytes, &copy, first);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| page(&copy, 600));
            let begun = copy.begin_piece();
            copy.give_up();
            assert!(waiting.join().unwrap().is_err(), "{begun:?}");
        });
        assert_eq!(copy.begin_piece(), None);
        assert!(page(&copy, 1).is_ok());
    }
}

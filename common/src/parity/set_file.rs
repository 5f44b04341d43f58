//! [`ParitySet`]: an open parity file and the members that it is of.

use std::cell::RefCell;
use std::path::Path;
use std::sync::OnceLock;

use crate::parity::code::{Block, ZEROS};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StorageError, StoredFile, read_exact_at, read_on};
use format::parity::{PARITY_BLOCK_LEN, PARITY_HEADER_LEN, ParityHeader, ParityLayout, ParityTable, Protected};
use format::{Damage, checksum, names};

/// A parity file. Opening reads and checks everything but the parity blocks.
#[derive(Debug)]
pub(crate) struct ParitySet {
    file: Box<dyn StoredFile>,
    table: ParityTable,
}

impl ParitySet {
    /// Opens the parity file whose first member is `first`.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it is damaged.
    pub(crate) fn open(directory: &dyn Directory, first: Protected) -> Result<Self, ReadError> {
        let file = directory.open(&names::parity(&first.name()), Access::Read)?;
        let len = file.read_len()?;
        let damaged = |damage| ReadError::damaged(file.path(), 0, damage);
        let short = |want: u64| {
            let [have, want] = [len, want].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
            damaged(Damage::Short { have, want })
        };
        let mut header = [0; PARITY_HEADER_LEN];
        if !read_exact_at(&*file, &mut header, 0)? {
            return Err(short(PARITY_HEADER_LEN as u64));
        }
        let header = ParityHeader::decode(&header).map_err(damaged)?;
        if header.file_len() != len {
            return Err(short(header.file_len()));
        }
        let mut bytes = Vec::new();
        let table_len = usize::try_from(header.table_len()).unwrap_or(usize::MAX);
        read_on(&*file, &mut bytes, PARITY_HEADER_LEN as u64, table_len)?;
        let table = ParityTable::decode(&header, &bytes).map_err(damaged)?;
        if table.layout.members().first().is_none_or(|member| member.file != first) {
            return Err(damaged(Damage::Contradiction("it is the parity of other files than its name says")));
        }
        Ok(Self { file, table })
    }

    /// Path of the parity file.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Makes the next reads those of the disk.
    pub(crate) fn forget_cached(&self) {
        self.file.forget_cached();
    }

    /// Header, members and checksums.
    pub(crate) fn table(&self) -> &ParityTable {
        &self.table
    }

    /// The layout.
    pub(crate) fn layout(&self) -> &ParityLayout {
        &self.table.layout
    }

    /// Whether these are the bytes of a data block.
    pub(crate) fn is_data(&self, block: u64, bytes: &Block) -> bool {
        usize::try_from(block).ok().and_then(|block| self.table.data.get(block)) == Some(&checksum(&[bytes]))
    }

    /// Whether these are the bytes of its first member.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        (0..).zip(bytes.chunks(PARITY_BLOCK_LEN)).all(|(number, chunk)| {
            let mut block = ZEROS;
            block[..chunk.len()].copy_from_slice(chunk);
            self.is_data(number, &block)
        })
    }

    /// The bytes of the file that damaged parity blocks begin with.
    pub(crate) fn damaged_parity(&self) -> impl Iterator<Item = u64> {
        let blocks = (0..self.layout().parity_blocks()).filter(|&block| self.parity_block(block).is_none());
        blocks.map(|block| self.layout().parity_offset(block))
    }

    /// The data blocks that are damaged in members that are there.
    pub(crate) fn damaged_data(&self, directory: &dyn Directory) -> impl Iterator<Item = u64> {
        let layout = self.layout();
        let files = MemberFiles::of(directory, layout);
        let is_there = |block| {
            let member = layout.place_of(block).map(|(member, _)| member.file.name());
            member.is_some_and(|name| directory.open(&name, Access::Read).is_ok())
        };
        let intact = move |block| files.block(layout, block).is_some_and(|bytes| self.is_data(block, &bytes));
        (0..layout.data_blocks()).filter(move |&block| !intact(block) && is_there(block))
    }

    /// Reads a parity block; `None` when it is damaged or cannot be read.
    pub(crate) fn parity_block(&self, block: u64) -> Option<Box<Block>> {
        let bytes = read_block(&*self.file, self.layout().parity_offset(block), PARITY_BLOCK_LEN)?;
        let expected = self.table.parity.get(usize::try_from(block).ok()?)?;
        (checksum(&[&*bytes]) == *expected).then_some(bytes)
    }
}

/// Reads `len` bytes at `offset`, filled up with zeros; `None` when they cannot be read or the file ends first.
pub(crate) fn read_block(file: &dyn StoredFile, offset: u64, len: usize) -> Option<Box<Block>> {
    let mut block = Box::new(ZEROS);
    let read = file.read_at(block.get_mut(..len)?, offset);
    read.is_ok_and(|read| read == len).then_some(block)
}

/// Bytes of a member that are read at once, where its blocks are read in order.
const CHUNK: usize = 64 * PARITY_BLOCK_LEN;

/// The members of a set, each opened when it is first read.
#[derive(Debug)]
pub(crate) struct MemberFiles<'a> {
    directory: &'a dyn Directory,
    files: Vec<OnceLock<Result<Box<dyn StoredFile>, StorageError>>>,
    /// The last bytes that were read: of which member, from which byte on.
    chunk: RefCell<(usize, u64, Vec<u8>)>,
}

impl<'a> MemberFiles<'a> {
    /// The members of a set in this directory.
    pub(crate) fn of(directory: &'a dyn Directory, layout: &ParityLayout) -> Self {
        let files = layout.members().iter().map(|_| OnceLock::new()).collect();
        Self { directory, files, chunk: RefCell::default() }
    }

    /// The data block with this number, as it is in its file; `None` when it cannot be read.
    pub(crate) fn block(&self, layout: &ParityLayout, block: u64) -> Option<Box<Block>> {
        let (member, offset) = layout.place_of(block)?;
        let at = layout.members().iter().position(|other| *other == member)?;
        let file = self.files.get(at)?.get_or_init(|| self.directory.open(&member.file.name(), Access::Read));
        let file = &**file.as_ref().ok()?;
        let left = usize::try_from(member.len - offset).unwrap_or(usize::MAX);
        // The blocks of a set with several stripes are not neighbours.
        let of_chunk = if layout.stripes() == 1 { self.block_of_chunk(at, file, offset, left) } else { None };
        of_chunk.or_else(|| read_block(file, offset, left.min(PARITY_BLOCK_LEN)))
    }

    /// A block out of the chunk that it is in; `None` when that cannot be read as a whole.
    fn block_of_chunk(&self, member: usize, file: &dyn StoredFile, offset: u64, left: usize) -> Option<Box<Block>> {
        let mut chunk = self.chunk.borrow_mut();
        let is_there = |chunk: &(usize, u64, Vec<u8>)| {
            chunk.0 == member && (chunk.1..chunk.1 + chunk.2.len() as u64).contains(&offset)
        };
        if !is_there(&chunk) {
            let mut bytes = vec![0; left.min(CHUNK)];
            let read = file.read_at(&mut bytes, offset);
            bytes.truncate(read.unwrap_or(0));
            *chunk = (member, offset, bytes);
        }
        let at = usize::try_from(offset.checked_sub(chunk.1)?).ok()?;
        let bytes = chunk.2.get(at..at + left.min(PARITY_BLOCK_LEN))?;
        let mut block = Box::new(ZEROS);
        block[..bytes.len()].copy_from_slice(bytes);
        Some(block)
    }
}

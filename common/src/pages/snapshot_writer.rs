//! [`SnapshotWriter`]: a snapshot file, written once and in order.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use zstd::bulk::Compressor;

use super::snapshot_file::last_four;
use crate::storage::{Directory, StorageError, StorageOp, StoredFile, TEMPORARY_ENDING, remove_if_present};
use format::snapshot::{Group, SNAPSHOT_HEADER_LEN, SnapshotFooter, SnapshotHeader, SnapshotIndex, pages_per_group};
use format::units::PageNo;
use format::{checksum, names};

/// The strongest level without entropy coding. A node's data is mostly random: zstd's default level saves a tenth of the space,
/// and takes twice the time for every page that is read.
const COMPRESSION_LEVEL: i32 = -1;

/// Maximum number of threads that compress.
const THREADS_MAX: usize = 8;

/// Number of groups that are compressed at the same time, and written together.
const GROUPS_AT_ONCE: usize = 32;

/// Bytes between syncs of a snapshot. A single sync of a large snapshot could keep a slow disk busy for longer than the deadline
/// of a call, at every attempt.
const SYNC_BYTES: u64 = 8 << 20;

/// A snapshot being written. It has a temporary name until [`finish`](Self::finish) returns.
pub(crate) struct SnapshotWriter<'a> {
    directory: &'a dyn Directory,
    header: SnapshotHeader,
    name: String,
    file: Box<dyn StoredFile>,
    offset: u64,
    durable_to: u64,
    pages: Vec<PageNo>,
    stored_pages: u32,
    groups: Vec<Group>,
    /// Pages that are not written yet.
    pending: Vec<u8>,
    /// One for each thread that compresses. Creating one takes longer than compressing a group.
    compressors: Vec<Compressor<'static>>,
}

impl<'a> SnapshotWriter<'a> {
    /// Creates the file of the snapshot that `header` describes.
    pub(crate) fn create(directory: &'a dyn Directory, header: SnapshotHeader) -> Result<Self, StorageError> {
        let name = names::snapshot(header.seq);
        let temporary = format!("{name}{TEMPORARY_ENDING}");
        remove_if_present(directory, &temporary)?;
        let file = directory.create(&temporary)?;
        file.write_at(&header.encode(), 0)?;
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        let compressors = (0..threads).map(|_| Compressor::new(COMPRESSION_LEVEL)).collect::<io::Result<_>>();
        let compressors = compressors.map_err(|source| not_compressed(&*file, 0, source))?;
        Ok(Self {
            directory,
            header,
            name,
            file,
            offset: SNAPSHOT_HEADER_LEN as u64,
            durable_to: 0,
            pages: Vec::new(),
            stored_pages: 0,
            groups: Vec::new(),
            pending: Vec::new(),
            compressors,
        })
    }

    /// Adds a page. Pages come in ascending order; all of them unless the snapshot is a delta.
    pub(crate) fn push(&mut self, page: PageNo, bytes: &[u8]) -> Result<(), StorageError> {
        debug_assert_eq!(bytes.len(), self.header.page_size.bytes());
        if self.header.base.is_some() {
            self.pages.push(page);
        }
        self.stored_pages += 1;
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= GROUPS_AT_ONCE * self.group_bytes() {
            self.flush()?;
        }
        Ok(())
    }

    /// Bytes of a whole group's pages.
    fn group_bytes(&self) -> usize {
        pages_per_group(self.header.page_size) * self.header.page_size.bytes()
    }

    /// Writes the pending groups.
    fn flush(&mut self) -> Result<(), StorageError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let groups: Vec<&[u8]> = self.pending.chunks(self.group_bytes()).collect();
        let frames = compress(&mut self.compressors, &groups);
        let frames = frames.map_err(|source| not_compressed(&*self.file, self.offset, source))?;
        self.file.write_at(&frames.concat(), self.offset)?;
        for frame in frames {
            let len = u32::try_from(frame.len()).expect("BUG: a compressed group is about as large as 64 KiB at most");
            self.groups.push(Group { offset: self.offset, len, checksum: checksum(&[&frame]) });
            self.offset += u64::from(len);
        }
        self.pending.clear();
        if self.offset - self.durable_to >= SYNC_BYTES {
            self.file.sync()?;
            self.durable_to = self.offset;
        }
        Ok(())
    }

    /// Completes the file, makes it durable under its name, and returns the checksum of its footer.
    pub(crate) fn finish(mut self) -> Result<u32, StorageError> {
        self.flush()?;
        let index = SnapshotIndex { pages: self.header.base.map(|_| self.pages), groups: self.groups }.encode();
        let header = self.header.encode();
        let footer = SnapshotFooter {
            header_checksum: last_four(&header),
            index_checksum: checksum(&[&index]),
            index_offset: self.offset,
            stored_pages: self.stored_pages,
        }
        .encode();
        self.file.write_at(&index, self.offset)?;
        self.file.write_at(&footer, self.offset + index.len() as u64)?;
        self.file.sync()?;
        // One of this name may have been written before, and never got a record.
        remove_if_present(self.directory, &names::parity(&self.name))?;
        self.directory.rename(&format!("{}{TEMPORARY_ENDING}", self.name), &self.name)?;
        self.directory.sync()?;
        Ok(last_four(&footer))
    }
}

/// Compresses groups with all compressors at the same time; returns one frame for each.
fn compress(compressors: &mut [Compressor<'static>], groups: &[&[u8]]) -> io::Result<Vec<Vec<u8>>> {
    let next = AtomicUsize::new(0);
    let work = |compressor: &mut Compressor<'_>| -> io::Result<Vec<(usize, Vec<u8>)>> {
        let mut frames = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(number) else { return Ok(frames) };
            frames.push((number, compressor.compress(group)?));
        }
    };
    let Some((own, others)) = compressors.split_first_mut() else { return Ok(Vec::new()) };
    let mut frames = thread::scope(|scope| {
        let useful = others.iter_mut().take(groups.len().saturating_sub(1));
        let spawn =
            |compressor| thread::Builder::new().name("compress".to_owned()).spawn_scoped(scope, || work(compressor));
        // Without a thread the others do its work.
        let threads: Vec<_> = useful.filter_map(|compressor| spawn(compressor).ok()).collect();
        let mut frames = work(own)?;
        for thread in threads {
            frames.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, io::Error>(frames)
    })?;
    frames.sort_unstable_by_key(|(number, _)| *number);
    Ok(frames.into_iter().map(|(_, frame)| frame).collect())
}

fn not_compressed(file: &dyn StoredFile, offset: u64, source: io::Error) -> StorageError {
    let (op, path) = (StorageOp::Write, file.path().to_path_buf());
    StorageError { op, path, offset: Some(offset), source }
}

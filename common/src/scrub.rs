//! Scrub: all that a backup has is read back from its disk, a part at a time, so that rot is found while parity still mends it.
//!
//! Nothing is written here: damage is noted, and the sealing thread, which has the lock, writes the file anew (`seal/upkeep.rs`). A part is a parity set,
//! of which each block is compared with its checksum, or a file without parity, which is checked as `verify` checks it. The cache of the
//! operating system is asked to forget a file before it is read: what is there proves nothing about the disk.
//!
//! * `paced`: a directory whose reads are paced.

mod paced;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::backup::Backup;
use crate::parity::mending::{mend, set_of};
use crate::parity::set_file::{MemberFiles, ParitySet};
use crate::parity::sets::is_of_the_file;
use crate::repair::is_sound;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, Healed, StorageError, StorageOp};
use format::names;
use format::parity::{PARITY_BLOCK_LEN, Protected};
use format::units::Seq;
use paced::PacedDirectory;

/// Called often: it pauses, so that reading does not disturb, and breaks to stop it.
pub type Watching = Arc<dyn Fn() -> ControlFlow<()> + Send + Sync>;

/// Blocks that are read between two calls of the watch.
const BLOCKS_BETWEEN: u64 = 64;

/// Blocks after which the cache is dropped again.
const BLOCKS_CACHED: u64 = 1024;

/// Records that are read between two calls of the watch.
const RECORDS_BETWEEN: u32 = 64;

/// Damaged blocks after which no more of a part is read: a disk may take many seconds to say that it cannot read one.
const DAMAGED_MAX: usize = 1024;

/// How often a part is read again that was changed meanwhile.
const ATTEMPTS: usize = 3;

/// Bytes before the end of the newest log whose cache stays: the next write adds to the page that is there.
const NOT_FORGOTTEN: u64 = 64 << 10;

/// A damaged block, or a damaged file if it has no parity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DamagedBlock {
    /// Name of the file.
    pub name: String,
    /// Byte of the file that the block begins with.
    pub offset: u64,
}

/// What was found in a part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubbedPart {
    /// Name of the last file up to which everything was read: where the next part begins.
    pub through: String,
    /// Number of bytes that were read.
    pub bytes: u64,
    /// Blocks that parity mends, and damaged blocks of parity, which are made again.
    pub healed: Vec<DamagedBlock>,
    /// Blocks that nothing here mends.
    pub unhealable: Vec<DamagedBlock>,
}

/// A damaged record of a log that is not sealed yet.
#[derive(Debug)]
pub struct DamagedRecord {
    /// Seq of the record.
    pub seq: Seq,
    /// What is wrong, and where.
    pub error: ReadError,
}

/// Reads a backup back, part by part. The order is that of the kinds of files, and within a kind that of the records.
pub struct Scrub {
    backup: Arc<Backup>,
    /// Below what mends itself: here the damage has to be seen.
    directory: Arc<dyn Directory>,
    watching: Watching,
}

impl fmt::Debug for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrub").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// The files of a backup that have, or should have, parity.
type Files = BTreeSet<Protected>;

impl Scrub {
    /// A scrub of this backup; nothing is read yet.
    pub fn new(backup: Arc<Backup>, watching: Watching) -> Self {
        let directory = backup.directory().unhealed().unwrap_or_else(|| Arc::clone(backup.directory()));
        Self { backup, directory, watching }
    }

    /// Notes a file that its owner has to write anew.
    pub fn note(&self, name: &str, offset: u64) {
        self.backup.directory().note_healed(Healed { name: name.to_owned(), offset });
    }

    /// Reads the first part that begins behind the file with this name, or the first of all. `None` when there is none; `Break` when it
    /// was stopped.
    ///
    /// # Errors
    /// When the directory does not answer, or has no backup. A file that cannot be read is damaged.
    pub fn read_part(&self, after: Option<&str>) -> Result<ControlFlow<(), Option<ScrubbedPart>>, StorageError> {
        let after = after.and_then(Protected::parse);
        // An empty directory where a disk was mounted is not a backup without damage.
        self.directory.open(names::MANIFEST, Access::Read)?;
        for attempt in 1.. {
            let files: Files = self.directory.list()?.iter().filter_map(|name| Protected::parse(name)).collect();
            let Some(&file) = files.iter().find(|file| after.is_none_or(|at| **file > at)) else {
                return Ok(ControlFlow::Continue(None));
            };
            let read = match set_of(&*self.directory, file)? {
                Some(set) if set.table().uuid == self.backup.manifest().uuid => self.read_set(file, &set, &files)?,
                _ => self.read_file(file)?,
            };
            match read {
                Read::Part(part) => {
                    part.healed.iter().for_each(|block| self.note_damaged(block));
                    return Ok(ControlFlow::Continue(Some(part)));
                }
                Read::Changed if attempt < ATTEMPTS => {}
                // A compaction is at work; the next pass reads it.
                Read::Changed => {
                    let through = file.name();
                    return Ok(ControlFlow::Continue(Some(ScrubbedPart { through, ..ScrubbedPart::default() })));
                }
                Read::Stopped => break,
            }
        }
        Ok(ControlFlow::Break(()))
    }

    /// Notes what is written anew: of parity, the file whose name it has.
    fn note_damaged(&self, block: &DamagedBlock) {
        match names::parse_parity(&block.name) {
            Some(first) => self.note(first, 0),
            None => self.note(&block.name, block.offset),
        }
    }

    fn read_set(&self, file: Protected, set: &ParitySet, files: &Files) -> Result<Read, StorageError> {
        let layout = set.layout();
        let of_set: Files =
            layout.members().iter().map(|member| member.file).filter(|file| files.contains(file)).collect();
        // Other files may lie between those of a set: they come next, and what follows of this set was read with its first file.
        let through = files.range(file..).take_while(|file| of_set.contains(file)).last().copied().unwrap_or(file);
        let mut part = ScrubbedPart { through: through.name(), ..ScrubbedPart::default() };
        if of_set.first() != Some(&file) {
            return Ok(Read::Part(part));
        }
        self.forget_cached(set);
        let read = MemberFiles::of(&*self.directory, layout);
        let mut damaged: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut count = 0;
        for block in 0..layout.data_blocks() {
            if block.is_multiple_of(BLOCKS_BETWEEN) && (self.watching)().is_break() {
                return Ok(Read::Stopped);
            }
            if block.is_multiple_of(BLOCKS_CACHED) {
                self.forget_cached(set);
            }
            let Some((member, offset)) = layout.place_of(block).filter(|(member, _)| of_set.contains(&member.file))
            else {
                continue;
            };
            part.bytes += (member.len - offset).min(PARITY_BLOCK_LEN as u64);
            if !read.block(layout, block).is_some_and(|bytes| set.is_data(block, &bytes)) {
                damaged.entry(layout.stripe_of(block).stripe).or_default().push(block);
                count += 1;
                if count >= DAMAGED_MAX {
                    break;
                }
            }
        }
        let parity = names::parity(&layout.members().first().map(|member| member.file.name()).unwrap_or_default());
        for block in 0..layout.parity_blocks() {
            if block.is_multiple_of(BLOCKS_BETWEEN) && (self.watching)().is_break() {
                return Ok(Read::Stopped);
            }
            part.bytes += PARITY_BLOCK_LEN as u64;
            if set.parity_block(block).is_none() && part.healed.len() < DAMAGED_MAX {
                part.healed.push(DamagedBlock { name: parity.clone(), offset: layout.parity_offset(block) });
            }
        }
        // Stripe by stripe, for all of them may take much memory.
        for blocks in damaged.into_values() {
            if (self.watching)().is_break() {
                return Ok(Read::Stopped);
            }
            let mended = mend(set, &*self.directory, blocks.into_iter());
            let place = |block: u64| {
                let (member, offset) = layout.place_of(block).filter(|(member, _)| of_set.contains(&member.file))?;
                Some(DamagedBlock { name: member.file.name(), offset })
            };
            part.healed.extend(mended.blocks.keys().copied().filter_map(place));
            part.unhealable.extend(mended.lost.iter().copied().filter_map(place));
        }
        self.forget_cached(set);
        let is_found = !part.healed.is_empty() || !part.unhealable.is_empty();
        Ok(if is_found && !self.is_as_it_was(set, &of_set)? { Read::Changed } else { Read::Part(part) })
    }

    /// Whether a set and its files are still there: damage that was found is not that of files that were removed meanwhile.
    fn is_as_it_was(&self, set: &ParitySet, of_set: &Files) -> Result<bool, StorageError> {
        for file in of_set {
            match self.directory.open(&file.name(), Access::Read) {
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) if !is_of_the_file(&error) => return Err(error),
                _ => {}
            }
        }
        let Some(first) = set.layout().members().first() else { return Ok(true) };
        Ok(match ParitySet::open(&*self.directory, first.file) {
            Ok(now) => now.table() == set.table(),
            Err(ReadError::Storage(error)) if error.is_not_found() => false,
            Err(_) => true,
        })
    }

    fn read_file(&self, file: Protected) -> Result<Read, StorageError> {
        let name = file.name();
        let mut part = ScrubbedPart { through: name.clone(), ..ScrubbedPart::default() };
        // A set that cannot be used is made again; until then its files are checked as those without.
        let unusable = match ParitySet::open(&*self.directory, file) {
            Err(ReadError::Storage(error)) if error.is_not_found() => false,
            Err(ReadError::Storage(error)) if !is_of_the_file(&error) => return Err(error),
            Err(_) => true,
            Ok(set) => set.table().uuid != self.backup.manifest().uuid,
        };
        if unusable {
            part.healed.push(DamagedBlock { name: names::parity(&name), offset: 0 });
        }
        let paced = Arc::new(PacedDirectory::new(Arc::clone(&self.directory), Arc::clone(&self.watching)));
        let directory: Arc<dyn Directory> = Arc::<PacedDirectory>::clone(&paced);
        match self.directory.open(&name, Access::Read).and_then(|file| file.read_len()) {
            Ok(len) => part.bytes = len,
            Err(error) if error.is_not_found() => return Ok(Read::Changed),
            Err(error) if !is_of_the_file(&error) => return Err(error),
            Err(_) => {}
        }
        let sound = is_sound(&directory, self.backup.manifest().uuid, file, &name, None);
        if paced.is_stopped() {
            return Ok(Read::Stopped);
        }
        match sound {
            Ok(true) => Ok(Read::Part(part)),
            Ok(false) => {
                part.unhealable.push(DamagedBlock { name: name.clone(), offset: 0 });
                // It has got parity meanwhile, or was replaced.
                let is_same = set_of(&*self.directory, file)?.is_none() || unusable;
                Ok(if is_same { Read::Part(part) } else { Read::Changed })
            }
            Err(error) if error.is_not_found() => Ok(Read::Changed),
            Err(error) => Err(error),
        }
    }

    fn forget_cached(&self, set: &ParitySet) {
        set.forget_cached();
        for member in set.layout().members() {
            // A file that cannot be opened is found damaged when it is read.
            if let Ok(file) = self.directory.open(&member.file.name(), Access::Read) {
                file.forget_cached();
            }
        }
    }

    /// Reads the records that are not sealed yet, of which that with the seq `durable` is known to be on the disk. Returns the first that is
    /// damaged; `Break` when it was stopped.
    ///
    /// # Errors
    /// When the backup cannot be read, for another reason than a damaged log.
    pub fn read_logs(&self, durable: Option<Seq>) -> Result<ControlFlow<(), Option<DamagedRecord>>, ReadError> {
        self.directory.open(names::MANIFEST, Access::Read)?;
        let first = self.read_logs_once(durable)?;
        let ControlFlow::Continue((None, Some(end))) = first else {
            return Ok(first.map_continue(|(damaged, _)| damaged));
        };
        for name in self.directory.list()? {
            if let (Some(log), Ok(file)) = (names::parse_log(&name), self.directory.open(&name, Access::Read)) {
                // The page that the next write adds to stays: to have to read it first, from this disk, would hold up the node.
                let len = if log == end.0 { end.1.saturating_sub(NOT_FORGOTTEN) } else { u64::MAX };
                file.forget_cached_before(len);
            }
        }
        Ok(self.read_logs_once(durable)?.map_continue(|(damaged, _)| damaged))
    }

    /// Reads them, from the cache of the operating system where they are there. Returns the end of the newest log, too: its first seq, and
    /// the byte.
    fn read_logs_once(&self, durable: Option<Seq>) -> Result<ControlFlow<(), LogsRead>, ReadError> {
        let (_, mut cursor) = self.backup.again().sealed_history()?;
        let (mut number, mut flow) = (0_u32, ControlFlow::Continue(()));
        let read = cursor.read_until(&mut |_| {
            number = number.wrapping_add(1);
            if number.is_multiple_of(RECORDS_BETWEEN) {
                flow = (self.watching)();
            }
            flow
        });
        if flow.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let seq = cursor.next_seq();
        let error = match read {
            Ok(()) if durable.is_none_or(|durable| seq > durable) => {
                return Ok(ControlFlow::Continue((None, cursor.position())));
            }
            // It reads as a write that was never finished.
            Ok(()) => {
                let (log, offset) = cursor.position().unwrap_or((seq, 0));
                let damage = format::Damage::Missing { expected: seq };
                ReadError::damaged(&self.directory.path().join(names::log(log)), offset, damage)
            }
            Err(error) if error.is_replaced() => return Err(error),
            Err(error @ ReadError::Damaged { .. }) => error,
            // A sector of the log that cannot be read.
            Err(ReadError::Storage(error)) if error.op == StorageOp::Read && is_of_the_file(&error) => error.into(),
            Err(error) => return Err(error),
        };
        // It may have been sealed meanwhile.
        let (_, cursor) = self.backup.again().sealed_history()?;
        let damaged = Some(DamagedRecord { seq, error }).filter(|damaged| cursor.next_seq() <= damaged.seq);
        Ok(ControlFlow::Continue((damaged, None)))
    }
}

/// What reading the logs has found: a damaged record, or else the end of the newest log.
type LogsRead = (Option<DamagedRecord>, Option<(Seq, u64)>);

/// What came of reading a part.
enum Read {
    Part(ScrubbedPart),
    /// Its files were removed or replaced meanwhile.
    Changed,
    Stopped,
}

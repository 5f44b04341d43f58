//! [`Segments`]: the sealed segments of a backup, opened when they are needed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};
use uuid::Uuid;

use super::SegmentFile;
use crate::format::Damage;
use crate::format::page_images::Keyframe;
use crate::format::page_map::{MapNode, NODE_LEN_MAX};
use crate::format::segment::{Location, SegmentFooter};
use crate::format::statements::{Block, Encoded, Templates};
use crate::history::Stretch;
use crate::recently_used::RecentlyUsed;
use crate::storage::Directory;
use crate::{ReadError, Seq};

/// Segments kept open, at most: a version's pages are in a few dozens of them, other ones for each version.
const FILES_MAX: usize = 2048;

/// The share of the files that the process may have open which segments may take.
const FILES_SHARE: u64 = 4;

/// Nodes of page maps kept: 800 bytes each.
const NODES_MAX: usize = 8 << 10;

/// Segments whose records are kept in memory: about 100 kB each.
const STRETCHES_MAX: usize = 64;

/// Template tables kept: about 50 kB each.
const TEMPLATES_MAX: usize = 32;

/// Blocks of statements kept: some 200 kB each.
const BLOCKS_MAX: usize = 16;

/// The sealed segments of a backup. What was read is kept for a while, within bounds that do not depend on the backup.
#[derive(Debug)]
pub(crate) struct Segments {
    directory: Arc<dyn Directory>,
    uuid: Uuid,
    files: Mutex<RecentlyUsed<Seq, Arc<SegmentFile>>>,
    footers: Mutex<HashMap<Seq, Arc<SegmentFooter>>>,
    nodes: Mutex<RecentlyUsed<(Seq, u64), Arc<MapNode>>>,
    stretches: Mutex<RecentlyUsed<Seq, Arc<Stretch>>>,
    templates: Mutex<RecentlyUsed<Seq, Arc<Templates>>>,
    blocks: Mutex<RecentlyUsed<(Seq, Keyframe), Arc<Block>>>,
}

fn files_max() -> usize {
    let allowed = getrlimit(Resource::Nofile).current.map_or(FILES_MAX as u64, |allowed| allowed / FILES_SHARE);
    usize::try_from(allowed).unwrap_or(FILES_MAX).clamp(1, FILES_MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change of what is inside is one call, so what a panicking thread left behind is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Segments {
    /// The segments in `directory`.
    pub(crate) fn new(directory: Arc<dyn Directory>, uuid: Uuid) -> Self {
        Self {
            directory,
            uuid,
            files: Mutex::new(RecentlyUsed::new(files_max())),
            footers: Mutex::default(),
            nodes: Mutex::new(RecentlyUsed::new(NODES_MAX)),
            stretches: Mutex::new(RecentlyUsed::new(STRETCHES_MAX)),
            templates: Mutex::new(RecentlyUsed::new(TEMPLATES_MAX)),
            blocks: Mutex::new(RecentlyUsed::new(BLOCKS_MAX)),
        }
    }

    /// The directory that they are in.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The segment that begins with `first_seq`.
    pub(crate) fn open(&self, first_seq: Seq) -> Result<Arc<SegmentFile>, ReadError> {
        if let Some(file) = lock(&self.files).get(first_seq) {
            return Ok(file);
        }
        let file = Arc::new(SegmentFile::open(&*self.directory, self.uuid, first_seq)?);
        lock(&self.files).insert(first_seq, Arc::clone(&file));
        Ok(file)
    }

    /// What a segment holds as a whole. Kept for every segment that was asked about: some hundred bytes.
    pub(crate) fn footer(&self, first_seq: Seq) -> Result<Arc<SegmentFooter>, ReadError> {
        if let Some(footer) = lock(&self.footers).get(&first_seq) {
            return Ok(Arc::clone(footer));
        }
        let footer = Arc::new(self.open(first_seq)?.footer().clone());
        lock(&self.footers).insert(first_seq, Arc::clone(&footer));
        Ok(footer)
    }

    /// A node of a page map.
    pub(crate) fn node(&self, location: Location) -> Result<Arc<MapNode>, ReadError> {
        let key = (location.segment, location.piece.offset);
        if let Some(node) = lock(&self.nodes).get(key) {
            return Ok(node);
        }
        let file = self.open(location.segment)?;
        if location.piece.len > NODE_LEN_MAX {
            let damage = Damage::Field { field: "node length", value: location.piece.len.into() };
            return Err(file.damaged(location.piece.offset, damage));
        }
        let node = Arc::new(file.read_piece(location.piece, |bytes| MapNode::decode(bytes, location.segment))?);
        lock(&self.nodes).insert(key, Arc::clone(&node));
        Ok(node)
    }

    /// What the records of a segment amount to.
    pub(crate) fn stretch(&self, first_seq: Seq) -> Result<Arc<Stretch>, ReadError> {
        if let Some(stretch) = lock(&self.stretches).get(first_seq) {
            return Ok(stretch);
        }
        let file = self.open(first_seq)?;
        let index = file.read_index()?;
        let stretch = Stretch::of_segment(file.header(), file.footer(), index);
        let stretch = Arc::new(stretch.map_err(|damage| file.damaged(file.footer().index.offset, damage))?);
        lock(&self.stretches).insert(first_seq, Arc::clone(&stretch));
        Ok(stretch)
    }

    /// The template table of a segment.
    pub(crate) fn templates(&self, first_seq: Seq) -> Result<Arc<Templates>, ReadError> {
        if let Some(templates) = lock(&self.templates).get(first_seq) {
            return Ok(templates);
        }
        let file = self.open(first_seq)?;
        let piece = file.footer().templates;
        let encoded = file.read_piece(piece, Encoded::decompress)?;
        let templates = Templates::decode(&encoded).map_err(|damage| file.damaged(piece.offset, damage))?;
        let templates = Arc::new(templates);
        lock(&self.templates).insert(first_seq, Arc::clone(&templates));
        Ok(templates)
    }

    /// The statements of an interval of a segment.
    pub(crate) fn block(&self, first_seq: Seq, interval: Keyframe) -> Result<Arc<Block>, ReadError> {
        if let Some(block) = lock(&self.blocks).get((first_seq, interval)) {
            return Ok(block);
        }
        let file = self.open(first_seq)?;
        let stretch = self.stretch(first_seq)?;
        let piece = stretch.interval(interval).map(|interval| interval.block);
        let piece = piece.ok_or_else(|| {
            file.damaged(file.footer().index.offset, Damage::Contradiction("its record index lacks an interval"))
        })?;
        let templates = self.templates(first_seq)?;
        let encoded = file.read_piece(piece, Encoded::decompress)?;
        let block = Block::decode(&encoded, &templates).map_err(|damage| file.damaged(piece.offset, damage))?;
        let block = Arc::new(block);
        lock(&self.blocks).insert((first_seq, interval), Arc::clone(&block));
        Ok(block)
    }

    /// Forgets what was read: other files may have the names now.
    pub(crate) fn forget(&self) {
        lock(&self.files).clear();
        lock(&self.footers).clear();
        lock(&self.nodes).clear();
        lock(&self.stretches).clear();
        lock(&self.templates).clear();
        lock(&self.blocks).clear();
    }
}

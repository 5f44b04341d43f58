//! [`Catalogs`]: what the catalogs of a copy say of its segments, and [`Beside`], a segment with what one says.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::storage::{Access, Directory};
use format::names;

use crate::catalog::{Catalog, Catalogued, HEAD_LEN_MAX};
use crate::copy::at_once::at_once;
use crate::copy::chunks::Chunks;
use crate::copy_error::CopyError;
use crate::objects::{File, Object};
use crate::seal::layout::plain_len;
use crate::ship::listing::Listing;

/// The catalogs of a copy, as far as they were read.
#[derive(Debug, Default)]
pub(super) struct Catalogs {
    /// `None` for one that cannot be used.
    read: BTreeMap<Listed, Option<Arc<CatalogObject>>>,
    /// Of each segment, by the seqs of its first and its last record.
    segments: BTreeMap<(u64, u64), Arc<Beside>>,
}

/// The seqs of the first and the last record of a catalog, and the length of its object.
type Listed = ((u64, u64), u64);

/// A catalog in the copy.
#[derive(Debug)]
struct CatalogObject {
    name: String,
    object_len: u64,
    catalog: Catalog,
}

/// What a catalog says of a segment.
#[derive(Debug)]
pub(super) struct Beside {
    object: Arc<CatalogObject>,
    /// Its position among the segments of the catalog.
    position: usize,
    /// Whether the indexes in the catalog were found to be none: then those of the segment are read.
    is_wrong: AtomicBool,
}

impl Catalogs {
    /// Reads the catalogs that are new. One that is damaged is reported, and passed over; one that cannot be read is tried again the next
    /// time.
    pub(super) fn read_new(&mut self, listing: &Listing, chunks: &Chunks) {
        let listed: Vec<_> = listing.catalogs().iter().map(|(&of, &object_len)| (of, object_len)).collect();
        self.read.retain(|key, _| listed.contains(key));
        let new: Vec<_> = listed.into_iter().filter(|key| !self.read.contains_key(key)).collect();
        let read = at_once(&new, |&(of, object_len)| CatalogObject::read(of, object_len, chunks));
        for (key, object) in new.into_iter().zip(read) {
            let object = match object {
                Ok(object) => Some(Arc::new(object)),
                Err(error @ (CopyError::Damaged { .. } | CopyError::Seal(_))) => {
                    log::warn!("{error}; what it would say is read elsewhere, which takes longer");
                    None
                }
                Err(error) => {
                    log::debug!("{error}");
                    continue;
                }
            };
            self.read.insert(key, object);
        }
        self.segments.clear();
        for object in self.read.values().flatten() {
            for (position, segment) in object.catalog.segments.iter().enumerate() {
                let beside = Beside { object: Arc::clone(object), position, is_wrong: AtomicBool::new(false) };
                let of = (segment.header.first_seq.get(), segment.footer.last_seq.get());
                self.segments.insert(of, Arc::new(beside));
            }
        }
    }

    /// What a catalog says of a file of this length, if it is a segment.
    pub(super) fn of(&self, file: File, file_len: u64) -> Option<Arc<Beside>> {
        let File::Segment { first, last } = file else { return None };
        self.segments.get(&(first, last)).filter(|beside| beside.segment().file_len == file_len).cloned()
    }
}

impl CatalogObject {
    fn read((first, last): (u64, u64), object_len: u64, chunks: &Chunks) -> Result<Self, CopyError> {
        let name = Object::Catalog { first, last }.to_string();
        let len = plain_len(object_len).ok_or_else(|| CopyError::Damaged {
            name: name.clone(),
            reason: "it was cut off, or is no object of a copy",
        })?;
        let mut head = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(HEAD_LEN_MAX)];
        chunks.read(&name, object_len, 0, &mut head)?;
        let catalog = Catalog::decode(&name, &head, len)?;
        Ok(Self { name, object_len, catalog })
    }
}

impl Beside {
    /// What the catalog says.
    pub(super) fn segment(&self) -> &Catalogued {
        // The position is that of a segment of the same catalog.
        &self.object.catalog.segments[self.position]
    }

    /// Whether it says the same as another one, so that a file with that one need not be opened anew.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object) && self.position == other.position
    }

    /// Fills `buf` with the bytes of the segment from `offset` on, if the catalog has them all.
    pub(super) fn read(&self, chunks: &Chunks, buf: &mut [u8], offset: u64) -> bool {
        let segment = self.segment();
        let end_at = segment.indexes.end;
        for (at, bytes) in [(0, &segment.start[..]), (end_at, &segment.end[..])] {
            let stored = offset.checked_sub(at).and_then(|from| usize::try_from(from).ok());
            if let Some(stored) = stored.and_then(|from| bytes.get(from..from.checked_add(buf.len())?)) {
                buf.copy_from_slice(stored);
                return true;
            }
        }
        let is_within = segment.indexes.start <= offset && offset.saturating_add(buf.len() as u64) <= end_at;
        is_within && !self.is_wrong.load(Ordering::Relaxed) && self.read_indexes(chunks, buf, offset)
    }

    fn read_indexes(&self, chunks: &Chunks, buf: &mut [u8], offset: u64) -> bool {
        let (object, segment) = (&self.object, self.segment());
        let len = usize::try_from(segment.indexes.end - segment.indexes.start).unwrap_or(0);
        let mut indexes = vec![0; len];
        match chunks.read(&object.name, object.object_len, segment.at, &mut indexes) {
            Ok(()) if segment.are_indexes(&indexes) => {
                let from = usize::try_from(offset - segment.indexes.start).unwrap_or(usize::MAX);
                indexes.get(from..).and_then(|rest| rest.get(..buf.len())).is_some_and(|stored| {
                    buf.copy_from_slice(stored);
                    true
                })
            }
            // The same store has the segment.
            Err(error) if !matches!(error, CopyError::Damaged { .. } | CopyError::Seal(_)) => {
                log::debug!("{error}");
                false
            }
            result => {
                let reason =
                    result.err().map_or_else(|| "its bytes are none of segments".to_owned(), |it| it.to_string());
                log::warn!("{}: {reason}; what it would say is read elsewhere, which takes longer", object.name);
                self.is_wrong.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// The object, its length, and the range of its bytes that has these bytes of the segment. `None` when they are in memory.
    pub(super) fn source(&self, range: &Range<u64>) -> Source<'_> {
        let segment = self.segment();
        let is_end = segment.indexes.end <= range.start;
        if range.end <= segment.start.len() as u64 || is_end {
            return Source::Memory;
        }
        let is_within = segment.indexes.start <= range.start && range.end <= segment.indexes.end;
        if !is_within || self.is_wrong.load(Ordering::Relaxed) {
            return Source::Segment;
        }
        let at = |offset: u64| segment.at + (offset - segment.indexes.start);
        Source::Catalog(&self.object.name, self.object.object_len, at(segment.indexes.start)..at(segment.indexes.end))
    }
}

/// How much of a catalog is compared with its segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogDepth {
    /// The lengths of the segments, their first and their last bytes.
    Ends,
    /// Everything.
    All,
}

/// Compares a catalog with those of its segments that are in `directory` and can be read.
///
/// # Errors
/// When it is damaged or says something else; when it cannot be read.
pub(super) fn check(
    of: (u64, u64),
    object_len: u64,
    chunks: &Chunks,
    directory: &dyn Directory,
    depth: CatalogDepth,
) -> Result<(), CopyError> {
    let CatalogObject { name, catalog, .. } = CatalogObject::read(of, object_len, chunks)?;
    for segment in &catalog.segments {
        let opened = directory.open(&names::segment(segment.header.first_seq), Access::Read);
        // A reader does not use it for a segment of another length.
        let Some(file) = opened.ok().filter(|file| file.read_len().is_ok_and(|len| len == segment.file_len)) else {
            continue;
        };
        let same = |at: u64, expected: &[u8]| {
            let mut bytes = vec![0; expected.len()];
            file.read_at(&mut bytes, at).is_err() || bytes == expected
        };
        let mut is_right = same(0, &segment.start) && same(segment.indexes.end, &segment.end);
        if depth == CatalogDepth::All {
            let len = usize::try_from(segment.indexes.end - segment.indexes.start).unwrap_or(0);
            let mut indexes = vec![0; len];
            chunks.read(&name, object_len, segment.at, &mut indexes)?;
            is_right &= same(segment.indexes.start, &indexes);
        }
        if !is_right {
            return Err(CopyError::Damaged { name, reason: "it says something else than the segments" });
        }
    }
    Ok(())
}

/// Where bytes of a segment are read from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// Nothing is fetched.
    Memory,
    /// These bytes of the catalog, whose object has this name and length.
    Catalog(&'a str, u64, Range<u64>),
    /// The segment.
    Segment,
}

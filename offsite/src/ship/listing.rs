//! [`Listing`]: the files that a copy has, from the names of their parts.

use std::collections::{BTreeMap, BTreeSet};

use common::Seq;
use common::feed::{Feed, FinishedFile};

use crate::copy_error::CopyError;
use crate::objects::{File, Object, Part};
use crate::seal::layout::plain_len;
use crate::store::Store;

/// The files of a copy.
#[derive(Debug, Default)]
pub struct Listing {
    /// The lengths of the objects of each file's parts.
    files: BTreeMap<File, BTreeMap<Part, u64>>,
    manifests: BTreeSet<u32>,
    /// The lengths of the objects with catalogs, by the seqs of the first and the last record in their segments.
    catalogs: BTreeMap<(u64, u64), u64>,
}

impl Listing {
    /// Lists a copy.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn read(store: &dyn Store) -> Result<Self, CopyError> {
        let mut listing = Self::default();
        for prefix in [Object::MANIFESTS, File::SNAPSHOTS, File::SEGMENTS, File::PRUNED, Object::CATALOGS] {
            for listed in store.list(prefix)? {
                match Object::parse(&listed.name) {
                    Some(Object::Manifest(number)) => listing.add_manifest(number),
                    Some(Object::Part(file, part)) => listing.add(file, part, listed.len),
                    Some(Object::Catalog { first, last }) => listing.add_catalog((first, last), listed.len),
                    // Foreign, or of a later release: not counted on.
                    _ => log::debug!("{} is not understood", listed.name),
                }
            }
        }
        Ok(listing)
    }

    /// Adds a part, with the length of its object.
    pub fn add(&mut self, file: File, part: Part, object_len: u64) {
        self.files.entry(file).or_default().insert(part, object_len);
    }

    /// Adds a manifest.
    pub fn add_manifest(&mut self, number: u32) {
        self.manifests.insert(number);
    }

    /// Adds a catalog, with the length of its object.
    pub fn add_catalog(&mut self, of: (u64, u64), object_len: u64) {
        self.catalogs.insert(of, object_len);
    }

    /// The catalogs, by the seqs of the first and the last record in their segments, with the lengths of their objects.
    pub fn catalogs(&self) -> &BTreeMap<(u64, u64), u64> {
        &self.catalogs
    }

    /// The runs of so many consecutive segments that are complete and in no catalog, with the seqs of their first and last records.
    pub fn uncatalogued(&self, count: usize) -> Vec<Vec<(u64, u64)>> {
        let (mut runs, mut run) = (Vec::new(), Vec::<(u64, u64)>::new());
        for (first, last) in self.covered() {
            let before = self.catalogs.range(..=(first, u64::MAX)).next_back();
            let is_in_one = before.is_some_and(|(&(_, end), _)| last <= end);
            if is_in_one || run.last().is_some_and(|&(_, before)| before.checked_add(1) != Some(first)) {
                run.clear();
            }
            if !is_in_one {
                run.push((first, last));
            }
            if run.len() == count {
                runs.push(std::mem::take(&mut run));
            }
        }
        runs
    }

    /// Whether there is a part of a segment between these records.
    pub fn has_segments_within(&self, from: u64, to: u64) -> bool {
        let is_within = |file| matches!(file, File::Segment { first, last } if from <= first && last <= to);
        self.files().any(is_within)
    }

    /// Length of a file that is complete.
    pub fn len_of(&self, file: File) -> Option<u64> {
        self.complete(file)?.iter().map(|&(_, len)| plain_len(len)).sum()
    }

    /// The numbers of the manifests.
    pub fn manifests(&self) -> &BTreeSet<u32> {
        &self.manifests
    }

    /// Whether the copy has this part.
    pub fn has(&self, file: File, part: Part) -> bool {
        self.files.get(&file).is_some_and(|parts| parts.contains_key(&part))
    }

    /// The parts of a file that has all of them, with the lengths of their objects, in order.
    pub fn complete(&self, file: File) -> Option<Vec<(Part, u64)>> {
        let parts = self.files.get(&file)?;
        let of = parts.keys().next()?.of;
        let all: Option<Vec<_>> =
            (1..=of).map(|number| Part { number, of }).map(|part| Some((part, *parts.get(&part)?))).collect();
        all
    }

    /// Whether the copy has all parts of a file.
    pub fn is_complete(&self, file: File) -> bool {
        self.complete(file).is_some()
    }

    /// All files, complete or not, ascending.
    pub fn files(&self) -> impl Iterator<Item = File> {
        self.files.keys().copied()
    }

    /// The ranges of seqs that complete segments cover, ascending.
    fn covered(&self) -> impl Iterator<Item = (u64, u64)> {
        self.files().filter(|&file| self.is_complete(file)).filter_map(|file| match file {
            File::Segment { first, last } => Some((first, last)),
            _ => None,
        })
    }

    /// Seq behind the last record of the complete segments.
    pub fn sealed_behind(&self) -> u64 {
        self.covered().map(|(_, last)| last.saturating_add(1)).max().unwrap_or(1)
    }

    /// Whether a complete segment has this record.
    pub fn covers(&self, seq: u64) -> bool {
        self.covered().any(|(first, last)| (first..=last).contains(&seq))
    }

    /// The last seq up to `end` that no complete segment covers; 0 when all are covered.
    pub fn last_missing_up_to(&self, end: u64) -> u64 {
        let covered: Vec<_> = self.covered().collect();
        let mut missing = end;
        for &(first, last) in covered.iter().rev() {
            if last >= missing && first <= missing {
                missing = first.saturating_sub(1);
            }
        }
        missing
    }

    /// Whether a complete file `pruned` covers the records up to this seq.
    pub fn pruned_covers(&self, seq: u64) -> bool {
        self.files().any(|file| matches!(file, File::Pruned { last, .. } if last >= seq) && self.is_complete(file))
    }

    /// Seq of the last record that a pruning of the copy has dropped, or could have dropped; 0 when it was never pruned. Such a
    /// pruning needs the whole history up to there, so what is missing now was there.
    pub fn pruned_through(&self) -> u64 {
        let by_operator = |file| matches!(file, File::Pruned { run: 1.., .. }) && self.is_complete(file);
        let last = |file| if let File::Pruned { last, .. } = file { last } else { 0 };
        self.files().filter(|&file| by_operator(file)).map(last).max().unwrap_or(0)
    }

    /// The file `pruned` that counts: the one that covers the records that the copy lacks. None while it lacks none: then the copy
    /// has more than the file says.
    pub fn shown_pruned(&self) -> Option<File> {
        let complete: Vec<File> = self.files().filter(|&file| self.is_complete(file)).collect();
        let pruned = |file: &File| if let File::Pruned { last, run } = *file { Some((last, run)) } else { None };
        let missing = self.last_missing_up_to(complete.iter().filter_map(pruned).map(|(last, _)| last).max()?);
        // The smallest that covers all that is missing, and of two the later one.
        let covering = complete.iter().filter_map(pruned).filter(|&(last, _)| missing > 0 && last >= missing);
        covering.min_by_key(|&(last, run)| (last, u32::MAX - run)).map(|(last, run)| File::Pruned { last, run })
    }

    /// The highest number of a pruning of the copy.
    pub fn prunings(&self) -> u32 {
        let run = |file| if let File::Pruned { run, .. } = file { run } else { 0 };
        self.files().map(run).max().unwrap_or(0)
    }

    /// The names of the objects of a file, complete or not.
    pub fn object_names(&self, file: File) -> Vec<String> {
        let parts = self.files.get(&file).into_iter().flat_map(BTreeMap::keys);
        parts.map(|&part| Object::Part(file, part).to_string()).collect()
    }

    /// Forgets an object that has to be stored again.
    pub fn forget(&mut self, object: &Object) {
        match object {
            Object::Part(file, part) => {
                self.files.get_mut(file).map(|parts| parts.remove(part));
                self.files.retain(|_, parts| !parts.is_empty());
            }
            Object::Manifest(number) => {
                self.manifests.remove(number);
            }
            Object::Catalog { first, last } => {
                self.catalogs.remove(&(*first, *last));
            }
            _ => {}
        }
    }

    /// Forgets a file whose objects were removed.
    pub fn remove(&mut self, file: File) {
        self.files.remove(&file);
    }

    /// Checks that the copy has no segment that the backup of `feed` does not have or has dropped.
    ///
    /// # Errors
    /// [`CopyError::Ahead`] or [`CopyError::Fork`] when it has, [`CopyError::Backup`] when the backup cannot be read.
    pub fn expect_older_than(&self, feed: &Feed) -> Result<(), CopyError> {
        let dropped = feed.dropped_through()?.map_or(0, Seq::get);
        let mut own = BTreeMap::new();
        for file in feed.finished_files()? {
            if let FinishedFile::Segment { first, last } = file {
                own.insert(first.get(), (last.get(), file.name()));
            }
        }
        let newest = own.values().map(|(last, _)| *last).max().unwrap_or(0);
        for file in self.files() {
            let File::Segment { first, last } = file else { continue };
            let name = || Object::Part(file, Part { number: 1, of: 1 }).to_string();
            match own.get(&first) {
                Some(&(own_last, _)) if own_last != last => return Err(CopyError::Fork { name: name() }),
                Some((_, local)) => {
                    let Some(parts) = self.complete(file) else { continue };
                    let copied = parts.iter().map(|&(_, len)| plain_len(len)).sum::<Option<u64>>();
                    let own_len = feed.open(local).and_then(|file| file.read_len()).map_err(common::ReadError::from)?;
                    if copied != Some(own_len) {
                        return Err(CopyError::Fork { name: name() });
                    }
                }
                None if last <= dropped => {}
                None if last > newest => return Err(CopyError::Ahead { copy: last, backup: newest }),
                None => return Err(CopyError::Fork { name: name() }),
            }
        }
        Ok(())
    }
}

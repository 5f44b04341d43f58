//! All states of a disk that a power cut may leave.
//!
//! Of a file: what was synced, and of later writes nothing, everything, the new length with zeros, or any part, torn at sectors
//! and at bytes. Of a directory: the synced names, and any of the later creations, renames and removals, each independently,
//! except that those of one name stay in order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::disk::{Call, NameChange, Node, Tree, write};
use super::model::Promise;
use super::random::Random;

/// The unit that a disk writes atomically.
const SECTOR: usize = 512;

/// Maximum number of sectors for which every combination is tried.
const ALL_OF_SECTORS: usize = 3;

/// Maximum number of writes to a file for which every combination is tried.
const ALL_OF_WRITES: usize = 4;

/// Maximum number of name changes for which every combination is tried.
const ALL_OF_NAMES: usize = 4;

/// A state, with its origin.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) tree: Tree,
    pub(super) promise: Arc<Promise>,
    pub(super) cut: Cut,
}

/// A moment of a power cut, with the outcome on the disk.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    /// Number of calls before it.
    pub(super) after: usize,
    pub(super) unsynced: String,
    /// The unsynced changes of names that are kept.
    pub(super) names: String,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after call {}; of what was not synced there is {}; names: {}", self.after, self.unsynced, self.names)
    }
}

/// How thoroughly states are generated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tearing {
    /// Number of cuts at bytes, per write. A sector may be partly written, but not without its beginning.
    pub(super) bytes: usize,
    /// Number of other combinations, where not all are tried.
    pub(super) samples: usize,
}

impl Tearing {
    /// Writes are kept or not.
    pub(super) const WHOLE: Self = Self { bytes: 0, samples: 0 };
}

/// The contents of some files, by number.
type Files = BTreeMap<usize, Arc<Vec<u8>>>;

/// The possible contents of a file after a power cut.
#[derive(Debug, Clone, Default)]
struct Contents {
    certain: Arc<Vec<u8>>,
    /// Later writes, in order.
    writes: Vec<Written>,
}

#[derive(Debug, Clone)]
struct Written {
    offset: usize,
    bytes: Arc<[u8]>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unsynced,
    /// Its sync failed: a later one proves nothing.
    Unknown,
    /// Synced, but behind something unknown.
    Synced,
}

impl Written {
    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }

    fn covers(&self, other: &Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }
}

impl Contents {
    fn sync(&mut self) {
        let is_fresh = |written: &Written| written.fate == Fate::Unsynced;
        let writes = std::mem::take(&mut self.writes);
        for (position, written) in writes.iter().enumerate() {
            let is_superseded = || writes[position + 1..].iter().any(|later| is_fresh(later) && later.covers(written));
            if written.fate == Fate::Unknown && is_superseded() {
                continue;
            }
            let fate = if is_fresh(written) { Fate::Synced } else { written.fate };
            self.writes.push(Written { fate, ..written.clone() });
        }
        if self.writes.iter().all(|written| written.fate == Fate::Synced) {
            self.certain = self.built(&mut |_| Part::All);
            self.writes.clear();
        }
    }

    fn sync_failed(&mut self) {
        for written in self.writes.iter_mut().filter(|written| written.fate == Fate::Unsynced) {
            written.fate = Fate::Unknown;
        }
    }

    fn is_certain(&self) -> bool {
        self.writes.is_empty()
    }

    fn built(&self, part: &mut dyn FnMut(usize) -> Part) -> Arc<Vec<u8>> {
        let mut contents = self.certain.to_vec();
        let mut uncertain = 0;
        for Written { offset, bytes, fate } in &self.writes {
            let part = match fate {
                Fate::Synced => Part::All,
                Fate::Unsynced | Fate::Unknown => {
                    uncertain += 1;
                    part(uncertain - 1)
                }
            };
            match part {
                Part::All => write(&mut contents, *offset, bytes),
                Part::Nothing => {}
                Part::Length => contents.resize(contents.len().max(offset + bytes.len()), 0),
                Part::Bytes(from, to) => {
                    let (from, to) = (from.min(bytes.len()), to.min(bytes.len()));
                    if from < to {
                        write(&mut contents, offset + from, &bytes[from..to]);
                    }
                }
                Part::Sectors(kept) => {
                    for (number, (from, to)) in sectors(*offset, bytes.len()).enumerate() {
                        if kept >> (number % 64) & 1 == 1 {
                            write(&mut contents, offset + from, &bytes[from..to]);
                        }
                    }
                }
            }
        }
        Arc::new(contents)
    }
}

/// The kept part of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Nothing,
    /// Zeros.
    Length,
    Bytes(usize, usize),
    /// The sectors whose bits are set.
    Sectors(u64),
}

/// The sectors of a write, as ranges of its bytes.
fn sectors(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let first = SECTOR - offset % SECTOR;
    let starts = std::iter::once(0).chain((first..len).step_by(SECTOR));
    starts.map(move |from| (from, len.min(from + SECTOR - (offset + from) % SECTOR)))
}

/// The kept part of each uncertain write of a file, in all combinations that are tried.
fn ways(contents: &Contents, tearing: Tearing, random: &mut Random) -> Vec<Vec<Part>> {
    let uncertain: Vec<&Written> = contents.writes.iter().filter(|written| written.fate != Fate::Synced).collect();
    let count = uncertain.len();
    let mut ways = vec![vec![Part::Nothing; count], vec![Part::All; count]];
    if tearing.samples == 0 {
        return ways;
    }
    if uncertain.iter().any(|written| written.end() > contents.certain.len()) {
        ways.push(vec![Part::Length; count]);
    }
    for (position, written) in uncertain.iter().enumerate() {
        // The writes before it are kept, those behind it are not.
        let mut torn = |part| {
            let mut way = vec![Part::All; count];
            way[position..].fill(Part::Nothing);
            way[position] = part;
            ways.push(way);
        };
        let len = written.bytes.len();
        let sector_count = sectors(written.offset, len).count();
        if count > 4 && position % (count / 4) != 0 {
            continue;
        }
        if sector_count <= ALL_OF_SECTORS {
            (1..(1 << sector_count) - 1).for_each(|kept| torn(Part::Sectors(kept)));
        } else {
            for sector in 1..sector_count.min(32) {
                torn(Part::Sectors((1 << sector) - 1));
                torn(Part::Sectors(!((1 << sector) - 1)));
            }
            (0..tearing.samples).for_each(|_| torn(Part::Sectors(random.next())));
        }
        for _ in 0..tearing.bytes {
            torn(Part::Bytes(0, random.below(len)));
            let (first, _) = sectors(written.offset, len).nth(random.below(sector_count)).unwrap_or_default();
            torn(Part::Bytes(first, first + random.below(len - first)));
        }
    }
    if (2..=ALL_OF_WRITES).contains(&count) {
        let part = |bits: u32, write: usize| if bits >> write & 1 == 1 { Part::All } else { Part::Nothing };
        ways.extend((1..(1 << count) - 1).map(|bits| (0..count).map(|write| part(bits, write)).collect::<Vec<_>>()));
    }
    if count > 1 {
        for _ in 0..tearing.samples * 2 {
            let part = |random: &mut Random| match random.below(4) {
                0 => Part::Nothing,
                1 => Part::All,
                2 => Part::Length,
                _ => Part::Sectors(random.next()),
            };
            ways.push((0..count).map(|_| part(random)).collect());
        }
    }
    ways
}

/// Follows a journal and tracks at every call what is durable.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    names: Vec<BTreeMap<String, Node>>,
    /// Changes of names since the last sync of their directory.
    changes: Vec<(usize, NameChange)>,
    files: Vec<Contents>,
    promise: Option<Arc<Promise>>,
    calls: usize,
}

impl Watch {
    /// All of `tree` is durable, and nothing is promised.
    pub(super) fn new(tree: &Tree) -> Self {
        let files = tree.files.iter().map(|file| Contents { certain: Arc::clone(file), writes: Vec::new() }).collect();
        Self { names: tree.directories.clone(), changes: Vec::new(), files, promise: None, calls: 0 }
    }

    /// The last promise.
    pub(super) fn promise(&self) -> Option<&Arc<Promise>> {
        self.promise.as_ref()
    }

    /// Applies the next call.
    pub(super) fn see(&mut self, call: &Call) {
        self.calls += 1;
        match call {
            Call::Write { file, offset, bytes } => {
                let written = Written { offset: *offset, bytes: Arc::clone(bytes), fate: Fate::Unsynced };
                self.files[*file].writes.push(written);
            }
            Call::Sync(file) => self.files[*file].sync(),
            Call::SyncFailed(file) => self.files[*file].sync_failed(),
            Call::Name { directory, change } => {
                if let NameChange::Create { node, .. } = change {
                    match *node {
                        Node::File(number) => self.files.resize(self.files.len().max(number + 1), Contents::default()),
                        Node::Directory(number) => {
                            self.names.resize(self.names.len().max(number + 1), BTreeMap::new());
                        }
                    }
                }
                self.changes.push((*directory, change.clone()));
            }
            Call::SyncNames(directory) => {
                let changes = std::mem::take(&mut self.changes);
                for (of, change) in changes {
                    if of == *directory { change.apply(&mut self.names[of]) } else { self.changes.push((of, change)) }
                }
            }
            Call::Promise(promise) => self.promise = Some(Arc::clone(promise)),
        }
    }

    /// The state without a power cut.
    pub(super) fn visible(&self) -> Tree {
        self.image(&vec![true; self.changes.len()], &BTreeMap::new())
    }

    fn image(&self, kept: &[bool], files: &Files) -> Tree {
        let mut directories = self.names.clone();
        for ((directory, change), _) in self.changes.iter().zip(kept).filter(|(_, kept)| **kept) {
            change.apply(&mut directories[*directory]);
        }
        let file = |(number, contents): (usize, &Contents)| match files.get(&number) {
            Some(built) => Arc::clone(built),
            None if contents.is_certain() => Arc::clone(&contents.certain),
            None => contents.built(&mut |_| Part::All),
        };
        Tree { directories, files: self.files.iter().enumerate().map(file).collect() }
    }

    /// Passes every state that a power cut may leave now to `take`.
    pub(super) fn for_images(&self, tearing: Tearing, random: &mut Random, take: &mut dyn FnMut(Image)) {
        let Some(promise) = &self.promise else { return };
        let names = self.name_subsets(tearing, random);
        let files = self.file_ways(tearing, random);
        for (position, kept) in names.iter().enumerate() {
            // The first two are none and all; for the others it suffices that files are as before, or new.
            let files = if position < 2 { &files[..] } else { &files[..files.len().min(3)] };
            for (unsynced, built) in files {
                let cut = Cut { after: self.calls, unsynced: unsynced.clone(), names: self.describe(kept) };
                take(Image { tree: self.image(kept, built), promise: Arc::clone(promise), cut });
            }
        }
    }

    /// Which changes of names are kept.
    fn name_subsets(&self, tearing: Tearing, random: &mut Random) -> Vec<Vec<bool>> {
        let count = self.changes.len();
        let mut subsets = vec![vec![false; count]];
        if count == 0 {
            return subsets;
        }
        subsets.push(vec![true; count]);
        if count <= ALL_OF_NAMES {
            subsets.extend((1..(1 << count) - 1).map(|bits: u32| (0..count).map(|at| bits >> at & 1 == 1).collect()));
        } else {
            subsets.extend((1..count).map(|prefix| (0..count).map(|at| at < prefix).collect()));
            subsets.extend((0..count).map(|alone| (0..count).map(|at| at == alone).collect()));
            subsets.extend((0..tearing.samples).map(|_| (0..count).map(|_| random.coin()).collect()));
        }
        subsets.iter_mut().for_each(|subset| self.close(subset));
        let mut seen = Vec::new();
        subsets.retain(|subset| {
            !seen.contains(subset) && {
                seen.push(subset.clone());
                true
            }
        });
        subsets
    }

    /// A change is kept only if all earlier ones of the same name are.
    fn close(&self, subset: &mut [bool]) {
        for later in (0..subset.len()).rev().filter(|&at| subset[at]).collect::<Vec<_>>() {
            self.close_one(later, subset);
        }
    }

    fn close_one(&self, later: usize, subset: &mut [bool]) {
        subset[later] = true;
        let (directory, change) = &self.changes[later];
        for earlier in 0..later {
            let (of, before) = &self.changes[earlier];
            if !subset[earlier] && of == directory && change.touches(before) {
                self.close_one(earlier, subset);
            }
        }
    }

    /// The contents of the files: first as before, then all new.
    fn file_ways(&self, tearing: Tearing, random: &mut Random) -> Vec<(String, Files)> {
        let uncertain: Vec<(usize, &Contents)> =
            self.files.iter().enumerate().filter(|(_, contents)| !contents.is_certain()).collect();
        let all = |part: Part| {
            let built = |(number, contents): &(usize, &Contents)| (*number, contents.built(&mut |_| part));
            (format!("{part:?}"), uncertain.iter().map(built).collect::<Files>())
        };
        if uncertain.is_empty() {
            return vec![("none".to_owned(), BTreeMap::new())];
        }
        let (old, new) = (all(Part::Nothing), all(Part::All));
        let mut found = vec![old.clone(), new.clone()];
        for (number, contents) in &uncertain {
            for way in ways(contents, tearing, random) {
                let others = if uncertain.len() > 1 && random.coin() { &old.1 } else { &new.1 };
                let mut built = others.clone();
                built.insert(*number, contents.built(&mut |write| way[write]));
                found.push((format!("file {number}: {way:?}"), built));
            }
        }
        found
    }

    fn describe(&self, kept: &[bool]) -> String {
        let changes = self.changes.iter().zip(kept);
        let text = |((directory, change), kept): (&(usize, NameChange), &bool)| {
            format!("{}{directory} {change:?}", if *kept { "" } else { "not " })
        };
        changes.map(text).collect::<Vec<_>>().join(", ")
    }
}

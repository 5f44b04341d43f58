//! Damaged blocks of a file, made again from the rest of its parity set.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::parity::code::{Block, reconstruct};
use crate::parity::set_file::{MemberFiles, ParitySet};
use crate::storage::{Directory, StorageError};
use format::names;
use format::parity::{PARITY_BLOCK_LEN, Protected};

/// Data blocks of a set that were damaged.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// Those that were made again, by number.
    pub(crate) blocks: BTreeMap<u64, Box<Block>>,
    /// Those for which parity does not suffice.
    pub(crate) lost: BTreeSet<u64>,
}

/// Mends whatever is damaged in the stripes of these damaged blocks. Each block that is made has its checksum.
pub(crate) fn mend(set: &ParitySet, directory: &dyn Directory, damaged: impl Iterator<Item = u64>) -> Mended {
    let layout = set.layout();
    let files = MemberFiles::of(directory, layout);
    let intact = |block| files.block(layout, block).filter(|bytes| set.is_data(block, bytes));
    let stripes: BTreeSet<u64> = damaged.map(|block| layout.stripe_of(block).stripe).collect();
    let mut mended = Mended::default();
    for stripe in stripes {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for (position, block) in layout.data_of(stripe).enumerate() {
            match intact(block) {
                Some(bytes) => there.push((position, bytes)),
                None => missing.push((position, block)),
            }
        }
        let parity_blocks = layout.parity_of(stripe).enumerate();
        let parity: Vec<_> = parity_blocks
            .filter_map(|(position, block)| Some((position, set.parity_block(block)?)))
            .take(missing.len())
            .collect();
        let counts = (there.len() + missing.len(), layout.parity_per_stripe());
        let enough = parity.len() == missing.len();
        let mut made: BTreeMap<usize, _> =
            if enough { reconstruct(counts, &there, &parity).into_iter().collect() } else { BTreeMap::new() };
        for (position, block) in missing {
            match made.remove(&position).filter(|bytes| set.is_data(block, bytes)) {
                Some(bytes) => drop(mended.blocks.insert(block, bytes)),
                None => drop(mended.lost.insert(block)),
            }
        }
    }
    mended
}

/// Number of sets that are looked at for a file.
const SETS_BETWEEN_MAX: usize = 16;

/// The set that a file belongs to; `None` when there is none that can be read.
///
/// # Errors
/// When the directory cannot be listed.
pub(crate) fn set_of(directory: &dyn Directory, file: Protected) -> Result<Option<ParitySet>, StorageError> {
    let mut firsts: Vec<Protected> = directory.list()?.iter().filter_map(|name| first_member(name)).collect();
    // A set has members of one kind, in order: it does not begin behind the file.
    firsts.retain(|first| *first <= file && std::mem::discriminant(first) == std::mem::discriminant(&file));
    firsts.sort_unstable();
    // Usually it is the first one: between the members of a set there may be others, with sets of their own.
    for first in firsts.into_iter().rev().take(SETS_BETWEEN_MAX) {
        match ParitySet::open(directory, first) {
            Ok(set) if set.layout().blocks_of(file).is_some() => return Ok(Some(set)),
            Ok(_) => {}
            Err(error) => log::warn!("parity cannot be used: {}", error.in_words()),
        }
    }
    Ok(None)
}

/// The first member of the parity file with this name; `None` for another file.
pub(crate) fn first_member(name: &str) -> Option<Protected> {
    names::parse_parity(name).and_then(Protected::parse)
}

/// The data blocks that a range of bytes of a member touches.
pub(crate) fn blocks_in(of_member: &Range<u64>, bytes: &Range<u64>) -> Range<u64> {
    let len = PARITY_BLOCK_LEN as u64;
    let begin = of_member.start.saturating_add(bytes.start / len).min(of_member.end);
    let end = of_member.start.saturating_add(bytes.end.div_ceil(len)).min(of_member.end);
    begin..end.max(begin)
}

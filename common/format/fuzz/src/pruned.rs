//! The directory and the segments of the file `pruned`.

use format::pruned::PrunedSegment;
use format::pruned_directory::PrunedDirectory;

use super::roundtrip::again;

/// Byte before which blocks lie.
const END: u64 = 1 << 40;

/// A directory, or a pruned segment.
pub(super) fn pruned(input: &[u8]) -> bool {
    let directory = PrunedDirectory::decode(input);
    if let Ok(directory) = &directory {
        for entry in &directory.segments {
            let range = directory.range_of(entry.segment).expect("it was dropped");
            assert!(range.has(entry.segment) && directory.range_at(range.first_seq) == Some(range), "{range:?}");
            assert_eq!(directory.entry_of(entry.segment), Some(*entry));
        }
        for thinned in &directory.thinned {
            assert!(directory.entry_of(thinned.segment).is_some(), "{thinned:?}");
            assert_eq!(directory.thinned(thinned.segment), Some(thinned));
        }
    }
    let segment = PrunedSegment::decode(input, END);
    if let Ok(segment) = &segment {
        for block in &segment.blocks {
            assert!(block.file_offset + u64::from(block.len) < END, "{block:?} is outside");
            assert_eq!(segment.block_at(block.offset), Some(*block));
        }
    }
    [
        again(directory, PrunedDirectory::encode, PrunedDirectory::decode),
        again(segment, PrunedSegment::encode, |bytes| PrunedSegment::decode(bytes, END)),
    ]
    .contains(&true)
}

//! What the file `remains` says of segments that were dropped.

use format::remains::SegmentPart;
use format::remains_directory::RemainsDirectory;

use super::roundtrip::again;

/// Byte before which pieces lie.
const END: u64 = 1 << 40;

/// A directory, or what remains of a segment.
pub(super) fn remains(input: &[u8]) -> bool {
    let directory = RemainsDirectory::decode(input);
    if let Ok(directory) = &directory {
        for part in &directory.parts {
            let gap = directory.gap_of(part.segment).expect("a part is of what was dropped");
            assert!(gap.has(part.segment) && directory.gap_at(gap.first_seq) == Some(gap), "{gap:?}");
            assert_eq!(directory.part_of(part.segment), Some(*part));
        }
        for thinned in &directory.thinned {
            assert!(directory.part_of(thinned.segment).is_some(), "{thinned:?}");
            assert_eq!(directory.thinned(thinned.segment), Some(thinned));
        }
    }
    let part = SegmentPart::decode(input, END);
    if let Ok(part) = &part {
        for piece in &part.pieces {
            assert!(piece.place + u64::from(piece.len) < END, "{piece:?} is outside");
            assert_eq!(part.piece_at(piece.offset), Some(*piece));
        }
    }
    [
        again(directory, RemainsDirectory::encode, RemainsDirectory::decode),
        again(part, SegmentPart::encode, |bytes| SegmentPart::decode(bytes, END)),
    ]
    .contains(&true)
}

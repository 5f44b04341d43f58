//! [`PageIdentity`]: what tells that a page is the same in two databases without reading it.

use format::units::Seq;

/// Where the bytes of a page come from. A page that has the same one in two databases of a backup, both open, has the same
/// bytes in both; of two different ones nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageIdentity {
    /// It is not there, or all zeros.
    Zeros,
    /// The page of the snapshot with this seq.
    Snapshot(Seq),
    /// An image in a segment.
    Image {
        /// First seq of the segment.
        segment: Seq,
        /// Byte of it at which the images of the page are.
        offset: u64,
        /// Which of them: 0 for the newest, 1 for the one before it.
        back: usize,
    },
    /// Written by replay, to this place in memory.
    Written(usize),
    /// Nothing is known: not the same as any other, itself included.
    Unknown,
}

impl PageIdentity {
    /// Whether both are known to be the same.
    pub(crate) fn is_same(self, other: Self) -> bool {
        self != Self::Unknown && self == other
    }
}

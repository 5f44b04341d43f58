//! [`PageIdentity`]: a key that shows without reading that a page is the same in two databases.

use format::units::Seq;

/// Source of a page's bytes. Pages with equal identities in two open databases of one backup have equal bytes; from different
/// identities nothing follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageIdentity {
    /// The page does not exist, or is all zeros.
    Zeros,
    /// The page of the snapshot with this seq.
    Snapshot(Seq),
    /// An image in a segment.
    Image {
        /// First seq of the segment.
        segment: Seq,
        /// Offset of the page's images in the segment.
        offset: u64,
        /// Position among them: 0 for the newest, 1 for the one before it.
        back: usize,
    },
    /// Written by replay, at this address in memory.
    Written(usize),
    /// Unknown: equal to no other, not even to itself.
    Unknown,
}

impl PageIdentity {
    /// Whether both pages are known to be equal.
    pub(crate) fn is_same(self, other: Self) -> bool {
        self != Self::Unknown && self == other
    }
}

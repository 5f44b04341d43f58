//! [`Keyframe`]: the number of a stored state within a segment.

/// Number of a keyframe within its segment. 0 is the database before the first change of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyframe(pub u32);

impl Keyframe {
    /// Greater than every keyframe of a segment.
    pub const END: Self = Self(u32::MAX);
}

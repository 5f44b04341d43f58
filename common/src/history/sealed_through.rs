//! [`SealedThrough`]: how far a backup is sealed.

use super::VersionOrdinal;
use format::segment::SegmentFooter;
use format::units::{DataVersion, Seq};

/// How far a backup is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedThrough {
    /// Seq of the last record that is in a segment.
    pub seq: Seq,
    /// The newest version that is; `None` when the changes that are sealed were all rewound.
    pub data_version: Option<DataVersion>,
}

/// What is sealed when this is the end of the newest segment.
pub(crate) fn sealed_through(footer: &SegmentFooter) -> SealedThrough {
    let has_versions = footer.versions_before.saturating_add(footer.versions.into()) > 0;
    let data_version = has_versions.then(|| VersionOrdinal(footer.place).data_version());
    SealedThrough { seq: footer.last_seq, data_version }
}

//! [`SealedThrough`]: how far a backup is sealed.

use super::VersionOrdinal;
use format::segment::SegmentFooter;
use format::units::{DataVersion, Seq};

/// How far a backup is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedThrough {
    /// Seq of the last sealed record.
    pub seq: Seq,
    /// The newest sealed version; `None` when all sealed changes were rewound.
    pub data_version: Option<DataVersion>,
}

/// How far a backup is sealed, from the footer of its newest segment.
pub(crate) fn sealed_through(footer: &SegmentFooter) -> SealedThrough {
    let has_versions = footer.versions_before.saturating_add(footer.versions.into()) > 0;
    let data_version = has_versions.then(|| VersionOrdinal(footer.ordinal).data_version());
    SealedThrough { seq: footer.last_seq, data_version }
}

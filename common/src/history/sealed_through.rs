//! [`SealedThrough`]: how far a backup is sealed.

use super::VersionOrdinal;
use format::segment::SegmentFooter;
use format::units::{DataVersion, Seq};

/// The end of the sealed history of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedThrough {
    /// Seq of the last sealed record.
    pub seq: Seq,
    /// The newest sealed version; `None` when all sealed changes were rewound.
    pub data_version: Option<DataVersion>,
}

/// End of the sealed history, from the footer of the newest segment.
pub(crate) fn sealed_through(footer: &SegmentFooter) -> SealedThrough {
    let has_versions = footer.versions_before.saturating_add(footer.versions.into()) > 0;
    let data_version = has_versions.then(|| VersionOrdinal(footer.ordinal).data_version());
    SealedThrough { seq: footer.last_seq, data_version }
}

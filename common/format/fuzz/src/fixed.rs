//! Small structures: headers, footers, the manifest, the note of checked snapshots.

use format::Damage;
use format::checked::CheckedSnapshots;
use format::log_header::LogHeader;
use format::manifest::Manifest;
use format::pruned::{PrunedFooter, PrunedHeader};
use format::segment::{SegmentFooter, SegmentHeader};
use format::snapshot::{SnapshotFooter, SnapshotHeader};
use format::spool::{SPOOL_HEADER_LEN, SpoolHeader};
use uuid::Uuid;

use super::crc;
use super::roundtrip::{again, exactly};

/// The bytes, as each of them.
pub(super) fn header(input: &[u8]) -> bool {
    let footer = |bytes: &[u8]| match bytes.try_into() {
        Ok(bytes) => SegmentFooter::decode(bytes),
        Err(_) => Err(Damage::Short { have: bytes.len(), want: 0 }),
    };
    // As the backup that it says it is of.
    let uuid = Uuid::from_slice(input.get(16..32).unwrap_or_default()).unwrap_or_default();
    let checked = |bytes: &[u8]| CheckedSnapshots::decode(bytes, uuid);
    [
        again(checked(input), |found| found.encode(uuid), checked),
        again(Manifest::decode(input), |found| found.encode().to_vec(), Manifest::decode),
        again(SpoolHeader::decode(input), |found| found.encode().to_vec(), SpoolHeader::decode),
        again(footer(input), |found| found.encode().to_vec(), footer),
        exactly(input, LogHeader::decode, |found| found.encode()),
        exactly(input, SegmentHeader::decode, |found| found.encode()),
        exactly(input, PrunedHeader::decode, |found| found.encode()),
        exactly(input, PrunedFooter::decode, |found| found.encode()),
        exactly(input, SnapshotHeader::decode, |found| found.encode()),
        exactly(input, SnapshotFooter::decode, |(found, _)| found.encode()),
    ]
    .contains(&true)
}

/// The same, with the checksum that belongs to them.
pub(super) fn header_sealed(input: &[u8]) -> bool {
    let mut input = input.to_vec();
    // A spool's header holds a manifest, with a checksum of its own.
    if input.len() == SPOOL_HEADER_LEN {
        crc::seal(&mut input[92..172]);
    }
    crc::seal(&mut input);
    header(&input)
}

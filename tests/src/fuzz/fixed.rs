//! Small structures: headers, footers, the manifest, the note of checked snapshots.

use std::fmt::Debug;

use format::Damage;
use format::checked::CheckedSnapshots;
use format::log_header::LogHeader;
use format::manifest::Manifest;
use format::remains::{RemainsFooter, RemainsHeader};
use format::segment::{SegmentFooter, SegmentHeader};
use format::snapshot::{SnapshotFooter, SnapshotHeader};
use format::spool::{SPOOL_HEADER_LEN, SpoolHeader};
use uuid::Uuid;

use super::crc;

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
        exactly(input, RemainsHeader::decode, |found| found.encode()),
        exactly(input, RemainsFooter::decode, |found| found.encode()),
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

/// What is read is what was written: every other byte is refused.
fn exactly<const N: usize, T: Debug>(
    input: &[u8],
    decode: impl FnOnce(&[u8; N]) -> Result<T, Damage>,
    encode: impl FnOnce(&T) -> [u8; N],
) -> bool {
    let Some((bytes, [])) = input.split_first_chunk::<N>() else { return false };
    let found = decode(bytes);
    if let Ok(found) = &found {
        assert_eq!(&encode(found), bytes, "{found:?}");
    }
    found.is_ok()
}

/// What is read is the same when it is written and read again.
pub(super) fn again<T: Debug + PartialEq>(
    found: Result<T, Damage>,
    encode: impl FnOnce(&T) -> Vec<u8>,
    decode: impl FnOnce(&[u8]) -> Result<T, Damage>,
) -> bool {
    if let Ok(found) = &found {
        assert_eq!(decode(&encode(found)).as_ref(), Ok(found));
    }
    found.is_ok()
}

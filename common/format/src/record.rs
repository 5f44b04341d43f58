//! Records: the entries of a log.

use std::borrow::Cow;

use uuid::Uuid;

use super::Damage;
use super::change_flags::ChangeFlags;
use super::checksum;
use super::commit_note::{COMMIT_NOTE_LEN, CommitNote};
use super::fields::Reader;
use super::snapshot_ref::{SNAPSHOT_PAYLOAD_LEN, SnapshotRef};
use crate::units::{DataVersion, Seq, Timestamp};

/// First bytes of every record; not zero, because the unused end of a log is zeros.
pub const RECORD_TAG: [u8; 4] = *b"BREC";

/// Length of a record's header in bytes; the payload follows.
pub const RECORD_HEADER_LEN: usize = 40;

/// Maximum length of a payload: 1 GiB, more than `lightningd` sends in its largest migrations.
pub const PAYLOAD_LEN_MAX: usize = 1 << 30;

const KIND_CHANGE: u8 = 1;
const KIND_REWIND: u8 = 2;
const KIND_SNAPSHOT: u8 = 3;
const KIND_COMMIT: u8 = 4;
const KIND_GAP: u8 = 5;

/// The content of a record, with its statements borrowed from the bytes that were parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// One `db_write`: its statements, in order, as received.
    Change {
        /// Flags of the change.
        flags: ChangeFlags,
        /// The statements.
        statements: Vec<Cow<'a, str>>,
    },
    /// The change `rewound` was never committed by `lightningd`.
    Rewind {
        /// Seq of the change.
        rewound: Seq,
    },
    /// `lightningd` committed the newest version: at the end of the run the database was at that version.
    Commit(CommitNote),
    /// `lightningd` committed versions up to this one that were not recorded, and its database could not be read. No version can
    /// be opened until a snapshot follows.
    Gap,
    /// The pages of the database at this version are in the file [`snapshot`](super::names::snapshot) of this seq.
    Snapshot(SnapshotRef),
}

/// The fields that every record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Number of the record.
    pub seq: Seq,
    /// The version after the record.
    pub data_version: DataVersion,
    /// Time at which the record was received.
    pub time: Timestamp,
    /// Checksum of the previous record; for the first record of a backup, [`first_link`].
    pub previous_checksum: u32,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Fields that every record has.
    pub header: RecordHeader,
    /// Content of the record.
    pub body: Body<'a>,
}

/// The value of `previous_checksum` in the first record of a backup.
pub fn first_link(uuid: Uuid) -> u32 {
    checksum(&[uuid.as_bytes()])
}

/// The error for a write that does not fit into a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{bytes} bytes of statements are more than the {PAYLOAD_LEN_MAX} that a record can hold. To let lightningd make this \
     change, take backup-recorder out of its configuration, start it, stop it, and put the plugin back: the next start \
     takes a snapshot, unless \"on_gap\" is \"stop\" in backup.lock"
)]
pub struct PayloadTooLong {
    /// Length that the payload would have, in bytes.
    pub bytes: usize,
}

/// Appends the bytes of a change to `out` and returns its checksum.
///
/// # Errors
/// When the statements together are too long; `out` is unchanged.
pub fn encode_change<S: AsRef<str>>(
    uuid: Uuid,
    header: &RecordHeader,
    flags: ChangeFlags,
    statements: &[S],
    out: &mut Vec<u8>,
) -> Result<u32, PayloadTooLong> {
    encode_change_of(uuid, header, flags, statements.iter().map(AsRef::as_ref), out)
}

/// Like [`encode_change`], for an iterator of statements.
///
/// # Errors
/// The same.
pub fn encode_change_of<'s>(
    uuid: Uuid,
    header: &RecordHeader,
    flags: ChangeFlags,
    statements: impl ExactSizeIterator<Item = &'s str> + Clone,
    out: &mut Vec<u8>,
) -> Result<u32, PayloadTooLong> {
    let bytes = 4 + statements.clone().map(|statement| 4 + statement.len()).sum::<usize>();
    if bytes > PAYLOAD_LEN_MAX {
        return Err(PayloadTooLong { bytes });
    }
    Ok(encode(uuid, header, KIND_CHANGE, flags.encode(), bytes, out, |out| {
        out.extend_from_slice(&len_u32(statements.len()).to_le_bytes());
        for statement in statements {
            out.extend_from_slice(&len_u32(statement.len()).to_le_bytes());
            out.extend_from_slice(statement.as_bytes());
        }
    }))
}

/// Appends the bytes of a rewind to `out` and returns its checksum.
pub fn encode_rewind(uuid: Uuid, header: &RecordHeader, rewound: Seq, out: &mut Vec<u8>) -> u32 {
    encode(uuid, header, KIND_REWIND, 0, 8, out, |out| out.extend_from_slice(&rewound.get().to_le_bytes()))
}

/// Appends the bytes of a commit to `out` and returns its checksum.
pub fn encode_commit(uuid: Uuid, header: &RecordHeader, note: &CommitNote, out: &mut Vec<u8>) -> u32 {
    encode(uuid, header, KIND_COMMIT, 0, COMMIT_NOTE_LEN, out, |out| note.encode(out))
}

/// Appends the bytes of a gap to `out` and returns its checksum.
pub fn encode_gap(uuid: Uuid, header: &RecordHeader, out: &mut Vec<u8>) -> u32 {
    encode(uuid, header, KIND_GAP, 0, 0, out, |_| ())
}

/// Appends the bytes of a snapshot's record to `out` and returns its checksum.
pub fn encode_snapshot(uuid: Uuid, header: &RecordHeader, snapshot: &SnapshotRef, out: &mut Vec<u8>) -> u32 {
    encode(uuid, header, KIND_SNAPSHOT, 0, SNAPSHOT_PAYLOAD_LEN, out, |out| snapshot.encode(out))
}

/// Converts a length that is at most [`PAYLOAD_LEN_MAX`].
fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("BUG: a payload is at most PAYLOAD_LEN_MAX bytes")
}

fn encode(
    uuid: Uuid,
    header: &RecordHeader,
    kind: u8,
    flags: u8,
    payload_len: usize,
    out: &mut Vec<u8>,
    payload: impl FnOnce(&mut Vec<u8>),
) -> u32 {
    let start = out.len();
    out.reserve(RECORD_HEADER_LEN + payload_len);
    out.extend_from_slice(&RECORD_TAG);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&len_u32(payload_len).to_le_bytes());
    out.extend_from_slice(&header.previous_checksum.to_le_bytes());
    out.extend_from_slice(&header.seq.get().to_le_bytes());
    out.extend_from_slice(&header.data_version.get().to_le_bytes());
    out.extend_from_slice(&[kind, flags, 0, 0]);
    out.extend_from_slice(&header.time.as_micros().to_le_bytes());
    payload(out);
    debug_assert_eq!(out.len(), start + RECORD_HEADER_LEN + payload_len);
    let sum = checksum(&[uuid.as_bytes(), &out[start + 8..]]);
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// The result of parsing at a record boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// An intact record.
    Record {
        /// The record.
        record: Record<'a>,
        /// Checksum of the record; the next record must carry it.
        checksum: u32,
        /// Length of the record in bytes; the next record begins behind it.
        len: usize,
    },
    /// The bytes may be the beginning of a record of at least `wanted` bytes.
    Short {
        /// Bytes needed to continue.
        wanted: usize,
    },
    /// A record of this backup with a valid checksum that this program cannot decode, because a newer program wrote it. It is not
    /// a torn write, and must not be overwritten.
    NotUnderstood(Damage),
    /// Unused space: the tag is four zeros.
    Unused,
}

/// Parses the record at the start of `bytes`.
///
/// Only the bytes themselves are checked: the caller compares seq and previous checksum with those of the record before.
/// Allocates no more than a small multiple of `bytes`.
///
/// # Errors
/// When there are enough bytes, and they are no record of this backup.
pub fn parse(uuid: Uuid, bytes: &[u8]) -> Result<Parsed<'_>, Damage> {
    let mut fields = Reader::new(bytes);
    let Ok(tag) = fields.array::<4>() else {
        return Ok(Parsed::Short { wanted: RECORD_HEADER_LEN });
    };
    if tag == [0; 4] {
        return Ok(Parsed::Unused);
    }
    if tag != RECORD_TAG {
        return Err(Damage::Magic { expected: "record" });
    }
    if bytes.len() < RECORD_HEADER_LEN {
        return Ok(Parsed::Short { wanted: RECORD_HEADER_LEN });
    }
    let found = fields.u32()?;
    let payload_len = fields.u32()?;
    let len = RECORD_HEADER_LEN
        + usize::try_from(payload_len)
            .ok()
            .filter(|&len| len <= PAYLOAD_LEN_MAX)
            .ok_or(Damage::Field { field: "payload_len", value: payload_len.into() })?;
    let Some(whole) = bytes.get(..len) else {
        return Ok(Parsed::Short { wanted: len });
    };
    let computed = checksum(&[uuid.as_bytes(), &whole[8..]]);
    if found != computed {
        return Err(Damage::Checksum { found, computed });
    }
    Ok(match understand(whole) {
        Ok(record) => Parsed::Record { record, checksum: computed, len },
        Err(damage) => Parsed::NotUnderstood(damage),
    })
}

/// Decodes a record whose checksum is valid.
fn understand(whole: &[u8]) -> Result<Record<'_>, Damage> {
    let mut fields = Reader::new(&whole[12..]);
    let previous_checksum = fields.u32()?;
    let seq = Seq::new(fields.u64()?).ok_or(Damage::Field { field: "seq", value: 0 })?;
    let data_version = DataVersion::new(fields.u32()?);
    let (kind, flags) = (fields.u8()?, fields.u8()?);
    fields.zeros(2, "reserved")?;
    let time = fields.i64()?;
    let time = Timestamp::from_micros(time).ok_or(Damage::Field { field: "time", value: time.cast_unsigned() })?;
    let body = decode_body(kind, flags, fields.rest())?;
    let header = RecordHeader { seq, data_version, time, previous_checksum };
    Ok(Record { header, body })
}

fn decode_body(kind: u8, flags: u8, payload: &[u8]) -> Result<Body<'_>, Damage> {
    let allowed = if kind == KIND_CHANGE { ChangeFlags::ALL_BITS } else { 0 };
    if flags & !allowed != 0 {
        return Err(Damage::Field { field: "flags", value: flags.into() });
    }
    let mut fields = Reader::new(payload);
    let body = match kind {
        KIND_CHANGE => {
            let count = fields.u32()?;
            // Every statement takes at least its length field, so the count cannot cause a larger allocation.
            let most = fields.rest().len() / 4;
            let count = usize::try_from(count)
                .ok()
                .filter(|&count| count <= most)
                .ok_or(Damage::Field { field: "statement_count", value: count.into() })?;
            let mut statements = Vec::with_capacity(count);
            for _ in 0..count {
                let len = fields.u32()?;
                let text = fields.bytes(usize::try_from(len).unwrap_or(usize::MAX))?;
                let text = std::str::from_utf8(text)
                    .map_err(|_| Damage::Field { field: "statement (not UTF-8)", value: len.into() })?;
                statements.push(Cow::Borrowed(text));
            }
            Body::Change { flags: ChangeFlags::decode(flags), statements }
        }
        KIND_REWIND => {
            Body::Rewind { rewound: Seq::new(fields.u64()?).ok_or(Damage::Field { field: "rewound", value: 0 })? }
        }
        KIND_COMMIT => Body::Commit(CommitNote::decode(&mut fields)?),
        KIND_GAP => Body::Gap,
        KIND_SNAPSHOT => Body::Snapshot(SnapshotRef::decode(&mut fields)?),
        other => return Err(Damage::Field { field: "kind", value: other.into() }),
    };
    if fields.rest().is_empty() {
        Ok(body)
    } else {
        Err(Damage::Field { field: "payload_len", value: payload.len() as u64 })
    }
}

#[cfg(test)]
mod tests;

//! Records: the entries of a log.

use std::borrow::Cow;

use uuid::Uuid;

use super::commit_note::{COMMIT_NOTE_LEN, CommitNote};
use super::segment::SnapshotId;
use super::{Damage, checksum, fields::Reader};
use crate::{DataVersion, PageSize, Seq, Timestamp};

/// First bytes of every record. Not zero: the unused end of a log is zeros.
pub const RECORD_TAG: [u8; 4] = *b"BREC";

/// Bytes of a record before its payload.
pub const RECORD_HEADER_LEN: usize = 40;

/// Most bytes that a payload may have: 1 GiB, more than `lightningd` sends in its largest migrations.
pub const PAYLOAD_LEN_MAX: usize = 1 << 30;

const KIND_CHANGE: u8 = 1;
const KIND_REWIND: u8 = 2;
const KIND_SNAPSHOT: u8 = 3;
const KIND_COMMIT: u8 = 4;
const KIND_GAP: u8 = 5;

const FLAG_FIRST_OF_RUN: u8 = 1;
const FLAG_UNVERIFIED: u8 = 2;

/// Whether a change is the first one that a run of `lightningd` sent.
///
/// A new run has a new database connection, so whatever PRAGMA riders of the run before had set is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStart {
    /// First change of a run.
    First,
    /// Any other.
    Later,
}

/// Whether the node's database is known to have held, before a change, what the version before it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessor {
    /// It held that version, as far as a recorder can tell.
    Verified,
    /// The comparison that would tell is owed. When it finds a difference, the snapshot that is taken then says so, and the
    /// versions of all unverified changes in front of it cannot be opened: they may build on another database.
    Unverified,
}

/// The flags of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeFlags {
    /// Whether a run begins here.
    pub run_start: RunStart,
    /// What is known of the version that it leads on from.
    pub predecessor: Predecessor,
}

impl ChangeFlags {
    /// Those of a change whose predecessor is verified.
    pub const fn verified(run_start: RunStart) -> Self {
        Self { run_start, predecessor: Predecessor::Verified }
    }

    const fn encode(self) -> u8 {
        let first = if matches!(self.run_start, RunStart::First) { FLAG_FIRST_OF_RUN } else { 0 };
        let unverified = if matches!(self.predecessor, Predecessor::Unverified) { FLAG_UNVERIFIED } else { 0 };
        first | unverified
    }

    const fn decode(flags: u8) -> Self {
        Self {
            run_start: if flags & FLAG_FIRST_OF_RUN == 0 { RunStart::Later } else { RunStart::First },
            predecessor: if flags & FLAG_UNVERIFIED == 0 { Predecessor::Verified } else { Predecessor::Unverified },
        }
    }
}

/// Why a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotReason {
    /// `init` took it, of the database as it was.
    Init,
    /// `lightningd` had committed versions that were not recorded.
    Gap,
    /// The database held other rows than the version recorded last: another program had changed it, or `lightningd` had
    /// committed something else under that number.
    Changed,
    /// A change recorded before it does not replay.
    Unreplayable,
}

impl SnapshotReason {
    const fn encode(self) -> u8 {
        match self {
            Self::Init => 1,
            Self::Gap => 2,
            Self::Changed => 3,
            Self::Unreplayable => 4,
        }
    }

    fn decode(byte: u8) -> Result<Self, Damage> {
        [Self::Init, Self::Gap, Self::Changed, Self::Unreplayable]
            .into_iter()
            .find(|reason| reason.encode() == byte)
            .ok_or(Damage::Field { field: "reason", value: byte.into() })
    }
}

/// The database that a delta snapshot is the difference to: pages that are stored as they were, never the outcome of a
/// replay, which another SQLite may lay out in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaBase {
    /// A full snapshot.
    Snapshot(SnapshotId),
    /// The end of the segment that begins with this seq.
    Segment(Seq),
}

/// Bytes of an encoded base.
pub(crate) const BASE_LEN: usize = 13;

impl DeltaBase {
    /// Appends the bytes that stand for it, or for none.
    pub(crate) fn encode(base: Option<Self>, out: &mut Vec<u8>) {
        let (kind, seq, footer_checksum) = match base {
            None => (0, 0, 0),
            Some(Self::Snapshot(id)) => (1, id.seq.get(), id.footer_checksum),
            Some(Self::Segment(first)) => (2, first.get(), 0),
        };
        out.push(kind);
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&footer_checksum.to_le_bytes());
    }

    pub(crate) fn decode(fields: &mut Reader<'_>) -> Result<Option<Self>, Damage> {
        let (kind, seq, footer_checksum) = (fields.u8()?, fields.u64()?, fields.u32()?);
        match (kind, Seq::new(seq)) {
            (0, None) if footer_checksum == 0 => Ok(None),
            (1, Some(seq)) => Ok(Some(Self::Snapshot(SnapshotId { seq, footer_checksum }))),
            (2, Some(first)) if footer_checksum == 0 => Ok(Some(Self::Segment(first))),
            _ => Err(Damage::Field { field: "base", value: seq }),
        }
    }

    /// The seq of the snapshot, or the first one of the segment.
    pub fn seq(self) -> Seq {
        match self {
            Self::Snapshot(id) => id.seq,
            Self::Segment(first) => first,
        }
    }
}

/// What a log says of a snapshot whose pages are in a file of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRef {
    /// Why it was taken.
    pub reason: SnapshotReason,
    /// Page size of the database.
    pub page_size: PageSize,
    /// Pages of the database, stored or not.
    pub page_count: u32,
    /// For a delta, what it builds on; `None` for a full one.
    pub base: Option<DeltaBase>,
    /// Checksum of the file's footer, which covers the whole file.
    pub footer_checksum: u32,
    /// The first change that does not replay, or whose predecessor was not verified; that one and all changes behind it, up
    /// to this snapshot, lead to versions that cannot be opened. `None` when there is none, as far as is known.
    pub unreadable_since: Option<Seq>,
}

/// What a record says, with its statements borrowed from where they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// One `db_write`: its statements, in order, as received.
    Change {
        /// Its flags.
        flags: ChangeFlags,
        /// The statements.
        statements: Vec<Cow<'a, str>>,
    },
    /// The change `rewound` was never committed by `lightningd`.
    Rewind {
        /// Seq of the change.
        rewound: Seq,
    },
    /// `lightningd` committed the newest version: its database was seen at that version when the run ended.
    Commit(CommitNote),
    /// `lightningd` committed versions up to this one that were not recorded, and its database could not be read. Until a
    /// snapshot comes no version can be opened.
    Gap,
    /// The pages of the database at this version are in the file [`snapshot`](super::names::snapshot) of this seq.
    Snapshot(SnapshotRef),
}

/// The fields that every record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its number.
    pub seq: Seq,
    /// The version after it.
    pub data_version: DataVersion,
    /// When it was received.
    pub time: Timestamp,
    /// Checksum of the record before it; for the first record of a backup, of nothing: see [`first_link`].
    pub previous_checksum: u32,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Fields that every record has.
    pub header: RecordHeader,
    /// What it says.
    pub body: Body<'a>,
}

/// What the first record of a backup carries in place of the checksum of the record before it.
pub fn first_link(uuid: Uuid) -> u32 {
    checksum(&[uuid.as_bytes()])
}

/// A write that does not fit into a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{bytes} bytes of statements are more than the {PAYLOAD_LEN_MAX} that a record can hold. To let lightningd make this \
     change, take backup-recorder out of its configuration, start it, stop it, and put the plugin back: the next start \
     takes a snapshot, unless \"on_gap\" is \"stop\" in backup.lock"
)]
pub struct PayloadTooLong {
    /// Bytes that the payload would have.
    pub bytes: usize,
}

/// Appends the bytes of a change to `out` and returns its checksum.
///
/// # Errors
/// When the statements are too long together; `out` is as it was.
pub fn encode_change<S: AsRef<str>>(
    uuid: Uuid,
    header: &RecordHeader,
    flags: ChangeFlags,
    statements: &[S],
    out: &mut Vec<u8>,
) -> Result<u32, PayloadTooLong> {
    encode_change_of(uuid, header, flags, statements.iter().map(AsRef::as_ref), out)
}

/// As [`encode_change`], of statements wherever they are.
///
/// # Errors
/// As there.
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

impl SnapshotRef {
    /// Appends the payload of a snapshot's record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.page_size.get().to_le_bytes());
        out.extend_from_slice(&self.page_count.to_le_bytes());
        DeltaBase::encode(self.base, out);
        out.extend_from_slice(&self.footer_checksum.to_le_bytes());
        out.extend_from_slice(&[self.reason.encode(), 0, 0]);
        out.extend_from_slice(&self.unreadable_since.map_or(0, Seq::get).to_le_bytes());
    }

    /// Reads the payload of a snapshot's record.
    pub(crate) fn decode(fields: &mut Reader<'_>) -> Result<Self, Damage> {
        let page_size = fields.u32()?;
        let page_size =
            PageSize::new(page_size).ok_or(Damage::Field { field: "page_size", value: page_size.into() })?;
        let page_count = fields.u32()?;
        let base = DeltaBase::decode(fields)?;
        let footer_checksum = fields.u32()?;
        let reason = SnapshotReason::decode(fields.u8()?)?;
        fields.zeros(2, "reserved")?;
        let unreadable_since = Seq::new(fields.u64()?);
        Ok(Self { reason, page_size, page_count, base, footer_checksum, unreadable_since })
    }
}

const SNAPSHOT_PAYLOAD_LEN: usize = 4 + 4 + BASE_LEN + 4 + 3 + 8;

/// A length that was checked against [`PAYLOAD_LEN_MAX`], or is part of one that was.
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

/// What the bytes at a record boundary turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// An intact record.
    Record {
        /// The record.
        record: Record<'a>,
        /// Its checksum, which the next record must carry.
        checksum: u32,
        /// Its bytes; the next record starts that much further on.
        len: usize,
    },
    /// The bytes may be the beginning of a record, which needs at least `wanted` bytes in all.
    Short {
        /// Bytes needed to go on.
        wanted: usize,
    },
    /// A record of this backup, intact by its checksum, that this program cannot read: no torn write, and nothing to be
    /// overwritten. A newer program wrote it.
    NotUnderstood(Damage),
    /// Nothing was written here: the tag is four zeros.
    Unused,
}

/// Reads the record that `bytes` begin with.
///
/// Only what the bytes say by themselves is checked: whether seq and previous checksum continue what came before is
/// the caller's to ask. Allocates no more than a small multiple of `bytes`.
///
/// # Errors
/// When the bytes are enough, but no record of this backup.
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

/// Reads a record whose checksum is right.
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
    let allowed = if kind == KIND_CHANGE { FLAG_FIRST_OF_RUN | FLAG_UNVERIFIED } else { 0 };
    if flags & !allowed != 0 {
        return Err(Damage::Field { field: "flags", value: flags.into() });
    }
    let mut fields = Reader::new(payload);
    let body = match kind {
        KIND_CHANGE => {
            let count = fields.u32()?;
            // Every statement takes at least its length field, so a count cannot make us allocate more than that.
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::commit_note::DatabaseStamp;

    const UUID: Uuid = Uuid::from_u128(7);

    prop_compose! {
        fn any_header()(
            seq in 1..=u64::MAX,
            data_version: u32,
            micros in 0..253_402_207_200_000_000_i64,
            previous_checksum: u32,
        ) -> RecordHeader {
            RecordHeader {
                seq: Seq::new(seq).unwrap(),
                data_version: DataVersion::new(data_version),
                time: Timestamp::from_micros(micros).unwrap(),
                previous_checksum,
            }
        }
    }

    fn any_base() -> impl Strategy<Value = Option<DeltaBase>> {
        let seq = || (1..=u64::MAX).prop_map(|seq| Seq::new(seq).unwrap());
        prop_oneof![
            Just(None),
            seq().prop_map(|first| Some(DeltaBase::Segment(first))),
            (seq(), any::<u32>())
                .prop_map(|(seq, footer_checksum)| Some(DeltaBase::Snapshot(SnapshotId { seq, footer_checksum }))),
        ]
    }

    fn any_body() -> impl Strategy<Value = Body<'static>> {
        let flags = (0..4_u8).prop_map(ChangeFlags::decode);
        let reason = prop_oneof![
            Just(SnapshotReason::Init),
            Just(SnapshotReason::Gap),
            Just(SnapshotReason::Changed),
            Just(SnapshotReason::Unreplayable),
        ];
        prop_oneof![
            (flags, proptest::collection::vec(".*", 0..6)).prop_map(|(flags, statements)| Body::Change {
                flags,
                statements: statements.into_iter().map(Cow::Owned).collect(),
            }),
            Just(Body::Gap),
            (any::<u128>(), proptest::option::of(any::<[u32; 3]>())).prop_map(|(boot, stamp)| Body::Commit(
                CommitNote {
                    boot: Uuid::from_u128(boot),
                    stamp: stamp.map(|[change_counter, page_count, schema_cookie]| DatabaseStamp {
                        change_counter,
                        page_count,
                        schema_cookie,
                    }),
                }
            )),
            (1..=u64::MAX).prop_map(|seq| Body::Rewind { rewound: Seq::new(seq).unwrap() }),
            (reason, 9..=16_u32, any::<u32>(), any_base(), any::<(u32, u64)>()).prop_map(
                |(reason, size, page_count, base, (footer_checksum, unreadable_since))| Body::Snapshot(SnapshotRef {
                    reason,
                    page_size: PageSize::new(1 << size).unwrap(),
                    page_count,
                    base,
                    footer_checksum,
                    unreadable_since: Seq::new(unreadable_since),
                })
            ),
        ]
    }

    fn encode_any(record: &Record<'_>, out: &mut Vec<u8>) -> u32 {
        match &record.body {
            Body::Change { flags, statements } => encode_change(UUID, &record.header, *flags, statements, out).unwrap(),
            Body::Rewind { rewound } => encode_rewind(UUID, &record.header, *rewound, out),
            Body::Commit(note) => encode_commit(UUID, &record.header, note, out),
            Body::Gap => encode_gap(UUID, &record.header, out),
            Body::Snapshot(snapshot) => encode_snapshot(UUID, &record.header, snapshot, out),
        }
    }

    proptest! {
        #[test]
        fn records_written_one_behind_the_other_are_read_as_such(
            records in proptest::collection::vec((any_header(), any_body()), 0..5)
        ) {
            let mut bytes = Vec::new();
            let records: Vec<_> = records.into_iter().map(|(header, body)| Record { header, body }).collect();
            let sums: Vec<_> = records.iter().map(|record| encode_any(record, &mut bytes)).collect();
            let mut rest = &bytes[..];
            for (record, sum) in records.iter().zip(sums) {
                match parse(UUID, rest) {
                    Ok(Parsed::Record { record: found, checksum, len }) => {
                        prop_assert_eq!((&found, checksum), (record, sum));
                        rest = &rest[len..];
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(parse(UUID, rest), Ok(Parsed::Short { wanted: RECORD_HEADER_LEN }));
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(mut bytes: Vec<u8>, tagged: bool) {
            if tagged && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&RECORD_TAG);
            }
            // The checksum guards the rest of the parser: forge it.
            if let Some(len) = bytes.len().checked_sub(RECORD_HEADER_LEN) {
                bytes[8..12].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
                let sum = checksum(&[UUID.as_bytes(), &bytes[8..]]);
                bytes[4..8].copy_from_slice(&sum.to_le_bytes());
            }
            if let Ok(Parsed::Record { record, len, .. }) = parse(UUID, &bytes) {
                let mut again = Vec::new();
                encode_any(&record, &mut again);
                prop_assert_eq!(again, &bytes[..len]);
            }
        }

        #[test]
        fn any_payload_of_any_kind_is_a_body_or_an_error(kind in 0_u8..7, flags in 0_u8..3, payload: Vec<u8>) {
            let _ = decode_body(kind, flags, &payload);
        }
    }

    #[test]
    fn a_record_of_another_backup_or_beyond_the_limits_is_an_error() {
        let header = RecordHeader {
            seq: Seq::FIRST,
            data_version: DataVersion::new(1),
            time: Timestamp::from_micros(0).unwrap(),
            previous_checksum: 0,
        };
        let mut bytes = Vec::new();
        encode_change(UUID, &header, ChangeFlags::verified(RunStart::First), &["x"], &mut bytes).unwrap();
        assert!(matches!(parse(UUID, &bytes), Ok(Parsed::Record { .. })));
        assert!(matches!(parse(Uuid::from_u128(8), &bytes), Err(Damage::Checksum { .. })));
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(parse(UUID, &bytes), Err(Damage::Field { field: "payload_len", .. })));
        assert_eq!(parse(UUID, &[0; 50]), Ok(Parsed::Unused));
        assert!(matches!(parse(UUID, b"BRE"), Ok(Parsed::Short { .. })));
    }

    #[test]
    fn statements_that_are_too_long_are_not_encoded() {
        let header = RecordHeader {
            seq: Seq::FIRST,
            data_version: DataVersion::new(1),
            time: Timestamp::from_micros(0).unwrap(),
            previous_checksum: 0,
        };
        let mut out = b"before".to_vec();
        let half = "x".repeat(PAYLOAD_LEN_MAX / 2);
        assert!(
            encode_change(UUID, &header, ChangeFlags::verified(RunStart::Later), &[&half, &half], &mut out).is_err()
        );
        assert_eq!(out, b"before");
    }
}

//! The record index of a segment: all records without their statements, and where those are.

use super::Damage;
use super::change_flags::{ChangeFlags, Predecessor, RunStart};
use super::commit_note::CommitNote;
use super::fields::{Reader, put_signed, put_varint};
use super::segment::BlockHandle;
use super::snapshot_ref::SnapshotRef;
use crate::units::Keyframe;
use crate::units::{DataVersion, Timestamp};
use crate::version_rules::Bump;

/// Maximum number of records of a segment. A log has at most one per 40 bytes. It ends after 4 MiB, or after the record that
/// passes that; the longest record shares its log with a few short ones only.
pub const RECORDS_MAX: usize = 4 << 20;

/// Maximum length of an encoded index in bytes.
pub const INDEX_LEN_MAX: usize = 128 << 20;

/// Whether foreign keys are enforced on the connection that replays statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignKeys {
    /// Enforced, as `lightningd` sets it when it opens its database.
    On,
    /// Switched off by a rider, as during a migration.
    Off,
}

impl ForeignKeys {
    /// Encodes the state as one byte.
    pub fn encode(self) -> u8 {
        match self {
            Self::On => 1,
            Self::Off => 0,
        }
    }

    /// Decodes the byte.
    pub fn decode(byte: u8) -> Result<Self, Damage> {
        match byte {
            1 => Ok(Self::On),
            0 => Ok(Self::Off),
            other => Err(Damage::Field { field: "foreign keys", value: other.into() }),
        }
    }
}

/// Content of a record without the text of its statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexedBody {
    /// A change.
    Change {
        /// Flags of the change.
        flags: ChangeFlags,
        /// Whether the change increments `data_version`.
        bump: Bump,
        /// Number of statements.
        statements: u32,
        /// Total length of the statements in bytes.
        bytes: u64,
    },
    /// The change before it was never committed.
    Rewind,
    /// The newest version was found to be committed.
    Commit(CommitNote),
    /// Versions up to this one were not recorded.
    Gap,
    /// A snapshot of the database.
    Snapshot(SnapshotRef),
}

/// A record in the index. Its position determines its seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedRecord {
    /// The version after the record.
    pub data_version: DataVersion,
    /// Time at which the record was received.
    pub time: Timestamp,
    /// Number of pages of the database after the record.
    pub page_count: u32,
    /// Content of the record.
    pub body: IndexedBody,
}

/// The records from one keyframe to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Position of the interval's first record in the segment.
    pub first: u32,
    /// Number of pages of the database at the interval's keyframe.
    pub page_count: u32,
    /// Whether foreign keys are enforced at the keyframe.
    pub foreign_keys: ForeignKeys,
    /// The block with the statements of the interval's changes.
    pub block: BlockHandle,
}

/// The record index of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordIndex {
    /// The records of the segment, in order.
    pub records: Vec<IndexedRecord>,
    /// The intervals, in order; interval *k* begins at keyframe *k*.
    pub intervals: Vec<Interval>,
    /// Position of the first record whose effect is not in the pages: a change that does not replay, or any record behind one or
    /// behind a gap. The effects of all later records are not in the pages either. `None` when all are.
    pub unreplayed_from: Option<u32>,
}

const KIND_CHANGE: u8 = 1;
const KIND_REWIND: u8 = 2;
const KIND_SNAPSHOT: u8 = 3;
const KIND_COMMIT: u8 = 4;
const KIND_GAP: u8 = 5;
const FIRST_OF_RUN: u8 = 1 << 4;
const BUMPS: u8 = 1 << 5;
const UNVERIFIED: u8 = 1 << 6;

impl RecordIndex {
    /// Encodes the index, not compressed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.records.len() * 12);
        put_varint(self.records.len() as u64, &mut out);
        put_varint(self.intervals.len() as u64, &mut out);
        put_varint(self.unreplayed_from.map_or(self.records.len() as u64, u64::from), &mut out);
        // Field by field, each as the difference to the previous record: similar values side by side compress well.
        out.extend(self.records.iter().map(|record| kind_byte(&record.body)));
        let differences = |value: &dyn Fn(&IndexedRecord) -> i64, out: &mut Vec<u8>| {
            let mut before = 0_i64;
            for record in &self.records {
                put_signed(value(record).wrapping_sub(before), out);
                before = value(record);
            }
        };
        differences(&|record| record.data_version.get().into(), &mut out);
        differences(&|record| record.time.as_micros(), &mut out);
        differences(&|record| record.page_count.into(), &mut out);
        for record in &self.records {
            if let IndexedBody::Change { statements, .. } = record.body {
                put_varint(statements.into(), &mut out);
            }
        }
        for record in &self.records {
            match &record.body {
                IndexedBody::Change { bytes, .. } => put_varint(*bytes, &mut out),
                IndexedBody::Snapshot(snapshot) => snapshot.encode(&mut out),
                IndexedBody::Commit(note) => note.encode(&mut out),
                IndexedBody::Rewind | IndexedBody::Gap => {}
            }
        }
        for interval in &self.intervals {
            put_varint(interval.first.into(), &mut out);
            put_varint(interval.page_count.into(), &mut out);
            out.push(interval.foreign_keys.encode());
            put_varint(interval.block.offset, &mut out);
            put_varint(interval.block.len.into(), &mut out);
        }
        out
    }

    /// Decodes an index.
    ///
    /// # Errors
    /// When the bytes are not an index.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        let counts = (fields.varint()?, fields.varint()?);
        // Every record and interval takes several bytes, so the counts cannot cause a larger allocation.
        let count = |count: u64, field| {
            let valid = usize::try_from(count).ok().filter(|&count| count <= RECORDS_MAX.min(bytes.len() / 4));
            valid.ok_or(Damage::Field { field, value: count })
        };
        let records = count(counts.0, "record count")?;
        let intervals = count(counts.1, "interval count")?;
        let replayed = fields.varint_u32("replayed records")?;
        if replayed as usize > records {
            return Err(Damage::Field { field: "replayed records", value: replayed.into() });
        }
        let kinds = fields.bytes(records)?;
        let mut sums = |field| {
            let mut sum = 0_i64;
            (0..records)
                .map(|_| {
                    sum = sum.checked_add(fields.signed()?).ok_or(Damage::Field { field, value: 0 })?;
                    Ok(sum)
                })
                .collect::<Result<Vec<i64>, Damage>>()
        };
        let (versions, times, pages) = (sums("data_version")?, sums("time")?, sums("page count")?);
        let mut statements = Vec::with_capacity(records);
        for kind in kinds {
            statements.push(if kind & 0x0f == KIND_CHANGE { fields.varint_u32("statement count")? } else { 0 });
        }
        let mut decoded = Self {
            records: Vec::with_capacity(records),
            intervals: Vec::with_capacity(intervals),
            unreplayed_from: Some(replayed).filter(|&replayed| (replayed as usize) < records),
        };
        for (position, &kind) in kinds.iter().enumerate() {
            let narrow = |value: i64, field| {
                u32::try_from(value).map_err(|_| Damage::Field { field, value: value.cast_unsigned() })
            };
            let time = times[position];
            decoded.records.push(IndexedRecord {
                data_version: DataVersion::new(narrow(versions[position], "data_version")?),
                time: Timestamp::from_micros(time)
                    .ok_or(Damage::Field { field: "time", value: time.cast_unsigned() })?,
                page_count: narrow(pages[position], "page count")?,
                body: decode_body(kind, statements[position], &mut fields)?,
            });
        }
        for _ in 0..intervals {
            decoded.intervals.push(Interval {
                first: fields.varint_u32("first record")?,
                page_count: fields.varint_u32("page count")?,
                foreign_keys: ForeignKeys::decode(fields.u8()?)?,
                block: BlockHandle { offset: fields.varint()?, len: fields.varint_u32("block length")? },
            });
        }
        let ascending = decoded.intervals.windows(2).all(|pair| pair[0].first < pair[1].first);
        let within = decoded.intervals.last().is_some_and(|last| (last.first as usize) < records);
        if fields.rest().is_empty() && ascending && within && decoded.intervals[0].first == 0 {
            Ok(decoded)
        } else {
            Err(Damage::Contradiction("the record index contradicts itself"))
        }
    }

    /// The interval of the record at this position.
    pub fn interval_of(&self, position: usize) -> Keyframe {
        let after = self.intervals.partition_point(|interval| interval.first as usize <= position);
        Keyframe(u32::try_from(after.saturating_sub(1)).unwrap_or(u32::MAX))
    }

    /// Position of a change among the changes of its interval's block.
    pub fn position_in_block(&self, position: usize) -> usize {
        let first = self.intervals.get(self.interval_of(position).0 as usize).map_or(0, |interval| interval.first);
        let before = self.records.get(first as usize..position).unwrap_or_default();
        before.iter().filter(|record| matches!(record.body, IndexedBody::Change { .. })).count()
    }
}

fn kind_byte(body: &IndexedBody) -> u8 {
    match body {
        IndexedBody::Change { flags, bump, .. } => {
            let first = if flags.run_start == RunStart::First { FIRST_OF_RUN } else { 0 };
            let unverified = if flags.predecessor == Predecessor::Unverified { UNVERIFIED } else { 0 };
            let bumps = if *bump == Bump::Present { BUMPS } else { 0 };
            KIND_CHANGE | first | bumps | unverified
        }
        IndexedBody::Rewind => KIND_REWIND,
        IndexedBody::Snapshot(_) => KIND_SNAPSHOT,
        IndexedBody::Commit(_) => KIND_COMMIT,
        IndexedBody::Gap => KIND_GAP,
    }
}

fn decode_body(kind: u8, statements: u32, fields: &mut Reader<'_>) -> Result<IndexedBody, Damage> {
    match kind {
        KIND_REWIND => Ok(IndexedBody::Rewind),
        KIND_COMMIT => Ok(IndexedBody::Commit(CommitNote::decode(fields)?)),
        KIND_GAP => Ok(IndexedBody::Gap),
        KIND_SNAPSHOT => Ok(IndexedBody::Snapshot(SnapshotRef::decode(fields)?)),
        _ if kind & !(FIRST_OF_RUN | BUMPS | UNVERIFIED) == KIND_CHANGE => Ok(IndexedBody::Change {
            flags: ChangeFlags {
                run_start: if kind & FIRST_OF_RUN == 0 { RunStart::Later } else { RunStart::First },
                predecessor: if kind & UNVERIFIED == 0 { Predecessor::Verified } else { Predecessor::Unverified },
            },
            bump: if kind & BUMPS == 0 { Bump::Absent } else { Bump::Present },
            statements,
            bytes: fields.varint()?,
        }),
        other => Err(Damage::Field { field: "kind", value: other.into() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commit_note::DatabaseStamp;
    use crate::snapshot_ref::{DeltaBase, SnapshotReason};
    use crate::units::{PageSize, Seq};

    fn any_body() -> impl Strategy<Value = IndexedBody> {
        let snapshot = SnapshotRef {
            reason: SnapshotReason::Gap,
            page_size: PageSize::DEFAULT,
            page_count: 7,
            base: Some(DeltaBase::Segment(Seq::FIRST)),
            footer_checksum: 9,
            unreadable_since: Some(Seq::FIRST),
        };
        let stamp = DatabaseStamp { change_counter: 1, page_count: 2, schema_cookie: 3 };
        let note = CommitNote { boot: uuid::Uuid::from_u128(4), stamp: Some(stamp) };
        prop_oneof![
            4 => (any::<[bool; 3]>(), any::<u32>(), any::<u64>()).prop_map(|([first, bumps, unverified], statements, bytes)| {
                IndexedBody::Change {
                    flags: ChangeFlags {
                        run_start: if first { RunStart::First } else { RunStart::Later },
                        predecessor: if unverified { Predecessor::Unverified } else { Predecessor::Verified },
                    },
                    bump: if bumps { Bump::Present } else { Bump::Absent },
                    statements,
                    bytes,
                }
            }),
            1 => Just(IndexedBody::Rewind),
            1 => Just(IndexedBody::Commit(note)),
            1 => Just(IndexedBody::Gap),
            1 => Just(IndexedBody::Snapshot(snapshot)),
        ]
    }

    prop_compose! {
        fn any_index()(
            records in proptest::collection::vec((any::<u32>(), 0..253_402_207_199_999_999_i64, any::<u32>(), any_body()), 1..40),
            every in 1..20_usize,
            pages: u32,
            offset: u64,
            unreplayed: u32,
        ) -> RecordIndex {
            let records: Vec<_> = records.into_iter().map(|(version, micros, page_count, body)| IndexedRecord {
                data_version: DataVersion::new(version),
                time: Timestamp::from_micros(micros).unwrap(),
                page_count,
                body,
            }).collect();
            let intervals = (0..records.len()).step_by(every).map(|first| Interval {
                first: u32::try_from(first).unwrap(),
                page_count: pages,
                foreign_keys: if first % 2 == 0 { ForeignKeys::On } else { ForeignKeys::Off },
                block: BlockHandle { offset, len: 5 },
            }).collect();
            let unreplayed_from = Some(unreplayed % 80).filter(|&from| (from as usize) < records.len());
            RecordIndex { records, intervals, unreplayed_from }
        }
    }

    proptest! {
        #[test]
        fn an_index_is_read_back_and_no_part_of_one_is_an_index(index in any_index()) {
            let bytes = index.encode();
            prop_assert_eq!(RecordIndex::decode(&bytes), Ok(index));
            for cut in 0..bytes.len() {
                prop_assert!(RecordIndex::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_an_index_or_an_error(bytes: Vec<u8>) {
            let _ = RecordIndex::decode(&bytes);
        }

        #[test]
        fn every_change_has_its_place_in_its_block(index in any_index()) {
            for (number, interval) in index.intervals.iter().enumerate() {
                let end = index.intervals.get(number + 1).map_or(index.records.len(), |next| next.first as usize);
                let mut changes = 0;
                for position in interval.first as usize..end {
                    prop_assert_eq!(index.interval_of(position).0 as usize, number);
                    prop_assert_eq!(index.position_in_block(position), changes);
                    changes += usize::from(matches!(index.records[position].body, IndexedBody::Change { .. }));
                }
            }
        }
    }
}

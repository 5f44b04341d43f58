use proptest::prelude::*;

use super::*;
use crate::change_flags::RunStart;
use crate::commit_note::DatabaseStamp;
use crate::segment::SnapshotId;
use crate::snapshot_ref::{DeltaBase, SnapshotReason};
use crate::units::PageSize;

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
        (any::<u128>(), proptest::option::of(any::<[u32; 3]>())).prop_map(|(boot, stamp)| Body::Commit(CommitNote {
            boot: Uuid::from_u128(boot),
            stamp: stamp.map(|[change_counter, page_count, schema_cookie]| DatabaseStamp {
                change_counter,
                page_count,
                schema_cookie,
            }),
        })),
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
    assert!(encode_change(UUID, &header, ChangeFlags::verified(RunStart::Later), &[&half, &half], &mut out).is_err());
    assert_eq!(out, b"before");
}

//! Records of a log.

use format::record::{
    Body, PAYLOAD_LEN_MAX, Parsed, RECORD_HEADER_LEN, RECORD_TAG, Record, encode_change, encode_commit, encode_gap,
    encode_rewind, encode_snapshot, parse,
};

use super::corpus::UUID;
use super::crc::crc32c;

/// One record behind the other, as far as they go.
pub(super) fn record(input: &[u8]) -> bool {
    let (mut rest, mut understood) = (input, false);
    loop {
        match parse(UUID, rest) {
            Ok(Parsed::Record { record, checksum, len }) => {
                assert!((RECORD_HEADER_LEN..=rest.len()).contains(&len), "a record of {len} of {} bytes", rest.len());
                let (encoded, sum) = encode(&record);
                assert!(encoded == rest[..len] && sum == checksum, "a record that is written in another way");
                (rest, understood) = (&rest[len..], true);
            }
            Ok(Parsed::Short { wanted }) => {
                assert!(wanted > rest.len() && wanted <= RECORD_HEADER_LEN + PAYLOAD_LEN_MAX, "{wanted} bytes wanted");
                return understood;
            }
            Ok(Parsed::NotUnderstood(_) | Parsed::Unused) | Err(_) => return understood,
        }
    }
}

/// The input without tag, checksum and length.
pub(super) fn record_sealed(input: &[u8]) -> bool {
    seal(input).is_some_and(|bytes| {
        assert!(
            matches!(parse(UUID, &bytes), Ok(Parsed::Record { .. } | Parsed::NotUnderstood(_))),
            "a record with the right checksum is never a torn one"
        );
        record(&bytes)
    })
}

/// A record whose bytes from the previous checksum on are these.
fn seal(body: &[u8]) -> Option<Vec<u8>> {
    let payload = u32::try_from(body.len().checked_sub(RECORD_HEADER_LEN - 12)?).ok()?;
    let mut bytes = RECORD_TAG.to_vec();
    let sum = crc32c(&[UUID.as_bytes(), &payload.to_le_bytes(), body]);
    for part in [&sum.to_le_bytes(), &payload.to_le_bytes(), body] {
        bytes.extend_from_slice(part);
    }
    Some(bytes)
}

fn encode(record: &Record<'_>) -> (Vec<u8>, u32) {
    let mut out = Vec::new();
    let header = &record.header;
    let sum = match &record.body {
        Body::Change { flags, statements } => {
            encode_change(UUID, header, *flags, statements, &mut out).expect("it was short enough")
        }
        Body::Rewind { rewound } => encode_rewind(UUID, header, *rewound, &mut out),
        Body::Commit(note) => encode_commit(UUID, header, note, &mut out),
        Body::Gap => encode_gap(UUID, header, &mut out),
        Body::Snapshot(snapshot) => encode_snapshot(UUID, header, snapshot, &mut out),
    };
    (out, sum)
}

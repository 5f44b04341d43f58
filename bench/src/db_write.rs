//! Calls of the hook `db_write`, encoded before the clock starts.

use std::borrow::Cow;

use common::DataVersion;
use format::record::RECORD_HEADER_LEN;
use mountfs::demo::trace::TraceWrite;
use serde::Serialize;

/// One call.
pub struct Call {
    /// Id of the request, which the answer repeats.
    pub id: String,
    /// The version it leads to.
    pub data_version: DataVersion,
    /// The message, with its end.
    pub message: Vec<u8>,
    /// Bytes that the recorder appends to its log for it.
    pub record_bytes: usize,
}

#[derive(Serialize)]
struct Message<'a> {
    jsonrpc: &'a str,
    id: &'a str,
    method: &'a str,
    params: Params<'a>,
}

#[derive(Serialize)]
struct Params<'a> {
    data_version: u32,
    writes: &'a [String],
}

impl Call {
    /// The call for a write; `number` tells it from all others.
    pub fn encode(write: &TraceWrite, number: usize) -> anyhow::Result<Self> {
        let id = format!("cln:db_write#{number}");
        let params = Params { data_version: write.data_version.get(), writes: &write.statements };
        let mut message = serde_json::to_vec(&Message { jsonrpc: "2.0", id: &id, method: "db_write", params })?;
        message.extend_from_slice(b"\n\n");
        Ok(Self { id, data_version: write.data_version, message, record_bytes: record_bytes(&write.statements) })
    }
}

/// The length of a change in the log (`docs/format.md`): header, statement count, each statement with its length.
fn record_bytes(statements: &[String]) -> usize {
    RECORD_HEADER_LEN + 4 + statements.iter().map(|statement| 4 + statement.len()).sum::<usize>()
}

/// The statements in the form that `common` takes.
pub fn borrowed(write: &TraceWrite) -> Vec<Cow<'_, str>> {
    write.statements.iter().map(|statement| Cow::Borrowed(statement.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use common::{Seq, Timestamp};
    use format::change_flags::{ChangeFlags, RunStart};
    use format::record::{RecordHeader, encode_change};

    use super::*;

    #[test]
    fn record_bytes_are_those_that_the_log_gets() {
        let statements: Vec<String> = ["INSERT INTO é VALUES ('\n')", "", "UPDATE vars"].map(str::to_owned).to_vec();
        let header = RecordHeader {
            seq: Seq::FIRST,
            data_version: DataVersion::new(7),
            time: Timestamp::now(),
            previous_checksum: 1,
        };
        let mut encoded = Vec::new();
        encode_change(Default::default(), &header, ChangeFlags::verified(RunStart::First), &statements, &mut encoded)
            .unwrap();
        assert_eq!(record_bytes(&statements), encoded.len());
    }
}

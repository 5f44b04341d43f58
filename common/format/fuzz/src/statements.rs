//! Statements: taken apart into templates and literals, and put together again.

use std::sync::Arc;

use format::record::PAYLOAD_LEN_MAX;
use format::statements::{Encoded, StatementBlock, Templates, TemplatesWriter, encode_statements};

use super::corpus::SMALL_TABLE;

/// A table, not compressed: the length of its head, then its parts.
pub fn templates(input: &[u8]) -> bool {
    let Some(encoded) = unpack(input) else { return false };
    let Ok(table) = Templates::decode(&encoded) else { return false };
    let _ = StatementBlock::decode(&encoded, &Arc::new(table)).map(|block| check(&block));
    true
}

/// A block, of a table that is always the same.
pub fn block(input: &[u8]) -> bool {
    let Some(encoded) = unpack(input) else { return false };
    StatementBlock::decode(&encoded, &SMALL_TABLE).map(|block| check(&block)).is_ok()
}

/// Its statements are no longer than those of records, and come back when they are written again.
fn check(block: &StatementBlock) {
    let mut changes: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for index in 0..block.change_count() {
        let statements = block.change(index).expect("a change for every number");
        let texts: Vec<String> = statements.map(|statement| statement.text().into_owned()).collect();
        let of_change: usize = texts.iter().map(String::len).sum();
        assert!(of_change <= PAYLOAD_LEN_MAX, "{of_change} bytes of statements in a change");
        bytes += of_change;
        // Enough to see; a block can refer to a long literal very often.
        if bytes > 1 << 20 {
            return;
        }
        changes.push(texts);
    }
    assert_eq!(written_and_read(&changes), changes);
}

fn written_and_read(changes: &[Vec<String>]) -> Vec<Vec<String>> {
    let mut writer = TemplatesWriter::new();
    let block = encode_statements(&mut writer, changes);
    let table = Templates::decode(&writer.encode()).expect("the table is read back");
    let block = StatementBlock::decode(&block, &Arc::new(table)).expect("the block is read back");
    let of_change = |index| block.change(index).expect("a change").map(|found| found.text().into_owned()).collect();
    (0..block.change_count()).map(of_change).collect()
}

/// Statements, one behind the other with a byte 1 between them: none changes by being stored.
pub fn normaliser(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let statements: Vec<String> = text.split('\u{1}').map(str::to_owned).collect();
    // Twice, for the second time the templates are there.
    let changes = [statements.clone(), statements];
    assert_eq!(written_and_read(&changes), changes);
    true
}

/// The bytes that `unpack` takes apart.
pub fn pack(encoded: &Encoded) -> Vec<u8> {
    let mut bytes = u32::try_from(encoded.head.len()).expect("short").to_le_bytes().to_vec();
    bytes.extend_from_slice(&encoded.head);
    bytes.extend_from_slice(&encoded.blobs);
    bytes
}

/// A table or block from the length of its head and its parts.
fn unpack(input: &[u8]) -> Option<Encoded> {
    let (len, rest) = input.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?.min(rest.len());
    let (head, blobs) = rest.split_at(len);
    Some(Encoded { head: head.to_vec(), blobs: blobs.to_vec() })
}

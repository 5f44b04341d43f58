//! Statements are decoded exactly, and other bytes are an error.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::Damage;
use crate::sql::generated::statement;

type Changes = Vec<Vec<String>>;

/// Statements as a node sends them, some of a few shapes with many values, and arbitrary texts.
fn changes() -> impl Strategy<Value = Changes> {
    let hex = "[0-9a-f]{0,80}|[0-9A-F]{2,12}|([0-9a-fA-F]{2}){0,6}";
    let integer = prop_oneof![any::<i64>().prop_map(|number| number.to_string()), "-? ?[0-9]{1,20}", "[0-9]{1,2}"];
    let of_few_shapes = prop_oneof![
        (integer, hex, "[xX]", "[a-z' ☃]{0,12}").prop_map(|(number, hex, prefix, text)| {
            let text = text.replace('\'', "''");
            format!(" INSERT INTO t (a, b, c) VALUES ({number}, {prefix}'{hex}', '{text}', NULL);\n")
        }),
        (0..500i64, 0..4u8).prop_map(|(number, key)| format!("UPDATE vars SET intval={number} WHERE name='v{key}';")),
        "[0-9]{1,3}".prop_map(|key| format!("DELETE FROM t WHERE a LIKE '?' AND id={key}")),
    ];
    let any = prop_oneof![6 => of_few_shapes, 2 => statement(), 1 => ".{0,20}", 1 => Just(String::new())];
    prop::collection::vec(prop::collection::vec(any, 0..12), 0..8)
}

fn decoded(block: &StatementBlock) -> Changes {
    let of_change = |index| block.change(index).unwrap().map(|statement| statement.text().into_owned()).collect();
    (0..block.change_count()).map(of_change).collect()
}

fn encode(blocks: &[Changes]) -> (Encoded, Vec<Encoded>) {
    let mut writer = TemplatesWriter::new();
    let blocks = blocks.iter().map(|block| encode_statements(&mut writer, block)).collect();
    (writer.encode(), blocks)
}

/// What other bytes than those written decode to: an error, or other statements.
fn read_all(table: &Encoded, block: &Encoded) -> Option<Changes> {
    Some(decoded(&StatementBlock::decode(block, &Arc::new(Templates::decode(table).ok()?)).ok()?))
}

proptest! {
    #[test]
    fn statements_come_back_byte_for_byte(blocks in prop::collection::vec(changes(), 1..4)) {
        let (table, encoded) = encode(&blocks);
        let table = Encoded::decompress(&table.compress(3).unwrap()).unwrap();
        let templates = Arc::new(Templates::decode(&table).unwrap());
        for (block, encoded) in blocks.iter().zip(&encoded) {
            let encoded = Encoded::decompress(&encoded.compress(1).unwrap()).unwrap();
            let read = StatementBlock::decode(&encoded, &templates).unwrap();
            prop_assert_eq!(&decoded(&read), block);
            prop_assert!(read.change(block.len()).is_none());
        }
    }

    #[test]
    fn other_bytes_are_an_error_or_other_statements(
        changes in changes(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 1..4),
    ) {
        let (mut table, mut blocks) = encode(&[changes]);
        let mut block = blocks.remove(0);
        for (index, part, byte) in flips {
            let part = match part {
                0 => &mut table.head,
                1 => &mut table.blobs,
                2 => &mut block.head,
                _ => &mut block.blobs,
            };
            if !part.is_empty() {
                let index = index.index(part.len());
                part[index] ^= byte;
            }
        }
        read_all(&table, &block);
    }

    #[test]
    fn bytes_of_anything_are_no_danger(head in prop::collection::vec(0..16u8, 0..60), blobs in any::<[u8; 8]>()) {
        let encoded = Encoded { head, blobs: blobs.to_vec() };
        let (table, _) = encode(&[]);
        read_all(&table, &encoded);
        read_all(&encoded, &encoded);
        let _ = Encoded::decompress(&encoded.head);
    }
}

#[test]
fn every_cut_and_every_flip_of_a_small_block_is_survived() {
    let sql = |n: u32| format!("INSERT INTO t VALUES ({n}, x'00112233445566778899', 'it''s {n}', X'aB', 007)");
    let changes: Changes = (0..6).map(|n| vec![sql(n), "PRAGMA ☃".to_owned(), sql(n * 1000)]).collect();
    let (table, blocks) = encode(std::slice::from_ref(&changes));
    assert_eq!(read_all(&table, &blocks[0]), Some(changes.clone()));
    for (whole, is_table) in [(&table, true), (&blocks[0], false)] {
        let read = |bytes: &Encoded| if is_table { read_all(bytes, &blocks[0]) } else { read_all(&table, bytes) };
        for at in 0..whole.head.len() {
            let cut = Encoded { head: whole.head[..at].to_vec(), blobs: whole.blobs.clone() };
            assert_ne!(read(&cut).as_ref(), Some(&changes), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped.head[at] ^= 1 << bit;
                read(&flipped);
            }
        }
        let compressed = whole.compress(3).unwrap();
        for at in 0..compressed.len() {
            assert!(Encoded::decompress(&compressed[..at]).is_err());
        }
    }
}

/// A node's statements are stored by template: a second row about the same key costs next to nothing.
#[test]
fn what_does_not_change_takes_no_room() {
    let sql = |n: u32| {
        format!(
            "UPDATE channels SET scid={}, key=x'{}', n={n} WHERE id={}",
            n % 2 + 100_000,
            "ab".repeat(33),
            n % 2 + 5
        )
    };
    let block = |count: u32| {
        let changes: Changes = (0..count).map(|n| vec![sql(n)]).collect();
        let (table, blocks) = encode(std::slice::from_ref(&changes));
        assert_eq!(read_all(&table, &blocks[0]), Some(changes));
        (table.len(), blocks[0].len())
    };
    let (few, many) = (block(10), block(110));
    assert_eq!(few.0, many.0);
    // Statement count, template, reference, way, and the number itself.
    assert!(many.1 - few.1 <= 5 * 100 + 20, "{few:?} {many:?}");
}

#[test]
fn beyond_the_limits_statements_are_stored_as_they_are() {
    let row = ["5"; 900].join(",");
    let statements: Vec<String> = (0..LITERALS_MAX / 900 + 5).map(|_| format!("INSERT INTO t VALUES({row})")).collect();
    let changes = vec![statements];
    let (table, blocks) = encode(std::slice::from_ref(&changes));
    assert!(blocks[0].head.len() < 100_000);
    assert_eq!(read_all(&table, &blocks[0]), Some(changes));

    let many: Changes = vec![(0..TEMPLATES_MAX + 5).map(|n| format!("UPDATE t SET a{n}=5 WHERE b='x'")).collect()];
    let (table, blocks) = encode(std::slice::from_ref(&many));
    assert_eq!(Templates::decode(&table).unwrap().len(), TEMPLATES_MAX);
    assert_eq!(read_all(&table, &blocks[0]), Some(many));
}

#[test]
fn a_table_that_is_full_has_templates_without_examples() {
    let long = "ab".repeat(300_000);
    let sql = |table: &str| format!("INSERT INTO {table} VALUES (x'{long}', 7)");
    let changes: Changes = vec![vec![sql("t"), sql("u"), sql("u"), "DELETE FROM t WHERE a=7".to_owned()]];
    let (table, blocks) = encode(std::slice::from_ref(&changes));
    let templates = Templates::decode(&table).unwrap();
    let examples = templates.templates.iter().map(|template| template.examples.len());
    assert_eq!(examples.collect::<Vec<_>>(), [2, 0, 1]);
    assert!(table.len() + blocks[0].len() < 700_000);
    assert_eq!(read_all(&table, &blocks[0]), Some(changes));
}

#[test]
fn a_block_of_another_table_is_refused_or_reads_as_something_else() {
    let one: Changes = vec![vec!["UPDATE t SET a=5 WHERE b='x'".to_owned()]];
    let other: Changes = vec![vec!["DELETE FROM t WHERE c=7".to_owned(), "DELETE FROM u".to_owned()]];
    let ((table, _), (_, blocks)) = (encode(&[other]), encode(std::slice::from_ref(&one)));
    assert_ne!(read_all(&table, &blocks[0]), Some(one));
}

/// Very many rows can refer to a literal that is stored once: more text than any machine has memory.
#[test]
fn a_change_of_more_text_than_a_record_holds_is_an_error() {
    let sql = format!("INSERT INTO t VALUES ('{}', 7)", "x".repeat(1 << 20));
    let change = |statements| vec![vec![sql.clone(); statements]];
    let (table, blocks) = encode(&[change(64)]);
    assert!(table.len() + blocks[0].len() < 3 << 20);
    let templates = Arc::new(Templates::decode(&table).unwrap());
    let within = |most| StatementBlock::decode_within(most, &blocks[0], &templates);
    assert_eq!(decoded(&within(65 << 20).unwrap()), change(64));
    assert!(matches!(within(63 << 20), Err(Damage::Field { field: "bytes of statements", .. })));
}

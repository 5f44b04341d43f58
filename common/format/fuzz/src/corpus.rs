//! Valid inputs, as the encoders of the format make them. `tests` has the same targets with what is in the files of backups.

use std::sync::{Arc, LazyLock};

use format::change_flags::{ChangeFlags, Predecessor, RunStart};
use format::checked::{CheckedSnapshots, UnsoundSnapshot};
use format::commit_note::{CommitNote, DatabaseStamp};
use format::log_header::LogHeader;
use format::manifest::Manifest;
use format::page_map::{FAN_OUT, MapNode};
use format::parity::{Member, ParityLayout, ParityTable, Protected};
use format::pruned::{PrunedBlock, PrunedFooter, PrunedHeader, PrunedSegment};
use format::pruned_directory::{KeptVersion, PrunedDirectory, PrunedRange, PrunedSegmentEntry, Thinned};
use format::read_sets::ReadSets;
use format::record::{
    RECORD_HEADER_LEN, RecordHeader, encode_change, encode_commit, encode_gap, encode_rewind, encode_snapshot,
};
use format::record_index::{ForeignKeys, IndexedBody, IndexedRecord, Interval, RecordIndex};
use format::segment::{BlockHandle, FollowedBy, Location, MapRoot, SegmentFooter, SegmentHeader, SnapshotId};
use format::snapshot::{SnapshotFooter, SnapshotHeader};
use format::snapshot_ref::{DeltaBase, SnapshotReason, SnapshotRef};
use format::spool::{SpoolHeader, SpoolNewest};
use format::statements::{Encoded, Templates, TemplatesWriter, encode_statements};
use format::units::{DataVersion, PageNo, PageSize, Seq, Timestamp};
use format::version_rules::{Bump, Commit};
use uuid::Uuid;

use super::statements::pack;

/// The backup that the records of the corpus belong to.
pub const UUID: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);

/// The segment that nodes and images are decoded as.
pub const OWN: Seq = Seq::new(1_000_000).expect("not 0");

/// Statements such as `lightningd` sends.
const OF_A_NODE: [&str; 12] = [
    "INSERT INTO vars (name, intval) VALUES ('last_processed_block', 100)",
    "UPDATE vars SET intval=101 WHERE name='last_processed_block'",
    "INSERT INTO blocks (height, hash, prev_hash) VALUES (101, x'6ff6a5b7c1', x'0f9188f13c');",
    "UPDATE channels SET next_index_local=3, next_index_remote=3, next_htlc_id=1, msatoshi_local=999994999 WHERE id=1",
    "INSERT INTO channel_htlcs (channel_id, channel_htlc_id, direction, msatoshi, cltv_expiry, payment_hash, hstate) \
     VALUES (1, 0, 1, 5000, 112, x'66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925', 0)",
    "UPDATE channel_htlcs SET hstate=4, payment_key=NULL, localfailed=x'' WHERE id=7",
    "DELETE FROM htlc_sigs WHERE channelid = 1",
    "INSERT INTO shachain_known (shachain_id, pos, idx, hash) VALUES (2, 0, 281474976710654, x'02a40c85b6f2')",
    "UPDATE shachains SET num_valid=1, min_index=281474976710654 WHERE id=2",
    "DELETE FROM utxoset WHERE spendheight < 1",
    "INSERT INTO peers VALUES (NULL, x'022d223620a359a47ff7f7ac447c85c46c923da53389221a0054c11c1e3ca31d59', 'it''s [::1]:9735');",
    "PRAGMA foreign_keys = OFF;",
];

/// A table, and blocks with all ways in which literals are written.
static EXAMPLES: LazyLock<(Encoded, Vec<Encoded>)> = LazyLock::new(|| {
    let mut writer = TemplatesWriter::new();
    let sql = |n: u32| format!("INSERT INTO t VALUES ({n}, x'00112233445566778899', 'it''s {n}', X'aB', 007, X'AB')");
    let changes = |from: u32| -> Vec<Vec<String>> {
        (from..from + 6).map(|n| vec![sql(n), "PRAGMA ☃".to_owned(), sql(n * 1000), bump(n)]).collect()
    };
    let blocks = [0, 6].map(|from| encode_statements(&mut writer, &changes(from)));
    (writer.encode(), blocks.to_vec())
});

/// The table that the target `block` reads blocks with.
pub(super) static SMALL_TABLE: LazyLock<Arc<Templates>> =
    LazyLock::new(|| Arc::new(Templates::decode(&EXAMPLES.0).expect("a table")));

fn bump(from: u32) -> String {
    format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {from}")
}

fn seq(number: u64) -> Seq {
    Seq::new(number).expect("not 0")
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_795_356_307_000_000 + micros).expect("a time")
}

fn snapshot_refs() -> [SnapshotRef; 3] {
    let id = SnapshotId { seq: seq(3), footer_checksum: 0x1122_3344 };
    [None, Some(DeltaBase::Snapshot(id)), Some(DeltaBase::Segment(seq(1)))].map(|base| SnapshotRef {
        page_size: PageSize::DEFAULT,
        page_count: 700,
        base,
        footer_checksum: 0x5566_7788,
        reason: SnapshotReason::Gap,
        unreadable_since: base.map(|_| seq(2)),
    })
}

fn commit_notes() -> [CommitNote; 2] {
    let stamp = DatabaseStamp { change_counter: 7, page_count: 700, schema_cookie: 90 };
    [None, Some(stamp)].map(|stamp| CommitNote { boot: UUID, stamp })
}

/// Records of each kind, alone and one behind the other.
pub fn records() -> Vec<Vec<u8>> {
    let mut number = 0;
    let mut header = || {
        number += 1;
        let data_version = DataVersion::new(number);
        RecordHeader { seq: seq(number.into()), data_version, time: time(number.into()), previous_checksum: number }
    };
    let mut records = vec![Vec::new(), vec![0; 100]];
    let mut add = |encode: &mut dyn FnMut(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        records.push(bytes);
    };
    let unverified = ChangeFlags { run_start: RunStart::First, predecessor: Predecessor::Unverified };
    for flags in [ChangeFlags::verified(RunStart::Later), unverified] {
        for statements in OF_A_NODE.chunks(4) {
            add(&mut |out| _ = encode_change(UUID, &header(), flags, statements, out).expect("short"));
        }
    }
    add(&mut |out| _ = encode_rewind(UUID, &header(), seq(7), out));
    add(&mut |out| _ = encode_gap(UUID, &header(), out));
    for note in commit_notes() {
        add(&mut |out| _ = encode_commit(UUID, &header(), &note, out));
    }
    for snapshot in snapshot_refs() {
        add(&mut |out| _ = encode_snapshot(UUID, &header(), &snapshot, out));
    }
    records.push(records.concat());
    records
}

/// The records without tag, checksum and length.
pub fn record_bodies() -> Vec<Vec<u8>> {
    let whole = records().into_iter().filter(|record| record.len() >= RECORD_HEADER_LEN && record[0] != 0);
    whole.map(|record| record[12..].to_vec()).collect()
}

fn segment_header() -> SegmentHeader {
    SegmentHeader { uuid: UUID, first_seq: seq(901), previous_checksum: 7, page_size: PageSize::DEFAULT }
}

fn segment_footer() -> SegmentFooter {
    let root = Location { segment: seq(901), block: BlockHandle { offset: 302_208, len: 40 } };
    SegmentFooter {
        header_checksum: u32::from_le_bytes(*segment_header().encode().last_chunk().expect("4 bytes")),
        last_seq: seq(1802),
        last_checksum: 8,
        followed_by: FollowedBy::Change,
        foreign_keys: ForeignKeys::On,
        base: Some(seq(1)),
        snapshot: Some(SnapshotId { seq: seq(3), footer_checksum: 9 }),
        newest_snapshot: Some(seq(3)),
        page_count: 3,
        map: Some(MapRoot { location: root, height: 2 }),
        read_sets: BlockHandle { offset: 302_252, len: 900 },
        index: BlockHandle { offset: 303_156, len: 5500 },
        templates: BlockHandle { offset: 64, len: 15_600 },
        versions_before: 900,
        versions: 901,
        ordinal_before: 900,
        ordinal: 1801,
        times: (time(1), time(2)),
    }
}

/// Headers, footers, and the files that consist of one.
pub fn headers() -> Vec<Vec<u8>> {
    let manifest = Manifest { uuid: UUID, created: time(0), page_size: PageSize::DEFAULT, node_id: None };
    let known = Manifest { node_id: Some([2; 33]), ..manifest.clone() };
    let log = LogHeader { uuid: UUID, first_seq: Seq::FIRST, previous_checksum: 7, created: time(1), unit: 4 << 20 };
    let first = SegmentFooter { base: None, snapshot: None, newest_snapshot: None, map: None, ..segment_footer() };
    let spools = [None, Some(Commit::Unknown), Some(Commit::Seen), Some(Commit::Certain)].map(|commit| SpoolHeader {
        from: (seq(8), 9),
        attempted: vec![(seq(9), 10), (seq(10), 11)],
        newest: commit.map(|commit| SpoolNewest {
            data_version: DataVersion::new(6),
            seq: seq(7),
            recorded_at: time(3),
            commit,
        }),
        begun: time(4),
        manifest: manifest.clone(),
    });
    let unsound = |number| UnsoundSnapshot {
        seq: seq(number),
        data_version: DataVersion::new(5),
        found: "row 7 missing from index ☃".to_owned(),
    };
    let checked = [vec![], vec![unsound(3), unsound(8)]];
    let checked = checked.map(|unsound| CheckedSnapshots { newest: seq(8), unsound }.encode(UUID));
    let snapshots = snapshot_refs().map(|snapshot| SnapshotHeader {
        uuid: UUID,
        seq: seq(50),
        base: snapshot.base,
        data_version: DataVersion::new(49),
        page_size: PageSize::DEFAULT,
        page_count: 700,
        created: time(5),
    });
    let footer = SnapshotFooter { header_checksum: 1, index_checksum: 2, index_offset: 900, stored_pages: 700 };
    let mut all = vec![
        manifest.encode().to_vec(),
        known.encode().to_vec(),
        log.encode().to_vec(),
        segment_header().encode().to_vec(),
        segment_footer().encode().to_vec(),
        first.encode().to_vec(),
        PrunedHeader { uuid: UUID, created: time(6) }.encode().to_vec(),
        PrunedFooter { header_checksum: 1, directory_checksum: 2, directory_offset: 300 }.encode().to_vec(),
        footer.encode().to_vec(),
    ];
    all.extend(snapshots.map(|header| header.encode().to_vec()));
    all.extend(spools.map(|header| header.encode().to_vec()));
    all.extend(checked);
    all
}

/// Nodes of a page map: empty, with three entries, full.
pub fn nodes() -> Vec<Vec<u8>> {
    let node = |slots: &[u32]| {
        let mut node = MapNode::default();
        for &slot in slots {
            let segment = seq(OWN.get() - u64::from(slot) * 900);
            let block = BlockHandle { offset: 64 + 1000 * u64::from(slot), len: 90 * slot };
            node.set(slot as usize, Location { segment, block });
        }
        node.encode(OWN)
    };
    vec![node(&[]), node(&[0, 1, 31]), node(&(0..FAN_OUT).collect::<Vec<_>>())]
}

/// Record indexes with every kind of record.
pub fn indexes() -> Vec<Vec<u8>> {
    let later = ChangeFlags::verified(RunStart::Later);
    let unverified = ChangeFlags { run_start: RunStart::First, predecessor: Predecessor::Unverified };
    let change = |flags, bump| IndexedBody::Change { flags, bump, statements: 3, bytes: 500 };
    let mut bodies = vec![
        change(unverified, Bump::Present),
        change(later, Bump::Absent),
        change(later, Bump::Present),
        IndexedBody::Rewind,
        IndexedBody::Gap,
    ];
    bodies.extend(snapshot_refs().map(IndexedBody::Snapshot));
    bodies.extend(commit_notes().map(IndexedBody::Commit));
    let records: Vec<_> = bodies
        .into_iter()
        .zip(1_u32..)
        .map(|(body, number)| IndexedRecord {
            data_version: DataVersion::new(number),
            time: time(number.into()),
            page_count: 700 + number % 3,
            body,
        })
        .collect();
    let intervals = [(0, ForeignKeys::On), (4, ForeignKeys::Off)].map(|(first, foreign_keys)| {
        let block = BlockHandle { offset: 64 + 900 * u64::from(first), len: 800 };
        Interval { first, page_count: 700, foreign_keys, block }
    });
    let whole = RecordIndex { records, intervals: intervals.to_vec(), unreplayed_from: None };
    vec![whole.encode(), RecordIndex { unreplayed_from: Some(4), ..whole }.encode()]
}

/// Read sets of two intervals and the end, and none.
pub fn read_sets() -> Vec<Vec<u8>> {
    let block = |segment, offset, len| Location { segment: seq(segment), block: BlockHandle { offset, len } };
    let blocks = vec![block(1, 64, 900), block(1, 5000, 80), block(700, 70_000, 300), block(901, 290_000, 1200)];
    let snapshot_pages = [1, 2, 700].into_iter().filter_map(PageNo::new).collect();
    let sets = ReadSets { blocks, snapshot_pages, sets: vec![vec![0, 3, 4, 6], vec![], vec![1, 2, 3, 5]] };
    vec![sets.encode(OWN), ReadSets::default().encode(OWN)]
}

/// Indexes of a full snapshot and of a delta, each behind the bytes that describe its header.
pub fn snapshot_indexes() -> Vec<Vec<u8>> {
    let group = [9, 0, 0, 0, 1, 2, 3, 4];
    let full = [&[0, 3, 0, 3, 0, 3][..], &group, &group, &group].concat();
    let delta = [&[1, 9, 0, 2, 0, 0][..], &[2, 0, 0, 0, 7, 0, 0, 0], &group].concat();
    vec![full, delta]
}

/// Parity files of a manifest, of a snapshot in two stripes, and of several segments, up to their first parity block.
pub fn parity() -> Vec<Vec<u8>> {
    let table = |members: &[(Protected, u64)], parity: u64| {
        let members = members.iter().map(|&(file, len)| Member { file, len }).collect();
        let layout = ParityLayout::new(members, parity).expect("it is within the bounds");
        let sums = |count: u64| (0..u32::try_from(count).expect("a small number")).collect();
        let (data, parity) = (sums(layout.data_blocks()), sums(layout.parity_blocks()));
        ParityTable { uuid: segment_header().uuid, layout, data, parity }.encode()
    };
    let segments =
        [(1, 9000), (901, 1_200_000), (1803, 4096)].map(|(first, len)| (Protected::Segment(seq(first)), len));
    vec![
        table(&[(Protected::Manifest, 80)], 1),
        table(&[(Protected::Snapshot(seq(1)), 2049 * 4096)], 21),
        table(&segments, 17),
    ]
}

/// A directory with several of everything, and a pruned segment.
pub fn pruned() -> Vec<Vec<u8>> {
    let range = |first: u64, last: u64| PrunedRange {
        first_seq: seq(first),
        previous_checksum: 1,
        last_segment: seq(last),
        last_seq: seq(last + 9),
        versions_before: 2,
        ordinal_before: 3,
        versions: 4,
        segments: 5,
        bytes: 6,
    };
    let segments = [10, 20, 30, 40, 50, 100, 110, 120].map(|first| PrunedSegmentEntry {
        segment: seq(first),
        offset: 40,
        len: 300,
    });
    let kept = |number| KeptVersion { seq: seq(number), ordinal: number, recorded_at: time(7) };
    let thinned =
        [10, 100].map(|first| Thinned { segment: seq(first), versions: vec![kept(first + 1), kept(first + 3)] });
    let ranges = vec![range(1, 50), range(100, 120)];
    let directory = PrunedDirectory { ranges, segments: segments.to_vec(), thinned: thinned.to_vec() };
    let (header, footer) = (segment_header().encode(), segment_footer().encode());
    let blocks = [(289_000, 40, 12), (290_000, 56, 12), (290_798, 72, 40)];
    let blocks = blocks.map(|(offset, file_offset, len)| PrunedBlock { offset, file_offset, len }).to_vec();
    let segment = |blocks| PrunedSegment { header, footer, blocks }.encode();
    vec![directory.encode(), segment(blocks), segment(Vec::new())]
}

/// Tables of templates, not compressed.
pub fn tables() -> Vec<Vec<u8>> {
    let mut writer = TemplatesWriter::new();
    encode_statements(&mut writer, &[OF_A_NODE, OF_A_NODE]);
    // A template without text that claims to have a million examples.
    let many_examples = Encoded { head: vec![6, 0, 1, 0, 0, 0x80, 0x80, 0x40], blobs: Vec::new() };
    [writer.encode(), EXAMPLES.0.clone(), many_examples].iter().map(pack).collect()
}

/// Blocks of statements, not compressed.
pub fn blocks() -> Vec<Vec<u8>> {
    EXAMPLES.1.iter().map(pack).collect()
}

/// Statements with a byte 1 between them.
pub fn statements() -> Vec<Vec<u8>> {
    let edges = [
        "",
        ";",
        "INSERT INTO t VALUES (9223372036854775807, -9223372036854775808, - 5, 007, x'aB', X'', 'it''s', '')",
        "UPDATE t SET a=a+1, b='?' WHERE c IN (7, 'y', -9) AND [d?] = 5 -- ?",
        "DELETE FROM t WHERE a = ? AND b = 'x\0y' AND é = 5",
    ];
    let of_a_node = OF_A_NODE.chunks(3).map(|change| change.join("\u{1}"));
    edges.map(str::to_owned).into_iter().chain(of_a_node).map(String::into_bytes).collect()
}

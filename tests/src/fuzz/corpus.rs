//! Valid inputs: the files of small backups of the demo's node, and what is in them.

use std::borrow::Cow;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use common::KeepPolicy;
use common::compact::{Clock, CompactBackupError, CompactOutcome, compact_backup};
use common::{Backup, BackupUrl, BackupWriter, DbWrite, LogLimits, Sealer, Seq, Timestamp, View};
use format::page_map::{FAN_OUT, MapNode};
use format::pruned::{PRUNED_FOOTER_LEN, PRUNED_HEADER_LEN};
use format::record_index::RecordIndex;
use format::segment::{
    BLOCK_HEADER_LEN, BlockHandle, Location, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFooter, SegmentHeader,
};
use format::statements::Encoded;
use format_fuzz::corpus::UUID;
use format_fuzz::crc::{crc32c, seal};
use format_fuzz::statements::pack;
use mountfs::demo::trace::{Trace, TraceEvent, TraceWrite};
use tempfile::TempDir;

static TRACE: &[u8] = include_bytes!("../../../mountfs/demo/db_write.jsonl.zst");

/// Short ones, so that a few changes make several logs.
const LIMITS: LogLimits = LogLimits { bytes: 64 << 10, statements: 150 };

/// Changes of the first backup and of the second.
const CHANGES: [usize; 2] = [60, 20];

/// Small backups: one from nothing, with segments; one that begins with a snapshot, with a log; and the first one again, of
/// which the older half was dropped.
pub(super) struct Corpus {
    directory: TempDir,
    writes: Vec<TraceWrite>,
    /// Name and bytes of every file of each backup, the first one's in front.
    pub(super) files: Vec<(&'static str, String, Vec<u8>)>,
}

/// The names of the backups.
pub(super) const BACKUPS: [&str; 3] = ["sealed", "snapshot", "compacted"];

/// Made once.
pub(super) static CORPUS: LazyLock<Corpus> = LazyLock::new(Corpus::make);

impl Corpus {
    fn make() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let writes = Trace::from_bytes(TRACE).expect("the demo's trace").filter_map(|event| match event {
            Ok(TraceEvent::Write(write)) => Some(write),
            _ => None,
        });
        let writes: Vec<_> = writes.take(CHANGES.iter().sum()).collect();
        let (first, second) = writes.split_at(CHANGES[0]);
        let (sealed, snapshot) = (directory.path().join(BACKUPS[0]), directory.path().join(BACKUPS[1]));
        record(&sealed, None, first);
        let backup = seal_all(&sealed);
        let database = directory.path().join("database");
        let (history, _) = backup.read_history();
        let plan = history.plan(history.newest().expect("a version")).expect("a plan");
        let view = View::open(&backup, &plan).expect("a view");
        let mut bytes = vec![0; usize::try_from(view.size_bytes()).expect("small")];
        view.read_at(0, &mut bytes).expect("its pages");
        fs::write(&database, bytes).expect("a database");
        record(&snapshot, Some(&database), second);
        compacted(&directory.path().join(BACKUPS[2]), first);
        let mut files = Vec::new();
        for backup in BACKUPS {
            let entries = fs::read_dir(directory.path().join(backup)).expect("a backup");
            let mut of_backup: Vec<_> = entries
                .map(|entry| {
                    let name = entry.expect("a file").file_name().into_string().expect("a name");
                    let bytes = fs::read(directory.path().join(backup).join(&name)).expect("a file");
                    (backup, name, bytes)
                })
                .filter(|(_, name, _)| name != "LOCK" && name != "preallocated")
                .collect();
            of_backup.sort();
            files.extend(of_backup);
        }
        Self { directory, writes, files }
    }

    /// Where the backups are.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn named(&self, prefix: &str) -> impl Iterator<Item = &[u8]> {
        self.files.iter().filter(move |(_, name, _)| name.starts_with(prefix)).map(|(.., bytes)| &**bytes)
    }

    pub(super) fn records(&self) -> Vec<Vec<u8>> {
        let mut records = vec![Vec::new(), vec![0; 100]];
        for body in self.record_bodies() {
            let payload = u32::try_from(body.len() - 28).expect("short").to_le_bytes();
            let sum = crc32c(&[UUID.as_bytes(), &payload, &body]).to_le_bytes();
            records.push([b"BREC", &sum[..], &payload, &body].concat());
        }
        records.push(records.concat());
        records
    }

    pub(super) fn record_bodies(&self) -> Vec<Vec<u8>> {
        // Their checksums are made anew: they are of another backup.
        let mut bodies = Vec::new();
        for log in self.named("log-") {
            let mut rest = &log[64..];
            while let Some(len) = rest.get(8..12).filter(|_| rest.starts_with(b"BREC")) {
                let len = 40 + u32::from_le_bytes(len.try_into().expect("4 bytes")) as usize;
                bodies.push(rest[12..len].to_vec());
                rest = &rest[len..];
            }
        }
        for (kind, payload) in [(2, 7_u64.to_le_bytes().to_vec()), (4, Vec::new())] {
            let mut body = bodies[0][..28].to_vec();
            body[16] = kind;
            body[17] = 0;
            body.extend(payload);
            bodies.push(body);
        }
        bodies.retain(|body| body.len() < 20_000);
        bodies
    }

    pub(super) fn headers(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = self.named("manifest").map(<[u8]>::to_vec).collect();
        all.extend(self.named("log-").map(|file| file[..64].to_vec()));
        for file in self.named("segment-") {
            all.push(file[..SEGMENT_HEADER_LEN].to_vec());
            all.push(file[file.len() - SEGMENT_FOOTER_LEN..].to_vec());
        }
        for file in self.named("snapshot-") {
            all.push(file[..80].to_vec());
            all.push(file[file.len() - 32..].to_vec());
        }
        for file in self.named("pruned") {
            all.push(file[..PRUNED_HEADER_LEN].to_vec());
            all.push(file[file.len() - PRUNED_FOOTER_LEN..].to_vec());
        }
        all.extend(self.named("checked").map(<[u8]>::to_vec));
        let mut spool = [b"BKPFSSPL\x01\0\x01\0", &[0; 160][..], &[0; 4]].concat();
        spool[12] = 9;
        spool[64] = 8;
        spool[92..172].copy_from_slice(&all[0]);
        seal(&mut spool);
        all.push(spool);
        all
    }

    fn blocks(&self) -> Vec<(BlockKind, Vec<u8>)> {
        self.named("segment-")
            .flat_map(|file| blocks(file).into_iter().map(|(kind, at)| (kind, bytes(file, at))))
            .collect()
    }

    fn blocks_of(&self, wanted: BlockKind) -> Vec<Vec<u8>> {
        let found: Vec<_> =
            self.blocks().into_iter().filter(|(kind, _)| *kind == wanted).map(|(_, bytes)| bytes).collect();
        assert!(!found.is_empty(), "no {wanted:?} in any segment");
        found
    }

    pub(super) fn nodes(&self) -> Vec<Vec<u8>> {
        self.blocks_of(BlockKind::Node)
    }

    pub(super) fn images(&self) -> Vec<Vec<u8>> {
        let images = self.blocks_of(BlockKind::Images);
        // All of page 1, so that the target does not stop at once.
        images.into_iter().map(|block| [&[0x9f, 1], &block[1..]].concat()).collect()
    }

    pub(super) fn indexes(&self) -> Vec<Vec<u8>> {
        let compressed = self.blocks_of(BlockKind::Index);
        compressed.iter().map(|frame| zstd::bulk::decompress(frame, 1 << 20).expect("an index")).collect()
    }

    pub(super) fn read_sets(&self) -> Vec<Vec<u8>> {
        let compressed = self.blocks_of(BlockKind::ReadSets);
        compressed.iter().map(|frame| zstd::bulk::decompress(frame, 1 << 20).expect("read sets")).collect()
    }

    pub(super) fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = self.blocks_of(BlockKind::Statements);
        frames.extend(self.blocks_of(BlockKind::Templates));
        frames
    }

    pub(super) fn pruned(&self) -> Vec<Vec<u8>> {
        self.named("pruned")
            .flat_map(|file| super::pruned::blocks(file).into_iter().map(|block| file[block].to_vec()))
            .collect()
    }

    pub(super) fn tables(&self) -> Vec<Vec<u8>> {
        let real = self.blocks_of(BlockKind::Templates);
        real.iter().map(|bytes| pack(&Encoded::decompress(bytes).expect("a table"))).collect()
    }

    pub(super) fn statements(&self) -> Vec<Vec<u8>> {
        self.writes.iter().map(|write| write.statements.join("\u{1}").into_bytes()).collect()
    }

    pub(super) fn python_files(&self) -> Vec<Vec<u8>> {
        super::python::corpus(&self.writes)
    }

    pub(super) fn messages(&self) -> Vec<Vec<u8>> {
        let message = |write: &TraceWrite| {
            let params = serde_json::json!({ "data_version": write.data_version.get(), "writes": write.statements });
            format!(r#"{{"jsonrpc":"2.0","id":"cln:db_write#7","method":"db_write","params":{params}}}"#) + "\n\n"
        };
        let mut all: Vec<_> = self.writes.iter().map(|write| message(write).into_bytes()).collect();
        all.retain(|message| message.len() < 30_000);
        all.push(all[1..4].concat());
        let deep =
            format!("{{\"id\":1,\"method\":\"db_write\",\"params\":{}{}}}\n\n", "[".repeat(300), "]".repeat(300));
        all.push(deep.into_bytes());
        all.push(
            b"{\"method\":\"shutdown\",\"params\":{}}\n\n{\"id\":\"\\u0041\",\"method\":\"db\\u005fwrite\"}\n\n"
                .to_vec(),
        );
        all
    }

    /// The number of a file, then what is in it.
    pub(super) fn files(&self) -> Vec<Vec<u8>> {
        let numbered = self.files.iter().zip(0_u8..);
        numbered.map(|((.., bytes), number)| [&[number], &bytes[..]].concat()).collect()
    }
}

fn url(path: &Path) -> BackupUrl {
    path.to_str().and_then(|path| path.parse().ok()).expect("a path that is text")
}

/// Seals what is recorded in the first of the backups.
fn seal_all(path: &Path) -> Arc<Backup> {
    let backup = Arc::new(Backup::open(&url(path)).expect("a backup"));
    let mut sealer = Sealer::new(Arc::clone(&backup), LIMITS).expect("a sealer");
    let all = Seq::new(CHANGES[0] as u64).expect("not 0");
    sealer.advance(all, &mut |_| ControlFlow::Continue(())).expect("sealed");
    backup
}

/// A backup of these changes, the older half of them recorded long ago and dropped, but for one.
fn compacted(path: &Path, writes: &[TraceWrite]) {
    let mut writes = writes.to_vec();
    let old = writes.len() / 2;
    for write in &mut writes[..old] {
        write.at = Timestamp::from_micros(write.at.as_micros() - 7_200_000_000).expect("a time");
    }
    record(path, None, &writes);
    seal_all(path);
    let [hour, day] = ["1h", "1d"].map(|span| Some(span.parse().expect("a span")));
    let policy = KeepPolicy { within: hour, hourly: day, ..KeepPolicy::default() };
    // Whoever recorded may be making a preallocated file still.
    let deadline = Instant::now() + Duration::from_secs(30);
    let outcome = loop {
        match compact_backup(&url(path), &policy, Clock::Trusted, &mut |_| ControlFlow::Continue(())) {
            Err(CompactBackupError::Locked { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            outcome => break outcome.expect("it is compacted"),
        }
    };
    let is_done = matches!(outcome, CompactOutcome::Done(compaction) if compaction.dropped_segments > 0);
    assert!(is_done, "nothing was dropped");
}

fn record(backup: &Path, database: Option<&Path>, writes: &[TraceWrite]) {
    let home = tempfile::tempdir().expect("a directory");
    common::create_backup(&url(backup), database, &mut |_| ControlFlow::Continue(())).expect("a backup");
    let lock = serde_json::json!({ "backend_url": url(backup).to_string() }).to_string();
    fs::write(home.path().join("backup.lock"), lock).expect("backup.lock");
    let node = home.path().join("lightningd.sqlite3");
    if let Some(database) = database {
        fs::copy(database, &node).expect("a copy");
    }
    let node = rusqlite::Connection::open(node).expect("a database");
    node.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON").expect("settings");
    let mut recording = BackupWriter::open(home.path(), LIMITS).expect("a recording");
    for write in writes {
        let texts = write.statements.join(";");
        let statements: Vec<_> = write.statements.iter().map(|sql| Cow::Borrowed(&**sql)).collect();
        let write = DbWrite { data_version: write.data_version, statements: &statements, received_at: write.at };
        recording.record(&write).expect("a change is recorded");
        node.execute_batch(&format!("BEGIN; {texts}; COMMIT")).expect("a node commits it");
    }
}

/// What a block of a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    Templates,
    Statements,
    Images,
    Node,
    Index,
    ReadSets,
}

fn bytes(file: &[u8], at: BlockHandle) -> Vec<u8> {
    let start = usize::try_from(at.offset).expect("small") + BLOCK_HEADER_LEN;
    file[start..start + at.len as usize].to_vec()
}

/// All blocks of an intact segment.
pub(super) fn blocks(file: &[u8]) -> Vec<(BlockKind, BlockHandle)> {
    let header = SegmentHeader::decode(file.first_chunk().expect("a header")).expect("a header");
    let footer = SegmentFooter::decode(file.last_chunk().expect("a footer")).expect("a footer");
    let mut blocks = vec![
        (BlockKind::Templates, footer.templates),
        (BlockKind::Index, footer.index),
        (BlockKind::ReadSets, footer.read_sets),
    ];
    let index = zstd::bulk::decompress(&bytes(file, footer.index), 1 << 20).expect("an index");
    let index = RecordIndex::decode(&index).expect("an index");
    blocks.extend(index.intervals.iter().map(|interval| (BlockKind::Statements, interval.block)));
    let mut nodes: Vec<(Location, u8)> = footer.map.map(|root| (root.location, root.height)).into_iter().collect();
    while let Some((at, height)) = nodes.pop() {
        if at.segment != header.first_seq {
            continue;
        }
        blocks.push((BlockKind::Node, at.block));
        let node = MapNode::decode(&bytes(file, at.block), header.first_seq).expect("a node");
        for entry in (0..FAN_OUT as usize).filter_map(|slot| node.get(slot)) {
            match height.checked_sub(1) {
                Some(below) => nodes.push((entry, below)),
                None if entry.segment == header.first_seq => blocks.push((BlockKind::Images, entry.block)),
                None => (),
            }
        }
    }
    blocks
}

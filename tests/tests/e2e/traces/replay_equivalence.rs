//! Recorded statements do the same from templates with bound values, as replay executes them, from blocks, and as the
//! texts they are.
//!
//! Every recorded trace goes into three plain SQLite files, one each way: the same bytes in the end and every 500
//! versions. Of a long trace only the beginning is taken, unless `BACKUPFS_TRACES_WHOLE` is set.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::replay::statement::{self, Executed, PreparedTemplates};
use format::statements::{Encoded, StatementBlock, Templates, TemplatesWriter, encode_statements};
use mountfs::demo::trace::{TraceEvent, TraceWrite};
use rusqlite::Connection;
use tests::schedule::{Fate, Kind, Outcome, Schedule};
use tests::traces::{self, TraceFolder};

/// How often the bytes are compared, in writes.
const COMPARED_EVERY: usize = 500;

/// So many writes of a trace are executed, unless all are.
const WRITES: usize = 4_000;

/// Writes with one table of templates, and those of a block. Odd, so that blocks end anywhere.
const TABLE_WRITES: usize = 700;
const BLOCK_WRITES: usize = 61;

/// A database file that statements of a trace are executed on in one of the ways.
struct Database {
    connection: Connection,
    path: PathBuf,
    /// What the transactions took.
    took: Cell<Duration>,
}

/// Statements of a trace, by how they were executed from their texts by replay.
#[derive(Debug, Default)]
struct Share {
    parameterised: u64,
    as_text: u64,
}

impl Database {
    fn open(path: PathBuf) -> Self {
        let connection = Connection::open(&path).expect("a database");
        connection
            .execute_batch("PRAGMA foreign_keys = ON; PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")
            .expect("settings");
        Self { connection, path, took: Cell::default() }
    }

    /// One transaction, or one rider outside of any; for each statement the answer of `execute` and the rows it changed.
    fn write<S, T>(
        &self,
        kind: Kind,
        statements: impl Iterator<Item = S>,
        mut execute: impl FnMut(&Connection, &S) -> rusqlite::Result<T>,
    ) -> Vec<(T, u64)> {
        let started = Instant::now();
        let around = |sql: &str| {
            if kind == Kind::Transaction {
                self.connection.execute_batch(sql).expect("a transaction begins and ends");
            }
        };
        around("BEGIN");
        let one = |statement| {
            let answer = execute(&self.connection, &statement).expect("a statement that did well when it was recorded");
            (answer, self.connection.changes())
        };
        let answers = statements.map(one).collect();
        around("COMMIT");
        self.took.set(self.took.get() + started.elapsed());
        answers
    }
}

/// Executes the committed writes of a trace in all ways.
fn compare(folder: &TraceFolder) -> Share {
    let directory = tempfile::tempdir().expect("a directory");
    let [parameters, stored, text] = ["parameters", "stored", "text"].map(|name| {
        let path = directory.path().join(name);
        folder.start_database(&path);
        Database::open(path)
    });
    statement::set_up(&parameters.connection).expect("a connection made ready");
    statement::set_up(&stored.connection).expect("a connection made ready");
    let schedule = Schedule::of(folder.events());
    let mut share = Share::default();
    let writes = folder.events().filter_map(|event| match event.expect("an intact trace") {
        TraceEvent::Write(write) => Some(write),
        _ => None,
    });
    let limit = if traces::are_whole() { usize::MAX } else { WRITES };
    let writes: Vec<_> = writes.zip(schedule.fates()).take(limit).collect();
    for (number, segment) in writes.chunks(TABLE_WRITES).enumerate() {
        let blocks = sealed(segment);
        let templates = blocks.first().expect("a segment has a block").templates();
        let mut prepared = PreparedTemplates::new(&stored.connection, templates);
        for (position, (write, fate)) in segment.iter().enumerate() {
            if fate.missed_before > 0 {
                let version = write.data_version.previous();
                let skip = format!("UPDATE vars SET intval = {version} WHERE name = 'data_version'");
                for database in [&parameters, &stored, &text] {
                    database.connection.execute_batch(&skip).expect("a gap");
                }
            }
            if fate.outcome == Outcome::Lost {
                continue;
            }
            if write.statements.iter().any(|sql| sql.contains("strftime")) {
                wait_for_a_young_second();
            }
            let sql = || write.statements.iter();
            let fast = parameters.write(fate.kind, sql(), |on, sql| statement::execute(on, sql));
            let slow = text.write(fate.kind, sql(), |on, sql| statement::execute_text(on, sql));
            let read = blocks[position / BLOCK_WRITES].change(position % BLOCK_WRITES).expect("a change of the block");
            let from_blocks = stored.write(fate.kind, read, |_, statement| prepared.execute(statement));
            assert_eq!(fast, from_blocks, "statements of version {}", write.data_version);
            for (((executed, fast), ((), slow)), sql) in fast.iter().zip(&slow).zip(&write.statements) {
                assert_eq!(fast, slow, "rows changed in version {} by {sql}", write.data_version);
                match executed {
                    Executed::Parameterised => share.parameterised += 1,
                    Executed::AsText => share.as_text += 1,
                }
            }
            let position = number * TABLE_WRITES + position;
            if position.is_multiple_of(COMPARED_EVERY) {
                same_bytes(&parameters.path, &text.path, position);
                same_bytes(&stored.path, &text.path, position);
            }
        }
    }
    same_bytes(&parameters.path, &text.path, writes.len());
    same_bytes(&stored.path, &text.path, writes.len());
    let per_change = |database: &Database| database.took.get().as_secs_f64() * 1e6 / writes.len() as f64;
    println!(
        "{} of {} statements parameterised; {:.1} µs a change, from blocks {:.1} µs, as texts {:.1} µs",
        share.parameterised,
        share.parameterised + share.as_text,
        per_change(&parameters),
        per_change(&stored),
        per_change(&text),
    );
    share
}

/// The statements of some writes as blocks, which give them back byte for byte.
fn sealed(writes: &[(TraceWrite, &Fate)]) -> Vec<StatementBlock> {
    let mut templates = TemplatesWriter::new();
    let encode = |writes: &[(TraceWrite, &Fate)]| {
        let statements: Vec<_> = writes.iter().map(|(write, _)| &write.statements).collect();
        let block = encode_statements(&mut templates, &statements).compress(3).expect("memory");
        (block, statements.into_iter().cloned().collect::<Vec<_>>())
    };
    let blocks: Vec<_> = writes.chunks(BLOCK_WRITES).map(encode).collect();
    let table = templates.encode().compress(3).expect("memory");
    let templates = Templates::decode(&Encoded::decompress(&table).expect("a table")).expect("a table");
    let templates = Arc::new(templates);
    let decode = |(block, statements): (Vec<u8>, Vec<Vec<String>>)| {
        let block =
            StatementBlock::decode(&Encoded::decompress(&block).expect("a block"), &templates).expect("a block");
        for (index, statements) in statements.iter().enumerate() {
            let read = block.change(index).expect("a change of the block");
            assert!(
                read.map(|statement| statement.text()).eq(statements.iter().map(|sql| sql.as_str())),
                "other statements than were encoded"
            );
        }
        block
    };
    blocks.into_iter().map(decode).collect()
}

/// A few migrations write down the time, in seconds: both databases must see the same.
fn wait_for_a_young_second() {
    while SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").subsec_millis() > 200 {
        thread::sleep(Duration::from_millis(10));
    }
}

fn same_bytes(parameters: &Path, text: &Path, position: usize) {
    let [parameters, text] = [parameters, text].map(|path| fs::read(path).expect("a database file"));
    assert!(parameters == text, "the files differ after {position} writes");
}

/// `percent`: how many statements must at least be parameterised, or replay is not fast. Migrations need not be.
fn check(name: &str, percent: u64) {
    if let Some(folder) = traces::folder(name) {
        let share = compare(&folder);
        let all = share.parameterised + share.as_text;
        assert!(all > 0 && share.parameterised * 100 >= all * percent, "{name}: {share:?}");
    }
}

macro_rules! traces {
    ($($test:ident: $folder:literal, $percent:literal;)*) => {
        $(#[test]
        fn $test() {
            check($folder, $percent);
        })*
    };
}

traces! {
    channels: "channels", 99;
    crash: "crash", 95;
    demo: "demo", 90;
    fresh: "fresh", 0;
    stops: "stops", 95;
    python_backup_fresh: "python-backup/fresh", 0;
    migration_dangling_peer: "migrations/dangling-peer", 0;
    migration_invoices_pre_waitindex: "migrations/invoices_pre_waitindex", 0;
    migration_l1_before_moves_in_db: "migrations/l1-before-moves-in-db", 0;
    migration_last_tx_closed: "migrations/last_tx_closed", 0;
    migration_no_local_basepoints: "migrations/no-local-basepoints", 0;
    migration_oldstyle_scids: "migrations/oldstyle-scids", 0;
    migration_pubkey_regen: "migrations/pubkey_regen", 0;
    migration_runes_bad_id: "migrations/runes_bad_id", 0;
    migration_upgrade_inflight: "migrations/upgrade_inflight", 0;
    migration_v0_12_1_forward: "migrations/v0.12.1-forward", 0;
}

//! Whole backups with right checksums and hostile contents: whoever can write to a backup can put anything there.

use std::borrow::Cow;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Backup, BackupUrl, BackupWriter, DataVersion, DbWrite, LogLimits, Seq, Timestamp, Views};
use format::segment::{SegmentFooter, SegmentHeader};
use tests::home::{Home, everything};
use tests::small_node::{NODE_ID, bump, creation};

const LIMITS: LogLimits = LogLimits { bytes: 1 << 20, statements: 30 };

/// A backup that was recorded by the book; whoever sent the statements had no node.
struct Hostile {
    home: Home,
    newest: DataVersion,
    /// What a node would have, where nothing hostile is recorded.
    database: Option<rusqlite::Connection>,
}

impl Hostile {
    fn new() -> Self {
        let home = Home::new();
        home.init();
        let mut hostile = Self { home, newest: DataVersion::new(0), database: None };
        let creation = creation(NODE_ID);
        hostile.record(&creation.iter().map(String::as_str).collect::<Vec<_>>()[..creation.len() - 1]);
        hostile
    }

    fn url(&self) -> BackupUrl {
        self.home.backup().to_str().and_then(|path| path.parse().ok()).expect("a path")
    }

    /// Records a change with these statements, and returns its version.
    fn record(&mut self, statements: &[&str]) -> DataVersion {
        let mut recording = BackupWriter::open(&self.home.lightning_dir(), LIMITS).expect("a recording");
        let data_version = self.newest.next();
        let bump = bump(data_version);
        let statements: Vec<_> =
            statements.iter().map(|&sql| Cow::Borrowed(sql)).chain([Cow::Borrowed(&*bump)]).collect();
        let write = DbWrite { data_version, statements: &statements, received_at: Timestamp::now() };
        recording.record(&write).expect("nothing is wrong with it to the recorder");
        if let Some(database) = &self.database {
            database.execute_batch(&format!("BEGIN; {}; COMMIT", statements.join(";"))).expect("a node commits it");
        }
        self.newest = data_version;
        data_version
    }

    fn record_ordinary(&mut self, count: usize) {
        for number in 0..count {
            let label = format!("INSERT INTO invoices (label, msatoshi) VALUES ('{}-{number}', 5)", self.newest);
            self.record(&[&label]);
        }
    }

    /// How many invoices a version has, or why it cannot be opened.
    fn invoices(&self, version: DataVersion) -> Result<u32, String> {
        let backup = Arc::new(Backup::open(&self.url()).map_err(|error| error.to_string())?);
        let (history, read) = backup.read_history();
        read.map_err(|error| error.to_string())?;
        let version = history.version(version).map_err(|error| error.to_string())?.ok_or("no such version")?;
        let addresses = history.records_of(&version).map_err(|error| error.to_string())?;
        backup.statements(&addresses).map_err(|error| error.to_string())?;
        let plan = history.plan(&version).map_err(|error| error.to_string())?;
        let view = Views::new(backup, 1 << 20).open(&plan).map_err(|error| error.reason.to_string())?;
        let mut bytes = vec![0; usize::try_from(view.size_bytes()).map_err(|error| error.to_string())?];
        view.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
        let copy = self.home.join("copy");
        fs::write(&copy, bytes).expect("a file");
        let database = rusqlite::Connection::open(copy).expect("a database");
        database.query_row("SELECT count(*) FROM invoices", [], |row| row.get(0)).map_err(|error| error.to_string())
    }

    fn seal(&self) -> Result<(), String> {
        let sealed = common::seal_backup(&self.url(), &mut |_| ControlFlow::Continue(()));
        sealed.map(drop).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
        })
    }
}

/// The versions before it and after it are as they were; itself it says what is wrong; nothing is written anywhere.
#[track_caller]
fn is_contained(statement: &str, expected: &str) {
    let mut hostile = Hostile::new();
    hostile.record_ordinary(3);
    let good = hostile.newest;
    let bad = hostile.record(&[statement]);
    let elsewhere = everything(&hostile.home.lightning_dir());
    let error = hostile.invoices(bad).expect_err(statement);
    assert!(error.contains(expected), "{statement:.80}: {error}");
    assert!(error.contains(&format!("statement 1 of version {bad}")), "{error}");
    assert_eq!(hostile.invoices(good), Ok(3), "{statement:.80}");
    assert!(everything(&hostile.home.lightning_dir()) == elsewhere, "{statement:.80} wrote a file");
    hostile.record_ordinary(40);
    let error = hostile.seal().expect_err("what does not replay is not sealed");
    assert!(error.contains(&bad.to_string()), "{error}");
    assert_eq!(hostile.invoices(good), Ok(3), "{statement:.80}");
}

#[test]
fn a_statement_that_never_ends_costs_its_version_and_no_other() {
    is_contained("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c", "steps");
}

#[test]
fn a_statement_that_reaches_for_the_process_costs_its_version_and_no_other() {
    is_contained("PRAGMA temp_store_directory = '/nowhere'", "PRAGMA");
    is_contained("SELECT load_extension('/nowhere')", "loads code");
    is_contained("ATTACH 'regtest/attached' AS x", "attached databases");
    is_contained("INSERT INTO invoices (label) VALUES (zeroblob(1000000000))", "too big");
}

#[test]
fn the_largest_record_and_the_one_with_the_most_statements_are_read_back() {
    let mut hostile = Hostile::new();
    let long = format!("INSERT INTO htlcs (id, preimage) VALUES (7, x'{}')", "5a".repeat((32 << 20) - 300));
    let one = hostile.record(&[&long]);
    let many = hostile.record(&vec!["INSERT INTO invoices (msatoshi) VALUES (7)"; 50_000]);
    hostile.record_ordinary(1);
    assert_eq!((hostile.invoices(one), hostile.invoices(many)), (Ok(0), Ok(50_000)));
    hostile.seal().expect("all of it replays");
    assert_eq!((hostile.invoices(one), hostile.invoices(many)), (Ok(0), Ok(50_000)));
}

#[test]
fn statements_with_bytes_that_are_no_letters_are_read_as_sqlite_reads_them() {
    let mut hostile = Hostile::new();
    let version = hostile.record(&["INSERT INTO invoices (label) VALUES ('a\0b')", "\u{feff}SELECT 1"]);
    let error = hostile.invoices(version).expect_err("SQLite reads no further than the NUL");
    assert!(error.contains("statement 1"), "{error}");
    assert_eq!(hostile.invoices(DataVersion::new(1)), Ok(0));
}

fn segment(directory: &Path) -> PathBuf {
    let mut names: Vec<_> =
        fs::read_dir(directory).expect("a backup").map(|entry| entry.expect("a file").path()).collect();
    names.sort();
    names
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-")))
        .expect("a segment")
}

/// Puts a snapshot below a segment whose pages have another size.
#[test]
fn pages_of_two_sizes_are_never_mixed() {
    let home = Home::new();
    let database = rusqlite::Connection::open(home.database()).expect("a database");
    for statement in creation(NODE_ID) {
        database.execute_batch(&statement).expect("a table");
    }
    home.init();
    let mut hostile = Hostile { home, newest: DataVersion::new(1), database: Some(database) };
    hostile.record_ordinary(40);
    hostile.seal().expect("all of it replays");
    let last = DataVersion::new(12);
    assert_eq!(hostile.invoices(last), Ok(11));
    let path = segment(&hostile.home.backup());
    let mut bytes = fs::read(&path).expect("a segment");
    let mut header = SegmentHeader::decode(bytes.first_chunk().expect("a header")).expect("a header");
    header.page_size = common::PageSize::new(512).expect("a power of two");
    let mut footer = SegmentFooter::decode(bytes.last_chunk().expect("a footer")).expect("a footer");
    assert_eq!(footer.snapshot.map(|snapshot| snapshot.seq), Some(Seq::FIRST));
    let encoded = header.encode();
    footer.header_checksum = u32::from_le_bytes(*encoded.last_chunk().expect("a checksum"));
    let len = bytes.len();
    bytes[..encoded.len()].copy_from_slice(&encoded);
    bytes[len - footer.encode().len()..].copy_from_slice(&footer.encode());
    fs::write(&path, bytes).expect("a segment");
    let error = hostile.invoices(last).expect_err("pages of two sizes");
    assert!(error.contains("another size"), "{error}");
}

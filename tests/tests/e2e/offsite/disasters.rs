//! The house burns: everything local is deleted at a random moment under load. What is restored from the bucket, with the words alone,
//! is a version that the node had, row by row, and none older than what the bucket had.
//!
//! `BACKUPFS_DISASTERS` says how many; fifty take some minutes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use common::DataVersion;
use format_fuzz::seeded::Seeded;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use offsite::keys::key_ring::KeyRing;
use offsite::keys::words::from_words;
use offsite::log_bytes::LogBytes;
use offsite::objects::{File, Object};
use offsite::seal::{Opening, open};
use offsite::testing::FaultyServer;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use tests::cli;
use tests::compare;
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;

use super::remote::{backupfs_of, write_words};
use super::shipped::{TIMEOUT, write_private};

/// Environment variable: how many disasters there are.
const DISASTERS: &str = "BACKUPFS_DISASTERS";

/// As many unless told otherwise.
const DISASTERS_USUAL: u64 = 3;

/// The longest time under load before one, in milliseconds.
const LOAD_MS: u64 = 4_000;

/// Logs are short, so that the copy has segments and bytes of logs.
const LOGS_END_AFTER: usize = 60;

/// How long each answer of the bucket takes.
const DELAY_MS: u64 = 30;

/// Transactions by their version.
type Statements = BTreeMap<u32, Vec<String>>;

/// A node under load, and what its database held at each version.
struct Burning {
    node: SmallNode,
    /// How many times the recorder was started: at most that many records are no versions.
    starts: u64,
    /// The statements that made each version that was answered with "continue".
    acknowledged: Statements,
    /// Those of a write that has got no answer: it may have been recorded.
    unanswered: Option<(u32, Vec<String>)>,
}

impl Burning {
    fn new() -> Self {
        let node = SmallNode::before_its_first_write();
        let mut burning = Self { node, starts: 1, acknowledged: BTreeMap::new(), unanswered: None };
        burning.node.lightningd.end_logs_after(LOGS_END_AFTER);
        burning.node.start();
        burning.write(creation(NODE_ID), Commit::Normal);
        burning.node.lightningd.init().expect("the recorder takes init");
        burning.node.stop();
        write_private(&burning.node.home.lightning_dir().join("hsm_secret"), [7; 32]);
        burning
    }

    fn write(&mut self, statements: Vec<String>, commit: Commit) {
        let version = self.node.data_version().next();
        match self.node.lightningd.write(version, &statements, commit).expect("the pretended node works") {
            Answer::Continue { .. } => drop(self.acknowledged.insert(version.get(), statements)),
            Answer::Died => self.unanswered = Some((version.get(), statements)),
            Answer::Refused { message } => panic!("{message}; {}", self.node.home.recorder_stderr()),
        }
    }

    fn commit(&mut self, commit: Commit) {
        let version = self.node.data_version().next();
        let statements = self.node.transaction(version);
        self.write(statements, commit);
    }

    fn start(&mut self) {
        self.starts += 1;
        self.node.start();
    }

    /// Goes on until a random moment, with restarts now and then.
    fn load(&mut self, random: &mut Seeded) {
        let (began, until) = (Instant::now(), Duration::from_millis(random.below(LOAD_MS)));
        while began.elapsed() < until {
            for _ in 0..random.below(20) {
                self.commit(Commit::Normal);
            }
            std::thread::sleep(Duration::from_millis(random.below(60)));
            match random.below(40) {
                0 => self.node.stop(),
                1 => self.node.lightningd.kill(),
                _ => continue,
            }
            self.start();
        }
    }

    /// Ends all processes at once, in the middle of a write or between two, and deletes everything.
    fn burn(mut self, random: &mut Seeded) -> (Statements, Option<(u32, Vec<String>)>) {
        let dir = self.node.home.lightning_dir();
        // Before the recorder: by itself, a process that ships would say goodbye.
        kill_shipping_from(&dir);
        if random.below(2) == 0 {
            self.commit(Commit::KillRecorder { after: Duration::from_micros(random.below(500)) });
        }
        self.node.lightningd.kill();
        assert!(until(TIMEOUT, || kill_shipping_from(&dir) == 0), "processes ship from {}", dir.display());
        (self.acknowledged, self.unanswered)
    }
}

/// Kills the processes that ship from this directory, also those of recorders that were killed before; says how many there were.
pub fn kill_shipping_from(lightning_dir: &Path) -> usize {
    let mut found = 0;
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split(|&byte| byte == 0);
        let ships = words.nth(1) == Some(b"ship") && words.any(|word| word == lightning_dir.as_os_str().as_bytes());
        if ships && let Some(pid) = process.file_name().to_str().and_then(|pid| Pid::from_raw(pid.parse().ok()?)) {
            found += 1;
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
    found
}

/// Seq of the last record up to which the bucket has everything: in whole segments, and in bytes of logs. A log that was sealed
/// before all of it was shipped is missing until its segment is there, and then what was shipped of the next one counts.
fn stored(server: &FaultyServer, words: &Path) -> u64 {
    let key = from_words(&fs::read_to_string(words).expect("words")).expect("the words of a key");
    let keys = KeyRing::from_iter([key]);
    // Seq of a first record, and that behind the last one.
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    for (name, bytes) in server.objects() {
        let name = name.strip_prefix("node/").expect("all are below the prefix");
        match Object::parse(name).expect("the name of an object") {
            Object::Part(File::Segment { first, last }, part) if part.of == 1 => pieces.push((first, last + 1)),
            Object::Tail(tail) => {
                let plain = open(Opening::Keys(&keys), name, &bytes).expect("an object that opens");
                pieces.push((tail.log, LogBytes::decode(name, &plain).expect("bytes of a log").next_seq));
            }
            _ => {}
        }
    }
    let mut behind = 1;
    while let Some(&(_, further)) = pieces.iter().find(|&&(first, end)| first <= behind && end > behind) {
        behind = further;
    }
    behind - 1
}

/// The database that these statements make, up to a version.
fn replay(statements: &Statements, version: u32, file: &Path) {
    let mut database = Connection::open(file).expect("a database");
    database.execute_batch("PRAGMA foreign_keys = ON; PRAGMA synchronous = OFF;").expect("settings");
    for transaction in statements.range(..=version).map(|(_, statements)| statements) {
        let open = database.transaction().expect("a transaction");
        transaction.iter().for_each(|statement| open.execute_batch(statement).expect("a statement"));
        open.commit().expect("a commit");
    }
}

/// The version of a database.
fn version_of(database: &Path) -> DataVersion {
    const SELECT: &str = "SELECT intval FROM vars WHERE name = 'data_version'";
    let open = compare::open_read_only(database).expect("a database");
    DataVersion::new(open.query_row(SELECT, [], |row| row.get(0)).expect("a version"))
}

/// One disaster. Says how many versions the node had, and how many of them were lost.
fn disaster(seed: u64) -> (u32, u32) {
    let mut random = Seeded::new(seed);
    let server = FaultyServer::start();
    server.set_delay(Duration::from_millis(random.below(DELAY_MS)));
    let drawer = tempfile::tempdir().expect("a directory");
    let in_drawer = |name: &str| drawer.path().join(name);
    let (credentials, words, url) = (in_drawer("credentials"), in_drawer("words"), server.url("node").to_string());
    write_private(&credentials, FaultyServer::credentials_file());
    let mut burning = Burning::new();
    let dir = burning.node.home.lightning_dir();
    let mut command = backupfs_of(drawer.path());
    command.args(["offsite", "add", "--every", "1s", "--lightning-dir"]).arg(&dir);
    cli::run(command.arg("--credentials").arg(&credentials).arg(&url)).expect_done("offsite add");
    let mut command = backupfs_of(drawer.path());
    let sheet = cli::run(command.args(["offsite", "sheet", "--lightning-dir"]).arg(&dir).arg(&url));
    write_words(&sheet.expect_done("offsite sheet"), &words);
    burning.start();
    burning.commit(Commit::Normal);
    burning.node.lightningd.init().expect("the recorder takes init");
    // Before the first upload there is nothing that could be restored.
    assert!(until(TIMEOUT, || server.objects().iter().any(|(name, _)| name.starts_with("node/t/"))));
    burning.load(&mut random);
    let (home, starts) = (burning.node.home.join(""), burning.starts);
    let (mut statements, unanswered) = burning.burn(&mut random);
    assert!(!home.exists(), "everything is gone");
    let newest = *statements.keys().next_back().expect("a version");
    statements.extend(unanswered);
    let had = stored(&server, &words);

    let directory = in_drawer("new/bitcoin");
    let mut command = backupfs_of(drawer.path());
    command.args(["restore", "--create", "--accept-stale-state", "--words"]).arg(&words);
    let restored = cli::run(command.arg("--credentials").arg(&credentials).arg(&url).arg(&directory));
    let restored = restored.expect_done("restore");
    let database = directory.join("lightningd.sqlite3");
    let version = version_of(&database).get();
    // Each transaction was recorded once, and a run adds a record of its own at most.
    assert!(
        u64::from(version) + starts >= had,
        "seed {seed}: version {version} of {newest}, and the bucket has {had}: {:#?}; {restored:?}",
        server.objects().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    // A write whose answer was on its way may have been shipped: no other one was not acknowledged.
    assert!(statements.contains_key(&version), "seed {seed}: version {version} of {newest}; {restored:?}");
    let expected = in_drawer("expected.sqlite3");
    replay(&statements, version, &expected);
    compare::same_contents(&expected, &database, &[])
        .unwrap_or_else(|error| panic!("seed {seed}: version {version}: {error}"));
    (newest, newest.saturating_sub(version))
}

#[test]
fn after_a_disaster_a_version_that_the_node_had_is_restored_and_none_older_than_the_bucket_had() {
    let disasters: u64 =
        std::env::var(DISASTERS).ok().map_or(DISASTERS_USUAL, |disasters| disasters.parse().expect("a number"));
    let (mut versions, mut lost, mut lost_most) = (0_u64, 0_u64, 0);
    for seed in 1..=disasters {
        let (had, lost_now) = disaster(seed);
        versions += u64::from(had);
        lost += u64::from(lost_now);
        lost_most = lost_most.max(lost_now);
    }
    println!("{disasters} disasters, {versions} versions, {lost} of them lost, {lost_most} in one disaster at most");
}

//! Recorder and node killed again and again under load, while two mounts are read by eight threads: what is read is always
//! what the node had at that version, and at the end everything is there.
//!
//! `BACKUPFS_KILLS_UNDER_FIRE` says how many kills; a thousand take some minutes.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use format_fuzz::seeded::Seeded;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tests::compare;
use tests::listing::{self, Status};
use tests::mounted::{Mounted, fuse_is_here};
use tests::small_node::SmallNode;

/// Environment variable: how many times something is killed.
const KILLS: &str = "BACKUPFS_KILLS_UNDER_FIRE";

/// The same unless told otherwise.
const KILLS_USUAL: u64 = 40;

/// It goes on for so long at least: a version is read when it has been there for some seconds.
const AT_LEAST: Duration = Duration::from_secs(8);

/// Threads that read.
const READERS: u64 = 8;

/// Logs are short, so that sealing never stops.
const LOGS_END_AFTER: usize = 60;

/// How long a mount may take to notice what was recorded.
const BEHIND_AT_MOST: Duration = Duration::from_secs(1);

/// What a reader may be late by itself, on a machine with other things to do.
const LEEWAY: Duration = Duration::from_secs(3);

/// Longest pause between two reads of a reader, in milliseconds: eight that never pause leave nothing to the node.
const PAUSE_MS: u64 = 40;

/// Every committed version: when it was committed, and a hash of all rows.
#[derive(Default)]
struct Model(Mutex<BTreeMap<u32, (Instant, u64)>>);

impl Model {
    fn committed(&self) -> MutexGuard<'_, BTreeMap<u32, (Instant, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the version that the node is at.
    fn note(&self, node: &SmallNode) {
        let hash = hash_of(node.lightningd.database().expect("the node runs")).expect("the node's rows");
        self.committed().insert(node.data_version().get(), (Instant::now(), hash));
    }

    /// A version that has been committed for so long that every mount knows, and its hash.
    fn random(&self, random: &mut Seeded) -> Option<(u32, u64)> {
        let committed = self.committed();
        let known = committed.iter().filter(|(_, (when, _))| when.elapsed() > BEHIND_AT_MOST + LEEWAY);
        let known: Vec<_> = known.map(|(version, (_, hash))| (*version, *hash)).collect();
        // Old and new ones alike.
        (!known.is_empty()).then(|| known[usize::try_from(random.below(known.len() as u64)).expect("an index")])
    }
}

/// A hash of every row of every table, with its rowid.
fn hash_of(database: &Connection) -> rusqlite::Result<u64> {
    let mut hasher = DefaultHasher::new();
    for table in ["vars", "invoices", "forwards", "htlcs"] {
        let mut rows = database.prepare(&format!("SELECT rowid, * FROM {table} ORDER BY rowid"))?;
        let columns = rows.column_count();
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                match row.get_ref(column)? {
                    ValueRef::Null => 0_u8.hash(&mut hasher),
                    ValueRef::Integer(number) => number.hash(&mut hasher),
                    ValueRef::Real(number) => number.to_bits().hash(&mut hasher),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.hash(&mut hasher),
                }
            }
        }
    }
    Ok(hasher.finish())
}

/// What the readers did.
#[derive(Default)]
struct Reads {
    whole: AtomicU64,
    by_sqlite: AtomicU64,
    stats: AtomicU64,
    lists: AtomicU64,
    latest: AtomicU64,
}

fn read_until(stop: &AtomicBool, mounts: &[Mounted], model: &Model, reads: &Reads, seed: u64) {
    let mut random = Seeded::new(seed);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(random.below(PAUSE_MS)));
        let mount = &mounts[usize::try_from(random.below(mounts.len() as u64)).expect("an index")];
        let Some((version, hash)) = model.random(&mut random) else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let database = mount.database(version);
        match random.below(8) {
            0..=2 => {
                let open = compare::open_read_only(&database).expect("a version that is there");
                assert_eq!(hash_of(&open).expect("its rows"), hash, "version {version}, read by SQLite");
                reads.by_sqlite.fetch_add(1, Ordering::Relaxed);
            }
            3 | 4 => {
                let bytes = fs::read(&database).expect("a version that is there");
                let copy = tempfile::NamedTempFile::new().expect("a file");
                fs::write(copy.path(), &bytes).expect("a copy");
                let open = compare::open_read_only(copy.path()).expect("a database");
                assert_eq!(hash_of(&open).expect("its rows"), hash, "version {version}, copied");
                assert_eq!(fs::metadata(&database).expect("its size").len(), bytes.len() as u64, "version {version}");
                reads.whole.fetch_add(1, Ordering::Relaxed);
            }
            5 => {
                let found = fs::metadata(&database).expect("a version that is there");
                assert!(found.is_file() && found.len() >= 512, "version {version}: {found:?}");
                let text = fs::read_to_string(database.with_file_name("changes.sql")).expect("its statements");
                assert!(text.contains("data_version"), "version {version}: {text}");
                reads.stats.fetch_add(1, Ordering::Relaxed);
            }
            6 => {
                expect_all_listed(mount.path(), model);
                reads.lists.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                expect_latest(mount.path(), model);
                reads.latest.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn expect_all_listed(mount: &Path, model: &Model) {
    let expected: Vec<u32> = {
        let committed = model.committed();
        let known = committed.iter().filter(|(_, (when, _))| when.elapsed() > BEHIND_AT_MOST + LEEWAY);
        known.map(|(version, _)| *version).collect()
    };
    let entries = fs::read_dir(mount.join("versions")).expect("versions");
    let listed: Vec<u32> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name").parse().expect("a number"))
        .collect();
    assert!(listed.is_sorted(), "in numeric order");
    let missing: Vec<_> = expected.iter().filter(|version| listed.binary_search(version).is_err()).collect();
    assert!(missing.is_empty(), "not listed: {missing:?}");
}

fn expect_latest(mount: &Path, model: &Model) {
    let newest_known = {
        let committed = model.committed();
        committed
            .iter()
            .rev()
            .find(|(_, (when, _))| when.elapsed() > BEHIND_AT_MOST + LEEWAY)
            .map(|(version, _)| *version)
    };
    let target = match fs::read_link(mount.join("latest")) {
        Ok(target) => target,
        Err(error) => panic!("latest: {error} ({:?})", error.kind() == ErrorKind::NotFound),
    };
    let latest: u32 =
        target.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).expect("a number");
    assert!(
        newest_known.is_none_or(|newest| latest >= newest),
        "latest is {latest}, {newest_known:?} was long committed"
    );
}

/// Waits for the next answer to be killed in, in one of the ways there are.
fn kill_somehow(node: &mut SmallNode, random: &mut Seeded) -> bool {
    let before = node.data_version();
    let answer = match random.below(4) {
        0 => node.write(Commit::CrashBeforeCommit),
        1 => node.write(Commit::CrashAfterCommit),
        // An answer takes about 0.2 ms.
        2 => node.write(Commit::KillRecorder { after: Duration::from_micros(random.below(500)) }),
        _ => {
            // Between two writes: while something is sealed, a log is preallocated, a directory is synced.
            thread::sleep(Duration::from_micros(random.below(3_000)));
            node.lightningd.kill();
            return false;
        }
    };
    assert!(!matches!(answer, Answer::Refused { .. }), "{answer:?}; {}", node.home.recorder_stderr());
    node.lightningd.kill();
    node.data_version() != before
}

#[test]
fn what_is_read_is_what_the_node_had_with_any_process_killed_meanwhile() {
    if !fuse_is_here() {
        return;
    }
    let kills: u64 = std::env::var(KILLS).ok().map_or(KILLS_USUAL, |kills| kills.parse().expect("a number"));
    let mut random = Seeded::new(7_355_608);
    let mut node = SmallNode::created();
    node.lightningd.end_logs_after(LOGS_END_AFTER);
    let model = Model::default();
    model.note(&node);
    let mounts = [Mounted::start(&node.home.backup()), Mounted::start(&node.home.backup())];
    let (stop, reads) = (AtomicBool::new(false), Reads::default());
    let mut killed = 0;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (stop, mounts, model, reads) = (&stop, &mounts, &model, &reads);
                scope.spawn(move || read_until(stop, mounts, model, reads, reader))
            })
            .collect();
        // Set also when a write below panics: the scope waits for the readers.
        let _stop = StopWhenDropped(&stop);
        let began = Instant::now();
        while killed < kills || began.elapsed() < AT_LEAST {
            killed += 1;
            kill_somehow(&mut node, &mut random);
            node.start();
            // What the crash left is rolled back, or not: the node knows, by its version.
            if node.data_version().get() > *model.committed().keys().next_back().expect("a version") {
                model.note(&node);
            }
            for _ in 0..=random.below(6) {
                node.commit();
                model.note(&node);
            }
            if random.below(3) == 0 {
                node.lightningd.init().expect("the recorder takes init");
            }
            assert!(!readers.iter().any(thread::ScopedJoinHandle::is_finished), "a reader has failed");
        }
    });
    node.expect_restorable();
    let newest = node.data_version().get();
    let recorded = listing::with_status(&listing::versions(&node.home.backup(), &[]), Status::Recorded);
    assert_eq!(recorded, (1..=newest).collect::<Vec<_>>(), "every version is there, and none is missing");
    mounts[0].expect_newest_soon(newest);
    let committed = model.committed();
    assert_eq!(committed.len(), newest as usize);
    for (version, (_, hash)) in committed.iter() {
        let open = compare::open_read_only(&mounts[0].database(version)).expect("a version that is there");
        assert_eq!(hash_of(&open).expect("its rows"), *hash, "version {version}, at the end");
    }
    let [whole, by_sqlite, stats, lists, latest] =
        [&reads.whole, &reads.by_sqlite, &reads.stats, &reads.lists, &reads.latest]
            .map(|count| count.load(Ordering::Relaxed));
    println!(
        "{killed} kills, {newest} versions; meanwhile {by_sqlite} read by SQLite, {whole} copied, {stats} looked at, \
         {lists} lists, {latest} times latest"
    );
    assert!(whole > 0 && by_sqlite > 0 && stats > 0 && lists > 0 && latest > 0);
}

/// Ends the readers, also when the thread that writes panics.
struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

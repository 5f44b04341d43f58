//! Nodes that are unlike others: databases of every kind that SQLite makes, a counter that wraps, a clock that is set back.

use std::fs;

use common::{BackupWriter, DataVersion, DbWrite, LogLimits, Timestamp};
use mountfs::demo::pretend_lightningd::Commit;
use rusqlite::Connection;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::mounted::{Mounted, fuse_is_here};
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;
use tests::{cli, compare};

/// Statements after which logs end, so that some are sealed.
const LOGS_END_AFTER: usize = 60;

/// A node that has run for a while on a database made with these PRAGMAs, and begins its backup now.
fn with_database(pragmas: &str) -> SmallNode {
    let home = Home::new();
    let database = Connection::open(home.database()).expect("a database");
    database.execute_batch(pragmas).expect("PRAGMAs");
    for statement in creation(NODE_ID) {
        database.execute_batch(&statement).expect("a table");
    }
    drop(database);
    home.init();
    let mut node = SmallNode::at(home);
    node.lightningd.end_logs_after(LOGS_END_AFTER);
    node
}

/// Waits until the sealer has come to what is finished: the newest change may still be rewound, and a log before it waits.
fn sealed(node: &SmallNode) {
    let logs = || {
        let names =
            fs::read_dir(node.home.backup()).expect("a backup").map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(b"log-")).count()
    };
    assert!(
        until(std::time::Duration::from_secs(60), || logs() <= 2),
        "{} logs; {}",
        logs(),
        node.home.recorder_stderr()
    );
}

#[test]
fn every_kind_of_database_is_recorded_sealed_healed_and_restored() {
    let sizes = [512, 1024, 65_536].map(|bytes| format!("PRAGMA page_size = {bytes}"));
    let others = ["PRAGMA auto_vacuum = FULL", "PRAGMA auto_vacuum = INCREMENTAL", "PRAGMA journal_mode = WAL"];
    let others = others.map(str::to_owned).into_iter();
    let both = ["PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = WAL".to_owned()];
    for pragmas in sizes.into_iter().chain(others).chain(both) {
        println!("{pragmas}");
        let mut node = with_database(&pragmas);
        node.start();
        for _ in 0..30 {
            node.commit();
        }
        node.lightningd.init().unwrap();
        sealed(&node);
        node.stop();
        node.expect_restorable();
        node.run_without_plugin(7);
        node.start();
        for _ in 0..20 {
            node.commit();
        }
        node.lightningd.init().unwrap();
        sealed(&node);
        node.write(Commit::CrashBeforeCommit);
        node.lightningd.kill();
        node.start();
        let newest = node.commit();
        node.expect_restorable();
        node.stop();
        if !fuse_is_here() {
            continue;
        }
        let mounted = Mounted::start(&node.home.backup());
        let listed = listing::versions(&node.home.backup(), &[]);
        let recorded = listing::with_status(&listed, Status::Recorded);
        assert_eq!((recorded.len(), recorded.last()), (53, Some(&newest.get())), "{pragmas}");
        for version in recorded {
            let database = mounted.database(version);
            assert_eq!(compare::data_version(&database).unwrap(), version, "{pragmas}");
            compare::sound(&database).unwrap_or_else(|error| panic!("{pragmas}: version {version}: {error:#}"));
        }
    }
}

/// CLN counts with 32 bits; its database counts on, so a node that got so far would have to begin anew by itself.
#[test]
fn a_counter_that_wraps_goes_on_with_nothing_missing() {
    let mut node = with_database("");
    node.lightningd.start_without_recorder().unwrap();
    node.lightningd.set_data_version(DataVersion::new(u32::MAX - 12)).unwrap();
    node.lightningd.kill();
    let lock = fs::read(node.home.backup_lock()).unwrap();
    fs::remove_file(node.home.backup_lock()).unwrap();
    fs::remove_dir_all(node.home.backup()).unwrap();
    node.home.init();
    assert_ne!(fs::read(node.home.backup_lock()).unwrap(), lock);
    node.start();
    for _ in 0..12 {
        node.commit();
    }
    let wraps = DataVersion::new(0);
    let mut statements = node.transaction(wraps);
    statements.push("UPDATE vars SET intval = 0 WHERE name = 'data_version'".to_owned());
    let answer = node.lightningd.write(wraps, &statements, Commit::Normal).unwrap();
    assert!(answer.is_continue(), "{answer:?}");
    for _ in 0..30 {
        node.commit();
    }
    node.lightningd.init().unwrap();
    sealed(&node);
    node.write(Commit::CrashBeforeCommit);
    node.lightningd.kill();
    node.start();
    assert_eq!(node.commit(), DataVersion::new(31));
    node.expect_restorable();
    node.stop();
    let listed = listing::versions(&node.home.backup(), &[]);
    let expected: Vec<u32> = (u32::MAX - 12..=u32::MAX).chain(0..=31).collect();
    assert_eq!(listing::with_status(&listed, Status::Recorded), expected, "in the order in which they came");
    if fuse_is_here() {
        let mounted = Mounted::start(&node.home.backup());
        let link = fs::read_link(mounted.join("latest")).unwrap();
        assert_eq!(link.to_str(), Some("versions/31"));
        for version in [u32::MAX - 12, u32::MAX, 0, 1, 31] {
            assert_eq!(compare::data_version(&mounted.database(version)).unwrap(), version);
        }
        let mut listed: Vec<String> = fs::read_dir(mounted.join("versions"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        listed.sort_unstable();
        let mut expected: Vec<String> = expected.iter().map(u32::to_string).collect();
        expected.sort_unstable();
        assert_eq!(listed, expected);
    }
}

/// What was recorded later is newer, whatever the clock said.
#[test]
fn a_clock_that_is_set_back_changes_nothing_but_the_times() {
    let home = Home::new();
    home.init();
    let mut node = SmallNode::at(home);
    let limits = LogLimits { bytes: 64 << 10, statements: LOGS_END_AFTER };
    let mut recording = BackupWriter::open(&node.home.lightning_dir(), limits).unwrap();
    node.lightningd.start_without_recorder().unwrap();
    let noon = 1_795_348_800_000_000;
    let mut times = Vec::new();
    for number in 1..=60_u32 {
        let data_version = DataVersion::new(number);
        let statements = if number == 1 { creation(NODE_ID) } else { node.transaction(data_version) };
        let borrowed: Vec<_> = statements.iter().map(|statement| statement.as_str().into()).collect();
        // Forward by a second each; back by a day at 20, by 30 s at 40, and to the same microsecond from 50 on.
        let back = if number >= 40 {
            86_430
        } else if number >= 20 {
            86_400
        } else {
            0
        };
        let seconds = i64::from(number.min(50)) - back;
        times.push(noon + seconds * 1_000_000);
        let received_at = Timestamp::from_micros(noon + seconds * 1_000_000).unwrap();
        recording.record(&DbWrite { data_version, statements: &borrowed, received_at }).unwrap();
        node.lightningd.write(data_version, &statements, Commit::WithoutPlugin).unwrap();
    }
    drop(recording);
    node.lightningd.kill();
    node.expect_restorable();
    let at_noon = Timestamp::from_micros(noon + 10_000_000).unwrap().to_string();
    for sealed in ["as recorded", "sealed"] {
        // Ten seconds past noon it was twice: for version 10, and when the clock had been set back, for all from 20 on.
        let restored = node.home.join("restored.sqlite3");
        let backup = node.home.backup();
        let arguments =
            ["restore".as_ref(), "--at".as_ref(), at_noon.as_ref(), backup.as_os_str(), restored.as_os_str()];
        let ran = cli::backupfs(&arguments).expect_done(sealed);
        assert!(ran.stdout.contains("restored version 60"), "{sealed}: {ran:?}");
        for told in ["clock was set back", "version 11, recorded at", "version 60, recorded at", "--version 10"] {
            assert!(ran.stderr.contains(told), "{sealed}: no {told:?} in {ran:?}");
        }
        fs::remove_file(&restored).unwrap();
        let arguments = ["versions".as_ref(), "--until".as_ref(), at_noon.as_ref(), backup.as_os_str()];
        let ran = cli::backupfs(&arguments).expect_done(sealed);
        assert!(ran.stderr.contains("clock was wrong once, for version 11"), "{sealed}: {ran:?}");
        let listed = listing::versions(&node.home.backup(), &[]);
        assert_eq!(listing::with_status(&listed, Status::Recorded), (1..=60).collect::<Vec<_>>(), "{sealed}");
        if fuse_is_here() {
            let mounted = Mounted::start(&node.home.backup());
            assert_eq!(fs::read_link(mounted.join("latest")).unwrap().to_str(), Some("versions/60"), "{sealed}");
            for (number, micros) in (1_u32..).zip(&times) {
                let modified = fs::metadata(mounted.database(number)).unwrap().modified().unwrap();
                let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
                assert_eq!(i64::try_from(since.as_micros()).unwrap(), *micros, "{sealed}: version {number}");
            }
            let links = walk(&mounted.join("by-time"));
            assert_eq!(links.len(), 60, "{sealed}: every version has a time of its own in by-time");
        }
        cli::backupfs(&["seal".as_ref(), node.home.backup().as_os_str()]).expect_done("seal");
    }
    // A node that goes on with a clock that is right again.
    node.start();
    assert_eq!(node.commit(), DataVersion::new(61));
    node.expect_restorable();
}

/// The links below a directory.
fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            found.append(&mut walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

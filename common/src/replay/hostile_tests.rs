//! Statements that no `lightningd` executes: each ends soon, and does not affect the process.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::bounds::{Bounds, Forbidden, OutOfBounds};
use super::*;
use format::change_flags::RunStart;
use format::units::PageSize;

const SMALL: Bounds =
    Bounds { steps: 2_000_000, steps_per_page: 0, memory_bytes: 4 << 30, time: Duration::from_secs(600) };

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";

fn start_within(bounds: Bounds) -> Replay {
    Replay::start_within(bounds, OverlayPages::new(Arc::new(NoPages(PageSize::DEFAULT))), ForeignKeys::On).unwrap()
}

fn apply(replay: &mut Replay, statements: &[&str]) -> Result<(), ReplayError> {
    let (data_version, time) = (DataVersion::new(7), Timestamp::from_micros(0).unwrap());
    replay.apply(&ChangeAbout { data_version, seq: Seq::FIRST, time, run_start: RunStart::Later }, statements)
}

/// Executes a statement behind a harmless one; afterwards other replays are as they were.
#[track_caller]
fn try_within(bounds: Bounds, sql: &str) -> Result<(), ReplayError> {
    let mut replay = start_within(bounds);
    apply(&mut replay, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (5)"]).unwrap();
    let started = Instant::now();
    let result = apply(&mut replay, &["INSERT INTO t VALUES (6)", sql]);
    assert!(started.elapsed() < Duration::from_secs(60), "{sql:.80} took {:?}", started.elapsed());
    let mut other = start_within(bounds);
    let fill = format!("{ENDLESS} INSERT INTO t SELECT zeroblob(1000) FROM c LIMIT 20000");
    apply(&mut other, &["CREATE TABLE t (x)", &fill]).unwrap();
    let settings = Connection::open_in_memory().unwrap();
    for limit in ["hard_heap_limit", "soft_heap_limit"] {
        assert_eq!(settings.query_row(&format!("PRAGMA {limit}"), [], |row| row.get(0)), Ok(0), "{limit} by {sql:.80}");
    }
    result
}

#[track_caller]
fn stopped(bounds: Bounds, sql: &str) -> OutOfBounds {
    match try_within(bounds, sql) {
        Err(ReplayError::OutOfBounds { statement: 2, why, .. }) => why,
        other => panic!("{sql:.80}: {other:?}"),
    }
}

#[track_caller]
fn refused(sql: &str) -> String {
    match try_within(SMALL, sql) {
        Err(ReplayError::Statement { statement: 2, reason, .. }) => reason,
        other => panic!("{sql:.80}: {other:?}"),
    }
}

#[test]
fn a_statement_without_end_is_stopped() {
    for sql in [
        format!("{ENDLESS} SELECT count(*) FROM c"),
        format!("{ENDLESS} INSERT INTO t SELECT x FROM c WHERE x < 0"),
        format!("{ENDLESS} UPDATE t SET x = (SELECT sum(x) FROM c)"),
        "CREATE TABLE u AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c".into(),
    ] {
        assert_eq!(stopped(SMALL, &sql), OutOfBounds::Steps(2_000_000), "{sql}");
    }
    let error = try_within(SMALL, &format!("{ENDLESS} SELECT count(*) FROM c")).unwrap_err().to_string();
    assert!(error.contains("statement 2 of version 7") && error.contains("2000000 steps"), "{error}");
}

#[test]
fn the_steps_of_all_statements_of_a_change_count_together_and_those_of_two_changes_do_not() {
    let half = format!("{ENDLESS} SELECT count(*) FROM (SELECT x FROM c LIMIT 80000)");
    let mut replay = start_within(SMALL);
    apply(&mut replay, &[&half]).unwrap();
    apply(&mut replay, &[&half]).unwrap();
    let error = apply(&mut replay, &[half.as_str(); 4]).unwrap_err();
    assert!(matches!(error, ReplayError::OutOfBounds { statement: 2..=4, why: OutOfBounds::Steps(_), .. }), "{error}");
}

#[test]
fn a_larger_database_may_take_more_steps() {
    let most = |steps_per_page| {
        let mut replay = start_within(Bounds { steps_per_page, ..SMALL });
        let fill = format!("{ENDLESS} INSERT INTO t SELECT zeroblob(4000) FROM c LIMIT 100");
        apply(&mut replay, &["CREATE TABLE t (x)", &fill]).unwrap();
        match apply(&mut replay, &[&format!("{ENDLESS} SELECT count(*) FROM c")]) {
            Err(ReplayError::OutOfBounds { why: OutOfBounds::Steps(most), .. }) => most,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(most(0), 2_000_000);
    assert!((2_100_000..2_120_000).contains(&most(1000)), "{}", most(1000));
}

#[test]
fn memory_is_not_taken_without_measure() {
    let roomy = Bounds { steps: u64::MAX, memory_bytes: 64 << 20, ..SMALL };
    for sql in [
        // pages of the overlay
        format!("{ENDLESS} INSERT INTO t SELECT zeroblob(100000) FROM c"),
        // what SQLite keeps beside them: a queue, a sorter, a temporary table
        "WITH RECURSIVE c(x) AS (SELECT randomblob(90000) UNION SELECT randomblob(90000) FROM c) SELECT count(*) FROM c"
            .to_owned(),
        format!("{ENDLESS} SELECT x FROM (SELECT randomblob(90000) AS x FROM c) ORDER BY x"),
        format!("CREATE TEMP TABLE u AS {ENDLESS} SELECT zeroblob(90000) FROM c"),
    ] {
        assert_eq!(stopped(roomy, &sql), OutOfBounds::Memory(64 << 20), "{sql}");
    }
}

/// As a migration of `lightningd`: its rows take the space of its text, even on a machine with little memory.
#[test]
fn a_change_with_very_many_statements_gets_memory_for_what_they_say() {
    const LITTLE: Bounds = Bounds { steps: u64::MAX, memory_bytes: 1 << 20, ..SMALL };
    let note = "n".repeat(1000);
    let statements: Vec<String> = (0..20_000).map(|id| format!("INSERT INTO t VALUES ({id}, '{note}')")).collect();
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    let mut replay = start_within(LITTLE);
    apply(&mut replay, &["CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)"]).unwrap();
    apply(&mut replay, &statements).unwrap();
    let hostile = format!("{ENDLESS} INSERT INTO t SELECT NULL, zeroblob(100000) FROM c");
    let error = apply(&mut replay, &[&hostile]).unwrap_err();
    assert!(matches!(error, ReplayError::OutOfBounds { why: OutOfBounds::Memory(_), .. }), "{error}");
}

#[test]
fn a_change_that_takes_too_long_is_stopped() {
    let hasty = Bounds { steps: u64::MAX, time: Duration::from_millis(300), ..SMALL };
    let slow = format!("{ENDLESS} SELECT sum(length(randomblob(1000000))) FROM c");
    let mut replay = start_within(hasty);
    let error = apply(&mut replay, &[&slow]).unwrap_err();
    assert!(matches!(error, ReplayError::OutOfBounds { why: OutOfBounds::Time(_), .. }), "{error}");
}

#[test]
fn values_of_any_length_are_refused() {
    for sql in [
        "INSERT INTO t VALUES (zeroblob(1000000000))",
        "INSERT INTO t VALUES (randomblob(1000000000))",
        "INSERT INTO t VALUES (printf('%*d', 1000000000, 1))",
        "INSERT INTO t VALUES (printf('%.*c', 1000000000, 'x'))",
        "INSERT INTO t VALUES (hex(zeroblob(60000000)))",
        "INSERT INTO t VALUES (replace(hex(zeroblob(1000000)), '0', hex(zeroblob(1000000))))",
    ] {
        assert!(refused(sql).contains("too big"), "{sql}");
    }
    assert!(refused(&format!("DELETE FROM t WHERE x LIKE '{}'", "%a".repeat(2000))).contains("too complex"));
}

#[test]
fn nothing_is_done_to_the_process() {
    for (sql, what) in [
        ("PRAGMA temp_store_directory = '/'", Forbidden::Pragma),
        ("PRAGMA data_store_directory = '/'", Forbidden::Pragma),
        ("PRAGMA main.writable_schema = ON", Forbidden::Pragma),
        ("PRAGMA trusted_schema = ON", Forbidden::Pragma),
        ("PRAGMA schema_version = 5", Forbidden::Pragma),
        ("pragma Lock_Proxy_File = ':auto:'", Forbidden::Pragma),
        ("/* */ PRAGMA what_a_later_sqlite_knows = 7", Forbidden::Pragma),
        ("INSERT INTO t VALUES (load_extension('/lib/x86_64-linux-gnu/libm.so.6'))", Forbidden::Function),
        ("SELECT hex(fts3_tokenizer('simple'))", Forbidden::Function),
        ("CREATE TABLE u AS SELECT load_extension('/x')", Forbidden::Function),
    ] {
        assert_eq!(stopped(SMALL, sql), OutOfBounds::Forbidden(what), "{sql}");
    }
    for sql in ["CREATE VIRTUAL TABLE v USING fts5(x)", "CREATE VIRTUAL TABLE v USING dbstat(main)"] {
        let error = try_within(SMALL, sql).unwrap_err();
        assert!(matches!(error, ReplayError::VirtualTable { how: VirtualTable::Made, .. }), "{error}");
    }
    for sql in ["ATTACH '/tmp/x' AS y", "ATTACH ':memory:' AS y", "UPDATE sqlite_schema SET sql = ''", "DETACH main"] {
        refused(sql);
    }
    refused("INSERT INTO sqlite_dbpage (pgno, data) VALUES (1, zeroblob(4096))");
}

#[test]
fn settings_that_concern_no_content_do_nothing() {
    for setting in [
        "hard_heap_limit = 1000",
        "soft_heap_limit = 1000",
        "mmap_size = 1000000",
        "cache_size = -1000000000",
        "journal_mode = WAL",
        "temp_store = FILE",
        "max_page_count = 1",
        "threads = 100",
        "locking_mode = EXCLUSIVE",
    ] {
        try_within(SMALL, &format!("PRAGMA {setting}")).unwrap();
        let (name, _) = setting.split_once(' ').unwrap();
        let _ = try_within(SMALL, &format!("SELECT * FROM pragma_{name}(1000)"));
        // As a rider, outside of any transaction.
        let mut replay = start_within(SMALL);
        apply(&mut replay, &[&format!("PRAGMA {setting}")]).unwrap();
        apply(&mut replay, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (5)", "SELECT * FROM t ORDER BY x"]).unwrap();
    }
}

/// SQLite's parser is recursive in places: the stack of a thread must suffice for all of these.
#[test]
fn what_is_nested_deeply_is_refused_or_done() {
    let nested = |before: &str, middle: &str, after: &str, times: usize| {
        format!("{}{middle}{}", before.repeat(times), after.repeat(times))
    };
    for times in [900, 2_400, 30_000] {
        for sql in [
            format!("SELECT {}", nested("(", "1", ")", times)),
            format!("SELECT {}", nested("NOT ", "1", "", times)),
            format!("SELECT {}", nested("-", "1", "", times)),
            format!("SELECT 1{}", "+1".repeat(times)),
            format!("SELECT {}", nested("abs(", "1", ")", times)),
            format!("SELECT {}", nested("CASE WHEN 1 THEN ", "1", " END", times)),
            nested("SELECT * FROM (", "SELECT 1", ")", times),
            nested("SELECT (", "SELECT 1", ")", times),
            format!("SELECT 1 WHERE {}", nested("EXISTS (SELECT 1 WHERE ", "1", ")", times)),
            format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(times)),
            format!("SELECT 1{}", " UNION SELECT 1".repeat(times)),
            nested("WITH c AS (", "SELECT 1", ") SELECT * FROM c", times),
            format!("SELECT * FROM t{}", " JOIN t".repeat(times)),
            format!("INSERT INTO t VALUES (1){}", ", (1)".repeat(times)),
            format!("CREATE TABLE u (a CHECK ({}))", nested("(", "1", ")", times)),
            format!("CREATE TABLE u (c0{})", (0..times).map(|n| format!(", d{n}")).collect::<String>()),
            format!("DELETE FROM t WHERE x IN (1{})", ", 2".repeat(times)),
            format!("UPDATE t SET x = {}", nested("json_array(", "1", ")", times)),
            format!("INSERT INTO t VALUES (json('{}'))", nested("[", "1", "]", times)),
        ] {
            let _ = try_within(SMALL, &sql);
        }
    }
}

/// SQLite itself refuses them, before it has spent much on them.
#[test]
fn views_that_double_with_every_other_come_to_an_end() {
    let mut statements = vec!["CREATE VIEW v0 AS SELECT 1 AS a".to_owned()];
    for n in 1..40 {
        let before = n - 1;
        statements.push(format!("CREATE VIEW v{n} AS SELECT x.a FROM v{before} x, v{before} y"));
    }
    statements.push("SELECT count(*) FROM v39".to_owned());
    let statements: Vec<_> = statements.iter().map(String::as_str).collect();
    let mut replay = start_within(SMALL);
    let started = Instant::now();
    apply(&mut replay, &statements).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn triggers_that_call_themselves_come_to_an_end() {
    let mut replay = start_within(SMALL);
    apply(&mut replay, &["PRAGMA recursive_triggers = ON"]).unwrap();
    let trigger = "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO t VALUES (new.x + 1), (new.x + 2); END";
    apply(&mut replay, &["CREATE TABLE t (x)", trigger]).unwrap();
    apply(&mut replay, &["INSERT INTO t VALUES (1)"]).unwrap_err();
}

#[test]
fn transactions_of_its_own_are_an_error_and_no_more() {
    for sql in ["BEGIN", "COMMIT", "ROLLBACK", "RELEASE x", "SAVEPOINT x", "INSERT INTO t VALUES (1)\0nothing", "\0"] {
        let _ = try_within(SMALL, sql);
    }
    assert!(try_within(SMALL, "COMMIT").is_err());
}

#[test]
fn a_change_of_very_many_statements_takes_time_by_their_number() {
    let mut replay = start_within(Bounds { steps: 200_000_000, ..SMALL });
    let mut statements = vec!["CREATE TABLE t (x)"];
    statements.resize(200_000, "INSERT INTO t VALUES (5)");
    apply(&mut replay, &statements).unwrap();
    statements.fill("");
    apply(&mut replay, &statements).unwrap();
}

//! Changes replayed as `lightningd` executed them, in every way.

use super::*;
use format::change_flags::RunStart;
use format::statements::{StatementBlock, TemplatesWriter, encode_statements};
use format::units::{PageNo, PageSize};

fn start() -> Replay {
    Replay::start(OverlayPages::new(Arc::new(NoPages(PageSize::DEFAULT))), ForeignKeys::On).unwrap()
}

fn about(data_version: u32, run_start: RunStart) -> ChangeAbout {
    let time = Timestamp::from_micros(1_795_356_307_123_456).unwrap();
    ChangeAbout { data_version: DataVersion::new(data_version), seq: Seq::FIRST, time, run_start }
}

fn query(replay: &Replay, sql: &str) -> String {
    replay.connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn block_of(changes: &[Vec<String>]) -> StatementBlock {
    let mut writer = TemplatesWriter::new();
    let block = encode_statements(&mut writer, changes);
    StatementBlock::decode(&block, &Arc::new(Templates::decode(&writer.encode()).unwrap())).unwrap()
}

fn bytes_of(pages: &OverlayPages) -> Vec<u8> {
    let mut bytes = vec![0; pages.page_count() as usize * pages.page_size().bytes()];
    for (page, out) in (1..).zip(bytes.chunks_mut(pages.page_size().bytes())) {
        pages.read_page(PageNo::new(page).unwrap(), out).unwrap();
    }
    bytes
}

/// Versions opened in any order on one connection are the same as on a connection each, even two with the same
/// change counter, of which one was rewound.
#[test]
fn a_connection_that_is_kept_makes_the_same_pages() {
    let apply = |replay: &mut Replay, sql: &str| replay.apply(&about(1, RunStart::Later), &[sql]).unwrap();
    let mut replay = start();
    apply(&mut replay, "CREATE TABLE a (id INTEGER PRIMARY KEY, x)");
    let (mut pages, _) = replay.finish().unwrap();
    let insert = |id: usize| format!("INSERT INTO a VALUES ({id}, 'x{}')", "y".repeat(id % 7 * 400));
    let mut versions = Vec::new();
    for id in 2..30 {
        let [one, other] = [id, id + 1000].map(|id| {
            let mut replay = Replay::start(pages.clone(), ForeignKeys::On).unwrap();
            apply(&mut replay, &insert(id));
            replay.finish().unwrap().0
        });
        versions.extend([one.clone(), other]);
        pages = one;
    }
    let mut idle: Option<IdleReplay> = None;
    for round in 0..4 * versions.len() {
        // Mostly one with the change counter that the pages before had in the end.
        let base = &versions[(round * 4 + round / 14) % versions.len()];
        let mut fresh = Replay::start(base.clone(), ForeignKeys::Off).unwrap();
        let mut kept = match idle.take() {
            Some(idle) => idle.start(base.clone(), ForeignKeys::Off).unwrap(),
            None if round == 0 => Replay::start(base.clone(), ForeignKeys::Off).unwrap(),
            None => panic!("a connection that only executed templates can be kept"),
        };
        let before = bytes_of(base);
        for sql in [insert(5000 + round), format!("UPDATE a SET x = {round} WHERE id = {}", round % 40)] {
            apply(&mut fresh, &sql);
            apply(&mut kept, &sql);
        }
        let (kept, foreign_keys, connection) = kept.finish_and_keep().unwrap();
        assert!(bytes_of(&kept) == bytes_of(&fresh.finish().unwrap().0), "round {round}");
        assert!(bytes_of(base) == before, "round {round}");
        assert_eq!(foreign_keys, ForeignKeys::Off);
        idle = connection;
    }
}

#[test]
fn a_connection_that_anything_else_happened_to_is_not_kept() {
    let is_kept = |sql: &str| {
        let mut replay = start();
        replay.apply(&about(1, RunStart::Later), &["CREATE TABLE a (id)"]).unwrap();
        let (pages, _) = replay.finish().unwrap();
        let mut replay = Replay::start(pages, ForeignKeys::On).unwrap();
        let _ = replay.apply(&about(2, RunStart::Later), &[sql]);
        replay.finish_and_keep().unwrap().2.is_some()
    };
    assert!(is_kept("INSERT INTO a VALUES (5)"));
    assert!(!is_kept("PRAGMA recursive_triggers = ON"));
    assert!(!is_kept("CREATE TEMP TABLE b (id)"));
    assert!(!is_kept("INSERT INTO nothing VALUES (5)"));
}

fn bump(from: u32) -> String {
    format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {from}")
}

/// Riders included.
#[test]
fn changes_of_blocks_do_what_their_texts_do() {
    let schema = [
        "CREATE TABLE vars (name, intval)",
        "CREATE TABLE a (id PRIMARY KEY, at)",
        "CREATE TABLE b (a REFERENCES a(id))",
        "INSERT INTO vars VALUES ('data_version', 1)",
    ];
    let mut changes = vec![(1, schema.map(str::to_owned).to_vec())];
    for n in 2..40 {
        let row = format!("INSERT INTO a VALUES ({n}, strftime('%f', 'now') || x'6869')");
        changes.push((n, vec![row, format!("INSERT INTO b VALUES ({n});"), bump(n - 1)]));
    }
    changes.push((39, vec!["PRAGMA foreign_keys = OFF;".to_owned()]));
    changes.push((40, vec!["INSERT INTO b VALUES (1000)".to_owned(), bump(39)]));
    let block = block_of(&changes.iter().map(|(_, statements)| statements.clone()).collect::<Vec<_>>());

    let [mut from_texts, mut from_blocks] = [start(), start()];
    let mut stored = from_blocks.stored(block.templates());
    for (index, (version, statements)) in changes.iter().enumerate() {
        let texts: Vec<_> = statements.iter().map(String::as_str).collect();
        from_texts.apply(&about(*version, RunStart::Later), &texts).unwrap();
        stored.apply(&about(*version, RunStart::Later), block.change(index).unwrap()).unwrap();
    }
    drop(stored);
    let [texts, blocks] = [from_texts, from_blocks].map(|replay| {
        let (pages, foreign_keys) = replay.finish().unwrap();
        assert_eq!(foreign_keys, ForeignKeys::Off);
        bytes_of(&pages)
    });
    assert!(texts == blocks);
}

#[test]
fn a_bump_of_a_block_that_changes_no_row_is_a_failure() {
    let block = block_of(&[vec!["CREATE TABLE vars (name, intval)".to_owned()], vec![bump(6)]]);
    let mut replay = start();
    let mut stored = replay.stored(block.templates());
    stored.apply(&about(1, RunStart::Later), block.change(0).unwrap()).unwrap();
    let error = stored.apply(&about(7, RunStart::Later), block.change(1).unwrap()).unwrap_err();
    assert!(matches!(error, ReplayError::BumpMissed { rows: 0, .. }), "{error}");
}

#[test]
fn the_clock_of_sql_stands_at_the_time_of_the_record() {
    let mut replay = start();
    let statements = ["CREATE TABLE t (x)", "INSERT INTO t VALUES (strftime('%s', 'now') || CURRENT_TIMESTAMP)"];
    replay.apply(&about(1, RunStart::First), &statements).unwrap();
    assert_eq!(query(&replay, "SELECT x FROM t"), "17953563072026-11-22 14:05:07");
}

#[test]
fn riders_act_until_the_next_run_and_are_remembered() {
    let mut replay = start();
    let schema = ["CREATE TABLE a (id PRIMARY KEY)", "CREATE TABLE b (a REFERENCES a(id))"];
    replay.apply(&about(1, RunStart::First), &schema).unwrap();
    let orphan = ["INSERT INTO b VALUES (7)"];
    replay.apply(&about(1, RunStart::Later), &["PRAGMA foreign_keys = OFF;"]).unwrap();
    replay.apply(&about(2, RunStart::Later), &orphan).unwrap();
    let (pages, foreign_keys) = replay.finish().unwrap();
    assert_eq!(foreign_keys, ForeignKeys::Off);
    let mut replay = Replay::start(pages, foreign_keys).unwrap();
    replay.apply(&about(3, RunStart::Later), &orphan).unwrap();
    let error = replay.apply(&about(4, RunStart::First), &orphan).unwrap_err().to_string();
    assert!(error.contains("FOREIGN KEY constraint failed"), "{error}");
}

#[test]
fn a_bump_that_changes_no_row_is_a_failure() {
    let mut replay = start();
    let bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 6";
    let schema = ["CREATE TABLE vars (name, intval)", "INSERT INTO vars VALUES ('data_version', 5)"];
    replay.apply(&about(1, RunStart::First), &schema).unwrap();
    let error = replay.apply(&about(7, RunStart::Later), &[bump]).unwrap_err();
    assert!(matches!(error, ReplayError::BumpMissed { rows: 0, .. }), "{error}");
}

#[test]
fn statements_run_as_a_stock_sqlite_runs_them() {
    let mut replay = start();
    let statements = [
        "CREATE TABLE t (x)",
        "INSERT INTO t VALUES (\"a string in double quotes\")",
        "INSERT INTO t VALUES ('first') RETURNING x",
        "INSERT INTO t VALUES ('second'); INSERT INTO t VALUES ('ignored, as sqlite3_prepare does');",
        "  -- nothing but a comment",
        "",
    ];
    replay.apply(&about(1, RunStart::First), &statements).unwrap();
    assert_eq!(query(&replay, "SELECT group_concat(x, ',') FROM t"), "a string in double quotes,first,second");
}

#[test]
fn large_sorts_and_statements_that_touch_many_rows_need_no_files() {
    let mut replay = start();
    let statements = [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) \
         INSERT INTO t SELECT i, hex(i * 7919 % 50000) || zeroblob(100) FROM n ORDER BY i * 7919 % 50000",
        "CREATE INDEX t_x ON t (x)",
        "UPDATE t SET id = -id",
    ];
    replay.apply(&about(1, RunStart::First), &statements).unwrap();
    assert_eq!(query(&replay, "PRAGMA integrity_check"), "ok");
    assert_eq!(query(&replay, "SELECT count(*) || ' ' || min(id) FROM t"), "50000 -50000");
}

/// A backup may be on rented space: its statements must not reach the user's files.
#[test]
fn statements_reach_no_file_outside_of_the_overlay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let attach = format!("ATTACH 'file:{}?vfs=unix&mode=rwc' AS outside", file.display());
    let mut replay = start();
    let statements = [&attach, "CREATE TABLE outside.t (x)", "INSERT INTO outside.t VALUES ('written')"];
    let result = replay.apply(&about(1, RunStart::First), &statements);
    assert!(!file.exists(), "a statement wrote to {}", file.display());
    assert!(result.unwrap_err().to_string().contains("attached databases"));
    let mut replay = start();
    let into = format!("VACUUM INTO 'file:{}?vfs=unix'", file.display());
    assert!(replay.apply(&about(1, RunStart::First), &[&into]).is_err());
    assert!(!file.exists());
}

//! Generated statements, executed from templates on one database and as text on another.

use std::fmt::Debug;

use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::generated::{COLUMNS, statement as any_statement};
use super::statement::{self, Executed};
use crate::replay::sqlite_reason::whole_message;

/// The CHECKs exclude the largest rowid: behind it SQLite chooses random rowids.
const SCHEMA: &str = "
    CREATE TABLE a (id INTEGER PRIMARY KEY CHECK (id < 9223372036854775807), t TEXT, i INTEGER, r REAL, n NUMERIC, b BLOB, x);
    CREATE INDEX a_i ON a (i); CREATE INDEX a_t ON a (t, i); CREATE INDEX a_x ON a (x); CREATE INDEX a_n ON a (n, r);
    CREATE TABLE s (id INTEGER PRIMARY KEY CHECK (id < 9223372036854775807), t TEXT, i INTEGER, r REAL, n ANY, b BLOB, x ANY) STRICT;
    CREATE UNIQUE INDEX s_i ON s (i); CREATE INDEX s_x ON s (x, t);
    CREATE TABLE c (id INT PRIMARY KEY, t TEXT COLLATE NOCASE CHECK (t <> 'no' AND length(t) < 20),
        i INT CHECK (typeof(i) <> 'blob') DEFAULT 5, r REAL AS (i * 1.5) STORED, n NUM, b BLOB, x, UNIQUE (t, x))
        WITHOUT ROWID;
    CREATE TABLE log (what, old, new, kind);
    CREATE TRIGGER a_update AFTER UPDATE ON a BEGIN
        INSERT INTO log VALUES ('update', old.x, new.x, typeof(new.x) || typeof(new.n) || (new.x = 5));
    END;
    CREATE TRIGGER a_insert BEFORE INSERT ON a BEGIN
        INSERT INTO log VALUES ('insert', new.id, new.x, typeof(new.t) || typeof(new.n) || typeof(new.r));
    END;
    CREATE VIEW v AS SELECT id, t, i, r, n, b, x FROM a WHERE i > 2 UNION ALL SELECT id, t, i, r, n, b, 'v' FROM s;
    CREATE TRIGGER v_insert INSTEAD OF INSERT ON v BEGIN
        INSERT INTO log VALUES ('v', new.t, new.i, typeof(new.t) || typeof(new.i) || typeof(new.r) || (new.i = '5'));
    END;
    CREATE TRIGGER v_update INSTEAD OF UPDATE ON v BEGIN
        INSERT INTO log VALUES ('w', old.id, new.i, typeof(new.t) || typeof(new.i) || (new.i = '5') || (new.t = 5));
        UPDATE a SET x = new.x WHERE id = new.id;
    END;";

/// Statements that insert rows for the statements behind them.
const FILLING: &str = "
    WITH RECURSIVE k(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM k WHERE k < 12)
    INSERT INTO a SELECT k, k % 4, k % 3, k / 2.0, k % 5, zeroblob(k % 3),
        CASE k % 4 WHEN 0 THEN NULL WHEN 1 THEN k WHEN 2 THEN 'x' ELSE x'0a' END FROM k;
    INSERT INTO s SELECT id, t, id, r, n, b, x FROM a; INSERT INTO c (id, t, i, n, b, x) SELECT id, t, i, n, b, id FROM a;";

fn connection() -> Connection {
    set_up(Connection::open_in_memory().unwrap())
}

fn set_up(connection: Connection) -> Connection {
    connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF").unwrap();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, true).unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    connection.execute_batch(FILLING).unwrap();
    connection
}

/// The observable outcome of a statement.
fn outcome<T: Debug>(connection: &Connection, result: rusqlite::Result<T>) -> (Option<String>, u64, i64, bool) {
    let error = result.err().map(|error| whole_message(&error));
    (error, connection.changes(), connection.last_insert_rowid(), connection.is_autocommit())
}

/// All values of all tables, with their types.
fn contents(connection: &Connection) -> Vec<String> {
    let mut all = Vec::new();
    for (table, columns) in
        [("a", &COLUMNS[..]), ("s", &["*"]), ("c", &COLUMNS), ("log", &["what", "old", "new", "kind"])]
    {
        let columns: Vec<_> = if columns == ["*"] {
            let mut names = connection.prepare("SELECT name FROM pragma_table_info('s')").unwrap();
            names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        } else {
            columns.iter().map(|&column| column.to_owned()).collect()
        };
        let shown: Vec<_> = columns.iter().map(|column| format!("typeof({column}) || quote({column})")).collect();
        let sql = format!("SELECT '{table} ' || {} FROM {table}", shown.join(" || ' ' || "));
        let mut rows = connection.prepare(&sql).unwrap();
        all.extend(rows.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap));
    }
    all
}

/// Fewer cases than usual, because each compares all tables behind every statement; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { usual.cases } else { 80 };
    ProptestConfig { cases, ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn templates_do_what_the_texts_do(statements in prop::collection::vec(any_statement(), 1..30)) {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["parameters", "text"].map(|name| directory.path().join(name));
        let [parameters, text] = [&paths[0], &paths[1]].map(|path| set_up(Connection::open(path).unwrap()));
        statement::set_up(&parameters).unwrap();
        // Twice, so that templates come from the cache, with other statements in between.
        for sql in statements.iter().chain(&statements) {
            let fast = statement::execute(&parameters, sql);
            let slow = statement::execute_text(&text, sql);
            prop_assert_eq!(outcome(&parameters, fast), outcome(&text, slow), "{}", sql);
            prop_assert_eq!(contents(&parameters), contents(&text), "{}", sql);
        }
        // Also equal in the order of written rows: the same plans, down to the bytes.
        drop((parameters, text));
        let [parameters, text] = paths.map(|path| std::fs::read(path).unwrap());
        prop_assert!(parameters == text, "other bytes");
    }
}

#[test]
fn generated_statements_are_a_fair_test() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let connection = connection();
    statement::set_up(&connection).unwrap();
    let (mut parameterised, mut as_text, mut failed) = (0, 0, 0);
    for _ in 0..2_000 {
        let sql = any_statement().new_tree(&mut runner).unwrap().current();
        match statement::execute(&connection, &sql) {
            Ok(Executed::Parameterised) => parameterised += 1,
            Ok(Executed::AsText) => as_text += 1,
            Err(_) => failed += 1,
        }
    }
    let all = format!("{parameterised} parameterised, {as_text} as text, {failed} failed");
    assert!(parameterised > 400 && as_text > 150 && failed > 150, "{all}");
}

#[test]
fn the_clock_is_read_at_every_execution() {
    let connection = connection();
    statement::set_up(&connection).unwrap();
    let mut times = Vec::new();
    for _ in 0..2 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let sql = "UPDATE a SET x = strftime('%f', 'now'), i = 5 WHERE id = 3";
        assert_eq!(statement::execute(&connection, sql).unwrap(), Executed::Parameterised);
        times.push(connection.query_row("SELECT x FROM a WHERE id = 3", [], |row| row.get::<_, String>(0)).unwrap());
    }
    assert_ne!(times[0], times[1]);
}

#[test]
fn a_text_that_cannot_be_prepared_says_so_itself() {
    let connection = connection();
    statement::set_up(&connection).unwrap();
    let error = statement::execute(&connection, "UPDATE a SET lost = 5").unwrap_err();
    assert_eq!(whole_message(&error), "no such column: lost");
}

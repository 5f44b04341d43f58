//! SQLite's error messages without quotations of statements.
//!
//! SQLite's messages quote: `near "…"`, `no such column: …`, the text of a CHECK, the message of a trigger. `lightningd` writes
//! secrets, and messages go to logs and to `backup-status`. So only known words of a message are passed on, and names of tables
//! and columns of the schema where the error code excludes anything else.

use rusqlite::{Error, ffi};

/// Known beginnings of messages: what follows is a quotation and left out.
const BEGINNINGS: &[&str] = &[
    "FOREIGN KEY constraint failed",
    "CHECK constraint failed",
    "Expression tree is too large",
    "LIKE or GLOB pattern too complex",
    "ambiguous column name",
    "bad JSON path",
    "cannot UPSERT a view",
    "cannot commit",
    "cannot modify",
    "cannot rollback",
    "cannot start a transaction within a transaction",
    "database disk image is malformed",
    "database is locked",
    "database table is locked",
    "datatype mismatch",
    "duplicate column name",
    "foreign key mismatch",
    "incomplete input",
    "integer overflow",
    "interrupted",
    "malformed JSON",
    "malformed database schema",
    "misuse of aggregate",
    "no such collation sequence",
    "no such column",
    "no such function",
    "no such index",
    "no such module",
    "no such table",
    "no such trigger",
    "no such view",
    "not authorized",
    "parser stack overflow",
    "string or blob too big",
    "too many attached databases",
    "unrecognized token",
    "wrong number of arguments to function",
];

/// Known parts of messages behind a quotation, with their replacements.
const INSIDE: &[(&str, &str)] = &[
    (": syntax error", "syntax error"),
    (" has no column named ", "a table has no such column"),
    (" values were supplied", "a table has another number of columns"),
    (" already exists", "it exists already"),
    (" may not be modified", "a table that may not be modified"),
    (" may not be dropped", "a table that may not be dropped"),
];

/// Errors whose whole message is passed on if it begins like this: SQLite composes it of names in the schema.
const OF_THE_SCHEMA: &[(i32, &str)] = &[
    (ffi::SQLITE_CONSTRAINT_UNIQUE, "UNIQUE constraint failed: "),
    (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, "UNIQUE constraint failed: "),
    (ffi::SQLITE_CONSTRAINT_ROWID, "UNIQUE constraint failed: "),
    (ffi::SQLITE_CONSTRAINT_NOTNULL, "NOT NULL constraint failed: "),
    (ffi::SQLITE_CONSTRAINT_DATATYPE, "cannot store "),
];

/// SQLite's message without parts of a statement and without values.
pub fn reason(error: &Error) -> String {
    match error {
        Error::SqliteFailure(code, message) => of_message(code, message.as_deref().unwrap_or_default()),
        Error::SqlInputError { error, msg, .. } => of_message(error, msg),
        Error::QueryReturnedNoRows => "a row is missing".to_owned(),
        Error::InvalidColumnType(..) | Error::FromSqlConversionFailure(..) | Error::IntegralValueOutOfRange(..) => {
            "a column holds a value of another type, or out of range".to_owned()
        }
        Error::NulError(_) => "the text of a statement has a NUL in it".to_owned(),
        other => match other.sqlite_error() {
            Some(code) => code.to_string(),
            None => "SQLite was used in a way that it does not allow".to_owned(),
        },
    }
}

fn of_message(code: &ffi::Error, message: &str) -> String {
    let whole = |(of, beginning): &(i32, &str)| *of == code.extended_code && message.starts_with(beginning);
    if OF_THE_SCHEMA.iter().any(whole) {
        return message.to_owned();
    }
    if let Some(beginning) = BEGINNINGS.iter().find(|beginning| message.starts_with(**beginning)) {
        return (*beginning).to_owned();
    }
    match INSIDE.iter().find(|(inside, _)| message.contains(inside)) {
        Some((_, words)) => (*words).to_owned(),
        None => code.to_string(),
    }
}

/// SQLite's whole message, with parts of the statement: only for statements of the operator, on a terminal.
pub(crate) fn whole_message(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(message)) => message.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        other => reason(other),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    use super::*;

    const SECRET: &str = "c0ffee5ec2e7";

    /// Tables that cause every kind of error, with a secret in them.
    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        for dqs in [DbConfig::SQLITE_DBCONFIG_DQS_DML, DbConfig::SQLITE_DBCONFIG_DQS_DDL] {
            connection.set_db_config(dqs, true).unwrap();
        }
        let schema = format!(
            "PRAGMA foreign_keys = ON;
             CREATE TABLE t (id INTEGER PRIMARY KEY, label TEXT UNIQUE, kind TEXT NOT NULL DEFAULT '', age INTEGER);
             CREATE TABLE k (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
             CREATE TABLE checked (x TEXT CHECK (x <> '{SECRET}'), y TEXT, CONSTRAINT c CHECK (y <> '{SECRET}'));
             CREATE TABLE strict (n INTEGER) STRICT;
             CREATE TABLE child (t INTEGER REFERENCES t (id));
             CREATE TABLE quiet (x);
             CREATE TRIGGER raises BEFORE INSERT ON quiet BEGIN SELECT RAISE(ABORT, 'UNIQUE constraint failed: {SECRET}'); END;
             CREATE UNIQUE INDEX of_expression ON t (label || '{SECRET}');
             CREATE VIEW v AS SELECT '{SECRET}' AS x;
             INSERT INTO t (id, label) VALUES (1, '{SECRET}');
             INSERT INTO k VALUES ('{SECRET}', 1);"
        );
        connection.execute_batch(&schema).unwrap();
        connection
    }

    /// Failing statements, each with the expected message.
    fn failing() -> Vec<(String, &'static str)> {
        let of = |sql: &str, reported| (sql.replace("SECRET", SECRET), reported);
        vec![
            of("INSERT INTO t (id) SECRET VALUES (2)", "syntax error"),
            of("INSERT INTO t (id) VALUES (2) 'SECRET'", "syntax error"),
            of("UPDATE t SET label = x'SECRETx'", "unrecognized token"),
            of("UPDATE t SET label = 'SECRET", "unrecognized token"),
            of("UPDATE t SET label = SECRET", "no such column"),
            of("UPDATE t SET SECRET = 1", "no such column"),
            of("UPDATE SECRET SET x = 1", "no such table"),
            of("SELECT SECRET(1)", "no such function"),
            of("SELECT abs('SECRET', 1)", "wrong number of arguments to function"),
            of("CREATE VIRTUAL TABLE x USING SECRET(x)", "no such module"),
            of("SELECT 1 ORDER BY 1 COLLATE SECRET", "no such collation sequence"),
            of("INSERT INTO t (SECRET) VALUES (1)", "a table has no such column"),
            of("INSERT INTO k VALUES ('SECRET')", "a table has another number of columns"),
            of("INSERT INTO k (a, b) VALUES ('SECRET', 2, 3)", "SQL logic error"),
            of("CREATE TABLE k (SECRET)", "it exists already"),
            of("INSERT INTO sqlite_schema VALUES ('SECRET', '', '', 1, '')", "a table that may not be modified"),
            of("INSERT INTO t (label) VALUES ('SECRET')", "UNIQUE constraint failed: "),
            of("INSERT INTO t (id, label) VALUES (1, 'SECRET2')", "UNIQUE constraint failed: t.id"),
            of("INSERT INTO k VALUES ('SECRET', 1)", "UNIQUE constraint failed: k.a, k.b"),
            of("INSERT INTO t (kind, label) VALUES (NULL, 'SECRET2')", "NOT NULL constraint failed: t.kind"),
            of("INSERT INTO checked (x) VALUES ('SECRET')", "CHECK constraint failed"),
            of("INSERT INTO checked (y) VALUES ('SECRET')", "CHECK constraint failed"),
            of("INSERT INTO strict VALUES ('SECRET')", "cannot store TEXT value in INTEGER column strict.n"),
            of("INSERT INTO child VALUES (77777)", "FOREIGN KEY constraint failed"),
            of("INSERT INTO quiet VALUES ('SECRET')", "constraint"),
            of("INSERT INTO t (id) VALUES ('SECRET')", "datatype mismatch"),
            of("UPDATE t SET kind = json('SECRET')", "malformed JSON"),
            of("UPDATE t SET kind = json_extract('{}', 'SECRET')", "bad JSON path"),
            of("UPDATE t SET age = -9223372036854775808, age = abs(-9223372036854775808)", "integer overflow"),
            of("UPDATE t SET kind = zeroblob(2000000000)", "string or blob too big"),
            of("INSERT INTO v VALUES ('SECRET')", "cannot modify"),
            of("ATTACH 'SECRET/SECRET' AS x", "unable to open"),
            of("PRAGMA journal_mode = WAL; COMMIT 'SECRET'", "syntax error"),
            of("ROLLBACK TO SECRET", "SQL logic error"),
            of("SELECT t.id FROM t, t AS SECRET WHERE kind = 1", "ambiguous column name"),
            of("CREATE TABLE twice (SECRET, SECRET)", "duplicate column name"),
            of("DROP INDEX SECRET", "no such index"),
            of("DROP TRIGGER SECRET", "no such trigger"),
            of("UPDATE t SET kind = count('SECRET')", "misuse of aggregate"),
            of("SELECT 'SECRET' WHERE", "incomplete input"),
        ]
    }

    #[test]
    fn no_piece_of_a_statement_and_no_value_is_reported() {
        for (sql, reported) in failing() {
            let connection = database();
            let error = connection.execute_batch(&sql).unwrap_err();
            let said = reason(&error);
            assert!(said.contains(reported), "{sql}: {said} for {}", whole_message(&error));
            assert!(!said.contains(SECRET) && !said.contains("77777"), "{sql}: {said}");
        }
    }

    #[test]
    fn the_test_has_messages_that_quote() {
        let quotes = |sql: &String| whole_message(&database().execute_batch(sql).unwrap_err()).contains(SECRET);
        let quoting = failing().iter().filter(|(sql, _)| quotes(sql)).count();
        assert!(quoting >= 20, "{quoting}");
    }

    #[test]
    fn answers_that_do_not_fit_are_reported_without_what_they_are() {
        let connection = database();
        let label = connection.query_row("SELECT label FROM t", [], |row| row.get::<_, i64>(0)).unwrap_err();
        let number = connection.query_row("SELECT 123456789", [], |row| row.get::<_, u8>(0)).unwrap_err();
        let nul = connection.execute(&format!("SELECT '{SECRET}\0'"), []).unwrap_err();
        for error in [label, number, nul, connection.query_row("SELECT 1 WHERE 0", [], |_| Ok(())).unwrap_err()] {
            let said = reason(&error);
            assert!(!said.contains(SECRET) && !said.contains("123456789"), "{said}");
        }
    }
}

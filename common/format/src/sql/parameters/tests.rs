use super::*;

fn shown(literals: &[Literal<'_>]) -> String {
    let shown = literals.iter().map(|literal| match literal.meaning.value() {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => format!("'{text}'"),
        Value::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(sql: &str, template: &str, values: &str) {
    let split = split(sql).unwrap_or_else(|| panic!("not understood: {sql}"));
    assert_eq!((split.template.as_str(), shown(&split.literals).as_str()), (template, values), "{sql}");
    let mut text = split.template;
    for literal in split.literals.iter().rev() {
        text.replace_range(literal.position..=literal.position, literal.text);
    }
    assert_eq!(text, sql);
}

#[track_caller]
fn check_kept(sql: &str) {
    check(sql, sql, "");
}

#[test]
fn values_of_an_insert_are_taken_out() {
    check("INSERT INTO t VALUES (1, 'two', x'03', NULL);", "INSERT INTO t VALUES (?, ?, ?, NULL);", "1 'two' 03");
    check("insert or ignore into t(a,b)values(0,-1)", "insert or ignore into t(a,b)values(?,?)", "0 -1");
    check("REPLACE INTO main.t VALUES(- 7)", "REPLACE INTO main.t VALUES(?)", "-7");
    check(
        "INSERT INTO t VALUES (5) ON CONFLICT (a) WHERE b = 7 DO UPDATE SET c = 9 RETURNING 11",
        "INSERT INTO t VALUES (?) ON CONFLICT (a) WHERE b = 7 DO UPDATE SET c = 9 RETURNING 11",
        "5",
    );
    check_kept("INSERT INTO t DEFAULT VALUES");
}

#[test]
fn assignments_and_comparisons_are_taken_out() {
    check(
        "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 41",
        "UPDATE vars SET intval = intval + ? WHERE name = ? AND intval = ?",
        "1 'data_version' 41",
    );
    check("UPDATE t SET a=COALESCE(a, 0) - 250, b=0", "UPDATE t SET a=COALESCE(a, 0) - ?, b=?", "250 0");
    check(
        "DELETE FROM t WHERE NOT (a <= 5 OR b<>'x') AND c IN (7, 'y', -9) and d!=x'AbCd'",
        "DELETE FROM t WHERE NOT (a <= ? OR b<>?) AND c IN (?, ?, ?) and d!=?",
        "5 'x' 7 'y' -9 abcd",
    );
    check("UPDATE t SET a='x'WHERE b='y'AND c==9", "UPDATE t SET a=?WHERE b=?AND c==?", "'x' 'y' 9");
    check(
        "DELETE FROM t WHERE \"a\"\"5\" = 5 AND [b 6] = 6 AND `c`=7",
        "DELETE FROM t WHERE \"a\"\"5\" = ? AND [b 6] = ? AND `c`=?",
        "5 6 7",
    );
}

#[test]
fn literals_are_read_as_sqlite_reads_them() {
    check(
        "INSERT INTO t VALUES ('it''s', '', '''', '\n☃?;--')",
        "INSERT INTO t VALUES (?, ?, ?, ?)",
        "'it's' '' ''' '\n☃?;--'",
    );
    check(
        "INSERT INTO t VALUES (9223372036854775807, -9223372036854775808, -9223372036854775807, 007, -0)",
        "INSERT INTO t VALUES (?, ?, ?, ?, ?)",
        "9223372036854775807 -9223372036854775808 -9223372036854775807 7 0",
    );
    check("INSERT INTO t VALUES (X'0aF9')", "INSERT INTO t VALUES (?)", "0af9");
}

#[test]
fn what_is_not_surely_a_value_stays() {
    for sql in [
        // not whole numbers of 64 bits, to SQLite
        "INSERT INTO t VALUES (9223372036854775808, -9223372036854775809, 99999999999999999999)",
        "INSERT INTO t VALUES (1.5, .5, 5., 1e5, 1E+5, -2.5e-3, 0x10, -0xFF)",
        // not operands of their own
        "INSERT INTO t VALUES (5-3, - -5, +5, ~5, 5 || 'x', 'x' COLLATE NOCASE, (5), x'')",
        "INSERT INTO t VALUES (NULL, TRUE, FALSE, CURRENT_TIMESTAMP, \"word\")",
        "INSERT INTO t VALUES (abs(-5), strftime('%s', 'now'), CAST('5' AS DECIMAL(10,5)), likelihood(a, 0.5))",
        "UPDATE t SET a = 5 + 3, b = 7 * c, d = -(5), e = c || 'x', f = - -5, g = (5, 6), h = 5 IS NULL",
        "UPDATE t SET a = a - 9223372036854775808, b = a + 1.5, c = a + 'x'",
        "UPDATE t SET a = CASE WHEN b = 5 THEN 6 ELSE 7 END, b = lower(c = 'x'), c = d IS 5",
        // truths, positions, patterns, bounds
        "DELETE FROM t WHERE 5 AND 'x' OR 6",
        "DELETE FROM t WHERE a = b ORDER BY 5, 'x' LIMIT 6 OFFSET 7",
        "DELETE FROM t WHERE a LIKE 'x%' AND b GLOB 'y*' AND c BETWEEN 5 AND 6 AND d NOT LIKE 'x' ESCAPE '!'",
        "DELETE FROM t WHERE 5 = a AND (a, b) = (5, 6) AND c IS 5 AND d IS NOT 'x'",
        // the planner expects these to be frequent
        "DELETE FROM t WHERE a = 0 AND b = 1 AND c = -1 AND d = 01 AND e IN (0, 1)",
        // names
        "UPDATE 't' SET 'a' = b WHERE 't'.'a' = 't'.'b'",
        "INSERT INTO 't' ('a', 'b') VALUES (NULL, NULL)",
    ] {
        check_kept(sql);
    }
}

#[test]
fn what_is_not_understood_has_no_template() {
    let many = format!("INSERT INTO t VALUES (5{})", ", 5".repeat(VALUES_MAX));
    let long = format!("UPDATE t SET a = hex('{}')", "x".repeat(TEMPLATE_BYTES_MAX));
    for sql in [
        "",
        ";",
        "SELECT 5",
        "CREATE TABLE t (a DEFAULT 5)",
        "PRAGMA foreign_keys = OFF",
        "EXPLAIN DELETE FROM t",
        "VACUUM",
        "ATTACH 'x' AS y",
        "BEGIN",
        "WITH x AS (SELECT 5) DELETE FROM t",
        // an affinity may come of these
        "INSERT INTO t SELECT 5",
        "INSERT INTO t VALUES (5), (6)",
        "INSERT INTO t VALUES (5) UNION ALL SELECT 6",
        "INSERT INTO t VALUES (5) EXCEPT VALUES (5)",
        "INSERT INTO t VALUES ((SELECT 5))",
        "UPDATE t SET a = 5 FROM u WHERE t.b = u.b",
        "UPDATE t SET a = 5 WHERE b IN (VALUES (5))",
        "DELETE FROM t WHERE a IN (SELECT b FROM u ORDER BY 1 LIMIT 5)",
        "DELETE FROM t INDEXED BY i WHERE a = 5",
        // two statements
        "DELETE FROM t; DELETE FROM u",
        // comments
        "DELETE FROM t -- WHERE a = 5",
        "DELETE FROM t /* all */",
        // parameters already
        "DELETE FROM t WHERE a = ?",
        "DELETE FROM t WHERE a = ?1",
        "DELETE FROM t WHERE a = :x",
        "DELETE FROM t WHERE a = @x",
        "DELETE FROM t WHERE a = $x",
        "DELETE FROM t WHERE a = #1",
        // numbers that run into words
        "UPDATE outputs SET reserved_til=1891733WHERE id=5",
        "DELETE FROM t WHERE a = 1_000",
        "DELETE FROM t WHERE a = 5x",
        "DELETE FROM t WHERE a = 1e",
        "DELETE FROM t WHERE a = 0x",
        // SQLite refuses these
        "DELETE FROM t WHERE a = 'x",
        "DELETE FROM t WHERE a = \"x",
        "DELETE FROM t WHERE [a",
        "DELETE FROM t WHERE a = x'0'",
        "DELETE FROM t WHERE a = x'0g'",
        "DELETE FROM t WHERE a = x'00",
        "DELETE FROM t WHERE (a = 5",
        "DELETE FROM t WHERE a = 5)",
        "DELETE FROM t WHERE a ! 5",
        "DELETE FROM t WHERE\u{b}a = 5",
        // and these may mean something else to it
        "DELETE FROM t WHERE a = 'x\0y'",
        "DELETE FROM t WHERE a = 5\0",
        "DELETE FROM t WHERE é = 5",
        "DELETE FROM t WHERE aé = 5",
        "DELETE FROM t WHERE a\u{a0}= 5",
        "DELETE FROM t WHERE a ->> 'x' = 5",
        &many,
        &long,
    ] {
        assert_eq!(split(sql), None, "{sql}");
    }
}

//! Random statements for property tests: some of a few shapes, some valid, some not.

use proptest::prelude::*;
use proptest::sample::select;

/// The columns of all tables.
pub const COLUMNS: [&str; 7] = ["id", "t", "i", "r", "n", "b", "x"];
const TABLES: [&str; 4] = ["a", "s", "c", "v"];

fn literal() -> impl Strategy<Value = String> {
    let text =
        select(vec!["", "x", "5", "-5", "5.0", "no", "NO", "it''s", "''", "?", "--", ";", "\n", "☃ é", " 5", "1e2"]);
    prop_oneof![
        8 => (-3i64..14).prop_map(|number| number.to_string()),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        3 => select(vec![
            "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "- 5", "-0",
            "007", "00", "4294967296", "9007199254740993", "-9007199254740993", "99999999999999999999", "- -5", "+5",
            "1_000", "0x10", "0XfF", "-0x10", "5x", "5WHERE",
        ]).prop_map(str::to_owned),
        3 => select(vec!["1.5", ".5", "5.", "1e3", "-2.5E-3", "1e400", "5.0", "0.1"]).prop_map(str::to_owned),
        6 => text.prop_map(|text| format!("'{text}'")),
        1 => "[a-z' ☃]{0,6}".prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
        3 => select(vec!["x''", "X'0a'", "x'0A'", "x'00ff10'", "x'35'", "x'3'"]).prop_map(str::to_owned),
        3 => select(vec!["NULL", "TRUE", "FALSE", "\"x\"", "\"t\"", "CURRENT_DATE"]).prop_map(str::to_owned),
    ]
}

fn column() -> impl Strategy<Value = String> {
    select(COLUMNS.to_vec()).prop_map(str::to_owned)
}

fn operator() -> impl Strategy<Value = &'static str> {
    select(vec![
        " = ", "=", " == ", " <> ", "!=", " < ", ">", " <= ", ">= ", " IS ", " IS NOT ", " + ", "-", "+", " - ", " * ",
        " / ", " || ", " & ", " << ", " AND ", " OR ", " LIKE ", " GLOB ", " % ", "->>", " -- \n", "/* */=",
    ])
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![3 => literal(), 2 => column()];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4).prop_map(|list| list.join(", "));
        prop_oneof![
            8 => (inner.clone(), operator(), inner.clone()).prop_map(|(left, op, right)| format!("{left}{op}{right}")),
            1 => (column(), operator(), literal()).prop_map(|(left, op, right)| format!("{left}{op}{right}")),
            2 => inner.clone().prop_map(|inner| format!("({inner})")),
            1 => inner.clone().prop_map(|inner| format!("NOT {inner}")),
            1 => inner.clone().prop_map(|inner| format!("-{inner}")),
            1 => inner.clone().prop_map(|inner| format!("{inner} COLLATE NOCASE")),
            2 => (inner.clone(), list).prop_map(|(inner, list)| format!("{inner} IN ({list})")),
            1 => (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(x, low, high)| format!("{x} BETWEEN {low} AND {high}")),
            1 => (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(x, y, z)| format!("CASE {x} WHEN {y} THEN {z} ELSE 5 END")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("coalesce({x}, {y})")),
            1 => inner.clone().prop_map(|x| format!("substr({x}, 1, 2)")),
            1 => inner.clone().prop_map(|x| format!("typeof({x})")),
            1 => inner.clone().prop_map(|x| format!("CAST({x} AS TEXT)")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("(5, {x}) = ({y}, 'x')")),
            1 => (inner.clone(), select(vec!["1", "2 DESC", "1, 2 LIMIT 3", "id LIMIT 2 OFFSET 1"]))
                .prop_map(|(x, order)| format!("id IN (SELECT id FROM a WHERE {x} ORDER BY {order})")),
            1 => inner.prop_map(|x| format!("x IN (VALUES ({x}), (5))")),
        ]
    })
}

fn condition() -> impl Strategy<Value = String> {
    let comparison =
        (column(), operator(), literal()).prop_map(|(column, op, literal)| format!("{column}{op}{literal}"));
    prop_oneof![
        2 => Just(String::new()),
        4 => prop::collection::vec(comparison, 1..4).prop_map(|all| format!(" WHERE {}", all.join(" AND "))),
        4 => expression().prop_map(|expression| format!(" WHERE {expression}")),
        1 => expression().prop_map(|expression| format!(" WHERE {expression} ORDER BY 1 LIMIT 5")),
    ]
}

fn tail() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "", ";", " ;\n", "; -- x", "; DELETE FROM a", " RETURNING id, 5", " RETURNING *, x = 5;"])
}

fn assignments() -> impl Strategy<Value = String> {
    let value = prop_oneof![2 => literal(), 1 => expression()];
    let one = prop_oneof![
        6 => (column(), value).prop_map(|(column, value)| format!("{column}={value}")),
        2 => (column(), column(), literal()).prop_map(|(to, from, number)| format!("{to} = {from} + {number}")),
        1 => (literal(), literal()).prop_map(|(x, y)| format!("(x, i) = ({x}, {y})")),
    ];
    prop::collection::vec(one, 1..4).prop_map(|all| all.join(", "))
}

/// A statement on the tables `a`, `s` and `c`, and the view `v`.
pub fn statement() -> impl Strategy<Value = String> {
    let table = || select(TABLES.to_vec());
    let or = || select(vec!["", "", "", " OR IGNORE", " OR REPLACE", " OR FAIL", " OR ROLLBACK"]);
    let row = |len| {
        let value = prop_oneof![5 => literal(), 1 => expression()];
        prop::collection::vec(value, len).prop_map(|row| format!("({})", row.join(", ")))
    };
    let upsert = prop_oneof![
        4 => Just(String::new()),
        1 => Just(" ON CONFLICT DO NOTHING".to_owned()),
        1 => (assignments(), condition()).prop_map(|(set, when)| format!(" ON CONFLICT (id) DO UPDATE SET {set}{when}")),
    ];
    let rows = prop_oneof![
        6 => row(5).prop_map(|row| format!("VALUES {row}")),
        1 => (row(5), row(5)).prop_map(|(one, two)| format!("VALUES{one}, {two}")),
        1 => (row(5), row(5)).prop_map(|(one, two)| format!("VALUES {one} UNION ALL VALUES {two}")),
        1 => expression().prop_map(|x| format!("SELECT id + 20, t, i, n, {x} FROM a")),
        1 => Just("DEFAULT VALUES".to_owned()),
    ];
    prop_oneof![
        4 => (or(), table(), rows, upsert, tail())
            .prop_map(|(or, table, rows, upsert, tail)| format!("INSERT{or} INTO {table} (id, t, i, n, x) {rows}{upsert}{tail}")),
        1 => (table(), row(7), tail()).prop_map(|(table, row, tail)| format!("REPLACE INTO {table} VALUES{row}{tail}")),
        5 => (or(), table(), assignments(), condition(), tail())
            .prop_map(|(or, table, set, when, tail)| format!("UPDATE{or} {table} SET {set}{when}{tail}")),
        2 => (table(), condition(), tail()).prop_map(|(table, when, tail)| format!("DELETE FROM {table}{when}{tail}")),
        1 => select(vec![
            "CREATE INDEX IF NOT EXISTS later ON a (x, i)", "DROP INDEX IF EXISTS later", "DROP INDEX IF EXISTS a_i",
            "ALTER TABLE a ADD COLUMN z DEFAULT 5", "ALTER TABLE s RENAME COLUMN n TO nn", "PRAGMA user_version = 5",
        ]).prop_map(str::to_owned),
    ]
}

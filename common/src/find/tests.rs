//! The result equals that of evaluating the condition in every version.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::matches::Query;
use super::{FindError, find};
use crate::backup::Backup;
use crate::backup::view::View;
use crate::config::log_limits::LogLimits;
use crate::history::History;
use crate::log::DbWrite;
use crate::recording::BackupWriter;
use crate::replay::{ForeignKeys, Replay};
use crate::segment::version::Version;
use crate::testing::{Fate, Node};
use format::units::{DataVersion, Timestamp};

/// A log after a few changes.
const SHORT: LogLimits = LogLimits { bytes: 1 << 16, statements: 60 };

/// The versions, with the keys that begin and cease to match in each.
type Found = Vec<(u32, Vec<String>, Vec<String>, u64)>;

fn shown(keys: &[super::RowKey]) -> Vec<String> {
    keys.iter().map(|key| format!("{:?}", key.0)).collect()
}

fn versions(history: &History) -> Vec<Version> {
    let mut all = Vec::new();
    let read = history.for_versions_after(None, &mut |version| {
        all.push(version.clone());
        ControlFlow::Continue(())
    });
    read.unwrap();
    all
}

/// By evaluating every version.
fn expected(backup: &Backup, history: &History, versions: &[Version], table: &str, condition: &str) -> (u64, Found) {
    let condition =
        super::check(backup, history, (&versions[0], &versions[versions.len() - 1]), table, condition).unwrap();
    let asking = Query::new(&condition, Timestamp::now());
    let mut found = Found::new();
    let mut before: Option<BTreeSet<super::RowKey>> = None;
    let mut first = 0;
    for version in versions {
        let view = View::build(backup, &history.plan(version).unwrap(), None).unwrap();
        let replay = Replay::start(view.pages().clone(), ForeignKeys::On).unwrap();
        let now = asking.all(&replay).unwrap();
        match &before {
            Some(before) if *before != now => {
                let began: Vec<_> = now.difference(before).cloned().collect();
                let ended: Vec<_> = before.difference(&now).cloned().collect();
                found.push((version.data_version.get(), shown(&began), shown(&ended), now.len() as u64));
            }
            Some(_) => {}
            None => first = now.len() as u64,
        }
        before = Some(now);
    }
    (first, found)
}

/// Compares what is found with asking every version; returns at how many the answer changed.
pub(crate) fn compare(backup: &Backup, history: &History, versions: &[Version], table: &str, condition: &str) -> usize {
    let turns = find(backup, history, (&versions[0], &versions[versions.len() - 1]), table, condition).unwrap();
    let found: Found = turns
        .turns
        .iter()
        .map(|turn| (turn.version.data_version.get(), shown(&turn.began), shown(&turn.ended), turn.matches))
        .collect();
    let (first, expected) = expected(backup, history, versions, table, condition);
    assert_eq!((turns.matches, &found), (first, &expected), "{table}: {condition}");
    found.len()
}

/// A change, by lot: statements without the bump.
fn change() -> impl Strategy<Value = Vec<String>> {
    let id = 0..12_u32;
    let statement = prop_oneof![
        4 => id.clone().prop_map(|id| format!("INSERT OR IGNORE INTO things (id, state, note) VALUES ({id}, {id} % 3, 'n')")),
        4 => (id.clone(), 0..4_u32).prop_map(|(id, state)| format!("UPDATE things SET state = {state} WHERE id = {id}")),
        2 => id.clone().prop_map(|id| format!("UPDATE things SET note = 'x' || {id} WHERE id = {id}")),
        2 => id.clone().prop_map(|id| format!("DELETE FROM things WHERE id = {id}")),
        1 => Just("DELETE FROM things".to_owned()),
        1 => id.clone().prop_map(|id| format!("REPLACE INTO things (id, state, note) VALUES ({id}, 1, 'unique 1')")),
        1 => id.clone().prop_map(|id| format!("UPDATE OR IGNORE things SET id = id + 20 WHERE id = {id}")),
        // Done and undone within a change.
        2 => id.clone().prop_map(|id| format!("UPDATE things SET state = 9 WHERE id = {id}")),
        2 => id.clone().prop_map(|id| format!("INSERT INTO parts (thing, kind) SELECT id, {id} % 2 FROM things WHERE id = {id}")),
        1 => id.clone().prop_map(|id| format!("INSERT OR REPLACE INTO keyed VALUES ('k' || ({id} % 5), {id})")),
        1 => id.clone().prop_map(|id| format!("DELETE FROM keyed WHERE v = {id}")),
        1 => Just("INSERT INTO payments (note, amount) VALUES ('other', 1)".to_owned()),
    ];
    // A migration rebuilds a table, and leaves rows out.
    let migration = [
        "CREATE TABLE things_new (id INTEGER PRIMARY KEY, state INTEGER, note TEXT)",
        "INSERT INTO things_new SELECT id, state, note FROM things WHERE state <> 1",
        "DROP TABLE things",
        "ALTER TABLE things_new RENAME TO things",
    ];
    prop_oneof![
        12 => prop::collection::vec(statement, 1..4),
        1 => Just(migration.map(str::to_owned).to_vec()),
    ]
}

fn write(node: &mut Node, recording: &mut BackupWriter, statements: &[String]) {
    let mut all: Vec<Cow<'_, str>> = statements.iter().map(|text| Cow::Borrowed(text.as_str())).collect();
    let bump = format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {}", node.version);
    all.push(bump.into());
    node.connection.execute_batch(&format!("BEGIN; {}", all.join("; "))).unwrap();
    let data_version = DataVersion::new(node.version + 1);
    recording.record(&DbWrite { data_version, statements: &all, received_at: Timestamp::now() }).unwrap();
    node.connection.execute_batch("COMMIT").unwrap();
    node.version += 1;
}

fn tables() -> Vec<String> {
    [
        "CREATE TABLE things (id INTEGER PRIMARY KEY, state INTEGER, note TEXT)",
        "CREATE UNIQUE INDEX things_note ON things (note) WHERE note LIKE 'unique%'",
        "CREATE TABLE parts (thing INTEGER REFERENCES things(id) ON DELETE CASCADE ON UPDATE CASCADE, kind INTEGER)",
        "CREATE TABLE keyed (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID",
    ]
    .map(str::to_owned)
    .to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn what_is_found_is_what_asking_every_version_finds(
        changes in prop::collection::vec(change(), 20..60),
        lost in prop::collection::vec(0..60_usize, 0..3),
        seals: bool,
    ) {
        let mut node = Node::new("");
        node.connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        let mut recording = node.record_within(SHORT);
        write(&mut node, &mut recording, &tables());
        for (at, change) in changes.iter().enumerate() {
            if lost.contains(&at) {
                // Recorded and rolled back, or committed without us: a rewind, and a gap with a snapshot behind it.
                let fate = if at % 2 == 0 { Fate::Lost } else { Fate::Unseen };
                node.write(&mut recording, "lost", fate).unwrap();
            }
            write(&mut node, &mut recording, change);
        }
        drop(recording);
        if seals {
            let mut sealer = crate::seal::Sealer::new(node.backup(), SHORT).unwrap();
            sealer.advance(format::units::Seq::new(u64::MAX).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap();
        }
        let backup = node.backup();
        let (history, read) = backup.read_history();
        read.unwrap();
        let versions = versions(&history);
        let mut found = 0;
        for (table, condition) in [
            ("things", "state = 1"),
            ("things", "note LIKE 'x%' AND state <> 9"),
            ("things", "id > 5"),
            ("parts", "kind = 0"),
            ("parts", "thing < 6"),
            ("keyed", "v % 2 = 0"),
            ("THINGS", "state IN (2, 3) OR rowid = 4"),
            ("vars", "name = 'data_version' AND intval % 2 = 0"),
        ] {
            found += compare(&backup, &history, &versions, table, condition);
            let middle = versions.len() / 3;
            compare(&backup, &history, &versions[middle..versions.len() - middle / 2], table, condition);
        }
        prop_assert!(found > 0);
    }
}

#[test]
fn a_condition_is_one_expression_about_a_row_and_does_nothing() {
    let mut node = Node::new("");
    let mut recording = node.record();
    node.write(&mut recording, "one", Fate::Committed).unwrap();
    let backup = node.backup();
    let (history, _) = backup.read_history();
    let all = versions(&history);
    let ask = |table: &str, condition: &str| find(&backup, &history, (&all[0], &all[all.len() - 1]), table, condition);
    for bad in [
        "",
        "amount = ",
        "1; DELETE FROM payments",
        "1) OR (1",
        "1) GROUP BY (note",
        "1) LIMIT (1",
        "1) UNION SELECT (1",
        "amount = (SELECT 1)",
        "EXISTS (SELECT 1 FROM vars)",
        "id IN vars",
        "id IN (SELECT id FROM payments)",
        "amount = ?1",
        "amount = :x",
        "elsewhere = 1",
        "\"elsewhere\" = 1",
        "count(*) > 1",
        "random() > 0",
        "length(randomblob(5)) > 0",
        "load_extension('x')",
        "changes() = 1",
        "note = 'x' --) ; DROP TABLE payments",
        "1 /* ",
        "1, 2",
        "(1, 2)",
        "pragma_table_info('payments')",
        "amount = 1\0",
    ] {
        let found = ask("payments", bad);
        // What is an expression after all may be used.
        let is_expression = matches!(bad, "note = 'x' --) ; DROP TABLE payments" | "1 /* ");
        match found {
            Err(FindError::Condition { .. }) => {}
            other => assert!(is_expression, "{bad}: {other:?}"),
        }
    }
    assert!(matches!(ask("no_such", "1"), Err(FindError::NoSuchTable { .. })));
    assert!(matches!(ask("payments", "json_extract(note, '$') = 1"), Err(FindError::Evaluation { .. })));
    assert!(matches!(ask("payments", "length(zeroblob(1000000000)) > 0"), Err(FindError::Evaluation { .. })));
    assert_eq!(ask("payments", "note = 'one'").unwrap().turns.len(), 1);
}

/// The seqs of the versions of a new history at which a condition turns, and those of all its versions.
fn turns_of(statements: &[&str], table: &str, condition: &str) -> (Vec<format::units::Seq>, Vec<format::units::Seq>) {
    let mut node = Node::new("");
    let mut recording = node.record_within(SHORT);
    for statement in statements {
        write(&mut node, &mut recording, &[(*statement).to_owned()]);
    }
    let backup = node.backup();
    let (history, _) = backup.read_history();
    let all = versions(&history);
    let found = find(&backup, &history, (&all[0], &all[all.len() - 1]), table, condition).unwrap();
    (found.turns.iter().map(|turn| turn.version.seq).collect(), all.iter().map(|version| version.seq).collect())
}

#[test]
fn while_a_table_is_not_there_no_row_matches() {
    // The statement that had asked before failed then, and with it the whole search.
    let make = "CREATE TABLE parts (id INTEGER PRIMARY KEY)";
    let statements = [make, "INSERT INTO parts VALUES (1)", "DROP TABLE parts", make, "INSERT INTO parts VALUES (2)"];
    let (turns, all) = turns_of(&statements, "parts", "id > 0");
    let all = &all[all.len() - statements.len()..];
    assert_eq!(turns, [all[1], all[2], all[4]]);
}

#[test]
fn a_row_without_a_key_is_another_one_after_any_change_of_it() {
    // So many that what is asked about is not in the log in which the table was made.
    let others = vec!["INSERT INTO payments (note, amount) VALUES ('other', 1)"; 60];
    let made = ["CREATE TABLE parts (rowid, oid, _rowid_, kind)", "INSERT INTO parts VALUES (1, 1, 1, 'a')"];
    let changed = ["UPDATE parts SET kind = 'b' WHERE oid = 1"];
    let statements = [&made, &others[..], &changed].concat();
    let (turns, all) = turns_of(&statements, "parts", "oid = 1");
    let all = &all[all.len() - statements.len()..];
    assert_eq!(turns, [all[1], all[statements.len() - 1]]);
}

#[test]
fn a_row_that_gives_way_to_another_ceases_to_match() {
    // What is set is not what the condition reads, and yet the other row is gone.
    let others = vec!["INSERT INTO payments (note, amount) VALUES ('other', 1)"; 60];
    let made = ["CREATE TABLE parts (id INTEGER PRIMARY KEY, kind UNIQUE, x)", "INSERT INTO parts VALUES (1, 'a', 7)"];
    let more = ["INSERT INTO parts VALUES (2, 'b', 7)", "UPDATE OR REPLACE parts SET kind = 'a' WHERE id = 2"];
    let statements = [&made, &others[..], &more].concat();
    let (turns, all) = turns_of(&statements, "parts", "x = 7");
    let all = &all[all.len() - statements.len()..];
    assert_eq!(turns, [all[1], all[statements.len() - 2], all[statements.len() - 1]]);
}

#[test]
fn before_a_column_is_there_no_row_matches() {
    // SQLite took a name in double quotes for a string there, and rows matched that do not.
    let statements = [
        "CREATE TABLE parts (id INTEGER PRIMARY KEY)",
        "INSERT INTO parts VALUES (1)",
        "ALTER TABLE parts ADD COLUMN kind",
        "UPDATE parts SET kind = 'new'",
    ];
    let (turns, all) = turns_of(&statements, "parts", "typeof(\"kind\") = 'text'");
    assert_eq!(turns, [all[all.len() - 1]]);
}

/// Irrelevant statements, so many that later ones are in another log.
fn others() -> Vec<&'static str> {
    vec!["INSERT INTO payments (note, amount) VALUES ('other', 1)"; 60]
}

#[test]
fn a_table_is_emptied_with_any_name_and_any_comment() {
    for (table, delete) in [
        ("no_such", "DELETE FROM no_such"),
        ("no_such", "DELETE FROM \"no_such\" -- WHERE id = 1"),
        ("'a WHERE b'", "DELETE FROM [a WHERE b]"),
    ] {
        let made = [
            format!("CREATE TABLE {table} (id INTEGER PRIMARY KEY, x)"),
            format!("INSERT INTO {table} VALUES (1, 7), (2, 8), (3, 7)"),
        ];
        let made: Vec<&str> = made.iter().map(String::as_str).collect();
        let statements = [&made[..], &others(), &[delete]].concat();
        let (turns, all) = turns_of(&statements, table.trim_matches('\''), "x = 7");
        assert_eq!(turns, [all[all.len() - 62], all[all.len() - 1]], "{delete}");
    }
}

/// The result of a search over a new history.
fn outcome(statements: &[&str], table: &str, condition: &str, from: usize) -> Result<Vec<usize>, String> {
    let mut node = Node::new("");
    let mut recording = node.record_within(SHORT);
    for statement in statements {
        write(&mut node, &mut recording, &statement.split("; ").map(str::to_owned).collect::<Vec<_>>());
    }
    let backup = node.backup();
    let (history, _) = backup.read_history();
    let all = versions(&history);
    // Number 0 is what was there before the first statement.
    let all = &all[all.len() - statements.len() - 1..];
    let found = find(&backup, &history, (&all[from], &all[all.len() - 1]), table, condition);
    let position = |turn: &super::Transition| all.iter().position(|version| version.seq == turn.version.seq).unwrap();
    found.map(|found| found.turns.iter().map(position).collect()).map_err(|error| error.to_string())
}

#[test]
fn nothing_is_said_across_a_version_from_which_names_are_other_ones() {
    let make = "CREATE TABLE parts (k TEXT PRIMARY KEY, x) WITHOUT ROWID";
    let fill = "INSERT INTO parts VALUES ('a', 1), ('b', 2)";
    let more = "INSERT INTO parts VALUES ('c', 1)";
    let rebuilt = "CREATE TABLE n (k INTEGER PRIMARY KEY, x); INSERT INTO n SELECT rowid, x FROM (SELECT 1 AS rowid, 1 AS x); \
         DROP TABLE parts; ALTER TABLE n RENAME TO parts";
    for (rename, table, condition, why) in [
        ("ALTER TABLE parts RENAME COLUMN k TO key", "parts", "x = 1", Some("it has key there in place of k")),
        ("ALTER TABLE parts RENAME COLUMN x TO y", "parts", "y = 1", Some("it has y there in place of x")),
        ("ALTER TABLE parts RENAME COLUMN x TO y", "parts", "\"y\" = 1", Some("it has y there in place of x")),
        ("ALTER TABLE parts RENAME COLUMN x TO y", "parts", "x = 1", Some("it has y there in place of x")),
        ("ALTER TABLE parts RENAME TO pieces", "pieces", "x = 1", Some("it was called parts before")),
        ("ALTER TABLE parts RENAME TO pieces", "parts", "x = 1", Some("it is called pieces from there on")),
        (rebuilt, "parts", "rowid = 1 OR x = 1", Some("its key is another one from there on")),
        ("ALTER TABLE parts RENAME COLUMN x TO y", "parts", "k = 'a'", None),
        ("ALTER TABLE parts ADD COLUMN z DEFAULT 1", "parts", "z = 1", None),
    ] {
        let after = if table == "pieces" { more.replace("parts", "pieces") } else { more.to_owned() };
        let after = if rename.contains("TO pieces") { after.replace("parts", "pieces") } else { after };
        let after = match rename {
            _ if rename == rebuilt => "INSERT INTO parts VALUES (7, 1)",
            _ if rename.contains("ADD COLUMN") => "INSERT INTO parts VALUES ('c', 1, 1)",
            _ => after.as_str(),
        };
        let statements = [&[make, fill][..], &others(), &[rename, after]].concat();
        let at = statements.len() - 1;
        let found = outcome(&statements, table, condition, 2);
        match why {
            Some(why) => {
                assert!(found.as_ref().is_err_and(|error| error.contains(why)), "{rename}: {condition}: {found:?}")
            }
            None => assert!(found.is_ok(), "{rename}: {condition}: {found:?}"),
        }
        // From there on it means something again, and so it did before.
        let behind = outcome(&statements, table, condition, at);
        let checked_before = condition.starts_with('x') && rename.contains("COLUMN x")
            || table == "parts" && rename.contains("TO pieces");
        if checked_before {
            assert!(behind.is_err(), "{rename}: {condition}: {behind:?}");
        } else {
            behind.unwrap_or_else(|error| panic!("{rename}: {condition}: {error}"));
        }
    }
}

#[test]
fn a_trigger_that_is_not_there_any_more_is_known_of_where_it_was() {
    let made = [
        "CREATE TABLE parts (id INTEGER PRIMARY KEY, kind)",
        "CREATE TABLE marks (id INTEGER PRIMARY KEY, part)",
        "CREATE TRIGGER gone AFTER INSERT ON marks BEGIN DELETE FROM parts;END",
        "INSERT INTO parts VALUES (1, 'a'), (2, 'a')",
    ];
    let statements =
        [&made[..], &others(), &["INSERT INTO marks VALUES (1, 2)"], &others(), &["DROP TRIGGER gone"]].concat();
    assert_eq!(outcome(&statements, "parts", "kind = 'a'", 0), Ok(vec![4, 65]));
}

#[test]
fn what_sqlite_counts_by_itself_is_found() {
    let made = ["CREATE TABLE parts (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO parts VALUES (5)"];
    let statements = [&made[..], &others(), &["INSERT INTO parts DEFAULT VALUES"]].concat();
    assert_eq!(outcome(&statements, "sqlite_sequence", "name = 'parts' AND seq = 6", 0), Ok(vec![63]));
}

#[test]
fn rows_without_a_key_count_as_often_as_they_are_there() {
    let made = ["CREATE TABLE parts (rowid, oid, _rowid_)", "INSERT INTO parts VALUES (1, 1, 1), (1, 1, 1), (2, 2, 2)"];
    let statements = [&made[..], &others(), &["DELETE FROM parts WHERE rowid = 1"]].concat();
    let mut node = Node::new("");
    let mut recording = node.record_within(SHORT);
    for statement in &statements {
        write(&mut node, &mut recording, &[(*statement).to_owned()]);
    }
    let backup = node.backup();
    let (history, _) = backup.read_history();
    let all = versions(&history);
    let found = find(&backup, &history, (&all[0], &all[all.len() - 1]), "parts", "oid = 1").unwrap();
    assert_eq!(
        found.turns.iter().map(|turn| (turn.began.len(), turn.ended.len(), turn.matches)).collect::<Vec<_>>(),
        [(2, 0, 2), (0, 2, 0)]
    );
}

/// With any damaged byte of a segment: the result for versions that can all be opened is the same as before.
#[test]
fn damage_outside_of_what_is_asked_about_does_not_matter() {
    let mut node = Node::new("");
    let mut recording = node.record_within(SHORT);
    for number in 0..60_u32 {
        let update =
            format!("INSERT OR REPLACE INTO payments (id, note, amount) VALUES ({}, 'n', {number})", number % 7 + 1);
        write(&mut node, &mut recording, &[update, "DELETE FROM payments WHERE amount = 3".to_owned()]);
    }
    drop(recording);
    let mut sealer = crate::seal::Sealer::new(node.backup(), SHORT).unwrap();
    sealer.advance(format::units::Seq::new(u64::MAX).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap();
    let backup = node.backup();
    let (history, _) = backup.read_history();
    let all = versions(&history);
    let segment = *history.sealed().last().unwrap();
    let behind = all.iter().position(|version| !history.is_sealed(version.seq)).unwrap();
    let inside = all.iter().position(|version| version.seq >= segment).unwrap();
    assert!(all.len() - behind > 5 && behind - inside > 5 && inside > 5);
    let ask = |backup: &std::sync::Arc<Backup>, first: usize, last: usize| {
        let (history, _) = backup.read_history();
        let ends = (&all[first], &all[last]);
        let opens = |version: &Version| {
            let opened = history.plan(version).is_ok_and(|plan| {
                View::build(backup, &plan, None).is_ok_and(|view| {
                    let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
                    view.read_at(0, &mut bytes).is_ok()
                })
            });
            opened && history.records_of(version).is_ok_and(|addresses| backup.statements(&addresses).is_ok())
        };
        if !all[first..=last].iter().all(opens) {
            return None;
        }
        let found =
            find(backup, &history, ends, "payments", "amount % 5 = 2").map(|found| format!("{:?}", found.turns));
        let mut rows = Vec::new();
        let compared = crate::diff::diff(backup, &history, ends, &[], &mut |entry| {
            rows.push(format!("{entry:?}"));
            ControlFlow::Continue(())
        });
        Some((found.map_err(|error| error.to_string()), compared.map(|()| rows).map_err(|error| error.to_string())))
    };
    let ranges = [
        (0, inside - 2),
        (2, inside - 1),
        (inside, inside + 3),
        (behind - 4, behind - 2),
        (behind, all.len() - 1),
        (behind + 1, behind + 3),
    ];
    let expected = ranges.map(|(first, last)| ask(&backup, first, last).unwrap());
    let file = backup.path().join(format::names::segment(segment));
    let bytes = std::fs::read(&file).unwrap();
    let mut whole = [0; 6];
    for at in (0..bytes.len()).step_by(bytes.len() / 25) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&file, &damaged).unwrap();
        for (number, (first, last)) in ranges.into_iter().enumerate() {
            if let Some(answer) = ask(&node.backup(), first, last) {
                assert_eq!(answer, expected[number], "byte {at}, {first} to {last}");
                whole[number] += 1;
            }
        }
    }
    assert!(whole.iter().all(|&whole| whole > 2), "{whole:?}");
}

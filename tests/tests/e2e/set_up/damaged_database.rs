//! The node's own database is damaged, or violates its foreign keys, before anything is recorded: nobody is left to find that
//! out at a restore, what is there is kept all the same, and there is a way to get it back.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::DataVersion;
use rusqlite::Connection;
use serde_json::{Value, json};
use tests::cli::{Ran, backupfs};
use tests::home::{Home, everything};
use tests::python_file::PythonFile;
use tests::small_node::{NODE_ID, SmallNode, bump, creation};

/// A database of a node at version 1, with old rows on some hundred pages that no later transaction touches.
fn home_with_database(schema: &str) -> Home {
    let home = Home::new();
    let connection = Connection::open(home.database()).expect("a database");
    connection.execute_batch(&creation(NODE_ID).join(";")).expect("a database");
    connection
        .execute_batch(
            "CREATE TABLE old (id INTEGER PRIMARY KEY, what BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
             INSERT INTO old SELECT i, randomblob(1000) FROM n",
        )
        .expect("a database");
    connection.execute_batch(schema).expect("a database");
    home
}

/// Zeroes a page with old rows.
fn damage(database: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(database).expect("a database");
    let pages = file.metadata().expect("a database").len() / 4096;
    let mut page = vec![0; 4096];
    // A leaf of a table (SQLite file format, section 1.6) with three or four rows of a thousand bytes.
    let number = (1..pages).rev().find(|number| {
        file.read_exact_at(&mut page, number * 4096).expect("a database");
        page[0] == 13 && (3..=4).contains(&page[4])
    });
    file.write_all_at(&[0; 4096], number.expect("a leaf") * 4096).expect("a database");
}

fn run(words: &[&str], paths: &[&OsStr]) -> Ran {
    let words = words.iter().map(|word| -> &OsStr { word.as_ref() });
    backupfs(&words.chain(paths.iter().copied()).collect::<Vec<_>>())
}

fn init(home: &Home, options: &[&str]) -> Ran {
    let (lightning_dir, backup) = (home.lightning_dir(), home.backup());
    run(&[&["init"], options, &["--lightning-dir"]].concat(), &[lightning_dir.as_ref(), backup.as_ref()])
}

fn restore(home: &Home, to: &Path, options: &[&str]) -> Ran {
    run(&[&["restore"], options].concat(), &[home.backup().as_ref(), to.as_ref()])
}

fn json_of(command: &str, home: &Home) -> Value {
    let ran = run(&[command, "--json"], &[home.backup().as_ref()]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn reported_by_recorder(node: &mut SmallNode) -> Value {
    node.backup_status()["database_damage"].clone()
}

#[test]
fn a_damaged_database_is_backed_up_reported_at_every_turn_and_can_be_had_back() {
    let home = home_with_database("");
    damage(&home.database());
    let ran = init(&home, &[]).expect_done("init");
    assert!(ran.stderr.contains("DAMAGED") && ran.stderr.contains("quick_check"), "{ran:?}");

    let damage = json_of("status", &home)["database_damage"].clone();
    assert_eq!(damage["data_version"], 1, "{damage}");
    let mut node = SmallNode::at(home);
    for run in 0..2 {
        // Another recorder knows it from the backup.
        node.start();
        node.commit();
        node.lightningd.init().unwrap();
        let mut told = Value::Null;
        for _ in 0..200 {
            told = reported_by_recorder(&mut node);
            if told == damage {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(told, damage, "run {run}");
        node.stop();
    }
    let home = node.home;

    let ran = run(&["verify"], &[home.backup().as_ref()]).expect_refused(1, &["the node's own database is damaged"]);
    assert!(!ran.stderr.contains("the backup is damaged"), "{ran:?}");
    let verified = json_of("verify", &home);
    let kinds: Vec<&Value> = verified["findings"].as_array().unwrap().iter().map(|found| &found["kind"]).collect();
    assert_eq!((kinds, &verified["clean"]), (vec![&json!("node_database")], &json!(false)));
    assert_eq!(verified["warnings"][0]["kind"], "node_database", "{verified}");

    let restored = home.join("restored.sqlite3");
    restore(&home, &restored, &[]).expect_refused(1, &["quick_check", "--accept-damaged", "backupfs verify"]);
    assert!(!restored.exists());
    let ran = restore(&home, &restored, &["--accept-damaged", "--verify"]).expect_done("restore --accept-damaged");
    assert!(ran.stderr.contains("DAMAGED") && ran.stderr.contains("quick_check"), "{ran:?}");
    let count = |path: &Path| -> i64 {
        Connection::open(path).unwrap().query_row("SELECT count(*) FROM invoices", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count(&restored), count(&home.database()));
}

#[test]
fn a_whole_backup_is_not_replaced_by_one_of_a_damaged_database() {
    let home = home_with_database("");
    home.init();
    let mut node = SmallNode::at(home);
    node.start();
    node.commit();
    node.stop();
    let home = node.home;
    damage(&home.database());
    let before = home.everything();
    init(&home, &["--replace"]).expect_refused(2, &["damaged", "whole up to version 2", "backupfs restore"]);
    assert!(home.everything() == before, "nothing is renamed, and nothing is left");

    let ran = init(&home, &["--replace", "--accept-damaged-database"]).expect_done("init --replace");
    assert!(ran.stderr.contains("DAMAGED"), "{ran:?}");
    // The old one is damaged like this one now: to keep it is worth nothing.
    init(&home, &["--replace"]).expect_done("init --replace");
    init(&home, &["--accept-damaged-database"]).expect_refused(2, &["--replace"]);
}

#[test]
fn foreign_keys_that_the_node_violates_are_a_warning() {
    let home = home_with_database("PRAGMA foreign_keys = OFF; INSERT INTO htlcs (id, invoice) VALUES (1, 77777)");
    home.init();
    let mut node = SmallNode::at(home);
    node.start();
    node.commit();
    node.stop();
    let before = everything(&node.home.backup());
    let ran = run(&["verify"], &[node.home.backup().as_ref()]).expect_done("verify");
    assert!(ran.stdout.contains("warning: the node's own database violates foreign keys"), "{ran:?}");
    assert!(ran.stdout.contains("nothing is wrong with the backup") && !ran.stdout.contains("77777"), "{ran:?}");
    let verified = json_of("verify", &node.home);
    assert_eq!((&verified["clean"], &verified["warnings"][0]["kind"]), (&json!(true), &json!("foreign_keys")));
    assert_eq!(verified["warnings"][0]["data_version"], 2);
    assert!(everything(&node.home.backup()) == before, "verify has changed something");
}

#[test]
fn an_import_tells_of_a_damaged_copy_and_of_a_damaged_node() {
    let home = home_with_database("");
    damage(&home.database());
    let (file, mut theirs) = (home.join("file.bkp"), PythonFile::default());
    theirs.snapshot(1, &fs::read(home.database()).unwrap());
    let next = DataVersion::new(2);
    theirs.change(2, &["INSERT INTO invoices (label) VALUES ('tea')".to_owned(), bump(next)]);
    fs::write(&file, theirs.bytes()).unwrap();

    let (lightning_dir, backup) = (home.lightning_dir(), home.backup());
    let paths = [lightning_dir.as_ref(), file.as_ref(), backup.as_ref()];
    let ran = run(&["import", "--lightning-dir"], &paths).expect_done("import");
    let (of_copy, of_node) = ("begins with is DAMAGED", "the node's database is DAMAGED");
    assert!(ran.stderr.contains(of_copy) && ran.stderr.contains(of_node), "{ran:?}");
    assert_eq!(json_of("status", &home)["database_damage"]["data_version"], 1);
    let restored = home.join("restored.sqlite3");
    restore(&home, &restored, &[]).expect_refused(1, &["--accept-damaged"]);
    restore(&home, &restored, &["--accept-damaged"]).expect_done("restore --accept-damaged");
}

#[test]
fn virtual_tables_are_reported_at_init() {
    let home = home_with_database("CREATE VIRTUAL TABLE found USING fts5(label)");
    let ran = init(&home, &[]).expect_done("init");
    assert!(ran.stderr.contains("virtual table found") && ran.stderr.contains("not supported"), "{ran:?}");
    assert!(!ran.stderr.contains("DAMAGED"), "{ran:?}");
    restore(&home, &home.join("restored.sqlite3"), &[]).expect_done("restore");
}

//! A node that comes from the Python plugin: beside it, and in its place.

use std::fs;
use std::path::PathBuf;

use common::DataVersion;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::python_file::{self, PythonFile};
use tests::small_node::{NODE_ID, SmallNode, bump, creation};
use tests::{cli, compare};

/// A node whose database and whose plugin have seen these versions, and the file of the plugin.
fn node(in_database: u32, in_file: u32) -> (Home, PathBuf) {
    let home = Home::new();
    let database = rusqlite::Connection::open(home.database()).expect("a database");
    let mut file = PythonFile::default();
    for version in 1..=in_database.max(in_file) {
        let statements = match version {
            1 => creation(NODE_ID),
            _ => vec![format!("INSERT INTO invoices (label) VALUES ('{version}')"), bump(DataVersion::new(version))],
        };
        if version <= in_database {
            for statement in &statements {
                database.execute_batch(statement).expect("a statement");
            }
        }
        if version <= in_file {
            file.change(version, &statements);
        }
    }
    let path = home.join("file.bkp");
    fs::write(&path, file.bytes()).expect("a file");
    (home, path)
}

/// `backup.lock` as the plugin writes it.
fn python_lock(path: &std::path::Path) -> String {
    format!(r#"{{"backend_url": "file://{}"}}"#, path.display())
}

fn import(home: &Home, file: &std::path::Path) -> cli::Ran {
    let [lightning_dir, backup] = [home.lightning_dir(), home.backup()];
    let arguments = ["import".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), file.as_os_str()];
    cli::backupfs(&[&arguments[..], &[backup.as_os_str()]].concat())
}

fn versions(node: &SmallNode, status: Status) -> Vec<u32> {
    listing::with_status(&listing::versions(&node.home.backup(), &[]), status)
}

/// Exports the newest version and restores it as the plugin does, which must yield the node's database; the versions of the
/// records.
fn exported_versions(node: &SmallNode) -> Vec<u32> {
    let [backup, to, python] = [node.home.backup(), node.home.join("exported.bkp"), node.home.join("python.sqlite3")];
    cli::backupfs(&["export".as_ref(), backup.as_os_str(), to.as_os_str()]).expect_done("export");
    let bytes = fs::read(&to).expect("what was exported");
    drop(python_file::restored(&bytes, &python));
    compare::same_contents(&node.home.database(), &python, &[]).expect("the plugin restores what the node has");
    python_file::records(&bytes).iter().map(|record| record.version).collect()
}

#[test]
fn init_beside_the_python_plugin_offers_the_import_and_touches_nothing_of_it() {
    let (home, file) = node(5, 5);
    let theirs = python_lock(&file);
    home.write_backup_lock(&theirs);
    let bytes = fs::read(&file).unwrap();
    let mut node = SmallNode::at(home);
    let said = node.home.init().stdout;
    for needle in ["backupfs import --lightning-dir", "side by side", "backupfs.lock", file.to_str().unwrap()] {
        assert!(said.contains(needle), "no {needle} in {said}");
    }
    node.start();
    node.commit();
    node.expect_restorable();
    node.stop();
    assert_eq!(fs::read_to_string(node.home.backup_lock()).unwrap(), theirs);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    // One backup of ours is enough.
    let [lightning_dir, another] = [node.home.lightning_dir(), node.home.join("another.bkp")];
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), another.as_os_str()];
    cli::backupfs(&init).expect_refused(2, &["backupfs.lock exists"]);
    import(&node.home, &file).expect_refused(2, &["backupfs.lock exists"]);
    // A new one takes its place under the same name.
    let backup = node.home.backup();
    let replace = [&init[..3], &["--replace".as_ref(), backup.as_os_str()]].concat();
    let said = cli::backupfs(&replace).expect_done("init --replace").stdout;
    assert!(said.contains("backupfs.lock.replaced-"), "{said}");
    node.start();
    node.commit();
    node.expect_restorable();
    assert_eq!(fs::read_to_string(node.home.backup_lock()).unwrap(), theirs);
}

/// The node died in the middle of a transaction, as it does when a plugin refuses one.
#[test]
fn the_lock_of_the_plugin_is_no_place_to_record_to() {
    let (home, file) = node(5, 5);
    home.write_backup_lock(&python_lock(&file));
    home.set_in_backup_lock("on_unreachable", "stop".into());
    let mut node = SmallNode::at(home);
    let refused = node.start_refused();
    assert!(refused.contains("backupfs import"), "{refused}");
    node.lightningd.kill();
    let said = import(&node.home, &file).expect_done("import").stdout;
    assert!(said.contains("rolls back"), "{said}");
    node.start();
    node.commit();
    node.expect_restorable();
    assert_eq!(versions(&node, Status::Recorded), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_recorder_goes_on_where_the_plugin_stopped() {
    for beside in [false, true] {
        let (home, file) = node(5, 5);
        if beside {
            home.write_backup_lock(&python_lock(&file));
        }
        let said = import(&home, &file).expect_done("import").stdout;
        assert!(said.contains("is at version 5, too") && said.contains("important-plugin"), "{said}");
        assert_eq!(said.contains("side by side"), beside, "{said}");
        assert_eq!(home.lightning_dir().join("backupfs.lock").exists(), beside);
        let mut node = SmallNode::at(home);
        node.start();
        node.commit();
        node.commit();
        node.expect_restorable();
        assert_eq!(versions(&node, Status::Recorded), [1, 2, 3, 4, 5, 6, 7]);
        assert!(versions(&node, Status::Missing).is_empty());
        node.stop();
        cli::backupfs(&["verify".as_ref(), node.home.backup().as_os_str()]).expect_done("verify");
    }
}

#[test]
fn what_the_plugin_has_missed_is_healed() {
    let (home, file) = node(7, 5);
    let said = import(&home, &file).expect_done("import").stdout;
    assert!(said.contains("is at version 7"), "{said}");
    let mut node = SmallNode::at(home);
    node.start();
    node.commit();
    node.expect_restorable();
    assert_eq!(versions(&node, Status::Missing), [6]);
    assert_eq!(versions(&node, Status::Recorded), [1, 2, 3, 4, 5, 7, 8]);
    // Back to the plugin: from where the history has no gap.
    assert_eq!(exported_versions(&node), [7, 8]);
}

#[test]
fn a_newest_change_that_was_never_committed_is_rewound() {
    let (home, file) = node(4, 5);
    let said = import(&home, &file).expect_done("import").stdout;
    assert!(said.contains("is at version 4") && said.contains("rewinds"), "{said}");
    let mut node = SmallNode::at(home);
    node.start();
    node.commit();
    node.expect_restorable();
    assert_eq!(versions(&node, Status::Rewound), [5]);
    assert_eq!(exported_versions(&node), [1, 2, 3, 4, 5]);
}

/// What went wrong: the file ends with a change that was never committed, and the node has made another one of the same number
/// since, of which the plugin knows nothing.
#[test]
fn a_newest_change_that_is_another_one_is_replaced() {
    let (home, file) = node(5, 5);
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database.execute_batch("UPDATE invoices SET label = 'another 5' WHERE label = '5'").unwrap();
    drop(database);
    import(&home, &file).expect_done("import");
    let mut node = SmallNode::at(home);
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn a_node_on_an_old_state_is_not_connected() {
    let (home, file) = node(3, 5);
    let before = home.everything();
    import(&home, &file).expect_refused(2, &["version 3", "version 5", "do not run it"]);
    assert_eq!(home.everything(), before, "nothing is made");
}

#[test]
fn the_directory_above_those_of_the_networks_is_no_node() {
    // The recorder never looks there, and the import said that all was well.
    let (home, file) = node(5, 5);
    let above = home.join("above");
    fs::create_dir_all(above.join("testnet")).unwrap();
    let before = home.everything();
    let backup = home.backup();
    let arguments = ["import".as_ref(), "--lightning-dir".as_ref(), above.as_os_str(), file.as_os_str()];
    let ran = cli::backupfs(&[&arguments[..], &[backup.as_os_str()]].concat());
    ran.expect_refused(2, &["a directory for each network", "testnet"]);
    assert_eq!(home.everything(), before, "nothing is made");
}

//! `backupfs import` and `export`: from the Python plugin's file and back to it.

use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::python_plugin::{ExportError, ImportError, OnDamage, PythonFile as Reader, export_backup, import_backup};
use common::{Backup, BackupUrl, DataVersion, counted};
use proptest::prelude::*;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::python_file::{self, PythonFile, Record};
use tests::python_node::{History, expect_newest, import, transaction};
use tests::small_node::{NODE_ID, bump, creation};
use tests::{binaries, cli, compare, traces, wait};

fn export(home: &Home, file: &Path, more: &[&str]) -> cli::Ran {
    let backup = home.backup();
    let mut arguments = vec![OsStr::new("export"), backup.as_os_str(), file.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    cli::backupfs(&arguments)
}

/// What was lost: the plugin's own restore executes what was never committed, too. It was there twice in a row, in the middle
/// of the file, behind a rider, and before one.
#[test]
fn what_was_never_committed_is_left_out_and_riders_are_kept() {
    let home = Home::new();
    let mut node = History::new(&home);
    node.rider("PRAGMA foreign_keys = OFF;");
    node.next();
    node.rider("PRAGMA foreign_keys = ON;");
    node.die(1);
    node.die(2);
    node.next();
    for _ in 0..5 {
        node.next();
    }
    node.die(1);
    node.next();
    node.rider("PRAGMA foreign_keys = ON;");
    node.next();
    let file = node.write(&home);

    let said = import(&home, &file, &[]).expect_done("import").stdout;
    assert_eq!(said.matches("left out").count(), 3, "{said}");
    assert!(said.contains("version 3 (byte") && said.contains("version 9 (byte"), "{said}");
    let listed = listing::versions(&home.backup(), &[]);
    assert_eq!(listing::with_status(&listed, Status::Recorded), (1..=10).collect::<Vec<u32>>());
    expect_newest(&home, &home.database());
    cli::backupfs(&["verify".as_ref(), home.backup().as_os_str()]).expect_done("verify");

    // What is exported is the same without what never happened, and the plugin restores it.
    let exported = home.join("exported.bkp");
    export(&home, &exported, &[]).expect_done("export");
    let bytes = fs::read(&exported).unwrap();
    let versions: Vec<u32> = python_file::records(&bytes).iter().map(|record| record.version).collect();
    assert_eq!(versions, [1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10]);
    drop(python_file::restored(&bytes, &home.join("python.sqlite3")));
    compare::same_contents(&home.database(), &home.join("python.sqlite3"), &[]).unwrap();
}

#[test]
fn a_snapshot_is_where_the_history_begins() {
    let home = Home::new();
    let mut node = History::new(&home);
    for _ in 0..6 {
        node.next();
    }
    // As the plugin's `init` does with a database that is there.
    node.file = PythonFile::default();
    node.file.snapshot(node.version, &fs::read(home.database()).unwrap());
    node.next();
    let at_8 = fs::read(home.database()).unwrap();
    node.next();
    let file = node.write(&home);
    import(&home, &file, &[]).expect_done("import");
    expect_newest(&home, &home.database());

    // Back again it is the same file, and an earlier version is the beginning of it.
    let exported = home.join("exported.bkp");
    export(&home, &exported, &[]).expect_done("export");
    assert_eq!(python_file::records(&fs::read(&exported).unwrap()), python_file::records(&fs::read(&file).unwrap()));
    let earlier = home.join("earlier.bkp");
    let ran = export(&home, &earlier, &["--version", "8"]).expect_done("export");
    assert!(ran.stderr.contains("revoked"), "it says what starting a node on it can cost: {ran:?}");
    drop(python_file::restored(&fs::read(&earlier).unwrap(), &home.join("python.sqlite3")));
    fs::write(home.join("at-8.sqlite3"), at_8).unwrap();
    compare::same_contents(&home.join("at-8.sqlite3"), &home.join("python.sqlite3"), &[]).unwrap();

    export(&home, &home.join("none"), &["--version", "3"]).expect_refused(2, &["version 3", "nearest"]);
    export(&home, &earlier, &[]).expect_refused(2, &["exists"]);
    export(&home, &home.backup().join("x"), &[]).expect_refused(2, &["inside the backup"]);
    export(&home, &home.join("no/where"), &[]).expect_refused(2, &["no directory"]);
}

/// Every bad file: it is said what is wrong, and nothing is made.
#[test]
fn what_is_no_whole_file_of_the_plugin_is_refused() {
    let home = Home::new();
    let mut node = History::new(&home);
    for _ in 0..4 {
        node.next();
    }
    let database = fs::read(home.database()).unwrap();
    let good = node.file.bytes();
    let spoilt = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let continued = |more: &dyn Fn(&mut PythonFile)| {
        let mut file = node.file.clone();
        more(&mut file);
        file.bytes()
    };
    let begun = |more: &dyn Fn(&mut PythonFile)| {
        let mut file = PythonFile::default();
        more(&mut file);
        file.bytes()
    };
    let second = 512 + 9 + creation(NODE_ID).join("\0").len();
    let at_second = format!("byte {second}");
    let at_second = at_second.as_str();
    let behind = |file: Vec<u8>, bytes: &[u8]| [file, bytes.to_vec()].concat();
    let cases: Vec<(&str, Vec<u8>, Vec<&str>)> = vec![
        ("empty", Vec::new(), vec!["not a file of the Python plugin"]),
        ("text", b"CREATE TABLE ".repeat(100), vec!["not a file of the Python plugin"]),
        ("a database", database.clone(), vec!["not a file of the Python plugin"]),
        ("another release", spoilt(3, &[2]), vec!["version 2"]),
        ("only a header", PythonFile::default().bytes(), vec!["no version", "backupfs init"]),
        ("cut in its header", good[..300].to_vec(), vec!["not a file of the Python plugin"]),
        ("a length beyond the file", spoilt(second, &[0xff]), vec![at_second, "claims"]),
        ("an unknown type", spoilt(second + 8, &[3]), vec![at_second, "type is 3"]),
        ("no text", spoilt(second + 9, &[0xff]), vec![at_second, "UTF-8"]),
        ("a gap", continued(&|file| file.change(7, &transaction(7, 0))), vec!["version 7 follows 5", "missing"]),
        ("backwards", continued(&|file| file.change(4, &transaction(4, 0))), vec!["version 4 follows 5", "backwards"]),
        ("no beginning", begun(&|file| file.change(9, &transaction(9, 0))), vec!["version 9", "beginning is missing"]),
        ("a snapshot of nothing", begun(&|file| file.snapshot(5, &[7; 4096])), vec!["no SQLite database"]),
        ("half a snapshot", begun(&|file| file.snapshot(5, &database[..5000])), vec!["no SQLite database"]),
        ("another snapshot", begun(&|file| file.snapshot(4, &database)), vec!["version 4", "version 5"]),
        (
            "a statement that fails",
            continued(&|file| file.change(6, &["DROP TABLE absent".to_owned(), bump(DataVersion::new(6))])),
            vec![
                "statement 1 of version 6",
                "no such table",
                "backupfs init",
                "not by the Python plugin either",
                "--until-damage",
            ],
        ),
        (
            "what the plugin does not notice",
            continued(&|file| file.change(6, &["UPDATE vars SET intval = 3".to_owned(), bump(DataVersion::new(6))])),
            vec!["version 6", "restored beyond this; `--until-damage`"],
        ),
        ("zeros in the middle", behind(behind(good.clone(), &[0; 64]), &[1; 64]), vec!["type is 0", "up to version 5"]),
    ];
    let file = home.join("file.bkp");
    for (what, bytes, needles) in cases {
        fs::write(&file, bytes).unwrap();
        let before = home.everything();
        let ran = import(&home, &file, &[]);
        assert!(ran.stdout.is_empty(), "{what}: {ran:?}");
        println!("{what}: {}", ran.stderr.trim_end());
        ran.expect_refused(2, &needles);
        assert_eq!(home.everything(), before, "{what}: nothing is made");
    }
    import(&home, &home.join("none"), &[]).expect_refused(2, &["none", "No such file"]);
    import(&home, &home.lightning_dir(), &[]).expect_refused(2, &["not a regular file"]);
    import(&home, Path::new("socket:127.0.0.1:8700"), &[]).expect_refused(2, &["path of a file"]);
    fs::write(&file, &good).unwrap();
    fs::create_dir(home.backup()).unwrap();
    fs::write(home.backup().join("mine"), "precious").unwrap();
    import(&home, &file, &[]).expect_refused(2, &["not an empty directory"]);
    assert_eq!(fs::read(home.backup().join("mine")).unwrap(), b"precious");
    fs::remove_dir_all(home.backup()).unwrap();
    let as_url = format!("file://{}", file.display());
    import(&home, Path::new(&as_url), &[]).expect_done("the file is a good one");
}

/// The plugin was killed in the middle of its work: what it had not answered was not committed, or is rewound.
#[test]
fn what_the_plugin_had_not_answered_does_no_harm() {
    let home = Home::new();
    let mut node = History::new(&home);
    node.next();
    let before = node.file.bytes();
    let mut ahead = node.file.clone();
    ahead.change(3, &transaction(3, 0));
    let ahead = ahead.bytes();
    let file = home.join("file.bkp");
    // Its header was not written any more.
    fs::write(&file, [&before[..512], &ahead[512..]].concat()).unwrap();
    let said = import(&home, &file, &[]).expect_done("import").stdout;
    assert!(said.contains("version 3 is not in the header"), "{said}");
    assert_eq!(listing::versions(&home.backup(), &[]).len(), 3);
    fs::remove_dir_all(home.backup()).unwrap();
    // Nor was the record.
    for cut in [1, 8, 9, 30] {
        fs::write(&file, [&before, &ahead[before.len()..before.len() + cut]].concat()).unwrap();
        let said = import(&home, &file, &[]).expect_done("import").stdout;
        assert!(said.contains(&format!("the last {} (from byte {})", counted(cut, "byte"), before.len())), "{said}");
        expect_newest(&home, &home.database());
        fs::remove_dir_all(home.backup()).unwrap();
    }
}

/// Whatever is there after a kill: the whole backup, or nothing under its name, and the next attempt succeeds.
#[test]
fn a_killed_import_leaves_nothing_under_the_name() {
    let home = Home::new();
    let mut file = PythonFile::default();
    file.change(1, &creation(NODE_ID));
    for version in 2..20_000 {
        file.change(version, &[format!("UPDATE invoices SET msatoshi = {version}"), bump(DataVersion::new(version))]);
    }
    let path = home.join("file.bkp");
    fs::write(&path, file.bytes()).unwrap();
    let mut import_process = Command::new(binaries::backupfs());
    import_process.args([OsStr::new("import"), path.as_os_str(), home.backup().as_os_str()]);
    let mut child = import_process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let building = || {
        let names = fs::read_dir(home.join("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".backupfs-")).count()
    };
    let begun = wait::until_soon(Duration::from_secs(30), || building() > 0 || home.backup().exists());
    assert!(begun, "the import never began");
    child.kill().unwrap();
    child.wait().unwrap();
    if !home.backup().exists() {
        import(&home, &path, &[]).expect_done("the next attempt");
    }
    assert_eq!(listing::with_status(&listing::versions(&home.backup(), &[]), Status::Recorded).len(), 19_999);
}

#[test]
fn an_interrupted_import_and_an_interrupted_export_leave_nothing() {
    let home = Home::new();
    let mut node = History::new(&home);
    node.next();
    let file = node.write(&home);
    let url: BackupUrl = home.backup().to_str().unwrap().parse().unwrap();
    let before = home.everything();
    let file = Reader::open(&file).unwrap();
    let interrupted = import_backup(None, file, &url, OnDamage::Refuse, &|_| Ok(()), &mut |_| ControlFlow::Break(()));
    assert!(matches!(interrupted, Err(ImportError::Interrupted)), "{interrupted:?}");
    assert_eq!(home.everything(), before);
    import(&home, &home.join("file.bkp"), &[]).expect_done("import");
    let backup = Arc::new(Backup::open(&url).unwrap());
    let (history, read) = backup.read_history();
    read.unwrap();
    let before = home.everything();
    let (newest, to) = (history.newest().unwrap(), home.join("exported.bkp"));
    let interrupted = export_backup(&backup, &history, newest, &to, &mut |_| ControlFlow::Break(()));
    assert!(matches!(interrupted, Err(ExportError::Interrupted)), "{interrupted:?}");
    assert_eq!(home.everything(), before);
}

/// The records of a file that any node may have made, and what of them was committed.
fn any_records() -> impl Strategy<Value = Vec<(Vec<Vec<String>>, bool)>> {
    let text = "[^\0]{0,12}";
    // For each version: statements of each attempt at it, of which the last one counts; and whether a rider follows.
    let attempt = proptest::collection::vec(text, 0..3);
    proptest::collection::vec((proptest::collection::vec(attempt, 1..4), any::<bool>()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_imported_and_exported_is_what_was_committed(versions in any_records(), from_snapshot: bool) {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, mut committed) = (PythonFile::default(), PythonFile::default());
        if from_snapshot {
            let database = dir.path().join("db");
            let connection = rusqlite::Connection::open(&database).unwrap();
            let statements = creation(NODE_ID).iter().map(|sql| format!("{};", sql.trim_end_matches(';'))).collect::<String>();
            connection.execute_batch(&statements).unwrap();
            drop(connection);
            let database = fs::read(&database).unwrap();
            file.snapshot(1, &database);
            committed.snapshot(1, &database);
        } else {
            file.change(1, &creation(NODE_ID));
            committed.change(1, &creation(NODE_ID));
        }
        for (version, (attempts, rider)) in (2..).zip(&versions) {
            for (number, texts) in attempts.iter().enumerate() {
                let mut statements: Vec<String> = texts
                    .iter()
                    .map(|text| format!("INSERT INTO forwards (in_htlc, out_htlc, fee) SELECT count(*), {version}, '{}' FROM forwards", text.replace('\'', "''")))
                    .collect();
                statements.push(bump(DataVersion::new(version)));
                file.change(version, &statements);
                if number + 1 == attempts.len() {
                    committed.change(version, &statements);
                } else {
                    file.rewind();
                }
            }
            if *rider {
                file.change(version, &["PRAGMA foreign_keys = ON;"]);
                committed.change(version, &["PRAGMA foreign_keys = ON;"]);
            }
        }
        let [path, exported] = ["file.bkp", "exported.bkp"].map(|name| dir.path().join(name));
        fs::write(&path, file.bytes()).unwrap();
        let url: BackupUrl = dir.path().join("node.bkp").to_str().unwrap().parse().unwrap();
        let go_on = &mut |_| ControlFlow::Continue(());
        let read = Reader::open(&path).unwrap();
        let imported = import_backup(None, read, &url, OnDamage::Refuse, &|_| Ok(()), go_on).unwrap();
        let left_out: usize = versions.iter().map(|(attempts, _)| attempts.len() - 1).sum();
        prop_assert_eq!(imported.repairs.never_committed, left_out as u64);
        let backup = Arc::new(Backup::open(&url).unwrap());
        let (history, read) = backup.read_history();
        read.unwrap();
        export_backup(&backup, &history, history.newest().unwrap(), &exported, go_on).unwrap();
        let records: Vec<Record> = python_file::records(&fs::read(&exported).unwrap());
        prop_assert_eq!(records, python_file::records(&committed.bytes()));
    }
}

#[test]
fn real_files_become_backups_with_all_their_versions_and_the_same_files_again() {
    for (trace, file_name, end, first, last) in [
        ("python-backup/fresh", "file.bkp.zst", "end.sqlite3.zst", 1, 39),
        ("python-backup/snapshot", "file0.bkp.zst", "end0.sqlite3.zst", 12_506, 14_935),
    ] {
        let Some(folder) = traces::folder(trace) else { continue };
        let home = Home::new();
        let [file, expected, exported] = ["file.bkp", "end.sqlite3", "exported.bkp"].map(|name| home.join(name));
        assert!(folder.unpack(file_name, &file) && folder.unpack(end, &expected));
        import(&home, &file, &[]).expect_done("import");
        expect_newest(&home, &expected);
        let listed = listing::versions(&home.backup(), &[]);
        assert_eq!(listing::with_status(&listed, Status::Recorded), (first..=last).collect::<Vec<u32>>());
        cli::backupfs(&["verify".as_ref(), home.backup().as_os_str()]).expect_done("verify");
        export(&home, &exported, &[]).expect_done("export");
        assert!(fs::read(&exported).unwrap() == fs::read(&file).unwrap(), "{trace}: every byte is the same");
    }
}

#[test]
fn a_real_file_without_spaces_before_where_is_repaired() {
    let Some(folder) = traces::folder("python-backup") else { return };
    let home = Home::new();
    let said = import(&home, &folder.path().join("pre-4090-backup.dbak"), &[]).expect_done("import").stdout;
    assert!(said.contains("into 2 statements"), "{said}");
    assert_eq!(listing::versions(&home.backup(), &[]).len(), 46);
    let exported = home.join("exported.bkp");
    export(&home, &exported, &[]).expect_done("export");
    // Executed as they are, without the plugin's own repair.
    drop(python_file::restored(&fs::read(&exported).unwrap(), &home.join("python.sqlite3")));
    expect_newest(&home, &home.join("python.sqlite3"));
}

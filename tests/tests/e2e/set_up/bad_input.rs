//! What must not work, does not: it says why, says what to do, and changes nothing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Answer, Commit, RecorderProcess};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::home::{Home, everything};
use tests::mounted::{Mounted, fuse_is_here};
use tests::skip::skipped;
use tests::small_node::{NODE_ID, SmallNode, bump, creation};
use tests::{binaries, cli};

/// A stopped node with two versions.
fn stopped_node() -> SmallNode {
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    node
}

/// The first write is refused with a message that holds each of `needles`; neither the lightning-dir nor the backup is
/// changed by it.
#[track_caller]
fn refused_untouched(node: &mut SmallNode, needles: &[&str]) -> String {
    let before = untouchable(node);
    let message = node.start_refused();
    for needle in needles {
        assert!(message.to_lowercase().contains(&needle.to_lowercase()), "no {needle:?} in {message:?}");
    }
    // What a refusal leaves in the node's own files is the node's affair.
    node.data_version();
    let after = untouchable(node);
    let changed: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(*bytes)).collect();
    assert!(changed.is_empty(), "changed: {:?}", changed.iter().map(|(path, _)| path).collect::<Vec<_>>());
    assert_eq!(before.len(), after.len(), "created: {:?}", after.keys().filter(|path| !before.contains_key(*path)));
    message
}

/// Everything but the node's own database and what recorders said.
fn untouchable(node: &SmallNode) -> std::collections::BTreeMap<std::path::PathBuf, Option<Vec<u8>>> {
    let mut all = node.home.everything();
    let own = ["lightningd.sqlite3", "lightningd.sqlite3-journal", "recorder.stderr"];
    all.retain(|path, _| !own.iter().any(|name| path.file_name() == Some(OsStr::new(name))));
    all
}

#[test]
fn a_bad_backup_lock_is_refused_by_the_recorder() {
    let mut node = stopped_node();
    let good = fs::read_to_string(node.home.backup_lock()).unwrap();
    let url = format!("file://{}", node.home.backup().display());
    fs::remove_file(node.home.backup_lock()).unwrap();
    refused_untouched(&mut node, &["backup.lock", "backupfs init"]);
    let bad = [
        ("not json".to_owned(), "backup.lock"),
        (String::new(), "backup.lock"),
        ("{}".to_owned(), "backend_url"),
        (json!({"backend_url": 7}).to_string(), "string"),
        (json!({"backend_url": url, "on_gap": "pray"}).to_string(), "pray"),
        (json!({"backend_url": url, "on_gpa": "stop"}).to_string(), "on_gpa"),
        (json!({"backend_url": url, "backup_uuid": "x"}).to_string(), "backup_uuid"),
        (json!({"backend_url": url, "on_unreachable": "pray"}).to_string(), "on_unreachable"),
        (json!({"backend_url": url, "parity": "11%"}).to_string(), "parity"),
        (json!({"backend_url": url, "scrub": "often"}).to_string(), "scrub"),
        (json!({"backend_url": "s3://bucket/node"}).to_string(), "file://"),
    ];
    for (text, needle) in bad {
        node.home.write_backup_lock(&text);
        refused_untouched(&mut node, &["backup.lock", needle]);
    }
    node.home.write_backup_lock(&good);
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn a_bad_destination_is_refused_by_the_recorder() {
    let mut node = stopped_node();
    let aside = node.home.join("aside.bkp");
    // It would be waited for otherwise.
    node.home.set_in_backup_lock("on_unreachable", "stop".into());
    fs::rename(node.home.backup(), &aside).unwrap();
    refused_untouched(&mut node, &["node.bkp"]);
    fs::create_dir(node.home.backup()).unwrap();
    refused_untouched(&mut node, &["node.bkp", "not a backup"]);
    fs::write(node.home.backup().join("manifest"), "something else").unwrap();
    refused_untouched(&mut node, &["manifest"]);
    fs::write(node.home.backup().join("manifest"), newer_manifest(&aside)).unwrap();
    let message = refused_untouched(&mut node, &["node.bkp", "newer"]);
    assert!(!message.contains("not a backup"), "it is one: {message}");
    // What cannot be bad luck is told at once, however long anything else is waited for.
    node.home.set_in_backup_lock("on_unreachable", json!({"wait_s": 600}));
    let before = Instant::now();
    fs::remove_file(node.home.backup().join("manifest")).unwrap();
    fs::write(node.home.backup().join("letters.txt"), "a directory of something else").unwrap();
    refused_untouched(&mut node, &["node.bkp", "check the path"]);
    fs::remove_dir_all(node.home.backup()).unwrap();
    fs::write(node.home.backup(), "a file").unwrap();
    refused_untouched(&mut node, &["node.bkp", "not a directory"]);
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
}

/// The manifest of a backup with a format version that is not written yet.
fn newer_manifest(backup: &Path) -> Vec<u8> {
    let mut manifest = fs::read(backup.join("manifest")).expect("a backup has a manifest");
    // docs/format.md: eight bytes of magic, then the format version as a little-endian u32.
    manifest[8..12].copy_from_slice(&9_u32.to_le_bytes());
    manifest
}

#[test]
fn the_command_line_refuses_what_is_not_a_backup() {
    let node = stopped_node();
    let elsewhere = tempfile::tempdir().unwrap();
    let empty = elsewhere.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let newer = elsewhere.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("manifest"), newer_manifest(&node.home.backup())).unwrap();
    let target = elsewhere.path().join("target");
    fs::create_dir(&target).unwrap();
    let before = everything(elsewhere.path());
    let bad: [(&OsStr, &[&str]); 6] = [
        (OsStr::new("https://bucket/node"), &["https", "file://", "s3://"]),
        (OsStr::new("s3://bucket/node"), &["s3://bucket/node", "endpoint="]),
        (OsStr::new("/nowhere/at/all"), &["/nowhere/at/all"]),
        (empty.as_os_str(), &["not a backup"]),
        (newer.as_os_str(), &["newer"]),
        (OsStr::new("/etc/hostname"), &["/etc/hostname"]),
    ];
    for (url, needles) in bad {
        cli::backupfs(&[OsStr::new("versions"), url]).expect_refused(2, needles);
        cli::backupfs(&[OsStr::new("restore"), url, target.as_os_str()]).expect_refused(2, needles);
        cli::backupfs(&[OsStr::new("mount"), url, target.as_os_str()]).expect_refused(2, needles);
    }
    assert_eq!(everything(elsewhere.path()), before);
}

#[test]
fn init_never_takes_over_what_is_there() {
    let node = stopped_node();
    let before = node.home.everything();
    let [lightning_dir, backup] = [node.home.lightning_dir(), node.home.backup()];
    let init = |arguments: &[&Path]| {
        let arguments: Vec<_> =
            [Path::new("init")].iter().chain(arguments).map(|argument| argument.as_os_str()).collect();
        cli::backupfs(&arguments)
    };
    let flag = Path::new("--lightning-dir");
    init(&[flag, &lightning_dir, &backup]).expect_refused(2, &["exists"]);
    init(&[flag, &lightning_dir, &node.home.join("other.bkp")]).expect_refused(2, &["backup.lock"]);
    assert_eq!(node.home.everything(), before);

    let new = Home::new();
    let before = new.everything();
    let nowhere = new.join("nowhere");
    init(&[flag, &nowhere, &new.backup()]).expect_refused(2, &["nowhere"]);
    init(&[flag, &new.lightning_dir(), &nowhere.join("node.bkp")]).expect_refused(2, &["nowhere"]);
    init(&[flag, &new.lightning_dir(), Path::new("sftp://host/x")]).expect_refused(2, &["file://"]);
    init(&[flag, &new.lightning_dir(), Path::new("--database"), &nowhere, &new.backup()])
        .expect_refused(2, &["nowhere"]);
    assert_eq!(new.everything(), before);

    fs::write(new.database(), "not a database at all, but long enough to look at: ".repeat(100)).unwrap();
    let before = new.everything();
    init(&[flag, &new.lightning_dir(), &new.backup()]).expect_refused(2, &["lightningd.sqlite3"]);
    assert_eq!(new.everything(), before);
}

#[test]
fn usage_errors_exit_with_2() {
    let bad: [&[&str]; 6] =
        [&[], &["explode"], &["mount", "x"], &["restore"], &["versions", "x", "--since"], &["init", "/x"]];
    for arguments in bad {
        assert_eq!(cli::backupfs(arguments).code, 2, "{arguments:?}");
    }
    let node = stopped_node();
    let backup = node.home.backup();
    let since = ["versions".as_ref(), backup.as_os_str(), "--since".as_ref(), "yesterday-ish".as_ref()];
    cli::backupfs(&since).expect_refused(2, &["yesterday-ish"]);
}

/// Sends a `db_write` with these parameters; the answer must be an error that holds `needle`.
#[track_caller]
fn refused_write(recorder: &mut RecorderProcess, params: &Value, needle: &str) {
    let answer = recorder.ask("db_write", params).expect("the recorder answers");
    let message = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("not refused: {answer}"));
    assert!(message.to_lowercase().contains(needle), "no {needle:?} in {message:?}");
}

#[test]
fn a_malformed_write_is_refused_and_the_next_one_answered() {
    let mut node = SmallNode::created();
    let backup = node.home.backup();
    let recorder = node.lightningd.recorder().unwrap();
    let bad = [
        (json!({}), "data_version"),
        (json!({"data_version": 2}), "writes"),
        (json!({"writes": ["SELECT 1"]}), "data_version"),
        (json!({"data_version": "2", "writes": []}), "data_version"),
        (json!({"data_version": -1, "writes": ["x"]}), "data_version"),
        (json!({"data_version": 4_294_967_296_u64, "writes": ["x"]}), "data_version"),
        (json!({"data_version": 2, "writes": "x"}), "writes"),
        (json!({"data_version": 2, "writes": [7]}), "writes"),
        // lightningd on PostgreSQL calls the hook without a single statement.
        (json!({"data_version": 2, "writes": []}), "postgres"),
        (json!([2, ["x"]]), ""),
        (Value::Null, ""),
    ];
    for (params, needle) in &bad {
        refused_write(recorder, params, needle);
    }
    for garbage in ["garbage\n\n", "{\"jsonrpc\": \"2.0\", \"id\": \"\n\n", "[1, 2]\n\n", "\u{0}\n\n", "\n\n\n\n"] {
        recorder.send_bytes(garbage.as_bytes()).unwrap();
    }
    recorder.send_bytes(&[0xff, 0xfe, b'{', b'\n', b'\n']).unwrap();
    let before: Vec<_> = everything(&backup).into_iter().collect();
    // The node goes on as if nothing had been.
    node.commit();
    node.expect_restorable();
    assert_ne!(everything(&backup).into_iter().collect::<Vec<_>>(), before);
    let listed = tests::listing::versions(&backup, &[]);
    assert_eq!(tests::listing::with_status(&listed, tests::listing::Status::Recorded), [1, 2]);
}

#[test]
fn a_message_of_100_mb_that_is_never_committed_is_recorded_and_rewound() {
    let mut node = SmallNode::created();
    let mut statements = node.transaction(DataVersion::new(2));
    let blob = "00".repeat(50_000_000);
    statements.insert(0, format!("INSERT INTO htlcs (id, preimage) VALUES (0, x'{blob}')"));
    let recorder = node.lightningd.recorder().unwrap();
    let answer = recorder.ask("db_write", &json!({"data_version": 2, "writes": statements})).expect("an answer");
    assert_eq!(answer["result"]["result"], "continue", "{answer}");
    // The node and its backup agree afterwards.
    node.commit();
    node.expect_restorable();
}

#[test]
fn a_change_that_cannot_be_replayed_is_recorded_and_reported() {
    if !fuse_is_here() {
        return;
    }
    let mut node = SmallNode::created();
    let two = DataVersion::new(2);
    let recorder = node.lightningd.recorder().unwrap();
    let writes = ["INSERT INTO no_such_table VALUES (1)", &bump(two)];
    let answer = recorder.ask("db_write", &json!({"data_version": 2, "writes": writes})).unwrap();
    assert_eq!(answer["result"]["result"], "continue", "it is what lightningd did: {answer}");

    // Found out by a replay in the background.
    let since = Instant::now();
    let status = loop {
        let status = node.backup_status().to_string();
        if status.contains("no such table") || since.elapsed() > Duration::from_secs(20) {
            break status;
        }
        thread::sleep(Duration::from_millis(100));
    };
    assert!(status.contains("no such table"), "backup-status tells: {status}");
    let logs = node.lightningd.recorder().unwrap().log_lines();
    assert!(logs.iter().any(|line| line.contains("no such table")), "the log tells: {logs:?}");
    let quotes = |text: &str| text.contains("no_such_table");
    assert!(!quotes(&status) && !logs.iter().any(|line| quotes(line)), "a part of the statement: {status} {logs:?}");

    let mounted = Mounted::start(&node.home.backup());
    let error = fs::read(mounted.database(2)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    let changes = fs::read_to_string(mounted.join("versions/2/changes.sql")).unwrap();
    assert!(changes.contains("no_such_table"), "what was received is there all the same");
    fs::read(mounted.database(1)).expect("the version before is readable");
    let to = node.home.join("restored.sqlite3");
    let ran = cli::backupfs(&["restore".as_ref(), node.home.backup().as_os_str(), to.as_os_str()]);
    assert!(ran.code != 0 && ran.stderr.contains("no such table") && !quotes(&ran.stderr) && !to.exists(), "{ran:?}");
}

#[test]
fn status_tells_what_is_recorded() {
    let mut node = SmallNode::created();
    node.commit();
    let status = node.backup_status();
    let text = status.to_string();
    assert!(text.contains("node.bkp"), "{status}");
    let has_version = |value: &Value| value.as_u64() == Some(2);
    assert!(status.as_object().unwrap().values().any(has_version), "the newest version, 2: {status}");
}

#[test]
fn a_bad_mount_point_is_refused() {
    let node = stopped_node();
    let backup = node.home.backup();
    let before = node.home.everything();
    let inside = backup.join("mnt");
    let file = node.home.backup_lock();
    let (around, missing) = (node.home.join(""), node.home.join("missing"));
    let full = node.home.lightning_dir();
    let link = node.home.join("link");
    let bad: [(&Path, &str); 6] = [
        (&missing, "missing"),
        (&file, "directory"),
        (&full, "empty"),
        (&backup, "backup"),
        (&around, "backup"),
        (&inside, "mnt"),
    ];
    for (mountpoint, needle) in bad {
        cli::backupfs(&["mount".as_ref(), backup.as_os_str(), mountpoint.as_os_str()]).expect_refused(2, &[needle]);
    }
    // Neither does a symbolic link hide where the mount point is.
    std::os::unix::fs::symlink(&backup, &link).unwrap();
    cli::backupfs(&["mount".as_ref(), backup.as_os_str(), link.as_os_str()]).expect_refused(2, &["backup"]);
    fs::remove_file(&link).unwrap();
    assert_eq!(node.home.everything(), before);
}

#[test]
fn a_directory_inside_the_backup_is_no_mount_point() {
    let node = stopped_node();
    let inside = node.home.backup().join("mnt");
    fs::create_dir(&inside).unwrap();
    cli::backupfs(&["mount".as_ref(), node.home.backup().as_os_str(), inside.as_os_str()])
        .expect_refused(2, &["within", "outside"]);
}

/// A directory that everybody may enter, with the program in it (the way to the usual place may be closed), where a test
/// may act as another user.
fn place_for_another_user() -> Option<TempDir> {
    let place = tempfile::tempdir().expect("a directory");
    fs::copy(binaries::backupfs(), place.path().join("backupfs")).expect("copying the program");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("opening the directory");
    let probe = backupfs_as_another_user(&place).arg("--version").output();
    if probe.is_ok_and(|probe| probe.status.success()) {
        return Some(place);
    }
    skipped("no other user can be used here, what a user without rights is told is not tested");
    None
}

fn backupfs_as_another_user(place: &TempDir) -> Command {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let mut command = Command::new(place.path().join("backupfs"));
    command.uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn a_user_who_may_not_read_the_backup_learns_who_may() {
    let Some(place) = place_for_another_user() else { return };
    let node = stopped_node();
    cli::run(backupfs_as_another_user(&place).arg("versions").arg(node.home.backup()))
        .expect_refused(2, &["node.bkp", "account that lightningd runs as", "permission denied"]);
    // Nor may it make a backup in a directory of somebody else.
    let lightning_dir = tempfile::tempdir().unwrap();
    fs::set_permissions(lightning_dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let new = place.path().join("new.bkp");
    let init = [OsStr::new("init"), OsStr::new("--lightning-dir"), lightning_dir.path().as_os_str(), new.as_os_str()];
    cli::run(backupfs_as_another_user(&place).args(init))
        .expect_refused(2, &["cannot create", "new.bkp", "permission"]);
}

#[test]
fn a_user_without_the_right_to_mount_gets_the_reason() {
    let Some(place) = place_for_another_user() else { return };
    let node = stopped_node();
    let [backup, mountpoint] = ["node.bkp", "mnt"].map(|name| place.path().join(name));
    fs::create_dir(&backup).unwrap();
    fs::create_dir(&mountpoint).unwrap();
    for entry in fs::read_dir(node.home.backup()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), backup.join(entry.file_name())).unwrap();
        fs::set_permissions(backup.join(entry.file_name()), fs::Permissions::from_mode(0o644)).unwrap();
    }
    if fs::File::open("/dev/fuse").is_ok() && fs::metadata("/dev/fuse").unwrap().permissions().mode() & 0o006 == 0o006 {
        skipped("everybody may use /dev/fuse here, mounting without the right to is not tested");
        return;
    }
    cli::run(backupfs_as_another_user(&place).arg("mount").args([&backup, &mountpoint])).expect_refused(2, &["fuse"]);
}

#[test]
fn the_first_write_of_a_node_with_history_needs_its_snapshot() {
    // `init` saw no database; then one with a history turns up: its image is taken before anything is recorded.
    let mut node = SmallNode::before_its_first_write();
    node.lightningd.start_without_recorder().unwrap();
    let created = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::WithoutPlugin).unwrap();
    assert_eq!(created, Answer::Continue { elapsed: Duration::ZERO });
    node.run_without_plugin(3);
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn a_backup_that_other_users_may_read_is_reported_in_the_log() {
    for (mode, told) in [(0o755, true), (0o700, false)] {
        let mut node = stopped_node();
        fs::set_permissions(node.home.backup(), fs::Permissions::from_mode(mode)).unwrap();
        node.start();
        node.commit();
        node.lightningd.init().unwrap();
        let since = Instant::now();
        let lines = loop {
            node.backup_status();
            let lines = node.lightningd.recorder().unwrap().log_lines().join("\n");
            if lines.contains("chmod 700") || since.elapsed() > Duration::from_secs(if told { 20 } else { 2 }) {
                break lines;
            }
            thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(lines.contains("node.bkp is not closed to other users"), told, "{mode:o}: {lines}");
    }
}

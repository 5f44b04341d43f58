//! History that is dropped, as an operator sees it: beside a recorder that goes on, by a policy, by a command.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use common::{BackupUrl, DataVersion, Timestamp};
use mountfs::demo::pretend_lightningd::Commit;
use serde_json::{Value, json};
use tests::mounted::{Mounted, fuse_is_here, soon};
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;
use tests::{cli, compare};

/// A timeout longer than a slow machine needs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The database at each version, as the node had it.
type Copies = BTreeMap<u32, Vec<u8>>;

/// A process that stands in a directory.
struct Standing(Child);

impl Standing {
    fn in_directory(path: &Path) -> Self {
        Self(Command::new("sleep").arg("600").current_dir(path).spawn().expect("sleep starts"))
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // It is asleep.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn files(backup: &Path, prefix: &str) -> usize {
    let names = fs::read_dir(backup).expect("a backup").map(|entry| entry.expect("a file").file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())).count()
}

fn commit(node: &mut SmallNode, transactions: u32, copies: &mut Copies) {
    for _ in 0..transactions {
        let version = node.commit();
        copies.insert(version.get(), fs::read(node.home.database()).expect("a database"));
    }
}

/// A running node with a history that is sealed, half of which is more than a second older than the newest version.
fn node_with_old_history() -> (SmallNode, Copies) {
    let mut node = SmallNode::before_its_first_write();
    node.lightningd.end_logs_after(30);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
    assert!(first.is_continue());
    node.lightningd.init().expect("the recorder takes init");
    let mut copies = Copies::new();
    commit(&mut node, 50, &mut copies);
    thread::sleep(Duration::from_millis(1100));
    commit(&mut node, 20, &mut copies);
    let backup = node.home.backup();
    assert!(until(TIMEOUT, || files(&backup, "log-") <= 2), "not all finished logs are sealed");
    (node, copies)
}

fn expect_whole(backup: &Path) {
    cli::backupfs(&["verify".as_ref(), backup.as_os_str()]).expect_done("verify");
}

/// The versions that are listed.
fn versions(backup: &Path) -> Vec<u32> {
    let listed = cli::backupfs(&["versions".as_ref(), "--json".as_ref(), backup.as_os_str()]).expect_done("versions");
    let recorded = listed.json_lines().into_iter().filter(|line| line["status"] == "recorded");
    recorded.map(|line| u32::try_from(line["data_version"].as_u64().expect("a number")).expect("32 bits")).collect()
}

/// Restores these versions; they must be what the node had.
fn expect_contents(backup: &Path, versions: &[u32], copies: &Copies) {
    let scratch = tempfile::tempdir().expect("a directory");
    for version in versions {
        let Some(bytes) = copies.get(version) else { continue };
        let (expected, found) =
            (scratch.path().join("expected"), scratch.path().join(format!("found-{version}.sqlite3")));
        fs::write(&expected, bytes).expect("a file");
        let number = version.to_string();
        let arguments = ["restore", "--accept-stale-state", "--version", &number].map(AsRef::as_ref);
        cli::backupfs(&[&arguments[..], &[backup.as_os_str(), found.as_os_str()]].concat()).expect_done("restore");
        compare::same_contents(&expected, &found, &[]).unwrap_or_else(|error| panic!("version {version}: {error}"));
    }
}

#[test]
fn a_recorder_drops_history_while_it_goes_on_and_a_mount_follows() {
    let (mut node, mut copies) = node_with_old_history();
    let backup = node.home.backup();
    let before = versions(&backup);
    let old = before[10];
    let mounted = fuse_is_here().then(|| Mounted::start(&backup));
    let mut open = mounted.as_ref().map(|mounted| File::open(mounted.database(old)).expect("an old version opens"));
    let stands_in = mounted.as_ref().map(|mounted| {
        // The kernel knows all of them from now on, and of one it cannot let go.
        for version in &before {
            assert!(mounted.database(version).exists(), "{version}");
        }
        Standing::in_directory(&mounted.join(format!("versions/{}", before[9])))
    });

    let recorder = node.lightningd.recorder().expect("it runs");
    let asked = recorder.send("backup-compact", &json!({"keep_within": "1s"})).expect("it is asked");
    commit(&mut node, 30, &mut copies);
    let recorder = node.lightningd.recorder().expect("it runs");
    // It may have come between the answers to writes.
    let come = recorder.notifications().iter().find(|message| message["id"] == *asked).cloned();
    let answer = come.unwrap_or_else(|| recorder.answer_to(&asked).expect("an answer"));
    let dropped = answer["result"]["dropped_versions"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    assert!(dropped >= 30, "{answer}");
    let after = versions(&backup);
    assert!(after.len() as u64 + dropped >= 100 && !after.contains(&old), "{after:?}");
    assert!(
        files(&backup, "pruned") == 1 && backup.join("segment-00000000000000000001").exists() == after.contains(&1)
    );
    expect_whole(&backup);
    expect_contents(&backup, &[after[0], after[1], after[after.len() / 2]], &copies);
    node.expect_restorable();

    if let (Some(mounted), Some(open)) = (&mounted, &mut open) {
        soon("the old version is gone", || {
            let mut listed = fs::read_dir(mounted.join("versions")).expect("versions");
            !listed.any(|entry| entry.expect("a version").file_name() == *old.to_string())
        });
        let still_there = before.iter().filter(|version| !after.contains(version));
        let still_there = still_there.filter(|version| mounted.join(format!("versions/{version}")).exists());
        assert_eq!(still_there.collect::<Vec<_>>(), Vec::<&u32>::new());
        assert!(after.iter().all(|version| mounted.database(version).exists()));
        drop(stands_in);
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes).expect("what is open stays readable");
        let scratch = tempfile::tempdir().expect("a directory");
        let (expected, found) = (scratch.path().join("expected"), scratch.path().join("found"));
        fs::write(&expected, &copies[&old]).expect("a file");
        fs::write(&found, bytes).expect("a file");
        compare::same_contents(&expected, &found, &[]).expect("the open version is what it was");
        let newest = node.data_version();
        mounted.expect_newest_soon(newest);
        compare::same_contents(&node.home.database(), &mounted.database(newest), &[]).expect("the newest version");
    }

    let status = node.backup_status();
    assert_eq!(status["compaction"]["last"]["dropped_versions"], dropped, "{status}");
    assert_eq!(status["compaction"]["problem"], Value::Null);
    let status = cli::backupfs(&["status".as_ref(), "--json".as_ref(), backup.as_os_str()]).expect_done("status");
    assert_eq!(status.json_lines()[0]["dropped"]["versions"], dropped, "{status:?}");

    // Crashes and gaps go on from what is left.
    assert!(node.write(Commit::CrashBeforeCommit).is_continue());
    node.start();
    commit(&mut node, 10, &mut copies);
    node.run_without_plugin(3);
    node.start();
    commit(&mut node, 10, &mut copies);
    node.expect_restorable();
    node.lightningd.crash().expect("it dies");
    expect_whole(&backup);
}

#[test]
fn the_command_does_it_when_no_recorder_runs_and_says_so_when_one_does() {
    let (mut node, copies) = node_with_old_history();
    let backup = node.home.backup();
    let run = |arguments: &[&str]| {
        let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).chain([backup.as_os_str()]).collect();
        cli::backupfs(&arguments)
    };
    run(&["compact", "--keep-within", "1s"]).expect_refused(2, &["locked", "backup-compact keep_within=1s"]);
    let planned = run(&["compact", "--keep-within", "1s", "--dry-run", "--json"]).expect_done("beside a recorder");
    let planned = planned.json_lines().remove(0);
    assert!(planned["dropped_versions"].as_u64() >= Some(30) && planned["dry_run"] == true, "{planned}");
    let asked = json!({"keep_within": "1s", "dry_run": true});
    assert_eq!(node.lightningd.rpc("backup-compact", &asked).expect("an answer"), planned);
    node.stop();
    // Not before: until then the recorder may seal another log.
    let before = node.home.everything();
    for (arguments, needles) in [
        (&["compact"][..], &["keeps nothing", "--keep-within"][..]),
        (&["compact", "--keep-within", "0d"], &["keeps nothing"]),
        (&["compact", "--keep-within", "90"], &["no span of time", "90d"]),
        (&["compact", "--keep-daily=-1d"], &["--keep-daily", "no span of time"]),
    ] {
        run(arguments).expect_refused(2, needles);
    }
    run(&["compact", "--keep-within", "1y"]).expect_done("nothing to do");
    let unchanged = node.home.everything();
    let of_backup = |all: &BTreeMap<_, _>| {
        all.keys().filter(|path: &&std::path::PathBuf| path.to_string_lossy().contains("segment-")).count()
    };
    assert_eq!(of_backup(&before), of_backup(&unchanged));

    let all = versions(&backup);
    let done = run(&["compact", "--keep-within", "1s", "--json"]).expect_done("compact");
    let done = done.json_lines().remove(0);
    for field in ["dropped_versions", "dropped_segments", "freed_bytes", "oldest_version", "remains_bytes"] {
        assert_eq!(done[field], planned[field], "{field}: {done}");
    }
    let left = versions(&backup);
    assert_eq!(left.len() as u64, all.len() as u64 - done["dropped_versions"].as_u64().expect("a number"));
    expect_contents(&backup, &[left[0], left[left.len() - 1]], &copies);
    expect_whole(&backup);
    let gone = all[5].to_string();
    run(&["versions"]).expect_done("versions").stdout.find("dropped by a compaction").expect("it is told");
    let scratch = tempfile::tempdir().expect("a directory");
    let to = scratch.path().join("x.sqlite3");
    let arguments = ["restore", "--accept-stale-state", "--version", &gone].map(AsRef::as_ref);
    cli::backupfs(&[&arguments[..], &[backup.as_os_str(), to.as_os_str()]].concat())
        .expect_refused(2, &["dropped by a compaction"]);
}

/// Passes on to the recorder of a node what comes to the node's socket, while something runs.
fn beside_its_socket<T: Send>(node: &mut SmallNode, run: impl FnOnce() -> T + Send) -> T {
    let socket = node.home.lightning_dir().join("lightning-rpc");
    let listener = UnixListener::bind(&socket).expect("a socket");
    listener.set_nonblocking(true).expect("a listener that does not wait");
    let result = thread::scope(|scope| {
        let running = scope.spawn(run);
        while !running.is_finished() {
            match listener.accept() {
                Ok((stream, _)) => serve(node, stream),
                Err(_none) => thread::sleep(Duration::from_millis(5)),
            }
        }
        running.join().expect("it does not panic")
    });
    fs::remove_file(&socket).expect("the socket");
    result
}

fn serve(node: &mut SmallNode, mut stream: UnixStream) {
    stream.set_nonblocking(false).expect("a stream that waits");
    let (mut bytes, mut more) = (Vec::new(), [0; 4096]);
    while !bytes.ends_with(b"\n\n") {
        match stream.read(&mut more).expect("a request") {
            // Somebody wanted to know whether anybody listens.
            0 => return,
            read => bytes.extend_from_slice(&more[..read]),
        }
    }
    let request: Value = serde_json::from_slice(&bytes).expect("a request in JSON");
    let method = request["method"].as_str().expect("a method");
    let answer = match node.lightningd.rpc(method, &request["params"]) {
        Ok(result) => json!({"jsonrpc": "2.0", "id": request["id"], "result": result}),
        Err(error) => {
            json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -1, "message": error.to_string()}})
        }
    };
    // Whoever asked may have gone.
    let _gone = stream.write_all(format!("{answer}\n\n").as_bytes());
}

#[test]
fn the_command_has_the_recorder_of_a_running_node_do_it() {
    if !fs::read_to_string("/proc/locks").is_ok_and(|locks| locks.contains("FLOCK")) {
        println!("SKIPPED: the kernel does not show who holds a lock");
        return;
    }
    let (mut node, mut copies) = node_with_old_history();
    let backup = node.home.backup();
    let all = versions(&backup);
    let run = |keep: &str| cli::backupfs(&["compact".as_ref(), keep.as_ref(), "--json".as_ref(), backup.as_os_str()]);
    beside_its_socket(&mut node, || run("--keep-within=0d")).expect_refused(2, &["keeps nothing"]);
    assert_eq!(versions(&backup), all);
    let done = beside_its_socket(&mut node, || run("--keep-within=1s")).expect_done("beside a recorder");
    let done = done.json_lines().remove(0);
    let dropped = done["dropped_versions"].as_u64().unwrap_or_else(|| panic!("{done}"));
    assert!(dropped >= 30 && done["dry_run"] == false, "{done}");
    let left = versions(&backup);
    assert_eq!(left.len() as u64 + dropped, all.len() as u64);
    let status = node.backup_status();
    assert_eq!(status["compaction"]["last"]["dropped_versions"], dropped, "{status}");
    commit(&mut node, 5, &mut copies);
    expect_contents(&backup, &[left[0], left[left.len() - 1]], &copies);
    expect_whole(&backup);
    // A node that is told to record elsewhere is not asked, whoever it is that has the lock.
    let elsewhere = node.home.everything();
    node.home.set_in_backup_lock("backend_url", json!("file:///somewhere/else"));
    beside_its_socket(&mut node, || run("--keep-within=1s"))
        .expect_refused(2, &["locked", "backup-compact keep_within=1s"]);
    assert_eq!(node.home.everything().len(), elsewhere.len());
    node.expect_restorable();
}

#[test]
fn a_policy_in_backup_lock_is_kept_by_the_recorder_itself() {
    let (mut node, _copies) = node_with_old_history();
    let backup = node.home.backup();
    node.stop();
    node.home.set_in_backup_lock("compact", json!({"keep_within": "1s"}));
    node.start();
    node.commit();
    assert!(until(TIMEOUT, || files(&backup, "pruned") == 1), "{}", node.home.recorder_stderr());
    assert!(until(TIMEOUT, || !backup.join("segment-00000000000000000001").exists()), "old files stay");
    node.expect_restorable();
    // While it removes the files nothing is changed any more that verify looks at.
    expect_whole(&backup);
    node.stop();
    node.home.set_in_backup_lock("compact", json!({"keep_within": "0d"}));
    assert!(node.start_refused().contains("keeps nothing"));
}

#[test]
fn a_recorder_that_is_killed_while_it_compacts_loses_nothing() {
    let (mut node, mut copies) = node_with_old_history();
    let backup = node.home.backup();
    for delay_ms in [0, 600, 1500, 2600] {
        let recorder = node.lightningd.recorder().expect("it runs");
        recorder.send("backup-compact", &json!({"keep_within": "1s"})).expect("it is asked");
        thread::sleep(Duration::from_millis(delay_ms));
        node.lightningd.recorder().expect("it runs").kill().expect("it dies");
        node.lightningd.kill();
        let left = versions(&backup);
        expect_contents(&backup, &[left[0], left[left.len() - 1]], &copies);
        expect_whole(&backup);
        node.start();
        commit(&mut node, 2, &mut copies);
        node.lightningd.init().expect("the recorder takes init");
        node.expect_restorable();
        commit(&mut node, 10, &mut copies);
    }
    let url: BackupUrl = backup.to_str().expect("a path").parse().expect("a URL");
    let opened = common::Backup::open(&url).expect("a backup");
    let dropped = opened.read_dropped().expect("it is whole").expect("the last one came far enough");
    assert!(dropped.versions >= 30 && dropped.at <= Timestamp::now(), "{dropped:?}");
    // Whoever was killed has left nothing that its successor does not remove.
    assert!(until(TIMEOUT, || !backup.join("segment-00000000000000000001").exists()), "old files stay");
}

//! Off-site copies: shipped by the recorder or by hand, read by every command, restored on a machine that has nothing else.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::binaries;
use tests::cli::backupfs;
use tests::compare;
use tests::mounted::{Mounted, fuse_is_here};
use tests::wait::until;

use super::shipped::{Shipped, TIMEOUT, run};

#[test]
fn every_command_reads_a_copy_as_it_reads_the_backup() {
    let shipped = Shipped::new(&[]);
    let done = shipped.ship().expect_done("ship --once");
    assert!(done.stdout.contains("everything up to record"), "{done:?}");
    let (secret, backup) = (shipped.secret(), shipped.node.home.backup());
    for command in [
        &["versions", "--json"][..],
        &["versions"],
        &["show", "--json", "--version", "3"],
        &["diff", "--json", "--from", "2", "--to", "5"],
        &["find", "--json", "--table", "invoices", "--where", "id = 2"],
    ] {
        let of = |options: &[&OsStr], place: &Path| {
            let words: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
            backupfs(&[&words[..], options, &[place.as_os_str()]].concat())
        };
        let own = of(&[], &backup);
        let copied = of(&["--hsm-secret".as_ref(), secret.as_os_str()], &shipped.copy);
        assert_eq!(own.stdout.replace(backup.to_str().unwrap(), ""), copied.stdout, "{command:?}: {own:?} {copied:?}");
    }
    let exported = shipped.node.home.join("exported.bkp");
    run(&[&"export", &"--hsm-secret", &secret, &shipped.copy, &exported]).expect_done("export of the copy");
    let checked = run(&[&"preflight", &"--backup", &shipped.copy, &shipped.node.home.database()]);
    assert!(checked.stdout.contains("newest"), "{checked:?}");
    assert_eq!((&shipped.list()["behind_changes"], &shipped.list()["state"]), (&0.into(), &"stopped".into()));
}

#[test]
fn a_copy_is_mounted_and_follows_what_is_shipped() {
    if !fuse_is_here() {
        return;
    }
    let mut shipped = Shipped::new(&[]);
    shipped.ship().expect_done("ship --once");
    let mut mount = std::process::Command::new(binaries::backupfs());
    mount.arg("mount").arg("--hsm-secret").arg(shipped.secret());
    let point = tempfile::tempdir().unwrap();
    let mounted = Mounted::start_command(&mut mount, &shipped.copy, point, TIMEOUT);
    let newest = mounted.join("latest/lightningd.sqlite3");
    compare::same_contents(&shipped.node.home.database(), &newest, &[]).expect("the mount shows the newest version");
    shipped.node.start();
    let version = shipped.node.commit();
    shipped.node.stop();
    shipped.ship().expect_done("ship --once");
    assert!(until(TIMEOUT, || mounted.database(version).exists()), "version {version} does not come");
    compare::same_contents(&shipped.node.home.database(), &mounted.database(version), &[]).expect("the same");
}

#[test]
fn the_recorder_ships_while_the_node_runs_and_says_goodbye() {
    let mut shipped = Shipped::new(&["--every", "1s"]);
    shipped.node.start();
    shipped.node.lightningd.init().unwrap();
    let mut newest = 0;
    for _ in 0..20 {
        newest = shipped.node.commit().get();
    }
    assert!(until(TIMEOUT, || shipped.newest() == Some(newest.into())), "{:?} of {newest}", shipped.newest());
    let status = shipped.node.backup_status();
    assert_eq!(
        (&status["offsite"][0]["state"], &status["offsite"][0]["last_error"]),
        (&"shipping".into(), &Value::Null)
    );
    // While the node runs nothing shows that nothing follows.
    let to = shipped.node.home.join("restored.sqlite3");
    let secret = shipped.secret();
    run(&[&"restore", &"--hsm-secret", &secret, &shipped.copy, &to])
        .expect_refused(2, &["nothing shows that version", "did not say that it stopped", "--accept-stale-state"]);
    run(&[&"restore", &"--hsm-secret", &secret, &"--accept-stale-state", &shipped.copy, &to]).expect_done("restore");
    for _ in 0..5 {
        shipped.node.commit();
    }
    shipped.node.stop();
    let restored = || {
        let to = tempfile::tempdir().unwrap();
        let file = to.path().join("restored.sqlite3");
        let ran = run(&[&"restore", &"--hsm-secret", &secret, &shipped.copy, &file]);
        (ran.stderr.contains("nothing followed") && file.exists()).then(|| {
            compare::same_contents(&shipped.node.home.database(), &file, &[]).expect("the copy has what the node has");
        })
    };
    assert!(until(TIMEOUT, || restored().is_some()), "no goodbye: {}", shipped.list());
}

#[test]
fn a_copy_is_opened_by_words_and_by_nothing_else() {
    let shipped = Shipped::new(&[]);
    shipped.ship().expect_done("ship --once");
    let sheet = run(&[&"offsite", &"sheet", &"--lightning-dir", &shipped.dir(), &shipped.copy]).expect_done("sheet");
    let words: Vec<&str> = sheet.stdout.lines().filter(|line| line.starts_with("  ") && line.contains(". ")).collect();
    let file = shipped.node.home.join("words");
    fs::write(&file, words.join("\n")).unwrap();
    shipped.expect_equal(&[&"--words", &file]);
    // A bare machine: no hsm_secret anywhere.
    run(&[&"versions", &shipped.copy]).expect_refused(2, &["encrypted", "hsm_secret", "24 words", "--words FILE"]);
    let typo = words.join("\n").replacen(words[0].split_whitespace().nth(1).unwrap(), "zebraa", 1);
    fs::write(&file, typo).unwrap();
    run(&[&"versions", &"--words", &file, &shipped.copy]).expect_refused(2, &["word 1 is not in", "typo"]);
    let other = shipped.node.home.join("other_secret");
    fs::write(&other, [8; 32]).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o400)).unwrap();
    run(&[&"versions", &"--hsm-secret", &other, &shipped.copy]).expect_refused(2, &["opens no key of this copy"]);
    run(&[&"versions", &"--unencrypted", &shipped.copy]).expect_refused(2, &["is encrypted"]);
    // Nothing of the node is in clear text in the store.
    for (path, bytes) in tests::home::everything(&shipped.copy) {
        let bytes = bytes.unwrap_or_default();
        assert!(!bytes.windows(8).any(|window| window == b"invoices"), "{path:?}");
    }
}

#[test]
fn a_copy_that_is_not_encrypted_is_made_and_read_only_when_asked_for() {
    let shipped = Shipped::new(&["--seal", "none"]);
    shipped.ship().expect_done("ship --once");
    run(&[&"versions", &shipped.copy]).expect_refused(2, &["NOT ENCRYPTED", "--unencrypted"]);
    shipped.expect_equal(&[&"--unencrypted"]);
    shipped.add(&[]).expect_refused(2, &["encrypted in another way"]);
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_overwritten() {
    let shipped = Shipped::new(&[]);
    let dir = shipped.dir();
    let add = |url: &dyn AsRef<OsStr>| run(&[&"offsite", &"add", &"--lightning-dir", &dir, url]);
    for (url, needles) in [
        ("gopher://x/y", &["s3://", "sftp://"][..]),
        ("s3://", &["URL"]),
        ("s3://user:password@b/x", &["password"]),
        ("s3://b/x?endpoint=https://127.0.0.1:1", &["credentials"]),
        ("s3://b/x?endpoint=http://example.com", &["insecure"]),
    ] {
        add(&url).expect_refused(2, needles);
    }
    let foreign = shipped.node.home.join("photos");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("one.jpg"), "jpg").unwrap();
    add(&foreign).expect_refused(2, &["not a copy of a backup"]);
    add(&shipped.node.home.backup().join("copy")).expect_refused(2, &["inside the backup"]);
    let other = Shipped::new(&[]);
    add(&other.copy).expect_refused(2, &["copy of another backup"]);
    run(&[&"offsite", &"remove", &"--lightning-dir", &dir, &"/nowhere"]).expect_refused(2, &["offsite list"]);
    run(&[&"offsite", &"remove", &"--lightning-dir", &dir, &shipped.copy]).expect_done("offsite remove");
    shipped.ship().expect_refused(2, &["names no off-site copy"]);
    assert!(shipped.copy.join("id").exists(), "the copy stays");
    // A disk that is not there.
    let shipped = Shipped::new(&[]);
    fs::rename(&shipped.copy, shipped.node.home.join("gone")).unwrap();
    shipped.ship().expect_refused(2, &["could not be shipped to"]);
    assert!(!shipped.copy.exists(), "nothing is made in place of a disk that is not mounted");
}

/// The process is killed again and again while the node runs: nothing is missing in the end.
#[test]
fn a_shipper_that_is_killed_at_any_time_loses_nothing() {
    let mut shipped = Shipped::new(&["--every", "1s"]);
    shipped.node.start();
    for _ in 0..12 {
        shipped.node.commit();
        let dir = shipped.dir();
        let mut child = std::process::Command::new(binaries::backupfs())
            .args(["ship", "--once", "--lightning-dir"])
            .arg(&dir)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(shipped.node.data_version().get() % 7) * 12));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    shipped.node.stop();
    assert!(until(TIMEOUT, || shipped.ship().code == 0), "{:?}", shipped.ship());
    shipped.expect_equal(&[&"--hsm-secret", &shipped.secret()]);
}

//! Whether a copy can be relied on: `verify` of it, rehearsals of a restore, and what becomes of it when it is pruned.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::cli::Ran;
use tests::wait::until;

use super::shipped::{Shipped, TIMEOUT, run};

/// Some ten changes a log.
const LOG_STATEMENTS: usize = 30;

/// The objects of a copy whose names begin so, ascending.
fn objects(copy: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(copy.join(prefix))
        .map(|entries| entries.map(|entry| entry.expect("the file system works").path()).collect())
        .unwrap_or_default();
    found.sort();
    found
}

/// A copy with several segments.
fn with_segments() -> Shipped {
    let mut shipped = Shipped::new(&["--every", "1s"]);
    shipped.node.lightningd.end_logs_after(LOG_STATEMENTS);
    shipped.node.start();
    for _ in 0..60 {
        shipped.node.commit();
    }
    shipped.node.stop();
    run(&[&"seal", &shipped.node.home.backup()]).expect_done("seal");
    assert!(until(TIMEOUT, || shipped.ship().code == 0), "{:?}", shipped.ship());
    assert!(objects(&shipped.copy, "s").len() > 2, "{:?}", objects(&shipped.copy, "s"));
    shipped
}

fn check(shipped: &Shipped) -> Ran {
    run(&[&"offsite", &"check", &"--json", &"--lightning-dir", &shipped.dir()])
}

fn verify(shipped: &Shipped, option: &str) -> (Ran, Value) {
    let ran = run(&[&"verify", &"--json", &option, &"--hsm-secret", &shipped.secret(), &shipped.copy]);
    let json = serde_json::from_str(&ran.stdout).unwrap_or_default();
    (ran, json)
}

#[test]
fn a_copy_is_verified_by_its_chain_or_as_a_whole() {
    let shipped = with_segments();
    let plain = run(&[&"verify", &"--hsm-secret", &shipped.secret(), &shipped.copy]).expect_done("verify of the copy");
    for needle in ["nothing is wrong", "one chain", "--deep", "The copy holds everything", "nothing followed"] {
        assert!(plain.stdout.contains(needle), "no {needle:?} in {plain:?}");
    }
    let (ran, deep) = verify(&shipped, "--deep");
    ran.expect_done("verify --deep");
    assert_eq!((&deep["depth"], &deep["copy"]["complete"]), (&"replay".into(), &true.into()), "{deep}");
    let versions = deep["versions"].clone();
    let ran = run(&[&"verify", &"--json", &"--hsm-secret", &shipped.secret(), &shipped.copy]).expect_done("verify");
    let chain: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&chain["depth"], &chain["versions"]), (&"chain".into(), &versions), "{chain}");
    // A flipped byte in the middle of a segment is not read by the one, and found by the other.
    let segment = &objects(&shipped.copy, "s")[0];
    let mut bytes = fs::read(segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(segment, &bytes).unwrap();
    let (ran, deep) = verify(&shipped, "--deep");
    assert_eq!((ran.code, deep["clean"].as_bool()), (1, Some(false)), "{ran:?}");
    // A segment that is missing is found by both.
    fs::remove_file(segment).unwrap();
    run(&[&"verify", &"--hsm-secret", &shipped.secret(), &shipped.copy]).expect_refused(1, &["damaged"]);
}

#[test]
fn a_rehearsal_restores_compares_and_is_noted() {
    let shipped = with_segments();
    let ran = check(&shipped).expect_done("offsite check");
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let newest = shipped.node.data_version().get();
    assert_eq!(
        (&json[0]["ok"], &json[0]["data_version"], &json[0]["behind"]),
        (&true.into(), &newest.into(), &0.into())
    );
    let listed = shipped.list();
    assert_eq!(listed["last_verified_version"], newest, "{listed}");
    let verified_at = listed["last_verified"].clone();
    assert!(verified_at.is_string(), "{listed}");
    let left: Vec<_> = objects(&shipped.dir(), "backupfs.offsite");
    assert!(left.iter().all(|path| !path.to_string_lossy().contains("rehearsal.sqlite3")), "{left:?}");
    // What the newest version needs is damaged: the rehearsal fails, and the date of the last success stays.
    for segment in objects(&shipped.copy, "s") {
        let mut bytes = fs::read(&segment).unwrap();
        bytes.iter_mut().skip(100).for_each(|byte| *byte ^= 1);
        fs::write(&segment, &bytes).unwrap();
    }
    let text = run(&[&"offsite", &"check", &"--lightning-dir", &shipped.dir()]);
    text.clone().expect_refused(1, &["must not be relied on"]);
    assert!(text.stdout.contains("NOT RESTORED"), "{text:?}");
    let listed = shipped.list();
    assert_eq!(listed["last_verified"], verified_at);
    assert!(listed["rehearsal_error"].is_string(), "{listed}");
    // A store that is not there says nothing about the copy.
    fs::rename(&shipped.copy, shipped.node.home.join("gone")).unwrap();
    check(&shipped).expect_refused(2, &["could not be checked"]);
}

#[test]
fn the_recorder_rehearses_by_itself_when_it_is_asked_for() {
    let mut shipped = Shipped::new(&["--every", "1s", "--rehearse", "7d"]);
    shipped.node.start();
    shipped.node.lightningd.init().unwrap();
    shipped.node.commit();
    let began = Instant::now();
    let status = loop {
        let status = shipped.node.backup_status()["offsite"][0].clone();
        if status["last_verified"].is_string() {
            break status;
        }
        assert!(began.elapsed() < TIMEOUT, "no rehearsal: {status}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(status["rehearsal_error"], Value::Null);
    assert!(status["puts_today"].as_u64().unwrap() > 2, "{status}");
    assert_eq!(status["conditional_put"], "enforced");
    shipped.node.stop();
    // A node that only writes cannot do it.
    let node = Shipped::new(&[]);
    node.add(&["--rehearse", "7d", "--recipient", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"])
        .expect_refused(2, &["--rehearse", "--recipient"]);
}

#[test]
fn an_operator_prunes_a_copy_and_the_node_goes_on_with_it() {
    let mut shipped = with_segments();
    let prune = |shipped: &Shipped, options: &[&str]| {
        let (secret, copy) = (shipped.secret(), shipped.copy.clone());
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"offsite", &"prune", &"--hsm-secret", &secret];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>));
        arguments.push(&copy);
        run(&arguments)
    };
    prune(&shipped, &[]).expect_refused(2, &["keeps nothing"]);
    std::thread::sleep(Duration::from_secs(2));
    shipped.node.start();
    for _ in 0..20 {
        shipped.node.commit();
    }
    shipped.node.stop();
    assert!(until(TIMEOUT, || shipped.ship().code == 0), "{:?}", shipped.ship());
    let before = objects(&shipped.copy, "s");
    let planned = prune(&shipped, &["--keep-within", "1s", "--dry-run"]).expect_done("prune --dry-run");
    assert!(planned.stdout.contains("would drop"), "{planned:?}");
    assert_eq!(objects(&shipped.copy, "s"), before);
    let ran = prune(&shipped, &["--keep-within", "1s", "--json"]).expect_done("prune");
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(json["dropped_versions"].as_u64().unwrap() > 0 && json["removed_objects"].as_u64().unwrap() > 0, "{json}");
    assert!(objects(&shipped.copy, "s").len() < before.len());
    let (ran, _) = verify(&shipped, "--deep");
    ran.expect_done("verify --deep of what is left");
    shipped.node.start();
    shipped.node.commit();
    shipped.node.stop();
    assert!(until(TIMEOUT, || shipped.ship().code == 0), "{:?}", shipped.ship());
    shipped.expect_equal(&[&"--hsm-secret", &shipped.secret()]);
    assert!(objects(&shipped.copy, "s").len() < before.len() + 2, "the node brings back nothing");
}

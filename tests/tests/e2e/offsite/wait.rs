//! Answers that wait for a copy: what was answered is in the copy, and neither a store nor a process holds the node for longer than it
//! may.
//!
//! `BACKUPFS_WAIT_KILLS` says how often everything is killed right after an answer.

use std::fs;
use std::time::{Duration, Instant};

use format_fuzz::seeded::Seeded;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use offsite::description::{Heartbeat, from_json};
use offsite::keys::key_ring::KeyRing;
use offsite::keys::words::from_words;
use offsite::seal::{Opening, open};
use offsite::testing::{FaultyServer, Kind, Trouble};
use serde_json::{Value, json};
use tests::compare;
use tests::wait::until;

use super::disasters::kill_shipping_from;
use super::remote::Remote;
use super::shipped::TIMEOUT;

/// Environment variable: how often everything is killed.
const KILLS: &str = "BACKUPFS_WAIT_KILLS";

/// As often unless told otherwise.
const KILLS_USUAL: u64 = 4;

/// The delay of a busy machine that is no hold.
const LEEWAY: Duration = Duration::from_secs(5);

/// A node whose answers wait for a copy in this bucket; it does not run.
fn waiting(server: &FaultyServer, changes: u64, seconds: u64, then: &str) -> Remote {
    let remote = Remote::in_bucket(server);
    let (changes, seconds) = (changes.to_string(), seconds.to_string());
    // What comes in time was shipped at once.
    let every = ["--every", "1h", "--wait-changes", &changes, "--wait-seconds", &seconds, "--wait-then", then];
    remote.add(&every).expect_done("offsite add");
    remote
}

/// How answers wait, as the recorder says.
fn wait_of(remote: &mut Remote) -> Value {
    remote.node.backup_status()["offsite"][0]["wait"].take()
}

#[track_caller]
fn expect_state(remote: &mut Remote, state: &str) {
    let came = until(TIMEOUT, || wait_of(remote)["state"] == state);
    assert!(came, "not {state}: {}; {}", remote.node.backup_status(), remote.node.home.recorder_stderr());
}

/// Starts the node; answers wait when this returns.
#[track_caller]
fn start(remote: &mut Remote) {
    remote.node.start();
    remote.node.commit();
    expect_state(remote, "waiting");
}

/// The next write, and how long its answer took.
fn write(remote: &mut Remote) -> (Answer, Duration) {
    let began = Instant::now();
    (remote.node.write(Commit::Normal), began.elapsed())
}

#[track_caller]
fn expect_in_copy(remote: &Remote) {
    let newest = u64::from(remote.node.data_version().get());
    assert_eq!(remote.newest(), Some(newest), "{}", remote.node.home.recorder_stderr());
}

#[test]
fn each_change_is_in_the_copy_before_it_is_answered() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 60, "stop");
    server.set_delay(Duration::from_millis(20));
    start(&mut remote);
    for _ in 0..5 {
        remote.node.commit();
        expect_in_copy(&remote);
    }
    let listed = remote.list();
    let rule = json!({"changes": 0, "seconds": 60, "then": "stop", "state": null, "degraded_since": null});
    assert_eq!(listed[0]["wait"], rule, "{listed}");
    remote.node.stop();
    remote.expect_shipped();
    remote.expect_nothing_missing();
}

#[test]
fn a_copy_is_never_behind_by_more_than_it_may_be() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 7, 60, "stop");
    start(&mut remote);
    server.set_delay(Duration::from_millis(100));
    for _ in 0..30 {
        remote.node.commit();
    }
    server.set_delay(Duration::ZERO);
    let version = u64::from(remote.node.data_version().get());
    let newest = remote.newest().expect("a version");
    assert!(newest + 7 >= version, "{newest} of {version}");
    remote.node.stop();
}

#[test]
fn without_a_copy_the_node_goes_on_and_waits_again_when_it_has_caught_up() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 1, "go_on");
    start(&mut remote);
    server.always(None, Trouble::Answer(503, "SlowDown"));
    let (answer, took) = write(&mut remote);
    assert!(answer.is_continue() && (Duration::from_secs(1)..LEEWAY).contains(&took), "{answer:?}, {took:?}");
    let wait = wait_of(&mut remote);
    assert_eq!((&wait["state"], wait["degraded_since"].is_string()), (&"degraded".into(), true), "{wait}");
    let (answer, took) = write(&mut remote);
    assert!(answer.is_continue() && took < Duration::from_millis(900), "{answer:?}, {took:?}: nothing is held");
    let stalls = |remote: &mut Remote| remote.node.backup_status()["stalls"].take();
    assert!(until(TIMEOUT, || stalls(&mut remote)["last"]["over"] == true), "the watchdog reports it");
    let (stalls, status) = (stalls(&mut remote), remote.node.backup_status());
    let cause = stalls["last"]["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("the answer is held until s3://") && stalls["count"] == 1, "{stalls}");
    let problem = status["last_problem"]["text"].as_str().unwrap_or_default();
    assert!(problem.contains("goes on"), "{status}");
    // The process that ships knows it, too.
    assert!(until(TIMEOUT, || remote.list()[0]["wait"]["state"] == "degraded"), "{}", remote.list());
    server.no_trouble();
    expect_state(&mut remote, "waiting");
    remote.node.commit();
    expect_in_copy(&remote);
    assert!(until(TIMEOUT, || remote.list()[0]["wait"]["degraded_since"].is_null()), "{}", remote.list());
    remote.node.stop();
}

#[test]
fn a_write_that_the_copy_does_not_get_is_refused_where_the_node_is_to_stop() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 1, "stop");
    start(&mut remote);
    server.always(None, Trouble::Answer(503, "SlowDown"));
    let before = remote.node.data_version();
    let (answer, took) = write(&mut remote);
    let Answer::Refused { message } = answer else { panic!("{answer:?}") };
    for needle in [&remote.url, "within 1 s", "\"stop\"", "\"go_on\"", "start lightningd: nothing is lost"] {
        assert!(message.contains(needle), "{needle}: {message}");
    }
    assert!((Duration::from_secs(1)..LEEWAY).contains(&took), "{took:?}");
    assert_eq!(remote.node.data_version(), before, "it is not committed");
    remote.node.lightningd.kill();
    server.no_trouble();
    start(&mut remote);
    remote.node.commit();
    expect_in_copy(&remote);
    remote.node.stop();
    remote.node.expect_restorable();
}

#[test]
fn a_start_is_not_held_before_the_copy_can_be_known_but_not_without_end() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 2, "go_on");
    server.always(None, Trouble::Answer(503, "SlowDown"));
    remote.node.start();
    let began = Instant::now();
    let (answer, took) = write(&mut remote);
    assert!(answer.is_continue() && took < Duration::from_millis(1500), "{answer:?}, {took:?}");
    assert_eq!(wait_of(&mut remote)["state"], "starting");
    std::thread::sleep(Duration::from_millis(2200).saturating_sub(began.elapsed()));
    let (answer, took) = write(&mut remote);
    assert!(answer.is_continue() && (Duration::from_secs(2)..LEEWAY * 2).contains(&took), "{answer:?}, {took:?}");
    assert_eq!(wait_of(&mut remote)["state"], "degraded");
    remote.node.stop();
}

#[test]
fn a_node_that_is_to_stop_does_not_start_without_the_copy() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 2, "stop");
    server.always(None, Trouble::Answer(503, "SlowDown"));
    let message = remote.node.start_refused();
    assert!(message.contains("within 2 s"), "{message}");
    remote.node.lightningd.kill();
    server.no_trouble();
    start(&mut remote);
    expect_in_copy(&remote);
    remote.node.stop();
}

#[test]
fn a_node_that_has_the_key_is_not_held_before_it_can_give_it() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 3, "stop");
    // As when it is encrypted.
    fs::remove_file(remote.dir().join("hsm_secret")).unwrap();
    remote.node.start();
    let (answer, took) = write(&mut remote);
    assert!(answer.is_continue() && took < Duration::from_secs(3), "{answer:?}, {took:?}");
    assert_eq!(wait_of(&mut remote)["state"], "starting");
}

#[test]
fn a_process_that_ships_and_is_killed_is_waited_for() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 60, "stop");
    start(&mut remote);
    let dir = remote.dir();
    for _ in 0..2 {
        assert_eq!(kill_shipping_from(&dir), 1);
        remote.node.commit();
        expect_in_copy(&remote);
    }
    remote.node.stop();
}

#[test]
fn a_store_that_hangs_holds_an_answer_for_as_long_as_it_may() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 1, "go_on");
    start(&mut remote);
    server.always(Some(Kind::Put), Trouble::Hang(Duration::from_secs(60)));
    let (answer, took) = write(&mut remote);
    assert!(answer.is_continue() && (Duration::from_secs(1)..LEEWAY).contains(&took), "{answer:?}, {took:?}");
    for _ in 0..5 {
        let (answer, took) = write(&mut remote);
        assert!(answer.is_continue() && took < Duration::from_millis(900), "{answer:?}, {took:?}");
    }
    // A process that cannot end must not keep the test.
    remote.node.stop();
    kill_shipping_from(&remote.dir());
}

#[test]
fn the_copy_says_that_the_node_goes_on_without_it() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 0, 1, "go_on");
    start(&mut remote);
    let key = from_words(&fs::read_to_string(remote.words()).unwrap()).unwrap();
    let keys = KeyRing::from_iter([key]);
    // Each upload comes late, and comes.
    server.set_delay(Duration::from_millis(1500));
    let (answer, _) = write(&mut remote);
    assert!(answer.is_continue());
    let says_it = || {
        server.objects().iter().any(|(name, bytes)| {
            let Some(name) = name.strip_prefix("node/").filter(|name| name.starts_with("h/")) else { return false };
            let plain = open(Opening::Keys(&keys), name, bytes).expect("an object that opens");
            from_json::<Heartbeat>(name, &plain).expect("a heartbeat").degraded_since.is_some()
        })
    };
    // A node that is never silent: the copy does not catch up.
    assert!(until(TIMEOUT, || write(&mut remote).0.is_continue() && says_it()));
    server.set_delay(Duration::ZERO);
    kill_shipping_from(&remote.dir());
    remote.node.lightningd.kill();
    kill_shipping_from(&remote.dir());
    let said: Value = serde_json::from_str(&remote.read(&["verify", "--json"]).stdout).expect("JSON");
    assert!(said["copy"].get("degraded_since").is_some(), "{said}");
}

#[test]
fn changes_in_a_spool_are_not_in_the_copy() {
    let server = FaultyServer::start();
    let mut remote = waiting(&server, 2, 1, "go_on");
    remote.node.home.set_on_unreachable(json!({"spool": "", "wait_s": 0}));
    start(&mut remote);
    let (backup, aside) = (remote.node.home.backup(), remote.node.home.join("aside.bkp"));
    fs::rename(&backup, &aside).unwrap();
    let mut held = None;
    for number in 1..=4 {
        let (answer, took) = write(&mut remote);
        assert!(answer.is_continue(), "{answer:?}");
        if took >= Duration::from_secs(1) {
            held = held.or(Some(number));
        }
    }
    assert!(held.is_some_and(|number| number <= 3), "{held:?}");
    assert_eq!(wait_of(&mut remote)["state"], "degraded");
    fs::rename(&aside, &backup).unwrap();
    expect_state(&mut remote, "waiting");
    expect_in_copy(&remote);
    remote.node.stop();
}

#[test]
fn a_wait_that_cannot_be_meant_is_refused() {
    let server = FaultyServer::start();
    let remote = Remote::in_bucket(&server);
    let wait = |changes: &str, seconds: &str, then: &str, more: &[&str]| {
        let options = ["--wait-changes", changes, "--wait-seconds", seconds, "--wait-then", then];
        remote.add(&[&options, more].concat())
    };
    wait("-1", "30", "stop", &[]).expect_refused(2, &["--wait-changes"]);
    wait("1000001", "30", "stop", &[]).expect_refused(2, &["`changes` 1000001", "whole number from 0"]);
    wait("0", "0", "stop", &[]).expect_refused(2, &["`seconds` 0", "from 1 to 600"]);
    wait("0", "601", "stop", &[]).expect_refused(2, &["`seconds` 601", "from 1 to 600"]);
    wait("0", "30", "halt", &[]).expect_refused(2, &["halt", "go_on"]);
    wait("0", "30", "stop", &["--every", "segment"]).expect_refused(2, &["sealed segments only", "leave `wait` out"]);
    remote.add(&["--wait-changes", "0"]).expect_refused(2, &["--wait-seconds", "--wait-then"]);
    let lock = fs::read_to_string(remote.node.home.backup_lock()).unwrap();
    assert!(!lock.contains("offsite"), "{lock}");
    remote.node.home.set_in_backup_lock("offsite", json!([{"url": remote.url, "wait": {"changes": 5, "seconds": 5}}]));
    remote.ship().expect_refused(2, &["backup.lock", "no key `then`", "write {"]);
}

/// Kills everything right after an answer, and restores from the bucket.
fn kill_after_an_answer(seed: u64) -> u32 {
    let mut random = Seeded::new(seed);
    let server = FaultyServer::start();
    server.set_delay(Duration::from_millis(random.below(15)));
    let mut remote = waiting(&server, 0, 60, "stop");
    remote.words();
    // Logs are short, so that some are sealed meanwhile.
    remote.node.lightningd.end_logs_after(60);
    for _ in 0..=random.below(2) {
        start(&mut remote);
        for _ in 0..random.below(60) {
            remote.node.commit();
        }
        match random.below(3) {
            0 => remote.node.stop(),
            1 => remote.node.lightningd.kill(),
            _ => {}
        }
    }
    if remote.node.lightningd.recorder().is_none() {
        start(&mut remote);
    }
    remote.node.commit();
    let dir = remote.dir();
    kill_shipping_from(&dir);
    remote.node.lightningd.kill();
    assert!(until(TIMEOUT, || kill_shipping_from(&dir) == 0), "processes ship from {}", dir.display());
    server.set_delay(Duration::ZERO);
    let (restored, database) = remote.restore(&["--accept-stale-state"]);
    let restored = restored.expect_done("restore");
    compare::same_contents(&remote.node.home.database(), &database, &[])
        .unwrap_or_else(|error| panic!("seed {seed}: {error}; {restored:?}"));
    remote.node.data_version().get()
}

#[test]
fn whatever_was_answered_is_restored_from_the_copy_when_everything_is_killed() {
    let kills = std::env::var(KILLS).ok().map_or(KILLS_USUAL, |kills| kills.parse().expect("a number"));
    let versions: u64 = (1..=kills).map(|seed| u64::from(kill_after_an_answer(seed))).sum();
    println!("{kills} kills, {versions} versions, none of them lost");
}

//! The backup's place goes away and comes back, under each policy, with the real recorder.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use format_fuzz::seeded::Seeded;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use serde_json::{Value, json};
use tests::listing::{self, Status};
use tests::small_node::SmallNode;

/// A node with this policy, some versions, and a sealer that has work.
fn node(on_unreachable: Value) -> SmallNode {
    let mut node = SmallNode::created();
    node.stop();
    node.home.set_on_unreachable(on_unreachable);
    node.lightningd.end_logs_after(60);
    node.start();
    for _ in 0..10 {
        node.commit();
    }
    node
}

fn aside(node: &SmallNode) -> PathBuf {
    node.home.join("aside.bkp")
}

fn take_away(node: &SmallNode) {
    fs::rename(node.home.backup(), aside(node)).expect("the backup is there");
}

fn bring_back(node: &SmallNode) {
    fs::rename(aside(node), node.home.backup()).expect("the backup was put aside");
}

fn log_lines(node: &mut SmallNode) -> String {
    node.lightningd.recorder().expect("it runs").log_lines().join("\n")
}

/// Whether this is soon told so often.
fn until_reported(node: &mut SmallNode, text: &str, times: usize) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while log_lines(node).matches(text).count() < times {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
        node.backup_status();
    }
    true
}

/// Writes until the backup has everything; the spool is then gone.
#[track_caller]
fn commit_until_drained(node: &mut SmallNode) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        node.commit();
        if node.spool_status().is_null() {
            return;
        }
        assert!(Instant::now() < until, "not drained: {}", log_lines(node));
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn stop_refuses_at_once_and_says_what_to_do() {
    let mut node = node(json!("stop"));
    take_away(&node);
    let before = Instant::now();
    let answer = node.write(Commit::Normal);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    let Answer::Refused { message } = answer else { panic!("{answer:?}") };
    assert!(
        message.contains("\"stop\"") && message.contains("node.bkp") && message.contains("then start"),
        "{message}"
    );
    bring_back(&node);
    node.start();
    node.commit();
    node.expect_all_recorded();
}

#[test]
fn a_place_that_comes_back_in_time_costs_the_node_nothing_but_time() {
    let mut node = node(json!({"wait_s": 20}));
    for _ in 0..2 {
        take_away(&node);
        let (from, to) = (aside(&node), node.home.backup());
        let back = thread::spawn(move || {
            thread::sleep(Duration::from_millis(2500));
            fs::rename(from, to).expect("the backup was put aside");
        });
        let before = Instant::now();
        node.commit();
        assert!(before.elapsed() >= Duration::from_secs(2), "{:?}", before.elapsed());
        back.join().expect("it is back");
        node.commit();
    }
    let log = log_lines(&mut node);
    assert!(log.contains(" s left, then the write is refused"), "{log}");
    assert!(log.matches("waiting for file://").count() >= 4, "a line a second: {log}");
    // How long each outage took is told, and stays.
    assert!(until_reported(&mut node, "goes on: it has waited ", 2), "{}", log_lines(&mut node));
    // The recorder tries once a second, so it finds the place again after 2.5 to 3.5 s.
    let waited =
        |text: &str| ["2.", "3."].iter().map(|s| text.matches(&format!("has waited {s}")).count()).sum::<usize>();
    assert_eq!(waited(&log_lines(&mut node)), 2, "{}", log_lines(&mut node));
    let status = node.backup_status();
    let problem = status["last_problem"]["text"].as_str().unwrap_or_default();
    assert!(waited(problem) == 1 && problem.contains("node.bkp"), "{status}");
    let last = &status["stalls"]["last"];
    assert_eq!((&status["stalls"]["count"], &last["over"], &last["refused"]), (&json!(2), &json!(true), &json!(false)));
    assert!(last["seconds"].as_f64() > Some(2.0) && last["began"].as_str().is_some(), "{status}");
    node.expect_all_recorded();
    node.stop();
    node.expect_all_recorded();
}

#[test]
fn a_place_that_stays_away_is_a_refusal_when_the_time_is_up() {
    let mut node = node(json!({"wait_s": 2}));
    take_away(&node);
    let before = Instant::now();
    let answer = node.write(Commit::Normal);
    let Answer::Refused { message } = answer else { panic!("{answer:?}") };
    assert!((2..10).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    assert!(message.contains("tried again for 2 s") && message.contains("reachable"), "{message}");
    // At a start it is waited for as well.
    node.start();
    let before = Instant::now();
    assert!(matches!(node.write(Commit::Normal), Answer::Refused { .. }));
    assert!(before.elapsed() >= Duration::from_secs(2));
    bring_back(&node);
    node.start();
    node.commit();
    node.expect_all_recorded();
}

#[test]
fn another_backup_in_its_place_is_refused_without_waiting() {
    let mut node = node(json!({"wait_s": 20}));
    let other = SmallNode::created();
    take_away(&node);
    let copied = std::process::Command::new("cp").arg("-r").arg(other.home.backup()).arg(node.home.backup()).status();
    assert!(copied.expect("cp runs").success());
    let before = Instant::now();
    let answer = node.write(Commit::Normal);
    let Answer::Refused { message } = answer else { panic!("{answer:?}") };
    assert!(message.contains("holds backup"), "{message}");
    assert!(before.elapsed() < Duration::from_secs(10));
}

#[test]
fn with_a_spool_the_node_goes_on_and_the_backup_catches_up() {
    let mut node = node(json!({"spool": "", "wait_s": 0}));
    take_away(&node);
    let from = node.data_version().next();
    for _ in 0..30 {
        node.commit();
    }
    let spool = node.spool_status();
    assert_eq!(spool["changes"], 30, "{spool}");
    assert_eq!((&spool["from_version"], &spool["to_version"]), (&from.get().into(), &node.data_version().get().into()));
    let log = log_lines(&mut node);
    assert!(log.contains("exist on this machine only") && log.contains(&format!("from version {from} on")), "{log}");
    bring_back(&node);
    commit_until_drained(&mut node);
    node.expect_all_recorded();
    let left: Vec<_> = fs::read_dir(spool["path"].as_str().expect("a path")).expect("it stays").collect();
    assert_eq!(left.len(), 1, "only its lock is left: {left:?}");
    // A second time in the same run, which ends while it is away.
    take_away(&node);
    node.commit();
    node.commit();
    node.stop();
    bring_back(&node);
    node.start();
    node.commit();
    node.expect_all_recorded();
}

#[test]
fn a_spool_is_found_again_while_the_place_is_still_away() {
    let mut node = node(json!({"spool": "", "wait_s": 0}));
    take_away(&node);
    node.commit();
    for _ in 0..3 {
        node.stop();
        node.start();
        node.commit();
    }
    let Value::Number(changes) = node.spool_status()["changes"].take() else { panic!("it spools") };
    assert_eq!(changes.as_u64(), Some(4));
    bring_back(&node);
    commit_until_drained(&mut node);
    node.expect_all_recorded();
}

#[test]
fn with_an_empty_spool_and_no_backup_a_start_is_refused() {
    let mut node = node(json!({"spool": "", "wait_s": 0}));
    node.stop();
    take_away(&node);
    let message = node.start_refused();
    assert!(message.contains("not known where the backup ends"), "{message}");
    bring_back(&node);
    node.start();
    node.commit();
    node.expect_all_recorded();
}

#[test]
fn a_recorder_killed_while_it_spools_and_drains_loses_nothing() {
    let mut node = node(json!({"spool": "", "wait_s": 0}));
    let mut random = Seeded::new(20_261_122);
    for round in 0..12 {
        take_away(&node);
        // With an empty spool it would be refused to start without the backup.
        for _ in 0..=random.below(5) {
            node.commit();
        }
        let after = Duration::from_micros(random.below(1500));
        node.write(Commit::KillRecorder { after });
        if round % 2 == 0 {
            node.start();
            node.commit();
        }
        bring_back(&node);
        // Killed while it drains, or after.
        node.start();
        node.write(Commit::KillRecorder { after: Duration::from_micros(random.below(30_000)) });
        node.start();
        commit_until_drained(&mut node);
        node.expect_restorable();
        let listed = listing::versions(&node.home.backup(), &[]);
        let all: Vec<u32> = (1..=node.data_version().get()).collect();
        assert_eq!(listing::with_status(&listed, Status::Recorded), all, "round {round}");
        assert_eq!(listing::with_status(&listed, Status::Missing), Vec::<u32>::new(), "round {round}");
    }
}

//! How a backup is doing: by `backup-status` of its recorder, and by `backupfs status` from its files alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{DataVersion, counted};
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use serde_json::{Value, json};
use tests::cli::{self, Ran};
use tests::fault_fs::{Caching, Call, Effect, FaultFs, Rule};
use tests::faulty_node::{FaultyNode, LOGS};
use tests::home::Home;
use tests::listing::{self, Status};
use tests::skip::skipped;
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;

const TIMEOUT: Duration = Duration::from_secs(20);

/// What the recorder and the files tell under the same name.
const TOLD_BY_BOTH: [&str; 10] = [
    "data_version",
    "seq",
    "recorded_at",
    "destination",
    "bytes",
    "bytes_by_kind",
    "unsealed_changes",
    "sealed_through",
    "sealed_through_seq",
    "format",
];

fn asked(node: &mut SmallNode) -> Value {
    node.backup_status()
}

fn status(backup: &Path, arguments: &[&str]) -> Ran {
    let mut all = vec!["status".as_ref(), backup.as_os_str()];
    all.extend(arguments.iter().map(|argument| -> &std::ffi::OsStr { argument.as_ref() }));
    cli::backupfs(&all)
}

fn read(backup: &Path) -> Value {
    let ran = status(backup, &["--json"]).expect_done("status");
    ran.json_lines().pop().expect("one object")
}

fn number(answer: &Value, key: &str) -> u64 {
    answer[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {answer}"))
}

/// Asks both until they agree: the recorder may be sealing, or making room for its next log.
#[track_caller]
fn expect_both_alike(node: &mut SmallNode, is_so: impl Fn(&Value) -> bool) -> (Value, Value) {
    let backup = node.home.backup();
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (told, found) = (asked(node), read(&backup));
        for answer in [&told, &found] {
            assert!(TOLD_BY_BOTH.iter().all(|key| answer.get(key).is_some()), "{answer}");
            let kinds = answer["bytes_by_kind"].as_object().expect("bytes by kind");
            assert_eq!(
                number(answer, "bytes"),
                kinds.values().map(|bytes| bytes.as_u64().expect("bytes")).sum::<u64>()
            );
            assert!(number(answer, "free_bytes") > 0);
        }
        if TOLD_BY_BOTH.iter().all(|key| told[key] == found[key]) && is_so(&told) {
            return (told, found);
        }
        assert!(Instant::now() < deadline, "the recorder tells {told}, the files {found}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A node with its first transaction made, whose logs end after some six.
fn node_with_short_logs() -> SmallNode {
    let mut node = SmallNode::before_its_first_write();
    node.lightningd.end_logs_after(30);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
    assert!(first.is_continue(), "{first:?}");
    node.lightningd.init().expect("the recorder takes init");
    node
}

#[test]
fn before_anything_is_recorded() {
    let mut node = SmallNode::before_its_first_write();
    node.start();
    node.lightningd.init().expect("the recorder takes init");
    let (told, found) = expect_both_alike(&mut node, |_| true);
    for key in ["data_version", "seq", "recorded_at", "sealed_through", "sealed_through_seq"] {
        assert_eq!(told[key], Value::Null, "{key}");
    }
    assert_eq!(told["unsealed_changes"], 0);
    assert_eq!(told["latency_us"], json!({"p50": null, "p99": null, "worst": null, "answers": 0}));
    let nothing = json!({"through": null, "text": "no change has been replayed yet", "problem": null});
    assert_eq!((&told["replay"], &found["replay"]), (&nothing, &nothing));
    assert_eq!(
        (&found["versions"], &found["oldest_version"], &found["problem"]),
        (&json!(0), &Value::Null, &Value::Null)
    );
    let text = status(&node.home.backup(), &[]).expect_done("status").stdout;
    assert!(text.contains("none yet") && text.contains("no change has been replayed yet"), "{text}");
}

#[test]
fn both_tell_the_same_of_what_is_sealed_and_what_is_not() {
    let mut node = node_with_short_logs();
    for _ in 0..60 {
        node.commit();
    }
    let newest = node.data_version().get();
    let replayed = move |told: &Value| told["replay"]["through"] == newest;
    let (told, found) = expect_both_alike(&mut node, replayed);
    let sealed_through = number(&told, "sealed_through");
    assert!(sealed_through >= 40, "{told}");
    assert_eq!(number(&told, "unsealed_changes"), u64::from(newest) - sealed_through);
    assert_eq!(told["replay"]["text"], format!("every change up to version {newest} has been replayed"));
    let text = format!("every change up to version {sealed_through} has been replayed");
    assert_eq!(found["replay"], json!({"through": sealed_through, "text": text, "problem": null}));
    assert_eq!((&found["versions"], &found["oldest_version"]), (&json!(newest), &json!(1)));
    if fs::read_to_string("/proc/locks").is_ok_and(|locks| locks.contains("FLOCK")) {
        assert_eq!(found["locked"], true);
    } else {
        skipped("the kernel shows no locks, whether a recorder is seen is not tested");
    }

    // What is void does not count, neither here nor there; nor do notes of a commit.
    node.write(Commit::CrashBeforeCommit);
    node.start();
    node.commit();
    node.lightningd.init().expect("the recorder takes init");
    node.commit();
    let newest = node.data_version().get();
    let (told, _) = expect_both_alike(&mut node, |told| told["data_version"] == newest);
    let behind = u64::from(newest) - number(&told, "sealed_through");
    assert_eq!(number(&told, "unsealed_changes"), behind, "{told}");
    node.stop();
    node.run_without_plugin(3);
    node.start();
    node.commit();
    node.lightningd.init().expect("the recorder takes init");
    let (_, found) = expect_both_alike(&mut node, |_| true);
    assert_eq!(number(&found, "versions"), u64::from(newest) + 2, "a snapshot in place of three");

    node.stop();
    let found = read(&node.home.backup());
    assert_eq!((&found["locked"], &found["problem"]), (&json!(false), &Value::Null));
    let text = status(&node.home.backup(), &[]).expect_done("status").stdout;
    for part in [
        format!("newest version    {}, recorded 20", node.data_version()),
        format!("sealed            through version {}\n", found["sealed_through"]),
        format!("not sealed yet    {}\n", counted(number(&found, "unsealed_changes"), "change")),
        format!("replay            {}\n", found["replay"]["text"].as_str().expect("a text")),
        "none is seen from here".to_owned(),
    ] {
        assert!(text.contains(&part), "no {part:?} in {text}");
    }
}

/// What answers took, by who waited for them.
fn median(mut answers: Vec<Duration>) -> Duration {
    answers.sort_unstable();
    answers[(answers.len() * 50).div_ceil(100) - 1]
}

#[test]
fn asking_a_hundred_times_neither_loses_nor_delays_what_is_being_recorded() {
    const ROUNDS: usize = 10;
    let mut node = SmallNode::created();
    let backup = node.home.backup();
    let done = Arc::new(AtomicBool::new(false));
    let reading = thread::spawn({
        let (backup, done) = (backup.clone(), Arc::clone(&done));
        move || {
            let mut newest = Vec::new();
            while !done.load(Ordering::Relaxed) {
                newest.push(number(&read(&backup), "data_version"));
                thread::sleep(Duration::from_millis(100));
            }
            newest
        }
    });
    let (mut quiet, mut asked_beside) = (Vec::new(), Vec::new());
    let mut ids = Vec::new();
    let write = |node: &mut SmallNode| match node.write(Commit::Normal) {
        Answer::Continue { elapsed } => elapsed,
        other => panic!("{other:?}; {}", node.home.recorder_stderr()),
    };
    for _ in 0..ROUNDS {
        quiet.extend((0..100).map(|_| write(&mut node)));
        for at in 0..100 {
            if at % 10 == 0 {
                let recorder = node.lightningd.recorder().expect("a recorder");
                ids.push(recorder.send("backup-status", &json!({})).expect("a request"));
            }
            asked_beside.push(write(&mut node));
        }
    }
    done.store(true, Ordering::Relaxed);
    let last = asked(&mut node);
    assert_eq!(last["data_version"], 1 + 2 * 100 * ROUNDS);
    if last["stalls"]["count"] == 0 {
        assert_eq!(last["last_problem"], Value::Null, "{last}");
    }

    // Every question has its answer, and each tells no less than the one before.
    assert_eq!(ids.len(), 100);
    let others = node.lightningd.recorder().expect("a recorder").notifications();
    let answers: Vec<&Value> = others.iter().filter(|answer| ids.iter().any(|id| answer["id"] == *id)).collect();
    assert_eq!(answers.len(), ids.len(), "answered before the last one");
    let told: Vec<u64> = answers.iter().map(|answer| number(&answer["result"], "data_version")).collect();
    assert!(told.is_sorted() && told[0] >= 101, "{told:?}");
    assert!(answers.iter().all(|answer| answer["result"]["latency_us"]["p50"].as_u64() > Some(0)), "{answers:?}");
    let read = reading.join().expect("status reads the backup");
    assert!(read.is_sorted() && read.len() > 1, "{read:?}");

    // The same answers as whoever waited for them saw them: that takes longer, unless the recorder, once it has written an
    // answer, has to wait for its turn.
    let lately: Vec<Duration> =
        quiet.chunks(100).zip(asked_beside.chunks(100)).skip(ROUNDS / 2).flat_map(|(a, b)| [a, b].concat()).collect();
    assert_eq!(lately.len(), 1000);
    let (figures, seen) = (&last["latency_us"], median(lately));
    assert_eq!(figures["answers"], 1000);
    let micros = |key| Duration::from_micros(number(figures, key));
    assert!(micros("p50") <= micros("p99") && micros("p99") <= micros("worst"), "{figures}");
    assert!(micros("p50") > seen / 20 && micros("p50") < seen * 2, "{figures}, but {seen:?} was waited");

    let (quiet, asked_beside) = (median(quiet), median(asked_beside));
    eprintln!("median answer {quiet:?}; while it is asked all the time {asked_beside:?}");
    assert!(asked_beside <= quiet * 3 + Duration::from_millis(1), "{asked_beside:?} instead of {quiet:?}");
    node.stop();
    let listed = listing::with_status(&listing::versions(&backup, &[]), Status::Recorded);
    assert_eq!(listed, (1..=1 + 200 * 10).collect::<Vec<u32>>());
}

#[test]
fn of_a_damaged_backup_the_intact_part_is_reported_and_the_damage() {
    let mut node = SmallNode::created();
    for _ in 0..20 {
        node.commit();
    }
    node.stop();
    let backup = node.home.backup();
    let log = backup.join("log-00000000000000000001");
    let mut bytes = fs::read(&log).expect("reading the log");
    let end = bytes.iter().rposition(|&byte| byte != 0).expect("a log with records");
    bytes[end / 2] ^= 1;
    fs::write(&log, &bytes).expect("writing the log");

    let ran = status(&backup, &["--json"]).expect_refused(1, &["damaged at byte", "log-00000000000000000001"]);
    let found = ran.json_lines().pop().expect("one object all the same");
    assert!((2..20).contains(&number(&found, "data_version")), "{found}");
    assert_eq!(number(&found, "unsealed_changes"), number(&found, "data_version"));
    assert!(found["problem"].as_str().is_some_and(|problem| problem.contains("damaged at byte")), "{found}");
    let text = status(&backup, &[]).expect_refused(1, &["damaged at byte"]).stdout;
    assert!(text.contains("newest version"), "{text}");

    node.start();
    node.lightningd.init().expect("the recorder takes init");
    let told = asked(&mut node);
    assert!(told["last_problem"]["text"].as_str().is_some_and(|text| text.contains("damaged at byte")), "{told}");
    assert_eq!((&told["data_version"], &told["unsealed_changes"]), (&Value::Null, &Value::Null));
    assert_eq!(fs::read(&log).expect("reading the log"), bytes, "nobody changed it");

    fs::remove_file(backup.join("manifest")).expect("removing the manifest");
    status(&backup, &["--json"]).expect_refused(2, &["not a backup"]);
    status(&node.home.join("elsewhere"), &[]).expect_refused(2, &["no backup"]);
}

#[test]
fn a_destination_that_does_not_answer_keeps_neither_the_status_nor_the_node() {
    let home = Home::new();
    let [disk, mounted] = ["disk", "mounted"].map(|name| home.join(name));
    for directory in [&disk, &mounted] {
        fs::create_dir(directory).expect("a directory");
    }
    let fs = match FaultFs::mount(&disk, &mounted, Caching::Kernel) {
        Ok(fs) => fs,
        Err(error) => {
            return skipped(format_args!("no file system can be mounted here ({error}), none that hangs is tested"));
        }
    };
    let backup = fs.path().join("node.bkp");
    let lightning_dir = home.lightning_dir();
    cli::backupfs(&["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()])
        .expect_done("init");
    symlink(&backup, home.backup()).expect("a link");
    let mut node = SmallNode::at(home);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
    assert!(first.is_continue(), "{first:?}");
    node.lightningd.init().expect("the recorder takes init");

    fs.faults().pretend_free_bytes(5 << 30);
    assert_eq!(number(&asked(&mut node), "free_bytes"), 5 << 30);
    assert_eq!(number(&read(&backup), "free_bytes"), 5 << 30);

    let hang = fs.faults().add(Rule::new(Effect::Hang).calls(&[Call::StatFs]));
    let recorder = node.lightningd.recorder().expect("a recorder");
    let id = recorder.send("backup-status", &json!({})).expect("a request");
    assert!(fs.faults().wait_until_fired(hang, 1, TIMEOUT), "nobody asks for the free space");
    for _ in 0..50 {
        node.commit();
    }
    let late =
        node.lightningd.recorder().expect("a recorder").notifications().iter().find(|told| told["id"] == id).cloned();
    let late = late.unwrap_or_else(|| {
        node.lightningd.recorder().expect("a recorder").answer_to(&id).expect("an answer, although it hangs")
    });
    let problem = |told: &Value| told["bytes_problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem(&late["result"]).contains("has not answered for 2 s"), "{late}");
    let again = asked(&mut node);
    assert!(problem(&again).contains("earlier query"), "{again}");
    assert_eq!((&again["data_version"], &again["free_bytes"]), (&json!(51), &Value::Null));
    assert!(fs.faults().hanging() <= 2, "no thread waits but this one, and the one that warns of a full disk");

    fs.faults().remove(hang);
    let deadline = Instant::now() + TIMEOUT;
    let mut told = asked(&mut node);
    while told["free_bytes"].is_null() {
        assert!(Instant::now() < deadline, "{told}");
        told = asked(&mut node);
    }
    assert_eq!(problem(&told), "");
    node.stop();
    node.expect_restorable();
}

/// What was lost: not a word was said of a disk that was slow for 8 s, however often.
#[test]
fn a_call_that_comes_back_in_time_is_reported_when_it_hangs_and_when_it_is_over() {
    const HANGS_FOR: Duration = Duration::from_secs(3);
    let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, Some(json!("stop"))) else { return };
    let faults = Arc::clone(faulty.faults());
    faults.add(Rule::new(Effect::Hang).calls(&[Call::Fsync]).names(LOGS).times(1));
    let healing = thread::spawn(move || {
        assert!(until(TIMEOUT, || faults.hanging() > 0), "nothing hangs");
        thread::sleep(HANGS_FOR);
        faults.heal();
    });
    let Answer::Continue { elapsed } = faulty.node.write(Commit::Normal) else { panic!("it comes back in time") };
    healing.join().expect("it hangs");
    assert!(elapsed >= HANGS_FOR, "{elapsed:?}");
    faulty.node.lightningd.init().expect("the recorder takes init");
    thread::sleep(Duration::from_millis(600));
    let status = asked(&mut faulty.node);
    let log = faulty.node.lightningd.recorder().expect("it runs").log_lines();
    let at = |told: &str| log.iter().position(|line| line.starts_with("warn") && line.contains(told));
    let (begun, over) = (at("has been waiting for its write to be recorded for 1."), at("goes on: it has waited 3."));
    assert!(begun.is_some() && begun < over, "{log:?}");
    assert!(log[begun.unwrap_or(0)].contains("node.bkp has not answered for"), "{log:?}");
    let problem = &status["last_problem"];
    assert!(problem["text"].as_str().is_some_and(|text| text.contains("has waited 3.")), "{status}");
    assert!(problem["at"].as_str().is_some(), "{status}");
    let last = &status["stalls"]["last"];
    assert!(last["over"] == true && last["refused"] == false && last["seconds"].as_f64() >= Some(3.0), "{status}");
    assert_eq!(status["stalls"]["count"], 1, "{status}");
    faulty.node.stop();
    faulty.expect_all_below();
}

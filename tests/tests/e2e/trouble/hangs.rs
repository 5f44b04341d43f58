//! Calls to the backup's place that do not return, under each policy, with the real recorder.
//!
//! What hangs comes back in the end, when nobody expects it any more: nothing may be damaged by that, or be there twice.

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{DataVersion, LogLimits};
use format::names;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use rustix::io::Errno;
use serde_json::{Value, json};
use tests::fault_fs::{Caching, Call, Effect, FaultFs, Names, Rule};
use tests::faulty_node::{FaultyNode, LOGS};
use tests::guard;
use tests::listing::{self, Status};
use tests::small_node::SmallNode;
use tests::wait::{until, until_soon};

/// How long a call may take before the write is refused, at least.
const REFUSED_AFTER: Duration = Duration::from_secs(10);

/// How long a call may take before changes are spooled, at least.
const SPOOLED_AFTER: Duration = Duration::from_secs(5);

/// How long a call may take while the end of a spool is drained.
const DRAINED_WITHIN: Duration = Duration::from_secs(2);

/// What the machine may add to that.
const SLACK: Duration = Duration::from_secs(4);

/// No write that goes to a spool waits for anything but its own disk.
const QUICK: Duration = Duration::from_secs(1);

/// The recorder ends so long after a refusal, at most.
const LAST_CHANCE: Duration = Duration::from_secs(3);

const TIMEOUT: Duration = Duration::from_secs(120);

/// Writes until a new log was certainly begun.
const WRITES_TO_A_NEW_LOG: usize = 20;

/// The name of the file that is going to be the next log.
fn preallocated() -> Names {
    Names::Exactly(names::PREALLOCATED.to_owned())
}

/// What the recorder does for a write, or for every sixth.
fn calls_of_a_write() -> [(Call, Names); 5] {
    [(Call::Write, LOGS), (Call::Fsync, LOGS), (Call::Rename, LOGS), (Call::Open, LOGS), (Call::Lookup, LOGS)]
}

fn hang(call: Call, names: Names) -> Rule {
    Rule::new(Effect::Hang).calls(&[call]).names(names)
}

fn spool_policy() -> Option<Value> {
    Some(json!({"spool": "", "wait_s": 0}))
}

/// Most of the time nothing happens but waiting.
fn all_at_once<T: Sync>(cases: &[T], test: impl Fn(&T) + Sync) {
    guard::note();
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| test(case));
        }
    });
}

/// A write up to its answer.
struct Asked {
    data_version: DataVersion,
    statements: Vec<String>,
    id: String,
    answer: Value,
    elapsed: Duration,
}

impl Asked {
    fn ask(node: &mut SmallNode) -> Self {
        let data_version = node.data_version().next();
        let statements = node.transaction(data_version);
        let params = json!({"data_version": data_version.get(), "writes": statements});
        let recorder = node.lightningd.recorder().expect("it runs");
        let called = Instant::now();
        let id = recorder.send("db_write", &params).expect("the recorder takes a write");
        let answer = recorder.answer_to(&id).unwrap_or_else(|error| panic!("{error} {}", node.home.recorder_stderr()));
        Self { data_version, statements, id, answer, elapsed: called.elapsed() }
    }

    /// The message, if it was refused; else it is committed.
    fn settle(&self, node: &SmallNode) -> Option<String> {
        if let Some(message) = self.answer["error"]["message"].as_str() {
            return Some(message.to_owned());
        }
        assert_eq!(self.answer["result"]["result"], "continue", "{}", self.answer);
        let database = node.lightningd.database().expect("it runs");
        let all = format!("BEGIN; {}; COMMIT", self.statements.join(";"));
        database.execute_batch(&all).expect("the node's database takes its own statements");
        assert_eq!(node.data_version(), self.data_version);
        None
    }
}

/// Writes until one is refused.
#[track_caller]
fn ask_until_refused(node: &mut SmallNode) -> (Asked, String) {
    for _ in 0..WRITES_TO_A_NEW_LOG {
        let asked = Asked::ask(node);
        if let Some(message) = asked.settle(node) {
            return (asked, message);
        }
        assert!(asked.elapsed < REFUSED_AFTER / 2, "{:?}", asked.elapsed);
    }
    panic!("nothing hung: {}", node.home.recorder_stderr());
}

#[track_caller]
fn expect_refused_in_time(asked: &Asked, message: &str, after: Duration) {
    assert!(asked.elapsed >= after && asked.elapsed < after + SLACK, "{:?}: {message}", asked.elapsed);
    for part in ["did not record", "node.bkp has not answered for 1", "then start lightningd", "nothing is lost"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

/// The recorder ends by itself, as soon as the kernel lets it; it has said no more about this write.
#[track_caller]
fn expect_end_of_recorder(faulty: &mut FaultyNode, asked: &Asked) {
    thread::sleep(LAST_CHANCE);
    assert!(faulty.faults().hanging() > 0, "what hangs has not come back");
    faulty.faults().heal();
    let recorder = faulty.node.lightningd.recorder().expect("it was started");
    let status = recorder.wait_for_exit().expect("the recorder ends");
    assert_eq!(status.code(), Some(1), "{status}");
    let again = recorder.notifications().iter().find(|message| message["id"] == asked.id);
    assert_eq!(again, None, "answered twice");
    faulty.node.lightningd.kill();
}

#[track_caller]
fn expect_well(faulty: &mut FaultyNode) {
    faulty.node.start();
    faulty.node.commit();
    faulty.node.commit();
    faulty.expect_all_below();
    faulty.node.expect_restorable();
    faulty.node.stop();
    faulty.expect_all_below();
}

#[test]
fn without_a_spool_a_write_whose_call_hangs_is_refused_and_the_recorder_ends() {
    let mut cases: Vec<_> =
        calls_of_a_write().map(|(call, names)| (json!("stop"), REFUSED_AFTER, hang(call, names))).to_vec();
    cases.push((json!({"wait_s": 1}), REFUSED_AFTER, hang(Call::Fsync, LOGS)));
    cases.push((json!({"wait_s": 12}), Duration::from_secs(12), hang(Call::Write, LOGS)));
    cases.push((json!({"wait_s": 1}), REFUSED_AFTER, Rule::new(Effect::Hang)));
    all_at_once(&cases, |(policy, after, rule)| {
        let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, Some(policy.clone())) else { return };
        faulty.faults().add(rule.clone());
        let (asked, message) = ask_until_refused(&mut faulty.node);
        expect_refused_in_time(&asked, &message, *after);
        expect_end_of_recorder(&mut faulty, &asked);
        expect_well(&mut faulty);
    });
}

#[test]
fn a_start_that_hangs_is_refused_too() {
    let rules = [hang(Call::Open, Names::Exactly(names::MANIFEST.to_owned())), hang(Call::Read, LOGS)];
    all_at_once(&rules, |rule| {
        let Some(mut faulty) = FaultyNode::with_policy(Caching::Nothing, Some(json!("stop"))) else { return };
        faulty.node.stop();
        faulty.faults().add(rule.clone());
        faulty.node.start();
        let (asked, message) = ask_until_refused(&mut faulty.node);
        expect_refused_in_time(&asked, &message, REFUSED_AFTER);
        expect_end_of_recorder(&mut faulty, &asked);
        expect_well(&mut faulty);
    });
}

/// What comes back before the recorder has ended finds that it was answered for.
#[test]
fn a_call_that_comes_back_after_the_refusal_is_answered_no_second_time() {
    let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, Some(json!({"wait_s": 0}))) else { return };
    faulty.faults().add(hang(Call::Fsync, LOGS));
    let (asked, message) = ask_until_refused(&mut faulty.node);
    expect_refused_in_time(&asked, &message, REFUSED_AFTER);
    faulty.faults().heal();
    // `lightningd` stops now.
    let recorder = faulty.node.lightningd.recorder().expect("it runs");
    let said = |line: &String| line.contains("has returned after its write was refused");
    let status = recorder.end_input().expect("the recorder ends");
    assert!(status.success(), "it need not be ended by force: {status}");
    assert!(recorder.log_lines().iter().any(said), "{:?}", recorder.log_lines());
    assert!(recorder.notifications().iter().all(|message| message["id"] != asked.id), "answered twice");
    faulty.node.lightningd.kill();
    expect_well(&mut faulty);
}

#[test]
fn preallocation_and_sealing_that_hang_delay_no_write() {
    // Not what changes the directory: the kernel lets nobody else do so meanwhile.
    let segments = || Names::Beginning("segment-".to_owned());
    let of_files = [Call::Write, Call::Fsync];
    // The first one is that of the record which begins a log in the room that is there.
    let mut rules: Vec<_> = of_files.map(|call| hang(call, preallocated()).after(1)).to_vec();
    rules.extend(of_files.map(|call| hang(call, segments())));
    let cases: Vec<_> =
        rules.iter().flat_map(|rule| [Some(json!("stop")), spool_policy()].map(|policy| (rule, policy))).collect();
    all_at_once(&cases, |(rule, policy)| {
        let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, policy.clone()) else { return };
        let preallocated = faulty.below().join(names::PREALLOCATED);
        let is_made =
            || fs::metadata(&preallocated).is_ok_and(|preallocated| preallocated.len() == LogLimits::default().bytes);
        assert!(until(TIMEOUT, is_made), "no log is preallocated");
        thread::sleep(Duration::from_millis(500));
        let hangs = faulty.faults().add((*rule).clone());
        let began = Instant::now();
        // Longer than a write may hang.
        while began.elapsed() < REFUSED_AFTER + Duration::from_secs(2) {
            let Answer::Continue { elapsed } = faulty.node.write(Commit::Normal) else {
                panic!("{rule:?}: {}", faulty.node.home.recorder_stderr());
            };
            assert!(elapsed < 2 * QUICK, "{rule:?}: {elapsed:?}");
            thread::sleep(Duration::from_millis(50));
        }
        assert!(faulty.faults().fired(hangs) > 0, "{rule:?}: nothing hung");
        faulty.faults().heal();
        faulty.node.stop();
        expect_well(&mut faulty);
    });
}

/// Writes until one has waited for the call that hangs; returns how long.
#[track_caller]
fn commit_until_it_hangs(node: &mut SmallNode) -> Duration {
    for _ in 0..WRITES_TO_A_NEW_LOG {
        let Answer::Continue { elapsed } = node.write(Commit::Normal) else {
            panic!("with a spool the node goes on: {}", node.home.recorder_stderr());
        };
        if elapsed > SPOOLED_AFTER / 2 {
            return elapsed;
        }
    }
    panic!("nothing hung: {}", node.home.recorder_stderr());
}

/// So many writes, each answered in time; returns the median.
#[track_caller]
fn commit_quickly(node: &mut SmallNode, writes: usize, limit: Duration) -> Duration {
    let mut answers: Vec<_> = (0..writes)
        .map(|_| match node.write(Commit::Normal) {
            Answer::Continue { elapsed } => elapsed,
            other => panic!("{other:?}: {}", node.home.recorder_stderr()),
        })
        .collect();
    answers.sort_unstable();
    assert!(answers[writes - 1] < limit, "{answers:?}");
    answers[writes / 2]
}

#[track_caller]
fn commit_until_drained(faulty: &mut FaultyNode) {
    let deadline = Instant::now() + TIMEOUT;
    while !faulty.node.spool_status().is_null() {
        let mut log = || faulty.node.lightningd.recorder().map(|recorder| recorder.log_lines().join("\n"));
        assert!(Instant::now() < deadline, "not drained: {}", log().unwrap_or_default());
        faulty.node.commit();
        thread::sleep(Duration::from_millis(50));
    }
    let spool = fs::read_dir(faulty.node.home.join("spool")).expect("the directory that was named");
    for of_backup in spool {
        let left = fs::read_dir(of_backup.expect("an entry").path()).expect("the spool stays").count();
        assert_eq!(left, 1, "only its lock is left");
    }
}

/// Every version once: nothing was rewound, so none was written twice.
#[track_caller]
fn expect_each_once(faulty: &FaultyNode) {
    faulty.expect_all_below();
    faulty.node.expect_restorable();
    let listed = listing::versions(&faulty.below(), &[]);
    assert_eq!(listing::with_status(&listed, Status::Rewound), Vec::<u32>::new());
}

#[test]
fn with_a_spool_the_node_goes_on_and_what_comes_back_late_does_no_harm() {
    let mut rules = calls_of_a_write().map(|(call, names)| hang(call, names)).to_vec();
    rules.push(Rule::new(Effect::Hang));
    // All but one call works again at once, and the lock is held by the one that hangs.
    rules.push(hang(Call::Fsync, LOGS).times(1));
    rules.push(hang(Call::Write, LOGS).times(1));
    all_at_once(&rules, |rule| {
        let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, spool_policy()) else { return };
        faulty.faults().add(rule.clone());
        let waited = commit_until_it_hangs(&mut faulty.node);
        assert!(waited >= SPOOLED_AFTER && waited < SPOOLED_AFTER + SLACK, "{rule:?}: {waited:?}");
        let median = commit_quickly(&mut faulty.node, 100, QUICK);
        eprintln!("{rule:?}: spooled after {waited:.1?}, then answered in {median:?}");
        let recorder = faulty.node.lightningd.recorder().expect("it runs");
        let mut reports = vec!["has been waiting for its write to be recorded for 1.", "goes on: it"];
        // A second after the write began the call that hangs is named, unless the disk had been slow before that call.
        if waited < SPOOLED_AFTER + Duration::from_millis(400) {
            reports.push("node.bkp has not answered for");
        }
        for reported in reports {
            let is_there = || recorder.log_lines().iter().any(|line| line.contains(reported));
            assert!(until(TIMEOUT, is_there), "{rule:?}: no {reported:?} in {:?}", recorder.log_lines());
        }
        let status = faulty.node.backup_status();
        let last = &status["stalls"]["last"];
        assert!(last["over"] == true && last["seconds"].as_f64() >= Some(SPOOLED_AFTER.as_secs_f64()), "{status}");
        let spool = faulty.node.spool_status();
        assert!(spool["changes"].as_u64() > Some(100), "{rule:?}: {spool}");
        assert!(faulty.faults().hanging() > 0);
        faulty.faults().heal();
        commit_until_drained(&mut faulty);
        expect_each_once(&faulty);
        faulty.node.commit();
        faulty.node.stop();
        expect_each_once(&faulty);
        expect_well(&mut faulty);
        expect_each_once(&faulty);
    });
}

#[test]
fn a_drain_whose_call_hangs_holds_no_write_up_for_long() {
    let cases: Vec<_> = [0, 7, 25].into_iter().flat_map(|at| [(Call::Write, at), (Call::Fsync, at)]).collect();
    all_at_once(&cases, |&(call, at)| {
        let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, spool_policy()) else { return };
        let gone = faulty.faults().fail_everything(Errno::NOTCONN);
        commit_quickly(&mut faulty.node, 40, QUICK);
        let hangs = faulty.faults().add(hang(call, LOGS).after(at).times(1));
        faulty.faults().remove(gone);
        let until_it_hangs = Instant::now();
        while faulty.faults().fired(hangs) == 0 {
            commit_quickly(&mut faulty.node, 1, DRAINED_WITHIN + SLACK);
            assert!(until_it_hangs.elapsed() < TIMEOUT, "nothing hung");
        }
        commit_quickly(&mut faulty.node, 1, DRAINED_WITHIN + SLACK);
        commit_quickly(&mut faulty.node, 50, DRAINED_WITHIN + QUICK);
        faulty.faults().heal();
        commit_until_drained(&mut faulty);
        expect_each_once(&faulty);
        faulty.node.stop();
        expect_each_once(&faulty);
    });
}

/// Close to the end the drain takes the recording, and a write waits for it: but not for long.
#[test]
fn the_end_of_a_drain_that_hangs_is_left_to_the_next_attempt() {
    const SLOW: Duration = Duration::from_millis(30);
    /// Slower than what is drained meanwhile: so it comes to an end.
    const WRITE_EVERY: Duration = Duration::from_millis(60);
    const WAITS_FOR_THE_DRAIN: Duration = Duration::from_millis(100);
    let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, spool_policy()) else { return };
    let slow = || Rule::new(Effect::Delay(SLOW)).calls(&[Call::Fsync]).names(LOGS);
    // When the disk was slow by itself, the moment is missed.
    for _ in 0..5 {
        let gone = faulty.faults().fail_everything(Errno::NOTCONN);
        commit_quickly(&mut faulty.node, 40, 2 * QUICK);
        let slow = faulty.faults().add(slow());
        let asked_at = Arc::new(Mutex::new(None::<Instant>));
        let watching = {
            let (faults, asked_at) = (Arc::clone(faulty.faults()), Arc::clone(&asked_at));
            thread::spawn(move || {
                let is_late = || {
                    asked_at.lock().expect("nobody panics with it").is_some_and(|at| at.elapsed() > WAITS_FOR_THE_DRAIN)
                };
                let is_late = until_soon(TIMEOUT, is_late);
                faults.remove(slow);
                faults.add(hang(Call::Fsync, LOGS));
                is_late
            })
        };
        faulty.faults().remove(gone);
        let mut longest = Duration::ZERO;
        while !watching.is_finished() {
            *asked_at.lock().expect("nobody panics with it") = Some(Instant::now());
            let answer = faulty.node.write(Commit::Normal);
            *asked_at.lock().expect("nobody panics with it") = None;
            let Answer::Continue { elapsed } = answer else {
                panic!("{answer:?}: {}", faulty.node.home.recorder_stderr())
            };
            longest = longest.max(elapsed);
            thread::sleep(WRITE_EVERY);
        }
        assert!(watching.join().expect("a thread that ends"), "no write waited for the drain");
        assert!(longest < DRAINED_WITHIN + SLACK / 2, "{longest:?}");
        commit_quickly(&mut faulty.node, 20, DRAINED_WITHIN + SLACK / 2);
        faulty.faults().heal();
        commit_until_drained(&mut faulty);
        expect_each_once(&faulty);
        if longest >= DRAINED_WITHIN {
            return;
        }
    }
    panic!("the end of a drain was never met");
}

/// A recorder with a call that hangs does not end before that comes back, whatever is done to it. The next one must not
/// wait for it: it needs the spool only.
#[test]
fn the_node_is_started_again_while_a_call_of_the_last_run_still_hangs() {
    let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, spool_policy()) else { return };
    faulty.faults().add(Rule::new(Effect::Hang));
    commit_until_it_hangs(&mut faulty.node);
    commit_quickly(&mut faulty.node, 20, QUICK);
    let next = faulty.node.home.lightningd();
    let mut last = std::mem::replace(&mut faulty.node.lightningd, next);
    last.announce_shutdown().expect("the recorder lives");
    let ending = thread::spawn(move || last.stop());
    // It leaves when nothing has come for 0.3 s.
    thread::sleep(Duration::from_secs(1));
    faulty.node.start();
    commit_quickly(&mut faulty.node, 20, SPOOLED_AFTER + SLACK);
    assert!(!ending.is_finished(), "it was in no call that hangs");
    faulty.faults().heal();
    let status = ending.join().expect("a thread that ends").expect("the recorder ends");
    assert!(status.success(), "{status}");
    commit_until_drained(&mut faulty);
    expect_each_once(&faulty);
    faulty.node.stop();
    expect_each_once(&faulty);
}

/// The spool's own disk may hang, too, and then that is what has to be repaired.
#[test]
fn a_spool_that_hangs_is_a_refusal_that_names_it() {
    let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, spool_policy()) else { return };
    let [disk, mounted] = ["spool-disk", "spool"].map(|name| faulty.node.home.join(name));
    fs::create_dir_all(&disk).expect("a directory");
    // It was made when the node started.
    fs::create_dir_all(&mounted).expect("a directory");
    let spool = FaultFs::mount(&disk, &mounted, Caching::Kernel).expect("as the other one");
    let gone = faulty.faults().fail_everything(Errno::NOTCONN);
    commit_quickly(&mut faulty.node, 10, QUICK);
    spool.faults().add(hang(Call::Fsync, LOGS));
    let (asked, message) = ask_until_refused(&mut faulty.node);
    assert!(asked.elapsed >= REFUSED_AFTER && asked.elapsed < REFUSED_AFTER + SLACK, "{:?}", asked.elapsed);
    let path = mounted.to_str().expect("a path in UTF-8");
    assert!(message.contains(path) && message.contains("has not answered for 1"), "{message}");
    thread::sleep(LAST_CHANCE);
    spool.faults().heal();
    let ended = faulty.node.lightningd.recorder().expect("it was started").wait_for_exit().expect("the recorder ends");
    assert_eq!(ended.code(), Some(1), "{ended}");
    faulty.node.lightningd.kill();
    // With the backup still away.
    faulty.node.start();
    commit_quickly(&mut faulty.node, 10, SPOOLED_AFTER);
    faulty.faults().remove(gone);
    commit_until_drained(&mut faulty);
    faulty.expect_all_below();
    faulty.node.expect_restorable();
    faulty.node.stop();
    drop(spool);
}

/// A network file system that was mounted anew knows nothing of the locks of before.
#[test]
fn a_write_that_arrives_when_the_backup_was_mounted_anew_and_has_gone_on_changes_nothing() {
    // The log may be sealed by then, or be written to.
    let cases = [(Call::Write, 30), (Call::Write, 12_000), (Call::Fsync, 12_000)];
    all_at_once(&cases, |&(call, statements)| {
        let Some(mut faulty) = FaultyNode::with_policy(Caching::Kernel, spool_policy()) else { return };
        faulty.node.stop();
        faulty.node.lightningd.end_logs_after(statements);
        faulty.node.start();
        faulty.node.commit();
        faulty.faults().add(hang(call, LOGS).times(1));
        commit_until_it_hangs(&mut faulty.node);
        commit_quickly(&mut faulty.node, 20, QUICK);
        let [disk, mounted] = ["disk", "mounted"].map(|name| faulty.node.home.join(name));
        let anew = FaultFs::mount(&disk, &mounted, Caching::Kernel).expect("as the first time");
        commit_until_drained(&mut faulty);
        commit_quickly(&mut faulty.node, 3, SPOOLED_AFTER);
        expect_each_once(&faulty);
        assert_eq!(faulty.faults().hanging(), 1);
        faulty.faults().heal();
        assert!(until(TIMEOUT, || faulty.faults().hanging() == 0));
        faulty.node.commit();
        expect_each_once(&faulty);
        faulty.node.stop();
        expect_well(&mut faulty);
        expect_each_once(&faulty);
        drop(anew);
    });
}

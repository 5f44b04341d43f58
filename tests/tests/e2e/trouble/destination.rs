//! A recorder whose backup lies on a disk that fails, fills up, is slow or hangs.
//!
//! What holds whatever `backup.lock` says of such a destination: nothing is answered with "continue" that is not in the
//! backup; once the destination is well, the node goes on, if need be after a restart, with everything that was ever
//! acknowledged. Whether the recorder refuses at once or waits until the destination is well is not decided here.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mountfs::demo::pretend_lightningd::{Answer, Commit};
use rustix::io::Errno;
use serde_json::Value;
use tests::fault_fs::{Caching, Call, Effect, Names, Rule};
use tests::faulty_node::{FaultyNode, LOGS};
use tests::wait::until;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The destination is well again so long after it first failed.
const HEALS_AFTER: Duration = Duration::from_millis(100);

/// What became of a write to a destination that failed while it was made.
#[derive(Debug)]
enum Came {
    /// It was refused, with this message.
    Refused(String),
    /// It was acknowledged, after the destination was well again or without having needed it.
    Recorded,
}

/// Makes the destination fail by this rule, and commits until that is noticed. The destination heals by itself.
#[track_caller]
fn fail(faulty: &mut FaultyNode, rule: Rule, acknowledged: Acknowledged) -> Came {
    let rule = faulty.faults().add(rule);
    let healed = Arc::new(AtomicBool::new(false));
    let healer = {
        let (faults, healed) = (Arc::clone(faulty.faults()), Arc::clone(&healed));
        thread::spawn(move || {
            let fired = faults.wait_until_fired(rule, 1, TIMEOUT);
            thread::sleep(HEALS_AFTER);
            healed.store(true, Ordering::SeqCst);
            faults.heal();
            fired
        })
    };
    let mut came = Came::Recorded;
    // A fault that stays unnoticed concerned nothing that an answer waits for.
    while !healed.load(Ordering::SeqCst) {
        if matches!(came, Came::Refused(_)) {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        match faulty.node.write(Commit::Normal) {
            Answer::Continue { .. } => {
                let failed_now = faulty.faults().fired(rule) > 0 && !healed.load(Ordering::SeqCst);
                if failed_now && acknowledged == Acknowledged::NotWhileItFails {
                    panic!("acknowledged although it cannot be durable: {}", faulty.node.home.recorder_stderr());
                }
                if failed_now {
                    faulty.expect_all_below();
                }
            }
            Answer::Refused { message } => came = Came::Refused(message),
            Answer::Died => panic!("the recorder died: {}", faulty.node.home.recorder_stderr()),
        }
    }
    assert!(healer.join().expect("a thread that ends"), "the rule never took effect");
    came
}

/// After a fault: the node starts and goes on with all it has.
#[track_caller]
fn expect_well(faulty: &mut FaultyNode, came: &Came) {
    match came {
        Came::Refused(_) => {}
        // What was acknowledged does not need a recorder that lives on.
        Came::Recorded => faulty.node.lightningd.kill(),
    }
    faulty.node.start();
    faulty.node.commit();
    faulty.node.commit();
    faulty.expect_all_below();
    faulty.node.expect_restorable();
}

fn files(faulty: &FaultyNode, prefix: &str) -> usize {
    let names = fs::read_dir(faulty.below()).expect("a backup").map(|entry| entry.expect("a file").file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())).count()
}

/// What may be acknowledged while a rule is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acknowledged {
    /// Nothing: the rule concerns each record.
    NotWhileItFails,
    /// What is in the backup all the same: the rule concerns what is done now and then, maybe ahead of time.
    WhatIsThere,
}

fn said(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().expect("the text before it").to_lowercase()
}

#[test]
fn nothing_is_acknowledged_that_could_not_be_written_or_synced() {
    let cases = [(Caching::Kernel, Errno::IO, [0, 7]), (Caching::Nothing, Errno::NOSPC, [0, 1])];
    for (caching, errno, afters) in cases {
        let Some(mut faulty) = FaultyNode::new(caching) else { return };
        for call in [Call::Write, Call::Fsync] {
            for effect in [Effect::Fail(errno), Effect::FailOnceDone(errno)] {
                for after in afters {
                    let rule = Rule::new(effect).calls(&[call]).names(LOGS).after(after);
                    let came = fail(&mut faulty, rule, Acknowledged::NotWhileItFails);
                    if let Came::Refused(message) = &came {
                        let message = message.to_lowercase();
                        assert!(message.contains(&said(errno)) && message.contains("node.bkp/log-"), "{message}");
                    }
                    expect_well(&mut faulty, &came);
                }
            }
        }
    }
}

#[test]
fn a_call_that_fails_once_is_as_if_it_had_failed_for_good_or_not_at_all() {
    let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
    for call in [Call::Write, Call::Fsync, Call::Rename, Call::Create, Call::FsyncDir, Call::Open] {
        for effect in [Effect::Fail(Errno::IO), Effect::FailOnceDone(Errno::IO)] {
            let rule = Rule::new(effect).calls(&[call]).times(1);
            let came = fail(&mut faulty, rule, Acknowledged::WhatIsThere);
            expect_well(&mut faulty, &came);
        }
    }
}

#[test]
fn a_log_that_cannot_be_begun_refuses_or_waits() {
    for errno in [Errno::NOSPC, Errno::IO] {
        let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
        for call in [Call::Create, Call::Rename] {
            for effect in [Effect::Fail(errno), Effect::FailOnceDone(errno)] {
                let rule = Rule::new(effect).calls(&[call]).names(Names::Beginning("log-".to_owned()));
                let came = fail(&mut faulty, rule, Acknowledged::WhatIsThere);
                expect_well(&mut faulty, &came);
            }
        }
        let rule = Rule::new(Effect::Fail(errno)).calls(&[Call::FsyncDir]);
        let came = fail(&mut faulty, rule, Acknowledged::WhatIsThere);
        expect_well(&mut faulty, &came);
    }
}

#[test]
fn a_destination_that_is_gone_and_comes_back() {
    let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
    for errno in [Errno::IO, Errno::NOTCONN, Errno::STALE, Errno::ROFS] {
        let came = fail(&mut faulty, Rule::new(Effect::Fail(errno)).after(5), Acknowledged::WhatIsThere);
        expect_well(&mut faulty, &came);
        // It may be gone already when the node starts.
        faulty.node.stop();
        faulty.node.start();
        let came = fail(&mut faulty, Rule::new(Effect::Fail(errno)), Acknowledged::WhatIsThere);
        expect_well(&mut faulty, &came);
    }
}

#[test]
fn logs_that_cannot_be_read_at_the_start_are_left_as_they_are() {
    let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
    for after in [0, 1, 3] {
        faulty.node.commit();
        faulty.node.lightningd.kill();
        faulty.node.start();
        let rule = Rule::new(Effect::Fail(Errno::IO)).calls(&[Call::Read]).names(LOGS).after(after);
        let came = fail(&mut faulty, rule, Acknowledged::WhatIsThere);
        expect_well(&mut faulty, &came);
    }
}

#[test]
fn a_slow_disk_makes_answers_late_and_nothing_else() {
    const SLOW: Duration = Duration::from_millis(50);
    let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
    faulty.node.lightningd.init().expect("the recorder takes init");
    faulty.faults().add(Rule::new(Effect::Delay(SLOW)).calls(&[Call::Fsync]));
    for _ in 0..20 {
        let Answer::Continue { elapsed } = faulty.node.write(Commit::Normal) else {
            panic!("{}", faulty.node.home.recorder_stderr());
        };
        assert!(elapsed >= SLOW && elapsed < 20 * SLOW, "{elapsed:?}");
    }
    let status = faulty.node.backup_status();
    assert_eq!(status["last_problem"], Value::Null, "{status}");
    faulty.node.stop();
    faulty.expect_all_below();
    faulty.node.expect_restorable();
}

#[test]
fn a_write_that_hangs_is_answered_when_it_is_done() {
    let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
    for call in [Call::Write, Call::Fsync] {
        let hang = faulty.faults().add(Rule::new(Effect::Hang).calls(&[call]).names(LOGS).times(1));
        let faults = Arc::clone(faulty.faults());
        let releasing = thread::spawn(move || {
            assert!(until(TIMEOUT, || faults.hanging() == 1), "nothing hangs");
            thread::sleep(HEALS_AFTER);
            faults.remove(hang);
        });
        let began = Instant::now();
        let answer = faulty.node.write(Commit::Normal);
        assert!(answer.is_continue(), "{answer:?}; {}", faulty.node.home.recorder_stderr());
        assert!(began.elapsed() >= HEALS_AFTER, "{:?}", began.elapsed());
        releasing.join().expect("a thread that ends");
        expect_well(&mut faulty, &Came::Recorded);
    }
}

#[test]
fn a_sealer_without_room_disturbs_no_write_and_is_reported_until_there_is_room() {
    let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
    faulty.node.lightningd.init().expect("the recorder takes init");
    let segments = || Names::Beginning("segment-".to_owned());
    let failing = Rule::new(Effect::Fail(Errno::NOSPC)).calls(&[Call::Write]).names(segments());
    expect_sealing_to_fail(&mut faulty, failing, Errno::NOSPC);
    // Without a restart, as soon as the sealer tries again.
    faulty.faults().heal();
    let well = until(TIMEOUT, || files(&faulty, "log-") <= 2 && files(&faulty, "segment-") > 0);
    assert!(well, "nothing is sealed: {}", faulty.node.home.recorder_stderr());
    assert!(until_replay_is_well(&mut faulty), "the problem stays");
    expect_well(&mut faulty, &Came::Recorded);
}

#[test]
fn a_segment_that_cannot_be_finished_is_made_anew() {
    for call in [Call::Create, Call::Fsync, Call::Rename] {
        let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
        faulty.node.lightningd.init().expect("the recorder takes init");
        let failing = Rule::new(Effect::Fail(Errno::IO)).calls(&[call]);
        expect_sealing_to_fail(&mut faulty, failing.names(Names::Beginning("segment-".to_owned())), Errno::IO);
        faulty.node.stop();
        faulty.faults().heal();
        faulty.node.start();
        faulty.node.commit();
        let well = until(TIMEOUT, || files(&faulty, "log-") <= 2 && files(&faulty, "segment-") > 0);
        assert!(well, "{call:?}: nothing is sealed: {}", faulty.node.home.recorder_stderr());
        expect_well(&mut faulty, &Came::Recorded);
    }
}

/// Commits more than one log holds: nothing is disturbed, and `backup-status` says what is wrong.
#[track_caller]
fn expect_sealing_to_fail(faulty: &mut FaultyNode, rule: Rule, errno: Errno) {
    // What is recorded before may be sealed already.
    let before = files(faulty, "segment-");
    let rule = faulty.faults().add(rule);
    for _ in 0..20 {
        faulty.node.commit();
    }
    assert!(faulty.faults().wait_until_fired(rule, 1, TIMEOUT), "nothing is sealed");
    for _ in 0..20 {
        faulty.node.commit();
    }
    let deadline = Instant::now() + TIMEOUT;
    let problem = loop {
        match faulty.node.backup_status()["sealing"]["problem"].as_str() {
            Some(problem) => break problem.to_lowercase(),
            None => assert!(Instant::now() < deadline, "backup-status never says that sealing fails"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert!(problem.contains("segment-") && problem.contains(&said(errno)), "{problem}");
    assert!(files(faulty, "segment-") <= before + 1, "only what is not finished");
    faulty.expect_all_below();
    faulty.node.expect_restorable();
}

fn until_replay_is_well(faulty: &mut FaultyNode) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    while faulty.node.backup_status()["sealing"]["problem"] != Value::Null {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

//! A recorder whose backup lies on a disk that fails, fills up, is slow or hangs.
//!
//! What holds whatever `backup.lock` says of such a destination: nothing is answered with "continue" that is not in the
//! backup; once the destination is well, the node goes on, if need be after a restart, with everything that was ever
//! acknowledged. Whether the recorder refuses at once or waits until the destination is well is not decided here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::DataVersion;
use common::format::names;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use rustix::io::Errno;
use serde_json::{Value, json};
use tests::cli;
use tests::fault_fs::{Caching, Call, Effect, FaultFs, Faults, Names, Rule};
use tests::home::Home;
use tests::listing::{self, Status};
use tests::skip::skipped;
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;

const PATIENCE: Duration = Duration::from_secs(20);

/// The destination is well again so long after it first failed.
const HEALS_AFTER: Duration = Duration::from_millis(100);

/// Logs end after so many statements, which is some six transactions.
const LOG_STATEMENTS: usize = 30;

/// Logs that records are written to; not those that are being made, nor what is going to be one: a log's first record is
/// in there before it has its name.
const LOGS: Names = Names::Where(|name| names::parse_log(name).is_some());

/// A node whose backup lies on a file system of ours.
struct FaultyNode {
    // Gone before the node is: a recorder that hangs in a call does not even die.
    fs: FaultFs,
    node: SmallNode,
}

/// What became of a write to a destination that failed while it was made.
#[derive(Debug)]
enum Came {
    /// It was refused, with this message.
    Refused(String),
    /// It was acknowledged, after the destination was well again or without having needed it.
    Recorded,
}

impl FaultyNode {
    /// With its first transaction made; `None` where nothing can be mounted.
    fn new(caching: Caching) -> Option<Self> {
        let home = Home::new();
        let [disk, mounted] = ["disk", "mounted"].map(|name| home.join(name));
        for directory in [&disk, &mounted] {
            fs::create_dir(directory).expect("a directory");
        }
        let fs = match FaultFs::mount(&disk, &mounted, caching) {
            Ok(fs) => fs,
            Err(error) => {
                skipped(format_args!("no file system can be mounted here ({error}), a failing disk is not tested"));
                return None;
            }
        };
        let backup = fs.path().join("node.bkp");
        let lightning_dir = home.lightning_dir();
        let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()];
        cli::backupfs(&init).expect_done("init");
        symlink(&backup, home.backup()).expect("a link");
        let mut node = SmallNode::at(home);
        node.lightningd.end_logs_after(LOG_STATEMENTS);
        node.start();
        let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
        assert!(first.is_continue(), "{first:?}; {}", node.home.recorder_stderr());
        Some(Self { fs, node })
    }

    fn faults(&self) -> &Arc<Faults> {
        self.fs.faults()
    }

    /// The backup as it is on the disk, without any fault.
    fn below(&self) -> PathBuf {
        self.node.home.join("disk/node.bkp")
    }

    /// Makes the destination fail by this rule, and commits until that is noticed. The destination heals by itself.
    #[track_caller]
    fn fail(&mut self, rule: Rule, acknowledged: Acknowledged) -> Came {
        let rule = self.faults().add(rule);
        let healed = Arc::new(AtomicBool::new(false));
        let healer = {
            let (faults, healed) = (Arc::clone(self.faults()), Arc::clone(&healed));
            thread::spawn(move || {
                let fired = faults.wait_until_fired(rule, 1, PATIENCE);
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
            match self.node.write(Commit::Normal) {
                Answer::Continue { .. } => {
                    let failed_now = self.faults().fired(rule) > 0 && !healed.load(Ordering::SeqCst);
                    if failed_now && acknowledged == Acknowledged::NotWhileItFails {
                        panic!("acknowledged although it cannot be durable: {}", self.node.home.recorder_stderr());
                    }
                    if failed_now {
                        self.expect_all_below();
                    }
                }
                Answer::Refused { message } => came = Came::Refused(message),
                Answer::Died => panic!("the recorder died: {}", self.node.home.recorder_stderr()),
            }
        }
        assert!(healer.join().expect("a thread that ends"), "the rule never took effect");
        came
    }

    /// After a fault: the node starts and goes on with all it has.
    #[track_caller]
    fn expect_well(&mut self, came: &Came) {
        match came {
            Came::Refused(_) => {}
            // What was acknowledged does not need a recorder that lives on.
            Came::Recorded => self.node.lightningd.kill(),
        }
        self.node.start();
        self.node.commit();
        self.node.commit();
        self.expect_all_below();
        self.node.expect_restorable();
    }

    /// Every version that the node ever committed is recorded, in the directory itself.
    #[track_caller]
    fn expect_all_below(&self) {
        let listed = listing::versions(&self.below(), &[]);
        let all: Vec<u32> = (1..=self.node.data_version().get()).collect();
        assert_eq!(listing::with_status(&listed, Status::Recorded), all);
        assert_eq!(listing::with_status(&listed, Status::Missing), Vec::<u32>::new());
    }

    fn status(&mut self) -> Value {
        self.node.lightningd.rpc("backup-status", &json!({})).expect("backup-status answers")
    }

    fn files(&self, prefix: &str) -> usize {
        let names = fs::read_dir(self.below()).expect("a backup").map(|entry| entry.expect("a file").file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())).count()
    }
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
                    let came = faulty.fail(rule, Acknowledged::NotWhileItFails);
                    if let Came::Refused(message) = &came {
                        let message = message.to_lowercase();
                        assert!(message.contains(&said(errno)) && message.contains("node.bkp/log-"), "{message}");
                    }
                    faulty.expect_well(&came);
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
            let came = faulty.fail(rule, Acknowledged::WhatIsThere);
            faulty.expect_well(&came);
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
                let came = faulty.fail(rule, Acknowledged::WhatIsThere);
                faulty.expect_well(&came);
            }
        }
        let rule = Rule::new(Effect::Fail(errno)).calls(&[Call::FsyncDir]);
        let came = faulty.fail(rule, Acknowledged::WhatIsThere);
        faulty.expect_well(&came);
    }
}

#[test]
fn a_destination_that_is_gone_and_comes_back() {
    let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
    for errno in [Errno::IO, Errno::NOTCONN, Errno::STALE, Errno::ROFS] {
        let came = faulty.fail(Rule::new(Effect::Fail(errno)).after(5), Acknowledged::WhatIsThere);
        faulty.expect_well(&came);
        // It may be gone already when the node starts.
        faulty.node.stop();
        faulty.node.start();
        let came = faulty.fail(Rule::new(Effect::Fail(errno)), Acknowledged::WhatIsThere);
        faulty.expect_well(&came);
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
        let came = faulty.fail(rule, Acknowledged::WhatIsThere);
        faulty.expect_well(&came);
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
    let status = faulty.status();
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
            assert!(until(PATIENCE, || faults.hanging() == 1), "nothing hangs");
            thread::sleep(HEALS_AFTER);
            faults.remove(hang);
        });
        let began = Instant::now();
        let answer = faulty.node.write(Commit::Normal);
        assert!(answer.is_continue(), "{answer:?}; {}", faulty.node.home.recorder_stderr());
        assert!(began.elapsed() >= HEALS_AFTER, "{:?}", began.elapsed());
        releasing.join().expect("a thread that ends");
        faulty.expect_well(&Came::Recorded);
    }
}

#[test]
fn a_sealer_without_room_disturbs_nobody_and_says_so_until_there_is_room() {
    let Some(mut faulty) = FaultyNode::new(Caching::Kernel) else { return };
    faulty.node.lightningd.init().expect("the recorder takes init");
    let segments = || Names::Beginning("segment-".to_owned());
    let failing = Rule::new(Effect::Fail(Errno::NOSPC)).calls(&[Call::Write]).names(segments());
    expect_sealing_to_fail(&mut faulty, failing, Errno::NOSPC);
    // Without a restart, as soon as the sealer tries again.
    faulty.faults().heal();
    let well = until(PATIENCE, || faulty.files("log-") == 1 && faulty.files("segment-") > 0);
    assert!(well, "nothing is sealed: {}", faulty.node.home.recorder_stderr());
    assert!(until_replay_is_well(&mut faulty), "the problem stays");
    faulty.expect_well(&Came::Recorded);
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
        let well = until(PATIENCE, || faulty.files("log-") == 1 && faulty.files("segment-") > 0);
        assert!(well, "{call:?}: nothing is sealed: {}", faulty.node.home.recorder_stderr());
        faulty.expect_well(&Came::Recorded);
    }
}

/// Commits more than one log holds: nothing is disturbed, and `backup-status` says what is wrong.
#[track_caller]
fn expect_sealing_to_fail(faulty: &mut FaultyNode, rule: Rule, errno: Errno) {
    // What is recorded before may be sealed already.
    let before = faulty.files("segment-");
    let rule = faulty.faults().add(rule);
    for _ in 0..20 {
        faulty.node.commit();
    }
    assert!(faulty.faults().wait_until_fired(rule, 1, PATIENCE), "nothing is sealed");
    for _ in 0..20 {
        faulty.node.commit();
    }
    let deadline = Instant::now() + PATIENCE;
    let problem = loop {
        match faulty.status()["replay"]["problem"].as_str() {
            Some(problem) => break problem.to_lowercase(),
            None => assert!(Instant::now() < deadline, "backup-status never says that sealing fails"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert!(problem.contains("segment-") && problem.contains(&said(errno)), "{problem}");
    assert!(faulty.files("segment-") <= before + 1, "only what is not finished");
    faulty.expect_all_below();
    faulty.node.expect_restorable();
}

fn until_replay_is_well(faulty: &mut FaultyNode) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while faulty.status()["replay"]["problem"] != Value::Null {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

//! Nodes and tools whose clock is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Commit, PretendLightningd, PretendSettings, RecorderStderr};
use serde_json::json;
use tests::mounted::{Mounted, fuse_is_here};
use tests::skip::skipped;
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::{binaries, cli, compare, listing};

/// A timeout longer than a slow machine needs.
const TIMEOUT: Duration = Duration::from_secs(60);

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// From these days on the year 9999 is over.
const PAST_9999_DAYS: i64 = 3_000_000;

/// A library that puts the clock of a process ahead, as nothing but the time of day is asked of it.
const AHEAD: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    int (*really)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    const char *ahead = getenv("TESTS_CLOCK_AHEAD");
    int result = really(id, now);
    if (result == 0 && id == CLOCK_REALTIME && ahead) now->tv_sec += atoll(ahead);
    return result;
}
"#;

/// A clock that is ahead.
struct Clock {
    library: PathBuf,
    seconds: i64,
}

impl Clock {
    /// `None` where there is no C compiler to make one.
    fn ahead(directory: &Path, days: i64) -> Option<Self> {
        let (source, library) = (directory.join("ahead.c"), directory.join("ahead.so"));
        fs::write(&source, AHEAD).expect("a file");
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
        if !made.is_ok_and(|status| status.success()) {
            skipped("there is no C compiler here");
            return None;
        }
        Some(Self { library, seconds: days * DAY_SECONDS })
    }

    fn backupfs(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries::backupfs());
        command.args(arguments).env("LD_PRELOAD", &self.library);
        command.env("TESTS_CLOCK_AHEAD", self.seconds.to_string());
        command
    }

    /// The node with a recorder that has this clock, from the next start on.
    fn given_to(&self, node: &mut SmallNode) {
        let recorder = node.home.join("recorder-with-another-clock");
        let script = format!(
            "#!/bin/sh\nLD_PRELOAD='{}' TESTS_CLOCK_AHEAD={} exec '{}'\n",
            self.library.display(),
            self.seconds,
            binaries::backup_recorder().display()
        );
        cli::write_program(&recorder, &script);
        let mut settings = PretendSettings::new(recorder, node.home.lightning_dir());
        settings.stderr = RecorderStderr::AppendedTo(node.home.join("recorder.stderr"));
        node.lightningd = PretendLightningd::new(settings);
        node.lightningd.end_logs_after(30);
    }
}

#[test]
fn a_clock_past_the_year_9999_stops_neither_a_node_nor_a_tool() {
    let mut node = SmallNode::before_its_first_write();
    let Some(clock) = Clock::ahead(&node.home.join(""), PAST_9999_DAYS) else { return };
    clock.given_to(&mut node);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
    assert!(first.is_continue(), "{}", node.home.recorder_stderr());
    node.lightningd.init().expect("the recorder takes init");
    for _ in 0..40 {
        node.commit();
    }
    let status = node.backup_status();
    assert!(status.to_string().contains("9999-12-30T21:59:59"), "{status}");
    node.lightningd.rpc("backup-compact", &json!({"keep_within": "1d"})).expect("nothing to drop");
    let backup = node.home.backup();
    let backup = backup.to_str().expect("a path in UTF-8");
    let restored = node.home.join("restored.sqlite3");
    let restored = restored.to_str().expect("a path in UTF-8");
    let run = |arguments: &[&str]| {
        let ran = cli::run(&mut clock.backupfs(arguments));
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        ran.expect_done(arguments[0])
    };
    run(&["status", backup]);
    node.stop();
    run(&["versions", backup]);
    run(&["versions", "--graph", backup]);
    run(&["verify", backup]);
    run(&["seal", backup]);
    run(&["restore", backup, restored]);
    compare::same_contents(&node.home.database(), Path::new(restored), &[]).expect("the same");
    run(&["restore", "--backup-existing", backup, restored]);
    run(&["restore", "--at", "9999-12-30", "--backup-existing", backup, restored]);
    let lightning_dir = node.home.lightning_dir();
    run(&["init", "--replace", "--lightning-dir", lightning_dir.to_str().expect("a path in UTF-8"), backup]);
    if fuse_is_here() {
        let mountpoint = tempfile::tempdir().expect("a mount point");
        let mut mounted = Mounted::start_by(&mut clock.backupfs(&["-v"]), Path::new(backup), mountpoint, TIMEOUT);
        fs::read_dir(mounted.join("by-time/9999/12/30/21h")).expect("what was recorded in the last hour");
        assert!(fs::read_dir(mounted.join("versions")).expect("versions").count() > 0);
        let ended = mounted.terminate().expect("it ends");
        // What it says has the time.
        let said = mounted.stderr();
        assert!(ended.success() && said.contains("[9999-12-30T21:59:59Z") && !said.contains("panicked"), "{said}");
    }
    assert!(!node.home.recorder_stderr().contains("panicked"), "{}", node.home.recorder_stderr());
    // With a clock that is right again it goes on.
    node.lightningd = node.home.lightningd();
    node.start();
    node.commit();
    node.expect_restorable();
}

#[test]
fn a_node_that_was_started_once_with_a_clock_months_ahead_keeps_its_history() {
    let mut node = SmallNode::before_its_first_write();
    let Some(clock) = Clock::ahead(&node.home.join(""), 91) else { return };
    node.lightningd.end_logs_after(30);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
    assert!(first.is_continue());
    for _ in 0..60 {
        node.commit();
    }
    node.stop();
    // What can be dropped is there when the policy is looked at, which happens once an hour.
    let backup = node.home.backup();
    cli::run(Command::new(binaries::backupfs()).arg("seal").arg(&backup)).expect_done("sealing");
    clock.given_to(&mut node);
    node.start();
    node.commit();
    node.stop();
    node.home.set_in_backup_lock("compact", json!({"keep_within": "90d"}));
    node.start();
    node.lightningd.init().expect("the recorder takes init");
    for _ in 0..20 {
        node.commit();
    }
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let status = node.backup_status();
        if status["compaction"]["clock_in_doubt"].is_string() {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep(Duration::from_secs(2));
    let count = |node: &SmallNode| listing::versions(&node.home.backup(), &[]).len();
    assert_eq!(count(&node), 82, "nothing is dropped");
    let asked = json!({"keep_within": "90d"});
    let refused = node.lightningd.rpc("backup-compact", &asked).expect_err("its clock may be wrong").to_string();
    assert!(refused.contains("force=true"), "{refused}");
    let told = node.lightningd.recorder().expect("it runs").log_lines();
    assert_eq!(
        told.iter()
            .filter(|told| told.contains("old versions are not dropped as `compact` in backup.lock says"))
            .count(),
        1,
        "{told:?}"
    );
    node.stop();
    // By hand, too, unless somebody says that the clock is right.
    let backup = node.home.backup();
    let backup = backup.to_str().expect("a path in UTF-8");
    let mut compact = clock.backupfs(&["compact", "--keep-within", "90d", backup]);
    cli::run(&mut compact).expect_refused(2, &["--force", "clock"]);
    let planned = cli::run(clock.backupfs(&["compact", "--keep-within", "90d", "--dry-run", backup]).arg("--json"));
    let planned = planned.expect_done("a dry run").json_lines().remove(0);
    assert!(planned["clock_in_doubt"].is_string() && planned["dropped_versions"].as_u64() > Some(20), "{planned}");
    // A tool whose own clock is right drops nothing of it.
    cli::backupfs(&["compact", "--keep-within", "90d", backup]).expect_done("compact");
    assert_eq!(count(&node), 82);
    cli::run(compact.arg("--force")).expect_done("compact");
    assert!(count(&node) < 60, "{}", count(&node));
    cli::backupfs(&["verify", backup]).expect_done("verify");
}

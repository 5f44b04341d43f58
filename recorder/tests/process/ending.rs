//! When the recorder leaves, and when it does not.

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::node::{Node, write};
use crate::recorder_process::RecorderProcess;

const QUIET: Duration = Duration::from_millis(300);

#[test]
fn after_shutdown_it_answers_late_writes_and_leaves_when_nothing_comes_any_more() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    recorder.get_manifest();
    recorder.record(&write(1));
    recorder.init();
    recorder.tell(&json!({"jsonrpc": "2.0", "method": "shutdown", "params": {}}));
    // Longer than the quiet time in total: every message starts it anew.
    for version in 2..=6 {
        thread::sleep(Duration::from_millis(100));
        recorder.record(&write(version));
    }
    let last = Instant::now();
    let status = recorder.wait();
    let waited = last.elapsed();
    assert!(status.success(), "{status}");
    assert!((QUIET - Duration::from_millis(20)..Duration::from_secs(2)).contains(&waited), "left after {waited:?}");

    let mut next = RecorderProcess::start(node.path());
    next.get_manifest();
    next.init();
    assert_eq!(next.status()["data_version"], 6, "the late writes are in the backup");
}

#[test]
fn without_shutdown_it_stays_however_quiet_it_is() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    recorder.get_manifest();
    recorder.init();
    thread::sleep(2 * QUIET);
    assert!(recorder.is_running());
    recorder.record(&write(1));
}

#[test]
fn the_end_of_input_ends_it_at_any_time() {
    let before_all = |_: &mut RecorderProcess| {};
    let after_manifest = |recorder: &mut RecorderProcess| drop(recorder.get_manifest());
    let after_init = |recorder: &mut RecorderProcess| {
        recorder.get_manifest();
        recorder.init();
        recorder.record(&write(1));
    };
    let within_a_message = |recorder: &mut RecorderProcess| recorder.say(br#"{"jsonrpc":"2.0","id"#);
    let stages: [fn(&mut RecorderProcess); 4] = [before_all, after_manifest, after_init, within_a_message];
    for (at, stage) in stages.into_iter().enumerate() {
        let node = Node::with_backup();
        let mut recorder = RecorderProcess::start(node.path());
        stage(&mut recorder);
        let before = Instant::now();
        recorder.hang_up();
        let status = recorder.wait();
        assert!(status.success(), "stage {at}: {status}");
        assert!(before.elapsed() < Duration::from_secs(2), "stage {at}: {:?}", before.elapsed());
    }
}

#[test]
fn a_last_write_without_the_empty_line_is_recorded() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    let message = json!({"jsonrpc": "2.0", "id": "w", "method": "db_write", "params": write(1)});
    recorder.say(message.to_string().as_bytes());
    recorder.hang_up();
    assert_eq!(recorder.hear(), json!({"jsonrpc": "2.0", "id": "w", "result": {"result": "continue"}}));
    assert!(recorder.wait().success());
}

/// The COMMIT of what was answered last is slow: its journal is there, and another write follows it.
#[test]
fn after_shutdown_it_stays_while_lightningd_commits() {
    let node = Node::with_backup();
    let database = node.path().join("elsewhere.sqlite3");
    node.name_database(&database);
    let journal = node.path().join("elsewhere.sqlite3-journal");
    let mut recorder = RecorderProcess::start(node.path());
    recorder.get_manifest();
    recorder.init();
    std::fs::write(&journal, [0xd9, 0xd5, 0x05, 0xf9]).unwrap();
    recorder.record(&write(1));
    recorder.tell(&json!({"jsonrpc": "2.0", "method": "shutdown", "params": {}}));
    thread::sleep(4 * QUIET);
    assert!(recorder.is_running());
    recorder.record(&write(2));
    std::fs::remove_file(&journal).unwrap();
    assert!(recorder.wait().success());
}

#[test]
fn signals_that_mean_nothing_to_it_do_not_end_it() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    recorder.record(&write(1));
    let id = Pid::from_raw(recorder.id().try_into().unwrap()).unwrap();
    let signals = [
        Signal::XFSZ,
        Signal::XCPU,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
    ];
    for (version, signal) in (2..).zip(signals) {
        kill_process(id, signal).unwrap();
        recorder.record(&write(version));
    }
    recorder.hang_up();
    assert!(recorder.wait().success());
}

/// The log was made before there was a limit: it is recorded to as far as the limit reaches. The preallocated file cannot be made.
#[test]
fn a_limit_of_the_size_of_files_is_a_write_that_fails_and_ends_nothing() {
    let node = Node::with_backup();
    node.on_unreachable("stop");
    let mut shell = Command::new("sh");
    // In units of 512 bytes or of 1 KiB, depending on the shell.
    shell.args(["-c", "ulimit -f 512; exec \"$0\"", env!("CARGO_BIN_EXE_backup-recorder")]);
    let mut recorder = RecorderProcess::start_by(shell, node.path());
    recorder.record(&write(1));
    recorder.logs("preallocated");
    recorder.record(&write(2));
    let mut large = write(3);
    large["writes"][0] = json!(format!("INSERT INTO payments (label) VALUES ('{}')", "x".repeat(1 << 20)));
    let reason = recorder.refused(&large);
    assert!(reason.contains("ulimit -f") && reason.contains("File too large"), "{reason}");
    assert!(recorder.is_running());
}

#[test]
fn stop_signals_to_the_whole_node_do_not_take_the_recorder_away_from_lightningd() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    recorder.record(&write(1));
    let id = Pid::from_raw(recorder.id().try_into().unwrap()).unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(id, signal).unwrap();
    }
    recorder.record(&write(2));
    recorder.hang_up();
    assert!(recorder.wait().success());
}

#[test]
fn it_ends_well_when_its_output_is_closed() {
    let node = Node::with_backup();
    let message = json!({"jsonrpc": "2.0", "id": "w", "method": "db_write", "params": write(1)});
    let input = node.path().join("input");
    std::fs::write(&input, format!("{message}\n\n")).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_backup-recorder"))
        .current_dir(node.path())
        .stdin(File::open(input).unwrap())
        .stdout(writer)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn with_arguments_it_says_what_it_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_backup-recorder"))
        .arg("--help")
        .env_remove("LIGHTNINGD_PLUGIN")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    assert!(String::from_utf8(output.stderr).unwrap().contains("important-plugin="));
}

/// `lightningd --developer` hands that flag to every plugin.
#[test]
fn flags_of_lightningd_are_ignored_and_said_once() {
    let node = Node::with_backup();
    let mut command = Command::new(env!("CARGO_BIN_EXE_backup-recorder"));
    command.args(["--developer", "--of-a-later-release=1"]).env("LIGHTNINGD_PLUGIN", "1");
    let mut recorder = RecorderProcess::start_by(command, node.path());
    recorder.get_manifest();
    recorder.record(&write(1));
    recorder.init();
    recorder.record(&write(2));
    recorder.logs("--developer");
    recorder.hang_up();
    assert!(recorder.wait().success());
    let said = recorder.logs.iter().filter(|line| line.to_string().contains("--of-a-later-release=1")).count();
    assert_eq!(said, 1);
}

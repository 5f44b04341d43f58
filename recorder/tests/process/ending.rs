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
fn it_ends_well_when_nobody_reads_its_answers() {
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
    let output =
        Command::new(env!("CARGO_BIN_EXE_backup-recorder")).arg("--help").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    assert!(String::from_utf8(output.stderr).unwrap().contains("important-plugin="));
}

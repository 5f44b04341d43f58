//! Bad input: refused with the reason, and the recorder stays able to answer.

use serde_json::{Value, json};

use crate::node::{Node, write};
use crate::recorder_process::{RecorderProcess, refusal};

#[test]
fn without_backup_lock_the_refusal_names_the_file_and_the_remedy_until_it_is_there() {
    let node = Node::without_backup();
    let mut recorder = RecorderProcess::start(node.path());
    for _ in 0..2 {
        let reason = recorder.refused(&write(1));
        assert!(reason.contains("backup.lock"), "{reason}");
        assert!(reason.contains("backupfs init"), "{reason}");
        assert!(reason.contains("must not commit"), "{reason}");
    }
    recorder.get_manifest();
    recorder.init();
    let status = recorder.status();
    assert!(status["last_problem"]["text"].as_str().unwrap().contains("backup.lock"), "{status}");
    assert_eq!(status["destination"], Value::Null);
    assert!(recorder.logs.iter().any(|log| {
        log["params"]["level"] == "error" && log["params"]["message"].as_str().unwrap().contains("backup.lock")
    }));
    assert_eq!(std::fs::read_dir(node.path()).unwrap().count(), 0, "a refusal creates nothing");

    node.create_backup();
    recorder.record(&write(1));
    assert_eq!(recorder.status()["data_version"], 1);
}

#[test]
fn a_second_recorder_is_refused_and_the_first_goes_on() {
    let node = Node::with_backup();
    let mut first = RecorderProcess::start(node.path());
    first.record(&write(1));
    let mut second = RecorderProcess::start(node.path());
    let reason = second.refused(&write(2));
    assert!(reason.contains(&node.backup().display().to_string()), "{reason}");
    first.record(&write(2));
    first.hang_up();
    first.wait();
    second.record(&write(3));
}

#[test]
fn wrong_messages_are_refused_and_the_next_good_write_is_recorded() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    recorder.get_manifest();
    recorder.init();
    let rows: &[(&str, Value, &str)] = &[
        ("{\"jsonrpc\":\"2.0\",", Value::Null, "not JSON"),
        ("\u{0}\u{1}\u{2}", Value::Null, "not JSON"),
        ("[]", Value::Null, "not a JSON-RPC request"),
        (r#"{"method":"db_write","params":{"data_version":1,"writes":["x"]}}"#, Value::Null, "without an id"),
        (r#"{"id":"a","method":"db_write","params":{"data_version":1,"writes":["x"#, json!("a"), "not JSON"),
        (r#"{"id":"a","method":"db_write","params":{"data_version":1,"writes":[]}}"#, json!("a"), "PostgreSQL"),
        (
            r#"{"id":2,"method":"db_write","params":{"data_version":"1","writes":["x"]}}"#,
            json!(2),
            "\"data_version\" is text",
        ),
        (
            r#"{"id":"a","method":"db_write","params":{"data_version":1,"writes":[1]}}"#,
            json!("a"),
            "\"writes\"[0] is a number",
        ),
        (r#"{"id":"a","method":"db_write","params":{"writes":["x"]}}"#, json!("a"), "no \"data_version\""),
        (r#"{"id":"a","method":"db_write","params":{"data_version":1}}"#, json!("a"), "no \"writes\""),
        (r#"{"id":"a","method":"db_write"}"#, json!("a"), "params are missing"),
    ];
    for (version, (message, id, expected)) in (1..).zip(rows) {
        recorder.say(format!("{message}\n\n").as_bytes());
        let answer = recorder.hear();
        let reason = refusal(&answer);
        assert_eq!(answer["id"], *id, "{message}");
        assert!(reason.contains(expected), "{message}: {reason}");
        let status = recorder.status();
        assert_eq!(status["last_problem"]["text"], reason, "{message}");
        recorder.record(&write(version));
    }
}

#[test]
fn a_line_longer_than_any_write_is_refused_by_its_id_and_the_next_write_is_recorded() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    recorder
        .say(br#"{"jsonrpc":"2.0","id":"cln:db_write#1","method":"db_write","params":{"data_version":1,"writes":[""#);
    let megabyte = vec![b'x'; 1 << 20];
    for _ in 0..1100 {
        recorder.say(&megabyte);
    }
    recorder.say(b"\"]}}\n\n");
    let answer = recorder.hear();
    assert_eq!(answer["id"], "cln:db_write#1");
    let reason = refusal(&answer);
    assert!(reason.contains("1140850688") && reason.contains("take backup-recorder out"), "{reason}");
    recorder.record(&write(1));
}

#[test]
fn a_large_write_within_the_limit_is_recorded() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    let mut large = write(1);
    large["writes"][1] = format!("INSERT INTO vars VALUES ('data_version', '{}', 0, NULL)", "v".repeat(8 << 20)).into();
    recorder.record(&large);
    recorder.record(&write(2));
}

//! `getmanifest`, `init` and writes in every order in which they come.

use serde_json::json;

use crate::node::{Node, write};
use crate::recorder_process::{RecorderProcess, init_params};

#[test]
fn the_manifest_names_the_hook_the_method_and_the_subscription() {
    let node = Node::without_backup();
    let manifest = RecorderProcess::start(node.path()).get_manifest();
    assert_eq!(manifest["hooks"][0]["name"], "db_write");
    let methods = manifest["rpcmethods"].as_array().unwrap().iter().map(|method| method["name"].as_str().unwrap());
    let mut methods: Vec<_> = methods.collect();
    methods.sort_unstable();
    assert_eq!(methods, ["backup-compact", "backup-status"]);
    for method in manifest["rpcmethods"].as_array().unwrap() {
        let usage = method["usage"].as_str().unwrap();
        assert!(usage.len() > 100, "all that `lightning-cli help` prints of {}: {usage:?}", method["name"]);
    }
    let usage = |at: usize| manifest["rpcmethods"][at]["usage"].to_string();
    assert!(usage(0).contains("[keep_within] [keep_hourly]") || usage(1).contains("[keep_within] [keep_hourly]"));
    assert_eq!(manifest["subscriptions"], json!(["shutdown"]));
    assert_eq!(manifest["dynamic"], false);
    assert_eq!(manifest["options"], json!([]));
}

/// What went wrong: `lightningd` does not start when two plugins have a method of the same name.
#[test]
fn beside_the_python_plugin_its_method_is_left_to_it() {
    let node = Node::with_backup();
    std::fs::rename(node.path().join("backup.lock"), node.path().join("backupfs.lock")).unwrap();
    let mut recorder = RecorderProcess::start(node.path());
    let manifest = recorder.get_manifest();
    let methods = manifest["rpcmethods"].as_array().unwrap().iter().map(|method| method["name"].as_str().unwrap());
    let mut methods: Vec<_> = methods.collect();
    methods.sort_unstable();
    assert_eq!(methods, ["backup-status", "backupfs-compact"]);
    recorder.init();
    recorder.record(&write(1));
    let answer = recorder.call("backupfs-compact", &json!({"keep_within": "1y", "dry_run": true}));
    assert_eq!(answer["result"]["kept_versions"], 1, "{answer}");
}

#[test]
fn writes_are_answered_before_between_and_after_the_handshake() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    recorder.record(&write(1));
    recorder.get_manifest();
    for version in 2..=9 {
        recorder.record(&write(version));
    }
    recorder.init();
    recorder.record(&write(10));
    assert_eq!(recorder.status()["data_version"], 10);
}

#[test]
fn a_burst_is_answered_completely_and_the_writes_in_order() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    let mut expected = vec![recorder.ask("getmanifest", &json!({}))];
    let mut writes = Vec::new();
    for version in 1..=20 {
        if version == 5 {
            expected.push(recorder.ask("init", &init_params()));
        }
        if version > 5 {
            expected.push(recorder.ask("backup-status", &json!({})));
        }
        writes.push(recorder.ask("db_write", &write(version)));
    }
    expected.extend(writes.iter().cloned());
    let answers: Vec<_> = expected.iter().map(|_| recorder.hear()).collect();
    assert!(answers.iter().all(|answer| answer.get("result").is_some()), "{answers:?}");
    let ids = || answers.iter().map(|answer| answer["id"].as_str().unwrap());
    let answered_writes: Vec<_> = ids().filter(|id| id.starts_with("cln:db_write")).collect();
    assert_eq!(answered_writes, writes);
    let mut answered: Vec<_> = ids().map(str::to_owned).collect();
    answered.sort();
    expected.sort();
    assert_eq!(answered, expected);
}

#[test]
fn messages_may_arrive_in_any_pieces() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": "db_write", "params": write(1)}).to_string();
    for byte in message.as_bytes() {
        recorder.say(&[*byte]);
    }
    recorder.say(b"\n");
    recorder.say(b"\n \n\n");
    assert_eq!(recorder.hear(), json!({"jsonrpc": "2.0", "id": 7, "result": {"result": "continue"}}));
}

#[test]
fn a_failed_handshake_is_reported_and_does_not_touch_the_writes() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    // cln-plugin would give up over requests out of turn, so it is not shown any; this init it is shown.
    for (method, params) in [("init", json!({})), ("backup-status", json!({}))] {
        let answer = recorder.call(method, &params);
        assert!(answer["error"]["message"].as_str().unwrap().contains("out of turn"), "{answer}");
    }
    recorder.get_manifest();
    recorder.ask("init", &json!({"options": 1}));
    recorder.record(&write(1));
    // Only when cln-plugin has ended is there an answer to what it would have to answer.
    while recorder.logs.iter().all(|log| !log["params"]["message"].as_str().unwrap().contains("has ended")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
        recorder.call("nothing", &json!({}));
    }
    let status = recorder.call("backup-status", &json!({}));
    assert!(status["error"]["message"].as_str().unwrap().contains("recording goes on"), "{status}");
    recorder.record(&write(2));
}

/// A regression: `lightning-cli` got -32700, as if lightningd could not write JSON.
#[test]
fn parameters_that_a_method_does_not_take_are_refused_by_name_and_as_such() {
    let node = Node::with_backup();
    let mut recorder = RecorderProcess::start(node.path());
    recorder.get_manifest();
    recorder.init();
    recorder.record(&write(1));
    let cases = [
        ("backup-status", json!({"verbose": true}), -32602, "verbose"),
        ("backup-status", json!([1]), -32602, "takes no parameters"),
        ("backup-compact", json!({"keep_witin": "90d"}), -32602, "keep_witin"),
        ("backup-compact", json!(["1d", "1d", "1d", "1d", true, true, 1]), -32602, "7 parameters"),
        ("backup-compact", json!({"keep_within": "soon"}), -32602, "soon"),
        ("backup-compact", json!({"dry_run": "perhaps"}), -32602, "perhaps"),
        ("backup-compact", json!({}), -32602, "keeps nothing"),
    ];
    for (method, params, code, named) in cases {
        let answer = recorder.call(method, &params);
        assert_eq!(answer["error"]["code"], code, "{method} {params}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(named), "{method} {params}: {answer}");
    }
    for params in [json!({}), json!([])] {
        assert_eq!(recorder.call("backup-status", &params)["result"]["data_version"], 1);
    }
    // What the recorder cannot do is no fault of who asks.
    std::fs::rename(node.backup(), node.path().join("aside")).unwrap();
    let answer = recorder.call("backup-compact", &json!({"keep_within": "90d", "dry_run": true}));
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
}

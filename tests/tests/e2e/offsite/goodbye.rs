//! What a copy says of itself is true: a goodbye means that nothing followed, and it is read before the changes that it is about.

use std::sync::{Arc, Mutex};

use offsite::testing::{FaultyServer, Kind};
use serde_json::{Value, json};
use tests::cli::{self, Ran};
use tests::wait::until;

use super::remote::Remote;
use super::shipped::{Shipped, TIMEOUT, run};

fn expect_shipped(shipped: &Shipped) -> Ran {
    assert!(until(TIMEOUT, || shipped.ship().code == 0), "{:?}", shipped.ship());
    run(&[&"verify", &"--json", &"--hsm-secret", &shipped.secret(), &shipped.copy]).expect_done("verify of the copy")
}

fn statements(shipped: &Shipped) -> Value {
    let verified: Value = serde_json::from_str(&expect_shipped(shipped).stdout).expect("JSON");
    verified["copy"].clone()
}

#[test]
fn no_goodbye_is_said_while_a_spool_has_changes() {
    let mut shipped = Shipped::new(&["--every", "1s"]);
    let (backup, aside) = (shipped.node.home.backup(), shipped.node.home.join("aside.bkp"));
    assert_eq!(statements(&shipped)["complete"], true);
    shipped.node.home.set_on_unreachable(json!({"spool": "", "wait_s": 0}));
    shipped.node.start();
    shipped.node.commit();
    std::fs::rename(&backup, &aside).expect("the backup is there");
    for _ in 0..5 {
        shipped.node.commit();
    }
    shipped.node.stop();
    // The backup is back, and the node does not run: its changes are in the spool only.
    std::fs::rename(&aside, &backup).expect("it was put aside");
    let said = statements(&shipped);
    assert_eq!((&said["goodbye"], &said["complete"]), (&false.into(), &false.into()), "{said}");
    let to = shipped.node.home.join("restored.sqlite3");
    run(&[&"restore", &"--hsm-secret", &shipped.secret(), &shipped.copy, &to])
        .expect_refused(2, &["did not say that it stopped", "--accept-stale-state"]);
    // The node drains it.
    shipped.node.start();
    shipped.node.commit();
    let began = std::time::Instant::now();
    while !shipped.node.spool_status().is_null() {
        assert!(began.elapsed() < TIMEOUT, "not drained");
        std::thread::sleep(std::time::Duration::from_millis(50));
        shipped.node.commit();
    }
    shipped.node.stop();
    assert_eq!(statements(&shipped)["complete"], true);
    shipped.expect_equal(&[&"--hsm-secret", &shipped.secret()]);
}

/// The other way round, a node could ship more and say goodbye between the two: then what was read before would be called the newest.
#[test]
fn a_restore_reads_what_the_copy_says_before_the_changes_that_it_is_about() {
    let server = FaultyServer::start();
    let mut remote = Remote::in_bucket(&server);
    remote.add(&[]).expect_done("offsite add");
    remote.node.lightningd.end_logs_after(30);
    remote.node.start();
    for _ in 0..40 {
        remote.node.commit();
    }
    remote.node.stop();
    run(&[&"seal", &remote.node.home.backup()]).expect_done("seal");
    remote.expect_shipped();
    remote.words();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seeing = Arc::clone(&seen);
    server.plan(move |request| {
        seeing.lock().unwrap().push((request.kind, request.name.clone()));
        None
    });
    let file = remote.drawer("restored.sqlite3");
    let restored = cli::run(remote.reading(&["restore"]).arg(&remote.url).arg(&file)).expect_done("restore");
    assert!(restored.stderr.contains("nothing followed"), "{restored:?}");
    server.no_trouble();
    let seen = seen.lock().unwrap();
    let first = |kind, prefix| seen.iter().position(|(of, name)| *of == kind && name.starts_with(prefix));
    let said = seen.iter().rposition(|(_, name)| name.starts_with("node/h/")).expect("heartbeats are read");
    let segments = first(Kind::Get, "node/s/").expect("segments are read");
    assert!(said < segments, "{seen:?}");
}

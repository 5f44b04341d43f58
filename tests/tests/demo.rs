//! `backupfs demo --once`: the whole path on a real trace, by the programs themselves.

use std::process::Command;

use tests::mounted::fuse_is_here;
use tests::{binaries, cli};

#[test]
fn the_demo_shows_everything_and_leaves_nothing() {
    if !fuse_is_here() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mut demo = Command::new(binaries::backupfs());
    let ran = cli::run(demo.args(["demo", "--once"]).env("TMPDIR", place.path())).expect_done("demo");
    // The trace it ships has 1,500 writes and ends at version 1498.
    for needle in ["1,500", "1498", "quick_check: ok"] {
        assert!(ran.stdout.contains(needle), "no {needle} in {}", ran.stdout);
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "what was left in the temporary directory");
}

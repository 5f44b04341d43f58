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

#[test]
fn a_demo_whose_output_is_closed_leaves_nothing_either() {
    let place = tempfile::tempdir().unwrap();
    let script = format!("set -o pipefail; '{}' demo --once | true", binaries::backupfs().display());
    let ran = cli::run(Command::new("bash").args(["-c", &script]).env("TMPDIR", place.path()));
    // Without FUSE it ends with 2, having shown everything else.
    assert!(ran.code == if fuse_is_here() { 0 } else { 2 }, "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "what was left in the temporary directory");
}

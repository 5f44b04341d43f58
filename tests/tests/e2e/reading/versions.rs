//! `backupfs versions`: what is there, for people and for programs.

use std::ffi::OsStr;

use mountfs::demo::pretend_lightningd::Commit;
use tests::cli;
use tests::listing::{self, Status};
use tests::small_node::SmallNode;

/// Recorded: 1, 2, 3 (after one attempt that was lost), 6, 7. Missing: 4 and 5.
fn node() -> SmallNode {
    let mut node = SmallNode::created();
    node.commit();
    node.write(Commit::CrashBeforeCommit);
    node.start();
    node.commit();
    node.stop();
    node.run_without_plugin(3);
    node.start();
    node.commit();
    node.stop();
    node
}

fn recorded(node: &SmallNode, arguments: &[&str]) -> Vec<u32> {
    listing::with_status(&listing::versions(&node.home.backup(), arguments), Status::Recorded)
}

#[test]
fn everything_that_happened_is_listed_in_its_order() {
    let node = node();
    let listed = listing::versions(&node.home.backup(), &[]);
    let all: Vec<_> = listed.iter().map(|version| (version.data_version, version.status)).collect();
    use Status::{Missing, Recorded, Rewound};
    let (first, last) = ([(1, Recorded), (2, Recorded), (3, Rewound), (3, Recorded)], [(6, Recorded), (7, Recorded)]);
    assert_eq!(all, [&first[..], &[(4, Missing), (5, Missing)], &last].concat());
}

#[test]
fn a_range_of_versions_includes_its_ends() {
    let node = node();
    assert_eq!(recorded(&node, &["--since", "3"]), [3, 6, 7]);
    assert_eq!(recorded(&node, &["--until", "3"]), [1, 2, 3]);
    assert_eq!(recorded(&node, &["--since", "2", "--until", "6"]), [2, 3, 6]);
    // Both ends may be versions that are missing.
    assert_eq!(recorded(&node, &["--since", "4", "--until", "5"]), Vec::<u32>::new());
    assert_eq!(recorded(&node, &["--since", "8"]), Vec::<u32>::new());
}

#[test]
fn a_range_of_times_is_in_utc() {
    let node = node();
    assert_eq!(recorded(&node, &["--since", "2020-01-01"]), [1, 2, 3, 6, 7]);
    assert_eq!(recorded(&node, &["--until", "2020-01-01"]), Vec::<u32>::new());
    let backup = node.home.backup();
    let all = cli::backupfs(&["versions".as_ref(), backup.as_os_str(), "--json".as_ref()]).json_lines();
    let third = all.iter().find(|line| line["data_version"] == 3 && line["status"] == "recorded").unwrap();
    let at = third["recorded_at"].as_str().unwrap();
    assert_eq!(recorded(&node, &["--since", at]), [3, 6, 7]);
    assert_eq!(recorded(&node, &["--until", at]), [1, 2, 3]);
}

#[test]
fn people_see_gaps_and_rewinds_too() {
    let node = node();
    let ran = cli::backupfs(&[OsStr::new("versions"), node.home.backup().as_os_str()]).expect_done("versions");
    for needle in ["missing", "rewound", "7"] {
        assert!(ran.stdout.contains(needle), "no {needle} in {}", ran.stdout);
    }
}

#[test]
fn an_empty_backup_has_no_versions() {
    let node = SmallNode::before_its_first_write();
    assert_eq!(listing::versions(&node.home.backup(), &[]), []);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let node = node();
    let script = format!("set -o pipefail; '{}' versions '{}' | true", program(), node.home.backup().display());
    let ran = cli::run(std::process::Command::new("bash").args(["-c", &script]));
    assert!(ran.code == 0 && !ran.stderr.contains("panicked"), "{ran:?}");
}

fn program() -> String {
    tests::binaries::backupfs().display().to_string()
}

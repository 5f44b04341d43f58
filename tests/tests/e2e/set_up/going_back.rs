//! Back on purpose, to the version before an upgrade: `restore --accept-stale-state`, then `init --replace --accept-stale-state`.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::Commit;
use tests::cli::{self, Ran};
use tests::home::Home;
use tests::small_node::{SmallNode, creation};
use tests::witness::{SEED, WitnessChannel, node_id_of, tables, write_files};

const CHANNEL: WitnessChannel = WitnessChannel { id: 0xaa, revocations: 5 };

/// A node with one channel, keys and a witness that agrees, running, at version 4.
fn node() -> SmallNode {
    let mut node = SmallNode::before_its_first_write();
    write_files(&node.home.lightning_dir(), &[CHANNEL]);
    node.lightningd.start().expect("the recorder starts");
    let creation = creation(&node_id_of(SEED));
    assert!(node.lightningd.write(DataVersion::new(1), &creation, Commit::Normal).expect("a write").is_continue());
    node.lightningd.init().expect("the recorder takes init");
    let tables = tables(CHANNEL);
    node.commit_also(&tables.iter().map(String::as_str).collect::<Vec<_>>());
    node.commit();
    node.commit();
    assert_eq!(node.data_version(), DataVersion::new(4));
    node
}

fn restore(home: &Home, more: &[&str]) -> Ran {
    let (backup, dir) = (home.backup(), home.lightning_dir());
    let mut arguments = vec![OsStr::new("restore"), OsStr::new("--backup-existing")];
    arguments.extend(more.iter().map(OsStr::new));
    arguments.extend([backup.as_os_str(), dir.as_os_str()]);
    cli::backupfs(&arguments)
}

fn replace(home: &Home, more: &[&str]) -> Ran {
    let (backup, dir) = (home.backup(), home.lightning_dir());
    let mut arguments = vec![OsStr::new("init"), OsStr::new("--replace")];
    arguments.extend(more.iter().map(OsStr::new));
    arguments.extend([OsStr::new("--lightning-dir"), dir.as_os_str(), backup.as_os_str()]);
    cli::backupfs(&arguments)
}

fn renamed_backups(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.join("")).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.to_string_lossy().contains("node.bkp.replaced-")).collect()
}

/// After a failed upgrade: nothing was revoked meanwhile, and both commands lead back. Each refusal says what to do.
#[test]
fn the_version_before_a_failed_upgrade_is_gone_back_to_with_two_commands() {
    let mut node = node();
    // The upgrade.
    node.commit_also(&["ALTER TABLE channels ADD COLUMN new_in_this_release INTEGER"]);
    node.commit();
    node.stop();
    restore(&node.home, &["--version", "4"]).expect_refused(2, &["--accept-stale-state"]);
    let restored = restore(&node.home, &["--version", "4", "--accept-stale-state"]).expect_done("restore");
    assert!(restored.stderr.contains("0 commitments were revoked"), "{restored:?}");
    assert!(restored.stderr.contains("going back to this version on purpose is safe"), "{restored:?}");
    assert_eq!(node.data_version(), DataVersion::new(4));

    let refused = node.start_refused();
    let [newest, recipe] =
        ["Restore the newest version", "init --replace --accept-stale-state"].map(|words| refused.find(words));
    assert!(newest.is_some() && newest < recipe, "{refused}");
    node.lightningd.kill();
    replace(&node.home, &[]).expect_refused(2, &["restore the newest version", "--accept-stale-state"]);
    assert!(renamed_backups(&node.home).is_empty());

    replace(&node.home, &["--accept-stale-state"]).expect_done("init --replace");
    let aside = renamed_backups(&node.home);
    assert_eq!(aside.len(), 1, "{aside:?}");
    let versions = cli::backupfs(&["verify".as_ref(), "--json".as_ref(), aside[0].as_os_str()]).expect_done("verify");
    assert_eq!(versions.json_lines()[0]["newest"]["data_version"], 6, "the old backup is whole");

    let dir = node.home.lightning_dir();
    let ran = cli::backupfs(&["preflight".as_ref(), "--json".as_ref(), dir.as_os_str()]).expect_done("preflight");
    assert_eq!(ran.json_lines()[0]["backup"]["behind"], 0);
    node.start();
    node.commit();
    node.stop();
    node.expect_restorable();
}

/// The newest version revokes commitments of the node itself, which no witness counts, and nobody has seen whether it was committed.
#[test]
fn a_newest_version_that_may_have_been_committed_counts_for_a_copy() {
    let mut node = node();
    node.commit_also(&["UPDATE channels SET next_index_local = 7"]);
    node.lightningd.kill();
    let restored = restore(&node.home, &["--version", "4", "--accept-stale-state"]).expect_done("restore");
    assert!(restored.stderr.contains("STALE: do not start"), "{restored:?}");
    assert!(restored.stderr.contains("2 commitments were revoked"), "{restored:?}");
    let dir = node.home.lightning_dir();
    let ran = cli::backupfs(&["preflight".as_ref(), dir.as_os_str()]);
    assert!(ran.code == 2 && ran.stdout.contains("has one version more, 5"), "{ran:?}");
}

/// As a crash leaves it. Here nothing depends on whether the newest version was committed.
#[test]
fn a_newest_version_that_revokes_nothing_does_not_count() {
    let mut node = node();
    node.write(Commit::CrashBeforeCommit);
    assert_eq!(node.data_version(), DataVersion::new(4));
    let dir = node.home.lightning_dir();
    let ran = cli::backupfs(&["preflight".as_ref(), dir.as_os_str()]).expect_done("preflight");
    assert!(ran.stdout.contains("No commitment was revoked in it"), "{ran:?}");
}

/// A database that is missing is no version to go back to.
#[test]
fn without_a_database_there_is_nothing_to_go_back_to() {
    let mut node = node();
    node.stop();
    fs::remove_file(node.home.database()).expect("the database");
    replace(&node.home, &["--accept-stale-state"]).expect_refused(2, &["holds version", "is at version 0"]);
}

/// A commitment was revoked since: the table says so, and by default nothing is restored, not even the newest version of the backup.
#[test]
fn a_revoked_state_is_refused_before_it_gets_its_name() {
    let mut node = node();
    node.commit_also(&["UPDATE shachains SET min_index = min_index - 2", "UPDATE channels SET next_index_local = 7"]);
    node.stop();
    write_files(&node.home.lightning_dir(), &[WitnessChannel { revocations: 7, ..CHANNEL }]);
    let told = restore(&node.home, &["--version", "4", "--accept-stale-state"]).expect_done("restore").stderr;
    assert!(told.contains("REVOKED STATE") && told.contains("BEHIND by 2"), "{told}");
    assert!(told.contains("In between 4 commitments were revoked in 1 channel"), "{told}");
    restore(&node.home, &[]).expect_done("the newest is current");

    // The node went on without this backup, as after an older copy was put in its place.
    write_files(&node.home.lightning_dir(), &[WitnessChannel { revocations: 9, ..CHANNEL }]);
    let before = fs::read(node.home.database()).expect("the database");
    let channel = "aa".repeat(32);
    restore(&node.home, &[]).expect_refused(2, &["REVOKED STATE", &channel, "2 more", "--accept-stale-state"]);
    assert_eq!(fs::read(node.home.database()).expect("the database"), before, "it stays");
    let names =
        fs::read_dir(node.home.lightning_dir()).expect("a directory").map(|it| it.expect("an entry").file_name());
    assert!(
        names
            .map(|it| it.to_string_lossy().into_owned())
            .all(|name| !name.contains("unfinished") && !name.starts_with(".tmp"))
    );

    // Other files may be named.
    let elsewhere = node.home.join("elsewhere.recover");
    fs::rename(node.home.lightning_dir().join("emergency.recover"), &elsewhere).expect("a rename");
    let named = ["--emergency-recover", elsewhere.to_str().expect("a path")];
    restore(&node.home, &named).expect_refused(2, &["REVOKED STATE"]);
    let told = restore(&node.home, &[]).expect_done("without a witness it is not known").stderr;
    assert!(told.contains("COULD NOT TELL"), "{told}");
}

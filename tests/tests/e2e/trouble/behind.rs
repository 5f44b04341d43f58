//! A backup that is behind a spool says so, whichever command looks at it, and is not restored as if it were the newest.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::cli::{self, Ran};
use tests::compare;
use tests::home::everything;
use tests::mounted::{Mounted, fuse_is_here};
use tests::small_node::SmallNode;

/// A stopped node, some of whose changes are in its spool only; the backup was put aside meanwhile.
struct BehindNode {
    node: SmallNode,
    /// Of the database when the backup had all of it.
    before: PathBuf,
}

const SPOOLED: u32 = 7;

impl BehindNode {
    fn new() -> Self {
        let mut node = SmallNode::created();
        node.stop();
        node.home.set_on_unreachable(json!({"spool": "", "wait_s": 0}));
        node.start();
        for _ in 0..10 {
            node.commit();
        }
        let before = node.home.join("before.sqlite3");
        fs::copy(node.home.database(), &before).expect("copying the database between two transactions");
        fs::rename(node.home.backup(), aside(&node)).expect("the backup is there");
        for _ in 0..SPOOLED {
            node.commit();
        }
        node.stop();
        Self { node, before }
    }

    fn newest_there(&self) -> u32 {
        self.node.data_version().get() - SPOOLED
    }

    /// What every command must say.
    fn warning(&self) -> String {
        let (from, to) = (self.newest_there() + 1, self.node.data_version());
        format!("behind by {SPOOLED} changes (versions {from}..{to})")
    }

    /// The directory of the spool.
    fn spool(&self) -> PathBuf {
        let mut spools = fs::read_dir(self.node.home.join("spool")).expect("the directory that was named");
        spools.next().expect("a spool").expect("an entry").path()
    }

    /// With the backup back, the node has it drained.
    fn drain(&mut self) {
        fs::rename(aside(&self.node), self.node.home.backup()).expect("the backup was put aside");
        self.node.start();
        self.node.commit();
        self.node.stop();
    }
}

fn aside(node: &SmallNode) -> PathBuf {
    node.home.join("aside.bkp")
}

fn backupfs(command: &str, backup: &Path, more: &[&str]) -> Ran {
    let mut arguments = vec![command.as_ref(), backup.as_os_str()];
    arguments.extend(more.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    cli::backupfs(&arguments)
}

#[track_caller]
fn expect_said(ran: &Ran, needles: &[&str]) {
    for needle in needles {
        assert!(ran.stderr.to_lowercase().contains(&needle.to_lowercase()), "no {needle:?} in {ran:?}");
    }
}

#[test]
fn versions_and_status_say_how_far_it_is_behind_and_where_the_rest_is() {
    let mut behind = BehindNode::new();
    let (backup, spool) = (aside(&behind.node), behind.spool());
    let spool = spool.to_str().expect("a path in UTF-8");
    let needles = [&behind.warning(), "this backup is behind", spool, "to drain them"];
    for arguments in [&[][..], &["--json"]] {
        let versions = backupfs("versions", &backup, arguments).expect_done("versions");
        expect_said(&versions, &needles);
        assert!(!versions.stdout.to_lowercase().contains("behind"), "results are for programs: {versions:?}");
        for command in ["status", "verify"] {
            expect_said(&backupfs(command, &backup, arguments).expect_done(command), &needles);
        }
    }
    let status = backupfs("status", &backup, &["--json"]).expect_done("status").json_lines().pop().expect("one object");
    let (from, to) = (behind.newest_there() + 1, behind.node.data_version().get());
    let told = &status["spool"];
    assert_eq!(told["path"], spool, "{status}");
    assert_eq!(
        (&told["changes"], &told["from_version"], &told["to_version"]),
        (&json!(SPOOLED), &json!(from), &json!(to))
    );
    assert_eq!(status["data_version"], behind.newest_there(), "the newest that is in the backup");

    let verified =
        backupfs("verify", &backup, &["--json"]).expect_done("verify").json_lines().pop().expect("one object");
    assert_eq!(verified["spool"], *told);

    behind.drain();
    let backup = behind.node.home.backup();
    for command in ["versions", "status", "verify"] {
        let ran = backupfs(command, &backup, &[]).expect_done(command);
        assert!(!ran.stderr.to_lowercase().contains("behind") && !ran.stderr.contains("spool"), "{ran:?}");
    }
    let status = backupfs("status", &backup, &["--json"]).expect_done("status").json_lines().pop().expect("one object");
    assert_eq!(status["spool"], Value::Null);
}

#[test]
fn restore_refuses_what_is_not_the_newest_unless_that_is_accepted() {
    let mut behind = BehindNode::new();
    let backup = aside(&behind.node);
    let to = tempfile::tempdir().expect("a directory");
    let file = to.path().join("restored.sqlite3");
    let destination = file.to_str().expect("a path in UTF-8");
    let spool = behind.spool();
    let needles = [&behind.warning(), spool.to_str().expect("UTF-8"), "all funds", "--accept-stale-state", "drained"];
    let newest = behind.newest_there().to_string();
    for more in [&[destination][..], &[destination, "--version", &newest]] {
        backupfs("restore", &backup, more).expect_refused(2, &needles);
        assert_eq!(everything(to.path()).len(), 0, "nothing is restored");
    }
    let ran = backupfs("restore", &backup, &[destination, "--accept-stale-state"]).expect_done("restore");
    expect_said(&ran, &["warning", &behind.warning(), "all funds"]);
    compare::same_contents(&behind.before, &file, &[]).expect("what is in the backup");

    behind.drain();
    let restored = to.path().join("newest.sqlite3");
    let ran =
        backupfs("restore", &behind.node.home.backup(), &[restored.to_str().expect("UTF-8")]).expect_done("restore");
    assert!(!ran.stderr.contains("behind"), "{ran:?}");
    compare::same_contents(&behind.node.home.database(), &restored, &[]).expect("what the node has");
}

#[test]
fn a_mount_says_it_before_anything_else() {
    if !fuse_is_here() {
        return;
    }
    let mut behind = BehindNode::new();
    let (spool, warning) = (behind.spool(), behind.warning());
    let mounted = Mounted::start(&aside(&behind.node));
    let said = mounted.stderr();
    assert!(said.to_lowercase().contains(&warning) && said.contains(spool.to_str().expect("UTF-8")), "{said}");
    let readme = fs::read_to_string(mounted.join("README")).expect("a README");
    // Its lines are wrapped.
    let words = readme.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.starts_with("warning: THIS BACKUP IS BEHIND") && words.to_lowercase().contains(&warning), "{readme}");
    compare::same_contents(&behind.before, &mounted.database(behind.newest_there()), &[]).expect("what is there");
    drop(mounted);

    behind.drain();
    let mounted = Mounted::start(&behind.node.home.backup());
    assert!(!mounted.stderr().contains("BEHIND"), "{}", mounted.stderr());
    assert!(!fs::read_to_string(mounted.join("README")).expect("a README").contains("BEHIND"));
}

/// Whoever has a copy of the backup on another machine can only be told where to look.
#[test]
fn elsewhere_it_is_said_where_the_rest_would_be() {
    let behind = BehindNode::new();
    let backup = aside(&behind.node);
    let note = backup.join(format::names::SPOOL_NOTE);
    let mut there: Value = serde_json::from_slice(&fs::read(&note).expect("a note")).expect("in JSON");
    there["host"] = json!("some-other-machine");
    fs::write(&note, there.to_string()).expect("changing the note");
    let spool = behind.spool();
    fs::rename(behind.node.home.join("spool"), behind.node.home.join("not-here")).expect("the spool is there");
    let needles = ["may have newer changes", spool.to_str().expect("UTF-8"), "on some-other-machine"];
    expect_said(&backupfs("versions", &backup, &[]).expect_done("versions"), &needles);
    expect_said(&backupfs("status", &backup, &[]).expect_done("status"), &needles);
    let to = tempfile::tempdir().expect("a directory");
    let file = to.path().join("restored.sqlite3");
    // The old machine may be lost, and then this is the newest there is.
    let ran = backupfs("restore", &backup, &[file.to_str().expect("UTF-8")]).expect_done("restore");
    expect_said(&ran, &needles);
    compare::same_contents(&behind.before, &file, &[]).expect("what is in the backup");
}
#[test]
fn a_spool_that_cannot_be_read_is_as_good_as_behind() {
    let behind = BehindNode::new();
    let backup = aside(&behind.node);
    let header = behind.spool().join(format::names::SPOOL_HEADER);
    let mut bytes = fs::read(&header).expect("the header");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&header, &bytes).expect("damaging the header");
    expect_said(&backupfs("versions", &backup, &[]).expect_done("versions"), &["is not known", "damaged"]);
    let to = tempfile::tempdir().expect("a directory");
    let file = to.path().join("restored.sqlite3");
    let file = file.to_str().expect("UTF-8");
    backupfs("restore", &backup, &[file]).expect_refused(2, &["maybe behind", "damaged", "--accept-stale-state"]);
    assert_eq!(everything(to.path()).len(), 0);
    backupfs("restore", &backup, &[file, "--accept-stale-state"]).expect_done("restore");
}

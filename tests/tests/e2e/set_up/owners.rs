//! Who may read what a command makes, and to whom it belongs: whatever the umask, and also when root makes it.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Commit, PretendLightningd, PretendSettings};
use serde_json::json;
use tests::home::{Home, everything};
use tests::python_file::PythonFile;
use tests::skip::skipped;
use tests::small_node::{NODE_ID, SmallNode, creation};
use tests::wait::until;
use tests::{binaries, cli};

/// A node whose programs are all started with a umask.
struct UnderUmask {
    umask: &'static str,
    node: SmallNode,
}

/// Statements after which a log is sealed.
const LOG_STATEMENTS: usize = 20;

impl UnderUmask {
    fn new(umask: &'static str) -> Self {
        let home = Home::new();
        let recorder = home.join("recorder.sh");
        let script = format!("#!/bin/sh\numask {umask}\nexec {} \"$@\"\n", binaries::backup_recorder().display());
        cli::write_program(&recorder, &script);
        let mut lightningd = PretendLightningd::new(PretendSettings::new(recorder, home.lightning_dir()));
        lightningd.end_logs_after(LOG_STATEMENTS);
        let mut node = SmallNode::at(home);
        node.lightningd = lightningd;
        Self { umask, node }
    }

    fn backupfs<A: AsRef<OsStr>>(&self, arguments: &[A]) -> cli::Ran {
        let mut command = Command::new("sh");
        let script = format!("umask {}; exec \"$0\" \"$@\"", self.umask);
        command.arg("-c").arg(script).arg(binaries::backupfs()).args(arguments);
        cli::run(&mut command)
    }

    fn node_command(&self, command: &[&str], more: &[&Path]) -> cli::Ran {
        let lightning_dir = self.node.home.lightning_dir();
        let command = command.iter().map(OsStr::new).chain(["--lightning-dir".as_ref(), lightning_dir.as_os_str()]);
        self.backupfs(&command.chain(more.iter().map(|path| path.as_os_str())).collect::<Vec<_>>())
    }

    /// Everything that can be made is made; those paths that are of the node, and not of our programs.
    fn make_everything(&mut self) -> Vec<PathBuf> {
        let root = self.node.home.join("");
        let home = |name: &str| root.join(name);
        let (backup, python, exported) = (self.node.home.backup(), home("file.bkp"), home("exported.bkp"));
        let mut file = PythonFile::default();
        file.change(1, &creation(NODE_ID));
        fs::write(&python, file.bytes()).expect("a file");
        let imported = home("imported.bkp");
        let (created, look, spool) = (home("made/regtest"), home("look.sqlite3"), home("spool"));
        let not_ours = vec![
            python.clone(),
            home("recorder.sh"),
            self.node.home.lightning_dir(),
            self.node.home.database(),
            self.node.home.lightning_dir().join("lightningd.sqlite3-journal"),
        ];

        self.node_command(&["init"], &[&backup]).expect_done("init");
        self.node.home.set_on_unreachable(json!({"spool": "", "wait_s": 0}));
        // As it was: the test has written it anew.
        fs::set_permissions(self.node.home.backup_lock(), Permissions::from_mode(0o600)).expect("its mode");
        self.node.start();
        let answer =
            self.node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
        assert!(answer.is_continue(), "{answer:?}");
        self.node.lightningd.init().expect("the recorder takes init");
        for _ in 0..20 {
            self.node.commit();
        }
        self.node.stop();
        self.backupfs(&["seal".as_ref(), backup.as_os_str()]).expect_done("seal");
        let compact = ["compact", "--keep-daily", "1d"].map(OsStr::new);
        self.backupfs(&[&compact[..], &[backup.as_os_str()]].concat()).expect_done("compact");
        for (to, more) in [(&look, &[][..]), (&look, &["--backup-existing"]), (&created, &["--create", "--verify"])] {
            let restore = ["restore".as_ref(), backup.as_os_str(), to.as_os_str()];
            self.backupfs(&[&restore[..], &more.iter().map(OsStr::new).collect::<Vec<_>>()].concat())
                .expect_done("restore");
        }
        self.backupfs(&["export".as_ref(), backup.as_os_str(), exported.as_os_str()]).expect_done("export");
        self.backupfs(&["import".as_ref(), python.as_os_str(), imported.as_os_str()]).expect_done("import");
        self.node_command(&["init", "--replace"], &[&backup]).expect_done("init --replace");
        fs::remove_file(self.node.home.backup_lock()).expect("backup.lock");
        self.node_command(&["attach"], &[&backup]).expect_done("attach");
        self.node.home.set_on_unreachable(json!({"spool": "", "wait_s": 0}));
        self.node.start();
        self.node.commit();
        fs::rename(&backup, home("away.bkp")).expect("the backup is there");
        self.node.commit();
        // A thread makes the file of the next log.
        let is_made = || everything(&spool).keys().any(|path| path.ends_with("preallocated"));
        assert!(until(Duration::from_secs(60), is_made), "{:?}", everything(&spool).keys());
        not_ours
    }
}

/// What went wrong: the directory of the backup had the mode of the umask, 0755 or even 0777.
#[test]
fn every_new_file_is_closed_to_others_under_any_umask() {
    for umask in ["0", "022", "077"] {
        let mut it = UnderUmask::new(umask);
        let not_ours = it.make_everything();
        let mut made = Vec::new();
        for path in everything(&it.node.home.join("")).into_keys().filter(|path| !not_ours.contains(path)) {
            let metadata = path.symlink_metadata().expect("it is there");
            let mode = if metadata.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(metadata.permissions().mode() & 0o7777, mode, "umask {umask}: {}", path.display());
            made.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
        // What is looked at is what is meant.
        for beginning in [
            "node.bkp.replaced-",
            "away.bkp",
            "imported.bkp",
            "exported.bkp",
            "LOCK",
            "manifest",
            "log-",
            "segment-",
            "preallocated",
            "snapshot-",
            "pruned",
            "spool-note",
            "spool",
            "backup.lock",
            "backup.lock.replaced-",
            "backup.spool",
            "look.sqlite3",
            "look.sqlite3.replaced-",
            "made",
            "regtest",
            "lightningd.sqlite3",
        ] {
            assert!(made.iter().any(|name| name.starts_with(beginning)), "{beginning} is not in {made:?}");
        }
    }
}

/// Somebody who need not exist.
const USER: u32 = 12_345;
const GROUP: u32 = 12_346;

fn give(path: &Path) {
    chown(path, Some(USER), Some(GROUP)).expect("root gives files away");
}

#[track_caller]
fn expect_given(path: &Path) {
    let inside = if path.is_dir() { everything(path) } else { Default::default() };
    for path in inside.into_keys().chain([path.to_owned()]) {
        let metadata = path.symlink_metadata().expect("it is there");
        assert_eq!((metadata.uid(), metadata.gid()), (USER, GROUP), "{}", path.display());
    }
}

/// What went wrong: what root made for the node of another user was closed to that.
#[test]
fn what_root_makes_for_the_node_of_another_user_belongs_to_that() {
    if !rustix::process::geteuid().is_root() {
        skipped("only root makes files for others");
        return;
    }
    let home = Home::new();
    let owned = home.lightning_dir();
    give(&owned);
    let backup = home.backup();
    let told = format!("user {USER}, group {GROUP}");
    let expect_reported = |ran: cli::Ran| assert!(ran.stdout.contains(&told), "{ran:?}");

    expect_reported(home.init());
    expect_given(&backup);
    expect_given(&owned);
    let mut node = SmallNode::at(home);
    node.lightningd.end_logs_after(LOG_STATEMENTS);
    node.start();
    node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
    for _ in 0..20 {
        node.commit();
    }
    node.stop();
    give(&node.home.database());
    let journal = node.home.lightning_dir().join("lightningd.sqlite3-journal");
    assert!(!journal.exists());
    cli::backupfs(&["seal".as_ref(), backup.as_os_str()]).expect_done("seal");
    let compact = ["compact", "--keep-daily", "1d"].map(OsStr::new);
    cli::backupfs(&[&compact[..], &[backup.as_os_str()]].concat()).expect_done("compact");
    assert!(backup.join("pruned").exists());
    expect_given(&backup);

    let of_node = |command: &[&str], more: &[&Path]| {
        let arguments = command.iter().map(OsStr::new).chain(["--lightning-dir".as_ref(), owned.as_os_str()]);
        cli::backupfs(&arguments.chain(more.iter().map(|path| path.as_os_str())).collect::<Vec<_>>())
    };
    expect_reported(of_node(&["init", "--replace"], &[&backup]).expect_done("init --replace"));
    expect_given(&backup);
    expect_given(&owned);
    fs::remove_file(node.home.backup_lock()).unwrap();
    expect_reported(of_node(&["attach"], &[&backup]).expect_done("attach"));
    expect_given(&owned);

    let restore = |to: &Path, more: &[&str]| {
        let arguments = ["restore".as_ref(), backup.as_os_str(), to.as_os_str()].into_iter();
        cli::backupfs(&arguments.chain(more.iter().map(OsStr::new)).collect::<Vec<_>>()).expect_done("restore")
    };
    expect_reported(restore(&owned, &["--backup-existing"]));
    expect_given(&owned);
    expect_reported(restore(&owned.join("new/bitcoin"), &["--create"]));
    expect_given(&owned.join("new"));
    let look = node.home.join("look.sqlite3");
    assert!(!restore(&look, &[]).stdout.contains("belongs"), "that directory is root's");
    assert_eq!(look.symlink_metadata().unwrap().uid(), 0);

    // The place is root's, but what is exported and imported is not.
    let (exported, imported) = (node.home.join("exported.bkp"), node.home.join("imported.bkp"));
    expect_reported(
        cli::backupfs(&["export".as_ref(), backup.as_os_str(), exported.as_os_str()]).expect_done("export"),
    );
    expect_given(&exported);
    expect_reported(
        cli::backupfs(&["import".as_ref(), exported.as_os_str(), imported.as_os_str()]).expect_done("import"),
    );
    expect_given(&imported);
    fs::remove_dir_all(&imported).unwrap();
    chown(&exported, Some(0), Some(0)).unwrap();
    fs::remove_file(node.home.backup_lock()).unwrap();
    expect_reported(of_node(&["import"], &[&exported, &imported]).expect_done("import"));
    expect_given(&imported);
    expect_given(&owned);

    // A copy that root has made is told of, with what helps.
    chown(&imported, Some(0), Some(0)).unwrap();
    let ran = of_node(&["attach"], &[&imported]).expect_done("attach");
    assert!(ran.stderr.contains(&format!("chown -R {USER}:{GROUP} {}", imported.display())), "{ran:?}");
}

/// A link is not followed: what it leads to belongs to whom it did.
#[test]
fn what_a_link_leads_to_is_not_given_away() {
    if !rustix::process::geteuid().is_root() {
        skipped("only root makes files for others");
        return;
    }
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    let (to, precious) = (tempfile::tempdir().unwrap(), node.home.join("precious"));
    give(to.path());
    fs::write(&precious, "precious").unwrap();
    let file = to.path().join("lightningd.sqlite3");
    for link in ["lightningd.sqlite3", ".restoring-link.tmp"] {
        std::os::unix::fs::symlink(&precious, to.path().join(link)).unwrap();
    }
    let backup = node.home.backup();
    let restore = ["restore".as_ref(), "--backup-existing".as_ref(), backup.as_os_str(), to.path().as_os_str()];
    cli::backupfs(&restore).expect_done("restore");
    expect_given(&file);
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert_eq!(precious.symlink_metadata().unwrap().uid(), 0);
}

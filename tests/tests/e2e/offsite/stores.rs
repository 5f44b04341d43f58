//! Copies in buckets and on SFTP servers, by real processes: shipped, followed, restored with the words alone; and what becomes of a
//! copy whose store hangs, is overloaded, loses answers or ignores conditions.

use std::thread;
use std::time::Duration;

use mountfs::demo::pretend_lightningd::{Answer, Commit};
use offsite::testing::{Access, Conditions, FaultyServer, Kind, Sshd, Trouble};
use tests::compare;
use tests::mounted::{Mounted, fuse_is_here};
use tests::wait::until;

use super::remote::{Remote, until_seen};
use super::shipped::TIMEOUT;

/// How long a request hangs that hangs.
const HANGS: Duration = Duration::from_secs(8);

/// The longest answer of the node meanwhile, on a machine with other things to do.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The store is used as its operator does, from the beginning of a copy to the restore on another machine.
fn works_from_beginning_to_end(mut remote: Remote) {
    remote.add(&["--every", "1s"]).expect_done("offsite add");
    remote.words();
    remote.node.start();
    remote.node.lightningd.init().expect("the recorder takes init");
    for _ in 0..20 {
        remote.node.commit();
    }
    remote.expect_newest_soon();
    if fuse_is_here() {
        let point = tempfile::tempdir().expect("a directory");
        let mounted = Mounted::start_command(&mut remote.reading(&["mount"]), remote.url.as_ref(), point, TIMEOUT);
        let version = remote.node.commit();
        assert!(until(TIMEOUT, || mounted.database(version).exists()), "version {version} does not come");
        compare::same_contents(&remote.node.home.database(), &mounted.database(version), &[]).expect("the same");
    }
    remote.node.commit();
    remote.node.stop();
    assert!(until_seen(|| remote.list()[0]["state"] == "stopped"), "no goodbye: {}", remote.list());
    remote.expect_nothing_missing();
    let plain = remote.read(&["verify"]).expect_done("verify");
    assert!(plain.stdout.contains("The copy holds everything"), "{plain:?}");
}

#[test]
fn a_bucket_is_shipped_to_followed_and_restored_from_with_the_words_alone() {
    let server = FaultyServer::start();
    works_from_beginning_to_end(Remote::in_bucket(&server));
    for (name, bytes) in server.objects() {
        assert!(name.starts_with("node/"), "{name}");
        assert!(!bytes.windows(8).any(|window| window == b"invoices"), "{name} is in clear text");
    }
    assert_eq!(server.counts().delete, 0, "the node deletes nothing");
}

#[test]
fn a_directory_of_an_sftp_server_is_shipped_to_followed_and_restored_from_with_the_words_alone() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    works_from_beginning_to_end(Remote::new(sshd.url("home/node.copy")));
}

#[test]
fn a_store_that_hangs_holds_up_neither_the_node_nor_another_copy() {
    let server = FaultyServer::start();
    let mut remote = Remote::in_bucket(&server);
    let disk = remote.node.home.join("disk.copy");
    remote.add(&["--every", "1s"]).expect_done("offsite add");
    let lightning_dir = remote.dir();
    let add: [&dyn AsRef<std::ffi::OsStr>; 6] =
        [&"offsite", &"add", &"--every=1s", &"--lightning-dir", &lightning_dir, &disk];
    remote.run(&add).expect_done("offsite add");
    remote.expect_shipped();
    server.always(None, Trouble::Hang(HANGS));
    let (stored, asked) = (server.objects().len(), server.counts().requests());
    remote.node.start();
    remote.node.lightningd.init().expect("the recorder takes init");
    assert!(until(TIMEOUT, || server.counts().requests() > asked), "nothing was asked of the bucket");
    let mut slowest = Duration::ZERO;
    for _ in 0..30 {
        match remote.node.write(Commit::Normal) {
            Answer::Continue { elapsed } => slowest = slowest.max(elapsed),
            other => panic!("{other:?}; {}", remote.node.home.recorder_stderr()),
        }
    }
    assert!(slowest < ANSWER_MAX, "an answer took {slowest:?}");
    let secret = lightning_dir.join("hsm_secret");
    let newest_on_disk = || {
        let status = remote.run(&[&"status", &"--json", &"--hsm-secret", &secret, &disk]);
        serde_json::from_str::<serde_json::Value>(&status.stdout).ok()?["data_version"].as_u64()
    };
    let newest = u64::from(remote.node.data_version().get());
    assert!(until_seen(|| newest_on_disk() == Some(newest)), "{:?} of {newest}", newest_on_disk());
    assert_eq!(server.objects().len(), stored, "the bucket has hung all the time");
    server.no_trouble();
    remote.expect_newest_soon();
    remote.node.stop();
    remote.expect_shipped();
    remote.expect_nothing_missing();
}

#[test]
fn how_far_a_copy_is_behind_is_counted_while_its_store_is_away() {
    let server = FaultyServer::start();
    let mut remote = Remote::in_bucket(&server);
    remote.add(&["--every", "1s"]).expect_done("offsite add");
    remote.expect_shipped();
    assert_eq!(remote.list()[0]["behind_changes"], 0);
    server.always(None, Trouble::Answer(503, "SlowDown"));
    remote.node.start();
    remote.node.commit();
    remote.node.lightningd.init().expect("the recorder takes init");
    assert!(until(TIMEOUT, || remote.list()[0]["state"] == "waiting"), "{}", remote.list());
    let before = remote.list()[0]["behind_changes"].as_u64().expect("a number");
    assert!(before >= 1, "{}", remote.list());
    for more in 1..=3 {
        remote.node.commit();
        assert_eq!(remote.list()[0]["behind_changes"], before + more);
        assert_eq!(remote.node.backup_status()["offsite"][0]["behind_changes"], before + more);
    }
    server.no_trouble();
    assert!(until(TIMEOUT, || remote.list()[0]["behind_changes"] == 0), "{}", remote.list());
    remote.node.stop();
}

/// A bucket that meets trouble while a node ships to it, until `has_met_it`. Nothing is missing afterwards.
fn nothing_is_missing_after(server: &FaultyServer, begins: impl Fn(), has_met_it: impl Fn() -> bool) -> Remote {
    let mut remote = Remote::in_bucket(server);
    // Logs are finished meanwhile, so that segments are shipped, too.
    remote.node.lightningd.end_logs_after(30);
    remote.add(&["--every", "1s"]).expect_done("offsite add");
    remote.words();
    remote.node.start();
    remote.node.lightningd.init().expect("the recorder takes init");
    remote.node.commit();
    remote.expect_newest_soon();
    begins();
    for commits in 0.. {
        remote.node.commit();
        thread::sleep(Duration::from_millis(100));
        if commits > 15 && has_met_it() {
            break;
        }
        assert!(commits < 600, "the store was not asked: {}", remote.list());
    }
    server.no_trouble();
    remote.node.commit();
    remote.expect_newest_soon();
    remote.node.stop();
    remote.expect_shipped();
    remote.expect_nothing_missing();
    remote
}

#[test]
fn nothing_is_missing_after_a_store_was_overloaded() {
    let server = FaultyServer::start();
    let trouble = || server.always(None, Trouble::Answer(503, "SlowDown"));
    let asked = std::cell::Cell::new(0);
    let begins = || {
        trouble();
        asked.set(server.counts().requests());
    };
    nothing_is_missing_after(&server, begins, || server.counts().requests() >= asked.get() + 3);
}

#[test]
fn nothing_is_missing_after_uploads_were_stored_whose_answers_were_lost() {
    let server = FaultyServer::start();
    let lost = std::cell::Cell::new(0);
    let begins = || {
        server.always(Some(Kind::Put), Trouble::DropAfter);
        lost.set(server.counts().put);
    };
    nothing_is_missing_after(&server, begins, || server.counts().put >= lost.get() + 3);
}

#[test]
fn nothing_is_missing_in_a_store_that_ignores_conditions_or_does_not_know_them_and_loses_answers() {
    for (conditions, name) in [(Conditions::Ignored, "ignored"), (Conditions::Refused, "refused")] {
        let server = FaultyServer::start();
        server.set_conditions(conditions);
        let lost = std::cell::Cell::new(0);
        let begins = || {
            server.plan(|seen| {
                (seen.kind == Kind::Put && seen.number_of_kind.is_multiple_of(4)).then_some(Trouble::DropAfter)
            });
            lost.set(server.counts().put);
        };
        let remote = nothing_is_missing_after(&server, begins, || server.counts().put >= lost.get() + 9);
        assert_eq!(remote.list()[0]["conditional_put"], name);
    }
}

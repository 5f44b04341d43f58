//! A backup on a disk that fills up: the node stops before it commits what is not recorded.

use std::ffi::CString;
use std::fs;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tests::home::Home;
use tests::listing::{self, Status};
use tests::skip::skipped;
use tests::small_node::{NODE_ID, SmallNode, bump, creation};

/// A tiny disk; gone when dropped.
struct TinyDisk(std::path::PathBuf);

impl Drop for TinyDisk {
    fn drop(&mut self) {
        // Detached even while a recorder of a failed test is still there.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_refuses_and_room_is_all_it_takes_to_go_on() {
    let home = Home::new();
    let disk = home.join("disk");
    fs::create_dir(&disk).unwrap();
    if let Err(error) = mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), c"size=40m") {
        skipped(format_args!("a small file system cannot be mounted here ({error}), a full disk is not tested"));
        return;
    }
    let _unmounted_at_the_end = TinyDisk(disk.clone());
    std::os::unix::fs::symlink(disk.join("node.bkp"), home.backup()).unwrap();
    let backup = disk.join("node.bkp");
    let lightning_dir = home.lightning_dir();
    let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()];
    tests::cli::backupfs(&init).expect_done("init");

    home.set_in_backup_lock("on_unreachable", "stop".into());
    let mut node = SmallNode::at(home);
    node.start();
    let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).unwrap();
    assert!(first.is_continue(), "{first:?}");
    let refusal = (0..100).find_map(|id| {
        let next = node.data_version().next();
        let big = format!("INSERT INTO htlcs (id, preimage) VALUES (-{id}, x'{}')", "5a".repeat(500_000));
        match node.lightningd.write(next, &[big, bump(next)], Commit::Normal).unwrap() {
            Answer::Continue { .. } => None,
            Answer::Refused { message } => Some((next, message)),
            Answer::Died => panic!("died at {next}: {}", node.home.recorder_stderr()),
        }
    });
    let (refused, message) = refusal.expect("100 MB do not fit into 40");
    assert!(message.to_lowercase().contains("space") && message.contains("node.bkp"), "{message}");
    assert_eq!(node.data_version().next(), refused, "refused before the commit");
    // After a restart sealing may have made room, or there is still none: the node goes on or is refused again.
    node.start();
    let big = format!("INSERT INTO htlcs (id, preimage) VALUES (0, x'{}')", "5a".repeat(500_000));
    let again = node.lightningd.write(refused, &[big, bump(refused)], Commit::Normal).unwrap();
    assert!(matches!(again, Answer::Refused { .. } | Answer::Continue { .. }), "{again:?}");
    let room = CString::new("size=200m").unwrap();
    mount_remount(&disk, MountFlags::empty(), &room).unwrap();
    node.start();
    node.commit();
    node.expect_restorable();
    let listed = listing::versions(&node.home.backup(), &[]);
    let all: Vec<u32> = (1..=node.data_version().get()).collect();
    assert_eq!(listing::with_status(&listed, Status::Recorded), all);
}

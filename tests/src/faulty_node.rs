//! A small node whose backup lies on a file system of ours.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

use common::DataVersion;
use mountfs::demo::pretend_lightningd::Commit;
use serde_json::Value;

use crate::cli;
use crate::fault_fs::{Caching, FaultFs, Faults, Names};
use crate::home::Home;
use crate::listing::{self, Status};
use crate::skip::skipped;
use crate::small_node::{NODE_ID, SmallNode, creation};

/// Logs end after so many statements, which is some six transactions.
const LOG_STATEMENTS: usize = 30;

/// Logs that records are written to; not those that are being made, nor what is going to be one: a log's first record is
/// in there before it has its name.
pub const LOGS: Names = Names::Where(|name| format::names::parse_log(name).is_some());

/// A node whose backup lies on a file system of ours.
pub struct FaultyNode {
    // Gone before the node is: a recorder that hangs in a call does not even die.
    /// The file system.
    pub fs: FaultFs,
    /// The node.
    pub node: SmallNode,
}

impl FaultyNode {
    /// With its first transaction made; `None` where nothing can be mounted.
    pub fn new(caching: Caching) -> Option<Self> {
        Self::with_policy(caching, None)
    }

    /// The same, with this `on_unreachable` in its `backup.lock`; see [`Home::set_on_unreachable`].
    pub fn with_policy(caching: Caching, on_unreachable: Option<Value>) -> Option<Self> {
        let home = Home::on_disk();
        let [disk, mounted] = ["disk", "mounted"].map(|name| home.join(name));
        for directory in [&disk, &mounted] {
            fs::create_dir(directory).expect("a directory");
        }
        let fs = match FaultFs::mount(&disk, &mounted, caching) {
            Ok(fs) => fs,
            Err(error) => {
                skipped(format_args!("no file system can be mounted here ({error}), a failing disk is not tested"));
                return None;
            }
        };
        let backup = fs.path().join("node.bkp");
        let lightning_dir = home.lightning_dir();
        let init = ["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()];
        cli::backupfs(&init).expect_done("init");
        symlink(&backup, home.backup()).expect("a link");
        if let Some(policy) = on_unreachable {
            home.set_on_unreachable(policy);
        }
        let mut node = SmallNode::at(home);
        node.lightningd.end_logs_after(LOG_STATEMENTS);
        node.start();
        let first = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
        assert!(first.is_continue(), "{first:?}; {}", node.home.recorder_stderr());
        Some(Self { fs, node })
    }

    /// The rules of the file system.
    pub fn faults(&self) -> &Arc<Faults> {
        self.fs.faults()
    }

    /// The backup as it is on the disk, without any fault.
    pub fn below(&self) -> PathBuf {
        self.node.home.join("disk/node.bkp")
    }

    /// Every version that the node ever committed is recorded, in the directory itself.
    #[track_caller]
    pub fn expect_all_below(&self) {
        let listed = listing::versions(&self.below(), &[]);
        let all: Vec<u32> = (1..=self.node.data_version().get()).collect();
        assert_eq!(listing::with_status(&listed, Status::Recorded), all);
        assert_eq!(listing::with_status(&listed, Status::Missing), Vec::<u32>::new());
    }
}

//! [`FaultFs`]: a file system that shows a directory, and delays, fails or hangs whichever calls a test chooses.
//!
//! It lies under the backup of a real recorder, so that the whole process is tested: what the library does on a failing
//! disk, and what the process makes of it. Everything is passed on to the directory below at once; nothing is kept but what
//! the kernel itself keeps. `flock` is the kernel's own.
//!
//! | where | what |
//! | --- | --- |
//! | [`Faults`] | the rules, and what was counted |
//! | `adapter` | each request of the kernel: judged, then done |
//! | `real_tree` | the directory below |

mod adapter;
mod real_tree;
mod rules;

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use self::adapter::Adapter;
use self::real_tree::RealTree;
pub use self::rules::{Call, Effect, Faults, Names, Rule, RuleId};
use crate::wait::until;

/// Threads that talk to the kernel. Calls that wait have threads of their own.
const THREADS: usize = 4;

/// How long the threads may take to notice that the file system is gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Who keeps the contents of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// The kernel, as of any file system. Writes are passed on at once; what was written or read can be read again without a
    /// call, as long as the file is open.
    Kernel,
    /// Nobody: each read and write of a process is a call, of exactly its bytes.
    Nothing,
}

/// A mounted file system. Dropped, it lets go whatever hangs and is gone, even from under processes that use it.
#[derive(Debug)]
pub struct FaultFs {
    mounted_at: PathBuf,
    faults: Arc<Faults>,
    session: Option<BackgroundSession>,
}

impl FaultFs {
    /// Shows `directory` at the empty directory `at`. Needs root: the kernel is asked directly, without any helper.
    ///
    /// # Errors
    /// What the kernel says: no root, no FUSE, no such directory.
    pub fn mount(directory: &Path, at: &Path, caching: Caching) -> io::Result<Self> {
        let tree = RealTree::open(directory)?;
        let mounted_at = at.canonicalize()?;
        // Not inherited by the processes under test: the file system would live as long as they do.
        let kernel = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let number = kernel.as_raw_fd();
        let data = CString::new(format!("fd={number},rootmode=40000,user_id=0,group_id=0,default_permissions"))?;
        mount("faulty", &mounted_at, "fuse.faulty", MountFlags::NOSUID | MountFlags::NODEV, &*data)?;
        let faults = Arc::new(Faults::default());
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        config.acl = SessionACL::Owner;
        let adapter = Adapter::new(tree, Arc::clone(&faults), caching);
        let session = Session::from_fd(adapter, kernel, config.acl, config).and_then(Session::spawn);
        // From here on dropping it unmounts.
        let mut fault_fs = Self { mounted_at, faults, session: None };
        fault_fs.session = Some(session?);
        Ok(fault_fs)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted_at
    }

    /// The rules, for this and other threads.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.faults.heal();
        if unmount(&self.mounted_at, UnmountFlags::empty()).is_err() {
            // In use. Forced, the connection is aborted: calls under way fail, and so do all that come. What is still open
            // goes with the processes that have it open.
            if let Err(error) = unmount(&self.mounted_at, UnmountFlags::FORCE | UnmountFlags::DETACH) {
                eprintln!("cannot unmount {}: {error}", self.mounted_at.display());
                return;
            }
        }
        if let Some(session) = self.session.take()
            && until(END_TIMEOUT, || session.guard.is_finished())
        {
            // That the connection is gone is no news.
            let _: io::Result<()> = session.join();
        }
    }
}

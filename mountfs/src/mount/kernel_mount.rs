//! Makes the mount: with mount(2) as root, otherwise with the setuid helper `fusermount3`. The mount has the same type both
//! ways.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{geteuid, getgid, getuid};

use crate::fuse::adapter::FuseAdapter;
use crate::fuse::kernel_attr::Access;
use crate::mount::mount_rights::{DEV_FUSE, can_open_device};
use crate::mount::mountpoint::Mountpoint;

/// The type of the mount, as `mount`, `findmnt -t` and `PRUNEFS` name it.
pub const FILE_SYSTEM_TYPE: &str = "fuse.backupfs";

/// The part of the type that is passed to `fusermount3`.
const SUBTYPE: &str = "backupfs";

/// The number of threads that serve the kernel. They answer from memory or read pages; views are built in other threads.
const THREADS: usize = 4;

/// A mount that is being served.
pub struct Serving {
    session: BackgroundSession,
    made: Made,
}

/// The program that made the mount, and so removes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// This process itself.
    Here,
    /// `fusermount3`.
    ByHelper,
}

impl Serving {
    /// Mounts `source` and serves it.
    ///
    /// # Errors
    /// When it cannot be mounted; nothing is mounted then.
    pub fn start(adapter: FuseAdapter, source: &str, mountpoint: &Mountpoint, access: Access) -> io::Result<Self> {
        let config = config(source, access);
        if !geteuid().is_root() {
            let session = Session::new(adapter, mountpoint.path(), &config).and_then(Session::spawn)?;
            return Ok(Self { session, made: Made::ByHelper });
        }
        let connection = connect(source, mountpoint.path(), access)?;
        let session = Session::from_fd(adapter, connection, config.acl, config).and_then(Session::spawn);
        let session = session.inspect_err(|_| {
            if let Err(error) = mountpoint.detach() {
                log::error!("cannot unmount {}: {error}", mountpoint.path().display());
            }
        })?;
        Ok(Self { session, made: Made::Here })
    }

    /// The channel for invalidations in the kernel.
    pub fn notifier(&self) -> fuser::Notifier {
        self.session.notifier()
    }

    /// Unmounts, and waits until everything is answered.
    ///
    /// # Errors
    /// When it is in use, or not mounted any more.
    pub fn unmount(self, mountpoint: &Path) -> io::Result<()> {
        match self.made {
            Made::Here => {
                unmount(mountpoint, UnmountFlags::empty())?;
                self.session.join()
            }
            Made::ByHelper => self.session.umount_and_join(),
        }
    }
}

/// Mounts with mount(2), and returns the descriptor to read requests from.
///
/// # Errors
/// The error of the system.
pub fn connect(source: &str, mountpoint: &Path, access: Access) -> io::Result<OwnedFd> {
    let connection = rustix::fs::open(DEV_FUSE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let root_mode = fs::metadata(mountpoint)?.permissions().mode();
    let others = match access {
        Access::Owner => "",
        Access::Others => ",allow_other",
    };
    let options = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={},default_permissions{others}",
        connection.as_raw_fd(),
        getuid().as_raw(),
        getgid().as_raw(),
    );
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    mount(source, mountpoint, FILE_SYSTEM_TYPE, flags, CString::new(options)?.as_c_str())?;
    Ok(connection)
}

fn config(source: &str, access: Access) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName(source.to_owned()),
        MountOption::Subtype(SUBTYPE.to_owned()),
    ];
    config.acl = match access {
        Access::Owner => SessionACL::Owner,
        Access::Others => SessionACL::All,
    };
    config.n_threads = Some(THREADS);
    config.clone_fd = can_open_device();
    config
}

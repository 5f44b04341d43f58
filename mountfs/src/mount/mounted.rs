//! [`Mount`]: a backup that is mounted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use common::{Backup, OpenError, ReadError, Source};

use crate::fuse::adapter::{End, FuseAdapter, Kernel};
use crate::fuse::kernel_attr::{Access, Owner};
use crate::mount::behind;
use crate::mount::follow::Following;
use crate::mount::kernel_mount::Serving;
use crate::mount::mountpoint::{Mountpoint, MountpointError};
use crate::mount::process::prepare_to_serve;
use crate::mount::read_ahead;
use crate::mount::readme_text::readme_text;
use crate::tree::fs::Fs;
use crate::tree::shown::Shown;

/// The timeout for the first answer of a mount: it reads a file that lies in memory.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The timeout of an unmount, after which the mount counts as in use.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(3);

/// The settings of a mount.
#[derive(Debug, Clone, Copy)]
pub struct MountSettings {
    /// The users who may enter.
    pub access: Access,
    /// The memory for the cache of versions, in MiB.
    pub cache_mib: u32,
}

impl MountSettings {
    /// The default of [`cache_mib`](Self::cache_mib).
    pub const CACHE_MIB: u32 = 256;
}

/// The reason why a backup is not mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The backup cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The history of the backup cannot be read.
    #[error("the history of the backup cannot be read")]
    History(#[from] ReadError),
    /// The mount point cannot be used.
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    /// No thread can be started.
    #[error("cannot start a thread to follow the backup")]
    Thread(#[source] io::Error),
    /// The mount was made but does not answer; it was removed again.
    #[error("the mount does not answer, so it was removed again; look into the log for the reason, and try once more")]
    NoAnswer(#[source] io::Error),
}

/// The end of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// No file in it was in use.
    Clean,
    /// Files in it were open; they cannot be read after this process has ended.
    WhileInUse,
}

/// A mounted backup; dropping it unmounts.
pub struct Mount {
    session: Option<Serving>,
    mountpoint: Mountpoint,
    ended: Receiver<()>,
    end: End,
    shown: Arc<Shown>,
    warning: Option<String>,
    // Dropped after the session, so that the tree stays up to date until its end.
    _following: Following,
}

impl Mount {
    /// Mounts the backup. When this returns, the mount answers and shows everything recorded so far.
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub fn start(source: impl Into<Source>, mountpoint: &Path, settings: MountSettings) -> Result<Self, MountError> {
        let from: Source = source.into();
        prepare_to_serve();
        let MountSettings { access, cache_mib } = settings;
        let backup = Arc::new(Backup::open(&from)?);
        let mountpoint = Mountpoint::prepare(mountpoint, backup.path())?;
        let (history, follower) = backup.follow()?;
        let warning = behind::warning(&backup.spool_sight());
        let readme = readme_text(&from, mountpoint.path(), warning.as_deref());
        let fs = Arc::new(Fs::new(backup, history, readme, u64::from(cache_mib) << 20));
        let shown = Arc::new(Shown::new(fs));
        let following = Following::start(&from, follower, Arc::clone(&shown)).map_err(MountError::Thread)?;
        let owner = Owner { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw(), access };
        let (wake, ended) = mpsc::channel();
        let end = End { gone: Arc::default(), wake };
        let adapter = FuseAdapter::new(Arc::clone(&shown), owner, end.clone());
        // A comma would end the name, because mount options are passed as one text.
        let source = from.to_string().replace(',', "%2C");
        let session =
            Serving::start(adapter, &source, &mountpoint, access).map_err(|error| mountpoint.explain(error))?;
        shown.begin(Arc::new(Kernel(session.notifier())));
        let mount = Self { session: Some(session), mountpoint, ended, end, shown, warning, _following: following };
        first_answer(mount.mountpoint.path(), FIRST_ANSWER_TIMEOUT).map_err(MountError::NoAnswer)?;
        if let Err(error) = read_ahead::raise(mount.mountpoint.path()) {
            log::debug!("the read-ahead stays at the kernel's default: {error}");
        }
        Ok(mount)
    }

    /// The mount point, absolute and without links.
    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// The warning for the operator that the backup may not have the newest changes.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// The tree that is shown.
    pub fn fs(&self) -> Arc<Fs> {
        self.shown.now().fs
    }

    /// A sender that ends [`wait`](Self::wait).
    pub fn waker(&self) -> Sender<()> {
        self.end.wake.clone()
    }

    /// Waits until the mount was unmounted by another process, or until a [`waker`](Self::waker) sends.
    pub fn wait(&self) {
        // Cannot fail: `self.end` has a sender, too.
        let _: Result<(), _> = self.ended.recv();
    }

    /// Unmounts. A mount that is already gone is fine.
    ///
    /// # Errors
    /// When it cannot even be detached.
    pub fn unmount(mut self) -> io::Result<Unmounted> {
        self.end()
    }

    fn end(&mut self) -> io::Result<Unmounted> {
        let Some(session) = self.session.take() else { return Ok(Unmounted::Clean) };
        self.shown.end();
        if self.end.gone.load(Ordering::Acquire) {
            // Another process has unmounted. The session does not see that (fuser 0.18 takes a dead connection for a mount) and
            // would unmount another mount that is there now. So it is leaked, which costs a descriptor.
            std::mem::forget(session);
            return Ok(Unmounted::Clean);
        }
        let (done, unmounted) = mpsc::channel();
        // On a thread of its own: without root the helper detaches a mount that is in use, and then this would wait
        // until the last file in it is closed.
        let mountpoint = self.mountpoint.path().to_owned();
        std::thread::Builder::new().name("unmount".to_owned()).spawn(move || {
            // The receiver is gone after the timeout.
            let _: Result<(), _> = done.send(session.unmount(&mountpoint));
        })?;
        match unmounted.recv_timeout(UNMOUNT_TIMEOUT) {
            Ok(Ok(())) => Ok(Unmounted::Clean),
            // A process has a file open, or its working directory here. The session can unmount only once.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ResourceBusy => {
                self.mountpoint.detach().map(|()| Unmounted::WhileInUse)
            }
            // Not a mount point any more: another process was faster.
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => Ok(Unmounted::Clean),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(Unmounted::WhileInUse),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("cannot unmount {}: {error}", self.mountpoint.path().display());
        }
    }
}

/// Reads a file of the mount, so that a mount that does not answer is not reported as mounted. In a thread of its own: if the
/// mount is not served, only that thread waits for ever.
///
/// # Errors
/// When the file cannot be read, or not in time.
pub fn first_answer(mountpoint: &Path, timeout: Duration) -> io::Result<()> {
    let (answered, answer) = mpsc::channel();
    let readme = mountpoint.join("README");
    std::thread::Builder::new().name("first-answer".to_owned()).spawn(move || {
        // The receiver is gone after the timeout.
        let _: Result<(), _> = answered.send(std::fs::read(readme).map(drop));
    })?;
    answer.recv_timeout(timeout).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

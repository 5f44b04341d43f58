//! [`Mount`]: a backup that is mounted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use common::{Backup, BackupUrl, OpenError, ReadError};

use crate::fuse::adapter::{Access, End, FuseAdapter, Kernel, Owner};
use crate::mount::behind;
use crate::mount::follow::Following;
use crate::mount::kernel_mount::Serving;
use crate::mount::mountpoint::{Mountpoint, MountpointError};
use crate::mount::process::prepare_to_serve;
use crate::mount::read_ahead;
use crate::mount::readme_text::readme_text;
use crate::tree::fs::Fs;
use crate::tree::shown::Shown;

/// How long a mount may take until it answers: what is read first lies in memory.
const FIRST_ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// How long an unmount may take before it counts as being in use.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(3);

/// How a backup is mounted.
#[derive(Debug, Clone, Copy)]
pub struct MountSettings {
    /// Who may enter.
    pub access: Access,
    /// MiB of memory for versions that are kept ready to be read.
    pub cache_mib: u32,
}

impl MountSettings {
    /// What [`cache_mib`](Self::cache_mib) is unless the operator asks for something else.
    pub const CACHE_MIB: u32 = 256;
}

/// Why a backup is not mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The backup cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is in the backup cannot be read.
    #[error("the history of the backup cannot be read")]
    History(#[from] ReadError),
    /// The mount point cannot be used.
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    /// The system does not let it start a thread.
    #[error("cannot start a thread to follow the backup")]
    Thread(#[source] io::Error),
    /// The mount was made but does not work; it is gone again.
    #[error("the mount does not answer, so it was removed again; look into the log for the reason, and try once more")]
    NoAnswer(#[source] io::Error),
}

/// How a mount came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody was using it.
    Clean,
    /// Files in it were open; they end with this process.
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
    // After the session, so that the tree stays up to date for as long as it is there.
    _following: Following,
}

impl Mount {
    /// Mounts the backup. When this returns, the mount answers and shows what was recorded so far.
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub fn start(url: &BackupUrl, mountpoint: &Path, settings: MountSettings) -> Result<Self, MountError> {
        prepare_to_serve();
        let MountSettings { access, cache_mib } = settings;
        let backup = Arc::new(Backup::open(url)?);
        let mountpoint = Mountpoint::prepare(mountpoint, backup.path())?;
        let (history, follower) = backup.follow()?;
        let warning = behind::warning(&backup.spool_sight());
        let readme = readme_text(url, mountpoint.path(), warning.as_deref());
        let fs = Arc::new(Fs::new(backup, history, readme, u64::from(cache_mib) << 20));
        let shown = Arc::new(Shown::new(fs));
        let following = Following::start(url, follower, Arc::clone(&shown)).map_err(MountError::Thread)?;
        let owner = Owner { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw(), access };
        let (wake, ended) = mpsc::channel();
        let end = End { gone: Arc::default(), wake };
        let adapter = FuseAdapter::new(Arc::clone(&shown), owner, end.clone());
        // A comma would end the name where options are passed on as one text.
        let source = url.to_string().replace(',', "%2C");
        let session =
            Serving::start(adapter, &source, &mountpoint, access).map_err(|error| mountpoint.explain(error))?;
        shown.begin(Arc::new(Kernel(session.notifier())));
        let mount = Self { session: Some(session), mountpoint, ended, end, shown, warning, _following: following };
        first_answer(mount.mountpoint.path(), FIRST_ANSWER_PATIENCE).map_err(MountError::NoAnswer)?;
        if let Err(error) = read_ahead::raise(mount.mountpoint.path()) {
            log::debug!("the kernel goes on reading ahead as little as it does by itself: {error}");
        }
        Ok(mount)
    }

    /// Where it is mounted, absolute and without links.
    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// What the operator must know of the backup: that it may not have the newest changes.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// What is shown.
    pub fn fs(&self) -> Arc<Fs> {
        self.shown.now().fs
    }

    /// Whoever holds this can end [`wait`](Self::wait).
    pub fn waker(&self) -> Sender<()> {
        self.end.wake.clone()
    }

    /// Waits until the mount is gone because somebody unmounted it, or until a [`waker`](Self::waker) sends.
    pub fn wait(&self) {
        // Cannot fail: this end holds a sender, too.
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
            // Somebody else unmounted. The session does not see that (fuser 0.18 takes a dead connection for a mount) and
            // would unmount whatever is mounted there now; so it does not get to unmount, at the price of a descriptor.
            std::mem::forget(session);
            return Ok(Unmounted::Clean);
        }
        let (done, unmounted) = mpsc::channel();
        // On a thread of its own: without root the helper detaches a mount that is in use, and then this would wait
        // until the last file in it is closed.
        let mountpoint = self.mountpoint.path().to_owned();
        std::thread::Builder::new().name("unmount".to_owned()).spawn(move || {
            // Nobody listens any more when it took too long.
            let _: Result<(), _> = done.send(session.unmount(&mountpoint));
        })?;
        match unmounted.recv_timeout(UNMOUNT_PATIENCE) {
            Ok(Ok(())) => Ok(Unmounted::Clean),
            // Somebody has a file open or stands in a directory. The session is spent after one attempt.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ResourceBusy => {
                self.mountpoint.detach().map(|()| Unmounted::WhileInUse)
            }
            // Not a mount point any more: somebody else was faster.
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

/// Reads a file of the mount, so that nobody is told of a mount that does not answer. On a thread of its own: should nobody
/// serve the mount, only that one waits for ever.
///
/// # Errors
/// When the file cannot be read, or not in time.
pub fn first_answer(mountpoint: &Path, timeout: Duration) -> io::Result<()> {
    let (answered, answer) = mpsc::channel();
    let readme = mountpoint.join("README");
    std::thread::Builder::new().name("first-answer".to_owned()).spawn(move || {
        // Nobody listens any more when it took too long.
        let _: Result<(), _> = answered.send(std::fs::read(readme).map(drop));
    })?;
    answer.recv_timeout(timeout).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

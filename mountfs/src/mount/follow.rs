//! [`Following`]: the thread that keeps what is shown up to date with a recorder that is writing.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Backup, BackupUrl, Follower, OpenError, ReadError, counted};

use crate::mount::newest_view::NewestView;
use crate::mount::process::FreedMemory;
use crate::tree::fs::Fs;
use crate::tree::fs_error::chain;
use crate::tree::shown::Shown;

/// Polling works on every file system, NFS included, where nobody is told about changes made elsewhere.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a backup that cannot be read anew is left alone.
const NEXT_ATTEMPT_AFTER: Duration = Duration::from_secs(2);

/// What is shown, kept up to date until this is dropped.
pub struct Following {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Reads what is there at `url`, which `follower` follows, then goes on in the background. Damage is logged, once for as
    /// long as it stays the same; what is intact is in the history all the same.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(url: &BackupUrl, follower: Follower, shown: Arc<Shown>) -> std::io::Result<Self> {
        let fs = shown.now().fs;
        let newest = NewestView::start(Arc::clone(&fs))?;
        let freed = FreedMemory::default();
        let mut poller =
            Poller { url: url.clone(), follower, fs, shown, newest, problem: None, read_anew: None, freed };
        poller.poll();
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("follow".to_owned()).spawn(move || {
            // As many calls as there are segments: nobody waits for that.
            poller.recognise_segments();
            while stopped.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                poller.poll();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Hanging up is the signal.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that follows the backup has panicked");
        }
    }
}

/// Why the backup cannot be read anew.
#[derive(Debug, thiserror::Error)]
enum AnewError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("cannot start a thread to open versions")]
    Thread(#[from] std::io::Error),
}

struct Poller {
    url: BackupUrl,
    follower: Follower,
    fs: Arc<Fs>,
    shown: Arc<Shown>,
    newest: NewestView,
    /// What the last poll complained about.
    problem: Option<String>,
    /// When it was read anew last, in vain.
    read_anew: Option<Instant>,
    freed: FreedMemory,
}

impl Poller {
    fn poll(&mut self) {
        self.read_new();
        self.newest.keep_up();
        self.freed.give_back(self.fs.views_bytes());
    }

    fn read_new(&mut self) {
        let error = match self.follower.poll(self.fs.history_lock()) {
            Ok(polled) if !self.fs.was_replaced() => {
                if polled.new_records > 0 {
                    log::debug!("{} new records", polled.new_records);
                }
                if polled.dropped_versions > 0 {
                    log::info!("a compaction has dropped {}", counted(polled.dropped_versions, "version"));
                    self.fs.hold_what_is_open();
                    self.shown.forget_dropped();
                }
                return self.is_well();
            }
            // A file that a version was read from was another one than before.
            Ok(_) => None,
            Err(error @ ReadError::Damaged { .. }) => Some(error),
            Err(error) => return self.complain(&chain(&error)),
        };
        // What is wrong is told by who reads all of it.
        if self.read_anew.is_some_and(|at| at.elapsed() < NEXT_ATTEMPT_AFTER) {
            return;
        }
        if let Some(error) = error {
            log::debug!("{error}; reading the backup anew");
        }
        match self.read_anew() {
            Ok(()) => {
                self.read_anew = None;
                self.is_well();
            }
            Err(error) => {
                self.read_anew = Some(Instant::now());
                self.complain(&chain(&error));
            }
        }
    }

    /// Opens the backup anew and shows that: another one may be in its place, or another copy of it, or the machine that
    /// records has lost what was not durable, and others have the seqs of those records now.
    fn read_anew(&mut self) -> Result<(), AnewError> {
        let backup = Arc::new(Backup::open(&self.url)?);
        let (history, mut follower) = backup.follow()?;
        follower.poll(&history)?;
        // A copy that is not complete yet may have pieces of both.
        backup.recognise_segments()?;
        let is_same_backup = backup.manifest().uuid == self.fs.backup().manifest().uuid;
        let fs = Arc::new(self.fs.again(backup, history));
        let newest = NewestView::start(Arc::clone(&fs))?;
        if is_same_backup {
            log::warn!(
                "another copy of the backup is at {} now, or its newest changes were lost: that is what is shown from now on; \
                 what was open cannot be read any more, open it again",
                self.url
            );
        } else {
            log::warn!(
                "another backup is at {} now: that is what is shown from now on; what was open cannot be read any more, open it \
                 again",
                self.url
            );
        }
        self.shown.replace(Arc::clone(&fs));
        (self.follower, self.fs, self.newest) = (follower, fs, newest);
        Ok(())
    }

    fn recognise_segments(&self) {
        if let Err(error) = self.fs.backup().recognise_segments() {
            log::error!("{}; check the backup with `backupfs verify {}`", chain(&error), self.url);
        }
    }

    fn is_well(&mut self) {
        if self.problem.take().is_some() {
            log::info!("the backup can be read again");
            self.fs.set_end_unknown(None);
        }
    }

    fn complain(&mut self, problem: &str) {
        if self.problem.as_deref() != Some(problem) {
            log::error!("{problem}; what is intact is still served, but `latest` cannot be known");
            self.fs.set_end_unknown(Some(problem.to_owned()));
            self.problem = Some(problem.to_owned());
        }
    }
}

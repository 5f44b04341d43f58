//! [`Following`]: the thread that keeps the mounted tree up to date while a recorder writes.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Backup, Follower, OpenError, ReadError, Source, counted};

use crate::mount::changes::{Changes, Stop, Woken};
use crate::mount::newest_view::NewestView;
use crate::mount::process::FreedMemory;
use crate::tree::fs::Fs;
use crate::tree::shown::Shown;
use common::with_causes;

/// Time after a mount in which only what is asked for is read: the first open then has the processors for itself.
pub(super) const SETTLES: Duration = Duration::from_millis(100);

/// The poll interval while the kernel tells of no change. Polling works on every file system, also on NFS, which does not notify of
/// changes by other machines.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The pause after a poll, in times of what the poll took: a node that writes all the time must not keep a core busy here.
const PAUSE_PER_POLL: u32 = 4;

/// The pause before the next attempt to open the backup anew.
const NEXT_ATTEMPT_AFTER: Duration = Duration::from_secs(2);

/// The thread's handle. The mounted tree is kept up to date until it is dropped.
pub struct Following {
    stop: Option<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Reads the backup at `source`, which `follower` follows, then continues in the background. Damage is logged, once while it
    /// stays the same; the intact part is in the history.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(source: &Source, follower: Follower, shown: Arc<Shown>) -> std::io::Result<Self> {
        let fs = shown.now().fs;
        // Before the first look: what is recorded from now on is noticed.
        let (changes, stop) = Changes::of(fs.backup().path())?;
        let newest = NewestView::start(Arc::clone(&fs))?;
        let freed = FreedMemory::default();
        let mut poller =
            Poller { source: source.clone(), follower, fs, shown, newest, problem: None, read_anew: None, freed };
        poller.poll();
        let thread = std::thread::Builder::new().name("follow".to_owned()).spawn(move || {
            let started = Instant::now();
            while let Some(left) = SETTLES.checked_sub(started.elapsed()) {
                if changes.wait(left) == Woken::Stopped {
                    return;
                }
                poller.poll();
            }
            // Here and not before the start, because it takes a call for each segment.
            poller.recognise_segments();
            while changes.wait(POLL_INTERVAL) == Woken::Look {
                let began = Instant::now();
                poller.poll();
                if changes.pause((began.elapsed() * PAUSE_PER_POLL).min(POLL_INTERVAL)) == Woken::Stopped {
                    break;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that follows the backup has panicked");
        }
    }
}

/// The reason why the backup cannot be opened anew.
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
    source: Source,
    follower: Follower,
    fs: Arc<Fs>,
    shown: Arc<Shown>,
    newest: NewestView,
    /// The problem that the last poll reported.
    problem: Option<String>,
    /// The time of the last failed attempt to open the backup anew.
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
            // A file of the backup was replaced by another one.
            Ok(_) => None,
            Err(error @ ReadError::Damaged { .. }) => Some(error),
            Err(error) => return self.report(&with_causes(&error)),
        };
        // Damage is reported by the attempt to read all of it anew.
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
                self.report(&with_causes(&error));
            }
        }
    }

    /// Opens the backup anew and shows it. Another backup, or another copy, may be at its path; or the recording machine lost
    /// records that were not durable, and their seqs are in use for other records now.
    fn read_anew(&mut self) -> Result<(), AnewError> {
        let backup = Arc::new(Backup::open(&self.source)?);
        let (history, mut follower) = backup.follow()?;
        follower.poll(&history)?;
        // A copy in progress may have files of both.
        backup.recognise_segments()?;
        let is_same_backup = backup.manifest().uuid == self.fs.backup().manifest().uuid;
        let fs = Arc::new(self.fs.again(backup, history));
        let newest = NewestView::start(Arc::clone(&fs))?;
        if is_same_backup {
            log::warn!(
                "another copy of the backup is at {} now, or its newest changes were lost. The mount shows it from now on. \
                 Files that were open cannot be read any more; open them again",
                self.source
            );
        } else {
            log::warn!(
                "another backup is at {} now. The mount shows it from now on. Files that were open cannot be read any more; \
                 open them again",
                self.source
            );
        }
        self.shown.replace(Arc::clone(&fs));
        (self.follower, self.fs, self.newest) = (follower, fs, newest);
        Ok(())
    }

    fn recognise_segments(&self) {
        if let Err(error) = self.fs.backup().recognise_segments() {
            log::error!("{}; check the backup with `backupfs verify {}`", with_causes(&error), self.source);
        }
    }

    fn is_well(&mut self) {
        if self.problem.take().is_some() {
            log::info!("the backup can be read again");
            self.fs.set_end_unknown(None);
        }
    }

    fn report(&mut self, problem: &str) {
        if self.problem.as_deref() != Some(problem) {
            log::error!(
                "{problem}; the intact versions are still served, but the newest version (`latest`) is not known"
            );
            self.fs.set_end_unknown(Some(problem.to_owned()));
            self.problem = Some(problem.to_owned());
        }
    }
}

//! [`Following`]: the thread that keeps the history up to date with a recorder that is writing.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Follower, Reread, counted};

use crate::fs::Fs;
use crate::fs_error::chain;
use crate::newest_view::NewestView;

/// Polling works on every file system, NFS included, where nobody is told about changes made elsewhere.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A tree whose history is kept up to date until this is dropped.
pub struct Following {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Reads what is there, then goes on in the background. Damage is logged, once for as long as it stays the same;
    /// what is intact is in the history all the same.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(follower: Follower, fs: Arc<Fs>) -> std::io::Result<Self> {
        let newest = NewestView::start(Arc::clone(&fs))?;
        let mut poller = Poller { follower, fs, newest, problem: None };
        poller.poll();
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("follow".to_owned()).spawn(move || {
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

struct Poller {
    follower: Follower,
    fs: Arc<Fs>,
    newest: NewestView,
    /// What the last poll complained about.
    problem: Option<String>,
}

impl Poller {
    fn poll(&mut self) {
        self.read_new();
        self.newest.keep_up();
    }

    fn read_new(&mut self) {
        match self.follower.poll(self.fs.history_lock()) {
            Ok(polled) => {
                if polled.new_records > 0 {
                    log::debug!("{} new records", polled.new_records);
                }
                if polled.dropped_versions > 0 {
                    log::info!("a compaction has dropped {}", counted(polled.dropped_versions, "version"));
                    self.fs.hold_what_is_open();
                }
                if polled.reread == Reread::Yes {
                    self.fs.forget_history();
                }
                if self.problem.take().is_some() {
                    log::info!("the backup can be read again");
                    self.fs.set_end_unknown(None);
                }
            }
            Err(error) => {
                let problem = chain(&error);
                if self.problem.as_ref() != Some(&problem) {
                    log::error!("{problem}; what is intact is still served, but `latest` cannot be known");
                    self.fs.set_end_unknown(Some(problem.clone()));
                    self.problem = Some(problem);
                }
            }
        }
    }
}

//! [`NewestView`]: the thread that opens the newest version ahead of the first request for it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use common::Seq;

use crate::mount::follow::SETTLES;
use crate::tree::fs::Fs;

/// The time without requests after which the newest version is not opened ahead any more.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// Keeps a view of the newest version open: each goes on from the one before it, so that is cheap, while the first one
/// after a pause may take as long as any other.
pub struct NewestView {
    fs: Arc<Fs>,
    wake: SyncSender<()>,
    /// The newest version when the thread was woken last.
    asked_for: Option<Seq>,
}

impl NewestView {
    /// Starts the thread. It ends when this is dropped, which does not wait for it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(fs: Arc<Fs>) -> io::Result<Self> {
        // Room for one message: the version opened is the newest when the message is received.
        let (wake, woken) = mpsc::sync_channel(1);
        let opening = Arc::clone(&fs);
        thread::Builder::new().name("newest-view".to_owned()).spawn(move || {
            // What is opened right after the mount comes first.
            thread::sleep(SETTLES);
            for () in woken {
                opening.open_newest();
            }
        })?;
        Ok(Self { fs, wake, asked_for: None })
    }

    /// Wakes the thread if the newest version has changed and the mount is in use. Does not wait.
    pub fn keep_up(&mut self) {
        let newest = self.fs.history().newest().map(|version| version.seq);
        if is_due(newest, self.asked_for, self.fs.untouched_for()) {
            // Full: the last message is still unread. Disconnected: the thread has panicked; everything else works without it.
            let _: Result<(), _> = self.wake.try_send(());
            self.asked_for = newest;
        }
    }
}

fn is_due(newest: Option<Seq>, asked_for: Option<Seq>, untouched_for: Duration) -> bool {
    newest.is_some() && newest != asked_for && untouched_for < IDLE_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_version_is_opened_and_only_in_a_mount_in_use() {
        let (one, two) = (Seq::new(1), Seq::new(2));
        let (now, long_ago) = (Duration::from_secs(1), IDLE_AFTER);
        assert!(is_due(one, None, now) && is_due(two, one, now) && is_due(one, two, now));
        assert!(!is_due(None, None, now) && !is_due(two, two, now));
        assert!(!is_due(two, one, long_ago));
    }
}

//! [`Changes`]: waits until files of a backup change.
//!
//! The kernel tells of changes by processes of this machine, see inotify(7). Of those by other machines, as on NFS, it does not tell: so
//! no wait is longer than its caller says.

use std::io::{self, PipeReader, PipeWriter};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A file has changed, or the time is over.
    Look,
    /// The [`Stop`] was dropped.
    Stopped,
}

/// Ends the waits when it is dropped.
#[derive(Debug)]
pub struct Stop {
    _writer: PipeWriter,
}

/// Waits for changes of the files in a directory.
#[derive(Debug)]
pub struct Changes {
    directory: PathBuf,
    /// None when the kernel has no more of them: then the time decides alone.
    inotify: Option<OwnedFd>,
    stopped: PipeReader,
}

impl Changes {
    /// Begins to notice changes in this directory, if it is one of this machine.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn of(directory: &Path) -> io::Result<(Self, Stop)> {
        let (stopped, writer) = io::pipe()?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            log::debug!("changes of the backup are not noticed at once: {error}");
        }
        let changes = Self { directory: directory.to_owned(), inotify: inotify.ok(), stopped };
        changes.watch();
        Ok((changes, Stop { _writer: writer }))
    }

    /// Waits until a file changes, or the time is over.
    pub fn wait(&self, most: Duration) -> Woken {
        match &self.inotify {
            None => self.pause(most),
            Some(inotify) => {
                let mut fds = [PollFd::new(&self.stopped, PollFlags::IN), PollFd::new(inotify, PollFlags::IN)];
                poll_for(&mut fds, most);
                if !fds[0].revents().is_empty() {
                    return Woken::Stopped;
                }
                if fds[1].revents().is_empty() {
                    // Another directory may be in this place. For the same one this changes nothing.
                    self.watch();
                } else {
                    drain(inotify);
                }
                Woken::Look
            }
        }
    }

    /// Waits for this time, whatever changes.
    pub fn pause(&self, time: Duration) -> Woken {
        let mut fds = [PollFd::new(&self.stopped, PollFlags::IN)];
        poll_for(&mut fds, time);
        if fds[0].revents().is_empty() { Woken::Look } else { Woken::Stopped }
    }

    fn watch(&self) {
        let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        if let Some(inotify) = &self.inotify {
            // A copy in a store is no directory, and a backup may be gone for a while.
            let _: rustix::io::Result<i32> = inotify::add_watch(inotify.as_fd(), &self.directory, changes);
        }
    }
}

/// Waits for one of these. Interrupted by a signal it returns early, with none.
fn poll_for(fds: &mut [PollFd<'_>], most: Duration) {
    let most = Timespec::try_from(most).ok();
    if poll(fds, most.as_ref()).is_err() {
        fds.iter_mut().for_each(PollFd::clear_revents);
    }
}

/// Takes all events: what follows is read in any case.
fn drain(inotify: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    while events.next().is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Whether a wait ends long before its time.
    fn ends_early(changes: &Changes) -> bool {
        let began = Instant::now();
        assert_eq!(changes.wait(LONG), Woken::Look);
        began.elapsed() < LONG / 2
    }

    #[test]
    fn a_file_that_is_written_to_made_or_renamed_ends_a_wait() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "").unwrap();
        let (changes, _stop) = Changes::of(dir.path()).unwrap();
        let none = Duration::from_millis(20);
        let began = Instant::now();
        assert_eq!(changes.wait(none), Woken::Look);
        assert!(began.elapsed() >= none, "nothing has changed");
        let steps: [&dyn Fn(); 3] =
            [&|| fs::write(&log, "x").unwrap(), &|| fs::write(dir.path().join("new"), "").unwrap(), &|| {
                fs::rename(dir.path().join("new"), dir.path().join("old")).unwrap()
            }];
        for step in steps {
            step();
            assert!(ends_early(&changes));
        }
    }

    #[test]
    fn another_directory_in_the_place_of_the_first_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("backup");
        let (changes, _stop) = Changes::of(&backup).unwrap();
        for name in ["first", "second"] {
            fs::create_dir(&backup).unwrap();
            changes.wait(Duration::from_millis(1));
            // What led here may be noticed, too.
            changes.wait(Duration::from_millis(1));
            fs::write(backup.join("log"), name).unwrap();
            assert!(ends_early(&changes), "{name}");
            fs::rename(&backup, dir.path().join(name)).unwrap();
        }
    }

    #[test]
    fn a_stop_ends_every_wait() {
        let dir = tempfile::tempdir().unwrap();
        let (changes, stop) = Changes::of(dir.path()).unwrap();
        drop(stop);
        assert_eq!((changes.wait(LONG), changes.pause(LONG)), (Woken::Stopped, Woken::Stopped));
    }
}

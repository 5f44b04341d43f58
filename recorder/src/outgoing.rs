//! [`Outgoing`]: sends whole messages to `lightningd`, one at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A message up to this length gets into a pipe that is ready at once and whole: the page that POSIX calls `PIPE_BUF`.
pub const SMALL_BYTES_MAX: usize = 4096;

/// The most unread bytes in the pipe at which a message that can wait is added. It is a quarter of the capacity of a pipe,
/// because the kernel may leave up to half of each of its pages unused.
const UNREAD_BYTES_MAX: u64 = 16 << 10;

/// Whether a message was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The whole message was sent.
    All,
    /// Nothing was sent: it would have had to wait.
    Nothing,
}

/// Standard output as a stream of messages that any thread may send.
///
/// One lock is held for the length of one message, so messages never mix.
#[derive(Debug)]
pub struct Outgoing {
    /// `None` after a failed write: what was written of that message cannot be taken back, so nothing may follow it.
    output: Mutex<Option<OwnedFd>>,
}

impl Outgoing {
    /// Sends to the given pipe.
    pub fn new(output: impl Into<OwnedFd>) -> Self {
        Self { output: Mutex::new(Some(output.into())) }
    }

    /// Sends to standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn stdout() -> io::Result<Self> {
        Ok(Self::new(io::stdout().as_fd().try_clone_to_owned()?))
    }

    /// Sends a small message if that needs no waiting, and leaves room for many more.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_if_room(&self, message: &[u8]) -> io::Result<Sent> {
        {
            let output = self.output();
            let fd = output.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
            // An output that is no pipe may not support this; then it counts as empty.
            let unread = rustix::io::ioctl_fionread(fd).unwrap_or(0);
            let mut ends = [PollFd::new(fd, PollFlags::OUT)];
            let is_ready = poll(&mut ends, Some(&Timespec::default()))? > 0;
            if message.len() > SMALL_BYTES_MAX || unread > UNREAD_BYTES_MAX || !is_ready {
                return Ok(Sent::Nothing);
            }
        }
        // Another thread may have sent an answer meanwhile; there is room for both.
        self.send(message).map(|()| Sent::All)
    }

    /// Sends messages that are complete, separators included.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when `lightningd` is gone, and for everything that is sent after a failure.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        let mut output = self.output();
        let Some(fd) = output.as_ref() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let result = write_all(fd, messages);
        if result.is_err() {
            *output = None;
        }
        result
    }

    /// Whether `lightningd` can read no more: its end is closed. Never waits.
    pub fn is_closed(&self) -> bool {
        // Another thread sends a message, and finds out itself whether `lightningd` is gone.
        let Ok(output) = self.output.try_lock() else { return false };
        let Some(fd) = output.as_ref() else { return true };
        let mut ends = [PollFd::new(fd, PollFlags::empty())];
        let closed = PollFlags::ERR | PollFlags::HUP;
        poll(&mut ends, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) && ends[0].revents().intersects(closed)
    }

    fn output(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // The other end may have made a shared pipe non-blocking.
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(fd, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn messages_of_several_threads_do_not_mix() {
        let (mut reader, writer) = io::pipe().unwrap();
        let outgoing = Arc::new(Outgoing::new(writer));
        let senders: Vec<_> = (b'a'..b'e')
            .map(|letter| {
                let outgoing = Arc::clone(&outgoing);
                // Larger than a pipe, so that every message takes several writes.
                thread::spawn(move || {
                    for _ in 0..5 {
                        outgoing.send(&[vec![letter; 100_000], b"\n\n".to_vec()].concat()).unwrap();
                    }
                })
            })
            .collect();
        drop(outgoing);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        for sender in senders {
            sender.join().unwrap();
        }
        let messages: Vec<&str> = all.split_terminator("\n\n").collect();
        assert_eq!(messages.len(), 20);
        for message in messages {
            assert_eq!(message.len(), 100_000);
            assert!(message.bytes().all(|byte| byte == message.as_bytes()[0]));
        }
    }

    #[test]
    fn nothing_follows_a_failed_message() {
        let (reader, writer) = io::pipe().unwrap();
        let outgoing = Outgoing::new(writer);
        assert!(!outgoing.is_closed());
        drop(reader);
        assert!(outgoing.is_closed());
        for _ in 0..2 {
            assert_eq!(outgoing.send(b"{}\n\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}

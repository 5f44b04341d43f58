//! The way out to `lightningd`: whole messages, one at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

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

    /// Sends messages that are complete, separators included.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when `lightningd` is gone, and for everything that is sent after a failure.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fd) = output.as_ref() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let result = write_all(fd, messages);
        if result.is_err() {
            *output = None;
        }
        result
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
        drop(reader);
        for _ in 0..2 {
            assert_eq!(outgoing.send(b"{}\n\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}

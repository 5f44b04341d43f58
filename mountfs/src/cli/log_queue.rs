//! [`LogQueue`]: a log whose callers never wait.
//!
//! A write to a pipe without a reader, or to a stuck syslog daemon, blocks for ever. A mount must not block: its readers would
//! block, too, and could not be killed. So a separate thread writes the log. When the queue is full, messages are dropped; their
//! number is logged as soon as there is room again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::{Level, Log, Metadata, Record};

/// The capacity of the queue, in bytes of messages.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// The approximate overhead of a message beside its text, in bytes.
const MESSAGE_BYTES: usize = 64;

/// The timeout at the end of the process for messages in the queue.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Forwards log messages to another logger, from a thread of its own.
pub struct LogQueue {
    to: Arc<dyn Log>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Message>,
    bytes: usize,
    /// The number of messages dropped since the last one in the queue.
    left_out: u64,
    is_writing: bool,
}

struct Message {
    level: Level,
    target: String,
    text: String,
}

impl Message {
    fn bytes(&self) -> usize {
        MESSAGE_BYTES + self.target.len() + self.text.len()
    }

    fn write(&self, to: &dyn Log) {
        let (level, target) = (self.level, self.target.as_str());
        to.log(&Record::builder().level(level).target(target).args(format_args!("{}", self.text)).build());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next message to write.
    fn next(&self) -> Message {
        let mut state = self.state();
        state.is_writing = false;
        self.changed.notify_all();
        loop {
            if let Some(message) = state.waiting.pop_front() {
                state.bytes -= message.bytes();
                state.is_writing = true;
                return message;
            }
            let left_out = std::mem::take(&mut state.left_out);
            if left_out > 0 {
                state.is_writing = true;
                let text = format!("{left_out} messages were dropped, because the log was not read in time");
                return Message { level: Level::Warn, target: module_path!().to_owned(), text };
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl LogQueue {
    /// A queue before the logger `to`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(to: Arc<dyn Log>) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (writing, queue) = (Arc::clone(&to), Arc::clone(&shared));
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                queue.next().write(&*writing);
            }
        })?;
        Ok(Self { to, shared })
    }
}

impl Log for LogQueue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.to.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (target, text) = (record.target().to_owned(), record.args().to_string());
        let message = Message { level: record.level(), target, text };
        let mut state = self.shared.state();
        // After a drop all messages are dropped until their number is logged, so that the order is right.
        if state.left_out > 0 || state.bytes + message.bytes() > WAITING_BYTES_MAX {
            state.left_out += 1;
        } else {
            state.bytes += message.bytes();
            state.waiting.push_back(message);
        }
        self.shared.changed.notify_all();
    }

    /// Waits until the queue is empty, but not for long.
    fn flush(&self) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty() || state.left_out > 0;
        let waited = self.shared.changed.wait_timeout_while(self.shared.state(), FLUSH_TIMEOUT, is_busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.to.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    use super::*;

    /// Writes a message each time the test allows it.
    struct Slow {
        written: Mutex<Sender<String>>,
        may: Mutex<Receiver<()>>,
    }

    impl Log for Slow {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= Level::Warn
        }

        fn log(&self, record: &Record<'_>) {
            // Hung up: everything may be written.
            let _: Result<(), _> = self.may.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let _: Result<(), _> =
                self.written.lock().unwrap_or_else(PoisonError::into_inner).send(record.args().to_string());
        }

        fn flush(&self) {}
    }

    fn log(queue: &LogQueue, level: Level, text: &str) {
        queue.log(&Record::builder().level(level).args(format_args!("{text}")).build());
    }

    #[test]
    fn a_stuck_log_blocks_no_caller_and_dropped_messages_are_counted() {
        let (send, written) = channel();
        let (may, wait) = channel();
        let queue = LogQueue::start(Arc::new(Slow { written: Mutex::new(send), may: Mutex::new(wait) })).unwrap();
        let begun = Instant::now();
        let long = "x".repeat(1000);
        for number in 0..3000 {
            log(&queue, Level::Warn, &format!("{number} {long}"));
            log(&queue, Level::Info, "of no interest");
        }
        queue.flush();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(queue.shared.state().bytes <= WAITING_BYTES_MAX);
        drop(may);
        let mut count = 0;
        let left_out = loop {
            let text = written.recv_timeout(Duration::from_secs(20)).unwrap();
            match text.split_once(' ') {
                Some((number, rest)) if rest == long => assert_eq!(number.parse::<u64>().unwrap(), count),
                Some((number, rest)) => {
                    assert!(rest.starts_with("messages were dropped"), "{text}");
                    break number.parse::<u64>().unwrap();
                }
                None => panic!("{text}"),
            }
            count += 1;
        };
        assert!(count > 500 && left_out > 500 && count + left_out == 3000, "{count} {left_out}");
        log(&queue, Level::Error, "all is well again");
        assert_eq!(written.recv_timeout(Duration::from_secs(20)).unwrap(), "all is well again");
        queue.flush();
    }
}

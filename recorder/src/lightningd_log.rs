//! The log: every record becomes a `log` notification to `lightningd`.
//!
//! `cln-plugin` brings a logger too, but that one starts and ends with its runtime: it knows nothing of the writes before
//! the handshake, and once the runtime is gone it panics in the thread that logs, which here would be the one that answers
//! `db_write`. So `cln-plugin`'s own logger is off, and what it logs comes this way as well.
//!
//! Answers and log lines go through one pipe, and an answer must never wait for a line. So lines are put into a queue, and a
//! thread sends each one only when the pipe has room for it and for many answers. When `lightningd` reads too slowly, the
//! queue fills up: further lines are dropped and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use common::counted;
use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

use crate::outgoing::{Outgoing, SMALL_BYTES_MAX, Sent};

/// The environment variable for the log level (`off`, `error`, `warn`, `info`, `debug`), as in all plugins built on
/// `cln-plugin`. The default is `info`.
pub const LEVEL_VARIABLE: &str = "CLN_PLUGIN_LOG";

/// The capacity of the queue, in lines.
const LINES_MAX: usize = 256;

/// The pause before the next attempt when the pipe was too full.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// The timeout of [`flush`](Log::flush): `lightningd` may have stopped reading.
const FLUSHED_WITHIN: Duration = Duration::from_millis(100);

/// Sends log records to `lightningd`.
#[derive(Debug)]
pub struct LightningdLog {
    queue: Arc<Queue>,
    level: LevelFilter,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The lines not sent yet. The first one stays until it is sent.
    lines: VecDeque<Vec<u8>>,
    dropped: u64,
    /// No line is sent any more: the output is closed, or the logger was dropped.
    ended: bool,
}

impl LightningdLog {
    /// A logger with the level of [`LEVEL_VARIABLE`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn from_env(outgoing: Arc<Outgoing>) -> io::Result<Self> {
        let wanted = std::env::var(LEVEL_VARIABLE).ok().and_then(|level| level.parse().ok());
        Self::start(outgoing, wanted.unwrap_or(LevelFilter::Info))
    }

    fn start(outgoing: Arc<Outgoing>, level: LevelFilter) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let passed_on = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || passed_on.pass_on(&outgoing))?;
        Ok(Self { queue, level })
    }

    /// Makes this the logger of the process.
    ///
    /// # Errors
    /// When the process has a logger already.
    pub fn install(self) -> Result<(), SetLoggerError> {
        log::set_max_level(self.level);
        log::set_boxed_logger(Box::new(self))
    }
}

impl Log for LightningdLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.queue.add(notification(record.level(), &record.args().to_string()));
        }
    }

    /// Waits until the lines so far are sent, for a tenth of a second at most.
    fn flush(&self) {
        let unsent = |waiting: &mut Waiting| !waiting.lines.is_empty() && !waiting.ended;
        drop(self.queue.changed.wait_timeout_while(self.queue.waiting(), FLUSHED_WITHIN, unsent));
    }
}

impl Drop for LightningdLog {
    fn drop(&mut self) {
        self.flush();
        self.queue.waiting().ended = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn add(&self, line: Vec<u8>) {
        let mut waiting = self.waiting();
        if waiting.ended {
            return;
        }
        if waiting.lines.len() < LINES_MAX {
            waiting.lines.push_back(line);
            self.changed.notify_all();
        } else {
            waiting.dropped += 1;
        }
    }

    /// Sends the lines as they come, until the output is closed or the logger is dropped.
    fn pass_on(&self, outgoing: &Outgoing) {
        loop {
            let none = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.ended;
            let waiting = self.changed.wait_while(self.waiting(), none).unwrap_or_else(PoisonError::into_inner);
            let Some(line) = waiting.lines.front().filter(|_| !waiting.ended).cloned() else { return };
            drop(waiting);
            match outgoing.send_if_room(&line) {
                Ok(Sent::All) => self.is_sent(),
                Ok(Sent::Nothing) => thread::sleep(RETRY_AFTER),
                // lightningd is gone; the thread that reads its messages notices that by itself.
                Err(_gone) => self.waiting().ended = true,
            }
        }
    }

    fn is_sent(&self) {
        let mut waiting = self.waiting();
        waiting.lines.pop_front();
        let dropped = std::mem::take(&mut waiting.dropped);
        if dropped > 0 {
            let text = format!("{} dropped about here: lightningd reads them too slowly", counted(dropped, "log line"));
            waiting.lines.push_back(notification(Level::Warn, &text));
        }
        self.changed.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line is cut where it is too long to be sent without waiting.
fn notification(level: Level, text: &str) -> Vec<u8> {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        // Older releases of lightningd know nothing below debug and drop a plugin for it.
        Level::Debug | Level::Trace => "debug",
    };
    let encode = |text: &str| {
        let text = serde_json::Value::String(text.to_owned());
        format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"log\",\"params\":{{\"level\":\"{level}\",\"message\":{text}}}}}\n\n"
        )
    };
    let mut kept = text.len();
    let mut line = encode(text);
    while line.len() > SMALL_BYTES_MAX {
        // JSON takes up to six bytes for one: every step takes off what is too much, or less.
        kept = kept.saturating_sub((line.len() - SMALL_BYTES_MAX).div_ceil(6));
        while !text.is_char_boundary(kept) {
            kept -= 1;
        }
        line = encode(&format!("{} …", &text[..kept]));
    }
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read as _};
    use std::sync::mpsc::channel;

    fn logger(level: LevelFilter) -> (PipeReader, Arc<Outgoing>, LightningdLog) {
        let (reader, writer) = io::pipe().unwrap();
        let outgoing = Arc::new(Outgoing::new(writer));
        let logger = LightningdLog::start(Arc::clone(&outgoing), level).unwrap();
        (reader, outgoing, logger)
    }

    fn say(logger: &LightningdLog, level: Level, text: &str) {
        logger.log(&Record::builder().level(level).args(format_args!("{text}")).build());
    }

    #[test]
    fn a_record_is_one_notification_and_lower_levels_are_dropped() {
        let (mut reader, outgoing, logger) = logger(LevelFilter::Warn);
        say(&logger, Level::Error, "disk\n\n\"full\"");
        say(&logger, Level::Info, "not this");
        drop((logger, outgoing));
        let mut sent = String::new();
        reader.read_to_string(&mut sent).unwrap();
        assert_eq!(
            sent,
            "{\"jsonrpc\":\"2.0\",\"method\":\"log\",\
             \"params\":{\"level\":\"error\",\"message\":\"disk\\n\\n\\\"full\\\"\"}}\n\n"
        );
    }

    #[test]
    fn a_line_of_any_length_and_content_is_one_small_message() {
        for text in ["x".repeat(100_000), "\u{1}".repeat(4000), "\u{1f980}".repeat(1500), "short".to_owned()] {
            let line = notification(Level::Info, &text);
            assert!(line.len() <= SMALL_BYTES_MAX, "{} bytes", line.len());
            let message: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let kept = message["params"]["message"].as_str().unwrap().trim_end_matches(" …");
            assert!(text.starts_with(kept), "{kept}");
            assert!(kept.len() == text.len() || line.len() > SMALL_BYTES_MAX - 600, "{} bytes kept", kept.len());
        }
    }

    /// `lightningd` reads nothing, and a thread logs without end: answers still get into the pipe at once.
    #[test]
    fn no_answer_waits_for_unread_log_lines() {
        const ANSWERS: usize = 200;
        let (mut reader, outgoing, logger) = logger(LevelFilter::Info);
        let (answered, all_answered) = channel();
        for length in [10, 3000] {
            for _ in 0..2 * LINES_MAX {
                say(&logger, Level::Info, &"x".repeat(length));
            }
        }
        logger.flush();
        let sender = Arc::clone(&outgoing);
        thread::spawn(move || {
            for _ in 0..ANSWERS {
                sender.send(b"{\"result\":{\"result\":\"continue\"}}\n\n").unwrap();
            }
            answered.send(()).unwrap();
        });
        all_answered.recv_timeout(Duration::from_secs(20)).expect("an answer waits for lightningd to read the log");
        // Once it reads, everything is there, whole, and what is not is counted.
        let reading = thread::spawn(move || {
            let mut sent = String::new();
            reader.read_to_string(&mut sent).unwrap();
            sent
        });
        while !logger.queue.waiting().lines.is_empty() {
            thread::yield_now();
        }
        drop((logger, outgoing));
        let sent = reading.join().unwrap();
        let messages: Vec<serde_json::Value> =
            sent.split_terminator("\n\n").map(|message| serde_json::from_str(message).unwrap()).collect();
        let (answers, lines): (Vec<_>, Vec<_>) = messages.iter().partition(|message| message.get("method").is_none());
        assert_eq!(answers.len(), ANSWERS);
        let text = |line: &serde_json::Value| line["params"]["message"].as_str().unwrap().to_owned();
        let (drops, others): (Vec<String>, Vec<String>) =
            lines.into_iter().map(text).partition(|text| text.contains("dropped about here"));
        let dropped: usize = drops.iter().map(|text| text.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
        assert!(dropped > 0, "the queue has a limit");
        assert_eq!(others.len() + dropped, 4 * LINES_MAX);
    }
}

//! Starts the logger: its destination and its level.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

use crate::cli::log_queue::LogQueue;

/// The environment variable with the filter for log messages.
pub const LEVELS_VARIABLE: &str = "BACKUPFS_LOG";

/// The environment variable with the socket of the syslog daemon, if it is not `/dev/log`.
pub const SYSLOG_VARIABLE: &str = "BACKUPFS_SYSLOG";

/// The environment variable that systemd sets when standard error is the journal: its device and inode (systemd.exec(5)).
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

/// The program name in syslog messages.
const PROCESS: &str = "backupfs";

/// The log targets of libraries whose messages below `warn` are not useful: the FUSE library, and the HTTP library, which at its
/// lowest level also prints URLs with signatures.
const LIBRARIES: [&str; 4] = ["fuser", "ureq", "ureq_proto", "rustls"];

/// The destination of log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error; with the priorities of the journal if it is the journal.
    Stderr,
    /// The syslog daemon.
    Syslog,
}

/// Whether a thread that logs waits until the message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// The thread waits.
    AtOnce,
    /// The thread does not wait: it serves requests, which would wait, too.
    Queued,
}

/// Starts the logger for messages of this level and worse; `BACKUPFS_LOG` overrides the level.
pub fn start(to: LogTo, writing: Writing, level: LevelFilter) {
    let logger = match to {
        LogTo::Stderr => Some(on_stderr(level)),
        LogTo::Syslog => on_syslog(level),
    };
    let Some((logger, level)) = logger else { return };
    let logger: Arc<dyn Log> = Arc::new(WithoutLateAnswers(logger));
    let set = match writing {
        Writing::AtOnce => log::set_boxed_logger(Box::new(logger)),
        Writing::Queued => match LogQueue::start(Arc::clone(&logger)) {
            Ok(queue) => log::set_boxed_logger(Box::new(queue)),
            Err(error) => {
                crate::note!("warning: cannot start a thread for the log ({error}): requests may wait for the log");
                log::set_boxed_logger(Box::new(logger))
            }
        },
    };
    if set.is_ok() {
        log::set_max_level(level);
    }
}

fn on_stderr(level: LevelFilter) -> (Arc<dyn Log>, LevelFilter) {
    let of_libraries = level.min(LevelFilter::Warn);
    let libraries: String = LIBRARIES.iter().map(|library| format!(",{library}={of_libraries}")).collect();
    let default = format!("{level}{libraries}");
    let environment = env_logger::Env::new().filter_or(LEVELS_VARIABLE, default);
    let mut builder = env_logger::Builder::from_env(environment);
    if stderr_is_journal() {
        // The journal adds the time itself.
        builder.format(|out, record| writeln!(out, "<{}>{}", priority(record.level()), record.args()));
    } else {
        // The library's own time format panics after the year 9999.
        builder.format(|out, record| {
            let (level, second) = (record.level(), Timestamp::now().to_civil().strftime("%Y-%m-%dT%H:%M:%SZ"));
            let style = out.default_level_style(level);
            writeln!(out, "[{second} {style}{level:<5}{style:#}] {}", record.args())
        });
    }
    let logger = builder.build();
    let level = logger.filter();
    (Arc::new(logger), level)
}

/// The priority of a level, as in syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn stderr_is_journal() -> bool {
    let stream = std::env::var(JOURNAL_VARIABLE).ok();
    let stderr = std::fs::metadata("/dev/stderr").ok();
    stream.zip(stderr).is_some_and(|(stream, stderr)| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

fn on_syslog(level: LevelFilter) -> Option<(Arc<dyn Log>, LevelFilter)> {
    let level = std::env::var(LEVELS_VARIABLE).ok().and_then(|level| level.parse().ok()).unwrap_or(level);
    let logger = match std::env::var_os(SYSLOG_VARIABLE) {
        Some(socket) => syslog::unix_custom(Rfc3164, socket),
        None => syslog::unix(Rfc3164),
    };
    match logger {
        Ok(logger) => Some((Arc::new(ToSyslog(Mutex::new(logger))), level)),
        Err(error) => {
            crate::note!(
                "warning: no log is written: there is no syslog daemon to be reached ({error}); {SYSLOG_VARIABLE} names its \
                 socket if it is not /dev/log"
            );
            None
        }
    }
}

/// Formats a line for the syslog daemon. The library's own format panics after the year 9999.
#[derive(Debug, Clone)]
struct Rfc3164;

impl<T: std::fmt::Display> LogFormat<T> for Rfc3164 {
    fn format<W: Write>(&self, out: &mut W, severity: Severity, message: T) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        let second = Timestamp::now().to_civil().strftime("%b %d %H:%M:%S");
        write!(out, "<{priority}>{second} {PROCESS}[{}]: {message}", std::process::id()).map_err(syslog::Error::Write)
    }
}

/// A logger that forwards of [`LIBRARIES`] only warnings and errors.
struct ToSyslog(Mutex<Logger<LoggerBackend, Rfc3164>>);

impl ToSyslog {
    fn logger(&self) -> MutexGuard<'_, Logger<LoggerBackend, Rfc3164>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for ToSyslog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || !LIBRARIES.iter().any(|library| metadata.target().starts_with(library))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (mut logger, message) = (self.logger(), record.args());
            // If the daemon is gone, the message is lost: there is no other place to report it.
            let _unreported: syslog::Result<()> = match record.level() {
                Level::Error => logger.err(message),
                Level::Warn => logger.warning(message),
                Level::Info => logger.info(message),
                Level::Debug | Level::Trace => logger.debug(message),
            };
        }
    }

    fn flush(&self) {
        let _unreported: io::Result<()> = self.logger().backend.flush();
    }
}

/// A logger that drops one complaint of the FUSE library: an answer that the kernel did not take, because it no longer waits for
/// it. An unmount ends the requests that are under way, and the kernel answers ENOENT to what comes later
/// (`fuse_dev_do_write` in fs/fuse/dev.c). No request waits for that answer.
struct WithoutLateAnswers(Arc<dyn Log>);

impl WithoutLateAnswers {
    fn is_late_answer(record: &Record<'_>) -> bool {
        let no_request = io::Error::from_raw_os_error(libc::ENOENT);
        record.target().starts_with("fuser::")
            && record.args().to_string() == format!("Failed to send FUSE reply: {no_request}")
    }
}

impl Log for WithoutLateAnswers {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !Self::is_late_answer(record) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Log for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            self.0.lock().unwrap().push(record.args().to_string());
        }

        fn flush(&self) {}
    }

    #[test]
    fn an_answer_to_a_request_that_has_ended_is_no_fault() {
        let lines = Arc::new(Lines::default());
        let logger = WithoutLateAnswers(Arc::clone(&lines) as Arc<dyn Log>);
        let log = |target: &str, text: String| {
            logger.log(&Record::builder().level(Level::Error).target(target).args(format_args!("{text}")).build());
        };
        let reply = |error: i32| format!("Failed to send FUSE reply: {}", io::Error::from_raw_os_error(error));
        log("fuser::reply", reply(libc::ENOENT));
        log("fuser::reply", reply(libc::EINVAL));
        log("backupfs::tree", reply(libc::ENOENT));
        assert_eq!(*lines.0.lock().unwrap(), [reply(libc::EINVAL), reply(libc::ENOENT)]);
    }
}

//! Where log messages go, and which of them.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

use crate::cli::log_queue::LogQueue;

/// Environment variable with the filter for log messages.
pub const LEVELS_VARIABLE: &str = "BACKUPFS_LOG";

/// Environment variable with the socket of the syslog daemon, where it is not `/dev/log`.
pub const SYSLOG_VARIABLE: &str = "BACKUPFS_SYSLOG";

/// What systemd tells a service whose standard error is the journal: device and inode of it (systemd.exec(5)).
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

/// What messages are from.
const PROCESS: &str = "backupfs";

/// The library that talks to the kernel: of what it says in the course of its work nothing is news.
const FUSER: &str = "fuser";

/// Where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error; with the priorities that the journal understands if that is what it is.
    Stderr,
    /// The syslog daemon.
    Syslog,
}

/// Whether whoever logs something waits until it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// He does.
    AtOnce,
    /// He does not: he serves others, who would wait with him.
    Queued,
}

/// From now on messages of this level and worse go there, unless `BACKUPFS_LOG` says otherwise.
pub fn start(to: LogTo, writing: Writing, level: LevelFilter) {
    let logger = match to {
        LogTo::Stderr => Some(on_stderr(level)),
        LogTo::Syslog => on_syslog(level),
    };
    let Some((logger, level)) = logger else { return };
    let set = match writing {
        Writing::AtOnce => log::set_boxed_logger(Box::new(logger)),
        Writing::Queued => match LogQueue::start(Arc::clone(&logger)) {
            Ok(queue) => log::set_boxed_logger(Box::new(queue)),
            Err(error) => {
                crate::note!("warning: no thread for the log can be started ({error}): whoever logs may have to wait");
                log::set_boxed_logger(Box::new(logger))
            }
        },
    };
    if set.is_ok() {
        log::set_max_level(level);
    }
}

fn on_stderr(level: LevelFilter) -> (Arc<dyn Log>, LevelFilter) {
    let default = format!("{level},{FUSER}={}", level.min(LevelFilter::Warn));
    let environment = env_logger::Env::new().filter_or(LEVELS_VARIABLE, default);
    let mut builder = env_logger::Builder::from_env(environment);
    if stderr_is_journal() {
        // It adds the time itself.
        builder.format(|out, record| writeln!(out, "<{}>{}", priority(record.level()), record.args()));
    } else {
        // The time that the library would write ends at the year 9999, and with it the thread that logs.
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

/// As in syslog(3).
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

/// A line for the syslog daemon. That of the library ends, and with it the thread that logs, when the clock is past the year
/// 9999.
#[derive(Debug, Clone)]
struct Rfc3164;

impl<T: std::fmt::Display> LogFormat<T> for Rfc3164 {
    fn format<W: Write>(&self, out: &mut W, severity: Severity, message: T) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        let second = Timestamp::now().to_civil().strftime("%b %d %H:%M:%S");
        write!(out, "<{priority}>{second} {PROCESS}[{}]: {message}", std::process::id()).map_err(syslog::Error::Write)
    }
}

/// A logger that passes on only what is wrong of [`FUSER`].
struct ToSyslog(Mutex<Logger<LoggerBackend, Rfc3164>>);

impl ToSyslog {
    fn logger(&self) -> MutexGuard<'_, Logger<LoggerBackend, Rfc3164>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for ToSyslog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || !metadata.target().starts_with(FUSER)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (mut logger, message) = (self.logger(), record.args());
            // A daemon that is gone is told nothing, and nobody else is there to be told so.
            let _not_told: syslog::Result<()> = match record.level() {
                Level::Error => logger.err(message),
                Level::Warn => logger.warning(message),
                Level::Info => logger.info(message),
                Level::Debug | Level::Trace => logger.debug(message),
            };
        }
    }

    fn flush(&self) {
        let _not_told: io::Result<()> = self.logger().backend.flush();
    }
}

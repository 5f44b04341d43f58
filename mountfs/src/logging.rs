//! Where log messages go, and which of them.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{BasicLogger, Facility, Formatter3164};

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

/// From now on messages of this level and worse go there, unless `BACKUPFS_LOG` says otherwise.
pub fn start(to: LogTo, level: LevelFilter) {
    match to {
        LogTo::Stderr => start_on_stderr(level),
        LogTo::Syslog => start_on_syslog(level),
    }
}

fn start_on_stderr(level: LevelFilter) {
    let default = format!("{level},{FUSER}={}", level.min(LevelFilter::Warn));
    let environment = env_logger::Env::new().filter_or(LEVELS_VARIABLE, default);
    let mut builder = env_logger::Builder::from_env(environment);
    builder.format_target(false);
    if stderr_is_journal() {
        // It adds the time itself.
        builder.format(|out, record| writeln!(out, "<{}>{}", priority(record.level()), record.args()));
    }
    builder.init();
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

fn start_on_syslog(level: LevelFilter) {
    let level = std::env::var(LEVELS_VARIABLE).ok().and_then(|level| level.parse().ok()).unwrap_or(level);
    let formatter = Formatter3164 {
        facility: Facility::LOG_DAEMON,
        hostname: None,
        process: PROCESS.to_owned(),
        pid: std::process::id(),
    };
    let logger = match std::env::var_os(SYSLOG_VARIABLE) {
        Some(socket) => syslog::unix_custom(formatter, socket),
        None => syslog::unix(formatter),
    };
    match logger {
        Ok(logger) => {
            let logger = Box::new(WithoutFuser(BasicLogger::new(logger)));
            if log::set_boxed_logger(logger).is_ok() {
                log::set_max_level(level);
            }
        }
        Err(error) => crate::note!(
            "warning: no log is written: there is no syslog daemon to be reached ({error}); {SYSLOG_VARIABLE} names its socket if \
             it is not /dev/log"
        ),
    }
}

/// A logger that passes on only what is wrong of [`FUSER`].
struct WithoutFuser(BasicLogger);

impl Log for WithoutFuser {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (metadata.level() <= Level::Warn || !metadata.target().starts_with(FUSER)) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

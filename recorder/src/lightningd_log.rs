//! The log: every record becomes a `log` notification to `lightningd`.
//!
//! `cln-plugin` brings a logger too, but that one starts and ends with its runtime: it knows nothing of the writes before
//! the handshake, and once the runtime is gone it panics in whoever logs, which here would be the thread that answers
//! `db_write`. So `cln-plugin`'s own logger is off, and what it logs comes this way as well.

use std::sync::Arc;

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

use crate::outgoing::Outgoing;

/// The variable that sets how much is logged (`off`, `error`, `warn`, `info`, `debug`): the one all plugins built on
/// `cln-plugin` look at. `info` without it.
pub const LEVEL_VARIABLE: &str = "CLN_PLUGIN_LOG";

/// Sends log records to `lightningd`.
#[derive(Debug)]
pub struct LightningdLog {
    outgoing: Arc<Outgoing>,
    level: LevelFilter,
}

impl LightningdLog {
    /// A logger with the level that the environment asks for.
    pub fn from_env(outgoing: Arc<Outgoing>) -> Self {
        let wanted = std::env::var(LEVEL_VARIABLE).ok().and_then(|level| level.parse().ok());
        Self { outgoing, level: wanted.unwrap_or(LevelFilter::Info) }
    }

    /// Makes it the logger of this process.
    ///
    /// # Errors
    /// When there is one already.
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
            // When lightningd is gone nobody is left to tell; the reader notices by itself.
            let _ = self.outgoing.send(&notification(record));
        }
    }

    fn flush(&self) {}
}

fn notification(record: &Record<'_>) -> Vec<u8> {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        // Older releases of lightningd know nothing below debug and drop a plugin for it.
        Level::Debug | Level::Trace => "debug",
    };
    let text = serde_json::Value::String(record.args().to_string());
    format!("{{\"jsonrpc\":\"2.0\",\"method\":\"log\",\"params\":{{\"level\":\"{level}\",\"message\":{text}}}}}\n\n")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read as _};

    #[test]
    fn a_record_is_one_notification_and_lower_levels_are_dropped() {
        let (mut reader, writer) = io::pipe().unwrap();
        let logger = LightningdLog { outgoing: Arc::new(Outgoing::new(writer)), level: LevelFilter::Warn };
        logger.log(&Record::builder().level(Level::Error).args(format_args!("disk\n\n\"full\"")).build());
        logger.log(&Record::builder().level(Level::Info).args(format_args!("not this")).build());
        drop(logger);
        let mut sent = String::new();
        reader.read_to_string(&mut sent).unwrap();
        assert_eq!(
            sent,
            "{\"jsonrpc\":\"2.0\",\"method\":\"log\",\
             \"params\":{\"level\":\"error\",\"message\":\"disk\\n\\n\\\"full\\\"\"}}\n\n"
        );
    }
}

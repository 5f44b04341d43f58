//! The signals that ask a command to end.

use anyhow::Context as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Catches the signals that end a command, so that the caller can clean up and end.
///
/// SIGHUP of a closed terminal is among them, because it would leave a dead mount behind; it stays ignored under `nohup`.
///
/// # Errors
/// When signals cannot be caught.
pub fn signals_to_end() -> anyhow::Result<Signals> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hangup = (!ignores_hangup(&status)).then_some(SIGHUP);
    Signals::new([SIGTERM, SIGINT].into_iter().chain(hangup)).context("cannot wait for signals")
}

/// Makes a write past the file size limit (`ulimit -f`) fail with an ordinary error, instead of killing the process and leaving
/// half of something behind.
pub fn fail_where_files_may_not_grow() {
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))) {
        log::debug!("cannot catch SIGXFSZ: {error}");
    }
}

/// A flag that becomes true when a signal comes, so that long work can stop and leave nothing behind.
///
/// # Errors
/// When signals cannot be caught.
pub fn interrupted_by_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut signals = signals_to_end()?;
    let flag = Arc::clone(&interrupted);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            flag.store(true, Ordering::Relaxed);
        }
    })?;
    Ok(interrupted)
}

/// Whether SIGHUP is ignored by the process with this `/proc/…/status`.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_recognised() {
        assert!(ignores_hangup("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"));
        assert!(!ignores_hangup("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!ignores_hangup(""));
    }
}

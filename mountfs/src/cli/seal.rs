//! `backupfs seal`.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use clap::Args;
use common::{BackupUrl, LogLimits, counted, seal_backup};

use super::Failure;
use super::progress::Bar;
use super::signals::interrupted_by_signal;
use crate::say;

/// Seal the finished logs of a backup that no recorder writes to.
///
/// A recorder seals what it records by itself, a moment later. This command is for a backup whose recorder was stopped before
/// that, or that was copied from elsewhere. It replays every change that is not sealed yet, which proves that it can be
/// restored. The newest log stays as it is, and the next recorder continues it. The command can be interrupted at any time.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs seal /var/backup/node.bkp")]
pub struct SealArgs {
    /// The backup
    pub url: BackupUrl,
}

/// Seals the finished logs of a backup.
///
/// # Errors
/// Exit code 1 when the backup is damaged or does not replay, 2 when it cannot be sealed now.
pub fn run(args: &SealArgs) -> Result<(), Failure> {
    let interrupted = interrupted_by_signal()?;
    let (log_bytes, finished) = (LogLimits::default().bytes, finished_logs(args));
    let mut bar = Bar::new("sealing");
    let sealed = seal_backup(&args.url, &mut |progress| {
        bar.set(progress.logs_sealed * log_bytes, finished * log_bytes);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish();
    let progress = sealed.map_err(|error| if error.is_damage() { Failure::no(error) } else { error.into() })?;
    if interrupted.load(Ordering::Relaxed) {
        return Err(Failure::Failed(anyhow::anyhow!(
            "interrupted after {}; nothing is lost. Run it again to continue",
            counted(progress.logs_sealed, "log")
        )));
    }
    let sealed = counted(progress.logs_sealed, "log");
    match progress.replayed_through {
        Some(version) => say!("sealed {sealed}; every change up to version {version} has been replayed"),
        None => say!("sealed {sealed}; no version is recorded yet"),
    }
    Ok(())
}

/// The approximate number of logs to seal, for the progress bar.
fn finished_logs(args: &SealArgs) -> u64 {
    let names = fs::read_dir(args.url.path()).into_iter().flatten().flatten();
    let logs = names.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"log-")).count();
    logs.saturating_sub(1) as u64
}

//! `backupfs man`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use super::{Cli, Failure};
use crate::say;

/// Write manual pages: backupfs.1, and one for each command.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The directory; it is created if it does not exist
    pub dir: PathBuf,
}

/// Writes a manual page for each command.
///
/// # Errors
/// Exit code 2 when one cannot be written.
pub fn run(args: &ManArgs) -> Result<(), Failure> {
    let dir = &args.dir;
    fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("cannot write manual pages into {}", dir.display()))?;
    say!("wrote {}/backupfs*.1; look at one with `man -l {0}/backupfs.1`", dir.display());
    Ok(())
}

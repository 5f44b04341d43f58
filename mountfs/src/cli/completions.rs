//! `backupfs completions`.

use std::io::{self, Write as _};

use clap::CommandFactory as _;

use super::verify::heard;
use super::{Cli, CompletionsArgs, Failure};

/// Prints a script that lets a shell complete commands and options.
///
/// # Errors
/// Exit code 2 when it cannot be written.
pub fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "backupfs", &mut script);
    let mut out = io::stdout().lock();
    heard(out.write_all(&script).and_then(|()| out.flush()))
}

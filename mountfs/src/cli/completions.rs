//! `backupfs completions`.

use std::io::{self, Write as _};

use clap::{Args, CommandFactory as _};

use super::verify::heard;
use super::{Cli, Failure};

/// Print a script that completes commands and options in a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backupfs completions bash > /etc/bash_completion.d/backupfs\n  \
                        backupfs completions fish > ~/.config/fish/completions/backupfs.fish")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

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

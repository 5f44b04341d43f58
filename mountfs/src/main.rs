//! `backupfs`: the command line of the continuous backup. All it does is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use mountfs::cli::{self, Cli};
use mountfs::note;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::start_logging(&cli.command);
    match cli::run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note!("backupfs: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

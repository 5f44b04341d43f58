//! `backupfs`: the command line of the continuous backup. All it does is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use mountfs::cli::{self, Cli, mount_helper, signals};
use mountfs::note;

fn main() -> ExitCode {
    signals::fail_where_files_may_not_grow();
    if mount_helper::is_asked_for(std::env::args_os().next().as_deref()) {
        return mount_helper::run(std::env::args_os()).into();
    }
    let cli = Cli::parse();
    cli::start_logging(&cli);
    let ran = cli::run(&cli);
    log::logger().flush();
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note!("backupfs: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

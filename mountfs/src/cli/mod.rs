//! The command line: its commands, their options, and the exit code of an outcome.

mod acknowledging;
pub mod attach;
mod chosen_version;
pub mod compact;
mod compact_beside;
pub mod completions;
mod copy_statements;
pub mod daemon;
pub mod demo;
pub mod diff;
pub mod export;
pub mod find;
pub mod import;
pub mod init;
mod keep_args;
mod keys;
pub mod log_queue;
pub mod logging;
pub mod man;
pub mod mount;
pub mod mount_helper;
mod node_database;
pub mod offsite;
mod offsite_check;
mod offsite_prune;
mod offsite_wait;
pub mod preflight;
mod preflight_report;
mod progress;
pub mod read_url;
mod rehearsals;
pub mod repair;
pub mod restore;
pub mod seal;
pub mod ship;
mod ship_orders;
mod shipping;
mod shipping_key;
pub mod show;
pub mod signals;
pub mod status;
mod time_arg;
mod values;
mod verbosity;
pub mod verify;
mod verify_against;
pub mod versions;
mod versions_graph;

use std::fmt;

use clap::{Parser, Subcommand};
use log::LevelFilter;

pub use self::verbosity::Verbosity;
use crate::cli::logging::{LogTo, Writing};
use crate::mount::process::prepare_to_run;
use common::with_causes;

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  the answer is no: the backup is damaged, or differs from a database
  2  wrong usage, no such version, or it could not be done

URL is file:///path/to/node.bkp or just the path. Results go to stdout, everything else to stderr. Progress bars and colours are shown on terminals only; NO_COLOR turns off colours, -q progress bars. BACKUPFS_LOG sets the log level (error, warn, info, debug), also for single modules. A closed pipe is no error.

Examples:
  backupfs init --lightning-dir ~/.lightning/bitcoin /var/backup/node.bkp
  backupfs mount /var/backup/node.bkp /mnt/restore
  backupfs restore /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs verify /var/backup/node.bkp";

/// Continuous backup of a Core Lightning node: every version of its database, as files.
#[derive(Debug, Parser)]
#[command(name = "backupfs", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// The options for the log and progress bars.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. A comment on a variant would hide the long description in the comment on its struct.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "clap shows the comment on the struct")]
pub enum Command {
    Init(init::InitArgs),
    Attach(attach::AttachArgs),
    Mount(mount::MountArgs),
    Preflight(preflight::PreflightArgs),
    Restore(restore::RestoreArgs),
    Versions(versions::VersionsArgs),
    Show(show::ShowArgs),
    Diff(diff::DiffArgs),
    Find(find::FindArgs),
    Status(status::StatusArgs),
    Verify(verify::VerifyArgs),
    Repair(repair::RepairArgs),
    Seal(seal::SealArgs),
    Compact(compact::CompactArgs),
    Offsite(offsite::OffsiteArgs),
    Ship(ship::ShipArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// The failure of a command.
#[derive(Debug)]
pub enum Failure {
    /// The answer is no, for example because the backup is damaged: exit code 1.
    No(anyhow::Error),
    /// Wrong usage, or the command could not be done: exit code 2.
    Failed(anyhow::Error),
}

impl Failure {
    /// A [`No`](Self::No) with this reason.
    pub fn no(error: impl Into<anyhow::Error>) -> Self {
        Self::No(error.into())
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::No(_) => 1,
            Self::Failed(_) => 2,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl fmt::Display for Failure {
    /// The error with all its causes, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::No(error) | Self::Failed(error)) = self;
        f.write_str(&with_causes(error.as_ref()))
    }
}

/// Starts logging, with the level `info` for `mount` and `warn` for all other commands, unless `-q` or `-v` are given.
pub fn start_logging(cli: &Cli) {
    let (to, usual) = match &cli.command {
        Command::Mount(args) if args.syslog || args.detached => (LogTo::Syslog, LevelFilter::Info),
        Command::Mount(_) => (LogTo::Stderr, LevelFilter::Info),
        _ => (LogTo::Stderr, LevelFilter::Warn),
    };
    let writing = match &cli.command {
        Command::Mount(_) | Command::Demo(_) => Writing::Queued,
        _ => Writing::AtOnce,
    };
    logging::start(to, writing, cli.verbosity.level(usual));
}

/// Runs the command.
///
/// # Errors
/// [`Failure`], with the message for the operator and the exit code.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    progress::show(cli.verbosity.progress());
    if !matches!(cli.command, Command::Mount(_)) {
        prepare_to_run();
    }
    match &cli.command {
        Command::Init(args) => init::run(args),
        Command::Attach(args) => attach::run(args),
        Command::Mount(args) if args.daemon => daemon::start(args, cli.verbosity),
        Command::Mount(args) => mount::run(args),
        Command::Preflight(args) => preflight::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Versions(args) => versions::run(args),
        Command::Show(args) => show::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Find(args) => find::run(args),
        Command::Status(args) => status::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Repair(args) => repair::run(args),
        Command::Seal(args) => seal::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Offsite(args) => offsite::run(args),
        Command::Ship(args) => ship::run(args),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

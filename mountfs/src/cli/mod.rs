//! The command line: what can be asked for, and how an outcome becomes an exit code.

pub mod attach;
mod chosen_version;
pub mod compact;
mod compact_beside;
pub mod completions;
pub mod daemon;
pub mod demo;
pub mod diff;
pub mod export;
pub mod find;
pub mod import;
pub mod init;
pub mod log_queue;
pub mod logging;
pub mod man;
pub mod mount;
pub mod mount_helper;
mod node_database;
mod progress;
pub mod restore;
pub mod seal;
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
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use common::KeepSpan;
use common::{BackupUrl, DataVersion};
use log::LevelFilter;

use self::time_arg::Bound;
pub use self::verbosity::Verbosity;
use self::versions_graph::Unit;
use crate::cli::logging::{LogTo, Writing};
use crate::mount::mounted::MountSettings;
use crate::mount::process::prepare_to_run;
use crate::tree::fs_error::chain;

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  the answer is no: the backup is damaged, or differs from a database
  2  wrong usage, no such version, or it could not be done

URL is file:///path/to/node.bkp or just the path. Results go to stdout, everything else to stderr.
Progress bars and colours are for terminals only; NO_COLOR turns colours off, -q progress bars.
BACKUPFS_LOG sets what is logged (error, warn, info, debug) more finely than -q and -v.
A pipe that is closed is no error.

Examples:
  backupfs init --lightning-dir ~/.lightning/bitcoin /var/backup/node.bkp
  backupfs mount /var/backup/node.bkp /mnt/restore
  backupfs restore /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs verify /var/backup/node.bkp";

/// Continuous backup of a Core Lightning node: every version of its database, as files.
#[derive(Debug, Parser)]
#[command(name = "backupfs", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// How much is said meanwhile.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a backup of a node and connect the node to it
    Init(InitArgs),
    /// Connect a node to a backup that is there
    Attach(attach::AttachArgs),
    /// Mount a backup: every version is a directory
    Mount(MountArgs),
    /// Write the newest version of the database to a file
    Restore(RestoreArgs),
    /// List the versions in a backup
    Versions(VersionsArgs),
    /// Show a version: its statements, when it was recorded, how big it is
    Show(show::ShowArgs),
    /// Show what changed from one version to another, row by row
    Diff(diff::DiffArgs),
    /// Find the versions at which the rows that match a condition changed
    Find(find::FindArgs),
    /// Say how a backup is doing: newest version, what is sealed, size
    Status(StatusArgs),
    /// Check that a backup is whole, and that all of it is what the node had
    Verify(VerifyArgs),
    /// Seal the finished logs of a backup that no recorder is writing to
    Seal(SealArgs),
    /// Drop history that a policy does not keep
    Compact(CompactArgs),
    /// Make a backup of a file of the Python plugin `backup`, with all its versions
    Import(ImportArgs),
    /// Write a file that the Python plugin `backup` can restore and go on with
    Export(ExportArgs),
    /// Show it all on a pretended node, in half a minute
    Demo(DemoArgs),
    /// Print a script that completes commands and options in a shell
    Completions(CompletionsArgs),
    /// Write manual pages
    Man(ManArgs),
}

/// Create a backup of a node and connect the node to it.
///
/// Takes a snapshot of the database, if there is one already, and writes `backup.lock` into the lightning-dir, where the
/// plugin `backup-recorder` finds it. Stop the node first: it would go on without being recorded. Run by root for the node of
/// another user, the backup belongs to the owner of the lightning-dir.
///
/// With --replace a backup that is there already, damaged or not, is renamed to URL.replaced-TIME and stays mountable as far
/// as it is readable; the node keeps what its `backup.lock` says besides. A transaction that `lightningd` died in, as it does
/// when a write is refused, is rolled back first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs init --lightning-dir ~/.lightning/bitcoin file:///var/backup/node.bkp")]
pub struct InitArgs {
    /// The node's directory, that of the network: ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// The database, if it is not lightningd.sqlite3 in the lightning-dir
    #[arg(long, value_name = "PATH")]
    pub database: Option<PathBuf>,
    /// Rename the backup that is there, and begin anew
    #[arg(long)]
    pub replace: bool,
    /// With --replace: even when the database is damaged and the backup that is there is whole
    #[arg(long, requires = "replace")]
    pub accept_damaged_database: bool,
    /// Where the backup shall be: a directory that does not exist yet or is empty, or with --replace a backup
    pub url: BackupUrl,
}

/// Mount a backup: every version is a directory.
///
/// Stays in the foreground, unless --daemon is given, and follows a recorder that is writing. Tells systemd when it is ready. Ends on SIGTERM, SIGINT (Ctrl-C), SIGHUP or `umount`. Nothing in the
/// backup is changed or locked. The mount explains itself in its README.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs mount /var/backup/node.bkp /mnt/restore\n  \
                        ls /mnt/restore/versions\n  sqlite3 -readonly /mnt/restore/latest/lightningd.sqlite3")]
pub struct MountArgs {
    /// Let all users of this machine read it (not being root, this needs `user_allow_other` in /etc/fuse.conf)
    #[arg(long)]
    pub allow_other: bool,
    /// Go to the background once the mount answers, and log to syslog
    #[arg(long)]
    pub daemon: bool,
    /// Log to syslog
    #[arg(long)]
    pub syslog: bool,
    /// To be the process in the background
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Memory for versions kept ready to be read, in MiB; files that are open may need more
    #[arg(long, value_name = "N", default_value_t = MountSettings::CACHE_MIB)]
    pub cache_mb: u32,
    /// The backup
    pub url: BackupUrl,
    /// An empty directory
    pub mountpoint: PathBuf,
}

/// Write the newest version of the database to a file.
///
/// The file appears under its name when it is complete and has passed SQLite's quick_check; nothing is overwritten. Refused while
/// `lightningd` runs on that directory. Run by root, the file belongs to the owner of the directory.
#[derive(Debug, Args)]
#[command(after_help = "\
TIME is in UTC, or with an offset: 2026-11-20, '2026-11-20 14:05', 2026-11-20T14:05:07Z. A day or a minute means its end.

Examples:
  backupfs restore /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs restore --create /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs restore --verify --backup-existing /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs restore --at '2026-11-20 14:05' --accept-stale-state /var/backup/node.bkp /tmp/look.sqlite3

The old node must not run any more, and hsm_secret has to be copied by hand.")]
pub struct RestoreArgs {
    /// The backup
    pub url: BackupUrl,
    /// The node's directory, that of the network, which gets a lightningd.sqlite3; or a new file, with an extension
    pub dest: PathBuf,
    /// Make the directory if it is not there
    #[arg(long)]
    pub create: bool,
    /// Another version than the newest; only to look at it, never to run a node on it
    #[arg(long, value_name = "N")]
    pub version: Option<DataVersion>,
    /// The newest version that had been recorded at that time; like any old one only to look at it
    #[arg(long, value_name = "TIME", value_parser = Bound::at, conflicts_with = "version")]
    pub at: Option<i64>,
    /// Confirms that a node started on an old version can lose all its funds
    #[arg(long)]
    pub accept_stale_state: bool,
    /// Read all of it back from the disk, and compare it with the backup, before it gets its name
    #[arg(long)]
    pub verify: bool,
    /// Rename a database that is there, with its journal, to DEST.replaced-TIME
    #[arg(long)]
    pub backup_existing: bool,
    /// Restore a version that fails SQLite's quick_check all the same, and print what that says
    #[arg(long)]
    pub accept_damaged: bool,
}

/// List the versions in a backup.
///
/// Rewound versions (`lightningd` died before it committed them) and versions that were never recorded are listed, too,
/// and marked.
#[derive(Debug, Args)]
#[command(after_help = "\
X is a data_version (digits only) or a time in UTC: 2026-11-22, '2026-11-22 14:05', 2026-11-22T14:05:07Z.
Both ends are included.

--json prints one object a line: data_version, seq, recorded_at (RFC 3339), status (recorded, rewound,
replaced, unreadable, missing), commit (certain, seen, unknown), origin (change, snapshot), reason (of a snapshot: init, gap, changed,
unreplayable), statements, bytes. What is not known is null. Fields are only ever added.
With --graph it prints one object for each hour or day that has something: start (RFC 3339), unit (hours, days), versions,
rewound, missing (noticed then), bytes.

Examples:
  backupfs versions --since 2026-11-22 /var/backup/node.bkp
  backupfs versions --graph=days /var/backup/node.bkp")]
pub struct VersionsArgs {
    /// The backup
    pub url: BackupUrl,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// From this version or time on
    #[arg(long, value_name = "X", value_parser = Bound::since)]
    pub since: Option<Bound>,
    /// Up to this version or time
    #[arg(long, value_name = "X", value_parser = Bound::until)]
    pub until: Option<Bound>,
    /// How many versions each hour or day has, as bars
    #[arg(long, value_name = "UNIT", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub graph: Option<Unit>,
}

/// Say how a backup is doing: newest version, what is sealed, size.
///
/// Reads the files alone, and takes no lock: it works beside a recorder that is writing, and for a backup that was copied
/// from elsewhere. A running recorder tells more: `lightning-cli backup-status`. Exits with 1 when the backup cannot be
/// read to its end; what can be read is told all the same.
#[derive(Debug, Args)]
#[command(after_help = "\
--json prints one object: data_version, seq, recorded_at (RFC 3339), destination, bytes, bytes_by_kind, free_bytes,
unsealed_changes, sealed_through, sealed_through_seq, replay (through, text, problem) and format as in backup-status;
versions, oldest_version, dropped (what compactions have dropped so far: at, versions, segments, remains_bytes), locked (whether a recorder of this machine, or `backupfs seal`, is seen to hold the lock), and
problem (why the backup cannot be read to its end). What is not known is null. Fields are only ever added.

Example:
  backupfs status /var/backup/node.bkp")]
pub struct StatusArgs {
    /// The backup
    pub url: BackupUrl,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Check that a backup is whole, and that all of it is what the node had.
///
/// Reads every byte: all checksums, and the chain over all records. Then replays every change and compares what that yields
/// with the pages that are stored, and has SQLite check the newest version. Names every bad file, the byte, and the versions
/// that it costs, and goes on. Takes no lock, changes nothing: it works beside a recorder that is writing.
#[derive(Debug, Args)]
#[command(after_help = "\
--against DB compares a database, of a node that runs or not, with the version of the backup that has its data_version: every
row of every table, and the schema. The database is only read, and let go after 15 s at most (exit code 2 then).

Exit codes: 0 nothing is wrong, 1 damage, or a difference, or an old state, or a newest version that is damaged in the node's own database,
2 it could not be verified.
--json prints one object; its fields are in docs/json.md. Fields are only ever added.

Examples:
  backupfs verify /var/backup/node.bkp
  backupfs verify --quick --from 120000 /var/backup/node.bkp
  backupfs verify --against ~/.lightning/bitcoin/lightningd.sqlite3 /var/backup/node.bkp")]
pub struct VerifyArgs {
    /// The backup
    pub url: BackupUrl,
    /// Checksums only: nothing is replayed
    #[arg(long)]
    pub quick: bool,
    /// From this version on
    #[arg(long, value_name = "N")]
    pub from: Option<DataVersion>,
    /// Up to this version
    #[arg(long, value_name = "N")]
    pub to: Option<DataVersion>,
    /// Compare this database with the backup instead
    #[arg(long, value_name = "DB", conflicts_with_all = ["quick", "from", "to"])]
    pub against: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Seal the finished logs of a backup that no recorder is writing to.
///
/// A recorder seals what it records by itself, a moment later; this is for a backup that was stopped before that, or was
/// copied from elsewhere. It replays every change that is not sealed yet, so it also proves that they can be restored. The
/// newest log stays as it is: the next recorder goes on in it. It can be interrupted at any time.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs seal /var/backup/node.bkp")]
pub struct SealArgs {
    /// The backup
    pub url: BackupUrl,
}

/// Make a backup of a file of the Python plugin `backup`, with all its versions.
///
/// Every change is replayed on the way. Left out, with a line that says so, are changes that were never committed and that the
/// plugin failed to take back; the space that lightningd forgot before WHERE until 2020 is put in. What is behind the last whole
/// record is left out, and where header and records disagree it says so, and what may be missing. When a change does not replay,
/// or a record in the middle is damaged, nothing is made, but with --until-damage. The file is only read; its plugin may be
/// writing to it.
///
/// With --lightning-dir the node is connected to the new backup. Stop it first; its database must not be older than the file.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        backupfs import --lightning-dir ~/.lightning/bitcoin /mnt/usb/file.bkp /mnt/usb/node.bkp\n  \
                        backupfs import file:///mnt/usb/file.bkp file:///tmp/look.bkp\n  \
                        backupfs import --until-damage /mnt/usb/damaged.bkp /tmp/rescued.bkp")]
pub struct ImportArgs {
    /// The node's directory, that of the network, to go on recording into the backup
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: Option<PathBuf>,
    /// Import what is before the damage, or before a change that does not replay; never run a node on that
    #[arg(long)]
    pub until_damage: bool,
    /// The file of the Python plugin; also as file:///path
    #[arg(value_parser = file_path)]
    pub file: PathBuf,
    /// Where the backup shall be: a directory that does not exist yet or is empty
    pub url: BackupUrl,
}

/// Write a file that the Python plugin `backup` can restore and go on with.
///
/// It holds the history up to the newest version, as far back as nothing is missing: from the snapshot that the backup begins
/// with or the newest gap was closed with, or from the node's first change. Nothing is overwritten.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs export /var/backup/node.bkp /mnt/usb/file.bkp")]
pub struct ExportArgs {
    /// The backup
    pub url: BackupUrl,
    /// The new file; also as file:///path
    #[arg(value_parser = file_path)]
    pub file: PathBuf,
    /// Up to this version instead of the newest; only to look at it, never to run a node on it
    #[arg(long, value_name = "N")]
    pub version: Option<DataVersion>,
}

/// A file, as its path or as the Python plugin writes it: that does not decode what is percent-encoded.
fn file_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("file://").unwrap_or(text) {
        "" => Err("names no file".to_owned()),
        path if path.contains("://") || path.starts_with("socket:") => Err("write the path of a file".to_owned()),
        path => Ok(path.into()),
    }
}

/// Drop history that a policy does not keep.
///
/// Keeps everything within the span of --keep-within, and further back what --keep-hourly, --keep-daily and --keep-weekly say: of every
/// hour, day or week (in UTC) that has versions the newest one. Spans count back from the newest version, which is always
/// kept. Versions that are kept stay what they are, byte for byte. It can be interrupted at any time.
///
/// A clock that is wrong makes more stay, never less. So it is refused when the newest versions come more than a day after
/// those before them, until they span a day: when it is known that the node was off and its clock is right, --force does it.
///
/// While a node records to the backup, its recorder does it, and this command asks it to, by the node's socket, and waits; the
/// node does not. The recorder also does it by itself when `backup.lock` has a policy, or is told to by
/// `lightning-cli -k backup-compact keep_within=90d`.
#[derive(Debug, Args)]
#[command(after_help = "\
SPAN is a number with a unit: 12h, 90d, 8w, 1y (365 days).

Exit codes: 0 done, 1 the backup is damaged, 2 it could not be done, or the policy keeps nothing; nothing is changed then.
--json prints one object: dry_run, dropped_versions, dropped_segments, kept_versions, oldest_version, freed_bytes,
remains_bytes (what is left of all segments that were ever dropped), clock_in_doubt (why it needs --force, or null). Fields are only ever added.

Examples:
  backupfs compact --keep-within 90d --dry-run /var/backup/node.bkp
  backupfs compact --keep-within 30d --keep-hourly 90d --keep-daily 1y /var/backup/node.bkp")]
pub struct CompactArgs {
    /// Keep all versions of this span
    #[arg(long, value_name = "SPAN")]
    pub keep_within: Option<KeepSpan>,
    /// Keep the newest version of every hour of this span
    #[arg(long, value_name = "SPAN")]
    pub keep_hourly: Option<KeepSpan>,
    /// Keep the newest version of every day of this span
    #[arg(long, value_name = "SPAN")]
    pub keep_daily: Option<KeepSpan>,
    /// Keep the newest version of every week of this span
    #[arg(long, value_name = "SPAN")]
    pub keep_weekly: Option<KeepSpan>,
    /// Only say what would be dropped, and how much room that would free
    #[arg(long)]
    pub dry_run: bool,
    /// The clock is right, although it has leapt: the node was off for more than a day
    #[arg(long)]
    pub force: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// The backup
    pub url: BackupUrl,
}

/// Show it all on a pretended node, in half a minute.
///
/// Plays 1,500 database writes of a real node to the real `backup-recorder`, mounts the backup, restores the newest
/// version, checks it, and leaves the mount up until Ctrl-C. Everything happens in a temporary directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cargo build --release && ./target/release/backupfs demo")]
pub struct DemoArgs {
    /// End by itself instead of waiting for Ctrl-C
    #[arg(long)]
    pub once: bool,
}

/// Print a script that completes commands and options in a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backupfs completions bash > /etc/bash_completion.d/backupfs\n  \
                        backupfs completions fish > ~/.config/fish/completions/backupfs.fish")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Write manual pages: backupfs.1, and one for each command.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The directory; it is made if there is none
    pub dir: PathBuf,
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// The answer is no: exit code 1.
    No(anyhow::Error),
    /// Wrong usage, or it could not be done: exit code 2.
    Failed(anyhow::Error),
}

impl Failure {
    /// The answer is no, for this reason.
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
        f.write_str(&chain(error.as_ref()))
    }
}

/// Sends log messages where they are asked for: what a service wants to know from `mount`, problems only from the rest.
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

/// Does what was asked for.
///
/// # Errors
/// [`Failure`], with what to tell the operator and the exit code.
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
        Command::Restore(args) => restore::run(args),
        Command::Versions(args) => versions::run(args),
        Command::Show(args) => show::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Find(args) => find::run(args),
        Command::Status(args) => status::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Seal(args) => seal::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

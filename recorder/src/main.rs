//! `backup-recorder`: wiring only; see the library `recorder`.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::{env, fmt};

use anyhow::Context as _;
use log::LevelFilter;
use recorder::answer::Answering;
use recorder::destination::Destination;
use recorder::disk_warnings;
use recorder::lightningd_log::LightningdLog;
use recorder::outgoing::Outgoing;
use recorder::plugin::PluginThread;
use recorder::shipping;
use recorder::status::Status;
use recorder::transport::{End, converse};
use recorder::watchdog::{self, Watched};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};

/// The environment variable that `lightningd` sets for its plugins only.
const STARTED_BY_LIGHTNINGD: &str = "LIGHTNINGD_PLUGIN";

/// Signals that would end the process, and the node with it, without need.
///
/// Ctrl-C and systemd's stop signal every process of the node at once, and so does a terminal that is closed; for
/// `lightningd` that last one only means to open its log anew. It then still commits, and waits for this plugin; the end
/// of input and the `shutdown` notification say when it is time to go. A file that may not grow any longer (`ulimit -f`)
/// is a write that fails, as on a full disk, and the limit of processor time has another one behind it, which is final.
/// The others have no meaning for this program.
///
/// SIGQUIT asks for a core file and is left as it is, and so are all that report a bug. SIGPIPE is ignored in every Rust
/// program.
const IGNORED: [i32; 11] =
    [SIGHUP, SIGINT, SIGTERM, SIGXFSZ, SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO];

/// The timeout of the last answers of `cln-plugin` after the end of input.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

const USAGE: &str = "\
backup-recorder is a Core Lightning plugin that records every database change; lightningd starts it.
Set up a backup with `backupfs init`, then add to the node's config:
  important-plugin=/absolute/path/to/backup-recorder";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let is_plugin = env::var_os(STARTED_BY_LIGHTNINGD).is_some();
    if (!arguments.is_empty() && !is_plugin) || io::stdin().is_terminal() {
        return give_up(USAGE);
    }
    match run(&arguments) {
        // What was recorded is durable, and the threads that are still running have nothing to save.
        Ok(()) => process::exit(0),
        Err(error) => give_up(format_args!("backup-recorder: {error:#}")),
    }
}

/// Runs the plugin. `ignored` are the arguments: `lightningd` passes some of its own flags to every plugin.
fn run(ignored: &[OsString]) -> anyhow::Result<()> {
    let outgoing = Arc::new(Outgoing::stdout().context("cannot use standard output")?);
    match LightningdLog::from_env(Arc::clone(&outgoing)) {
        Ok(log) => log.install()?,
        Err(error) => {
            eprintln!("backup-recorder: cannot start a thread ({error}); nothing is logged, but all is recorded")
        }
    }
    ignore_signals()?;
    if !ignored.is_empty() {
        log::info!("ignored the arguments {ignored:?}, which mean nothing to backup-recorder");
    }
    let lightning_dir = env::current_dir().context("cannot read the current directory, which is the lightning-dir")?;
    let status = Arc::new(Status::default());
    let (inbox, plugin) = PluginThread::spawn(Arc::clone(&outgoing), Arc::clone(&status))?;
    let watched = Arc::new(Watched::default());
    let watchdog = watchdog::spawn(Arc::clone(&watched), Arc::clone(&outgoing), Arc::clone(&status));
    go_on_without(watchdog, "when a call to the backup hangs, lightningd waits until it returns");
    go_on_without(disk_warnings::watch(Arc::clone(&status)), "there is no warning before the disk is full");
    let (shipping, holding) = shipping::spawn(&lightning_dir, &status);
    go_on_without(shipping, "nothing is shipped to the off-site copies");
    let destination = Destination::new(lightning_dir, Arc::clone(&status), Arc::clone(&watched));
    let answering = Answering::new(destination, outgoing, inbox, status, watched).holding(holding);
    let end = converse(io::stdin(), answering).context("cannot read")?;
    if end == End::EndOfInput {
        // cln-plugin calls the end of its input an error; it is the ordinary end here.
        log::set_max_level(LevelFilter::Off);
        plugin.wait(LAST_ANSWERS);
    }
    log::logger().flush();
    Ok(())
}

/// Logs that a thread did not start, and goes on: changes can be recorded without it.
fn go_on_without(started: io::Result<()>, missed: &str) {
    if let Err(error) = started {
        log::error!("cannot start a thread ({error}): {missed}");
    }
}

/// Catches the signals without doing anything: a call that is interrupted by one goes on.
fn ignore_signals() -> anyhow::Result<()> {
    for signal in IGNORED {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).context("cannot catch signals")?;
    }
    Ok(())
}

/// Prints to standard error, because standard output belongs to `lightningd`, and returns the exit code.
fn give_up(why: impl fmt::Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

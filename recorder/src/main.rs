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
use recorder::status::Status;
use recorder::transport::{End, converse};
use recorder::watchdog::{self, Watched};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};

/// Set by `lightningd` for its plugins, and for nobody else.
const STARTED_BY_LIGHTNINGD: &str = "LIGHTNINGD_PLUGIN";

/// Signals that would end the process, and the node with it, though nothing here is at its end.
///
/// Ctrl-C and systemd's stop signal every process of the node at once, and so does a terminal that is closed; for
/// `lightningd` that last one only means to open its log anew. It then still commits, and waits for this plugin; the end
/// of input and the `shutdown` notification say when it is time to go. A file that may not grow any longer (`ulimit -f`)
/// is a write that fails, as on a full disk, and the limit of processor time has another one behind it, which is final.
/// The others mean nothing here: whoever sends them means a program that has a use for them.
///
/// SIGQUIT asks for a core file and is left as it is, and so are all that tell of a bug. SIGPIPE is ignored in every Rust
/// program.
const OUTLIVED: [i32; 11] =
    [SIGHUP, SIGINT, SIGTERM, SIGXFSZ, SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO];

/// How long the last answers of `cln-plugin` may take when the input has ended.
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

/// `ignored` is what `lightningd` started this with: some of its own flags are handed to every plugin.
fn run(ignored: &[OsString]) -> anyhow::Result<()> {
    let outgoing = Arc::new(Outgoing::stdout().context("cannot use standard output")?);
    match LightningdLog::from_env(Arc::clone(&outgoing)) {
        Ok(log) => log.install()?,
        Err(error) => {
            eprintln!("backup-recorder: cannot start a thread ({error}); nothing is logged, but all is recorded")
        }
    }
    outlive_signals()?;
    if !ignored.is_empty() {
        log::info!("ignored the arguments {ignored:?}, which mean nothing to backup-recorder");
    }
    let lightning_dir = env::current_dir().context("cannot tell which lightning-dir this is")?;
    let status = Arc::new(Status::default());
    let (inbox, plugin) = PluginThread::spawn(Arc::clone(&outgoing), Arc::clone(&status))?;
    let watched = Arc::new(Watched::default());
    let watchdog = watchdog::spawn(Arc::clone(&watched), Arc::clone(&outgoing), Arc::clone(&status));
    go_on_without(watchdog, "a call to the backup's place that hangs holds lightningd up until it returns");
    go_on_without(disk_warnings::watch(Arc::clone(&status)), "nothing warns before the disk is full");
    let destination = Destination::new(lightning_dir, Arc::clone(&status), Arc::clone(&watched));
    let answering = Answering::new(destination, outgoing, inbox, status, watched);
    let end = converse(io::stdin(), answering).context("cannot read")?;
    if end == End::EndOfInput {
        // cln-plugin calls the end of its input an error; it is the ordinary end here.
        log::set_max_level(LevelFilter::Off);
        plugin.wait(LAST_ANSWERS);
    }
    log::logger().flush();
    Ok(())
}

/// Where a thread is missed that changes can be recorded without, the node need not stay down.
fn go_on_without(started: io::Result<()>, missed: &str) {
    if let Err(error) = started {
        log::error!("cannot start a thread ({error}): {missed}");
    }
}

/// From here on they do nothing: a call that is interrupted by one goes on.
fn outlive_signals() -> anyhow::Result<()> {
    for signal in OUTLIVED {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).context("cannot catch signals")?;
    }
    Ok(())
}

/// Standard output belongs to `lightningd`.
fn give_up(why: impl fmt::Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

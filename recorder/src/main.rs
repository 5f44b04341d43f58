//! `backup-recorder`: wiring only; see the library `recorder`.

use std::io::{self, IsTerminal as _};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::{env, fmt};

use anyhow::Context as _;
use log::LevelFilter;
use recorder::answer::Answering;
use recorder::lightningd_log::LightningdLog;
use recorder::outgoing::Outgoing;
use recorder::places;
use recorder::plugin::PluginThread;
use recorder::recording::BackupRecording;
use recorder::status::Status;
use recorder::transport::{End, converse};
use recorder::watchdog::{self, Watched};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How long the last answers of `cln-plugin` may take when the input has ended.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

const USAGE: &str = "\
backup-recorder is a Core Lightning plugin that records every database change; lightningd starts it.
Set up a backup with `backupfs init`, then add to the node's config:
  important-plugin=/absolute/path/to/backup-recorder";

fn main() -> ExitCode {
    if env::args_os().len() > 1 || io::stdin().is_terminal() {
        return give_up(USAGE);
    }
    match run() {
        // What was recorded is durable, and the threads that are still running have nothing to save.
        Ok(()) => process::exit(0),
        Err(error) => give_up(format_args!("backup-recorder: {error:#}")),
    }
}

fn run() -> anyhow::Result<()> {
    let outgoing = Arc::new(Outgoing::stdout().context("cannot use standard output")?);
    LightningdLog::from_env(Arc::clone(&outgoing)).context("cannot start a thread")?.install()?;
    outlive_termination_signals()?;
    let lightning_dir = env::current_dir().context("cannot tell which lightning-dir this is")?;
    let status = Arc::new(Status::default());
    let (inbox, plugin) = PluginThread::spawn(Arc::clone(&outgoing), Arc::clone(&status))?;
    let watched = Arc::new(Watched::default());
    watchdog::spawn(Arc::clone(&watched), Arc::clone(&outgoing), Arc::clone(&status))?;
    places::watch(Arc::clone(&status))?;
    let recording = BackupRecording::new(lightning_dir, Arc::clone(&status), Arc::clone(&watched));
    let answering = Answering::new(recording, outgoing, inbox, status, watched);
    let end = converse(io::stdin(), answering).context("cannot read")?;
    if end == End::EndOfInput {
        // cln-plugin calls the end of its input an error; it is the ordinary end here.
        log::set_max_level(LevelFilter::Off);
        plugin.wait(LAST_ANSWERS);
    }
    log::logger().flush();
    Ok(())
}

/// Ctrl-C and systemd's stop signal every process of the node at once, and so does a terminal that is closed; for
/// `lightningd` that last one only means to open its log anew. It then still commits, and waits for this plugin; the end
/// of input and the `shutdown` notification say when it is time to go.
fn outlive_termination_signals() -> anyhow::Result<()> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).context("cannot catch signals")?;
    }
    Ok(())
}

/// Standard output belongs to `lightningd`.
fn give_up(why: impl fmt::Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

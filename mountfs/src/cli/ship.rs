//! `backupfs ship`.

use std::io;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use common::{BackupLock, OffsiteEntry};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Failure;
use super::keys::KeyArgs;
use super::ship_orders::Orders;
use super::shipping::{Destination, Ending, StartedBy, ship};
use super::shipping_key::RunKey;
use crate::note;
use crate::say;
use common::with_causes;

/// The longest time for the last uploads after the recorder has ended.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Copy a backup to its off-site copies, and go on as it grows.
///
/// The recorder does this by itself while the node runs. Run it by hand for a backup that no recorder writes to, or with --once to
/// bring the copies up to date. It reads the backup as a mount does, and never holds up the node.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backupfs ship --lightning-dir ~/.lightning/bitcoin --once")]
pub struct ShipArgs {
    /// The node's directory, that of the network: ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// Copy what there is, then end
    #[arg(long)]
    pub once: bool,
    /// The keys of the node.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// End when standard input ends, as the recorder asks for
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}

/// Ships to all copies, until a signal comes.
///
/// # Errors
/// Exit code 2 when there is no copy, or one could not be shipped to.
pub fn run(args: &ShipArgs) -> Result<(), Failure> {
    let lock = BackupLock::read(&args.lightning_dir)?;
    if lock.offsite.is_empty() {
        return Err(Failure::Failed(anyhow!(
            "{} names no off-site copy; `backupfs offsite add` begins one",
            BackupLock::path(&args.lightning_dir).display()
        )));
    }
    let orders = Arc::new(Orders::default());
    // Signals reach all processes of a node at once. The recorder goes on until lightningd has ended, and so does this.
    let by_signal: Arc<AtomicBool> =
        if args.until_stdin_ends { Arc::default() } else { Arc::clone(orders.stop_flag()) };
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&by_signal)).context("cannot wait for signals")?;
    }
    if args.until_stdin_ends {
        follow_stdin(&orders)?;
    }
    // The node comes first. A system that refuses runs it as it is.
    let _: rustix::io::Result<i32> = rustix::process::nice(10);
    let ending = if args.once { Ending::Once } else { Ending::WhenStopped };
    let threads: Vec<_> =
        lock.offsite.iter().map(|entry| start(args, &lock, entry, ending, &orders)).collect::<Result<_, _>>()?;
    let mut failed = 0;
    for (thread, entry) in threads.into_iter().zip(&lock.offsite) {
        match thread.join() {
            // The recorder reads lines of another kind there.
            Ok(Ok(_)) if args.until_stdin_ends => {}
            Ok(Ok(shipped)) => say!("{}: everything up to record {shipped} is in the copy", entry.url),
            Ok(Err(error)) => {
                failed += 1;
                note!("{}: {}", entry.url, with_causes(error.as_ref()));
            }
            Err(_) => failed += 1,
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(anyhow!("{failed} of {} copies could not be shipped to", lock.offsite.len()))),
    }
}

fn start(
    args: &ShipArgs,
    lock: &BackupLock,
    entry: &OffsiteEntry,
    ending: Ending,
    orders: &Arc<Orders>,
) -> anyhow::Result<thread::JoinHandle<anyhow::Result<u64>>> {
    let destination = Destination {
        backup: lock.backend_url.clone(),
        lightning_dir: args.lightning_dir.clone(),
        entry: entry.clone(),
        keys: args.keys.clone(),
        run_key: RunKey::default(),
        started_by: match args.until_stdin_ends {
            true => StartedBy::Recorder(parent_id()),
            false => StartedBy::Operator,
        },
    };
    let orders = Arc::clone(orders);
    thread::Builder::new()
        .name("ship".to_owned())
        .spawn(move || ship(&destination, ending, &orders))
        .context("cannot start a thread")
}

/// Follows what the recorder that started this process says, and stops when it is gone.
fn follow_stdin(orders: &Arc<Orders>) -> anyhow::Result<()> {
    let orders = Arc::clone(orders);
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            orders.take_lines(io::stdin().lock());
            orders.stop();
            // A store that does not answer must not keep a service from stopping.
            thread::sleep(ENDS_WITHIN);
            std::process::exit(2);
        })
        .context("cannot start a thread")?;
    Ok(())
}

//! `backupfs mount`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use common::counted;
use sd_notify::NotifyState;
use signal_hook::iterator::Signals;

use super::read_url::{ReadArgs, ReadUrl};
use super::signals::signals_to_end;
use super::{Failure, daemon};
use crate::fuse::kernel_attr::Access;
use crate::mount::mounted::{Mount, MountSettings, Unmounted};
use crate::note;
use crate::say;

/// Mount a backup: every version is a directory.
///
/// Stays in the foreground, unless --daemon is given, and shows new versions while a recorder writes. It notifies systemd when it
/// is ready. It ends on SIGTERM, SIGINT (Ctrl-C), SIGHUP or `umount`. The backup is neither changed nor locked. The mount has a
/// README with instructions.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs mount /var/backup/node.bkp /mnt/restore\n  \
                        ls /mnt/restore/versions\n  sqlite3 -readonly /mnt/restore/latest/lightningd.sqlite3")]
pub struct MountArgs {
    /// Let all users of this machine read it (without root this needs `user_allow_other` in /etc/fuse.conf)
    #[arg(long)]
    pub allow_other: bool,
    /// Go to the background once the mount answers, and log to syslog
    #[arg(long)]
    pub daemon: bool,
    /// Log to syslog
    #[arg(long)]
    pub syslog: bool,
    /// Run as the process in the background
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Memory for the cache of versions, in MiB; open files may need more
    #[arg(long, value_name = "N", default_value_t = MountSettings::CACHE_MIB)]
    pub cache_mb: u32,
    /// The backup
    pub url: ReadUrl,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// An empty directory
    pub mountpoint: PathBuf,
}

/// Mounts, and serves until a signal comes or another process unmounts.
///
/// # Errors
/// Exit code 2 when it cannot be mounted or unmounted.
pub fn run(args: &MountArgs) -> Result<(), Failure> {
    let access = if args.allow_other { Access::Others } else { Access::Owner };
    // Before the mount: a signal in between must not leave a dead mount behind.
    let signals = signals_to_end()?;
    let source = args.read.open(&args.url)?.source;
    let mount = Mount::start(&source, &args.mountpoint, MountSettings { access, cache_mib: args.cache_mb })?;
    // Before the line on standard output, so that a script that waits for that line has the warning.
    if let Some(warning) = mount.warning() {
        note!("{warning}");
    }
    let state = announce(&mount, args);
    if args.detached || args.syslog {
        log::info!("mounted {} on {} ({state})", args.url, mount.path().display());
        if let Some(warning) = mount.warning() {
            log::warn!("{warning}");
        }
    }
    if args.detached {
        daemon::leave_terminal()?;
    }
    notify_systemd(&[NotifyState::Ready, NotifyState::Status(&state)]);
    let served = serve(mount, signals);
    notify_systemd(&[NotifyState::Stopping]);
    served
}

/// Serves until a signal comes or another process unmounts, then unmounts.
///
/// # Errors
/// Exit code 2 when it cannot be unmounted.
pub fn serve(mount: Mount, mut signals: Signals) -> Result<(), Failure> {
    let waker = mount.waker();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            // Fails only if the mount is gone already.
            let _: Result<(), _> = waker.send(());
        }
    })?;
    mount.wait();
    let mountpoint = mount.path().to_owned();
    let unmounted = mount
        .unmount()
        .with_context(|| format!("cannot unmount {}; do it with `umount -l {0}`", mountpoint.display()))?;
    match unmounted {
        Unmounted::Clean => log::info!("unmounted {}", mountpoint.display()),
        Unmounted::WhileInUse => log::warn!("unmounted {} while files in it were open", mountpoint.display()),
    }
    Ok(())
}

/// Notifies systemd, if this is a service of `Type=notify`.
fn notify_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot notify systemd of the state of the mount: {error}");
    }
}

/// Prints what is mounted, and returns the state of the backup.
fn announce(mount: &Mount, args: &MountArgs) -> String {
    let state = {
        let fs = mount.fs();
        let history = fs.history();
        let count = history.version_count();
        match history.newest() {
            Some(newest) => {
                format!("{}, newest {} of {}", counted(count, "version"), newest.data_version, newest.recorded_at)
            }
            None => "no version recorded yet".to_owned(),
        }
    };
    // Before the line below, so that a script that waits for that line finds the log complete.
    log::logger().flush();
    say!("mounted {} on {} ({state})", args.url, mount.path().display());
    state
}

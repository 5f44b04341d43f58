//! `backupfs demo`: a simulated node with the real recorder, a real mount and a real restore.

mod report;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use common::{Backup, BackupLock, BackupUrl, DataVersion, OnGap, OnUnreachable, create_backup};
use indicatif::{HumanBytes, HumanCount};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

use self::report::{Timing, print_tree, same_bytes, step};
use super::Failure;
use super::init::{RECORDER_NAME, beside_this_program};
use super::mount::serve;
use super::signals::signals_to_end;
use crate::demo::pretend_lightningd::{Answer, Commit, PretendLightningd, PretendSettings, RecorderStderr};
use crate::demo::trace::{Trace, TraceEvent};
use crate::fuse::kernel_attr::Access;
use crate::mount::mounted::{Mount, MountError, MountSettings};
use crate::restore::{Checks, Damaged, Destination, Existing, Proof, restore};
use crate::say;

/// Show everything on a simulated node, in half a minute.
///
/// Plays 1,500 database writes of a real node to the real `backup-recorder`, mounts the backup, restores the newest
/// version, checks it, and leaves the mount up until Ctrl-C. Everything happens in a temporary directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cargo build --release && ./target/release/backupfs demo")]
pub struct DemoArgs {
    /// End without waiting for Ctrl-C
    #[arg(long)]
    pub once: bool,
}

/// 1,500 writes of a real node, from its first one on.
static TRACE: &[u8] = include_bytes!("../../demo/db_write.jsonl.zst");

/// The number of writes played while the backup is mounted, to show that the mount follows.
const WRITES_WHILE_MOUNTED: usize = 100;

/// The time within which the mount must show a new version.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the demo.
///
/// # Errors
/// Exit code 2 when something needed for it is missing, 1 when a check fails.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let end = if args.once { End::ByItself } else { End::OnSignal };
    demo(&beside_this_program(RECORDER_NAME), end)
}

/// The end of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The demo ends when everything has been shown.
    ByItself,
    /// The demo ends when the operator presses Ctrl-C; until then the mount can be explored.
    OnSignal,
}

/// The temporary directory of the demo, removed at its end.
struct DemoDirs {
    dir: TempDir,
}

impl DemoDirs {
    fn create() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("backupfs-demo-").tempdir().context("cannot make a directory")?;
        let dirs = Self { dir };
        for dir in [dirs.node(), dirs.mountpoint(), dirs.new_node()] {
            fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(dirs)
    }

    fn node(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    fn new_node(&self) -> PathBuf {
        self.dir.path().join("new-node")
    }

    fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn recorder_log(&self) -> PathBuf {
        self.dir.path().join("recorder.log")
    }

    fn url(&self) -> anyhow::Result<BackupUrl> {
        let path = self.dir.path().join("node.bkp");
        path.to_str().context("the temporary directory has a name that is no text")?.parse().map_err(Into::into)
    }
}

/// Runs the demo.
///
/// # Errors
/// Exit code 2 when something needed for it is missing, 1 when a check fails.
fn demo(recorder: &Path, end: End) -> Result<(), Failure> {
    if !recorder.is_file() {
        let error = anyhow!("{} is missing; build it with `cargo build --release`", recorder.display());
        return Err(Failure::Failed(error));
    }
    // From here on a signal ends the demo between two steps, so that nothing is left behind.
    let mut signals = signals_to_end()?;
    let dirs = DemoDirs::create()?;
    let url = dirs.url()?;
    say!("Everything happens in {} and is removed at the end.", dirs.dir.path().display());

    step("A new node and an empty backup for it");
    let created = create_backup(&url, None, &mut |_| ControlFlow::Continue(()))?;
    let (backup_uuid, on_unreachable) = (Some(created.uuid), OnUnreachable::Stop);
    let lock = BackupLock {
        backend_url: url.clone(),
        backup_uuid,
        database: None,
        on_gap: OnGap::Heal,
        on_unreachable,
        compact: None,
        offsite: Vec::new(),
        parity: None,
        scrub: None,
    };
    lock.create(&dirs.node())?;
    say!("   node    {}", dirs.node().display());
    say!("   backup  {url}");

    let mut timings = Timings::default();
    let mut events = read_trace()?;
    let later = events.split_off(events.len().saturating_sub(WRITES_WHILE_MOUNTED));
    step("A pretended lightningd replays what a real one did; backup-recorder records every write before its commit");
    let mut settings = PretendSettings::new(recorder, dirs.node());
    settings.stderr = RecorderStderr::AppendedTo(dirs.recorder_log());
    let mut node = PretendLightningd::new(settings);
    node.start().with_context(|| recorder_words(&dirs))?;
    play(&mut node, &events, &mut timings.writes, &mut signals, &dirs)?;
    say!("   {} writes recorded", HumanCount(timings.writes.count()));

    step("The backup is mounted while the node goes on");
    let settings = MountSettings { access: Access::Owner, cache_mib: MountSettings::CACHE_MIB };
    let mount = match Mount::start(&url, &dirs.mountpoint(), settings) {
        Ok(mount) => Ok(mount),
        Err(MountError::Mountpoint(error)) => Err(error),
        Err(error) => return Err(error.into()),
    };
    play(&mut node, &later, &mut timings.writes, &mut signals, &dirs)?;
    let newest = node.data_version()?.context("the node has made no version")?;
    match &mount {
        Ok(mount) => look_at(mount, newest, &mut timings)?,
        Err(error) => say!("   not possible here: {error}\n   The rest is shown without it."),
    }

    step("The node is lost. Its newest version is restored");
    node.announce_shutdown()?;
    node.stop()?;
    restore_newest(&dirs, &url, newest, mount.as_ref().ok(), &mut timings)?;

    step("What it took");
    timings.print();
    match mount {
        Ok(mount) => finish(mount, end, signals),
        Err(error) => Err(anyhow::Error::new(error).context("everything was shown but the mount").into()),
    }
}

fn finish(mount: Mount, end: End, signals: Signals) -> Result<(), Failure> {
    match end {
        End::ByItself => {
            mount.unmount().context("cannot unmount")?;
            say!("\nDone; everything has been removed.");
            Ok(())
        }
        End::OnSignal => {
            say!("\nThe backup stays mounted on {}. Look around; Ctrl-C ends it.", mount.path().display());
            say!("   ls {}/versions", mount.path().display());
            say!("   cat {}/latest/info.json", mount.path().display());
            serve(mount, signals)
        }
    }
}

#[derive(Default)]
struct Timings {
    writes: Timing,
    others: Vec<(&'static str, Duration)>,
}

impl Timings {
    fn print(&self) {
        self.writes.print("a db_write, answered");
        for (label, elapsed) in &self.others {
            say!("   {label:<44} {:8.2} ms", elapsed.as_secs_f64() * 1e3);
        }
    }
}

fn read_trace() -> anyhow::Result<Vec<TraceEvent>> {
    Ok(Trace::from_bytes(TRACE)?.collect::<Result<_, _>>()?)
}

/// Plays a part of the trace. The recorder runs already, so that only writes and `init` matter.
fn play(
    node: &mut PretendLightningd,
    events: &[TraceEvent],
    timing: &mut Timing,
    signals: &mut Signals,
    dirs: &DemoDirs,
) -> anyhow::Result<()> {
    for event in events {
        if signals.pending().next().is_some() {
            bail!("interrupted; everything has been removed");
        }
        match event {
            TraceEvent::Init => {
                node.init().with_context(|| recorder_words(dirs))?;
            }
            TraceEvent::Write(write) => {
                let version = write.data_version;
                match node.write(version, &write.statements, Commit::Normal)? {
                    Answer::Continue { elapsed } => timing.add(elapsed),
                    Answer::Refused { message } => bail!("the recorder refused version {version}: {message}"),
                    Answer::Died => bail!("the recorder died at version {version}; {}", recorder_words(dirs)),
                }
            }
            TraceEvent::Start
            | TraceEvent::Shutdown
            | TraceEvent::Kill { .. }
            | TraceEvent::End
            | TraceEvent::QuietExit => {}
        }
    }
    Ok(())
}

fn recorder_words(dirs: &DemoDirs) -> String {
    let log = fs::read_to_string(dirs.recorder_log()).unwrap_or_default();
    let last = log.lines().rev().find(|line| !line.trim().is_empty());
    format!("the last words of the recorder: {}", last.unwrap_or("none"))
}

fn look_at(mount: &Mount, newest: DataVersion, timings: &mut Timings) -> Result<(), Failure> {
    let root = mount.path();
    let wanted = crate::tree::node::latest_target(newest);
    let started = Instant::now();
    while !fs::read_link(root.join("latest")).is_ok_and(|target| target.as_os_str() == wanted.as_str()) {
        if started.elapsed() > FOLLOW_TIMEOUT {
            return Err(Failure::no(anyhow!("the mount does not follow: version {newest} is not in it")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    timings.others.push(("the newest version in the mount, after its write", started.elapsed()));
    let started = Instant::now();
    let database = fs::read(root.join("latest/lightningd.sqlite3")).context("cannot read the newest version")?;
    timings.others.push(("first read of the newest version, all of it", started.elapsed()));
    print_tree(root, newest)?;
    say!("\n   {} of database, rebuilt from the recorded statements", HumanBytes(database.len() as u64));
    Ok(())
}

fn restore_newest(
    dirs: &DemoDirs,
    url: &BackupUrl,
    newest: DataVersion,
    mount: Option<&Mount>,
    timings: &mut Timings,
) -> Result<(), Failure> {
    let started = Instant::now();
    let backup = Arc::new(Backup::open(url)?);
    let (history, problem) = backup.read_history();
    problem.map_err(Failure::no)?;
    let version = history.version(newest).map_err(Failure::no)?;
    let version = version.ok_or_else(|| Failure::no(anyhow!("version {newest} is not there")))?;
    let destination = Destination::check(&dirs.new_node(), backup.path(), Existing::Refuse)?;
    let checks = Checks { proof: Proof::QuickCheck, damaged: Damaged::Refuse, inspect: &mut |_| Ok(()) };
    let restored = restore(&backup, &history, &version, &destination, checks, &mut |_| {}).map_err(Failure::no)?;
    timings.others.push(("restore, with all checks", started.elapsed()));
    say!("   backupfs restore {url} {}", dirs.new_node().display());
    say!("   quick_check: ok");
    say!("   data_version: {} = that of the node", restored.data_version);
    if let Some(mount) = mount {
        let mounted = mount.path().join("latest/lightningd.sqlite3");
        if !same_bytes(&mounted, &restored.path)? {
            return Err(Failure::no(anyhow!("the restored file differs from {}", mounted.display())));
        }
        say!("   the same {} as in the mount", HumanBytes(restored.bytes));
    }
    let lost = dirs.node().join("lightningd.sqlite3");
    if same_bytes(&lost, &restored.path)? {
        say!("   the same bytes as the database that was lost");
    }
    Ok(())
}
